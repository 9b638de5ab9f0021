"""The run on a device: pages that fail are told in full, and a CPU can be a card with TF32."""

import ast
import json
import os
import subprocess
import sys
import time

import device
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tf32
from chapters import ROOT
from jax.interpreters import mlir
from jax.lax import Precision

NOTEBOOKS = sorted((ROOT / "book").rglob("*.ipynb"))


# Rounding.


@pytest.fixture
def card():
    """This processor multiplies as a card with TF32."""
    if jax.default_backend() != "cpu":
        pytest.skip("a card rounds by itself")
    jax.clear_caches()
    tf32.install()
    yield
    mlir.register_lowering(jax.lax.dot_general_p, tf32.plain, platform="cpu")
    jax.clear_caches()


def by_numpy(x):
    """Eleven significant bits, the first of which a float does not store; ties to even."""
    if np.iscomplexobj(x):
        return by_numpy(np.real(x)) + 1j * by_numpy(np.imag(x))
    mantissa, exponent = np.frexp(np.asarray(x, float))
    return np.ldexp(np.rint(mantissa * 2**11), exponent - 11)


A = jax.random.normal(jax.random.key(0), (5, 6), jnp.float32)
B = jax.random.normal(jax.random.key(1), (6, 4), jnp.float32)


def test_ten_bits_to_nearest_ties_to_even():
    ties = 1 + np.arange(9) * 2.0**-11
    x = jnp.concatenate([1e3 * A.ravel(), -1e-3 * B.ravel(), jnp.array([*ties, *-ties])])
    x = x.astype(jnp.float32)
    assert tf32.rounded(x).dtype == jnp.float32
    for numbers in (x, x[:9] + 1j * x[9:18]):
        np.testing.assert_array_equal(tf32.rounded(numbers), by_numpy(numbers))
    assert (np.abs(tf32.rounded(x) - x) > 0).any()
    special = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0], jnp.float32)
    np.testing.assert_array_equal(tf32.rounded(special), special)


def scanned(a, b):
    return jax.lax.scan(lambda c, row: (c, row @ c), b, a)[1]


PRODUCTS = {
    "a product": jnp.dot,
    "jit": jax.jit(jnp.dot),
    "einsum": lambda a, b: jnp.einsum("ij,jk->ik", a, b),
    "scan": scanned,
    "vmap": lambda a, b: jax.vmap(jnp.dot, (0, None))(a, b),
    "jit of a scan": jax.jit(scanned),
    "a derivative": lambda a, b: jax.grad(lambda c: jnp.sum(jnp.dot(c, b.T) * a))(0 * a @ b),
}  # fmt: skip


def assert_product(found, a, b):
    np.testing.assert_allclose(found, np.asarray(a, float) @ np.asarray(b, float), atol=3e-6)


@pytest.mark.parametrize("how", PRODUCTS)
def test_both_factors_are_rounded_unless_exactness_is_asked_for(card, how):
    found = PRODUCTS[how](A, B)
    assert found.dtype == A.dtype
    assert_product(found, by_numpy(A), by_numpy(B))
    for half in (by_numpy(A) @ np.asarray(B), np.asarray(A) @ by_numpy(B)):
        assert np.abs(found - half).max() > 3e-4
    with jax.default_matmul_precision("highest"):
        assert_product(PRODUCTS[how](A, B), A, B)


def test_complex_factors_are_rounded(card):
    a, b = A + 1j * A[::-1], B - 1j * B[::-1]
    found = a @ b
    assert found.dtype == a.dtype
    np.testing.assert_allclose(found, by_numpy(a) @ by_numpy(b), atol=3e-6)


def test_one_factor_that_asks_is_enough(card):
    """As on a card, where a product is done in one way."""
    precision = Precision.DEFAULT, Precision.HIGHEST
    assert_product(jnp.dot(A, B, precision=precision), A, B)
    assert_product(jnp.dot(A, B, precision=Precision.HIGH), by_numpy(A), by_numpy(B))


def test_double_precision_is_left_alone(card):
    a, b = A.astype(float), B.astype(float)
    np.testing.assert_allclose(a @ b, np.asarray(a) @ np.asarray(b), rtol=1e-12)


# Pages.


