"""Autoregressive training: closed forms against exact averages through the layer itself.

An average over phases is exact on a grid of roots of unity that is finer than every exponent, so
that starts and phases can be enumerated and each loss computed by the forward pass.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, fast, flow, moments, tokens
from icl_gd.attention import Products
from icl_gd.book import setup

GAUSSIAN = moments.independent(1.0, 3.0, 15.0)
LAW = moments.kappas(GAUSSIAN, 2)
SIGNS = moments.independent(1.0, 1.0, 1.0)


def signs(d):
    return [np.array(s, float) for s in product((-1, 1), repeat=d)]


def hot(d, size=1.0):
    return [s * size * np.eye(d)[j] for j in range(d) for s in (-1, 1)]


def lopsided(d):
    """Two starts that are neither symmetric nor exchangeable."""
    return [np.arange(1.0, d + 1), np.array([-1.0, 0.5, 2.0][:d])]


def powers_of(starts):
    return lambda powers: float(np.mean([np.prod(x ** np.array(powers)) for x in starts]))


def all_sequences(starts, length):
    """Every start with every combination of phases on a grid that is fine enough."""
    d, roots = len(starts[0]), 4 * length + 1
    circle = np.exp(2j * np.pi * np.arange(roots) / roots)
    phases = np.array(list(product(circle, repeat=d)))
    turns = phases[:, None, :] ** np.arange(length)[:, None]
    return jax.device_put(np.concatenate([x * turns for x in starts]))


@jax.jit
def through_the_layer(layer, sequences):
    """The mean loss, by the forward pass."""
    predictions = jax.vmap(lambda x: fast.causal_prefix(layer, tokens.pair(x)))(sequences)
    gaps = predictions[:, :-1] - sequences[:, 2:]
    return 0.5 * jnp.mean(jnp.sum(jnp.abs(gaps) ** 2, axis=(1, 2)))


def a_layer(seed, d):
    draw = np.random.default_rng(seed).normal
    matrix = lambda *shape: jax.device_put(draw(size=shape) + 1j * draw(size=shape))
    return Products(matrix(2 * d, 2 * d), matrix(d, 2 * d))


def some_blocks(seed, d):
    draw = np.random.default_rng(seed).normal
    return Products(jax.device_put(draw(size=(d, d))), jax.device_put(draw(size=(d, d))))


@jax.jit
def as_layer(blocks):
    return constructions.embed_blocks(*(w.astype(complex) for w in blocks))


quartic_and_slope = jax.jit(jax.value_and_grad(moments.quartic_loss))
sampled_quartic = jax.jit(moments.sampled_quartic)
direct_and_slope = jax.jit(jax.value_and_grad(through_the_layer))


# Laws of the start.


@pytest.mark.parametrize(
    "powers", [(2, 0, 0), (4, 2, 0), (2, 2, 2), (1, 0, 0), (6, 0, 0), (3, 3, 0)]
)
def test_laws_are_those_of_their_starts(powers):
    assert SIGNS(powers) == pytest.approx(powers_of(signs(3))(powers))
    assert moments.one_hot(1.5)(powers) == pytest.approx(powers_of(hot(3, 1.5))(powers))
    assert moments.one_hot()(powers) == pytest.approx(powers_of(hot(3))(powers))
    assert moments.ones(powers) == 1


@pytest.mark.parametrize(
    "powers, value", [((4, 2), 3.0), ((2, 2), 1.0), ((6, 0), 15.0), ((1, 2), 0.0)]
)
def test_independent_moments_multiply(powers, value):
    assert GAUSSIAN(powers) == value


@pytest.mark.parametrize("starts", [signs(3), hot(3), hot(3, 2.0)])
def test_kappas_by_enumeration(starts):
    x = np.array(starts)
    law = moments.kappas(powers_of(starts), 3)
    assert law.m2 == pytest.approx(np.mean(x[:, 0] ** 2))
    assert law.k1 == pytest.approx(np.mean(x[:, 0] ** 4))
    assert law.k2 == pytest.approx(np.mean(x[:, 0] ** 6))
    assert law.k3 == pytest.approx(np.mean(x[:, 0] ** 2 * (x[:, 1] ** 4 + x[:, 2] ** 4)))
    assert moments.kappas(GAUSSIAN, 5) == (1.0, 3.0, 15.0, 12.0)
    assert moments.kappas(GAUSSIAN, 1) == (1.0, 3.0, 15.0, 0.0)


# The diagonal.


@pytest.mark.parametrize("starts", [signs(2), hot(2, 1.3), hot(1, 0.7)])
@pytest.mark.parametrize("length", [3, 5])
def test_diagonal_loss_by_enumeration(starts, length):
    d = len(starts[0])
    layer = as_layer(Products(0.6 * jnp.eye(d), 0.7 * jnp.eye(d)))
    found = through_the_layer(layer, all_sequences(starts, length))
    law = moments.kappas(powers_of(starts), d)
    assert flow.diagonal_loss(0.42, length, d, law) == pytest.approx(float(found), rel=1e-12)


@pytest.mark.parametrize("length, d", [(3, 1), (4, 3), (30, 5)])
def test_positions_add_up(length, d):
    law = moments.kappas(GAUSSIAN, d)
    each = sum(flow.loss_at(0.3, t, d, law) for t in range(2, length))
    assert each == pytest.approx(flow.diagonal_loss(0.3, length, d, law))
    by_hand = sum(1 / (t - 1) for t in range(2, length)) / (length - 2)
    assert flow.crosstalk(length) == pytest.approx(by_hand)


@pytest.mark.parametrize("length, d", [(3, 2), (100, 5)])
def test_limit_is_the_best_step(length, d):
    law = moments.kappas(GAUSSIAN, d)
    slope = jax.jit(jax.grad(lambda ab: flow.diagonal_loss(ab, length, d, law)))
    assert slope(flow.limit(length, law)) == pytest.approx(0, abs=1e-10)
    assert flow.limit(100, moments.kappas(GAUSSIAN, 5)) == pytest.approx(0.191905, abs=1e-6)


@pytest.mark.parametrize("powers", [GAUSSIAN, moments.one_hot(2.0), moments.independent(1, 1.8, 4)])
def test_flow_of_the_diagonal_is_that_of_all_entries(powers):
    length, d, a, b = 7, 3, 0.8, -0.3
    q = moments.exact_quartic(length, d, powers)
    blocks = Products(a * jnp.eye(d), b * jnp.eye(d))
    _, slope = quartic_and_slope(blocks, q)
    by_a, by_b = flow.diagonal_flow((a, b), length, moments.kappas(powers, d))
    np.testing.assert_allclose(slope.kq, -by_a * np.eye(d), atol=1e-12)
    np.testing.assert_allclose(slope.pv, -by_b * np.eye(d), atol=1e-12)


def test_logistic_solves_the_flow():
    law, times = moments.kappas(GAUSSIAN, 5), jnp.linspace(0.0, 0.02, 9)
    velocity = lambda point: flow.diagonal_flow(point, 100, law)
    solve = jax.jit(lambda *start: flow.integrate(velocity, start, times))
    a, b = solve(0.2, 0.2)
    np.testing.assert_allclose(a * b, flow.logistic(times, 0.04, 100, law), rtol=1e-8)
    a, b = solve(0.2, 1.5)
    np.testing.assert_allclose(a**2 - b**2, 0.04 - 2.25, rtol=1e-8)


# Differential equations.


def test_integrate_a_tree():
    times = jnp.array([0.5, 1.0, 3.0])
    start = {"decay": jnp.ones(2), "turn": jnp.array([1.0, 0.0])}
    velocity = lambda y: {"decay": -y["decay"], "turn": jnp.array([-1, 1]) * y["turn"][::-1]}
    found = flow.integrate(velocity, start, times)
    np.testing.assert_allclose(found["decay"][:, 1], np.exp(-(times - 0.5)), rtol=1e-8)
    np.testing.assert_allclose(found["turn"][:, 0], np.cos(times - 0.5), atol=1e-8)


def test_integrate_from_far_away():
    """Where the solver's own choice of a first step would overflow."""
    law = moments.kappas(GAUSSIAN, 5)
    velocity = lambda point: flow.diagonal_flow(point, 100, law)
    end = flow.integrate(velocity, (jnp.array(-1.5), jnp.array(9.0)), jnp.array([0.0, 0.1]))
    assert end[0][-1] * end[1][-1] == pytest.approx(flow.limit(100, law), rel=1e-7)


