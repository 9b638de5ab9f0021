"""No random key is used twice in any test."""

import hypothesis
import jax
import matplotlib

from icl_gd.book import setup

setup.cublas()
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_enable_x64", True)
# Most programs here run once, so that optimising their machine code on a CPU costs more than it
# gives. What is computed stays the same; the pages run with all optimisations.
jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
matplotlib.use("Agg")

# The first call of a shape compiles, so no single example has a deadline; the same examples
# on every machine, so that a failure can be seen again.
hypothesis.settings.register_profile("book", deadline=None, derandomize=True)
hypothesis.settings.load_profile("book")
