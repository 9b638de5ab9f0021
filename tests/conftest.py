"""No random key is used twice in any test; the built book on a server and in a browser.

Without Chromium the tests of the built book are skipped, and fail instead where
REQUIRE_CHROMIUM=1; those of the pretrained model without its weights, and REQUIRE_MODEL=1.
"""

import functools
import http.server
import os
import shutil
import threading

import hypothesis
import jax
import matplotlib
import pytest
import quickly
from browsing import SITE

from icl_gd import real
from icl_gd.book import setup

quickly.older_way()
setup.cublas()
setup.unrolled()
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


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """A local server of the site."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    names = ["chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "no Chromium found: the built site was not looked at"
        (pytest.fail if os.environ.get("REQUIRE_CHROMIUM") == "1" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def smollm():
    """The pretrained model that is installed, and its tokenizer."""
    try:
        path = real.find()
    except ModuleNotFoundError as error:
        (pytest.fail if os.environ.get("REQUIRE_MODEL") == "1" else pytest.skip)(str(error))
    return real.load(path)
