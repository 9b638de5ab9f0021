"""What is drawn: series, limits, labels and colours, not pixels."""

import inspect
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from icl_gd import descent
from icl_gd.book import plots

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
X = np.array([0.0, 2.0, 4.0])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def pair():
    figure, axes = plt.subplots(1, 2)
    yield axes
    plt.close(figure)


def data(line):
    return np.stack(line.get_data()).tolist()


def colour(line):
    return to_hex(line.get_color()).upper()


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


@pytest.mark.parametrize("role", list(plots.ROLES))
def test_one_curve_has_no_band(ax, role):
    assert plots.band(ax, X, np.array([3, 1, 2]), role, "name") is ax
    (line,) = ax.lines
    assert data(line) == [[0, 2, 4], [3, 1, 2]]
    assert colour(line) == plots.ROLES[role]["color"]
    assert line.get_linestyle() == plots.ROLES[role]["linestyle"]
    assert line.get_marker() == plots.ROLES[role]["marker"]
    assert line.get_label() == "name"
    assert not ax.collections


def test_a_single_seed_has_no_band(ax):
    plots.band(ax, X, np.array([[3, 1, 2]]), "trained", "name")
    assert not ax.collections
    assert ax.lines[0].get_label() == "name"


def test_seeds_are_drawn_as_mean_and_range(ax):
    values = np.array([[2.0, 5.0, 3.0], [6.0, 1.0, 9.0]])
    plots.band(ax, X, values, "trained", "name")
    (line,), (area,) = ax.lines, ax.collections
    assert data(line) == [[0, 2, 4], [4, 3, 6]]
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
    assert red > green
    assert red > blue  # positive weights are red
    assert min(image.to_rgba(0.0)) > 0.95  # and zero is white
    across, down = ax.lines
    assert set(across.get_ydata()) == {1.5}
    assert set(down.get_xdata()) == {1.5}
    assert ax.get_title() == "name"
    assert not len(ax.get_xticks())
    assert not len(ax.get_yticks())
    assert all(spine.get_visible() for spine in ax.spines.values())
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_weights_leave_out_the_grid_of_the_style():
    with plt.rc_context():
        plots.use_style()
        figure, ax = plt.subplots()
        plots.weights(ax, np.eye(3), 2, 1.0, "name")
        ax.set_xticks([0, 1])
        figure.canvas.draw()
        assert not any(line.get_visible() for line in ax.get_xgridlines())
        assert all(spine.get_visible() for spine in ax.spines.values())
        plt.close(figure)


def test_scale_bar_shows_the_shared_limits(pair):
    for panel, matrix in zip(pair, (np.eye(3), -np.eye(3)), strict=True):
        plots.weights(panel, matrix, 2, 0.123, "")
    figure = pair[0].figure
    plots.scale_bar(figure, pair, 0.123)
    bar = figure.axes[2]
    assert bar.get_yticks().tolist() == [-0.123, 0, 0.123]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["-0.12", "0", "0.12"]
    assert bar.get_ylim() == (-0.123, 0.123)
    figure.canvas.draw()
    assert bar.get_position().x0 > max(panel.get_position().x1 for panel in pair)


def test_scale_bar_may_belong_to_one_matrix(ax):
    plots.weights(ax, -np.eye(3), 2, 0.5, "")
    plots.scale_bar(ax.figure, [ax], 0.5)
    assert ax.figure.axes[1].get_ylim() == (-0.5, 0.5)


def test_scale_bar_starts_at_zero_where_nothing_is_negative(pair):
    for panel in pair:
        plots.weights(panel, np.eye(3), 2, 0.5, "")
    plots.scale_bar(pair[0].figure, pair, 0.5)
    assert pair[0].figure.axes[2].get_ylim() == (0, 0.5)


Y, MOVED, QUERIES, LANDED = X + 1, X - 1, np.array([0.5, 1.5]), np.array([-1.0, -3.0])


def draw_steps(ax, count=3, **changes):
    curves = [LINE**2 * (k + 1) * (1 - LINE) for k in range(count)]
    answers = [MARKS * k for k in range(count)]
    arguments = {
        "t": X, "y": Y, "line": LINE, "truth": 2 * LINE, "curves": curves, "marks": MARKS,
        "answers": answers, "labels": [10 * (k + 1) for k in range(count)],
    }  # fmt: skip
    return plots.steps(ax, **arguments | changes), curves, answers


def test_style_is_one():
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["figure.figsize"][0] == plots.WIDTH
        assert plt.rcParams["figure.figsize"][1] < plots.WIDTH
        assert plt.rcParams["figure.facecolor"] == "white"  # on dark pages as well
        assert plt.rcParams["savefig.facecolor"] == "white"
        assert 10 / 72 / plots.WIDTH * 350 > 9  # 10 pt letters on a phone, in px
        assert plt.rcParams["font.size"] >= 10
        assert plt.rcParams["axes.grid"]
        assert not plt.rcParams["axes.spines.top"]


def test_source_is_the_code_itself():
    shown = plots.source(descent.gradient)
    assert shown.code == inspect.getsource(descent.gradient).rstrip()
    assert repr(shown) == shown.code
    assert shown._repr_markdown_() == f"```python\n{shown.code}\n```"


def test_source_leaves_out_marks_for_mutants():
    def marked():
        one = 1  # mutant: it has no other name
        return one + one  # 2 mutants: a sum

    assert "#" not in plots.source(marked).code
    assert plots.source(marked).code.endswith("return one + one")


CORNER = np.array([[2.0, 2.0], [1.0, 1.0], [0.5, 0.5]])


def test_attention_map_names_its_positions(ax):
    pattern = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    assert plots.attention_map(ax, pattern, "•ab", "name") is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), pattern)
    assert image.get_clim() == (0, 1)
    assert min(image.to_rgba(0.0)) > 0.95  # no attention is white
    assert ax.get_title() == "name"
    for axis in (ax.xaxis, ax.yaxis):
        assert axis.get_ticklocs().tolist() == [0, 1, 2]
        assert [t.get_text() for t in axis.get_ticklabels()] == ["•", "a", "b"]
        assert not any(t.tick1line.get_markersize() for t in axis.get_major_ticks())
    assert ax.get_xlabel() == "attended to"
    assert ax.get_ylabel() == "position that looks"


def test_attention_map_leaves_out_the_grid_of_the_style():
    with plt.rc_context():
        plots.use_style()
        figure, ax = plt.subplots()
        plots.attention_map(ax, np.eye(3), "abc", "")
        figure.canvas.draw()
        assert not any(line.get_visible() for line in ax.get_xgridlines())
        plt.close(figure)
