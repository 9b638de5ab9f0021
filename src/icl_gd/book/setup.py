"""What every page and every record starts with: one style, one precision.

``with setup.x64(False):`` runs a part of a page in the other precision.
"""

import os

import jax
import numpy as np
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from icl_gd.book import plots

try:
    x64 = jax.enable_x64
except AttributeError:  # before jax 0.8
    from jax.experimental import enable_x64 as x64  # noqa: F401


# XLA else builds and times many kernels for each product. For products as small as
# ours that takes minutes a page, and the choice, with it the last digits, may differ
# from run to run.
_CUBLAS = ("--xla_gpu_enable_triton_gemm=false", "--xla_gpu_autotune_level=0")
# XLA ends the process at a flag that it no longer has: none where it was not tried.
_TRIED = jax.__version_info__ < (0, 13)


def cublas() -> None:
    """Asks for cuBLAS's own choice of kernel, where ``XLA_FLAGS`` does not speak of it.

    XLA reads its flags once, when JAX first looks for devices: no effect after that.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    named = {flag.partition("=")[0] for flag in given}
    new = [flag for flag in _CUBLAS if flag.partition("=")[0] not in named]
    if _TRIED:
        os.environ["XLA_FLAGS"] = " ".join(given + new)


def threefry(key1, key2, x1, x2):
    """Threefry-2x32, 20 rounds: the words that JAX hashes two of to get random bits.

    Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".
    """
    keys = key1, key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA)
    x1, x2 = x1 + key1, x2 + key2
    for group in range(5):
        for turn in np.uint32([[13, 15, 26, 6], [17, 29, 16, 24]])[group % 2]:
            left, right = jax.lax.shift_left, jax.lax.shift_right_logical
            x1 = x1 + x2
            x2 = (left(x2, turn) | right(x2, 32 - turn)) ^ x1
        x1 = x1 + keys[(group + 1) % 3]
        x2 = x2 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x1, x2


def unrolled() -> None:
    """Lets XLA compile random bits for a processor as one expression, not as a loop.

    The bits are the same. JAX writes a loop there to save compiling; today's XLA takes
    two to three times as long to compile that, and runs half as fast.
    """
    rule = mlir.lower_fun(threefry, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu")


def begin(x64: bool = False, processor: bool = False) -> None:
    """Sets the style, float32-exact matrix products, and double precision or not.

    ``processor``: the page computes there, also where JAX has found a GPU. Thousands of
    small steps, each of which waits for the one before it, are slower on a GPU, and
    programs take longer to compile for it.

    Many cards multiply float32 matrices in a shorter format (TF32, 10 bits of mantissa)
    unless they are asked not to. A page asks, so that its verdicts are the same on all
    of them, and quickly (``cublas``). May be called again at any time.
    """
    cublas()
    unrolled()
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", x64)
    where = jax.devices("cpu")[0] if processor else None
    jax.config.update("jax_default_device", where)
    plots.use_style()
