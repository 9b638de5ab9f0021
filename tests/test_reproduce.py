"""Long runs: interrupted and resumed they are the uninterrupted run, and records stay whole."""

import inspect
import linecache
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reproduce

from icl_gd import attention, descent, measures, tasks, tokens, training
from icl_gd.book import records, setup

MARK = reproduce.fingerprint


@pytest.fixture(autouse=True)
def own_streams():
    """The checker does not know that a transposed array of keys holds other keys' data."""
    with jax.debug_key_reuse(False):
        yield


STREAM = 0


def noise(key, batch):
    return jnp.mean(jax.random.normal(key, (batch, 2)), axis=0)


def walk(
    steps=12, every=2, stretches=3, seeds=2, first=0, batch=1, power=2, rate=0.1, norm=1.0,
    what="a test",
):  # fmt: skip
    """The builder of a run that takes no time: two numbers that follow noise."""
    optimiser, trained = reproduce.adam(batch, rate, norm)
    return reproduce.Run(
        loss=lambda p, key: jnp.sum((p - noise(key, batch)) ** power),
        params=jnp.ones((seeds, 2))[first:],
        keys=jax.random.split(jax.random.key(STREAM), seeds)[first:],
        optimiser=optimiser,
        steps=steps,
        every=every,
        stretches=stretches,
        measures={"norm": jnp.linalg.norm, "path": lambda p: p},
        keep=lambda p, measured: {**measured, "last": p},
        setting={"what": what, "training": trained},
    )


def read(folder, monkeypatch):
    monkeypatch.setattr(records, "files", lambda package: folder)
    return records.load("run")


