"""The registry of claims, ``claims.yml``, and the one function that checks them."""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

SOURCES = ("oswald-", "zheng-", "olsson-", "own-")  # how an id begins
KINDS = ("identity", "closed form", "reproduction", "ordering", "beyond the papers")
EXCLUDING = ("closed form", "reproduction", "ordering")  # could be false in another way
NEEDED = ("id", "source", "statement", "kind", "tolerance", "why")
OPTIONAL = ("relation", "published", "excludes")
RELATIONS = {
    "equal": ("|measured - expected|", lambda m, e: abs(m - e)),  # mutant: no sign
    "below": ("measured - expected", lambda m, e: m - e),
    "above": ("expected - measured", lambda m, e: e - m),
}


class ClaimError(AssertionError):
    """A measured value that a claim does not allow."""


@cache
def registry() -> dict[str, dict[str, Any]]:
    """All claims by id, in the order of ``claims.yml``."""
    text = files("icl_gd.book").joinpath("claims.yml").read_text(encoding="utf-8")
    return validated(yaml.safe_load(text))


def validated(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Claims by id. Raises ValueError that names the claim, the field, what is wrong.

    A claim has an id that begins with its source, a source, a statement that ends with
    a full stop, a kind, a tolerance of at least 0 and the reason for it (why); a closed
    form, a reproduction and an ordering name the nearest wrong hypothesis (excludes).
    Any may have that, a relation, and the published figure.
    """
    claims = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("id", f"claim {number}")
        for problem in _problems(entry):
            raise ValueError(f"claims.yml: {name}: {problem}")
        if name in claims:
            raise ValueError(f"claims.yml: {name}: id must be its own, got it twice")
        claims[name] = entry
    return claims


def _problems(entry):
    """What is wrong with an entry, the most basic first."""
    for field in NEEDED:
        if field not in entry:
            yield f"{field} is missing (needed are {', '.join(NEEDED)})"
    for field in set(entry) - {*NEEDED, *OPTIONAL}:
        fields = ", ".join(NEEDED + OPTIONAL)
        yield f"{field} is no field of a claim, which are {fields}"
    for field in {"id", "source", "statement", "why", "excludes"} & set(entry):
        if not (isinstance(entry[field], str) and entry[field].strip()):
            yield f"{field} must be text, got {entry[field]!r}"
    if not entry["id"].startswith(SOURCES):
        yield f"id must begin with one of {', '.join(SOURCES)}"
    if not entry["statement"].endswith("."):
        yield f"statement must end with a full stop, got {entry['statement']!r}"
    if entry["kind"] not in KINDS:
        yield f"kind must be one of {', '.join(KINDS)}, got {entry['kind']!r}"
    if entry["kind"] in EXCLUDING and "excludes" not in entry:
        yield f"excludes is missing: every {entry['kind']} has it"
    if entry.get("relation", "equal") not in RELATIONS:
        relations = ", ".join(RELATIONS)
        yield f"relation must be one of {relations}, got {entry['relation']!r}"
    tolerance = entry["tolerance"]
    if isinstance(tolerance, str):
        yield f"tolerance must be a number, got the text {tolerance!r}: write 1.0e-6"
    elif not (isinstance(tolerance, float) and 0 <= tolerance < float("inf")):
        yield f"tolerance must be a float of at least 0, got {tolerance!r}"


def check(claim: str, measured, expected, wrong=None) -> None:
    """Holds a measured value to a claim; prints one line, the same on every machine.

    ``measured``, ``expected`` and ``wrong`` are real arrays of one shape (the last two
    may be numbers). The claim's relation says what must not exceed its tolerance:
    ``|measured - expected|`` ("equal"), measured - expected ("below") or expected -
    measured ("above"), entry by entry. ``wrong`` is what would have been measured if
    the hypothesis that the claim excludes were true, and must not pass in its place;
    it is given if and only if the claim's entry names one. The values travel in the
    metadata of the printed line, from where the ledger takes them. Raises ValueError
    for an unknown id or shapes that differ, ClaimError for values that are not finite
    or not within the tolerance, and where the wrong ones are within it.
    """
    if claim not in registry():
        raise ValueError(f"claim must be an id of claims.yml, got {claim!r}")
    entry = registry()[claim]
    relation, tolerance = entry.get("relation", "equal"), entry["tolerance"]
    formula, gap = RELATIONS[relation]
    measured, expected = _compared(claim, measured, expected)
    worst = float(np.max(gap(measured, expected)))
    if not worst <= tolerance:
        raise ClaimError(
            f"{claim}: {formula} = {worst:.3g} exceeds {tolerance}: "
            f"{entry['statement']} (measured {measured}, expected {expected})"
        )
    held = {
        "equal": f"gap ≤ {tolerance:g}",
        "below": f"≤ {expected.max() + tolerance:g}",
        "above": f"≥ {expected.min() - tolerance:g}",
    }
    spans = {"measured": _span(measured), "expected": _span(expected)}
    spans |= _excluded(claim, wrong, measured.shape, lambda w: gap(w, expected))
    _show(f"✓ {claim}: {held[relation]}", {"id": claim, "gap": f"{worst:.2g}", **spans})


def _excluded(claim, wrong, shape, gap):
    """The wrong values, for the record; raises if the claim would allow them."""
    entry = registry()[claim]
    if (wrong is None) == ("excludes" in entry):
        named = entry.get("excludes", "nothing")
        raise ValueError(f"wrong must be what {claim} excludes, {named}, got {wrong}")
    if wrong is None:
        return {}
    wrong, _ = _compared(claim, np.broadcast_to(wrong, shape), 0.0)  # mutant: any
    worst = float(np.max(gap(wrong)))
    if worst <= entry["tolerance"]:
        raise ClaimError(f"{claim}: passed by {entry['excludes']} too, with {wrong}")
    return {"wrong": _span(wrong), "missed": f"{worst:.2g}"}


def _compared(claim, measured, expected):
    """Both as arrays; raises unless they can be compared."""
    measured, expected = np.asarray(measured, float), np.asarray(expected, float)
    if expected.shape not in ((), measured.shape):
        raise ValueError(
            f"expected must be a number or of shape {measured.shape}, "
            f"got {expected.shape}"
        )
    finite = np.isfinite(measured).all() and np.isfinite(expected).all()
    if measured.size == 0 or not finite:
        raise ClaimError(
            f"{claim}: measured and expected must be finite, got {measured}, {expected}"
        )
    return measured, expected


def _span(values) -> str:
    """The smallest and the largest entry, at four significant digits."""
    return " to ".join(dict.fromkeys(f"{v:.4g}" for v in (values.min(), values.max())))


def _show(line: str, record: dict) -> None:
    """Prints a line; in a notebook, with the record in the metadata of the output."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = lambda: None
    if get_ipython() is None:
        print(line)
    else:
        display({"text/plain": line}, raw=True, metadata={"claim": record})