def test_tolerance_is_what_is_held_to():
    """The error of a turning pointer follows it, and 1e-5 can be had in single precision."""
    turn = lambda y: jnp.array([-1, 1]) * y[::-1]
    times = np.linspace(0.0, 20.0, 50)
    right = np.stack([np.cos(times), np.sin(times)], axis=1)
    error = lambda start, tolerance: np.abs(
        flow.integrate(turn, jnp.asarray(start), jnp.asarray(times), tolerance) - right
    ).max()
    start = np.array([1.0, 0.0])
    for tolerance in (1e-4, 1e-8):
        assert tolerance / 10 < error(start, tolerance) < 10 * tolerance
    large = flow.integrate(turn, jnp.asarray(1e4 * start), jnp.asarray(times), 1e-6)
    assert 1e-7 < np.abs(large / 1e4 - right).max() < 1e-5  # it is relative
    with setup.x64(False):
        assert error(start.astype(np.float32), 1e-5) < 1e-4
        assert error(start.astype(np.float32), 1e-6) < 1e-4  # the least there


# The quartic.


@pytest.mark.parametrize("starts", [[np.ones(2)], signs(2), lopsided(2), lopsided(1)])
@pytest.mark.parametrize("length", [3, 5])
def test_counted_quartic_by_enumeration(starts, length):
    d = len(starts[0])
    q = moments.exact_quartic(length, d, powers_of(starts))
    sequences = all_sequences(starts, length)
    for seed in range(2):
        blocks = some_blocks(seed, d)
        found = through_the_layer(as_layer(blocks), sequences)
        assert quartic_and_slope(blocks, q)[0] == pytest.approx(float(found), rel=1e-11)


