"""Figures that answer a reader's hand: tables of states to HTML. No model code.

A page computes what is drawn for every combination of a few controls; the figure shows
one of them, and its script another when a control moves. So no mathematics is done in
the browser, each number that it shows is the package's, and the first state stands
there before the script runs, on paper too.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from itertools import chain
from string import Formatter
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from icl_gd import _require
from icl_gd._annotations import Scalar
from icl_gd.book import views

_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


class Axis(NamedTuple):
    """What an axis shows, from ``low`` to ``high``, evenly or in powers of ten."""

    label: str
    low: Scalar
    high: Scalar
    log: bool = False

    def share(self, values):
        """How far along the axis: 0 at ``low``, 1 at ``high``."""
        scale = np.log10 if self.log else np.asarray
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = scale(self.low), scale(self.high)
            return (scale(np.asarray(values, float)) - low) / (high - low)

    def ticks(self):
        """A few round numbers, each with what stands beside it."""
        if self.log:
            powers = np.arange(np.ceil(np.log10(self.low)), np.log10(self.high) + 1e-9)
            some = powers[:: -(-len(powers) // 6)].astype(int)
            return [(10.0**k, "10" + str(k).translate(_RAISED)) for k in some.tolist()]
        span = self.high - self.low
        unit = 10.0 ** np.floor(np.log10(span / 2))
        step = unit * next(k for k in (1, 2, 5) if span / k / unit <= 6)
        first, last = np.ceil(self.low / step - 1e-9), self.high / step + 1e-9
        each = (step * np.arange(int(first), int(last // 1) + 1)).tolist()
        return [(tick, f"{tick + 0.0:g}") for tick in each]


class Mark(NamedTuple):
    """Points of one kind and colour, in every state of the controls or in all of them.

    ``kind`` is "line", "points", "segments" (which end at every other point) or
    "cells", a matrix ``y`` between -1 and 1 that has no ``x``. ``role`` is one of
    ``plots.ROLES``. The last axis of ``x`` and ``y`` (of a matrix, two) is that of the
    points; before it stand the controls' axes, in their order (1 long where nothing
    depends on one), or none.
    """

    kind: str
    role: str
    x: ArrayLike | None
    y: ArrayLike
    name: str = ""


class Panel(NamedTuple):
    """Axes (none for cells) and marks; a ``pad`` sets the first two controls."""

    title: str
    x: Axis | None
    y: Axis | None
    marks: Sequence[Mark]
    pad: bool = False


class _Table(NamedTuple):
    """Different rows of whole numbers below 1296, and which one each state shows."""

    rows: str
    which: str

    def row(self, state, count):
        digits = lambda text, k: int(text[2 * k : 2 * k + 2], 36)
        at = digits(self.which, state % (len(self.which) // 2))
        return [digits(self.rows, at * count + k) for k in range(count)]


def _table(values):
    """Packs rows, one a state or one in all, each different one once."""
    whole = np.rint(values).astype(int)
    rows, which = np.unique(whole, axis=0, return_inverse=True)
    return _Table(
        views.packed(rows.ravel().tolist()), views.packed(which.ravel().tolist())
    )


class _Drawn(NamedTuple):
    """A mark as the script has it: coordinates in thirds of a unit, from -96 on."""

    count: int
    kind: str
    x: _Table | None
    y: _Table

    def points(self, state):
        place = lambda table: (
            f"{v / 3 - 96:.1f}" for v in table.row(state, self.count)
        )
        return zip(place(self.x), place(self.y), strict=True)

    def cells(self, state):
        return [v / 500 - 1 for v in self.y.row(state, self.count)]


# Where the axes lie in their box of 320 by 236.
_LEFT, _RIGHT, _BOTTOM, _TOP = 50.0, 306.0, 196.0, 8.0
ROLES = ("gd", "gd++", "trained", "interpolated", "theory", "noise")  # of moving.css
_SHAPES = {
    "line": lambda k, x, y: f"{'L' if k else 'M'}{x} {y}",
    "segments": lambda k, x, y: f"{'L' if k % 2 else 'M'}{x} {y}",
    "points": lambda k, x, y: f"M{x} {y}h0",
}


def moving(
    name: str,
    label: str,
    controls: Mapping[str, Sequence],
    panels: Sequence[Panel],
    said: str,
    numbers: Mapping[str, ArrayLike],
    start: Sequence[int],
) -> views.View:
    """A figure with a slider for each control of numbers, buttons for one of words.

    ``said``, a format string, is the sentence that tells what is seen; ``numbers`` has
    what it names, with the controls' axes as marks have them. ``start`` is the state
    that is seen first, one index a control. ``name`` (letters and hyphens) is the
    figure's own on a page. Raises ValueError for marks or numbers of other shapes.
    """
    views.require_name(name)
    sizes = tuple(map(len, controls.values()))
    state = int(np.ravel_multi_index(tuple(start), sizes))
    template, words = _sentence(said, numbers, sizes)
    chosen = {key: different[which[state]] for key, (different, which) in words.items()}
    now = template.format(**chosen)
    dials = (
        _dial(f"{name}-{k}", title, values, start[k])
        for k, (title, values) in enumerate(controls.items())
    )
    drawn = [[_drawn(mark, panel, sizes) for mark in panel.marks] for panel in panels]
    marks = list(chain.from_iterable(drawn))
    grid = list(controls.values())[:2]
    figures = (_figure(*pair, state, grid) for pair in zip(panels, drawn, strict=True))
    html = (
        f'<div class="icl-view" id="{name}" role="group" '
        f'aria-label="{escape(label)}">\n'
        f"{views.style('view')}\n{views.style('moving')}\n"
        f'<div class="dials">{"".join(dials)}</div>\n'
        f'<p aria-live="polite">{escape(now)}</p>\n'
        f'<div class="panels">{"".join(figures)}</div>\n'
        f"{views.script('moving', name, marks, template, words)}\n</div>"
    )
    return views.View(html, f"{label}. {now}")


def _sentence(said, numbers, sizes):
    """A template of bare names, and each name's words and which one a state says."""
    states = int(np.prod(sizes))
    template, words = "", {}
    for text, key, spec, _ in Formatter().parse(said):
        template += text
        if key is not None:
            template += f"{{{key}}}"
            values = np.broadcast_to(_states(key, numbers[key], sizes).ravel(), states)
            spoken = [format(value, spec) for value in values.tolist()]
            different = sorted(set(spoken))
            words[key] = different, [different.index(word) for word in spoken]
    return template, words


