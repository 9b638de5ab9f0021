"""Long runs: interrupted and resumed they are the uninterrupted run, and records stay whole."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reproduce

from icl_gd import attention, descent, measures, tasks, tokens, training
from icl_gd.book import records, setup


@pytest.fixture(autouse=True)
def own_streams():
    """The checker does not know that a transposed array of keys holds other keys' data."""
    with jax.debug_key_reuse(False):
        yield


def a_run(**changes):
    loss = lambda p, key: jnp.sum((p - jax.random.normal(key, (2,))) ** 2)
    run = reproduce.Run(
        loss=loss,
        params=jnp.ones((2, 2)),
        keys=jax.random.split(jax.random.key(0), 2),
        optimiser=training.clipped_adam(0.1, 1.0),
        steps=12,
        every=2,
        stretches=3,
        measures={"norm": jnp.linalg.norm, "path": lambda p: p},
        keep=lambda p, measured: {**measured, "last": p},
        setting={"what": "a test"},
    )
    return run._replace(**changes)


def read(folder, monkeypatch):
    monkeypatch.setattr(records, "files", lambda package: folder)
    return records.load("run")


def make(folder, run):
    (folder / "recorded").mkdir(exist_ok=True, parents=True)
    reproduce.make("run", run, folder / "recorded", folder / "unfinished")


def test_record_has_every_point_once(tmp_path, monkeypatch, capsys):
    make(tmp_path, a_run())
    found = read(tmp_path, monkeypatch)
    np.testing.assert_array_equal(found.data["at"], [0, 2, 4, 6, 8, 10, 12])
    assert found.data["norm"].shape == (2, 7)
    np.testing.assert_allclose(found.data["path"][:, 0], 1)
    np.testing.assert_allclose(found.data["path"][:, -1], found.data["last"])
    assert len({tuple(row) for row in found.data["path"][0]}) == 7
    assert found.about["command"] == "python scripts/reproduce.py run"
    assert found.about["what"] == "a test"
    assert not list((tmp_path / "unfinished").iterdir())
    assert found.about["complete"] == "2 of 2 seeds"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "run: seed 2/2, 3/3, 0 min left of this seed"


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    make(tmp_path / "whole", a_run())
    calls = []

    def fit(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    real = training.fit
    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", a_run())
    assert not list((tmp_path / "cut" / "recorded").iterdir())
    monkeypatch.setattr(training, "fit", real)
    began = []
    monkeypatch.setattr(training, "fit", lambda *args: began.append(1) or real(*args))
    make(tmp_path / "cut", a_run())
    assert len(began) == 4  # the stretch that was missing, and the other seed
    whole = read(tmp_path / "whole", monkeypatch).data
    cut = read(tmp_path / "cut", monkeypatch).data
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name])


def test_another_setting_starts_again(tmp_path, monkeypatch):
    real, calls = training.fit, []

    def fit(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "fit", fit)
    for change in ({"steps": 24}, {"setting": {"what": "another"}}):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, a_run())
        run = a_run(**change)
        make(tmp_path, run)
        assert len(calls) == 2 + 2 * run.stretches


TARGET = jnp.array([1.0, 2.0])


def accumulated(params, key):
    return training.accumulated(lambda p, key: jnp.sum((p - TARGET) ** 2), 2)(params, key)


OTHERS = {
    "loss": lambda p, key: jnp.sum((p - jax.random.normal(key, (2,))) ** 4),
    "weight of the loss": lambda p, key: 2 * jnp.sum((p - jax.random.normal(key, (2,))) ** 2),
    "accumulated loss": accumulated,
}


@pytest.mark.parametrize(
    "change",
    [
        *({"loss": loss} for loss in OTHERS.values()),
        {"optimiser": training.clipped_adam(0.2, 1.0)},
        {"optimiser": training.clipped_adam(0.1, 2.0)},
        {"optimiser": optax.sgd(0.1)},
        {"measures": {"norm": lambda p: jnp.linalg.norm(p - TARGET), "path": lambda p: p}},
        {"params": 2 * jnp.ones((2, 2))},
        {"keys": jax.random.split(jax.random.key(1), 2)},
    ],
    ids=[*OTHERS, "rate", "clip", "optimiser", "measures", "start", "keys"],
)
def test_another_computation_has_another_mark(change):
    """Each of these would share a checkpoint if a mark were made of the setting's words alone."""
    assert reproduce.fingerprint(a_run(**change)) != reproduce.fingerprint(a_run())


