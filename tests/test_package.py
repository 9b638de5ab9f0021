"""What is installed with the modules: what package-data names is there, and nothing is left out."""

import tomllib
from importlib.resources import files

from chapters import ROOT

DATA = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
    "package-data"
]
PACKAGE = ROOT / "src" / "icl_gd"
PATTERNS = [(ROOT / "src" / name.replace(".", "/"), p) for name in DATA for p in DATA[name]]


def test_each_pattern_finds_files():
    assert all(list(folder.glob(pattern)) for folder, pattern in PATTERNS)


def test_each_file_is_installed():
    installed = {*PACKAGE.rglob("*.py"), *(f for folder, p in PATTERNS for f in folder.glob(p))}
    there = {f for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert there == installed


def test_types_are_for_others_too():
    """Without this mark mypy takes every call of the package for right."""
    assert "py.typed" in DATA["icl_gd"] and files("icl_gd").joinpath("py.typed").is_file()