def _states(what, values, sizes, points=0):
    """Values with one axis of states in front and one of points behind, both flat."""
    values = np.asarray(values)
    axes, behind = (
        values.shape[: values.ndim - points],
        values.shape[values.ndim - points :],
    )
    fits = len(axes) == len(sizes) and all(map(lambda n, m: n in (1, m), axes, sizes))
    if axes and not fits:
        message = f"{what} must have the controls' axes {sizes} or none, got {axes}"
        raise ValueError(message)
    whole = np.broadcast_to(values, (sizes if axes else ()) + behind)
    return whole.reshape(-1, int(np.prod(behind)))


def _dial(name, title, values, at):
    """A slider of numbers, or a button for each word."""
    title = escape(title)
    if isinstance(values[0], str):
        choice = lambda k, value: (
            f'<label><input type="radio" name="{name}"{" checked" if k == at else ""}>'
            f"{escape(value)}</label>"
        )
        choices = " ".join(choice(k, value) for k, value in enumerate(values))
        return f'<fieldset data-dial aria-label="{title}">{choices}</fieldset>'
    shown = [f"{value:g}" for value in values]
    return (
        f'<label>{title}<input type="range" data-dial min="0" max="{len(values) - 1}" '
        f'value="{at}" aria-valuetext="{shown[at]}" data-values="{" ".join(shown)}">'
        f"<output>{shown[at]}</output></label>"
    )


