"""The registry of claims, ``claims.yml``, and the one function that checks them."""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

RELATIONS = {
    "equal": (
        "|measured - expected|",
        lambda measured, expected: abs(measured - expected),  # mutant: no sign
    ),
    "below": ("measured - expected", lambda measured, expected: measured - expected),
    "above": ("expected - measured", lambda measured, expected: expected - measured),
}


class ClaimError(AssertionError):
    """A measured value that a claim does not allow."""


@cache
def registry() -> dict[str, dict[str, Any]]:
    """All claims by id, in the order of ``claims.yml``."""
    entries = yaml.safe_load(
        files("icl_gd").joinpath("claims.yml").read_text(encoding="utf-8")
    )
    return {entry["id"]: entry for entry in entries}


def check(claim: str, measured, expected) -> None:
    """Holds a measured value to a claim; prints one line, the same on every machine.

    ``measured`` and ``expected`` are real arrays of one shape (or ``expected`` a
    number). The claim's relation says what must not exceed its tolerance: ``|measured -
    expected|`` ("equal"), measured - expected ("below") or expected - measured
    ("above"), entry by entry. The values travel in the metadata of the printed line,
    from where the ledger takes them. Raises ValueError for an unknown id or shapes that
    differ, ClaimError for values that are not finite or not within the tolerance.
    """
    if claim not in registry():
        raise ValueError(f"claim must be an id of claims.yml, got {claim!r}")
    entry = registry()[claim]
    measured, expected = np.asarray(measured, float), np.asarray(expected, float)
    if expected.shape not in ((), measured.shape):
        raise ValueError(
            f"expected must be a number or of shape {measured.shape}, "
            f"got {expected.shape}"
        )
    if measured.size == 0 or not (
        np.isfinite(measured).all() and np.isfinite(expected).all()
    ):
        raise ClaimError(
            f"{claim}: measured and expected must be finite, got {measured}, {expected}"
        )
    formula, gap = RELATIONS[entry.get("relation", "equal")]
    worst = float(np.max(gap(measured, expected)))
    if not worst <= entry["tolerance"]:
        raise ClaimError(
            f"{claim}: {formula} = {worst:.3g} exceeds {entry['tolerance']}: "
            f"{entry['statement']} (measured {measured}, expected {expected})"
        )
    tolerance = entry["tolerance"]
    held = {
        "equal": f"gap ≤ {tolerance:g}",
        "below": f"≤ {expected.max() + tolerance:g}",
        "above": f"≥ {expected.min() - tolerance:g}",
    }
    line = f"✓ {claim}: {held[entry.get('relation', 'equal')]}"
    spans = {"measured": _span(measured), "expected": _span(expected)}
    _show(line, {"id": claim, "gap": f"{worst:.2g}", **spans})


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
