"""The run that holds the pages finds what is wrong in them."""

import subprocess
import sys

import check_pages
import nbformat
import notebooks
import pytest
from chapters import PAGES, ROOT

FRONT = "---\njupytext:\n  text_representation:\n    format_name: myst\n---\n"
CELLS = """
# A sum

```{code-cell} ipython3
a = 1
```

```{code-cell} ipython3
print(a + 1)
```
"""
SOLUTION = """
````{{solution}} ex-sum
:class: dropdown

```python
{code}
```

```text
{text}
```
````
"""
RUN = """
import sys
from pathlib import Path
sys.path[0] = str(Path.cwd())  # as where a script is run
import notebooks
notebooks.ROOT = Path(sys.argv[1])
notebooks.BOOK = notebooks.ROOT / "book"
import check_pages
check_pages.ROOT = notebooks.ROOT
check_pages.CACHE = notebooks.ROOT / "cache"
check_pages.surroundings = lambda: b""
sys.exit(check_pages.main([]))
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of two cells, executed, in a book of its own."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    path = tmp_path / "book" / "sum.md"
    path.parent.mkdir()
    return path


def write(path, cells=CELLS, code="print(a + 2)", text="3"):
    path.write_text(FRONT + cells + SOLUTION.format(code=code, text=text))
    notebook = notebooks.read(path)
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        shown = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
        cell.outputs = shown if "print" in cell.source else []
    notebooks.write(notebook, path.with_suffix(".ipynb"))


def run(path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path.parents[1])],
        cwd=ROOT / "scripts", capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def sources(page):
    cells = nbformat.reads(check_pages.run_of(page), as_version=4).cells
    return [(cell.source, "".join(o.text for o in cell.outputs)) for cell in cells]


def test_page_runs_forwards_then_its_solutions(page):
    write(page)
    _, *shown, _ = sources(page)
    assert shown == [("a = 1", ""), ("print(a + 1)", "2\n"), ("print(a + 2)", "3\n")]


LISTS = CELLS.replace("a = 1", "a = [1]").replace("a + 1)", "len(a) + a[0])")
WRONG = {
    "states": {"text": "4"},  # not what the solution prints
    "raises": {"code": "print(nothing)"},
    "takes": {"code": "a = 2\nprint(a + 1)"},  # the solution changes what the page has made
    "twice": {"cells": CELLS.replace("a + 1)", "a + 1)\na = 5")},  # so does a cell
    # what they change in place is changed for the cell before
    "fills": {"cells": LISTS.replace("[0])", "[0])\na.append(1)"), "code": "print(3)"},
    "renames": {"cells": LISTS, "code": "b = a\nb[0] = 2\nprint(3)"},
    "gives": {"cells": LISTS, "code": "def f(b):\n    b.insert(0, 1)\n    print(3)\n\nf(a)"},
    "stale": {"cells": CELLS.replace("a + 1", "a + 2")},  # prints what is not committed
}


def test_what_is_wrong_is_found_and_what_has_passed_is_remembered(page):
    write(page)
    for name, changes in WRONG.items():
        write(page.with_name(f"{name}.md"), **changes)
    status, told = run(page)
    assert status == 1 and "unchanged" not in told
    failed = {line.split("::")[0].split("-")[-1] for line in told.splitlines() if "FAILED" in line}
    assert failed == {f"{name}.ipynb" for name in WRONG}
    for name in WRONG:
        page.with_name(f"{name}.md").unlink()
    status, told = run(page)
    assert status == 0 and "unchanged since they passed: book/sum.md" in told
    write(page, code="print(a + 3)", text="4")
    status, told = run(page)
    assert status == 0 and "5 passed" in told


def test_surroundings_change_with_the_package(tmp_path, monkeypatch):
    package = tmp_path / "src" / "icl_gd"
    package.mkdir(parents=True)
    monkeypatch.setattr(check_pages, "ROOT", tmp_path)
    monkeypatch.setattr(check_pages, "__file__", str(tmp_path / "check_pages.py"))
    (tmp_path / "check_pages.py").write_text("")
    seen = set()
    for text in ("a = 1", "a = 2"):
        (package / "claims.yml").write_text(text)
        seen |= {check_pages.surroundings(), check_pages.surroundings()}
    assert len(seen) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_all_code_of_solutions_is_found(page):
    """By a second route: whatever is a fence of Python on a page is code of a solution."""
    text = page.read_text("utf-8")
    found = [source for _, source, _ in check_pages.solutions(text)]
    assert len(found) == text.count("```python\n")
    assert text.count("```text\n") == sum(o is not None for *_, o in check_pages.solutions(text))
