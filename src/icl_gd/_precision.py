"""Float32-exact matrix products, whatever the caller and the card prefer."""

from collections.abc import Callable
from functools import wraps

import jax


def exact(function: Callable) -> Callable:
    """The function with all its matrix products at float32's own precision.

    Since Ampere, NVIDIA's cards round the factors of float32 products to 10 bits of
    mantissa (TF32) unless the product asks for more. Here it asks, also inside scans,
    vmaps and derivatives.
    """

    @wraps(function)
    def exactly(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return exactly
