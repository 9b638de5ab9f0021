"""What every page and every record starts with: one style, one precision.

``with setup.x64(False):`` runs a part of a page in the other precision.
"""

import os

import jax

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
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", x64)
    where = jax.devices("cpu")[0] if processor else None
    jax.config.update("jax_default_device", where)
    plots.use_style()
