"""Training against plain loops: NumPy's Adam, and one Python step after the other."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_examples import EXAMPLES

from icl_gd import training
from icl_gd.attention import Attention


def adam(grads, learning_rate, clip, b1=0.9, b2=0.98, eps=1e-8):
    """The updates of Adam on gradients that are clipped to a global norm, leaf by leaf."""
    first = [np.zeros_like(g) for g in grads[0]]
    second = [np.zeros_like(g) for g in grads[0]]
    for t, leaves in enumerate(grads, start=1):
        norm = sum((g**2).sum() for g in leaves) ** 0.5
        leaves = [g * min(1, clip / norm) for g in leaves]
        first = [b1 * m + (1 - b1) * g for m, g in zip(first, leaves, strict=True)]
        second = [b2 * v + (1 - b2) * g**2 for v, g in zip(second, leaves, strict=True)]
        yield [
            -learning_rate * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps)
            for m, v in zip(first, second, strict=True)
        ]


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.02, "clip": 1.0}])
def test_clipped_adam_is_the_loop_in_numpy(settings):
    learning_rate, clip = settings.get("learning_rate", 1e-3), settings.get("clip", 1e-3)
    draw = np.random.default_rng(0).normal
    # Norms on both sides of the clip, so that clipping acts on some steps and not on others.
    grads = [
        [size * clip * draw(size=s) for s in ((3,), (2, 2))] for size in (0.05, 3, 0.2, 10, 0.1)
    ]
    optimiser = training.clipped_adam(**settings)
    state, update = optimiser.init([jnp.zeros(3), jnp.zeros((2, 2))]), jax.jit(optimiser.update)
    for leaves, expected in zip(grads, adam(grads, learning_rate, clip), strict=True):
        updates, state = update(jax.device_put(leaves), state)
        for found, wanted in zip(updates, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_initial_weights_are_truncated_normal(scale):
    token = 100
    layer = training.initialise(jax.random.key(0), token, *([] if scale is None else [scale]))
    assert isinstance(layer, Attention)
    std = ((0.002 if scale is None else scale) / token) ** 0.5
    cut = 2 * std / 0.87962566103423978  # the normal is cut at two of its own deviations
    for weight in layer:
        assert weight.shape == (token, token)
        assert np.mean(weight) == pytest.approx(0, abs=4.5 * std / token)
        assert np.std(weight) == pytest.approx(std, rel=4.5 * 0.65 / token)
        assert 0.97 * cut < np.abs(weight).max() <= 1.0001 * cut
    flat = np.stack([np.ravel(weight) for weight in layer])
    np.testing.assert_allclose(np.corrcoef(flat), np.eye(4), atol=4.5 / token)


@pytest.mark.parametrize("smeared", [False, True])
def test_initial_transformer_has_variance_one_over_fan_in(smeared):
    vocabulary, reach, layers, heads, width = 300, 5, 2, 4, 200
    model = training.initialise_transformer(
        jax.random.key(1), vocabulary, reach, layers, heads, width, smeared
    )
    per_head, size = (layers, heads), width // heads
    expected = [
        (model.embed, (width, vocabulary), 1),
        (model.unembed, (vocabulary, width), width),
        (model.heads.query, (*per_head, size, width), width),
        (model.heads.key, (*per_head, size, width), width),
        (model.heads.value, (*per_head, size, width), width),
        (model.heads.output, (*per_head, width, size), size),
    ]
    for weight, shape, fan_in in expected:
        assert weight.shape == shape
        assert np.mean(weight) == pytest.approx(0, abs=4.5 / (fan_in * weight.size) ** 0.5)
        assert np.var(weight) == pytest.approx(1 / fan_in, rel=4.5 * (2 / weight.size) ** 0.5)
        assert np.abs(weight).max() > 3 / fan_in**0.5  # not cut
    flat = np.stack([np.ravel(weight)[: 2 * 4 * 50 * 200] for weight, *_ in expected[2:]])
    np.testing.assert_allclose(np.corrcoef(flat), np.eye(4), atol=4.5 / flat.shape[1] ** 0.5)
    np.testing.assert_array_equal(model.heads.bias, np.zeros((*per_head, reach)))
    if smeared:
        np.testing.assert_array_equal(model.heads.smear, np.zeros(per_head))
    else:
        assert model.heads.smear is None


def test_initial_transformer_is_two_layers_of_four_heads():
    draw = lambda key: training.initialise_transformer(key, 9, 7)
    model = jax.eval_shape(draw, jax.random.key(1))
    assert model.heads.query.shape == (2, 4, 16, 64)
    assert model.heads.smear is None


# A noisy loss of parameters with two leaves, and measures of several shapes.
class Params(NamedTuple):
    a: jax.Array
    b: jax.Array


class Both(NamedTuple):
    scalar: jax.Array
    vector: jax.Array


def loss(params, key):
    noise = jax.random.normal(key, (2,))
    return jnp.sum((params.a - noise) ** 2) + jnp.sum(jnp.cosh(params.b)) * (1 + noise[0] ** 2)


MEASURES = {
    "sum": lambda p: p.a.sum() - 2 * p.b.sum(),
    "matrix": lambda p: jnp.outer(p.a, p.b),
    "both": lambda p: Both(p.b[0], p.a),
}
SEEDS, STEPS, EVERY = 3, 6, 2


def start():
    draw = np.random.default_rng(0).normal
    return Params(jax.device_put(draw(size=(SEEDS, 2))), jax.device_put(draw(size=(SEEDS, 3))))


def optimiser():
    # Weight decay reads the parameters, momentum the state of the steps before.
    return optax.adamw(0.1, weight_decay=0.3)


def keys_of(seeds):
    if seeds == "shared":
        return jax.random.key(1)
    return jax.random.split(jax.random.key(1), SEEDS)


def fit(seeds, params=None, keys=None, **changes):
    params = start() if params is None else params
    keys = keys_of(seeds) if keys is None else keys
    settings = {"steps": STEPS, "every": EVERY, "measures": MEASURES} | changes
    # The checker does not know that a transposed array of keys holds other keys' data.
    with jax.debug_key_reuse(seeds == "shared"):
        return training.fit(loss, params, keys, optimiser(), **settings)


@cache
def usual(seeds):
    """The run that most tests look at."""
    return fit(seeds)


@jax.jit
def step_of_loop(params, state, key):
    value, grads = jax.value_and_grad(loss)(params, key)
    updates, state = optimiser().update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


measure = jax.jit(lambda params: {name: f(params) for name, f in MEASURES.items()})


def loop(seeds):
    """The same run, one seed and one step at a time."""
    runs = []
    for seed in range(SEEDS):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], start())
        state = optimiser().init(params)
        losses, measured = [], []
        key = keys_of(seeds)
        with jax.threefry_partitionable(False), jax.debug_key_reuse(False):
            keys = jax.random.split(key if seeds == "shared" else key[seed], STEPS)
            for step in range(STEPS):
                if step % EVERY == 0:
                    measured.append(measure(params))
                params, state, value = step_of_loop(params, state, keys[step])
                losses.append(value)
        measured.append(measure(params))
        points = jax.tree.map(lambda *leaves: np.stack(leaves), *measured)
        runs.append((params, np.stack(losses), points))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def same(one, other, **near):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-12, "atol": 1e-14} | near)


@pytest.mark.parametrize("seeds", ["shared", "own"])
def test_fit_is_the_plain_loop(seeds):
    run, (params, losses, measured) = usual(seeds), loop(seeds)
    assert run.losses.shape == (SEEDS, STEPS)
    np.testing.assert_array_equal(run.at, [0, 2, 4, 6])
    assert run.measured["sum"].shape == (SEEDS, 4)
    assert run.measured["matrix"].shape == (SEEDS, 4, 2, 3)
    assert run.measured["both"].vector.shape == (SEEDS, 4, 2)
    same(run.losses, losses)
    same(run.params, params)
    same(run.measured, measured)


def test_a_run_does_not_depend_on_its_neighbours():
    for seeds in ("shared", "own"):
        together = usual(seeds)
        second = jax.tree.map(lambda leaf: leaf[1:2], start())
        with jax.debug_key_reuse(False):
            keys = keys_of(seeds) if seeds == "shared" else keys_of(seeds)[1:2]
        alone = fit(seeds, second, keys)
        same(alone.params, jax.tree.map(lambda leaf: leaf[1:2], together.params))
        same(alone.losses, together.losses[1:2])
        same(alone.measured, jax.tree.map(lambda leaf: leaf[1:2], together.measured))


def test_shared_keys_are_shared_and_own_keys_are_not():
    params = jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * SEEDS), start())
    shared, own = (fit(seeds, params).losses for seeds in ("shared", "own"))
    np.testing.assert_array_equal(shared[0], shared[1])
    assert (own[0] != own[1]).all()


def test_how_often_is_measured_does_not_change_the_run():
    one, two = usual("shared"), fit("shared", every=6)
    np.testing.assert_array_equal(two.at, [0, 6])
    same(one.losses, two.losses)
    same(jax.tree.map(lambda leaf: leaf[:, ::3], one.measured), two.measured)


def test_every_step_may_be_measured():
    run = fit("shared", every=1)
    np.testing.assert_array_equal(run.at, range(STEPS + 1))
    assert run.measured["sum"].shape == (SEEDS, STEPS + 1)
    same(jax.tree.map(lambda leaf: leaf[:, ::EVERY], run.measured), usual("shared").measured)


def test_same_key_same_run():
    same(usual("shared"), fit("shared"), rtol=0, atol=0)


def test_measures_may_be_left_out():
    run = fit("shared", steps=200, every=100, measures=None)
    assert run.measured == {}
    np.testing.assert_array_equal(run.at, [0, 100, 200])
    default = training.fit(loss, start(), keys_of("shared"), optimiser(), 200)
    np.testing.assert_array_equal(default.at, run.at)
    same(default.losses, run.losses)


def test_settings_of_jax_are_left_as_they_were():
    before = jax.config.jax_threefry_partitionable
    fit("shared", measures=None)
    assert jax.config.jax_threefry_partitionable == before


def test_a_run_goes_on_from_its_state():
    steady = lambda params, key: jnp.sum(jnp.cosh(params.a - 1)) + jnp.sum(params.b**4)
    run = lambda params, steps, state=None: training.fit(
        steady, params, jax.random.key(0), optimiser(), steps, 3, state=state
    )
    whole, half = run(start(), 6), run(start(), 3)
    rest = run(half.params, 3, half.state)
    same(rest.params, whole.params)
    same(rest.state, whole.state)
    same(jnp.concatenate([half.losses, rest.losses], axis=1), whole.losses)
    assert abs(run(half.params, 3).losses - rest.losses).max() > 1e-3  # the state matters


# The README's recipe, and then both kinds of run on meshes of several shapes: in one process, or in
# one of several. It states a place for every array, as several processes need it.
RECIPE, PRINTED = next(e.values for e in EXAMPLES if "PartitionSpec" in e.values[0])
BEGIN = """
import sys
import jax

