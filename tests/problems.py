"""Random sizes, tasks and layers in float64, made without the package's own generators.

``jax.device_put`` moves an array; ``jnp.asarray`` compiles a program for every shape.
"""

import jax
import numpy as np
from hypothesis import strategies as st

from icl_gd.attention import Products
from icl_gd.tasks import Task

sizes = st.sampled_from(
    [(1, 1, 1), (1, 3, 2), (2, 1, 3), (2, 2, 1), (3, 3, 3), (4, 2, 2)]
)  # n, d, m
seeds = st.integers(0, 2**32 - 1)


def a_matrix(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape))


def a_task(seed, n, d, m):
    draw = np.random.default_rng(seed).normal
    return Task(*(jax.device_put(draw(size=shape)) for shape in ((n, d), (n, m), (d,), (m,))))


def a_layer(seed, token):
    draw = np.random.default_rng(seed).normal
    return Products(*(jax.device_put(draw(size=(token, token))) for _ in range(2)))


def in_numpy(tree):
    """The same arrays in NumPy, for the sums that are written out."""
    return jax.tree.map(np.array, tree)


def stacked(*trees):
    """Trees as one, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def close(found, expected, rtol, atol=0.0):
    """Leaf by leaf the same up to rounding, whatever holds the leaves."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
