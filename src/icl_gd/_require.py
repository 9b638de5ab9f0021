"""What arguments must satisfy: checks that name the argument, the given, the expected.

A value that is being traced by ``jit`` or ``vmap`` has no number to look at and is let
through, except where a number is needed (``concrete``).
"""

import jax
import jax.numpy as jnp
import numpy as np


def _traced(value):
    return isinstance(value, jax.core.Tracer)


def _is_whole(dtype):
    return jnp.issubdtype(dtype, jnp.integer)


def _is_real(dtype):
    return jnp.issubdtype(dtype, jnp.floating) or _is_whole(dtype)


def positive_int(name, value, least=1):
    """Raises unless ``value`` is a whole number of at least 1 (or of ``least``).

    No array is one: a size is part of the program, known before it is traced.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        is_array = isinstance(value, jax.Array)
        hint = f"; a size is int({name}), outside of jit" if is_array else ""
        raise TypeError(
            f"{name} must be an int of at least {least}, got {value!r}{hint}"
        )
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _real(name, value):
    """The value, or for numbers that are known their NumPy array."""
    if isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a number or an array, got a {kind}")
    value = value if _traced(value) else np.asarray(value)
    if not _is_real(value.dtype):
        raise TypeError(f"{name} must be real numbers, got {value.dtype}")
    return value


def finite(name, value):
    """Raises unless ``value`` holds real, finite numbers only."""
    value = _real(name, value)
    if not _traced(value) and not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got {value}")


def positive(name, value):
    """Raises unless ``value`` holds positive, finite numbers only."""
    finite(name, value)
    if not _traced(value) and not (np.asarray(value) > 0).all():
        raise ValueError(f"{name} must be positive, got {value}")


def increasing(name, value):
    """Raises unless ``value`` holds two or more finite numbers, each above the last."""
    shape(name, value, (None,))
    finite(name, value)
    if len(value) < 2 or not (_traced(value) or (np.diff(value) > 0).all()):
        raise ValueError(f"{name} must be two or more increasing numbers, got {value}")


def between(name, value, low, high):
    """Raises unless ``low <= value <= high``, for every entry."""
    value = _real(name, value)
    if not _traced(value) and not ((low <= value) & (value <= high)).all():
        limits = f"between {low} and {high}" if np.isfinite(high) else f"at least {low}"
        raise ValueError(f"{name} must be {limits}, got {value}")


def shape(name, array, expected):
    """Raises unless ``array`` has the shape ``expected``; ``None`` allows any size."""
    wanted = tuple("any" if e is None else e for e in expected)
    if array is None or isinstance(array, (list, tuple)):
        kind = type(array).__name__
        raise TypeError(f"{name} must be an array of shape {wanted}, got a {kind}")
    given = np.shape(array)
    fits = len(given) == len(expected) and all(
        e in (None, g)
        for g, e in zip(given, expected, strict=True)  # mutant: lengths agree there
    )
    if not fits:
        raise ValueError(f"{name} must have shape {wanted}, got {given}")


def concrete(name, tree):
    """Raises where numbers are needed and a transformation hides them."""
    if any(map(_traced, jax.tree.leaves(tree))):
        raise TypeError(
            f"{name} must be known numbers, got traced ones: call this outside of jit, "
            "vmap and grad"
        )


def double(name):
    """Raises unless double precision is on, which the function ``name`` needs."""
    if not jax.config.jax_enable_x64:
        raise ValueError(f"jax_enable_x64 must be True for {name}, got False")


def key(name, value):
    """Raises unless ``value`` is a key, or an array of keys, of JAX's new style."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(f"{name} must be made by jax.random.key, got {value!r}")
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        given = f"an array of {value.dtype}"
        raise TypeError(f"{name} must be made by jax.random.key, got {given}")


def leading(name, tree, what):
    """How many there are along the leading axis; raises unless all arrays share it."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    sizes = {given[:1] for given in shapes}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"all arrays of {name} must have the same leading axis, of {what}, "
            f"got shapes {shapes}"
        )
    return sizes.pop()[0]


def inexact(name, tree):
    """Raises unless all arrays of the tree hold floating-point numbers."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            part = name + jax.tree_util.keystr(path)
            raise TypeError(f"{part} must be floating-point numbers, got {dtype}")


def real(**given):
    """Arrays, and trees of them, as real arrays of one dtype, in which they can mix.

    Integers and lists become floats, and single precision beside double becomes double.
    Raises TypeError for what holds no real numbers.
    """
    at_leaf = lambda part: type(part) in (list, tuple, type(None))
    leaves, tree = jax.tree_util.tree_flatten_with_path(given, is_leaf=at_leaf)
    arrays = [
        _array(
            path[0].key + jax.tree_util.keystr(path[1:]), leaf, "real numbers", _is_real
        )
        for path, leaf in leaves
    ]
    dtype = jnp.result_type(float, *arrays)
    of_one = jax.tree.unflatten(tree, [array.astype(dtype) for array in arrays])
    return [of_one[name] for name in given]


def tokens(name, value, vocabulary):
    """A list or array of whole numbers from 0 to ``vocabulary`` - 1, as an array."""
    array = _array(name, value, "whole numbers", _is_whole)
    known = value if isinstance(value, np.ndarray) else array
    if not _traced(known):
        known = np.asarray(known)
        outside = known[(known < 0) | (known >= vocabulary)]
        if outside.size:
            raise ValueError(
                f"{name} must be tokens from 0 to {vocabulary - 1}, got {outside[0]}"
            )
    return array


def _array(name, value, what, holds):
    """The value as an array; raises TypeError unless its dtype is what is expected."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        message = f"{name} must be an array of {what}, got {value!r}"
        raise TypeError(message) from None
    if not holds(array.dtype):
        raise TypeError(f"{name} must be {what}, got {array.dtype}")
    return array
