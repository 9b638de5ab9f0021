"""Figures made of HTML, which a notebook shows and a reader explores. No model code.

Arrays and strings to one self-contained piece of HTML: no network, legible without its
script, on light and dark pages and at a phone's width.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Real

from icl_gd import _require
from icl_gd._annotations import Scalar


class View(NamedTuple):
    """A figure made of HTML, which a notebook shows; ``alt`` says it in words."""

    html: str
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_html_(self) -> str:
        return self.html


BROWSER = Path(__file__).parent / "browser"


def style(name: str) -> str:
    """A style sheet of the folder ``browser``, as an element."""
    return f"<style>\n{(BROWSER / f'{name}.css').read_text('utf-8')}</style>"


def script(name: str, *data) -> str:
    """A script of the folder ``browser`` with its data, as an element."""
    packed = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    text = (BROWSER / f"{name}.js").read_text("utf-8")
    return f"<script>\n{text.replace('DATA', packed, 1)}</script>"


def _seen(token: str) -> tuple[str, str]:
    """A token's own sign, and the space after a line break that it ends with."""
    head, newline, rest = token.rpartition("\n")
    sign, indent = (head + newline, rest) if newline else (token, "")
    sign = sign.replace("\n", "\u23ce").replace("\t", "\u21e5")
    return "".join(c if c.isprintable() else "\ufffd" for c in sign), indent


def _flow(tokens: Sequence[str], element: Callable[[int, str], str]) -> str:
    """Text of one HTML element a token; lines break where the tokens break them."""
    pieces = []
    for position, token in enumerate(tokens):
        sign, indent = _seen(token)
        pieces.append(element(position, escape(sign)))
        pieces.append(f"<br>{escape(indent)}" if "\n" in token else "")
    return f"<code>{''.join(pieces)}</code>"


def require_name(name: str) -> None:
    """Raises unless ``name`` can be the id of an element: letters and hyphens."""
    if not name.replace("-", "").isalpha():
        raise ValueError(f"name must be letters and hyphens, got {name!r}")


