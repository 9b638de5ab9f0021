"""Arrays to Axes, in the one style of the book. Imports no model code.

Every role keeps its colour, dash and marker in every chapter (Okabe-Ito palette, which
colour-blind readers can tell apart); matrices share one diverging map with zero in the
middle.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from icl_gd import _require

ROLES = {
    "gd": {
        "color": "#0072B2",
        "linestyle": "-",
        "marker": "s",
        "linewidth": 4.5,
        "alpha": 0.55,
    },
    "gd++": {"color": "#009E73", "linestyle": "-", "marker": "D"},
    "trained": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "interpolated": {"color": "#CC79A7", "linestyle": "-.", "marker": "^"},
    "theory": {
        "color": "#222222",
        "linestyle": "--",
        "marker": "",
        "linewidth": 1.2,
        "zorder": 4,
    },
    "noise": {"color": "#8A8A8A", "linestyle": "-", "marker": ""},
}
WIDTH = 5.2  # inches: at a phone's 390 px a 10 pt letter is still 10 px high
TWO_PANELS = (WIDTH, 3.6)  # with a legend below that both share


def use_style() -> None:
    """Sets the book's style for all figures that follow."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.1),
            "figure.dpi": 160,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.bbox": None,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 2,
            "lines.markersize": 4,
        }
    )


class Source(NamedTuple):
    """Source code, which a notebook shows as highlighted Markdown."""

    code: str

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def source(function: Callable) -> Source:
    """A function's source, for the page that discusses it."""
    return Source(inspect.getsource(function).rstrip())


def band(ax: Axes, x, values, role: str, label: str) -> Axes:
    """Draws a curve in its role's style; of (seeds, points) values, mean and range.

    Gradient descent is broad and pale, so that a curve which coincides with it leaves
    it visible.

    Raises ValueError for an unknown role, or values that do not fit x or are not
    finite.
    """
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    x, values = np.asarray(x), np.atleast_2d(np.asarray(values, float))
    _require.shape("values", values, (None, len(x)))
    _require.finite("values", values)
    if len(values) > 1:
        label = f"{label} ({len(values)} seeds)"
        ax.fill_between(
            x,
            values.min(0),
            values.max(0),
            color=ROLES[role]["color"],
            alpha=0.25,
            lw=0,
        )
    ax.plot(x, values.mean(0), label=label, markevery=0.15, **ROLES[role])
    return ax


def weights(ax: Axes, matrix, split: int, limit: float, title: str) -> Axes:
    """Draws a weight matrix, zero in white, +-limit in full colour, ruled at ``split``.

    Rows are outputs and columns inputs; the rule separates the x-block from the
    y-block. Raises ValueError unless the matrix is two-dimensional and finite and limit
    is positive.
    """
    _require.shape("matrix", matrix, (None, None))
    _require.finite("matrix", matrix)
    _require.positive("limit", limit)
    ax.imshow(np.asarray(matrix), cmap="RdBu_r", vmin=-limit, vmax=limit)
    for rule in (ax.axhline, ax.axvline):
        rule(split - 0.5, color="#222222", linewidth=0.8)
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(True)
    return ax


def scale_bar(figure, axes, limit: float) -> None:
    """Adds the colour bar that the weight matrices drawn in ``axes`` share."""
    ticks = [-limit, 0, limit]
    bar = figure.colorbar(
        axes[0].images[0], ax=list(axes), shrink=0.8, ticks=ticks
    )  # 2 mutants: same limits, one image
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks])
    if all(ax.images[0].get_array().min() >= 0 for ax in axes):  # mutant: one image
        bar.ax.set_ylim(0, limit)


def attention_map(ax: Axes, pattern, tokens: str, title: str) -> Axes:
    """Draws who looks where: rows attend to columns, from 0 (white) to 1 (dark).

    ``tokens`` names the positions, one character each. Raises ValueError unless the
    pattern is square, finite and of their number.
    """
    _require.shape("pattern", pattern, (len(tokens), len(tokens)))
    _require.finite("pattern", pattern)
    ax.imshow(np.asarray(pattern), cmap="Blues", vmin=0, vmax=1)
    at = range(len(tokens))
    ax.set(title=title, xlabel="attended to", ylabel="position that looks")
    ax.set_xticks(at, list(tokens))
    ax.set_yticks(at, list(tokens))
    ax.tick_params(length=0)
    ax.grid(False)
    return ax


