"""Figures made of HTML, which a notebook shows and a reader explores. No model code.

Arrays and strings to one self-contained piece of HTML: no network, legible without its
script, on light and dark pages and at a phone's width.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
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


# Dark where the book or Colab is dark; --a is how much of a token's colour is seen.
_STYLE = """<style>
.icl-view { --ink: #222; --paper: #fff; --rule: #bbb; --heat: 213 94 0; --mark: #0072B2;
 color: var(--ink); background: var(--paper); border: 1px solid var(--rule);
 border-radius: 6px; padding: 10px; font: 14px/1.5 sans-serif; text-align: left; }
html[data-theme="dark"] .icl-view, html[theme="dark"] .icl-view { --ink: #eee;
 --paper: #16191d; --rule: #666; --heat: 200 84 0; --mark: #56B4E9; }
.icl-view code { display: block; font: 13px/1.7 monospace; white-space: pre-wrap;
 color: inherit; background: none; border: 0; padding: 0; overflow-wrap: anywhere; }
.icl-view [data-t] { font: inherit; color: inherit; border: 0; margin: 0;
 padding: 1px 0; border-radius: 2px; background: rgb(var(--heat) / var(--a));
 white-space: pre-wrap; }
.icl-view button[data-t] { padding: 1px 1px; cursor: pointer; }
.icl-view button[tabindex="0"] { outline: 2px solid var(--mark); }
.icl-view fieldset { display: grid; gap: 0 10px; border: 0; margin: 0 0 8px; padding: 0;
 grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); min-width: 0; }
.icl-view label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.icl-view input { margin: 0 4px 0 0; accent-color: var(--mark);
 vertical-align: middle; }
.icl-view output { font: 12px monospace; }
.icl-view p { margin: 0 0 8px; color: inherit; }
.icl-view .panels { display: grid; gap: 12px;
 grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.icl-view .bar { display: inline-block; width: 90px; height: 10px; margin: 0 6px;
 background: linear-gradient(to right, rgb(var(--heat) / 0), rgb(var(--heat))); }
</style>"""

_SCRIPT = """<script>
(() => {
  const [id, packed, first] = DATA;
  const root = document.getElementById(id), said = root.querySelector("p[aria-live]");
  const tokens = [...root.querySelectorAll("[data-t]")], n = tokens.length;
  const heads = [...root.querySelectorAll("input")];
  const finds = [...root.querySelectorAll("output")];
  const weight = (h, i, j) => parseInt(
    packed.substr(h * n * (n + 1) + i * (i + 1) + 2 * j, 2), 36) / 1000;
  const chosen = () => Math.max(0, heads.findIndex(h => h.checked));
  let at = first;
  const show = () => {
    const head = chosen();
    const found = heads.map((_, h) => {
      const row = tokens.slice(0, at + 1).map((_, j) => weight(h, at, j));
      return row.indexOf(Math.max(...row));
    });
    const share = h => Math.round(100 * weight(h, at, found[h])) + "%";
    const name = j => `${j} \u201c${tokens[j].textContent}\u201d`;
    tokens.forEach((token, j) => {
      token.style.setProperty("--a", j <= at ? weight(head, at, j) : 0);
      token.tabIndex = j === at ? 0 : -1;
    });
    finds.forEach((o, h) => o.textContent = `${share(h)} ${name(found[h])}`);
    said.textContent = `Token ${name(at)}: head ${heads[head].value} looks most at `
      + `token ${name(found[head])}, with ${share(head)} of its attention.`;
  };
  const choose = j => { at = Math.min(Math.max(j, 0), n - 1); show(); };
  for (const event of ["pointerover", "focusin", "click"])
    root.addEventListener(event, e => {
      const j = tokens.indexOf(e.target.closest("[data-t]"));
      if (j >= 0) choose(j);
    });
  root.addEventListener("change", show);
  root.addEventListener("keydown", e => {
    if (!tokens.includes(e.target)) return;
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: n - 1}[e.key];
    const turn = {ArrowUp: heads.length - 1, ArrowDown: 1}[e.key];
    if (to === undefined && !turn) return;
    e.preventDefault();
    if (turn) heads[(chosen() + turn) % heads.length].checked = true;
    choose(to ?? at);
    tokens[at].focus();
  });
  show();
})();
</script>"""


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


def _thousandths(patterns) -> str:
    """Lower triangles, row by row, each weight two digits of base 36."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    _, tokens, _ = patterns.shape
    rows, columns = np.tril_indices(tokens)
    values = np.rint(1000 * patterns[:, rows, columns]).astype(int).ravel()
    return "".join(digits[v // 36] + digits[v % 36] for v in values)


def attention_view(
    name: str,
    tokens: Sequence[str],
    patterns: Real[Array, "{len(heads)} {len(tokens)} {len(tokens)}"],
    heads: Sequence[str],
    at: int,
) -> View:
    """Attention to be explored: where each head looks from a token, with what share.

    Hover, tap or the arrow keys choose a token, at first the one at position ``at``,
    and one of the ``heads``, whose ``patterns`` are causal. The HTML needs no network,
    and before its script runs it shows the first head from token ``at``. ``name``
    (letters and hyphens) is its own on a page.
    """
    if not name.replace("-", "").isalpha():
        raise ValueError(f"name must be letters and hyphens, got {name!r}")
    _require.between(0, len(tokens) - 1, at=at)
    patterns = _causal(patterns)
    choices, said, button = _first_seen(name, tokens, patterns[:, at], heads, at)
    data = json.dumps([name, _thousandths(patterns), int(at)])
    html = (
        f'<div class="icl-view" id="{name}" role="group" aria-label="Attention view">\n'
        f"{_STYLE}\n<p>Choose a token (hover, tap, or \u2190 \u2192) and a head "
        "(\u2191 \u2193): the colour is how much attention the head pays from the "
        "framed token.</p>\n"
        f"<fieldset>\n{choices}\n</fieldset>\n"
        f'<p aria-live="polite">{said}</p>\n{_flow(tokens, button)}\n'
        f"{_SCRIPT.replace('DATA', data)}\n</div>"
    )
    return View(html, f"Attention of {len(heads)} heads over {len(tokens)} tokens")


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
        f'<div class="icl-view">\n{_STYLE}\n{scale}\n'
        f'<div class="panels">{"".join(parts)}</div>\n</div>'
    )
    return View(html, f"{len(tokens)} tokens, coloured for: {', '.join(panels)}")