def packed(values: Iterable[int]) -> str:
    """Whole numbers from 0 to 1295, two digits of base 36 each."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return "".join(digits[v // 36] + digits[v % 36] for v in values)


def _thousandths(patterns) -> str:
    """Lower triangles, row by row, each weight two digits of base 36."""
    _, tokens, _ = patterns.shape
    rows, columns = np.tril_indices(tokens)
    return packed(
        np.rint(1000 * patterns[:, rows, columns]).astype(int).ravel().tolist()
    )


class Reading(NamedTuple):
    """What a model does with a text: the attention of its heads, and what it says next.

    ``patterns`` are causal, and ``says`` has a few words for each token.
    """

    patterns: Real[Array, "heads tokens tokens"]
    says: Sequence[str]


def attention_view(
    name: str,
    tokens: Sequence[str],
    readings: Mapping[str, Reading],
    heads: Sequence[str],
    examples: Mapping[str, int],
) -> View:
    """Attention to be explored: where each head looks from a token, with what share.

    Hover, tap or the arrow keys choose a token, and buttons one of the ``heads``, one
    of the models whose ``readings`` these are, and one of the ``examples``, tokens to
    look at. The HTML needs no network, and before its script runs it shows the last
    model's first head from the first example. ``name`` (letters and hyphens) is its own
    on a page.
    """
    require_name(name)
    for title, at in examples.items():
        _require.between(0, len(tokens) - 1, **{f"examples[{title!r}]": at})
    for title, reading in readings.items():
        _require_fit(title, reading, len(heads), len(tokens))
    at, seen = next(iter(examples.values())), list(readings)[-1]
    patterns = {title: _causal(reading.patterns) for title, reading in readings.items()}
    choices, said, button = _first_seen(name, tokens, patterns[seen][:, at], heads, at)
    packed_all = list(map(_thousandths, patterns.values()))
    spoken = [list(reading.says) for reading in readings.values()]
    html = (
        f'<div class="icl-view" id="{name}" role="group" aria-label="Attention view">\n'
        f"{style('view')}\n<p>Choose a token (hover, tap, or \u2190 \u2192) and a head "
        "(\u2191 \u2193): the colour is how much attention the head pays from the "
        f"framed token.</p>\n{_switches(name, readings, examples)}\n"
        f"<fieldset data-heads>\n{choices}\n</fieldset>\n"
        f'<p aria-live="polite">{said} {_next(seen, readings, tokens, at)}</p>\n'
        f"{_flow(tokens, button)}\n"
        f"{script('attention', name, packed_all, spoken, int(at))}\n</div>"
    )
    return View(html, f"Attention of {len(heads)} heads over {len(tokens)} tokens")


def _switches(name, readings, examples):
    """Which model is seen, at first the last one, and which tokens are worth a look."""
    model = lambda title, at: (
        f'<label><input type="radio" name="{name}-model" value="{escape(title)}"'
        f"{' checked' if at == len(readings) - 1 else ''}>{escape(title)}</label>"
    )
    go = lambda title, to: (
        f'<button type="button" data-go="{to}">{escape(title)}</button>'
    )
    models = "\n".join(model(title, at) for at, title in enumerate(readings))
    goes = "\n".join(go(title, to) for title, to in examples.items())
    return f"<fieldset data-models>\n{models}\n</fieldset>\n<p>{goes}</p>"


def _next(title, readings, tokens, at):
    """What the model says after a token, and what stands there."""
    there = (
        f"\u201c{_seen(tokens[at + 1])[0]}\u201d."
        if at + 1 < len(tokens)
        else "no more."
    )
    return escape(
        f"{title}, the model says {readings[title].says[at]}; the text says {there}"
    )


def _require_fit(title, reading, heads, tokens):
    """Raises unless a reading is one of these heads and tokens."""
    wanted, given = (heads, tokens, tokens), np.shape(reading.patterns)
    if given != wanted or len(reading.says) != tokens:
        raise ValueError(
            f"readings[{title!r}] must have patterns of shape {wanted} and {tokens} "
            f"words, got {given} and {len(reading.says)}"
        )


def _causal(patterns):
    """Attention in thousandths; raises unless it is causal and between 0 and 1."""
    patterns = np.rint(1000 * np.asarray(patterns, float)) / 1000
    for extreme in (patterns.min(), patterns.max()):
        _require.between(0, 1, attention=extreme)
    if np.triu(patterns, 1).any():
        raise ValueError("patterns must be causal, got attention to later tokens")
    return patterns


def _first_seen(name, tokens, shares, heads, at):
    """What stands there before the script runs: choices, a sentence, each token."""
    best = shares.argmax(axis=1)
    named = lambda j: escape(f"{j} \u201c{_seen(tokens[j])[0]}\u201d")
    share = lambda h: f"{int(100 * shares[h, best[h]] + 0.5)}%"
    choices = "\n".join(
        f'<label><input type="radio" name="{name}" value="{escape(head)}"'
        f"{' checked' if h == 0 else ''}>{escape(head)} "
        f"<output>{share(h)} {named(best[h])}</output></label>"
        for h, head in enumerate(heads)
    )
    said = (
        f"Token {named(at)}: head {escape(heads[0])} looks most at token "
        f"{named(best[0])}, with {share(0)} of its attention."
    )
    button = lambda j, sign: (
        f'<button type="button" data-t style="--a:{shares[0, j]:g}" '
        f'tabindex="{0 if j == at else -1}">{sign}</button>'
    )
    return choices, said, button


def coloured_text(
    tokens: Sequence[str],
    panels: Mapping[str, Real[Array, "{len(tokens)}"]],
    limit: Scalar,
) -> View:
    """A text once for each title in ``panels``, its tokens coloured by their values.

    ``panels`` maps titles to one number a token; 0 has no colour, ``limit`` and more
    the full one. Hovering a token shows its number.
    """
    _require.positive(limit=limit)
    parts = []
    for title, values in panels.items():
        _require.finite(**{f"panels[{title!r}]": values})
        shade = (np.asarray(values) / limit).clip(0, 1)
        span = lambda j, sign, values=values, shade=shade: (
            f'<span data-t style="--a:{shade[j]:.2f}" title="{values[j]:.2f}">'
            f"{sign}</span>"
        )
        parts.append(f"<div><p>{escape(title)}</p>{_flow(tokens, span)}</div>")
    scale = f'<p>0<span class="bar"></span>{limit:g}</p>'
    html = (
        f'<div class="icl-view">\n{style("view")}\n{scale}\n'
        f'<div class="panels">{"".join(parts)}</div>\n</div>'
    )
    return View(html, f"{len(tokens)} tokens, coloured for: {', '.join(panels)}")


def typed_word(
    name: str,
    word: str,
    betas: Sequence[Scalar],
    at: int,
    weights: Real[Array, "{len(word)}"],
) -> View:
    """A word to be typed: notes of the letter before, what they match, what is copied.

    A head of sharpness ``beta``, on a slider, attends from the last letter to positions
    whose note is that letter, and answers with the letters there. The script does so
    for any word; before it runs, ``word`` is shown with the attention ``weights`` that
    the page has computed for ``betas[at]``. ``name`` is the view's own on a page.
    """
    require_name(name)
    if word[-1] not in word[:-1]:
        raise ValueError(
            f"word must end with a letter that it has before, got {word!r}"
        )
    _require.between(0, len(betas) - 1, at=at)
    _require.between(0, 1, weights=weights)
    said, strip, counts = _word(word, f"{betas[at]:g}", np.asarray(weights, float))
    html = (
        f'<div class="icl-view" id="{name}" role="group" aria-label="Type a word">\n'
        f"{style('view')}\n{style('moving')}\n"
        f'<div class="dials"><label>word<input type="text" maxlength="12" '
        f'value="{escape(word)}" autocomplete="off" spellcheck="false"></label>'
        f'<label>sharpness \u03b2<input type="range" min="0" max="{len(betas) - 1}" '
        f'value="{at}" aria-valuetext="{betas[at]:g}"><output>{betas[at]:g}</output>'
        f'</label></div>\n<p aria-live="polite">{said}</p>\n'
        f'<div class="letters"><table><tbody>{strip}</tbody></table>'
        f"<table><tbody>{counts}</tbody></table></div>\n"
        f"{script('word', name, [float(b) for b in betas])}\n</div>"
    )
    return View(html, f"Type a word. {unescape(said)}")


def _percent(share):
    return int(100 * share + 0.5)


def _word(s, beta, weights):
    """What is said of a word, the rows of its positions, and those of its counts."""
    last, kinds, at = s[-1], sorted(set(s)), range(1, len(s))
    after = lambda a, b: sum(s[j - 1] == a and s[j] == b for j in at)
    share = {c: sum(weights[j] for j in at if s[j] == c) for c in kinds}
    counts = (
        _row("after", [(c, 0, False) for c in kinds]),
        *(
            _row(a, [(after(a, b) or "\u00b7", 0, a == last) for b in kinds])
            for a in kinds
        ),
        _row("answer", [(f"{_percent(share[c])}%", share[c], False) for c in kinds]),
    )
    best, n = max(kinds, key=share.get), sum(s[j - 1] == last for j in at)
    said = (
        f"\u201c{last}\u201d was followed {n} {'times' if n > 1 else 'time'}, "
        f"by \u201c{best}\u201d {after(last, best)} of them. At \u03b2 = {beta} "
        f"the largest share, {_percent(share[best])}%, goes to \u201c{best}\u201d."
    )
    return escape(said), _positions(s, weights), "".join(counts)


def _positions(s, weights):
    strip = (
        _row("token", [(c, 0, j == len(s) - 1) for j, c in enumerate(s)]),
        _row("note", [(s[j - 1] if j else "\u2013", 0, False) for j in range(len(s))]),
        _row(
            "weight",
            [(_percent(w) if j else "", w, False) for j, w in enumerate(weights)],
        ),
    )
    return "".join(strip)


def _row(head, cells):
    shade = lambda share: f' style="--a:{share:.2f}"' if share else ""
    mark = lambda asks: ' class="asks"' if asks else ""
    each = "".join(
        f"<td{shade(share)}{mark(asks)}>{escape(str(text))}</td>"
        for text, share, asks in cells
    )
    return f'<tr><th scope="row">{escape(head)}</th>{each}</tr>'