def make(folder, **changes):
    (folder / "recorded").mkdir(exist_ok=True, parents=True)
    mark = MARK(partial(walk, **changes))
    reproduce.make("run", walk(**changes), mark, folder / "recorded", folder / "unfinished")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder with the checkpoint of a seed that was interrupted in its second stretch."""
    real, calls = training.fit, []

    def fit(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(training, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
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
    make(tmp_path / "whole")
    calls = []

    def fit(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    real = training.fit
    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    assert not list((tmp_path / "cut" / "recorded").iterdir())
    monkeypatch.setattr(training, "fit", real)
    began = []
    monkeypatch.setattr(training, "fit", lambda *args: began.append(1) or real(*args))
    make(tmp_path / "cut")
    assert len(began) == 4  # the stretch that was missing, and the other seed
    whole = read(tmp_path / "whole", monkeypatch).data
    cut = read(tmp_path / "cut", monkeypatch).data
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name])


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
        lambda kept: kept.replace(b"['norm']", b"['nerm']"),
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

    def savez(file, **_):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(KeyboardInterrupt):
        make(begun)
    assert checkpoint.read_bytes() == before


def test_checkpoint_keeps_every_bit_and_random_keys(tmp_path):
    """An optimiser may draw, as that of ``optax.add_noise`` does, so a key is in its state."""
    key = jax.random.key(7, impl="rbg")[None]
    state = (optax.EmptyState(), {"key": key, "count": jnp.array([3])})
    params = jnp.array([[1 / 3, -0.0, 5e-324]]), jnp.array([[1e-40]], jnp.float32)
    now = reproduce.Progress(2, 0.1, params, state, {"loss": np.zeros((1, 3))})
    path = tmp_path / "run_0.npz"
    reproduce.save(path, "mark", now)
    like = jax.tree.map(jnp.zeros_like, now._replace(state=None))
    found = reproduce.resume(path, "mark", like._replace(state=state))
    assert found[:2] == (2, 0.1) and jax.tree.structure(found) == jax.tree.structure(now)
    found_key = found.state[1]["key"]
    assert found_key.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(found_key), jax.random.key_data(key))
    for kept, expected in zip(found.params, params, strict=True):
        assert kept.dtype == expected.dtype and kept.tobytes() == np.asarray(expected).tobytes()
    assert found.state[1]["count"] == 3 and found.measured["loss"].shape == (1, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 5.0},
        {"rate": 1e-3},
        {"norm": 5.0},
        {"batch": 1024},
        {"steps": 25_000},
        {"every": 1000},
        {"stretches": 50},
        {"seeds": 4},
        {"variance": 0.02},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_number_has_another_mark(change):
    run = reproduce.RUNS["five_layers"]
    assert MARK(partial(run, **change)) != MARK(run)


def test_no_two_runs_share_a_mark():
    assert len({MARK(run) for run in reproduce.RUNS.values()}) == len(reproduce.RUNS)


def written(folder, change=("", "")):
    """The mark of ``walk`` in a file of its own, where a piece of its text is another."""
    imports = "import jax\nimport jax.numpy as jnp\nimport reproduce"
    text = "\n\n".join([imports, f"STREAM = {STREAM}", *map(inspect.getsource, (noise, walk))])
    assert change[0] in text
    path = folder / "written.py"
    path.write_text(text.replace(*change))
    linecache.checkcache()
    return MARK(partial(runpy.run_path(str(path), run_name="written")["walk"]))


@pytest.mark.parametrize(
    "change",
    [
        ("- noise(key, batch)) **", "- 2 * noise(key, batch)) **"),
        ("jnp.mean(", "jnp.median("),
        ("optimiser=optimiser", "optimiser=reproduce.optax.sgd(rate)"),
        ("batch=1", "batch=2"),
        ("steps=12", "steps=24"),
        ("STREAM = 0", "STREAM = 1"),
        ("jnp.ones", "jnp.zeros"),
        ('"norm": jnp.linalg.norm', '"norm": jnp.sum'),
    ],
    ids=["loss", "data", "optimiser", "batch", "steps", "keys", "start", "measures"],
)
def test_other_code_has_another_mark(tmp_path, change):
    """Whether it stands in the builder or in what it names of its file."""
    assert written(tmp_path, change) != written(tmp_path)


def test_comments_and_layout_leave_the_mark(tmp_path):
    change = "        steps=steps,\n", "        steps = steps, # as many\n"
    assert written(tmp_path, change) == written(tmp_path) == MARK(partial(walk))


def test_other_mathematics_has_another_mark(tmp_path, monkeypatch):
    """Also where no trace of a loss would show it: in the loop over the steps."""
    before = MARK(partial(walk))
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        shutil.copytree(reproduce.PACKAGE, folder)
    module = other / "training.py"
    module.write_text(module.read_text().replace("jnp.arange(0, steps", "jnp.arange(1, steps"))
    for folder in (same, other):
        monkeypatch.setattr(reproduce, "PACKAGE", folder)
        assert (MARK(partial(walk)) == before) == (folder == same)


def test_another_precision_has_another_mark():
    before = MARK(partial(walk))
    with setup.x64(False):
        assert MARK(partial(walk)) != before
    with jax.default_matmul_precision("bfloat16"):
        assert MARK(partial(walk)) != before


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


def test_complete_seeds_are_recorded_at_once(tmp_path, monkeypatch):
    real, calls = training.fit, []

    def fit(*args):
        calls.append(1)
        if len(calls) == 5:  # in the second of three stretches of the second seed
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    found = read(tmp_path, monkeypatch)
    assert found.about["complete"] == "1 of 2 seeds"
    assert found.data["norm"].shape == (1, 7)
    make(tmp_path)
    assert len(calls) == 5 + 2
    both = read(tmp_path, monkeypatch)
    assert both.about["complete"] == "2 of 2 seeds"
    np.testing.assert_array_equal(both.data["norm"][:1], found.data["norm"])


def test_sine_step_is_descent_on_the_features():
    """The twin is written as a layer; here it is the step of ``descent``, with its gradient."""
    run = reproduce.RUNS["sine_published_gd"]()
    weights = jax.tree.map(lambda weight: 20 * weight[0], run.params)

    def by_descent(weights):
        def label(task):
            embed = partial(attention.features, weights["features"])
            prompt = jax.tree.map(embed, tokens.join(task))
            x, y = prompt.context[:, :-1], prompt.context[:, -1:]
            w = -0.1 * descent.gradient(jnp.zeros((1, 39)), x, y)
            return tokens.prediction(prompt, 1) + w @ prompt.query[:-1]

        keys = jax.vmap(lambda part: jax.random.split(part, 512))(jax.random.split(key, 4))
        batch = jax.vmap(lambda k: tasks.sine(k, 10, True))(keys.reshape(-1))
        return measures.mean_loss(label, batch)

    key = jax.random.key(5)
    (value, grads), (expected, slopes) = (
        jax.jit(jax.value_and_grad(f))(weights) for f in (lambda w: run.loss(w, key), by_descent)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for grad, slope in zip(*map(jax.tree.leaves, (grads, slopes)), strict=True):
        np.testing.assert_allclose(grad, slope, rtol=1e-3, atol=1e-5 * abs(slope).max())


@pytest.mark.parametrize(
    ("name", "depth", "recurrent"), [("five_layers", 5, False), ("ten_layers", 10, True)]
)
def test_deep_stacks_train_on_the_layers_one_after_another(name, depth, recurrent):
    run = reproduce.RUNS[name]()
    assert len(run.params) == (1 if recurrent else depth)
    layers = jax.tree.map(lambda weight: 100 * weight[0], run.params)

    def composed(layers):
        keys = jax.vmap(lambda part: jax.random.split(part, 256))(jax.random.split(key, 8))
        batch = jax.vmap(lambda k: tasks.regression(k, 10, 10))(keys.reshape(-1))
        every = [attention.products(layer) for layer in layers] * (depth // len(layers))
        return measures.mean_loss(lambda t: attention.predict(every, t, clip=10.0), batch)

    key = jax.random.key(5)
    (value, grads), (expected, slopes) = (
        jax.jit(jax.value_and_grad(f))(layers) for f in (lambda w: run.loss(w, key), composed)
    )
    assert value != pytest.approx(5 / 12, rel=0.02)  # the layers predict something
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for grad, slope in zip(*map(jax.tree.leaves, (grads, slopes)), strict=True):
        np.testing.assert_allclose(grad, slope, rtol=1e-3, atol=1e-5 * abs(slope).max())


def test_each_seed_is_its_own_run(tmp_path, monkeypatch):
    make(tmp_path / "both")
    make(tmp_path / "one", first=1)
    both, alone = (read(tmp_path / name, monkeypatch).data["norm"] for name in ("both", "one"))
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5)
    assert abs(both[0] - both[1]).max() > 1e-3


each_run = pytest.mark.parametrize("name", list(reproduce.RUNS))


@each_run
def test_each_run_starts(name, tmp_path):
    """Every long run can be built, measured and recorded: a few steps of two seeds.

    In single precision, as the script runs them.
    """
    short = partial(reproduce.RUNS[name], steps=2, every=1, stretches=1, seeds=2)
    with setup.x64(False):
        reproduce.make(name, short(), "mark", tmp_path, tmp_path / "unfinished")
    stored = (tmp_path / f"{name}.json").stat().st_size
    assert stored < 2e6


@each_run
def test_record_is_that_of_the_run(name):
    """It has the run's seeds and points, and tells nothing that the run's numbers do not."""
    run, record = reproduce.RUNS[name](), records.load(name)
    assert run.steps % run.stretches == 0 and run.steps // run.stretches % run.every == 0
    np.testing.assert_array_equal(record.data["at"], range(0, run.steps + 1, run.every))
    recorded = next(values for values in record.data.values() if values.ndim > 1)
    assert len(recorded) == len(run.keys)
    for part, told in run.setting.items():
        assert set(record.about[part].split(", ")) <= set(told.split(", "))


def test_every_record_can_be_made_again():
    recorded = {path.stem for path in reproduce.RECORDED.glob("*.json")}
    measured = {"causal_cost": "python benchmarks/causal.py --save"}
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
    monkeypatch.setattr(reproduce, "RUNS", {name: partial(walk) for name in names})
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    expected = MARK(partial(walk))
    reproduce.main(names)
    assert made == [(name, expected) for name in names]
