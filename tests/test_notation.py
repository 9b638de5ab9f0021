"""The table of notation holds what the chapters write and what the code is called."""

import importlib
import inspect
import re

import pytest
from chapters import BOOK, PAGES, prose

ROWS = [
    [cell.strip() for cell in line.strip("| \n").split("|")]
    for line in (BOOK / "notation.md").read_text("utf-8").splitlines()
    if line.startswith("| $")
]
TEXT = "\n".join(prose(page) for page in PAGES)
MATHS = "\n".join(
    "".join(found) for found in re.findall(r"\$\$(.*?)\$\$|\$([^$]+)\$", TEXT, re.DOTALL)
)


def test_the_table_is_read():
    assert len(ROWS) > 20
    assert all(len(row) == 3 for row in ROWS)
    symbols = [row[0] for row in ROWS]
    assert len(set(symbols)) == len(symbols)


# Every letter of the alphabet occurs somewhere.
TELLING = [row for row in ROWS if not re.fullmatch(r"\$[A-Za-z]\$", row[0])]


@pytest.mark.parametrize("row", TELLING, ids=lambda row: row[0])
def test_symbol_occurs_in_a_chapter(row):
    (symbol,) = re.fullmatch(r"\$(.+)\$", row[0]).groups()
    # Neither part of a command or a word, nor with another index.
    pattern = re.escape(symbol)
    if symbol[0].isalpha():
        pattern = r"(?<![A-Za-z\\])" + pattern
    if symbol[-1].isalnum():
        pattern += r"(?![A-Za-z])"
    assert re.search(pattern.replace(r"\ ", r"\s*"), MATHS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_code_name_exists(row):
    (name,) = re.findall(r"`([^`]+)`", row[2])
    module, path, parameter = re.fullmatch(r"(\w+)\.([\w.]+?)(?:\((\w+)\))?", name).groups()
    found = importlib.import_module(f"icl_gd.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    if parameter:
        assert parameter in inspect.signature(found).parameters