def test_numbers_that_a_loss_closes_over_are_in_the_mark():
    toward = lambda target: a_run(loss=lambda p, key: jnp.sum((p - target) ** 2))
    one, other = (reproduce.fingerprint(toward(TARGET + change)) for change in (0.0, 1e-3))
    assert one != other


def test_the_same_computation_has_the_same_mark():
    """Though its functions are made anew and lie elsewhere in memory, which JAX may print."""

    def anew():
        alike = lambda p: p
        return a_run(measures={"same": lambda p: jax.pure_callback(alike, p, p)})

    runs = anew(), anew()
    assert "0x" in str(jax.make_jaxpr(runs[0].measures["same"])(TARGET))
    assert reproduce.fingerprint(runs[0]) == reproduce.fingerprint(runs[1])


def test_complete_seeds_are_recorded_at_once(tmp_path, monkeypatch):
    real, calls = training.fit, []

    def fit(*args):
        calls.append(1)
        if len(calls) == 5:  # in the second of three stretches of the second seed
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, a_run())
    found = read(tmp_path, monkeypatch)
    assert found.about["complete"] == "1 of 2 seeds"
    assert found.data["norm"].shape == (1, 7)
    make(tmp_path, a_run())
    assert len(calls) == 5 + 2
    both = read(tmp_path, monkeypatch)
    assert both.about["complete"] == "2 of 2 seeds"
    np.testing.assert_array_equal(both.data["norm"][:1], found.data["norm"])


def test_sine_step_is_descent_on_the_features():
    """The twin is written as a layer; here it is the step of ``descent``, with its gradient."""
    run = reproduce.sine(one_key=True, attends=False)
    weights = jax.tree.map(lambda weight: 20 * weight[0], run.params)

    def by_descent(weights):
        def label(task):
            prompt = attention.features(weights["features"], tokens.join(task))
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


@pytest.mark.parametrize(("depth", "recurrent"), [(5, False), (10, True)])
def test_deep_stacks_train_on_the_layers_one_after_another(depth, recurrent):
    run = reproduce.deep(depth, recurrent)
    assert len(run.params) == (1 if recurrent else depth)
    layers = jax.tree.map(lambda weight: 100 * weight[0], run.params)

    def composed(layers):
        keys = jax.vmap(lambda part: jax.random.split(part, 256))(jax.random.split(key, 8))
        batch = jax.vmap(lambda k: tasks.regression(k, 10, 10))(keys.reshape(-1))
        every = layers * (depth // len(layers))
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
    make(tmp_path / "both", a_run())
    one = a_run(params=jnp.ones((1, 2)), keys=jax.random.split(jax.random.key(0), 2)[1:])
    make(tmp_path / "one", one)
    both, alone = (read(tmp_path / name, monkeypatch).data["norm"] for name in ("both", "one"))
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5)
    assert abs(both[0] - both[1]).max() > 1e-3


@pytest.mark.parametrize("name", list(reproduce.RUNS))
def test_each_run_starts(name, tmp_path, monkeypatch):
    """Every long run can be built, measured and recorded: a few steps of two seeds.

    In single precision, as the script runs them.
    """
    with setup.x64(False):
        run = reproduce.RUNS[name]()
        assert run.steps % run.stretches == 0 and run.steps // run.stretches % run.every == 0
        params = jax.tree.map(lambda leaf: leaf[:2], run.params)
        short = run._replace(params=params, keys=run.keys[:2], steps=2, every=1, stretches=1)
        (tmp_path / "recorded").mkdir()
        reproduce.make(name, short, tmp_path / "recorded", tmp_path / "unfinished")
    stored = (tmp_path / "recorded" / f"{name}.json").stat().st_size
    assert stored < 2e6


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
