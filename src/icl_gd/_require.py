"""What arguments must satisfy: checks that name the argument, the given, the expected.

A value that is being traced by ``jit`` or ``vmap`` has no number to look at and is let
through.
"""

import jax
import numpy as np


def _concrete(value):
    return not isinstance(value, jax.core.Tracer)


def positive_int(name, value):
    """Raises unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int of at least 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def finite(name, value):
    """Raises unless ``value`` holds real, finite numbers only."""
    if _concrete(value):
        value = np.asarray(value)
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be real numbers, got {value.dtype}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got {value}")


def positive(name, value):
    """Raises unless ``value`` holds positive, finite numbers only."""
    finite(name, value)
    if _concrete(value) and not (np.asarray(value) > 0).all():
        raise ValueError(f"{name} must be positive, got {value}")


def between(name, value, low, high):
    """Raises unless ``low <= value <= high``."""
    if _concrete(value) and not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")


def shape(name, array, expected):
    """Raises unless ``array`` has the shape ``expected``; ``None`` allows any size."""
    given = np.shape(array)
    fits = len(given) == len(expected) and all(
        e in (None, g) for g, e in zip(given, expected, strict=True)
    )
    if not fits:
        wanted = tuple("any" if e is None else e for e in expected)
        raise ValueError(f"{name} must have shape {wanted}, got {given}")