def two_views(axes, x, y, w1: float, moved, queries, landed) -> np.ndarray:
    """Draws one step twice: the line that moves, and the tokens that move.

    ``x, y`` are the data, ``w1`` the slope after the step, ``moved`` the y-entries of
    the context tokens after the layer, ``queries`` inputs of query tokens and
    ``landed`` their y-entries after it. All are one-dimensional; raises ValueError if
    lengths disagree.
    """
    x, y, moved, queries, landed = map(np.asarray, (x, y, moved, queries, landed))
    for name, values in (("y", y), ("moved", moved)):
        _require.shape(name, values, (len(x),))
    _require.shape("landed", landed, (len(queries),))
    gd, attention = ROLES["gd"]["color"], ROLES["trained"]["color"]
    ends = np.array([x.min(), x.max()]) * 1.15
    left, right = axes
    left.vlines(x, w1 * x, y, color=ROLES["noise"]["color"], lw=1.2)
    left.plot(ends, 0 * ends, color=ROLES["noise"]["color"], lw=1.2)
    left.plot(ends, w1 * ends, color=gd)
    left.plot(x, y, "o", color="#222222")
    left.set(title="Gradient descent:\nthe line moves", xlabel="$x$", ylabel="$y$")
    right.plot(ends, -w1 * ends, **ROLES["theory"])
    for at, start, end in zip(x, y, moved, strict=True):  # mutant: lengths agree
        right.annotate(
            "",
            (at, end),
            (at, start),
            arrowprops={"arrowstyle": "-|>", "color": attention},
        )
    right.plot(x, y, "o", color="#222222")
    right.plot(x, moved, "o", mfc="white", color=attention)
    right.plot(queries, landed, "s", mfc="white", color=gd)
    right.set(
        title="Attention:\nthe tokens move", xlabel="$x$-entry", ylabel="$y$-entry"
    )
    return axes


def steps(ax: Axes, t, y, line, truth, curves, marks, answers, labels) -> Axes:
    """Draws gradient descent as curves, and attention as markers on them.

    ``t, y`` are the examples and ``truth`` the function behind them; ``curves`` and
    ``answers`` hold one entry for each number of steps in ``labels``, darker for more.
    Raises ValueError if lengths disagree.
    """
    curves, answers = np.asarray(curves), np.asarray(answers)
    _require.shape("curves", curves, (len(labels), len(line)))
    _require.shape("answers", answers, (len(labels), len(marks)))
    ax.plot(t, y, ".", color=ROLES["noise"]["color"], alpha=0.6, label="examples")
    ax.plot(line, truth, **ROLES["theory"], label="truth")
    widest = np.ptp(curves, axis=0).argmax()  # where they are easiest to tell apart
    for i, (curve, answer, label) in enumerate(
        zip(curves, answers, labels, strict=True)
    ):
        shade = 0.15 + 0.85 * (i + 1) / len(labels)
        ax.plot(
            line,
            curve,
            color=ROLES["gd"]["color"],
            alpha=shade,
            label="GD" if shade == 1 else None,
        )
        ax.plot(
            marks,
            answer,
            "o",
            color=ROLES["trained"]["color"],
            mfc="white",
            alpha=shade,
            ms=3.5,
            label="attention" if shade == 1 else None,
        )
        above = i == len(labels) - 1
        ax.annotate(
            f"{label}",
            (line[widest], curve[widest]),
            (0, 7 if above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
        )
    ax.set(
        xlabel="input",
        ylabel="label",
        xticks=[],
        title="Steps of descent = layers of attention",
    )
    ax.legend(
        ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), handlelength=1.5
    )
    return ax


def portrait(ax: Axes, flows, product: float, trained, reach: float) -> Axes:
    """Draws a flow in the plane of (a, b), and training on it.

    ``flows`` and ``trained`` hold one path each of points (a, b), grey with an arrow
    and in the style of what is trained; the hyperbola a b = ``product``, where both
    end, is theory. The axes reach from -reach to reach. Raises ValueError unless paths
    have the shape (points, 2) and product and reach are positive.
    """
    _require.positive("product", product)
    _require.positive("reach", reach)
    for path in (*flows, *trained):
        _require.shape("path", np.asarray(path), (None, 2))
    grey = ROLES["noise"]["color"]
    for path in flows:
        a, b = np.asarray(path).T
        ax.plot(a, b, color=grey, lw=0.9)
        length = np.hypot(np.diff(a), np.diff(b)).cumsum()
        half = np.searchsorted(length, length[-1] / 2)
        arrow = {"arrowstyle": "-|>", "color": grey, "lw": 0.9}
        ax.annotate(
            "", (a[half + 1], b[half + 1]), (a[half], b[half]), arrowprops=arrow
        )
    side = np.geomspace(product / reach, reach, 200)
    for sign, label in ((1, "$ab$ at its limit"), (-1, None)):
        ax.plot(sign * side, sign * product / side, label=label, **ROLES["theory"])
    for path, label in zip(trained, ["trained"] + [None] * len(trained), strict=False):
        a, b = np.asarray(path).T
        ax.plot(a, b, label=label, **{**ROLES["trained"], "marker": "", "lw": 2.5})
        ax.plot(a[0], b[0], "o", color=ROLES["trained"]["color"], ms=6)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.set(xlabel="$a$ (scores)", ylabel="$b$ (values)")
    return ax
