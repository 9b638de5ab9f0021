"""Change the package, one sign, factor or index at a time, and see whether the tests fail.

    python scripts/mutants.py                    all modules (about an hour on two cores)
    python scripts/mutants.py theory --sample 20

Each mutant is written to a temporary copy of the package, never to the working tree, and meets the
tests of its module. One that changes nothing that anyone could see survives; a comment on a line of
its statement says so and why: `# mutant: it commutes`, or `# 2 mutants: it is squared`. The exit
status is 1 if of some statement another number of mutants survives than it says.
"""

import argparse
import ast
import copy
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from functools import singledispatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "icl_gd"
LEFT_OUT = {"__init__", "_precision", "records", "setup"}
FILES = {path.stem: path for path in sorted(PACKAGE.rglob("*.py")) if path.stem not in LEFT_OUT}
LIMIT = 120  # seconds for the tests of one mutant; what takes longer counts as caught
WORKERS = 2
SLOW = "test_spread_seeds"
TESTED_TOO = {  # tests of a module beside its own
    "theory": ["spectral"], "moments": ["flow"], "fast": ["attention", "sequences"],
    "tasks": ["sequences"], "tokens": ["sequences"], "attention": ["sequences"],
    "descent": ["sequences"], "constructions": ["sequences"],
    "real": ["gguf", "tokenizer"], "_gguf": ["real"],
}  # fmt: skip
FAILED = re.compile(r"^FAILED \S+?::(.+?)(?: - .*)?$", re.MULTILINE)
MARK = re.compile(r"# (?:mutant|(\d+) mutants): \S")

# What is not mutated, by module: functions and names, or keywords of calls.
SKIPPED_BODIES = {"plots": {"use_style"}}  # taste: sizes and colours of the page
SKIPPED_NAMES = {"plots": {"ROLES", "TWO_PANELS", "WIDTH"}}  # the same; a test holds the palette
SKIPPED_KEYWORDS = {  # widths, transparency and placement
    "plots": {
        "alpha", "lw", "linewidth", "ms", "markevery", "shrink", "handlelength", "ncols",
        "bbox_to_anchor", "loc", "zorder",
    },
}  # fmt: skip

BINARY = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult], ast.Mod: [ast.Mult],
}  # fmt: skip
COMPARE = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "mean": "sum", "sum": "mean", "all": "any", "any": "all",
    "ones": "zeros", "zeros": "ones", "add": "subtract", "argmax": "argmin", "T": None, "mT": None,
}  # fmt: skip


@singledispatch
def changes(node):
    """What a node may be replaced by, one small change each."""
    return ()


@changes.register
def _(node: ast.BinOp):
    for op in BINARY.get(type(node.op), []):
        yield ast.BinOp(node.left, op(), node.right)
    if isinstance(node.op, (ast.MatMult, ast.Sub, ast.Div, ast.Pow)):
        yield ast.BinOp(node.right, node.op, node.left)


@changes.register
def _(node: ast.UnaryOp):
    if isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand


@changes.register
def _(node: ast.Constant):
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(2 * value if value else 1.0)


@changes.register
def _(node: ast.Compare):
    for i, op in enumerate(node.ops):
        for other in COMPARE.get(type(op), []):
            ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)


@changes.register
def _(node: ast.BoolOp):
    yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    yield from node.values


@changes.register
def _(node: ast.IfExp):
    yield ast.IfExp(node.test, node.orelse, node.body)


@changes.register
def _(node: ast.Attribute):
    if node.attr in NAMES:
        other = NAMES[node.attr]
        yield ast.Attribute(node.value, other, node.ctx) if other else node.value


@changes.register
def _(node: ast.Name):
    if node.id in ("min", "max", "all", "any"):
        yield ast.Name(NAMES[node.id], node.ctx)


@changes.register
def _(node: ast.Slice):
    for side in ("lower", "upper"):
        bound = getattr(node, side)
        if bound is not None:
            yield ast.Slice(**{"lower": node.lower, "upper": node.upper, side: None})
            if not isinstance(bound, ast.Constant):
                moved = ast.BinOp(bound, ast.Add(), ast.Constant(1))
                yield ast.Slice(**{"lower": node.lower, "upper": node.upper, side: moved})


@changes.register
def _(node: ast.Call):
    if len(node.args) > 1:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        if not any(isinstance(arg, ast.Starred) for arg in swapped):
            yield ast.Call(node.func, swapped, node.keywords)


