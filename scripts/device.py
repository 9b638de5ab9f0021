"""Run the book's pages and tests on whatever device JAX finds, and keep one table of it.

    python scripts/device.py                        every page, cold and warm, then tests
    python scripts/device.py book/index.md          these pages alone
    python scripts/device.py --tf32 --no-setup      a CPU as a card with TF32, and nobody forbids it

Cold is a page with an empty compilation cache, warm the same page with what that left. A page goes
on after a claim that fails and after a cell that raises, so that all of them are listed, and its
printed lines are compared with those of the committed notebook. The table is written after each
page, so that a run that is cut off leaves what it has; a whole run, as it is, is kept in
benchmarks/results/. What pages and tests wrote besides is in .cache/device.

The tests are those that compute. Needed is what the package needs, pytest, hypothesis and
beartype: no Jupyter, so that it runs on a bare machine.
"""

import argparse
import ast
import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "device"
RESULTS = ROOT / "benchmarks" / "results"
PAGE_LIMIT = 900  # seconds
WRONG = "claims", "errors", "differ"  # what a page's report lists, each empty if all is well
LISTED = 12  # lines of a page that differ; the rest is in .cache/device

# What a page and a test see. Several processes share a card, so that none may take its memory.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "src"), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    ),
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "agg",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


# One page, in a process of its own.


def lines(text):
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def committed(path):
    """The code cells of a notebook: the source of each, and the lines that it printed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            data = [o.get("data", {"text/plain": o.get("text", "")}) for o in cell["outputs"]]
            texts = ["".join(d["text/plain"]) for d in data if "image/png" not in d]
            yield "".join(cell["source"]), [line for text in texts for line in lines(text)]


def in_order(printed):
    """Claims last: a notebook keeps what is printed between them in one piece."""
    return sorted(printed, key=lambda line: line.startswith(("✓", "✗")))


def draw():
    """Draws what the notebook would, without keeping it."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        plt.figure(number).savefig(io.BytesIO(), format="png", bbox_inches="tight")
    plt.close("all")


def run_cell(source, names):
    """Runs a cell as a notebook does: the lines that it prints, and the error that ends it."""
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
    shows = tree.body and isinstance(tree.body[-1], ast.Expr) and not source.endswith(";")
    last = tree.body.pop() if shows else None
    shown, error = io.StringIO(), None
    with contextlib.redirect_stdout(shown):
        try:
            exec(compile(tree, "<cell>", "exec"), names)
            value = last and eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            if value is not None:
                print(repr(value))
            draw()
        except Exception as raised:
            traceback.print_exc()
            error = f"{type(raised).__name__}: {(lines(str(raised)) or [''])[0][:120]}"
    return lines(shown.getvalue()), error


def note_claims(failed):
    """From here on a claim that fails is noted, and the cell goes on."""
    from icl_gd.book import claims

    strict = claims.check

    @functools.wraps(strict)
    def check(claim, *values, **named):
        try:
            strict(claim, *values, **named)
        except claims.ClaimError as error:
            failed.append(": ".join(str(error).split(": ")[:2])[:120])
            print(f"✗ {claim}")

    claims.check = check


def forget_precision():
    """Takes exact products away from ``setup.begin``: JAX's default is back."""
    import jax

    from icl_gd.book import setup

    begin = setup.begin

    @functools.wraps(begin)
    def without(*values, **named):
        begin(*values, **named)
        jax.config.update("jax_default_matmul_precision", None)

    setup.begin = without


def run_page(path, target):
    """Runs a notebook's cells, and after each writes how far it is and what was wrong."""
    import matplotlib.pyplot as plt

    plt.show = draw
    cells = list(committed(path))
    report = {"cells": len(cells), "seconds": [], "claims": [], "errors": [], "differ": []}
    note_claims(report["claims"])
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    for number, (source, before) in enumerate(cells, 1):
        start = time.perf_counter()
        after, error = run_cell(source, vars(main))
        report["seconds"].append(round(time.perf_counter() - start, 2))
        if error:
            report["errors"].append(f"cell {number}: {error}")
        for old, new in zip_longest(in_order(before), in_order(after), fillvalue="(nothing)"):
            if old != new:
                report["differ"].append(f"cell {number}: {old}  ->  {new}")
        report["processor"] = time.process_time()
        write(target, json.dumps(report))


def write(path, text):
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


# All of them, several at once.


