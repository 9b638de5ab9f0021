"""The drawing says the same of each part that the chapters do."""

import numpy as np
import pytest
from test_views import Read

from icl_gd.book import drawing


def test_rows_are_those_asked_for():
    html = drawing.pairs([1, 3]).html
    read = Read(html)
    assert [b["text"] for b in read.all(tag="b")] == ["Part I.", "Part III."]
    assert [f["tabindex"] for f in read.all(tag="figure")] == ["0", "0"]
    assert all(s["role"] == "img" and s["aria-label"] for s in read.all(tag="svg"))
    assert len(html.encode()) < 8000 and "http" not in html and "url(" not in html


@pytest.mark.parametrize("row", drawing.ROWS[1:3], ids=lambda row: row.title)
def test_a_value_is_the_next_key(row):
    keys, values = row.keys.split(), row.values.split()
    assert row.linked and values == [*keys[1:], row.query]


def test_the_first_part_is_given_pairs():
    row = drawing.ROWS[0]
    assert not row.linked and "y" not in row.keys and "x" not in row.values


def test_letters_match_where_they_are_equal_and_answer_what_followed():
    row = drawing.ROWS[2]
    keys, values = (np.array(part.split()) for part in (row.keys, row.values))
    assert np.array_equal(row.matches, keys == row.query)
    assert set(values[keys == row.query]) == {row.answer}


def test_curves_are_as_dark_as_the_match():
    read = Read(drawing.pairs([1]).html)
    for kind in ("looks", "flows"):
        curves = [p for p in read.all(tag="path", **{"class": kind}) if "stroke-opacity" in p]
        shades = [float(p["stroke-opacity"]) for p in curves]
        np.testing.assert_allclose(
            shades, 0.15 + 0.85 * np.array(drawing.ROWS[0].matches), atol=0.0051
        )


def test_parts_are_one_to_four():
    with pytest.raises(ValueError, match="parts must be between 1 and 4, got 5"):
        drawing.pairs([5])


def test_a_step_in_numbers():
    x, y = np.array([2.0, -1.0, 1.0]), np.array([1.0, -1.0, 1.0])
    alt = drawing.worked(x, y, 2.0, 0.75, 2.0).alt
    assert alt == (
        "One prompt in numbers. Scores, key times query: 2 \u00b7 2 = 4; "
        "\u22121 \u00b7 2 = \u22122; 1 \u00b7 2 = 2. Values times scores: 1 \u00b7 4 + "
        "\u22121 \u00b7 \u22122 + 1 \u00b7 2 = 8. Times \u03b7/N = 0.75/3: 2."
    )


def test_two_heads_are_drawn_apart():
    plus, minus = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.2, 0.7])
    read = Read(drawing.signed(np.array([1.0, 0.0, -1.0]), plus, minus).html)
    for kind, shares in (("flows", plus), ("takes", minus)):
        curves = [p for p in read.all(tag="path", **{"class": kind}) if "stroke-opacity" in p]
        shades = [float(p["stroke-opacity"]) for p in curves]
        np.testing.assert_allclose(shades, 0.15 + 0.85 * shares, atol=0.0051)


def test_stream_has_the_circuit():
    read = Read(drawing.stream("anana").html)
    boxes = [t["text"] for t in read.all(tag="text")]
    assert boxes == [*"anana", "\u2013", *"anan", "", "", "", "", "n"]
    count = lambda kind: len(read.all(tag="path", **{"class": kind}))
    assert (count("pairs"), count("looks"), count("flows")) == (4, 2, 2)
    with pytest.raises(ValueError, match="word must end with a letter that it has before"):
        drawing.stream("abc")