@changes.register
def _(node: ast.If):
    yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


@changes.register
def _(node: ast.Expr):
    if isinstance(node.value, ast.Call):
        yield ast.Pass()


def places(node, module, path=()):
    """Paths to all nodes that may be changed: no docstring, annotation, import or message.

    Nor an index of a shape: many arrays are square or have one axis.
    """
    yield path
    of_shape = isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "shape"
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "ctx"):
            continue
        if of_shape and field == "slice":
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Import, ast.ImportFrom)):
                continue
            if isinstance(child, (ast.Raise, ast.JoinedStr)) or left_out(child, module):
                continue
            step = field, i if isinstance(value, list) else None
            yield from places(child, module, (*path, step))


def left_out(node, module):
    targets = getattr(node, "targets", [])
    return (
        (isinstance(node, ast.FunctionDef) and node.name in SKIPPED_BODIES.get(module, ()))
        or (isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS.get(module, ()))
        or any(ast.unparse(target) in SKIPPED_NAMES.get(module, ()) for target in targets)
        or (isinstance(node, ast.AnnAssign) and node.value is None)
    )


def at(tree, path):
    for field, i in path:
        tree = getattr(tree, field) if i is None else getattr(tree, field)[i]
    return tree


def put(tree, path, node):
    *above, (field, i) = path
    parent = at(tree, above)
    if i is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[i] = node


def short(node):
    return ast.unparse(ast.fix_missing_locations(node)).split("\n")[0]


def described(tree, mutant, path):
    """The change with enough around it to be recognised, within one statement."""
    while len(short(at(tree, path))) < 20 and not isinstance(at(tree, path[:-1]), ast.stmt):
        path = path[:-1]
    return f"{short(at(tree, path))} -> {short(at(mutant, path))}"


class Job(NamedTuple):
    """The source of a module, as it is (line 0) or with a change on a line of a statement."""

    module: str
    line: int
    statement: int
    function: int  # the line on which it begins
    change: str
    source: str


def owners(tree, kind):
    """The line on which the innermost node of a kind begins that each line belongs to."""
    owner = {}
    for node in ast.walk(tree):  # from the outside in
        if isinstance(node, kind):
            owner.update(dict.fromkeys(range(node.lineno, node.end_lineno + 1), node.lineno))
    return owner


def mutants(module, text):
    """All changes of a module's text, each once."""
    tree = ast.parse(text)
    statement, seen = owners(tree, ast.stmt), {ast.unparse(tree)}
    function = owners(tree, ast.FunctionDef)
    for path in places(tree, module):
        node = at(tree, path)
        for i in range(len(list(changes(node)))):
            mutant = copy.deepcopy(tree)
            put(mutant, path, list(changes(at(mutant, path)))[i])
            source = ast.unparse(ast.fix_missing_locations(mutant))
            if source not in seen:
                seen.add(source)
                change = described(tree, mutant, path)
                line = node.lineno
                yield Job(module, line, statement[line], function.get(line, 0), change, source)


def marks(module, text):
    """How many survivors each statement says that it has, by module and line."""
    owner, found = owners(ast.parse(text), ast.stmt), Counter()
    for line, code in enumerate(text.splitlines(), 1):
        if mark := MARK.search(code):
            found[module, owner.get(line, line)] += int(mark[1] or 1)
    return found


def contradictions(survivors, marked, whole):
    """Where survivors and marks disagree; a sample of the mutants may well miss some survivors."""
    survive = Counter((job.module, job.statement) for job in survivors)
    for module, line in sorted(survive | marked):
        found, known = survive[module, line], marked[module, line]
        if found > known or (whole and found < known):
            yield f"{module}.py:{line}: {found} of its mutants survive, {known} are marked"


class Hurry:
    """Tests that have caught mutants of the same function come first; one example is enough.

    What starts processes of its own comes last.
    """

    def __init__(self, first):
        self.first = first

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: (item.name not in self.first, item.name.startswith(SLOW)))

    def pytest_configure(self):  # after conftest.py, which sets a profile
        from hypothesis import Phase, settings

        settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")