def in_turn(commands, jobs, deadline, done, limit=float("inf")):
    """Runs named commands, ``jobs`` at once, none longer than ``limit`` or past the deadline.

    A command is (name, arguments, environment, log). ``done(name, seconds, status)`` is called as
    each ends; the status is None where time was up. What waits at the deadline does not start.
    """
    waiting, running = list(commands), {}
    try:
        while running or (waiting and time.perf_counter() < deadline):
            while waiting and len(running) < jobs and time.perf_counter() < deadline:
                name, arguments, extra, log = waiting.pop(0)
                with open(log, "w", encoding="utf-8") as out:
                    running[name] = time.perf_counter(), subprocess.Popen(
                        arguments, cwd=ROOT, env=os.environ | extra, stdout=out, stderr=out,
                        process_group=0,
                    )  # fmt: skip
            for name, (start, process) in list(running.items()):
                late = process.poll() is None and time.perf_counter() > min(deadline, start + limit)
                if late:
                    end(process)
                if process.poll() is not None:
                    del running[name]
                    done(name, time.perf_counter() - start, None if late else process.returncode)
            time.sleep(0.1)
    finally:
        for _, process in running.values():
            end(process)


def end(process):
    """Ends a process and those that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


class Table:
    """What is known so far."""

    def __init__(self, title, pages, target):
        self.title, self.pages, self.target = title, pages, target
        self.passes = {}  # "cold" or "warm": page: report
        self.notes = []  # on passes and tests
        self.about = {}

    def row(self, page):
        reports = [self.passes.get(name, {}).get(page, {}) for name in ("cold", "warm")]
        clock = [f"{r['clock']:.0f}" if r.get("whole") else "-" for r in reports]
        processor = [f"{r['processor']:.0f}" if r.get("whole") else "-" for r in reports]
        wrong = [len(self.found(page, kind)) for kind in WRONG]
        times = f"{clock[0]:>7}{clock[1]:>7}{processor[0]:>9}{processor[1]:>7}"
        return f"{page:<40}{times}" + "".join(f"{n:>8}" for n in wrong)

    def found(self, page, kind):
        reports = (reports.get(page, {}) for reports in self.passes.values())
        return list(dict.fromkeys(line for r in reports for line in r.get(kind, [])))

    def lines(self):
        yield from (self.title, "")
        if self.pages:
            yield f"{'':<40}{'seconds':>14}{'processors':>16}{'claims':>8}{'cells':>8}{'lines':>8}"
            yield (
                f"{'page':<40}{'cold':>7}{'warm':>7}{'cold':>9}{'warm':>7}"
                f"{'failed':>8}{'raised':>8}{'differ':>8}"
            )
            yield from map(self.row, self.pages)
        yield from ("", *self.notes)
        for page in self.pages:
            found = {kind: self.found(page, kind) for kind in WRONG}
            if any(found.values()):
                more = len(found["differ"]) - LISTED
                yield from ("", page, *(f"  {line}" for line in found["claims"] + found["errors"]))
                yield from (f"  {line}" for line in found["differ"][:LISTED])
                yield from [f"  and {more} lines more"] if more > 0 else []
        yield from ("", *(f"{name}: {value}" for name, value in self.about.items()))

    def keep(self):
        self.target.parent.mkdir(parents=True, exist_ok=True)
        write(self.target, "\n".join(self.lines()) + "\n")


def command(page, report, caches, flags):
    """A page in a process of its own, which writes its report as it goes on."""
    report.unlink(missing_ok=True)
    worker = [sys.executable, __file__, "--worker", str(report), *flags, page]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(caches / Path(page).stem)}
    return page, worker, cache, report.with_suffix(".log")


def run_pages(table, name, caches, jobs, deadline, flags):
    """One pass over the pages; a page's cache is a folder of its own."""
    reports = table.passes[name] = {}
    file = lambda page: LOGS / f"{Path(page).stem}-{name}.json"

    def done(page, seconds, status):
        empty = {"cells": 0, "seconds": []}
        report = json.loads(file(page).read_text("utf-8")) if file(page).exists() else empty
        errors = report.setdefault("errors", [])
        if status != 0:
            how = "time was up" if status is None else f"the process ended with {status}"
            errors.append(f"{name}: {how} in cell {len(report['seconds']) + 1}")
        reports[page] = report | {"clock": seconds, "whole": status == 0}
        table.keep()
        print(f"{name}  {table.row(page)}", flush=True)

    known = table.passes["cold"]
    longest_first = sorted(table.pages, key=lambda page: -known.get(page, {}).get("clock", 0))
    commands = [command(page, file(page), caches, flags) for page in longest_first]
    start = time.perf_counter()
    in_turn(commands, jobs, deadline, done, PAGE_LIMIT)
    seconds = time.perf_counter() - start
    whole = sum(report["whole"] for report in reports.values())
    table.notes.append(f"{name}: {whole} of {len(commands)} pages in {seconds:.0f} s")
    table.keep()


TEST = re.compile(r"^(?:\[gw\d+\] \[ *\d+%\] )?(FAILED|ERROR) (tests/\S+::.*)$", re.MULTILINE)
SUMMARY = re.compile(r"^=+ (.*\d+ (?:passed|failed|error).*) =+$", re.MULTILINE)


