"""Closed forms of learning curves: against sampled layers, and against autodiff at the optima."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import curves, online, tasks

D, LENGTH, NOISE, RHO = 4, 12, 0.4, 0.95
GAUSSIAN, UNIT = curves.gaussian(D), curves.unit(D)
close = partial(np.testing.assert_allclose, rtol=1e-9)


def on_sphere(key, shape):
    x = jax.random.normal(key, shape)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def sampled(rule, inputs, beta, alpha, key):
    """The error after each pair for one teacher that drifts."""
    key_x, key_w, key_drift, key_noise = jax.random.split(key, 4)
    x = inputs(key_x, (LENGTH, D))
    move = lambda w, z: (RHO * w + jnp.sqrt(1 - RHO**2) * z,) * 2
    drift = jax.random.normal(key_drift, (LENGTH, D))
    w = jax.lax.scan(move, jax.random.normal(key_w, (D,)), drift)[1]
    y = jnp.sum(w * x, axis=1) + NOISE**0.5 * jax.random.normal(key_noise, (LENGTH,))
    states = online.states(rule, x, y[:, None], beta, alpha)[:, 0]
    return jnp.mean((states - w) ** 2, axis=1)


@pytest.mark.parametrize("rule", [online.SUM, online.DELTA])
@pytest.mark.parametrize("law, inputs", [(GAUSSIAN, jax.random.normal), (UNIT, on_sphere)])
def test_curve_is_the_mean_of_sampled_layers(rule, law, inputs):
    beta = jnp.linspace(0.05, 0.15, LENGTH) / law.m**0.5
    one = partial(sampled, rule, inputs, beta, 0.9)
    found = jax.jit(lambda key: tasks.batch(one, key, 30_000))(jax.random.key(1))
    error = found.std(axis=0) / len(found) ** 0.5
    theory = curves.learning_curve(rule, law, beta, 0.9, NOISE, RHO)
    assert np.abs((found.mean(axis=0) - theory) / error).max() < 4
    still = curves.learning_curve(rule, law, beta, 0.9, NOISE)
    assert np.abs((found.mean(axis=0) - still) / error).max() > 20


@pytest.mark.parametrize("law", [GAUSSIAN, UNIT])
def test_best_delta_is_where_no_rate_and_no_decay_helps(law):
    beta, errors = curves.best_delta(LENGTH, law, NOISE, RHO)
    error = lambda beta, alpha: curves.learning_curve(online.DELTA, law, beta, alpha, NOISE, RHO)
    alpha = jnp.full(LENGTH, RHO)
    close(error(beta, alpha), errors)
    last = lambda *rates: error(*rates)[-1]
    slopes = jax.grad(last, (0, 1))(beta, alpha)
    np.testing.assert_allclose(slopes, jnp.zeros((2, LENGTH)), atol=1e-12)
    assert last(1.01 * beta, alpha) > errors[-1] < last(beta, 0.99 * alpha)


def best_of_beta(law, alpha, rho, length):
    """Of a sum, whose error is a quadratic function of one beta."""
    at = lambda b: curves.learning_curve(online.SUM, law, jnp.full(length, b), alpha, NOISE, rho)
    one, two = at(1.0)[-1], at(2.0)[-1]
    curvature = (two - 2 * one + 1) / 2
    return 1 - (one - 1 - curvature) ** 2 / (4 * curvature)


@pytest.mark.parametrize("law", [GAUSSIAN, UNIT])
def test_best_sum_is_the_least_error_of_any_step(law):
    for t in (1, 5, LENGTH):
        close(curves.best_sum(t, law, NOISE), best_of_beta(law, 1.0, 1.0, t))
    close(curves.best_sum(7, GAUSSIAN), (D + 1) / (7 + D + 1))


@pytest.mark.parametrize("law", [GAUSSIAN, UNIT])
@pytest.mark.parametrize("rho", [0.7, 0.99])
def test_best_decay_is_where_the_lasting_error_is_least(law, rho):
    lasting = lambda alpha: best_of_beta(law, alpha, rho, 3000)
    best = curves.best_decay(rho, law, NOISE)
    assert abs(jax.grad(lasting)(best)) < 1e-9
    assert lasting(best) < lasting(best - 0.01) and lasting(best) < lasting(best + 0.005)


def test_best_decay_near_one_is_exact_in_single_precision():
    for rho in (0.99, 0.9999, 1.0):
        double, single = (curves.best_decay(np.asarray(rho, kind), GAUSSIAN) for kind in "df")
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single - 1, double - 1, rtol=2e-4)
