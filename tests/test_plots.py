"""What is drawn: series, limits, labels and colours, not pixels."""

import inspect
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from icl_gd import _require, descent
from icl_gd.book import plots
from icl_gd.theory import _require_moments

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
X = np.array([0.0, 2.0, 4.0])


@pytest.fixture
def ax():
    """Axes in the style of the book."""
    with plt.rc_context():
        plots.use_style()
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def has_grid(ax):
    return any(line.get_visible() for line in ax.get_xgridlines())


def test_roles_are_told_apart_by_more_than_colour():
    assert set(plots.ROLES) == {"gd", "gd++", "trained", "interpolated", "theory", "noise"}
    for one, two in combinations(plots.ROLES.values(), 2):
        assert one["color"] != two["color"]
        assert (one["linestyle"], one["marker"]) != (two["linestyle"], two["marker"])
    for role in ("gd", "gd++", "trained", "interpolated"):
        assert plots.ROLES[role]["color"] in OKABE_ITO
    for role in ("theory", "noise"):
        grey = plots.ROLES[role]["color"]
        assert grey[1:3] == grey[3:5] == grey[5:7]
    assert plots.ROLES["theory"]["linestyle"] == "--"


@pytest.mark.parametrize("values", [[3, 1, 2], [[3, 1, 2]]], ids=["curve", "one seed"])
@pytest.mark.parametrize("role", plots.ROLES)
def test_one_curve_has_no_band(ax, role, values):
    assert plots.band(ax, X, values, role, "name") is ax
    (line,) = ax.lines
    assert np.array_equal(line.get_data(), [X, [3, 1, 2]])
    style = {"color": line.get_color(), "linestyle": line.get_linestyle()}
    assert plots.ROLES[role].items() >= style.items()
    assert line.get_marker() == plots.ROLES[role]["marker"]
    assert line.get_label() == "name"
    assert not ax.collections


def test_seeds_are_drawn_as_mean_and_range(ax):
    plots.band(ax, X, [[2.0, 5.0, 3.0], [6.0, 1.0, 9.0]], "trained", "name")
    (line,), (area,) = ax.lines, ax.collections
    assert np.array_equal(line.get_data(), [X, [4, 3, 6]])
    assert line.get_label() == "name (2 seeds)"
    vertices = area.get_paths()[0].vertices
    for x, low, high in zip(X, [2, 1, 3], [6, 5, 9], strict=True):
        here = vertices[vertices[:, 0] == x, 1]
        assert (here.min(), here.max()) == (low, high)
    assert to_hex(area.get_facecolor()[0]).upper() == plots.ROLES["trained"]["color"]


def test_weights_are_drawn_on_a_centred_scale(ax):
    matrix = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 3.0]])
    assert plots.weights(ax, matrix, 2, 1.5, "name") is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), matrix)
    assert image.get_clim() == (-1.5, 1.5)
    red, green, blue, _ = image.to_rgba(1.5)
    assert red > max(green, blue)  # positive weights are red
    assert min(image.to_rgba(0.0)) > 0.95  # and zero is white
    across, down = ax.lines
    assert set(across.get_ydata()) == set(down.get_xdata()) == {1.5}
    assert ax.get_title("left") == "name"
    assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert all(spine.get_visible() for spine in ax.spines.values())
    ax.set_xticks([0, 1])
    assert not has_grid(ax)


@pytest.mark.parametrize("signs, low", [((1, -1), -0.123), ((-1,), -0.123), ((1, 1), 0)])
def test_scale_bar_shows_the_shared_limits(signs, low):
    """From zero where nothing is negative."""
    figure, (panels,) = plt.subplots(1, len(signs), squeeze=False)
    for panel, sign in zip(panels, signs, strict=True):
        plots.weights(panel, sign * np.eye(3), 2, 0.123, "")
    plots.scale_bar(figure, panels, 0.123)
    bar = figure.axes[-1]
    assert bar.get_yticks().tolist() == [-0.123, 0, 0.123]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["-0.12", "0", "0.12"]
    assert bar.get_ylim() == (low, 0.123)
    figure.canvas.draw()
    assert bar.get_position().x0 > max(panel.get_position().x1 for panel in panels)
    plt.close(figure)


def test_attention_map_names_its_positions(ax):
    pattern = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    assert plots.attention_map(ax, pattern, "•ab", "name") is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), pattern)
    assert image.get_clim() == (0, 1)
    assert min(image.to_rgba(0.0)) > 0.95  # no attention is white
    for axis in (ax.xaxis, ax.yaxis):
        assert axis.get_ticklocs().tolist() == [0, 1, 2]
        assert [t.get_text() for t in axis.get_ticklabels()] == ["•", "a", "b"]
        assert not any(t.tick1line.get_markersize() for t in axis.get_major_ticks())
    texts = ax.get_title("left"), ax.get_xlabel(), ax.get_ylabel()
    assert texts == ("name", "attended to", "position that looks")
    assert not has_grid(ax)


BAND = {"x": X, "values": X, "role": "gd", "label": ""}
WEIGHTS = {"matrix": np.eye(3), "split": 2, "limit": 1.0, "title": ""}
MAP = {"pattern": np.eye(3), "tokens": "abc", "title": ""}
BAD = [
    (plots.band, BAND, {"role": "GD"}, "role must be one of gd, gd.., trained, .*, got 'GD'"),
    (plots.band, BAND, {"values": X[:2]}, "x and y must have same first dimension"),
    (plots.band, BAND, {"values": [1.0, np.nan, 2.0]}, "values must be finite, got .*nan"),
    (plots.weights, WEIGHTS, {"matrix": X}, r"matrix must be Real\[Array, 'rows columns'\], got"),
    (plots.weights, WEIGHTS, {"matrix": np.eye(2) * np.nan}, "matrix must be finite"),
    (plots.weights, WEIGHTS, {"limit": 0.0}, "limit must be positive, got 0.0"),
    (plots.attention_map, MAP, {"tokens": "ab"}, r"pattern must be Real.*, got float64\[3, 3\]"),
    (plots.attention_map, MAP, {"pattern": np.eye(3) * np.nan}, "pattern must be finite"),
]


@pytest.mark.parametrize("draw, good, change, message", BAD)
def test_what_cannot_be_drawn_is_named(ax, draw, good, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw(ax, **{**good, **change})


def test_style_is_one(ax):
    assert plt.rcParams["figure.figsize"][0] == plots.WIDTH
    assert plt.rcParams["figure.figsize"][1] < plots.WIDTH
    assert plt.rcParams["figure.facecolor"] == "white"  # on dark pages as well
    assert plt.rcParams["savefig.facecolor"] == "white"
    assert 10 / 72 / plots.WIDTH * 350 > 9  # 10 pt letters on a phone, in px
    assert plt.rcParams["font.size"] >= 10
    assert has_grid(ax)
    assert not ax.spines["top"].get_visible()


def test_source_is_the_code_itself():
    shown = plots.source(descent.gradient)
    assert shown.code == inspect.getsource(descent.gradient).rstrip()
    assert repr(shown) == shown.code
    assert shown._repr_markdown_() == f"```python\n{shown.code}\n```"


def test_source_leaves_out_checks_of_values_and_marks_for_mutants():
    def marked(n):
        _require.at_least(1, n=n)
        _require_moments((n, n))
        one = 1  # mutant: it has no other name
        return one + one  # 2 mutants: a sum

    lines = ["    def marked(n):", "        one = 1", "        return one + one"]
    assert plots.source(marked).code.split("\n") == lines
