"""Shape annotations hold at run time in all tests, and no random key is used twice."""

import hypothesis
import jax
import jaxtyping
import matplotlib
import pytest
from jaxtyping import install_import_hook

# The hook rewrites modules as they are imported, so it stands before any import of the package.
install_import_hook("icl_gd", "beartype.beartype")

from icl_gd.book import setup  # noqa: E402

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


@pytest.fixture
def unchecked():
    """Annotations do not hold: for bad input, to which the package's own messages should answer."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
