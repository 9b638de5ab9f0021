"""Execute the book's pages and write each as a notebook beside its text.

    python scripts/notebooks.py                               every page
    python scripts/notebooks.py book/construction/trained.md  these pages
    python scripts/notebooks.py --text [PAGES]                new text, outputs kept
    python scripts/notebooks.py --check [PAGES]               execute nothing, say what is stale

The text `X.md` is what the author edits; `X.ipynb` is made from it, never the other way round.
`--text` is for a change of words: it refuses a page whose code cells have changed.
`--check` ends with 1 if a notebook is stale against its text, and with 2 if one is missing,
is not executed in order, or holds an error or a warning.
"""

import argparse
import hashlib
import os
import re
import resource
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CELL_TIMEOUT = 900  # seconds; a chapter is meant to take 90

# What a page sees, on whatever machine it runs.
ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",  # a set that is printed keeps its order
}


def pages():
    """The executable pages, chapters first: the back matter reads the executed chapters."""
    found = [p for p in BOOK.rglob("*.md") if is_notebook(p)]
    return sorted(found, key=lambda p: (p.is_relative_to(BOOK / "back"), p))


def is_notebook(page):
    """Whether the front matter of a text says that it is a notebook."""
    front = re.match(r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.DOTALL)
    return bool(front and re.search(r"^(jupytext|kernelspec):", front[1], re.MULTILINE))


def name(page):
    return page.relative_to(ROOT).as_posix()


def read(page, executed=None):
    """The notebook that a text describes, the same bytes on every machine.

    It has the outputs of an executed one, if there is one, and else none.
    """
    notebook = jupytext.read(page, fmt="md:myst")
    if executed:
        notebook = combine_inputs_with_outputs(notebook, executed)
    notebook.metadata.pop("jupytext", None)  # it would let Jupyter write back into the text
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {  # without the version of Python
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        place = f"{name(page)}\0{index}\0{cell.source}"
        cell.id = hashlib.sha256(place.encode()).hexdigest()[:12]
    return notebook


def text_of(notebook):
    """All of a notebook that comes from its text."""
    cells = [(c.cell_type, c.id, c.source, c.metadata) for c in notebook.cells]
    return cells, notebook.metadata


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def code_of(notebook):
    return [cell.source for cell in code_cells(notebook)]


def faults(page):
    """What is wrong with the notebook of a page: two lists, what is stale and what is broken."""
    path = page.with_suffix(".ipynb")
    if not path.exists():
        return [], ["there is no notebook"]
    notebook, stale, broken = nbformat.read(path, as_version=4), [], []
    if text_of(notebook) != text_of(read(page)):
        stale.append("the text has changed since it was executed")
    code = code_cells(notebook)
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        broken.append("its cells were not executed once each, in order")
    for number, cell in enumerate(code, 1):
        broken += [f"cell {number}: {problem}" for problem in complaints(cell)]
    return stale, broken


def complaints(cell):
    """The errors and warnings in the output of an executed cell, and figures that are none."""
    drawn = "figure" in cell.metadata.get("mystnb", {})
    kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"{output.ename}: {output.evalue}"
        elif output.get("name") == "stderr":
            yield f"wrote to stderr: {output.text.strip()}"
        elif drawn and output.output_type == "execute_result" and {*output.data} == {"text/plain"}:
            value = output.data["text/plain"].splitlines()[0]
            yield f"shows {value} beside its figure: end it with plt.show()"
    if drawn and not kinds & {"image/png", "text/html"}:
        yield "has a caption and no figure: end it with plt.show()"


def check(chosen):
    """Print one line a stale or broken page; 0, 1 or 2 as in the module's docstring."""
    status = 0
    for page in chosen:
        stale, broken = faults(page)
        for problem in stale + broken:
            print(f"warning: {name(page)}: {problem}; run `make notebooks ONLY={name(page)}`")
        status = max(status, 2 * bool(broken), bool(stale))
    return status


def execute(notebook, page):
    """Run all cells in a fresh kernel, with progress."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        record_timing=False,
        coalesce_streams=True,  # where the kernel cuts its printing is chance
        allow_errors=True,  # a warning ends the page as an error does
        resources={"metadata": {"path": str(page.parent)}},
        # Without it the kernel's own log cuts into the progress lines.
        extra_arguments=["--log-level=ERROR"],
    )
    code = code_cells(notebook)
    with client.setup_kernel():
        for number, cell in enumerate(code, 1):
            print(f"{name(page)}  cell {number}/{len(code)} ...", end="", flush=True)
            start = time.perf_counter()
            client.execute_cell(cell, notebook.cells.index(cell))
            print(f" {time.perf_counter() - start:.1f} s", flush=True)
            cell.metadata.pop("execution", None)
            if problems := "; ".join(complaints(cell)):
                shown = [line for output in cell.outputs for line in output.get("traceback", [])]
                place = f"{name(page)}: cell {number}: {problems}"
                sys.exit("\n".join(["", cell.source, "", *shown, place, "Nothing was written."]))


def keep_outputs(page):
    """The notebook of a page's new text, with the outputs of its code, which must be the same."""
    path = page.with_suffix(".ipynb")
    executed = nbformat.read(path, as_version=4) if path.exists() else None
    if executed is None or code_of(executed) != code_of(read(page)):
        sys.exit(f"{name(page)}: its code has changed, so --text cannot keep its outputs")
    return read(page, executed)


def write(notebook, path):
    """Replace the file in one move: interrupted, it is the old one or the new one."""
    nbformat.validate(notebook)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def run(chosen):
    """Execute and write the pages, then print what each cost."""
    os.environ.update(ENVIRONMENT)
    # The committed numbers are a CPU's; jax also warns on stderr about a GPU it cannot use.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    costs = []
    for page in chosen:
        start = time.perf_counter()
        notebook = read(page)
        execute(notebook, page)
        write(notebook, page.with_suffix(".ipynb"))
        costs.append(f"{name(page):<44}{time.perf_counter() - start:>9.1f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak /= 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    print("", *costs, f"{'memory of the largest kernel':<44}{peak:>9.0f} MiB", sep="\n")


def choose(names):
    """The pages of these names, in the order in which they run; all without a name."""
    known = {name(p): p for p in pages()}
    unknown = [n for n in names if n not in known]
    if unknown:
        sys.exit(f"not an executable page: {', '.join(unknown)}; pages: {', '.join(known)}")
    return [p for n, p in known.items() if n in names or not names]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="as in book/index.md")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="execute nothing, say what is stale")
    mode.add_argument("--text", action="store_true", help="write new text, keep the outputs")
    given = parser.parse_args()
    chosen = choose(given.pages)
    if given.check:
        sys.exit(check(chosen))
    try:
        if not given.text:
            return run(chosen)
        for page in chosen:
            write(keep_outputs(page), page.with_suffix(".ipynb"))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: pages written so far are complete, the others are unchanged.")


if __name__ == "__main__":
    main()
