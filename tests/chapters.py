"""The code and the text of the chapters, as their authors write them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
PAGES = sorted(path for path in BOOK.rglob("*.md") if "```{code-cell}" in path.read_text("utf-8"))
FENCE = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = re.compile(r"\A(---\n.*?\n---\n|(:[\w-]+:[^\n]*\n)+)", re.DOTALL)


def code(page):
    """The syntax tree of each code cell, without its options and shell commands."""
    for cell in FENCE.findall(page.read_text("utf-8")):
        plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", OPTIONS.sub("", cell), flags=re.MULTILINE)
        yield ast.parse(plain)


def prose(page):
    return re.sub(r"^```\{code-cell\}.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)


def solutions(page):
    """The syntax tree of each piece of code that a solution prints."""
    for piece in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        yield ast.parse(piece)