def notebook(path, *cells):
    """A notebook of code cells, each a source and the text that it once printed."""
    stream = lambda text: {"output_type": "stream", "name": "stdout", "text": [text]}
    code = [
        {"cell_type": "code", "source": source.splitlines(True), "outputs": [stream(text)]}
        for source, text in cells
    ]
    path.write_text(json.dumps({"cells": code}), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_page_can_be_read(path):
    cells = list(device.committed(path))
    assert len(cells) == path.read_text("utf-8").count('"cell_type": "code"')
    assert sum(len(lines) for _, lines in cells) > 0 or path.stem == "index"
    assert not any(line.startswith("<Figure") for _, lines in cells for line in lines)


CELLS = [
    ("try:\n    import json\nexcept ImportError:\n    %pip install json\nprint(2)\n3", ["2", "3"]),
    ("x;", []),
    ("", []),
    ("plt.figure()\n1;", []),
]


@pytest.mark.parametrize("source, shown", CELLS)
def test_a_cell_prints_as_in_a_notebook(source, shown):
    assert device.run_cell(source, {"x": 1, "plt": plt}) == (shown, None)
    assert plt.get_fignums() == []


def test_a_cell_that_fails_keeps_what_it_printed():
    error = "ZeroDivisionError: division by zero"
    assert device.run_cell("print('before')\n1 / 0", {}) == (["before"], error)


TROUBLED = [
    ("from icl_gd.book import claims\nprint('one')\nprint('two')", "one\n2\n"),
    (
        "claims.check('oswald-prop1', 1.0, 0.0)\nclaims.check('oswald-prop1', 0.0, 0.0)\n"
        "claims.check('oswald-prop2', 2.0, 0.0)",
        "",
    ),
    ("undefined", ""),
    ("print('after')", "after\n"),
]
PRECISE = [
    ("import jax.numpy as jnp\nfrom icl_gd.book import setup\nsetup.begin()", ""),
    ("x = jnp.array([[1 + 2.0 ** -12]])\nprint((x @ x).item() > 1)", "True\n"),
]


def run(folder, cells, *flags):
    """What a process of its own reports of a page."""
    target, page = folder / "report.json", notebook(folder / "page.ipynb", *cells)
    command = [sys.executable, device.__file__, "--worker", target, *flags, page]
    env = os.environ | device.ENVIRONMENT | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(command, env=env, check=True)
    return json.loads(target.read_text())


def test_a_page_goes_on_after_what_fails(tmp_path):
    report = run(tmp_path, TROUBLED)
    assert [claim.split(": ")[0] for claim in report["claims"]] == ["oswald-prop1", "oswald-prop2"]
    assert "|measured - expected| = 1 exceeds" in report["claims"][0]
    assert report["errors"] == ["cell 3: NameError: name 'undefined' is not defined"]
    assert report["differ"][0] == "cell 1: 2  ->  two"
    assert all(line.startswith("cell 2: (nothing)  ->") for line in report["differ"][1:])
    assert len(report["seconds"]) == report["cells"] == 4


def test_a_claim_is_given_what_it_excludes(tmp_path):
    """Each once: it holds, it fails, and the hypothesis that it excludes passes too."""
    checks = [("1.0", "0.0"), ("0.0", "0.0"), ("1.0", "2.0")]
    cell = "".join(
        f"claims.check('own-rows-matter', {measured}, expected=0.5, wrong={wrong})\n"
        for measured, wrong in checks
    )
    printed = "✓ own-rows-matter: ≥ 0.5\n✗ own-rows-matter\n✗ own-rows-matter\n"
    report = run(tmp_path, [("from icl_gd.book import claims", ""), (cell, printed)])
    assert report["errors"] == report["differ"] == []
    assert [claim.split(": ")[1][:9] for claim in report["claims"]] == ["expected ", "passed by"]


@pytest.mark.parametrize(
    "flags, holds", [(["--tf32", "--no-setup"], False), (["--tf32"], True), ([], True)]
)
def test_without_setup_a_card_rounds(tmp_path, flags, holds):
    report = run(tmp_path, PRECISE, *flags)
    assert report["errors"] == []
    assert report["differ"] == ([] if holds else ["cell 2: True  ->  False"])


def test_a_pass_survives_a_page_that_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "LOGS", tmp_path)
    notebook(tmp_path / "well.ipynb", ("print(1)", "1\n"))
    notebook(tmp_path / "dead.ipynb", ("print(1)", "2\n"), ("import os\nos._exit(3)", ""))
    pages = [str(tmp_path / "dead.md"), str(tmp_path / "well.md")]
    table = device.Table("Title", pages, tmp_path / "kept" / "table.txt")
    device.run_pages(table, "cold", tmp_path, 2, float("inf"), [])
    text = table.target.read_text()
    assert "cold: 1 of 2 pages" in text
    assert "  cold: the process ended with 3 in cell 2\n  cell 1: 2  ->  1\n" in text
    dead, well = (next(line for line in text.splitlines() if line.startswith(p)) for p in pages)
    assert dead.split()[1:] == ["-", "-", "-", "-", "0", "1", "1"]
    assert well.split()[2::2] == ["-", "-", "0"]
    assert all(float(seconds) >= 0 for seconds in well.split()[1:4:2])


# Several at once.


HELP = """
from pathlib import Path
import subprocess, sys, time

at = Path({!r})

def wait(name):
    while not (at / name).exists():
        time.sleep(0.01)

"""