hosts, host = map(int, sys.argv[2:])
if hosts > 1:
    jax.distributed.initialize(sys.argv[1], hosts, host)
"""
SPREAD = """
jax.config.update("jax_enable_x64", True)
target = jnp.arange(2.0)

def loss(p, key):  # p["noise"] is a setting
    noise = jax.lax.stop_gradient(p["noise"]) * jax.random.normal(key, (2,))
    return jnp.sum((p["layer"] - target - noise) ** 4)

def fit(params, key, **more):
    measures = {"norm": lambda p: jnp.linalg.norm(p["layer"]), **more}
    return training.fit(loss, params, key, optax.adam(0.1), 6, 3, measures)

begin = {"layer": np.arange(8.0).reshape(4, 2), "noise": np.array([1.0, 0.5, 0.1, 0.0])}
of_runs, of_both, same = PartitionSpec("runs"), PartitionSpec("runs", "unused"), PartitionSpec()
for own in (False, True):
    key = lambda: jax.random.split(jax.random.key(1), 4) if own else jax.random.key(1)
    alone = fit(jax.tree.map(jnp.asarray, begin), key())
    np.testing.assert_array_equal(alone.params["noise"], begin["noise"])
    for shape in [(4, 1)] if hosts > 1 else [(1, 1), (2, 2), (4, 1)]:
        devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
        mesh = Mesh(devices, ("runs", "unused"))
        place = lambda spec: NamedSharding(mesh, spec)
        params = jax.device_put(begin, {"layer": place(of_both), "noise": place(of_runs)})
        keys = jax.jit(key, out_shardings=place(of_runs if own else same))()
        run = fit(params, keys, device=lambda _: jax.lax.axis_index("runs"))
        run = jax.jit(lambda run: run, out_shardings=place(same))(run)
        trained_by = np.asarray(run.measured.pop("device"))[:, 0]
        np.testing.assert_array_equal(trained_by, np.repeat(range(shape[0]), 4 // shape[0]))
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        jax.tree.map(close, tuple(run), tuple(alone))
"""


@pytest.mark.parametrize("hosts, devices", [(1, 4), (2, 2)])
def test_spread_seeds_train_as_on_one_device(hosts, devices):
    """Four devices, of one process or of two, give what one gives, and each trains its share."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = "localhost:{1}".format(*free.getsockname())
    settings = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-c", BEGIN + RECIPE + SPREAD, address, str(hosts)]
    started = [
        subprocess.Popen(
            [*command, str(host)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in range(hosts)
    ]
    with suppress(subprocess.TimeoutExpired):  # by one that waits for one that has failed
        for process in started:
            process.wait(timeout=300)
    for process in started:
        process.kill()
    told = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * hosts, "\n".join(told)
    assert all(PRINTED in text for text in told), told


@pytest.mark.parametrize("scale", [None, 0.5])
def test_initial_features_have_variance_scale_over_fan_in(scale):
    token, width = 60, 40
    extra = [] if scale is None else [scale]
    drawn = training.initialise_features(jax.random.key(0), token, width, *extra)
    assert drawn.embed.shape == (width, token)
    assert drawn.hidden.shape == (4 * width, width)
    assert drawn.out.shape == (width, 4 * width)
    for weight in (drawn.embed, drawn.hidden, drawn.out):
        std = ((0.002 if scale is None else scale) / weight.shape[1]) ** 0.5
        assert np.std(weight) == pytest.approx(std, rel=4.5 * 0.65 / weight.size**0.5)
        assert np.mean(weight) == pytest.approx(0, abs=4.5 * std / weight.size**0.5)
    np.testing.assert_array_equal(drawn.hidden_bias, np.zeros(4 * width))
    np.testing.assert_array_equal(drawn.out_bias, np.zeros(width))


def test_initial_block_has_both_parts_each_from_its_key():
    drawn = training.initialise_block(jax.random.key(0), 3, 5)
    assert sorted(drawn) == ["features", "layer"]
    keys = jax.random.split(jax.random.key(0))
    alone = training.initialise_features(keys[0], 3, 5), training.initialise(keys[1], 5)
    jax.tree.map(np.testing.assert_array_equal, (drawn["features"], drawn["layer"]), alone)


@pytest.mark.parametrize("parts", [1, 3])
def test_accumulated_is_the_mean_over_the_parts(parts):
    """Value and gradient, beneath another function and for several parameters at once."""

    def loss(params, key):
        return jnp.sum(jnp.sin(params["a"] * jax.random.normal(key, (4,)))) + params["b"] ** 2

    def mean(params):
        return sum(loss(params, k) for k in jax.random.split(key(), parts)) / parts

    by_parts = lambda params: training.accumulated(loss, parts)(params, key())
    key = lambda: jax.random.key(7)
    many = {"a": jnp.arange(8.0).reshape(2, 4) / 3, "b": jnp.array([0.4, -1.2])}
    one = jax.tree.map(lambda leaf: leaf[0], many)

    def values(m):
        slopes = lambda f: jax.vmap(jax.value_and_grad(lambda params: f(m(params))))(many)
        return slopes(lambda value: value), slopes(lambda value: jnp.exp(2 * value)), m(one)

    found, expected = jax.jit(lambda: (values(by_parts), values(mean)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)
