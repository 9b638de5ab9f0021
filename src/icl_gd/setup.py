"""What every page and every record starts with: one style, one precision.

``with setup.x64(False):`` runs a part of a page in the other precision.
"""

import jax

from icl_gd import plots

try:
    x64 = jax.enable_x64
except AttributeError:  # before jax 0.8
    from jax.experimental import enable_x64 as x64  # noqa: F401


def begin(x64: bool = False) -> None:
    """Sets the style, float32-exact matrix products, and double precision or not.

    Many cards multiply float32 matrices in a shorter format (TF32, 10 bits of mantissa)
    unless they are asked not to. A page asks, so that its verdicts are the same on all
    of them. May be called again at any time.
    """
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", x64)
    plots.use_style()
