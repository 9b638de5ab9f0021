"""Training against plain loops: NumPy's Adam, and one Python step after the other."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import close, stacked
from test_examples import EXAMPLES

from icl_gd import training


def adam(grads, learning_rate, clip, b1=0.9, b2=0.98, eps=1e-8):
    """The updates of Adam on gradients that are clipped to a norm."""
    m, v = np.zeros((2, *grads[0].shape))
    for t, g in enumerate(grads, start=1):
        g = g * min(1, clip / np.linalg.norm(g))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield -learning_rate * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps)


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.02, "clip": 1.0}])
def test_clipped_adam_is_the_loop_in_numpy(settings):
    given = {"learning_rate": 1e-3, "clip": 1e-3} | settings
    # Norms on both sides of the clip, so that clipping acts on some steps and not on others.
    sizes = given["clip"] * np.array([0.05, 3, 0.2, 10, 0.1])
    grads = sizes[:, None] * np.random.default_rng(0).normal(size=(5, 7))
    leaves = lambda g: {"a": jnp.array(g[:3]), "b": jnp.array(g[3:])}  # of one norm
    optimiser = training.clipped_adam(**settings)
    state, update = optimiser.init(leaves(grads[0])), jax.jit(optimiser.update)
    for g, expected in zip(grads, adam(grads, **given), strict=True):
        updates, state = update(leaves(g), state)
        close(updates, leaves(expected), rtol=1e-9)


def test_adam_takes_its_settings_from_anywhere():
    """Also from inside a compiled function; what is trained keeps its precision."""
    grads = jnp.arange(3.0, dtype=jnp.float32)

    def update(rate, clip):
        optimiser = training.clipped_adam(rate, clip)
        return optimiser.update(grads, optimiser.init(grads))[0]

    expected = update(0.1, 2.0)
    for of in (np.float64, jnp.float64):
        found = update(of(0.1), of(2.0))
        assert found.dtype == expected.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)
    close(jax.jit(update)(0.1, 2.0), expected, rtol=1e-6)


def has_law(weight, variance, cut):
    """Normal of mean zero, or what is left of it when it is cut at two of its own deviations."""
    std, n = variance**0.5, np.size(weight)
    assert np.mean(weight) == pytest.approx(0, abs=4.5 * std / n**0.5)
    assert np.std(weight) == pytest.approx(std, rel=4.5 * (0.5 / n) ** 0.5)
    end = 2 / 0.87962566103423978  # of the cut law, in deviations that are left
    largest = np.abs(weight).max() / std
    assert 0.97 * end < largest <= 1.0001 * end if cut else largest > 3


def independent(*weights):
    flat = np.stack([np.ravel(weight) for weight in weights])
    near = 4.5 / flat.shape[1] ** 0.5
    np.testing.assert_allclose(np.corrcoef(flat), np.eye(len(flat)), atol=near)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_initial_weights_are_truncated_normal(scale):
    given = {} if scale is None else {"scale": scale}
    layer = training.initialise(jax.random.key(0), 100, **given)
    drawn = training.initialise_features(jax.random.key(0), 60, 40, **given)
    for weight in (*layer, drawn.embed, drawn.hidden, drawn.out):
        has_law(weight, (scale or 0.002) / weight.shape[1], cut=True)
    independent(*layer)
    independent(drawn.hidden, drawn.out)
    assert drawn.embed.shape == (40, 60)
    np.testing.assert_array_equal(drawn.hidden_bias, np.zeros(160))
    np.testing.assert_array_equal(drawn.out_bias, np.zeros(40))


def test_initial_block_has_features_and_a_layer_of_their_size():
    drawn = training.initialise_block(jax.random.key(0), 3, 30)
    assert drawn["features"].embed.shape == (30, 3)
    assert drawn["layer"].query.shape == (30, 30)
    for weight in (drawn["features"].hidden, drawn["layer"].key):
        has_law(weight, 0.002 / 30, cut=True)


@pytest.mark.parametrize("smeared", [False, True])
def test_initial_transformer_has_variance_one_over_fan_in(smeared):
    draw = training.initialise_transformer
    model = draw(jax.random.key(1), 300, 5, layers=2, heads=4, width=200, smeared=smeared)
    heads = model.heads
    has_law(model.embed, 1, cut=False)
    for weight, fan_in in zip((model.unembed, *heads[:4]), (200, 200, 200, 200, 50), strict=True):
        has_law(weight, 1 / fan_in, cut=False)
    independent(*heads[:4])
    assert heads.query.shape == heads.key.shape == heads.value.shape == (2, 4, 50, 200)
    np.testing.assert_array_equal(heads.bias, np.zeros((2, 4, 5)))
    assert (heads.smear is not None) == smeared
    if smeared:
        np.testing.assert_array_equal(heads.smear, np.zeros((2, 4)))


def test_initial_transformer_is_two_layers_of_four_heads():
    draw = lambda key: training.initialise_transformer(key, 9, 7)
    model = jax.eval_shape(draw, jax.random.key(1))
    assert model.heads.query.shape == (2, 4, 16, 64)
    assert model.heads.smear is None


# A noisy loss of parameters with two leaves, and measures of several shapes.
class Params(NamedTuple):
    a: jax.Array
    b: jax.Array


def loss(params, key):
    noise = jax.random.normal(key, (2,))
    return jnp.sum((params.a - noise) ** 2) + jnp.sum(jnp.cosh(params.b)) * (1 + noise[0] ** 2)


MEASURES = {
    "sum": lambda p: p.a.sum() - 2 * p.b.sum(),
    "matrix": lambda p: jnp.outer(p.a, p.b),
    "both": lambda p: Params(p.b[0], p.a),
}
STEPS = 6


def start(seeds):
    draw = np.random.default_rng(0).normal
    return jax.device_put(Params(draw(size=(seeds, 2)), draw(size=(seeds, 3))))


def optimiser():
    # Weight decay reads the parameters, momentum the state of the steps before.
    return optax.adamw(0.1, weight_decay=0.3)


@jax.jit
def step_of_loop(params, state, key):
    value, grads = jax.value_and_grad(loss)(params, key)
    updates, state = optimiser().update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


measure = jax.jit(lambda params: {name: f(params) for name, f in MEASURES.items()})


def loop(params, key, every):
    """The run of one seed, one step at a time."""
    state, losses, measured = optimiser().init(params), [], []
    with jax.threefry_partitionable(False):
        keys = jax.random.split(key, STEPS)
        for step in range(STEPS):
            if step % every == 0:
                measured.append(measure(params))
            params, state, value = step_of_loop(params, state, keys[step])
            losses.append(value)
    return params, np.stack(losses), stacked(*measured, measure(params))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seeds, every", [(3, 2), (3, 1), (1, 6)])
def test_fit_is_the_plain_loop(own, seeds, every):
    params, key = start(seeds), jax.random.key(1)
    # The checker does not know that a transposed array of keys holds other keys' data.
    with jax.debug_key_reuse(False):
        keys = jax.random.split(key, seeds) if own else key
        run = training.fit(loss, params, keys, optimiser(), STEPS, every, MEASURES)
        alone = []
        for seed in range(seeds):
            one = jax.tree.map(lambda leaf, at=seed: leaf[at], params)
            alone.append(loop(one, keys[seed] if own else key, every))
    np.testing.assert_array_equal(run.at, range(0, STEPS + 1, every))
    found = run.params, run.losses, run.measured
    close(found, stacked(*alone), rtol=1e-12, atol=1e-14)


def test_fit_looks_every_hundred_steps_at_nothing_unless_told():
    run = training.fit(loss, start(2), jax.random.key(1), optimiser(), 200)
    assert run.measured == {}
    np.testing.assert_array_equal(run.at, [0, 100, 200])


def test_a_run_goes_on_from_its_state():
    steady = lambda params, key: jnp.sum(jnp.cosh(params.a - 1)) + jnp.sum(params.b**4)
    run = lambda params, steps, state=None: training.fit(
        steady, params, jax.random.key(0), optimiser(), steps, 3, state=state
    )
    whole, half = run(start(3), 6), run(start(3), 3)
    rest = run(half.params, 3, half.state)
    close((rest.params, rest.state), (whole.params, whole.state), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rest.losses, whole.losses[:, 3:], rtol=1e-12)
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

    def values(m):
        slopes = jax.vmap(jax.value_and_grad(lambda params: jnp.exp(2 * m(params))))(many)
        return slopes, m(jax.tree.map(lambda leaf: leaf[0], many))

    found, expected = jax.jit(lambda: (values(by_parts), values(mean)))()
    close(found, expected, rtol=1e-12)