def meet_tests(module, source, first, folder):
    """In a process of its own: the tests of a module run on a mutant of it. 0 if all pass."""
    shutil.copytree(PACKAGE, folder / "icl_gd", ignore=shutil.ignore_patterns("__pycache__"))
    mutated = folder / "icl_gd" / FILES[module].relative_to(PACKAGE)
    mutated.write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)  # for tests that start a Python of their own
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import pytest

    where = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    half_written = "ignore:Error reading persistent compilation cache:UserWarning"  # by the other
    options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-W", half_written, *where]
    meet = lambda *more: pytest.main([*options, *more], plugins=[Hurry(first)])
    test = lambda name: ROOT / "tests" / f"test_{name}.py"
    own = map(test, [module.lstrip("_"), *TESTED_TOO.get(module, [])])
    whom = [] if module.startswith("_") else ["-k", f"{module}."]  # of all mistakes, its own
    code = meet(*filter(Path.exists, own)) or meet(*whom, test("bad_input"))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def start(module, source, first, work):
    folder = Path(tempfile.mkdtemp(dir=work))
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = 3
        try:
            code = int(meet_tests(module, source, first, folder))
        finally:
            os._exit(code)
    return process, folder


def run(jobs, report, work):
    """Runs all jobs on a few processes at a time; reports each with its exit status."""
    running, jobs = {}, iter(jobs)
    caught_by = defaultdict(set)
    try:
        supervise(running, jobs, caught_by, report, work)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def supervise(running, jobs, caught_by, report, work):
    while True:
        while len(running) < WORKERS and (job := next(jobs, None)):
            first = caught_by[job.module, job.function]
            process, folder = start(job.module, job.source, first, work)
            running[process] = job, folder, time.monotonic() + (LIMIT if job.line else float("inf"))
        if not running:
            return
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in running:
            job, folder, _ = running.pop(process)
            log = (folder / "log").read_text(encoding="utf-8", errors="replace")
            shutil.rmtree(folder, ignore_errors=True)
            caught_by[job.module, job.function].update(FAILED.findall(log))
            report(job, os.waitstatus_to_exitcode(status), log)
            continue
        for process, (_, _, end) in running.items():
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


class Tally:
    """What has become of the jobs so far, printed as it goes on."""

    def __init__(self, jobs):
        self.jobs, self.done, self.caught, self.survivors = jobs, 0, 0, []
        self.started = time.monotonic()

    def report(self, job, status, log):
        self.done += 1
        if job.line == 0:
            if status != 0:
                sys.exit(f"{log}\nThe tests of {job.module} fail on the module as it is.")
        elif status == 0:
            self.survivors.append(job)
            print(f"\r\033[Ksurvives  {job.module}.py:{job.line}: {job.change}")
        else:
            self.caught += 1
        spent = self.seconds()
        left = spent / self.done * (len(self.jobs) - self.done)
        progress = f"{self.done}/{len(self.jobs)}  {job.module}  {spent:.0f} s, {left:.0f} s left"
        print(f"\r\033[K{progress}", end="", flush=True)

    def seconds(self):
        return time.monotonic() - self.started

    def summary(self):
        caught, survive = self.caught, len(self.survivors)
        total = f"{caught + survive} mutants: {caught} caught, {survive} survive"
        return f"{total} ({self.seconds():.0f} s)"


def gather(modules, sample):
    """The jobs of all modules, or a sample of each, and the marks in their sources."""
    jobs, marked = [], Counter()
    for module in modules:
        text = FILES[module].read_text(encoding="utf-8")
        found = list(mutants(module, text))
        if sample and sample < len(found):
            found = sorted(random.Random(0).sample(found, sample))
        jobs += [Job(module, 0, 0, 0, "the module as it is", text), *found]
        marked |= marks(module, text)
    return jobs, marked


def prepare(work):
    """Imports what then need not be imported for every mutant.

    None of it starts a thread or reads the package; what JAX compiles for one mutant the next finds
    on disk.
    """
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    sys.dont_write_bytecode = True
    names = "jax optax matplotlib.pyplot hypothesis beartype nbformat pytest"
    for name in names.split():
        __import__(name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="?", choices=FILES, help="one module (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="N at random of each module")
    options = parser.parse_args()
    jobs, marked = gather([options.module] if options.module else FILES, options.sample)
    tally = Tally(jobs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that it clears up
    work = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        prepare(work)
        run(jobs, tally.report, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    wrong = list(contradictions(tally.survivors, marked, whole=not options.sample))
    print(f"\r\033[K{tally.summary()}", *wrong, sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
