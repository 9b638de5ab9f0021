"""Modules import only those above them, and nothing is public that nobody calls."""

import ast
import subprocess
import sys
from functools import cache
from itertools import chain
from statistics import median

import pytest
from chapters import PAGES, ROOT, code, solutions

ORDER = [
    "tasks", "corpus", "tokens", "attention", "fast", "online", "induction", "descent",
    "constructions", "theory", "curves", "moments", "flow", "training", "measures",
    "real",
]  # fmt: skip
BOOK = [
    "book.plots", "book.views", "book.moving", "book.drawing", "book.claims", "book.records",
    "book.setup",
]  # fmt: skip
ON_VIEWS = ["book.moving", "book.drawing"]  # figures made of HTML, too
PRIVATE = ["_annotations", "_gguf", "_precision", "_require", "_tokenizer"]  # used by all modules
PACKAGE = ROOT / "src" / "icl_gd"
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
    for path in PACKAGE.rglob("*.py")
}


def imports(tree):
    """The modules that a module imports: "tasks", "book.plots" for the package's own, or "jax"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module in ("icl_gd", "icl_gd.book"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own(name):
    found = {m.removeprefix("icl_gd.") for m in imports(TREES[name]) if m.startswith("icl_gd.")}
    return {m for m in found if not m.startswith("_")}


def test_each_module_has_its_place():
    assert set(TREES) == {*ORDER, *BOOK, *PRIVATE, "__init__", "book.__init__"}


@pytest.mark.parametrize("name", ORDER)
def test_module_imports_only_those_above_it(name):
    assert own(name) <= set(ORDER[: ORDER.index(name)])


ALONE = [*PRIVATE, *BOOK[:-1], "__init__", "book.__init__"]


@pytest.mark.parametrize("name", ALONE)
def test_module_imports_no_other(name):
    """Plots and views show arrays, so they know no model."""
    assert own(name) == ({"book.views"} if name in ON_VIEWS else set())


def test_descent_knows_tasks_alone():
    """It is compared with attention, so it knows neither tokens nor a model."""
    assert own("descent") == {"tasks"}


def test_setup_knows_the_style_alone():
    assert own("book.setup") == {"book.plots"}


@pytest.mark.parametrize("name", [name for name in TREES if name != "book.plots"])
def test_only_plots_imports_matplotlib(name):
    assert not any(m.split(".")[0] == "matplotlib" for m in imports(TREES[name]))


def test_plots_imports_no_jax():
    assert not any(m.split(".")[0] in ("jax", "optax") for m in imports(TREES["book.plots"]))


def test_the_mathematics_needs_no_notebook():
    """Every module but those of the book, where nothing is installed that only pages use."""
    program = (
        "import importlib, sys\n"
        "for name in ('matplotlib', 'IPython', 'yaml'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {ORDER}:\n"
        "    importlib.import_module(f'icl_gd.{name}')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def uses(tree):
    """What a tree takes from the package: pairs such as ("tasks", "uniform")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("icl_gd."):
            yield from ((node.module.split(".")[-1], alias.name) for alias in node.names)


USES = {name: set(uses(tree)) for name, tree in TREES.items()}


@cache
def used_outside():
    """What chapters, their solutions and scripts take from the package."""
    scripts = (ast.parse(path.read_text("utf-8")) for path in (ROOT / "scripts").glob("*.py"))
    chapters = chain.from_iterable(chain(code(page), solutions(page)) for page in PAGES)
    return set(chain.from_iterable(map(uses, chain(chapters, scripts))))


def names(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def all_public():
    for module in [*ORDER, *BOOK]:
        for node in TREES[module].body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                yield module, node


each_public = pytest.mark.parametrize(
    "module, node", list(all_public()), ids=lambda part: getattr(part, "name", part)
)


@each_public
def test_what_is_public_is_used(module, node):
    """By a chapter, a script or another module; or by what stands beside it and is used itself."""
    used = used_outside().union(*(USES[name] for name in TREES if name != module))
    beside = {n for other in TREES[module].body if other is not node for n in names(other)}
    assert (module.split(".")[-1], node.name) in used or node.name in beside


@each_public
def test_what_is_public_is_described(module, node):
    assert ast.get_docstring(node)


def length(function, lines):
    """Lines of code in a function's body: no docstring, no comment, no empty line."""
    body = function.body[ast.get_docstring(function) is not None :]
    rows = lines[body[0].lineno - 1 : body[-1].end_lineno] if body else []
    return sum(bool(row.strip()) and not row.strip().startswith("#") for row in rows)


def test_functions_are_short():
    """So that a function reads like its equation: all of them, private and inner ones too."""
    lengths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths[path.stem, node.name, node.lineno] = length(node, text.splitlines())
    assert median(lengths.values()) <= 5
    assert {name: lines for name, lines in lengths.items() if lines > 25} == {}


def test_every_public_module_stands_in_the_reference():
    lines = (ROOT / "book/back/api.md").read_text("utf-8").splitlines()
    listed = [line.split("::")[1].strip() for line in lines if "automodule::" in line]
    assert sorted(listed) == sorted(f"icl_gd.{name}" for name in ORDER + BOOK)
