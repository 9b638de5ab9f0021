"""What values must satisfy: checks that name the argument, the given, the expected.

Shapes and types are said by annotations and checked there (``_annotations``). A value
that is being traced by ``jit`` or ``vmap`` has no number to look at and is let through,
except where a number is needed (``concrete``).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike


def _traced(value):
    return isinstance(value, jax.core.Tracer)


def _known(given):
    """Names and NumPy's arrays of the values that can be looked at."""
    return [(name, np.asarray(v)) for name, v in given.items() if not _traced(v)]


def at_least(least: int, /, **given: ArrayLike) -> None:
    """Raises unless every entry is ``least`` or more."""
    for name, value in _known(given):
        if not (value >= least).all():
            raise ValueError(f"{name} must be at least {least}, got {value}")


def between(low: ArrayLike, high: ArrayLike, /, **given: ArrayLike) -> None:
    """Raises unless ``low <= value <= high``, for every entry."""
    for name, value in _known(given):
        if not ((low <= value) & (value <= high)).all():
            raise ValueError(f"{name} must be between {low} and {high}, got {value}")


def finite(**given: ArrayLike) -> None:
    """Raises unless every entry is finite."""
    for name, value in _known(given):
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got {value}")


def positive(**given: ArrayLike) -> None:
    """Raises unless every entry is positive and finite."""
    finite(**given)
    for name, value in _known(given):
        if not (value > 0).all():
            raise ValueError(f"{name} must be positive, got {value}")


def increasing(**given: ArrayLike) -> None:
    """Raises unless there are two or more finite numbers, each above the last."""
    finite(**given)
    for name, value in _known(given):
        if value.size < 2 or not (np.diff(value) > 0).all():
            message = f"{name} must be two or more increasing numbers, got {value}"
            raise ValueError(message)


def concrete(**given: Any) -> None:
    """Raises where numbers are needed and a transformation hides them."""
    for name, tree in given.items():
        if any(map(_traced, jax.tree.leaves(tree))):
            raise TypeError(
                f"{name} must be known numbers, got traced ones: call this outside of "
                "jit, vmap and grad"
            )


def as_wide_as(others: Any, /, **carried: Any) -> None:
    """Raises unless arrays that a scan carries keep their type beside the others."""
    others = jax.tree.leaves(others)
    for name, tree in carried.items():
        for leaf in jax.tree.leaves(tree):
            given, needed = jnp.result_type(leaf), jnp.result_type(leaf, *others)
            if given != needed:
                raise TypeError(
                    f"{name} must be of {needed}, as what it is combined with, "
                    f"got {given}"
                )


def double(function: str) -> None:
    """Raises unless double precision is on, which the function needs."""
    if not jax.config.jax_enable_x64:
        raise ValueError(f"jax_enable_x64 must be True for {function}, got False")