def test_counted_power_is_what_is_to_be_predicted():
    of_law = moments.independent(2.0, 12.0, 120.0)  # in three dimensions, two positions
    assert moments.exact_quartic(4, 3, of_law).power == pytest.approx(2 * 3 * 2.0)


def test_other_blocks_have_no_gradient():
    """For a start without any symmetry, at blocks without any."""
    sequences, blocks = all_sequences(lopsided(2), 4), some_blocks(0, 2)
    _, slope = direct_and_slope(as_layer(blocks), sequences)
    for other in (slope.kq[:2], slope.kq[2:, 2:], slope.pv[:, 2:]):
        np.testing.assert_allclose(other, 0, atol=1e-10)
    _, exact = quartic_and_slope(blocks, moments.exact_quartic(4, 2, powers_of(lopsided(2))))
    np.testing.assert_allclose(slope.kq[2:, :2], exact.kq, rtol=1e-9)
    np.testing.assert_allclose(slope.pv[:, :2], exact.pv, rtol=1e-9)


def test_off_diagonals_have_no_gradient_if_odd_moments_vanish():
    blocks = Products(jnp.diag(jnp.array([0.5, 2.0, -1.0])), jnp.diag(jnp.array([1.0, 0.3, 0.7])))
    off = ~np.eye(3, dtype=bool)
    for powers, still in ((GAUSSIAN, True), (moments.one_hot(), True), (moments.ones, False)):
        _, slope = quartic_and_slope(blocks, moments.exact_quartic(6, 3, powers))
        for w in slope:
            assert (np.abs(w[off]).max() < 1e-12) == still


@pytest.mark.parametrize("count, length, d", [(1, 3, 1), (6, 6, 2), (50, 9, 3)])
def test_sampled_quartic_is_the_loss_on_those_sequences(count, length, d):
    draw = np.random.default_rng(0).normal
    x = jax.device_put(draw(size=(count, length, d)) + 1j * draw(size=(count, length, d)))
    q, layer = sampled_quartic(x), a_layer(1, d)
    (loss, slope), (direct, slope_of_direct) = (
        quartic_and_slope(layer, q),
        direct_and_slope(layer, x),
    )
    assert loss == pytest.approx(float(direct), rel=1e-11)
    for found, expected in zip(slope, slope_of_direct, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_scaled_starts():
    x = all_sequences(lopsided(2), 4)[:10]
    layer = a_layer(0, 2)
    found, _ = quartic_and_slope(layer, moments.scaled(sampled_quartic(x), 1.7))
    assert found == pytest.approx(float(through_the_layer(layer, 1.7 * x)), rel=1e-11)


# Descent.


def test_descent_step_by_step():
    loss = lambda z: jnp.abs(z - (1 + 2j)) ** 2
    runs = flow.descend(loss, jnp.array([0j, 3 + 0j]), jnp.array([0.1, 0.25]), 3)
    for run, (z, rate) in enumerate(((0j, 0.1), (3 + 0j, 0.25))):
        for epoch in range(4):
            assert runs.weights[run, epoch] == pytest.approx(z)
            assert runs.losses[run, epoch] == pytest.approx(float(loss(z)))
            z = z - rate * 2 * (z - (1 + 2j))


def test_a_step_that_diverges_is_named():
    with pytest.raises(
        ValueError, match=r"rate must be small .* got 3.0: run 1 is not finite from"
    ):
        flow.descend(lambda w: w**4, jnp.array([1.0, 1.0]), jnp.array([0.01, 3.0]), 20)
