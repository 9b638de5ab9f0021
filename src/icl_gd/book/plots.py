"""Arrays to Axes, in the one style of the book. Imports no model code.

Every role keeps its colour, dash and marker in every chapter (Okabe-Ito palette, which
colour-blind readers can tell apart); matrices share one diverging map with zero in the
middle.
"""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Real
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
            "legend.fontsize": 9.9,
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
    """A function's source without checks of values and marks for mutants."""
    text = inspect.getsource(function).rstrip()
    text = re.sub(r"  # (mutant|\d+ mutants): .*", "", text)
    return Source(re.sub(r"\n +_require[\w.]*\(.*\)(?=\n)", "", text))


def band(ax: Axes, x, values, role: str, label: str) -> Axes:
    """Draws a curve in its role's style; of (seeds, points) values, mean and range.

    Gradient descent is broad and pale, so that a curve which coincides with it leaves
    it visible.
    """
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    _require.finite(values=values)
    x, values = np.asarray(x), np.atleast_2d(np.asarray(values, float))
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


def weights(
    ax: Axes,
    matrix: Real[Array, "rows columns"],
    split: int,
    limit: float,
    title: str,
) -> Axes:
    """Draws a weight matrix, zero in white, +-limit in full colour, ruled at ``split``.

    Rows are outputs and columns inputs; the rule separates the x-block from the
    y-block.
    """
    _require.finite(matrix=matrix)
    _require.positive(limit=limit)
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


def attention_map(
    ax: Axes,
    pattern: Real[Array, "{len(tokens)} {len(tokens)}"],
    tokens: str,
    title: str,
) -> Axes:
    """Draws who looks where: rows attend to columns, from 0 (white) to 1 (dark).

    ``tokens`` names the positions, one character each.
    """
    _require.finite(pattern=pattern)
    ax.imshow(np.asarray(pattern), cmap="Blues", vmin=0, vmax=1)
    at = range(len(tokens))
    ax.set(title=title, xlabel="attended to", ylabel="position that looks")
    ax.set_xticks(at, list(tokens))
    ax.set_yticks(at, list(tokens))
    ax.tick_params(length=0)
    ax.grid(False)
    return ax