def command(folder, name, code):
    """A command that knows the folder and can wait for a file there."""
    return name, [sys.executable, "-c", HELP.format(str(folder)) + code], {}, folder / f"{name}.log"


def test_commands_run_in_turn(tmp_path):
    ended = []
    commands = [
        command(tmp_path, "a", "(at / 'a').touch(); wait('b')"),  # ends only if b runs beside it
        command(tmp_path, "b", "(at / 'b').touch(); wait('a')"),
        command(tmp_path, "c", "print('told'); sys.exit(7)"),
    ]
    device.in_turn(commands, 2, float("inf"), lambda *end: ended.append(end))
    assert {(name, status) for name, _, status in ended} == {("a", 0), ("b", 0), ("c", 7)}
    assert ended[-1][0] == "c"  # two at once, no more
    assert (tmp_path / "c.log").read_text() == "told\n"


@pytest.mark.parametrize("how", ["the deadline", "the limit"])
def test_what_takes_too_long_is_ended(tmp_path, how):
    ended, start = [], time.perf_counter()
    commands = [command(tmp_path, name, "time.sleep(600)") for name in ("slow", "late")]
    deadline, limit = (start + 0.3, 600) if how == "the deadline" else (float("inf"), 0.3)
    device.in_turn(commands, 1, deadline, lambda *end: ended.append(end), limit)
    expected = ["slow"] if how == "the deadline" else ["slow", "late"]
    assert [(name, status) for name, _, status in ended] == [(name, None) for name in expected]
    assert time.perf_counter() - start < 60


def test_an_interrupted_run_leaves_nothing_running(tmp_path):
    """Nor what its commands have started."""
    _, inner, _, _ = command(tmp_path, "", "(at / 'up').touch(); wait('go'); (at / 'over').touch()")
    commands = [
        command(tmp_path, "starts another", f"subprocess.run({inner!r})"),
        command(tmp_path, "waits for that", "wait('up')"),
    ]

    def interrupt(*end):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.in_turn(commands, 2, float("inf"), interrupt)
    (tmp_path / "go").touch()
    time.sleep(1)
    assert (tmp_path / "up").exists()
    assert not (tmp_path / "over").exists()


# Tests.

ENDED = """\
[gw0] [  1%] PASSED tests/test_a.py::test_one[x - y]
[gw1] [  2%] FAILED tests/test_a.py::test_two[grad of jit]
=========================== short test summary info ============================
FAILED tests/test_a.py::test_two[grad of jit] - AssertionError: 1 == 2
ERROR tests/test_b.py::test_three - RuntimeError
============= 1 failed, 1 passed, 1 error in 127.09s (0:02:07) ==============
"""


def test_what_pytest_tells():
    two = "tests/test_a.py::test_two[grad of jit]"
    failed = {two: "AssertionError: 1 == 2", "tests/test_b.py::test_three": "RuntimeError"}
    assert device.told(ENDED) == ("1 failed, 1 passed, 1 error in 127.09s (0:02:07)", failed)
    begun = "".join(ENDED.splitlines(True)[:2])
    assert device.told(begun) == ("stopped; 1 passed until then", {two: ""})


def test_all_that_is_wrong_is_in_the_table(tmp_path):
    page = "book/index.md"
    table = device.Table("Title", [page], tmp_path / "table.txt")
    report = {"clock": 61.2, "processor": 30.0, "whole": True, "claims": [], "errors": []}
    differ = [f"cell 1: {n}  ->  x" for n in range(device.LISTED + 2)]
    table.passes["cold"] = {page: report | {"differ": differ[:2]}}
    table.passes["warm"] = {page: report | {"clock": 9.7, "differ": differ, "claims": ["own: 3"]}}
    table.notes, table.about = ["tests: 1 failed"], {"device": "1 x cpu"}
    table.keep()
    lines = table.target.read_text().splitlines()
    assert table.row(page).split() == [page, "61", "10", "30", "30", "1", "0", "14"]
    assert table.row(page) in lines
    assert "  own: 3" in lines
    assert [line for line in lines if "->" in line] == [f"  {d}" for d in differ[: device.LISTED]]
    assert "  and 2 lines more" in lines
    assert lines[-1] == "device: 1 x cpu"


def test_the_tests_that_compute_run_there():
    found = device.computing()
    assert {"tests/test_attention.py", "tests/test_training.py"} <= set(found)
    assert not {"tests/test_notebooks.py", "tests/test_site.py"} & set(found)


def test_it_needs_no_jupyter():
    """A bare machine has JAX and what the package imports."""
    tree = ast.parse((ROOT / "scripts" / "device.py").read_text("utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    modules = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes}
    others = {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names)
    assert others == {"icl_gd", "jax", "matplotlib", "tf32"}
