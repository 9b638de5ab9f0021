"""Execute the committed pages and hold them to what they print; nbval is the judge.

    python scripts/check_pages.py           every page that has changed since it passed
    python scripts/check_pages.py PAGE ...  these pages, as in book/construction/trained.md

In one kernel a page runs forwards; then the code of its exercises' solutions, as printed, each
held to the fence of `text` that follows it, if one does. All the while it is watched that no name
that others read means two things, and that nothing is changed in place (in_place.py). So a reader
can go back to any cell, also after an exercise, and finds what the page shows.

A page that has passed is not executed again until the page, the package, this script, a version
or the kind of processor changes. What has passed is remembered in .cache/pages.
"""

import hashlib
import os
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import notebooks
import pytest
import quickly

ROOT = notebooks.ROOT
CACHE = ROOT / ".cache" / "pages"
SOLUTION = re.compile(r"^(`{3,})\{solution\} ([\w-]+)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)

# These take longest. Begun first, none is left to run alone when the others are done.
LONG = ("trained", "copy_then_descend", "evidence", "heads", "learner", "phase_change", "depth")

# Around the cells of a page, of whose names they leave none.
BEGIN = f"""import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import in_place, quickly
sys.path.pop(0)
quickly.little()
_watch = in_place.begin(get_ipython())
del sys, in_place, quickly"""
END = "_watch.end()"

# Of a figure made of HTML its words are compared, which are rounded; its drawing is not.
UNREAD = """regex: <div class="icl-(view|drawing)"[\\s\\S]*
replace: a figure
"""


def solutions(text):
    """The code of each exercise's solution: its label, a fence, and what that should print.

    What it prints is None where the text does not say.
    """
    for solution in SOLUTION.finditer(text):
        for fence in FENCE.finditer(solution[3]):
            yield solution[2], fence[1].rstrip("\n"), fence[2]


def printed(text):
    return [] if text is None else [nbformat.v4.new_output("stream", name="stdout", text=text)]


def run_of(page):
    """The notebook whose cells are the whole run of a page, each with what it should show."""
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    answers = []
    for label, source, text in solutions(page.read_text(encoding="utf-8")):
        cell = nbformat.v4.new_code_cell(
            source,
            metadata={"tags": ["nbval-ignore-output"] if text is None else []},
            outputs=printed(text),
            execution_count=1,  # without a number nbval compares nothing
        )
        answers.append(cell | {"id": f"{label}-{len(answers)}"})
    first, last = (
        nbformat.v4.new_code_cell(source, id=name, execution_count=1)
        for name, source in {"begin": BEGIN, "end": END}.items()
    )
    notebook.cells = [nbformat.from_dict(cell) for cell in [first, *cells, *answers, last]]
    return nbformat.writes(notebook) + "\n"


def surroundings():
    """All that can change what a page prints besides the page, as one hash."""
    digest = hashlib.sha256()
    code = [
        Path(__file__),
        *map(Path(__file__).with_name, ("in_place.py", "quickly.py", "shares.py")),
    ]
    for path in sorted([*(ROOT / "src" / "icl_gd").rglob("*"), *code]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    versions = sorted(f"{d.name}=={d.version}" for d in distributions())
    flags = [os.environ.get(name, "") for name in ("JAX_PLATFORMS", "XLA_FLAGS")]
    digest.update(repr((versions, sys.version, platform.machine(), flags)).encode())
    return digest.digest()


class Stamps:
    """Remembers which pages have passed, of those that were collected."""

    def __init__(self, runs):
        self.runs = runs  # file name: stamp, number of cells
        self.passed = dict.fromkeys(runs, 0)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed[Path(report.location[0]).name] += 1

    def pytest_sessionfinish(self):
        for name, (stamp, cells) in self.runs.items():
            if self.passed[name] == cells:
                stamp.touch()


def main(names):
    """Runs what has to be run; the exit status of the judge."""
    os.environ.update(notebooks.ENVIRONMENT)
    quickly.older_way()
    os.chdir(ROOT)
    CACHE.mkdir(parents=True, exist_ok=True)
    around, runs, passed = surroundings(), {}, []
    for page in sorted(notebooks.choose(names), key=lambda page: page.stem not in LONG):
        text = run_of(page)
        key = hashlib.sha256(around + text.encode()).hexdigest()[:24]
        stamp = CACHE / f"{page.stem}-{key}.passed"
        if stamp.exists() and not names:
            passed.append(notebooks.name(page))
            continue
        target = CACHE / f"{page.parent.name}-{page.stem}.ipynb"
        target.write_text(text, encoding="utf-8")
        cells = sum(c.cell_type == "code" for c in nbformat.reads(text, as_version=4).cells)
        runs[target.name] = stamp, cells
    if passed:
        print(f"unchanged since they passed: {', '.join(passed)}")
    if not runs:
        print(f"{len(passed)} pages passed, 0 failed")
        return 0
    unread = CACHE / "unread.cfg"
    unread.write_text(UNREAD, encoding="utf-8")
    judge = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "900", "--durations", "20"]
    judge += ["--nbval-sanitize-with", str(unread)]
    several = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider"]
    several += ["-p", "shares"]
    files = [str(CACHE / name) for name in runs]
    return pytest.main([*files, *judge, *several], plugins=[Stamps(runs)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