def _require_one_of(known, **given):
    for name, value in given.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _drawn(mark, panel, sizes):
    _require_one_of([*_SHAPES, "cells"], kind=mark.kind)
    _require_one_of(ROLES, role=mark.role)
    flat = partial(_states, f"a mark of {mark.kind}", sizes=sizes)
    if mark.kind == "cells":
        y = flat(mark.y, points=2)
        _require.between(-1, 1, cells=y)
        return _Drawn(y.shape[1], mark.kind, None, _table(500 * y + 500))
    x, y = flat(mark.x, points=1), flat(mark.y, points=1)
    seen = lambda at: _table(3 * np.clip(np.nan_to_num(at, nan=np.inf), -90, 330) + 288)
    return _Drawn(y.shape[1], mark.kind, seen(_across(panel, x)), seen(_up(panel, y)))


def _across(panel, x):
    return _LEFT + (_RIGHT - _LEFT) * panel.x.share(x)


def _up(panel, y):
    return _BOTTOM + (_TOP - _BOTTOM) * panel.y.share(y)


def _figure(panel, drawn, state, grid):
    """A panel in one state, and the key to its marks."""
    pairs = list(zip(panel.marks, drawn, strict=True))
    if panel.x is None:
        shown = "".join(_cells(*pair, state) for pair in pairs)
    else:
        shown = _plot(panel, "".join(_path(*pair, state) for pair in pairs), grid)
    key = "".join(_entry(mark) for mark in panel.marks if mark.name)
    return (
        f"<figure><p>{escape(panel.title)}</p>{shown}"
        f'<figcaption class="key">{key}</figcaption></figure>'
    )


def _class(mark):
    return f'class="m {mark.kind} {mark.role.replace("+", "p")}"'


def _entry(mark):
    way = "M3 6h20" if mark.kind in ("line", "segments") else "M13 6h0"
    return (
        f'<span><svg viewBox="0 0 26 12" aria-hidden="true"><path {_class(mark)} '
        f'd="{way}"/></svg>{escape(mark.name)}</span> '
    )


def _cells(mark, drawn, state):
    cells = "".join(f'<i style="--v:{v:.3g}"></i>' for v in drawn.cells(state))
    rows, columns = np.shape(mark.y)[-2:]
    grid = f"grid-template-columns:repeat({columns},1fr);aspect-ratio:{columns}/{rows}"
    return f'<div class="cells" data-m style="{grid}">{cells}</div>'


def _path(mark, drawn, state):
    shape = _SHAPES[mark.kind]
    d = "".join(shape(k, x, y) for k, (x, y) in enumerate(drawn.points(state)))
    return f'<path {_class(mark)} data-m d="{d}"/>'


def _ticks(panel):
    return "".join(
        f'<path class="frame" d="M{x:.1f} {_BOTTOM}v4"/>'
        f'<text x="{x:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{word}</text>'
        for value, word in panel.x.ticks()
        for x in [_across(panel, value)]
    ) + "".join(
        f'<path class="frame" d="M{_LEFT} {y:.1f}h-4"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{word}</text>'
        for value, word in panel.y.ticks()
        for y in [_up(panel, value)]
    )


def _plot(panel, marks, grid):
    """Axes with ticks and labels, and marks that end where the axes do."""
    pad = ""
    if panel.pad:  # where the first and the last values of two sliders lie
        places = _across(panel, grid[0]), _up(panel, grid[1])
        pad = (
            f' data-pad="{[round(float(at[k]), 1) for at in places for k in (0, -1)]}"'
        )
    box = f"{_LEFT} {_TOP - 4} {_RIGHT - _LEFT + 4} {_BOTTOM - _TOP + 6}".split()
    middle = (_LEFT + _RIGHT) / 2, (_BOTTOM + _TOP) / 2
    title, below = escape(panel.title), escape(panel.x.label)
    return (
        f'<svg viewBox="0 0 320 236" role="img" aria-label="{title}"{pad}>'
        f'<path class="frame" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>{_ticks(panel)}'
        f'<text x="{middle[0]}" y="230" text-anchor="middle">{below}</text>'
        f'<text x="11" y="{middle[1]}" text-anchor="middle" '
        f'transform="rotate(-90 11 {middle[1]})">{escape(panel.y.label)}</text>'
        f'<svg x="{box[0]}" y="{box[1]}" width="{box[2]}" height="{box[3]}" '
        f'viewBox="{" ".join(box)}">{marks}</svg></svg>'
    )
