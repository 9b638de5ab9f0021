"""Change the package, one sign, factor or index at a time, and see whether the tests fail.

    python scripts/mutants.py                    all modules (about half an hour on two cores)
    python scripts/mutants.py theory --sample 20

Each mutant is written to a temporary copy of the package, never to the working tree, and meets the
tests of its module. Survivors are listed with their place and change. The exit status is 1 if one
of them is not among EQUIVALENT, where each has a reason.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "icl_gd"
MODULES = [
    "_require", "tasks", "corpus", "tokens", "attention", "induction", "descent",
    "constructions", "theory", "flow", "training", "measures", "plots", "views", "claims",
]  # fmt: skip
LIMIT = 120  # seconds for the tests of one mutant; what takes longer counts as caught
WORKERS = 2

# Survivors that change nothing that anyone could see, each with its reason. An entry that no mutant
# meets is an error in a full run.
# fmt: off
EQUIVALENT = {
    ("_require", "zip(given, expected, strict=True)"
     " -> zip(given, expected, strict=False)"): "lengths agree there",
    ("tokens", "task.y_query.shape[0] -> task.y_query.shape[-1]"): "it has one axis",
    ("tokens", "task.x_query.shape[0] -> task.x_query.shape[-1]"): "it has one axis",
    ("tokens", "prompt.query.shape[0] -> prompt.query.shape[-1]"): "it has one axis",
    ("attention", "prompt.query.shape[0] -> prompt.query.shape[-1]"): "it has one axis",
    ("attention", "along(onto_phi(pv[-1])) @ along(onto_phi(kq @ at_query))"
     " -> along(onto_phi(kq @ at_query)) @ along(onto_phi(pv[-1]))"): "it commutes",
    ("attention", "jnp.clip(e, -clip, clip) -> jnp.clip(-clip, e, clip)"): "a maximum commutes",
    ("induction", "heads.bias.shape[-1] -> heads.bias.shape[1]"): "it has two axes",
    ("induction", "jnp.maximum(distance, 0) -> jnp.maximum(0, distance)"): "it commutes",
    ("induction", "jnp.maximum(distance, 0) -> jnp.maximum(distance, -1)"):
        "negative distances are masked",
    ("descent", "jnp.sum((x @ w.T - y) ** 2, axis=1)"
     " -> jnp.sum((y - x @ w.T) ** 2, axis=1)"): "it is squared",
    ("constructions", "layer.query.shape[-1] -> layer.query.shape[1]"): "it is square",
    ("constructions", "layer.query.shape[-1] -> layer.query.shape[-2]"): "it is square",
    ("constructions", "layer.query.shape[-1] -> layer.query.shape[-0]"): "it is square",
    ("constructions", "jnp.eye(kq.shape[0], dtype=kq.dtype)"
     " -> jnp.eye(kq.shape[1], dtype=kq.dtype)"): "it is square",
    ("constructions", "jnp.eye(kq.shape[0], dtype=kq.dtype)"
     " -> jnp.eye(kq.shape[-1], dtype=kq.dtype)"): "it is square",
    ("training", "optax.apply_updates(params, updates)"
     " -> optax.apply_updates(updates, params)"): "a sum commutes",
    ("measures", "predictions - tasks.y_query -> tasks.y_query - predictions"): "it is squared",
    ("measures", "jnp.sum((predictions - tasks.y_query) ** 2, axis=-1)"
     " -> jnp.sum((predictions - tasks.y_query) ** 2, axis=1)"): "it has two axes",
    ("measures", "jnp.linalg.norm(a - b) -> jnp.linalg.norm(b - a)"): "a norm has no sign",
    ("measures", "model(task) - other(task) -> other(task) - model(task)"): "a norm has no sign",
    # sbs is symmetric, and a product of two vectors commutes.
    ("theory", "p_x @ sbs @ p_x + 2 * p_y * s_trace * (p_x @ q_x @ q_y)"
     " -> p_x @ (p_x @ sbs) + 2 * p_y * s_trace * (p_x @ q_x @ q_y)"): "the same number",
    ("theory", "p_x @ sbs @ p_x + 2 * p_y * s_trace * (p_x @ q_x @ q_y)"
     " -> sbs @ p_x @ p_x + 2 * p_y * s_trace * (p_x @ q_x @ q_y)"): "the same number",
    ("theory", "2 * p_y * s_trace * (p_x @ q_x @ q_y)"
     " -> 2 * p_y * s_trace * (q_y @ (p_x @ q_x))"): "the same number",
    ("plots", "figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.8, ticks=ticks)"
     " -> figure.colorbar(axes[-1].images[0], ax=list(axes), shrink=0.8, ticks=ticks)"):
        "all axes have the same limits",
    ("plots", "figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.8, ticks=ticks)"
     " -> figure.colorbar(axes[0].images[-1], ax=list(axes), shrink=0.8, ticks=ticks)"):
        "they have one image",
    ("plots", "ax.images[0].get_array -> ax.images[-1].get_array"): "they have one image",
    ("plots", "zip(x, y, moved, strict=True) -> zip(x, y, moved, strict=False)"):
        "lengths agree there",
    ("corpus", "np.diff(at, prepend=-2) -> np.diff(at, prepend=-3)"): "the first is not in a run",
    ("corpus", "at[(at - run) % 2 == 0] -> at[(at + run) % 2 == 0]"): "the same parity",
    ("corpus", "at[(at - run) % 2 == 0] -> at[(run - at) % 2 == 0]"): "the same parity",
    ("corpus", "256 + merges -> 257 + merges"): "any base above the largest token will do",
    ("corpus", "256 + merges -> 255 + merges"): "any base above the largest token will do",
    ("flow", "jax.eval_shape(_moments, chunks[0])"
     " -> jax.eval_shape(_moments, chunks[-1])"): "all chunks have one shape",
    ("claims", "abs(measured - expected) -> abs(expected - measured)"): "it has no sign",
}
# fmt: on

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


def changes(node):
    """What a node may be replaced by, one small change each."""
    if isinstance(node, ast.BinOp):
        for op in BINARY.get(type(node.op), []):
            yield ast.BinOp(node.left, op(), node.right)
        if isinstance(node.op, (ast.MatMult, ast.Sub, ast.Div, ast.Pow)):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield ast.Constant(not value)
        elif isinstance(value, int):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        elif isinstance(value, float):
            yield ast.Constant(2 * value if value else 1.0)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARE.get(type(op), []):
                ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        for i in range(len(node.values)):
            yield node.values[i]
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        other = NAMES[node.attr]
        yield ast.Attribute(node.value, other, node.ctx) if other else node.value
    elif isinstance(node, ast.Name) and node.id in ("min", "max", "all", "any"):
        yield ast.Name(NAMES[node.id], node.ctx)
    elif isinstance(node, ast.Slice):
        for side in ("lower", "upper"):
            bound = getattr(node, side)
            if bound is not None:
                yield ast.Slice(**{"lower": node.lower, "upper": node.upper, side: None})
                if not isinstance(bound, ast.Constant):
                    moved = ast.BinOp(bound, ast.Add(), ast.Constant(1))
                    yield ast.Slice(**{"lower": node.lower, "upper": node.upper, side: moved})
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        if not any(isinstance(arg, ast.Starred) for arg in swapped):
            yield ast.Call(node.func, swapped, node.keywords)
    elif isinstance(node, ast.If):
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def places(node, module, path=()):
    """Paths to all nodes that may be changed: no docstring, annotation, import or message."""
    yield path
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "ctx"):
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


def mutants(module):
    """All (line, change, source) of a module."""
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    seen = {ast.unparse(tree)}
    for path in places(tree, module):
        node = at(tree, path)
        for i in range(len(list(changes(node)))):
            mutant = copy.deepcopy(tree)
            put(mutant, path, list(changes(at(mutant, path)))[i])
            source = ast.unparse(ast.fix_missing_locations(mutant))
            if source not in seen:
                seen.add(source)
                yield node.lineno, described(tree, mutant, path), source


class NoShrinking:
    """The first failing example is enough; conftest.py, which sets the profile, is read before."""

    def pytest_configure(self):
        from hypothesis import Phase, settings

        settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")


def meet_tests(module, source, folder):
    """In a process of its own: the tests of a module run on a mutant of it. 0 if all pass."""
    shutil.copytree(PACKAGE, folder / "icl_gd", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "icl_gd" / f"{module}.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import pytest

    names = [module.lstrip("_"), *({"theory": ["spectral"]}.get(module, []))]
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    where = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    half_written = "ignore:Error reading persistent compilation cache:UserWarning"  # by the other
    options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-W", half_written]
    options += [*where, *tests]
    return pytest.main(options, plugins=[NoShrinking()])


def start(module, source, work):
    folder = Path(tempfile.mkdtemp(dir=work))
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = 3
        try:
            code = int(meet_tests(module, source, folder))
        finally:
            os._exit(code)
    return process, folder


def run(jobs, report, work):
    """Runs all jobs on a few processes at a time; reports each with its exit status."""
    running, jobs = {}, iter(jobs)
    try:
        supervise(running, jobs, report, work)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def supervise(running, jobs, report, work):
    while True:
        while len(running) < WORKERS and (job := next(jobs, None)):
            process, folder = start(job[0], job[3], work)
            running[process] = job, folder, time.monotonic() + LIMIT
        if not running:
            return
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in running:
            job, folder, _ = running.pop(process)
            log = (folder / "log").read_text(encoding="utf-8", errors="replace")
            shutil.rmtree(folder, ignore_errors=True)
            report(job, os.waitstatus_to_exitcode(status), log)
            continue
        for process, (_, _, end) in running.items():
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="?", choices=MODULES, help="one module (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="N at random of each module")
    options = parser.parse_args()

    # What has been imported here need not be imported for every mutant. None of it starts a thread
    # or reads the package; what JAX compiles for one mutant the next finds on disk.
    work = Path(tempfile.mkdtemp(prefix="mutants-"))
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
    for name in (
        "jax",
        "optax",
        "matplotlib.pyplot",
        "hypothesis",
        "beartype",
        "nbformat",
        "pytest",
    ):
        __import__(name)

    jobs = []
    for module in [options.module] if options.module else MODULES:
        found = [(module, *mutant) for mutant in mutants(module)]
        if options.sample and options.sample < len(found):
            found = sorted(random.Random(0).sample(found, options.sample))
        original = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
        jobs += [(module, 0, "the module as it is", original), *found]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that it clears up
    started, done, caught, survivors, met = time.monotonic(), 0, 0, [], set()

    def report(job, status, log):
        nonlocal done, caught
        module, number, change, _ = job
        done += 1
        if number == 0:
            if status != 0:
                sys.exit(f"{log}\nThe tests of {module} fail on the module as it is.")
        elif status == 0:
            known = (module, change) in EQUIVALENT
            met.add((module, change))
            if not known:
                survivors.append(job)
            verdict = "equivalent" if known else "SURVIVES"
            print(f"\r\033[K{verdict}  {module}.py:{number}: {change}")
        else:
            caught += 1
        spent = time.monotonic() - started
        left = spent / done * (len(jobs) - done)
        print(f"\r\033[K{done}/{len(jobs)}  {module}  {spent:.0f} s, {left:.0f} s left", end="")
        sys.stdout.flush()

    try:
        run(jobs, report, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    unused = set() if options.module or options.sample else set(EQUIVALENT) - met
    tried = sum(job[1] > 0 for job in jobs)
    print(f"\r\033[K{tried} mutants: {caught} caught, {len(survivors)} survive, "
          f"{tried - caught - len(survivors)} known to be equivalent "
          f"({time.monotonic() - started:.0f} s)")  # fmt: skip
    for entry in unused:
        print(f"no mutant meets this entry of EQUIVALENT: {entry}")
    sys.exit(1 if survivors or unused else 0)


if __name__ == "__main__":
    main()
