"""The registry is sound, every claim is checked in one place, and a check bites."""

import ast
import re
from collections import Counter

import nbformat
import numpy as np
import pytest
from chapters import BOOK, PAGES, code

from icl_gd.book import claims

CLAIMS = {
    "own-equal": {"statement": "S.", "tolerance": 0.5},
    "own-equal-said": {"statement": "S.", "tolerance": 0.5, "relation": "equal"},
    "own-below": {"statement": "S.", "tolerance": 0.5, "relation": "below"},
    "own-above": {"statement": "S.", "tolerance": 0.5, "relation": "above"},
    "own-exact": {"statement": "S.", "tolerance": 0.0},
    "own-equal-not": {"statement": "S.", "tolerance": 0.5, "excludes": "that it is 2"},
    "own-above-not": {"statement": "S.", "tolerance": 0.5, "relation": "above", "excludes": "H"},
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(claims, "registry", lambda: CLAIMS)


GOOD = {
    "id": "own-sum",
    "source": "this book",
    "statement": "One and one is two.",
    "kind": "identity",
    "tolerance": 1e-12,
    "why": "rounding",
}
WRONG = [
    ({"tolerance": "1e-6"}, "own-sum: tolerance must be a number, got the text '1e-6': write"),
    ({"tolerance": 1}, "own-sum: tolerance must be a float of at least 0, got 1"),
    ({"tolerance": -1.0}, "own-sum: tolerance must be a float of at least 0, got -1.0"),
    ({"tolerance": float("nan")}, "own-sum: tolerance must be a float of at least 0, got nan"),
    ({"tolerance": float("inf")}, "own-sum: tolerance must be a float of at least 0, got inf"),
    ({"id": "smith-sum"}, "smith-sum: id must begin with one of oswald-, zheng-, olsson-, own-"),
    ({"kind": "theorem"}, "own-sum: kind must be one of identity, .*, got 'theorem'"),
    ({"relation": "less"}, "own-sum: relation must be one of equal, below, above, got 'less'"),
    ({"statement": "Two"}, "own-sum: statement must end with a full stop, got 'Two'"),
    ({"why": " "}, "own-sum: why must be text, got ' '"),
    ({"source": 2022}, "own-sum: source must be text, got 2022"),
    ({"excludes": 3}, "own-sum: excludes must be text, got 3"),
    ({"tolerances": 1.0}, "own-sum: tolerances is no field of a claim, which are id, source"),
]


@pytest.mark.parametrize("kind", ["closed form", "reproduction", "ordering"])
def test_what_could_be_false_in_another_way_says_in_which(kind):
    with pytest.raises(ValueError, match=f"own-sum: excludes is missing: every {kind} has it"):
        claims.validated([{**GOOD, "kind": kind}])
    assert claims.validated([{**GOOD, "kind": kind, "excludes": "that it is three"}])


@pytest.mark.parametrize("change, message", WRONG)
def test_a_wrong_entry_is_named(change, message):
    with pytest.raises(ValueError, match=f"^claims.yml: {message}"):
        claims.validated([{**GOOD, **change}])


@pytest.mark.parametrize("field", claims.NEEDED)
def test_a_missing_field_is_named(field):
    entry = {name: value for name, value in GOOD.items() if name != field}
    name = "claim 2" if field == "id" else "own-sum"
    with pytest.raises(ValueError, match=f"^claims.yml: {name}: {field} is missing "):
        claims.validated([{**GOOD, "id": "own-first"}, entry])


def test_good_entries_are_kept_in_order():
    entries = [{**GOOD, "id": name} for name in ("own-b", "own-a")]
    assert claims.validated(entries) == {"own-b": entries[0], "own-a": entries[1]}
    with pytest.raises(ValueError, match=r"^claims.yml: own-b: id must be its own, got it twice$"):
        claims.validated([entries[0], entries[0]])


def checks(page):
    """A pattern for the id of each call of claims.check in a page's cells."""
    for cell in code(page):
        for node in ast.walk(cell):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "claims.check":
                name = node.args[0]
                parts = name.values if isinstance(name, ast.JoinedStr) else [name]
                yield "".join(
                    re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in parts
                )


def test_text_checks_each_claim_once():
    patterns = [pattern for page in PAGES for pattern in checks(page)]
    for claim in claims.registry():
        found = [p for p in patterns if re.fullmatch(p, claim)]
        assert len(found) == 1, f"{claim} is checked by {found}"
    for pattern in patterns:
        assert any(re.fullmatch(pattern, claim) for claim in claims.registry()), pattern


def test_executed_notebooks_checked_each_claim_once():
    counts = Counter()
    for path in sorted(BOOK.rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                record = output.get("metadata", {}).get("claim")
                counts.update([record["id"]] if record else [])
    assert counts == dict.fromkeys(claims.registry(), 1)


@pytest.mark.parametrize(
    "claim, inside, outside",
    [
        ("own-equal", [0.5, 1.0, 1.5], [0.49, 1.51]),
        ("own-equal-said", [0.5, 1.5], [0.49, 1.51]),
        ("own-below", [-9.0, 1.0, 1.5], [1.51]),
        ("own-above", [0.5, 1.0, 9.0], [0.49]),
        ("own-exact", [1.0], [1 + 1e-15]),
    ],
)
def test_tolerance_is_the_largest_gap(small, claim, inside, outside):
    for value in inside:
        claims.check(claim, value, 1.0)
    claims.check(claim, np.array(inside), 1.0)
    claims.check(claim, np.array(inside), np.ones(len(inside)))
    for value in outside:
        with pytest.raises(claims.ClaimError, match=f"^{claim}: .* exceeds .*: S. "):
            claims.check(claim, value, 1.0)
        with pytest.raises(claims.ClaimError):  # one entry of many is enough
            claims.check(claim, np.array([1.0, value, 1.0]), np.ones(3))


@pytest.mark.parametrize(
    "claim, measured, gap",
    [
        ("own-equal", 3.0, "|measured - expected|"),
        ("own-below", 3.0, "measured - expected"),
        ("own-above", -1.0, "expected - measured"),
    ],
)
def test_a_failed_claim_says_by_how_much(small, claim, measured, gap):
    message = f"{claim}: {gap} = 2 exceeds 0.5: S. (measured {measured}, expected 1.0)"
    with pytest.raises(AssertionError, match=re.escape(message)):
        claims.check(claim, measured, 1.0)


@pytest.mark.parametrize(
    "claim, outside, inside",
    [("own-equal-not", [1.51, 0.49, 2.0], [1.5, 0.5]), ("own-above-not", [0.49, -9.0], [0.5, 9.0])],
)
def test_a_claim_that_the_wrong_hypothesis_passes_too_fails(small, claim, outside, inside):
    for wrong in outside:
        claims.check(claim, 1.0, 1.0, wrong)
        claims.check(claim, [1.0, 1.1], 1.0, [1.0, wrong])  # one entry of many is enough
    for wrong in inside:
        with pytest.raises(
            claims.ClaimError, match=f"^{claim}: passed by {CLAIMS[claim]['excludes']} too"
        ):
            claims.check(claim, 1.0, 1.0, wrong)
    with pytest.raises(claims.ClaimError, match="must be finite"):
        claims.check(claim, 1.0, 1.0, np.nan)
    with pytest.raises(ValueError, match="broadcast"):
        claims.check(claim, 1.0, 1.0, [1.0, 2.0])


def test_what_is_excluded_is_named_and_measured(small):
    named = "wrong must be what own-equal-not excludes, that it is 2, got None"
    with pytest.raises(ValueError, match=named):
        claims.check("own-equal-not", 1.0, 1.0)
    with pytest.raises(ValueError, match=r"own-equal excludes, nothing, got 2\.0$"):
        claims.check("own-equal", 1.0, 1.0, 2.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("claim", [name for name in CLAIMS if not name.endswith("not")])
def test_what_is_not_finite_fails(small, claim, bad):
    for pair in ((bad, 1.0), (1.0, bad), (bad, bad), ([1.0, bad], 1.0), ([1.0, 1.0], [1.0, bad])):
        with pytest.raises(claims.ClaimError, match="measured and expected must be finite, got"):
            claims.check(claim, *pair)


def test_nothing_measured_fails(small):
    with pytest.raises(claims.ClaimError):
        claims.check("own-equal", [], 1.0)


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((), (2,)), ((2, 1), (2,)), ((2,), (2, 2))])
def test_other_shape_is_named(small, shapes):
    message = "expected must be a number or of shape {}, got {}".format(*shapes)
    with pytest.raises(ValueError, match=re.escape(message)):
        claims.check("own-equal", *map(np.ones, shapes))


def test_unknown_claim_is_named(small):
    with pytest.raises(ValueError, match=r"claim must be an id of claims.yml, got 'own-other'"):
        claims.check("own-other", 1.0, 1.0)


@pytest.mark.parametrize(
    "claim, values, line",
    [
        ("own-equal", (1.234567, 1.4, [1.23, 0.9]), "✓ own-equal: gap ≤ 0.5"),
        ("own-equal-said", ([1.234567, 1.4],), "✓ own-equal-said: gap ≤ 0.5"),
        ("own-below", ([0.87654, 0.9],), "✓ own-below: ≤ 1.5"),
        ("own-above", ([1.23456, 1.4],), "✓ own-above: ≥ 0.5"),
    ],
)
def test_line_is_one_and_the_same_whatever_was_measured(small, capsys, claim, values, line):
    for value in values:
        claims.check(claim, value, 1.0)
    assert capsys.readouterr().out.splitlines() == [line] * len(values)


def test_values_travel_in_the_metadata_of_the_output(small, monkeypatch, capsys):
    shown = []
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr(display, "display", lambda data, **rest: shown.append((data, rest)))
    claims.check("own-equal", [1.23456, 0.9, 1.1], 1.0)
    claims.check("own-below", 0.87654, 1.0)
    claims.check("own-equal-not", 1.0, 1.0, 2)
    assert capsys.readouterr().out == ""
    (data, rest), (_, below), (_, excluded) = shown
    assert data == {"text/plain": "✓ own-equal: gap ≤ 0.5"}
    assert rest["raw"] is True
    record = {"id": "own-equal", "gap": "0.23", "measured": "0.9 to 1.235", "expected": "1"}
    assert rest["metadata"] == {"claim": record}
    assert below["metadata"]["claim"]["gap"] == "-0.12"
    assert below["metadata"]["claim"]["measured"] == "0.8765"
    assert excluded["metadata"]["claim"]["wrong"] == "2"
    assert excluded["metadata"]["claim"]["missed"] == "1"
