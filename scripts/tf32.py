"""Matrix products on a CPU as on a card with TF32: factors rounded to 10 bits of mantissa.

    import tf32; tf32.install()        before anything is computed
    python -m pytest -p tf32 ...       with this folder on PYTHONPATH

From then on a float32 or complex64 product that does not ask for ``Precision.HIGHEST`` rounds both
factors (of complex numbers both parts) to nearest, ties to even, also inside jit, scan, vmap and
derivatives. A card's compiler spares some products, such as those with a vector; here none is
spared. For checks only: it reaches into JAX, whose rule for plain products is private.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jax._src.lax.lax import _dot_general_lower
from jax.interpreters import mlir

EXACT = lax.Precision.HIGHEST
plain = partial(_dot_general_lower, platform="cpu")


def rounded(x):
    """The nearest numbers with 10 bits of mantissa and float32's exponents."""
    if jnp.iscomplexobj(x):
        return lax.complex(rounded(x.real), rounded(x.imag))
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)


def product_of_rounded(a, b, *, precision, **how):
    return lax.dot_general_p.bind(rounded(a), rounded(b), precision=(EXACT, EXACT), **how)


def lower(context, a, b, *, precision, **how):
    single = all(x.dtype in (jnp.float32, jnp.complex64) for x in context.avals_in)
    spared = precision is not None and (not isinstance(precision, tuple) or EXACT in precision)
    if spared or not single:  # what is no tuple names its own algorithm
        return plain(context, a, b, precision=precision, **how)
    rule = mlir.lower_fun(product_of_rounded, multiple_results=False)
    return rule(context, a, b, precision=precision, **how)


def install():
    mlir.register_lowering(lax.dot_general_p, lower, platform="cpu")


def pytest_configure():
    install()
