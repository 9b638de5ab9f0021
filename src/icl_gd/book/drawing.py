"""The drawing that carries the book: pairs, the sum of v <k, q>, a step of learning.

One row a part. A token is a column, its key above its value. Curves lead from the query
to the keys, as dark as they match; values flow, as strongly, into the answer. What
differs between the parts is who forms the pairs.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Real

from icl_gd import _require
from icl_gd._annotations import Scalar
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
    Row(
        title="Part IV",
        words="The layer writes what its state gets wrong: a value, minus what the "
        "state already answers to its key.",
        formula="\u03b2 \u00b7 \u03a3 u\u2c7c \u27e8k\u2c7c, q\u27e9, "
        "u\u2c7c = v\u2c7c \u2212 S\u2c7c\u208b\u2081k\u2c7c: a step a pair",
        keys="k\u2081 k\u2082 k\u2083 k\u2084",
        values="u\u2081 u\u2082 u\u2083 u\u2084",
        query="q",
        matches=(0.3, 0.8, 0.1, 0.6),
        answer="v?",
        linked=False,
    ),
)
_KEY = (
    "Above the keys, below the values. Dark curves: how well the query matches a key. "
    "Orange: the values, added up with these weights. Dashed: one token, here as a "
    "value and there as a key."
)


def pairs(parts: Sequence[int]) -> views.View:
    """The rows of these parts (1 to 4): inline SVG in the page's own ink.

    Words stand beside a row, and its formula when it is hovered or has the focus, and
    on paper.
    """
    for part in parts:
        _require.between(1, len(ROWS), parts=part)
    rows = [ROWS[part - 1] for part in parts]
    figures = [_figure(row, _strip(row)) for row in rows]
    return _view(figures, _KEY, " ".join(f"{row.title}: {row.words}" for row in rows))


def worked(
    x: Real[Array, " N"],
    y: Real[Array, " N"],
    x_query: Scalar,
    eta: Scalar,
    answer: Scalar,
) -> views.View:
    """One step from zero on N examples with one input and one label, in numbers.

    The scores x_j x_query, their sum with the labels, and ``answer``, which the page
    computed: eta / N times that sum.
    """
    scores = np.asarray(x) * x_query
    each = "; ".join(
        f"{_n(a)} \u00b7 {_n(x_query)} = {_n(s)}"
        for a, s in zip(x, scores, strict=True)
    )
    terms = " + ".join(
        f"{_n(b)} \u00b7 {_n(s)}" for b, s in zip(y, scores, strict=True)
    )
    words = (
        f"Scores, key times query: {each}. Values times scores: {terms} = "
        f"{_n(np.dot(y, scores))}. Times \u03b7/N = {_n(eta)}/{len(scores)}: "
        f"{_n(answer)}."
    )
    row = Row(
        title="One prompt in numbers",
        words=words,
        formula="\u03b7/N \u00b7 \u03a3 y\u2c7c \u27e8x\u2c7c, x\u27e9",
        keys=" ".join(map(_n, x)),
        values=" ".join(map(_n, y)),
        query=_n(x_query),
        matches=np.abs(scores) / np.abs(scores).max(),
        answer=_n(answer),
        linked=False,
    )
    return _view([_figure(row, _strip(row))], "", f"{row.title}. {words}")


def signed(
    scores: Real[Array, " N"], plus: Real[Array, " N"], minus: Real[Array, " N"]
) -> views.View:
    """Two heads with one set of scores and opposite signs: what each adds, and takes.

    ``plus`` and ``minus`` are the attention of the two heads, computed by the page.
    """
    values = " ".join("v" + chr(0x2081 + k) for k in range(len(scores)))
    row = Row(
        title="Two heads, opposite signs",
        words="In the boxes scores and values. One head (orange) adds the values where "
        "the score is high, the other (dashed) takes away those where it is low. What "
        "both do alike cancels: values are compared with their mean.",
        formula="\u03a3 (p\u2c7c \u2212 m\u2c7c) v\u2c7c, where "
        "\u03a3 (p\u2c7c \u2212 m\u2c7c) = 0",
        keys=" ".join(map(_n, scores)),
        values=values,
        query="q",
        matches=plus,
        answer="\u03a3",
        linked=False,
    )
    at, ask = _columns(row)
    taken = [
        _curve("takes", m, x, 108, 132, ask, 112)
        for x, m in zip(at, minus, strict=True)
    ]
    return _view(
        [_figure(row, _strip(row) + "".join(taken))], "", f"{row.title}. {row.words}"
    )


def stream(word: str) -> views.View:
    """The residual stream of an induction circuit on a word: three blocks a position.

    The first head notes the letter before (dashed), the second compares its letter with
    the notes (dark) and copies the letters there into the output of the last position
    (orange): what it compares was written by the first, which is K-composition.
    """
    notes = ["\u2013", *word[:-1]]
    found = [k for k in range(1, len(word)) if notes[k] == word[-1]]
    if not found:
        raise ValueError(
            f"word must end with a letter that it has before, got {word!r}"
        )
    counts = {word[k]: sum(word[i] == word[k] for i in found) for k in found}
    said = [""] * (len(word) - 1) + [max(counts, key=counts.get)]
    drawn = _blocks(word, notes, said, found)
    row = Row(
        title="The stream in three blocks",
        words="Token, note, output. Dashed: the first head writes the token before "
        "into the note. Dark: the second head's query, the last token, meets equal "
        "notes, which the first head wrote. Orange: it copies the tokens there.",
        formula="compares \u27e8token\u1d62, note\u2c7c\u27e9 and copies token\u2c7c: "
        "K-composition",
        keys=word,
        values="".join(notes),
        query=word[-1],
        matches=(),
        answer=said[-1],
        linked=True,
    )
    figure = _figure(row, drawn, height=165)
    return _view([figure], "", f"{row.title}. {row.words}")


def _blocks(word, notes, said, found):
    """Three boxes a position, what the first head writes, what the second one finds."""
    at = [34 + 56 * k for k in range(len(word))]
    parts = [
        _box(x, y, text)
        for y, block in ((48, word), (78, notes), (108, said))
        for x, text in zip(at, block, strict=True)
    ]
    parts += [f'<path class="pairs" d="M{x + 18} 62L{x + 38} 92"/>' for x in at[:-1]]
    for k in found:
        parts.append(_curve("looks", 1.0, at[k] + 6, 78, 20, at[-1], 46))
        parts.append(_curve("flows", 0.6, at[k] - 12, 76, 165, at[-1], 138))
    return "".join(parts)


def _n(value):
    return f"{float(value):g}".replace("-", "\u2212")


def _view(figures, key, alt):
    note = f"<p>{key}</p>" if key else ""
    style = views.style("drawing")
    html = f'<div class="icl-drawing">{style}{"".join(figures)}{note}</div>'
    return views.View(html, alt)


def _figure(row, drawn, height=150):
    alt = escape(f"Keys {row.keys}, values {row.values}, query {row.query}.")
    return (
        f'<figure tabindex="0"><svg viewBox="0 0 330 {height}" role="img" '
        f'aria-label="{alt}">{drawn}</svg><figcaption><b>{row.title}.</b> '
        f"{escape(row.words)}<span>{escape(row.formula)}</span></figcaption></figure>"
    )


def _columns(row):
    """Where the tokens stand, and the query."""
    at = [34 + 56 * k for k in range(len(row.keys.split()))]
    return at, at[-1] + 66


def _strip(row):
    """Columns of key and value, the query's, and what runs between them."""
    columns = list(zip(row.keys.split(), row.values.split(), row.matches, strict=True))
    at, ask = _columns(row)
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
