"""The drawing that carries the book: pairs, the sum of v <k, q>, a step of learning.

One row a part. A token is a column, its key above its value. Curves lead from the query
to the keys, as dark as they match; values flow, as strongly, into the answer. What
differs between the parts is who forms the pairs.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from icl_gd import _require
from icl_gd.book import views


class Row(NamedTuple):
    """A case and its formula; where it is ``linked``, each value is the next key."""

    title: str
    words: str
    formula: str
    keys: str
    values: str
    query: str
    matches: Sequence[float]
    answer: str
    linked: bool


ROWS = (
    Row(
        title="Part I",
        words="The prompt hands the pairs over.",
        formula="\u03b7/N \u00b7 \u03a3 y\u2c7c \u27e8x\u2c7c, x\u27e9: "
        "a step on the examples",
        keys="x\u2081 x\u2082 x\u2083 x\u2084",
        values="y\u2081 y\u2082 y\u2083 y\u2084",
        query="x",
        matches=(0.2, 0.9, 0.4, 0.1),
        answer="y?",
        linked=False,
    ),
    Row(
        title="Part II",
        words="The layout of the tokens forms them: each lies beside the one before.",
        formula="\u03b1/(t\u22121) \u00b7 \u03a3 x\u1d62 "
        "\u27e8x\u1d62\u208b\u2081, x\u209c\u27e9: a step on the sequence so far",
        keys="x\u2081 x\u2082 x\u2083 x\u2084",
        values="x\u2082 x\u2083 x\u2084 x\u2085",
        query="x\u2085",
        matches=(0.6, 0.2, 0.1, 0.8),
        answer="x\u2086?",
        linked=True,
    ),
    Row(
        title="Part III",
        words="A first head forms them: it notes at each token what stood before it.",
        formula="\u03a3 e(s\u2c7c) \u27e8e(s\u2c7c\u208b\u2081), e(s)\u27e9: "
        "counts of what followed, a step on pairs of tokens",
        keys="a n a n",
        values="n a n a",
        query="a",
        matches=(1.0, 0.0, 1.0, 0.0),
        answer="n",
        linked=True,
    ),
)
_KEY = (
    "Above the keys, below the values. Dark curves: how well the query matches a key. "
    "Orange: the values, added up with these weights. Dashed: one token, here as a "
    "value and there as a key."
)


def pairs(parts: Sequence[int]) -> views.View:
    """The rows of these parts (1 to 3): inline SVG in the page's own ink.

    Words stand beside a row, and its formula when it is hovered or has the focus, and
    on paper.
    """
    for part in parts:
        _require.between(1, len(ROWS), parts=part)
    rows = [ROWS[part - 1] for part in parts]
    html = (
        f'<div class="icl-drawing">{views.style("drawing")}'
        f"{''.join(map(_row, rows))}<p>{_KEY}</p></div>"
    )
    return views.View(html, " ".join(f"{row.title}: {row.words}" for row in rows))


def _row(row):
    alt = escape(f"Keys {row.keys}, values {row.values}, query {row.query}.")
    return (
        '<figure tabindex="0"><svg viewBox="0 0 330 150" role="img" '
        f'aria-label="{alt}">{_strip(row)}</svg>'
        f"<figcaption><b>{row.title}.</b> "
        f"{escape(row.words)}<span>{escape(row.formula)}</span></figcaption></figure>"
    )


def _strip(row):
    """Columns of key and value, the query's, and what runs between them."""
    columns = list(zip(row.keys.split(), row.values.split(), row.matches, strict=True))
    at = [34 + 56 * k for k in range(len(columns))]
    ask = at[-1] + 66
    parts = [_box(ask, 48, row.query), _box(ask, 78, row.answer)]
    for x, (key, value, match) in zip(at, columns, strict=True):
        parts += [_box(x, 48, key), _box(x, 78, value)]
        parts.append(_curve("looks", match, x, 46, 40 - (ask - x) // 8, ask, 46))
        parts.append(_curve("flows", match, x, 108, 146, ask, 112))
    if row.linked:
        ends = zip(at, [*at[1:], ask], strict=True)
        lines = (f"M{x + 18} 90L{to - 18} 66" for x, to in ends)
        parts += [f'<path class="pairs" d="{line}"/>' for line in lines]
    parts.append(f'<path class="flows" d="M{ask - 5} 117L{ask} 111L{ask + 5} 117"/>')
    return "".join(parts)


def _curve(kind, match, x, y, bend, to, end):
    way = f"M{x} {y}C{x} {bend} {to} {bend} {to} {end}"
    return (
        f'<path class="{kind}" stroke-opacity="{0.15 + 0.85 * match:.2f}" '
        f'stroke-width="{1 + 2 * match:.1f}" d="{way}"/>'
    )


def _box(x, y, text):
    return (
        f'<rect class="box" x="{x - 18}" y="{y}" width="36" height="28" rx="4"/>'
        f'<text x="{x}" y="{y + 19}">{escape(text)}</text>'
    )