def told(log):
    """What pytest has written: its last line if it has ended, and the tests that failed."""
    failed = {}
    for _, line in TEST.findall(log):
        test, _, why = line.partition(" - ")
        failed[test.rstrip()] = why or failed.get(test.rstrip(), "")
    summary = SUMMARY.findall(log)
    passed = len(re.findall(r"\bPASSED\b", log))
    return summary[-1] if summary else f"stopped; {passed} passed until then", failed


def computing():
    """The tests that compute; those of texts and files have no device."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    imports = re.compile(r"^(import|from) jax\b", re.MULTILINE)
    return [f"tests/{file.name}" for file in files if imports.search(file.read_text("utf-8"))]


def run_tests(table, caches, jobs, deadline, flags):
    log = LOGS / "tests.log"
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *computing()]
    # All processors, and no worker waits for another's long file: on a card tests mostly compile.
    jobs = str(max(jobs, os.cpu_count() or 2))
    pytest += ["-n", jobs, "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    pytest += ["-p", "tf32"] if "--tf32" in flags else []

    def done(name, seconds, status):
        summary, failed = told(log.read_text(encoding="utf-8", errors="replace"))
        table.notes += ["", f"tests: {summary}"]
        table.notes += [f"  {test}  {why}".rstrip() for test, why in failed.items()]

    cache = {"JAX_COMPILATION_CACHE_DIR": str(caches / "tests")}
    in_turn([("tests", pytest, cache, log)], 1, deadline, done)
    table.keep()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="as in book/index.md")
    parser.add_argument("--jobs", type=int, help="how many at once (4 on a GPU, else 2)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all of it")
    parser.add_argument("--once", action="store_true", help="no second pass")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--no-pages", action="store_true")
    parser.add_argument("--tf32", action="store_true", help="a CPU rounds as a card with TF32")
    parser.add_argument("--no-setup", action="store_true", help="pages do not ask for exactness")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    flags = [f for f in ("--tf32", "--no-setup") if getattr(options, f[2:].replace("-", "_"))]
    if options.worker:
        if options.tf32:
            import tf32

            tf32.install()
        if options.no_setup:
            forget_precision()
        return run_page((ROOT / options.pages[0]).with_suffix(".ipynb"), options.worker)
    return run(options, flags)


def chosen(options):
    """The pages of these names; all without a name."""
    notebooks = sorted(path.relative_to(ROOT) for path in ROOT.glob("book/**/*.ipynb"))
    known = [path.with_suffix(".md").as_posix() for path in notebooks]
    if unknown := set(options.pages) - set(known):
        sys.exit(f"not an executable page: {', '.join(unknown)}; pages: {', '.join(known)}")
    return [] if options.no_pages else options.pages or known


def begun(options, flags, device, pages, jobs):
    """The table of a run on a device, still empty; that of a whole run is for keeping."""
    from icl_gd.book import records

    kind = "".join(c if c.isalnum() else "-" for c in device.device_kind.lower())
    whole = not (flags or options.pages or options.no_pages or options.no_tests or options.once)
    title = " ".join(["Pages and tests,", f"{jobs} at once", *flags])
    table = Table(title, pages, (RESULTS if whole else LOGS) / f"device_{kind}.txt")
    command = " ".join(["python scripts/device.py", *sys.argv[1:]])
    table.about = records.provenance(command, **{"at once": jobs})
    table.about.pop("peak MiB")  # not that of the pages
    return table


def run(options, flags):
    os.environ.update(ENVIRONMENT)
    sys.path.insert(0, str(ROOT / "src"))
    import jax

    start, load = time.perf_counter(), os.getloadavg()[0]
    device, pages = jax.devices()[0], chosen(options)
    if options.tf32 and device.platform != "cpu":
        sys.exit(f"--tf32 is for a CPU, JAX has found {device.device_kind}: set JAX_PLATFORMS=cpu")
    jobs, deadline = options.jobs or (2 if device.platform == "cpu" else 4), start + options.limit
    LOGS.mkdir(parents=True, exist_ok=True)
    table = begun(options, flags, device, pages, jobs)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if pages:
            for name in ["cold"] if options.once or flags else ["cold", "warm"]:
                run_pages(table, name, Path(folder), jobs, deadline, flags)
        if not options.no_tests and not options.pages:
            run_tests(table, Path(folder), jobs, deadline, flags)
    table.about["load average"] = f"{load:.1f} before, {os.getloadavg()[0]:.1f} at the end"
    table.keep()
    print("\n" + "\n".join(table.lines()), flush=True)
    return any(table.found(page, kind) for page in pages for kind in WRONG)


if __name__ == "__main__":
    sys.exit(main())
