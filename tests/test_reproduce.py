"""Long runs: interrupted and resumed they are the uninterrupted run, and records stay whole."""

import ast
import inspect
import json
import linecache
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reproduce

from icl_gd import attention, corpus, descent, measures, real, tasks, tokens, training
from icl_gd.book import records, setup

MARK = reproduce.fingerprint


@pytest.fixture(autouse=True)
def own_streams():
    """The checker does not know that a transposed array of keys holds other keys' data."""
    with jax.debug_key_reuse(False):
        yield
    reproduce.code.cache_clear()


def narrow(model):
    """The model's layers and heads on a few of its numbers."""
    width, size, hidden = slice(32), slice(8), slice(16)
    layer = model.layers
    return model._replace(
        embed=model.embed[:, width],
        layers=real.Layer(
            norm=layer.norm[:, width],
            query=layer.query[..., size, width],
            key=layer.key[..., size, width],
            value=layer.value[..., size, width],
            output=layer.output[..., width, size],
            norm_mlp=layer.norm_mlp[:, width],
            gate=layer.gate[:, hidden, width],
            up=layer.up[:, hidden, width],
            down=layer.down[:, width, hidden],
        ),
        norm=model.norm[width],
        turn=model.turn[:, : size.stop // 2],
    )


@pytest.fixture
def small(request, monkeypatch):
    """What runs are made of, smaller: few tasks, few modules to read, a narrow model."""
    some = lambda run: run.draw(jax.random.key(0), 1000)
    monkeypatch.setattr(reproduce.Run, "evaluation", some)
    monkeypatch.setattr(reproduce, "library", few_modules)
    if isinstance(reproduce.RUNS[request.node.callspec.params["name"]], reproduce.Measured):
        model, tokenizer = request.getfixturevalue("smollm")
        monkeypatch.setattr(reproduce, "pretrained", lambda: (narrow(model), tokenizer))


@cache
def few_modules(merges):
    whole = corpus.standard_library()
    few = (dict(list(part.items())[:count]) for part, count in zip(whole, (12, 6), strict=True))
    return corpus.encoded(corpus.Library(*few), merges)


STREAM = 3


def noise(key):
    return jax.random.normal(jax.random.fold_in(key, STREAM), (2,))


@dataclass(frozen=True, kw_only=True)
class Walk(reproduce.Run):
    """A run that takes no time: two numbers that follow noise."""

    power: int = 2
    steps: int = 12
    every: int = 2
    stretches: int = 3
    seeds: int = 2
    batch: int = 1
    rate: float = 0.1
    norm: float = 1.0

    def sample(self, key):
        return noise(key)

    def start(self, key):
        return jnp.ones(2)

    def loss_on(self, weights, drawn):
        return jnp.sum((weights - jnp.mean(drawn, axis=0)) ** self.power)

    def measures(self):
        return {"norm": jnp.linalg.norm, "path": lambda p: p}

    def keep(self, weights, measured):
        return {**measured, "last": weights}

    def told(self):
        return {"what": "a test"}


def read(folder, monkeypatch):
    monkeypatch.setattr(records, "files", lambda package: folder)
    return records.load("run")


def make(folder, **changes):
    (folder / "recorded").mkdir(exist_ok=True, parents=True)
    run = Walk(**changes)
    reproduce.make("run", run, MARK(run), folder / "recorded", folder / "unfinished")


def interrupted(folder, monkeypatch, after):
    """The run of that folder, as far as it gets in so many stretches."""
    real, calls = training.fit, []

    def fit(*args):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(training, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            make(folder)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder with the checkpoint of a seed that was interrupted in its second stretch."""
    interrupted(tmp_path, monkeypatch, 1)
    return tmp_path


def test_record_has_every_point_once(tmp_path, monkeypatch, capsys):
    make(tmp_path)
    found = read(tmp_path, monkeypatch)
    np.testing.assert_array_equal(found.data["at"], [0, 2, 4, 6, 8, 10, 12])
    assert found.data["norm"].shape == (2, 7)
    np.testing.assert_allclose(found.data["path"][:, 0], 1)
    np.testing.assert_allclose(found.data["path"][:, -1], found.data["last"])
    assert len({tuple(row) for row in found.data["path"][0]}) == 7
    assert found.about["command"] == "python scripts/reproduce.py run"
    assert found.about["what"] == "a test"
    assert (
        found.about["training"] == "batch 1, Adam (0.9, 0.98) at 1e-1, gradients clipped to norm 1"
    )
    assert not list((tmp_path / "unfinished").iterdir())
    assert found.about["complete"] == "2 of 2 seeds"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "run: seed 2/2, 3/3, 0 min left of this seed"


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    """In the middle of a seed and in that of another, whose record then has the first alone."""
    make(tmp_path / "whole")
    whole, cut = read(tmp_path / "whole", monkeypatch), tmp_path / "cut"
    interrupted(cut, monkeypatch, 2)
    assert not list((cut / "recorded").iterdir())
    interrupted(cut, monkeypatch, 2)
    found = read(cut, monkeypatch)
    assert found.about["complete"] == "1 of 2 seeds"
    for name in set(whole.data) - {"at"}:
        np.testing.assert_array_equal(found.data[name], whole.data[name][:1])
    real, calls = training.fit, []
    monkeypatch.setattr(training, "fit", lambda *args: calls.append(1) or real(*args))
    make(cut)
    assert len(calls) == 2  # the last stretches of the second seed
    found = read(cut, monkeypatch)
    assert found.about["complete"] == "2 of 2 seeds"
    for name in whole.data:
        np.testing.assert_array_equal(found.data[name], whole.data[name])


def test_another_runs_checkpoint_is_refused(begun):
    checkpoint = begun / "unfinished" / "run_0.npz"
    before = checkpoint.read_bytes()
    with pytest.raises(SystemExit, match=r"run_0\.npz is the checkpoint of another run; delete it"):
        make(begun, rate=0.2)
    assert checkpoint.read_bytes() == before
    make(begun)


@pytest.mark.parametrize(
    "broken",
    [
        lambda kept: b"",
        lambda kept: b"no archive",
        lambda kept: kept[: len(kept) // 2],
        lambda kept: kept.replace(b"arr_2", b"arr_9"),
        lambda kept: kept.replace(b"\x00\x00\x80?", b"\x00\x00\x81?").replace(
            b"\x00\x00\xf0?", b"\x00\x00\xf1?"
        ),
    ],
    ids=["empty", "other", "cut", "name", "number"],
)
def test_broken_checkpoint_is_refused(begun, broken):
    checkpoint = begun / "unfinished" / "run_0.npz"
    before = checkpoint.read_bytes()
    checkpoint.write_bytes(broken(before))
    assert checkpoint.read_bytes() != before
    with pytest.raises(SystemExit, match=r"run_0\.npz is broken \(.*\); delete it"):
        make(begun)


def test_interrupted_writing_leaves_the_old_checkpoint(begun, monkeypatch):
    checkpoint = begun / "unfinished" / "run_0.npz"
    before = checkpoint.read_bytes()

    def savez(file, *_, **__):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(KeyboardInterrupt):
        make(begun)
    assert checkpoint.read_bytes() == before


def test_checkpoint_keeps_every_bit(tmp_path):
    state = (optax.EmptyState(), {"count": jnp.array([3])})
    weights = jnp.array([[1 / 3, -0.0, 5e-324]]), jnp.array([[1e-40]], jnp.float32)
    now = reproduce.Progress(2, 0.1, weights, state, {"loss": np.zeros((1, 3))})
    path = tmp_path / "run_0.npz"
    reproduce.save(path, "mark", now)
    found = reproduce.resume(path, "mark", jax.tree.map(jnp.zeros_like, now))
    assert found[:2] == (2, 0.1) and jax.tree.structure(found) == jax.tree.structure(now)
    for kept, expected in zip(*map(jax.tree.leaves, (found[2:], now[2:])), strict=True):
        expected = np.asarray(expected)
        assert (kept.dtype, kept.shape) == (expected.dtype, expected.shape)
        assert kept.tobytes() == expected.tobytes()


@pytest.mark.parametrize("field", [field.name for field in fields(reproduce.Deep)])
def test_another_number_has_another_mark(field):
    run = reproduce.RUNS["five_layers"]
    assert MARK(replace(run, **{field: getattr(run, field) + 1})) != MARK(run)


def test_no_two_runs_share_a_mark():
    assert len({MARK(run) for run in reproduce.RUNS.values()}) == len(reproduce.RUNS)


def written(folder, monkeypatch, change=("", "")):
    """The mark of ``Walk`` in a file of its own, where a piece of its text is another."""
    imports = "import jax\nimport jax.numpy as jnp\nimport reproduce\nfrom dataclasses import *"
    text = "\n\n".join([imports, f"STREAM = {STREAM}", *map(inspect.getsource, (noise, Walk))])
    assert change[0] in text
    path = folder / "written.py"
    path.write_text(text.replace(*change))
    linecache.checkcache()
    module = ModuleType("written")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "written", module)
    exec(compile(path.read_text(), path, "exec"), vars(module))
    return MARK(module.Walk())


@pytest.mark.parametrize(
    "change",
    [
        ("weights - jnp", "2 * weights - jnp"),
        ("jax.random.normal", "jax.random.laplace"),
        ("batch: int = 1", "batch: int = 2"),
        ("steps: int = 12", "steps: int = 24"),
        ("STREAM = 3", "STREAM = 4"),
        ("jnp.ones", "jnp.zeros"),
        ('"norm": jnp.linalg.norm', '"norm": jnp.sum'),
    ],
    ids=["loss", "data", "batch", "steps", "keys", "start", "measures"],
)
def test_other_code_has_another_mark(tmp_path, monkeypatch, change):
    """Whether it stands in the class or in what it names of its file."""
    assert written(tmp_path, monkeypatch, change) != written(tmp_path, monkeypatch)


@pytest.mark.parametrize("part", ["draw", "loss", "optimiser", "keys"])
def test_other_code_beneath_all_runs_has_another_mark(monkeypatch, part):
    """As ``inspect`` would read it, of the class that all runs have in common."""
    before, source = MARK(Walk()), inspect.getsource
    body = source(getattr(reproduce.Run, part)).splitlines()[-1]
    other = lambda code: source(code).replace(body, body + "  or None")
    monkeypatch.setattr(inspect, "getsource", other)
    reproduce.code.cache_clear()
    assert MARK(Walk()) != before


def test_comments_and_layout_leave_the_mark(tmp_path, monkeypatch):
    change = "    power: int = 2\n", "    power : int=2 # as many\n"
    assert written(tmp_path, monkeypatch, change) == written(tmp_path, monkeypatch) == MARK(Walk())


def test_other_mathematics_has_another_mark(tmp_path, monkeypatch):
    """Also where no trace of a loss would show it: in the loop over the steps."""
    before = MARK(Walk())
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        shutil.copytree(reproduce.PACKAGE, folder)
    module = other / "training.py"
    module.write_text(module.read_text().replace("jnp.arange(0, steps", "jnp.arange(1, steps"))
    for folder in (same, other):
        monkeypatch.setattr(reproduce, "PACKAGE", folder)
        assert (MARK(Walk()) == before) == (folder == same)


def test_another_precision_has_another_mark():
    before = MARK(Walk())
    with setup.x64(False):
        assert MARK(Walk()) != before
    with jax.default_matmul_precision("bfloat16"):
        assert MARK(Walk()) != before


def test_another_process_finds_the_same_marks():
    program = (
        "import reproduce\n"
        "reproduce.setup.begin()\n"
        "print(*map(reproduce.fingerprint, reproduce.RUNS.values()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True,
        cwd=Path(reproduce.__file__).parent,
    )  # fmt: skip
    with setup.x64(False), jax.default_matmul_precision("highest"):
        assert found.stdout.split() == [*map(MARK, reproduce.RUNS.values())]


def agrees(run, weights, model, sample, parts, count):
    """The run's loss and gradient are those of a model on as many parts of so many tasks."""

    def mean_loss(weights):
        keys = jax.vmap(lambda part: jax.random.split(part, count))(jax.random.split(key, parts))
        return measures.mean_loss(model(weights), jax.vmap(sample)(keys.reshape(-1)))

    key = jax.random.key(5)
    (value, grads), (expected, slopes) = (
        jax.jit(jax.value_and_grad(f))(weights) for f in (lambda w: run.loss(w, key), mean_loss)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for grad, slope in zip(*map(jax.tree.leaves, (grads, slopes)), strict=True):
        np.testing.assert_allclose(grad, slope, rtol=1e-3, atol=1e-5 * abs(slope).max())
    return value


def test_sine_step_is_descent_on_the_features():
    """The twin is written as a layer; here it is the step of ``descent``, with its gradient."""
    run = reproduce.RUNS["sine_published_gd"]
    weights = jax.tree.map(lambda weight: 20 * weight, run.start(jax.random.key(1)))

    def by_descent(weights):
        def label(task):
            embed = lambda e: attention.features(weights["features"], e)
            prompt = jax.tree.map(embed, tokens.join(task))
            x, y = prompt.context[:, :-1], prompt.context[:, -1:]
            w = -0.1 * descent.gradient(jnp.zeros((1, 39)), x, y)
            return tokens.prediction(prompt, 1) + w @ prompt.query[:-1]

        return label

    agrees(run, weights, by_descent, lambda key: tasks.sine(key, 10, True), 4, 512)


@pytest.mark.parametrize(
    ("name", "depth", "recurrent"), [("five_layers", 5, False), ("ten_layers", 10, True)]
)
def test_deep_stacks_train_on_the_layers_one_after_another(name, depth, recurrent):
    run = reproduce.RUNS[name]
    layers = jax.tree.map(lambda weight: 100 * weight, run.start(jax.random.key(1)))
    assert len(layers) == (1 if recurrent else depth)

    def composed(layers):
        every = [attention.products(layer) for layer in layers] * (depth // len(layers))
        return lambda task: attention.predict(every, task, clip=10.0)

    value = agrees(run, layers, composed, lambda key: tasks.regression(key, 10, 10), 8, 256)
    assert value != pytest.approx(5 / 12, rel=0.02)  # the layers predict something


def test_largest_network_trains_on_heads_and_mlps_one_after_another():
    run = reproduce.RUNS["twelve_layers"]
    weights = jax.tree.map(lambda weight: 20 * weight, run.start(jax.random.key(1)))
    hold = lambda prompt: jax.tree.map(lambda e: jnp.clip(e, -10.0, 10.0), prompt)

    attend = partial(attention.multi_head, attention.linear_attention)

    def layer(prompt, weights):
        heads, hidden, out = weights
        prompt = hold(attend(attention.products(heads), prompt))
        mlp = lambda e: e + jax.nn.gelu(e @ hidden.T) @ out.T
        return hold(jax.tree.map(mlp, prompt)), None

    def composed(weights):
        through = lambda prompt: jax.lax.scan(layer, prompt, weights)[0]
        return tokens.reader(through)

    value = agrees(run, weights, composed, lambda key: tasks.regression(key, 10, 10), 4, 128)
    assert value != pytest.approx(5 / 12, rel=0.02)


def test_undefined_cosines_are_recorded_as_zero(tmp_path):
    """A sensitivity of one task may be zero, and the mean cosine then is not a number."""
    run = replace(Walk(), seeds=1)
    found = reproduce.begin(run, 0)
    cosines = np.array([[[0.5, np.nan], [0.25, 0.75]]])
    found = found._replace(measured={**found.measured, "cosines": cosines})
    reproduce.write(tmp_path / "run.json", run, [found])
    kept = json.loads((tmp_path / "run.json").read_text())["data"]["cosines"]
    np.testing.assert_array_equal(kept, [[[0.5, 0.0], [0.25, 0.75]]])


def test_each_seed_is_its_own_run(tmp_path, monkeypatch):
    make(tmp_path)
    both, run = read(tmp_path, monkeypatch).data["norm"], Walk()
    alone = reproduce.begin(run, 1)
    for _ in range(run.stretches):
        alone = reproduce.stretch(run, 1, alone)
    np.testing.assert_allclose(both[1:], alone.measured["norm"], rtol=1e-5)
    assert abs(both[0] - both[1]).max() > 1e-3


each_run = pytest.mark.parametrize("name", list(reproduce.RUNS))


def like(run):
    """The first run that differs from this one in nothing but numbers within the same program."""
    plain = lambda run: replace(run, steps=2, every=1, stretches=1, seeds=2, share=0.5)
    alike = (name for name, other in SOURCES.items() if plain(other) == plain(run))
    return next(alike)


SOURCES = {name: run for name, run in reproduce.RUNS.items() if isinstance(run, reproduce.Source)}
TWINS = {name: like(run) for name, run in SOURCES.items() if like(run) != name}


@pytest.mark.parametrize("name", [name for name in reproduce.RUNS if name not in TWINS])
@pytest.mark.usefixtures("small")
def test_each_run_starts(name, tmp_path):
    """Every long run can be built, measured and recorded: two steps of one seed.

    In single precision, as the script runs them. (Several seeds are those of ``Walk``.)
    """
    run = reproduce.RUNS[name]
    few = {"sequences": 1, "windows": 2, "draws": 1, "length": 96}
    if isinstance(run, reproduce.Prompts):
        few |= {"designs": 2, "related": 1, "tasks": 2, "choose": 1}
    few = few if isinstance(run, reproduce.Measured) else {}
    batch = min(run.batch, 8 * run.parts)
    short = replace(run, steps=2, every=1, stretches=1, seeds=1, batch=batch, **few)
    with setup.x64(False):
        reproduce.make(name, short, "mark", tmp_path, tmp_path / "unfinished")
    stored = (tmp_path / f"{name}.json").stat().st_size
    assert stored < 2e6


def program(run):
    """What a run compiles, without the numbers in it; and the form of what it measures."""
    begun = reproduce.begin(run, 0)
    weights = jax.tree.map(lambda leaf: leaf[0], begun.weights)
    text = str(jax.make_jaxpr(run.loss)(weights, jax.random.key(0)))
    return re.sub(r"\b\d+\.\d+(e[-+]?\d+)?", "number", text), jax.tree.map(np.shape, begun.measured)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.usefixtures("small")
def test_a_run_with_another_share_starts_as_its_twin_does(name):
    """It is the same program with another number in it."""
    short = lambda name: replace(reproduce.RUNS[name], steps=2, every=1, stretches=1, seeds=2)
    with setup.x64(False):
        assert program(short(name)) == program(short(TWINS[name]))
        assert program(short(name)) != program(replace(short(name), width=32))


@each_run
def test_record_is_that_of_the_run(name):
    """It has the run's seeds and points, and tells nothing that the run's numbers do not."""
    run, record = reproduce.RUNS[name], records.load(name)
    assert run.steps % run.stretches == 0 and run.steps // run.stretches % run.every == 0
    np.testing.assert_array_equal(record.data["at"], range(0, run.steps + 1, run.every))
    recorded = next(values for values in record.data.values() if values.ndim > 1)
    assert len(recorded) == run.seeds
    for part, told in run.setting().items():
        assert set(record.about[part].split(", ")) <= set(told.split(", "))


def test_every_record_can_be_made_again():
    recorded = {path.stem for path in reproduce.RECORDED.glob("*.json")}
    measured = {"causal_cost": "python benchmarks/causal.py --save"}
    devices = {"chunks_cpu", "chunks_gpu"} & recorded
    measured |= dict.fromkeys(devices, "python benchmarks/online.py --save")
    assert recorded == set(reproduce.RUNS) | set(measured)
    for name in recorded:
        about = records.load(name).about
        command = measured.get(name, f"python scripts/reproduce.py {name}")
        assert about["command"] == command and Path(command.split()[1]).exists()
        known = {"setting"} if name in measured else {"what", "training", "seeds"}
        assert known | {"date", "device", "jax"} <= set(about)


def test_unknown_run_is_named():
    with pytest.raises(SystemExit, match="no such run: walk; there are"):
        reproduce.main(["walk"])


def test_runs_have_the_marks_of_the_code_that_was_loaded(monkeypatch):
    """A file may be edited while the first of several runs takes its hours."""
    names, made = ["sine_published_gd", "ten_layers"], []

    def make(name, run, mark):
        made.append((name, mark))
        monkeypatch.setattr(reproduce, "fingerprint", None)

    monkeypatch.setattr(reproduce, "make", make)
    monkeypatch.setattr(reproduce, "RUNS", {name: Walk() for name in names})
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    expected = MARK(Walk())
    reproduce.main(names)
    assert made == [(name, expected) for name in names]


def test_the_record_of_prompts_has_the_words_of_its_page():
    notebook = (reproduce.ROOT / "book/real/learner.ipynb").read_text(encoding="utf-8")
    sources = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]
    (source,) = (s for s in sources if "NOUNS = [" in s)
    lists = [n for n in ast.parse(source).body if isinstance(n, ast.Assign)]
    (nouns,) = (n.value for n in lists if getattr(n.targets[0], "id", None) == "NOUNS")
    assert ast.literal_eval(nouns) == reproduce.NOUNS
