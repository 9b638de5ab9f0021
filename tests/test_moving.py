"""Figures that move hold, for every state, what they were given; and the first one in sight."""

import json
import re

import numpy as np
import pytest
from test_views import Read

from icl_gd.book import moving, plots, views

CONTROLS = {"kind": ("one", "two"), "size": [0.5, 1.0, 2.5]}
X = np.linspace(-1, 1, 5)
Y = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5))
CELLS = np.random.default_rng(1).uniform(-1, 1, (2, 3, 2, 4))
PLANE = moving.Axis("x", -1.0, 1.0), moving.Axis("y", -2.0, 2.0)


def made(**changes):
    parts = {
        "name": "a-figure",
        "label": "A figure",
        "controls": CONTROLS,
        "panels": [
            moving.Panel("left", *PLANE, [moving.Mark("line", "gd++", X, Y, "a <line>")]),
            moving.Panel("right", None, None, [moving.Mark("cells", "trained", None, CELLS)]),
        ],
        "said": "{size:.1f}: mean {mean:.3f} of {count}.",
        "numbers": {"size": np.array([[0.5, 1, 2.5]]), "mean": Y.mean(-1), "count": 5},
        "start": (1, 2),
    }
    return moving.moving(**{**parts, **changes})


def data_of(html):
    (line,) = re.findall(r"const \[id, marks, template, numbers\] = (.*);", html)
    return json.loads(line)


def rows(table, count):
    """What the script reads: one row of numbers a state."""
    text, which = ([int(t[i : i + 2], 36) for i in range(0, len(t), 2)] for t in table)
    return np.reshape(text, (-1, count))[which]


def test_script_has_every_state():
    name, ((count, kind, x, y), (cells, also, nothing, v)), template, numbers = data_of(made().html)
    assert (name, count, kind, cells, also, nothing) == ("a-figure", 5, "line", 8, "cells", None)
    assert template == "{size}: mean {mean} of {count}."
    left, right, bottom, top = 50.0, 306.0, 196.0, 8.0
    np.testing.assert_allclose(
        rows(x, 5) / 3 - 96, [left + (right - left) * (X + 1) / 2], atol=1 / 6 + 1e-9
    )
    expected = bottom + (top - bottom) * (Y.reshape(6, 5) + 2) / 4
    np.testing.assert_allclose(rows(y, 5) / 3 - 96, expected, atol=1 / 6 + 1e-9)
    np.testing.assert_allclose(rows(v, 8) / 500 - 1, CELLS.reshape(6, 8), atol=1.001e-3)
    said = {key: [different[k] for k in which] for key, (different, which) in numbers.items()}
    assert said == {
        "size": ["0.5", "1.0", "2.5"] * 2,
        "mean": [f"{v:.3f}" for v in Y.mean(-1).ravel()],
        "count": ["5"] * 6,
    }


def test_first_state_stands_there_before_the_script():
    view = made()
    read = Read(view.html)
    (line,) = read.all(**{"aria-live": "polite"})
    assert line["text"] == f"2.5: mean {Y[1, 2].mean():.3f} of 5."
    assert view.alt == f"A figure. {line['text']}"
    _, marks, _, _ = data_of(view.html)
    points = np.stack([rows(marks[0][2], 5)[0], rows(marks[0][3], 5)[5]], axis=-1) / 3 - 96
    (path,) = [p for p in read.all(tag="path") if "data-m" in p]
    assert path["d"] == "".join(
        f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(points)
    )
    assert path["class"] == "m line gdpp"
    shades = [float(i["style"].removeprefix("--v:")) for i in read.all(tag="i")]
    np.testing.assert_allclose(shades, CELLS[1, 2].ravel(), atol=1.001e-3)


def test_controls_are_native_and_named():
    read = Read(made().html)
    one, two, slider = read.all(tag="input")
    assert (one["type"], two["type"], slider["type"]) == ("radio", "radio", "range")
    assert one["name"] == two["name"] and "checked" in two and "checked" not in one
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "2")
    assert slider["aria-valuetext"] == "2.5" and slider["data-values"] == "0.5 1 2.5"
    assert [label["text"] for label in read.all(tag="label")] == ["one", "two", "size2.5"]


def test_what_does_not_move_is_packed_once():
    still = moving.Mark("points", "theory", X, X)
    for_kind = moving.Mark("points", "theory", X, Y[:, :1])
    panel = moving.Panel("", *PLANE, [still, for_kind])
    _, (one, two), _, _ = data_of(made(panels=[panel]).html)
    assert [len(t) for t in one[3]] == [10, 2] and [len(t) for t in two[3]] == [20, 12]
    assert np.array_equal(rows(two[3], 5)[:3], rows(two[3], 5)[[0] * 3])


def test_what_is_far_out_or_no_number_is_out_of_sight():
    y = np.array([np.nan, 1e9, -1e9, 0, np.inf])
    panel = moving.Panel("", *PLANE, [moving.Mark("points", "gd", X, y)])
    _, (mark,), _, _ = data_of(made(panels=[panel]).html)
    seen = rows(mark[3], 5)[0] / 3 - 96
    assert seen[3] == pytest.approx(102, abs=0.2)
    assert all(v < 0 or v > 200 for v in seen[[0, 1, 2, 4]])


def test_roles_are_those_of_all_figures_and_have_a_colour():
    assert list(moving.ROLES) == list(plots.ROLES)
    for role in moving.ROLES:
        assert f".icl-view .{role.replace('+', 'p')} {{ --role:" in views.style("moving")


def test_ticks_are_round():
    assert [t for t, _ in moving.Axis("", -2.0, 2.0).ticks()] == [-2, -1, 0, 1, 2]
    assert [w for _, w in moving.Axis("", 0.0, 900.0).ticks()] == ["0", "200", "400", "600", "800"]
    assert [w for _, w in moving.Axis("", 0.15, 0.45).ticks()] == ["0.2", "0.3", "0.4"]
    log = moving.Axis("", 1e-2, 1e1, log=True).ticks()
    assert [w for _, w in log] == ["10\u207b\u00b2", "10\u207b\u00b9", "10\u2070", "10\u00b9"]
    assert moving.Axis("", 1e-2, 1e2, log=True).share(1.0) == pytest.approx(0.5)


def test_figure_is_self_contained_and_the_same_every_time():
    view = made()
    assert view == made() and "http" not in view.html and "url(" not in view.html
    assert "</script" not in json.dumps(data_of(made(label="</script>").html))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "a figure"}, "name must be letters and hyphens, got 'a figure'"),
        ({"start": (1, 3)}, "invalid entry in coordinates array"),
        ({"numbers": {"size": np.ones(3), "mean": 0.0, "count": 5}},
         r"size must have the controls' axes \(2, 3\) or none, got \(3,\)"),
        ({"panels": [moving.Panel("", *PLANE, [moving.Mark("line", "gd", X, Y[0])])]},
         r"a mark of line must have the controls' axes \(2, 3\) or none, got \(3,\)"),
        ({"panels": [moving.Panel("", *PLANE, [moving.Mark("curve", "gd", X, X)])]},
         "kind must be one of line, segments, points, cells, got 'curve'"),
        ({"panels": [moving.Panel("", *PLANE, [moving.Mark("line", "GD", X, X)])]},
         "role must be one of gd, .*, noise, got 'GD'"),
        ({"panels": [moving.Panel("", None, None,
                                  [moving.Mark("cells", "gd", None, 2 * CELLS)])]},
         "cells must be between -1 and 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        made(**change)
