"""Modules import only those above them, and nothing is public that nobody calls."""

import ast
from functools import cache
from itertools import chain

import pytest
from chapters import PAGES, ROOT, code

ORDER = [
    "tasks", "corpus", "tokens", "attention", "induction", "descent", "constructions",
    "theory", "flow", "training", "measures", "plots", "views", "claims", "records", "setup",
]  # fmt: skip
PRIVATE = ["_precision", "_require"]  # used by all modules
PACKAGE = ROOT / "src" / "icl_gd"
TREES = {path.stem: ast.parse(path.read_text("utf-8")) for path in PACKAGE.glob("*.py")}


def imports(tree):
    """The modules that a module imports: "tasks" for the package's own, "jax" for others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "icl_gd":
                yield from (f"icl_gd.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own(name):
    return {m.split(".")[1] for m in imports(TREES[name]) if m.startswith("icl_gd.")} - set(PRIVATE)


def test_each_module_has_its_place():
    assert set(TREES) == {*ORDER, *PRIVATE, "__init__"}


@pytest.mark.parametrize("name", ORDER)
def test_module_imports_only_those_above_it(name):
    assert own(name) <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize(
    "name", [*PRIVATE, "__init__", "descent", "plots", "views", "claims", "records"]
)
def test_module_imports_no_other(name):
    """Descent is compared with attention, and plots draw arrays, so neither knows a model."""
    assert own(name) == set()


@pytest.mark.parametrize("name", [name for name in TREES if name != "plots"])
def test_only_plots_imports_matplotlib(name):
    assert not any(m.split(".")[0] == "matplotlib" for m in imports(TREES[name]))


def test_plots_imports_no_jax():
    assert not any(
        m.split(".")[0] in ("jax", "jaxtyping", "optax") for m in imports(TREES["plots"])
    )


def uses(tree):
    """What a tree takes from the package: pairs such as ("tasks", "uniform")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("icl_gd."):
            yield from ((node.module.split(".")[1], alias.name) for alias in node.names)


USES = {name: set(uses(tree)) for name, tree in TREES.items()}


@cache
def used_outside():
    """What chapters and scripts take from the package."""
    scripts = (ast.parse(path.read_text("utf-8")) for path in (ROOT / "scripts").glob("*.py"))
    chapters = chain.from_iterable(code(page) for page in PAGES)
    return set(chain.from_iterable(map(uses, chain(chapters, scripts))))


def names(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def all_public():
    for module in ORDER:
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
    assert (module, node.name) in used or node.name in beside


@each_public
def test_what_is_public_is_described(module, node):
    assert ast.get_docstring(node)


@each_public
def test_functions_are_short(module, node):
    """About 25 lines of code, so that a function reads like its equation."""
    functions = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)]
    for function in functions:
        statements = [n for n in ast.walk(function) if isinstance(n, ast.stmt)]
        assert len(statements) <= 30
