"""Gradient descent against loops in NumPy and against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import a_matrix, a_task, in_numpy, seeds, sizes

from icl_gd import descent

LOSS, GD_PLUS_PLUS = jax.jit(descent.loss), jax.jit(descent.gd_plus_plus)
DESCEND = jax.jit(descent.gradient_descent, static_argnames="steps")
GRADIENT_AND_AUTODIFF = jax.jit(lambda *a: (descent.gradient(*a), jax.grad(descent.loss)(*a)))


def loop_loss(w, x, y):
    w, x, y = in_numpy((w, x, y))
    total = 0.0
    for x_i, y_i in zip(x, y, strict=True):
        for k in range(len(y_i)):
            total += (np.dot(w[k], x_i) - y_i[k]) ** 2
    return total / (2 * len(x))


def loop_gradient(w, x, y):
    w, x, y = in_numpy((w, x, y))
    slope = np.zeros_like(w)
    for x_i, y_i in zip(x, y, strict=True):
        slope += np.outer(w @ x_i - y_i, x_i)
    return slope / len(x)


def test_loss_is_the_sum_written_out():
    for n, d, m in ((1, 1, 1), (4, 3, 2), (2, 2, 5)):
        task, w = a_task(0, n, d, m), a_matrix(1, m, d)
        assert LOSS(w, task.x, task.y) == pytest.approx(loop_loss(w, task.x, task.y))


@settings(max_examples=20)
@given(sizes, seeds)
def test_gradient_is_the_derivative_of_the_loss(size, seed):
    n, d, m = size
    task, w = a_task(seed, n, d, m), a_matrix(seed, m, d)
    slope, by_autodiff = GRADIENT_AND_AUTODIFF(w, task.x, task.y)
    np.testing.assert_allclose(slope, by_autodiff, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slope, loop_gradient(w, task.x, task.y), rtol=1e-10, atol=1e-12)


@settings(max_examples=10)
@given(sizes, seeds, st.floats(-1, 1), st.sampled_from([1, 4]))
def test_every_iterate_is_that_of_the_loop(size, seed, eta, steps):
    n, d, m = size
    task, w = a_task(seed, n, d, m), a_matrix(seed, m, d)
    path = DESCEND(w, task.x, task.y, eta, steps)
    assert path.shape == (steps + 1, m, d)
    w = in_numpy(w)
    for found in in_numpy(path):
        scale = max(1.0, np.abs(w).max())
        np.testing.assert_allclose(found, w, rtol=1e-9, atol=1e-12 * scale)
        w = w - eta * loop_gradient(w, task.x, task.y)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("start", [None, a_matrix(1, 2, 3)])
def test_prediction_is_that_of_the_loops_last_matrix(steps, start):
    task = a_task(0, 4, 3, 2)
    w = np.zeros((2, 3)) if start is None else np.array(start)
    for _ in range(steps):
        w = w - 0.3 * loop_gradient(w, task.x, task.y)
    found = descent.predict(task, 0.3, steps, start)
    np.testing.assert_allclose(found, w @ in_numpy(task.x_query), rtol=1e-12)
    if steps == 1 and start is None:
        np.testing.assert_array_equal(descent.predict(task, 0.3), found)


def loop_gd_plus_plus(x, y, x_query, rate, gamma):
    """Fit, predict, subtract, shrink: one example at a time."""
    x, y, x_query = in_numpy((x, y, x_query))
    answer = np.zeros(y.shape[1])
    for r, g in zip(rate, gamma, strict=True):
        w = r * sum(np.outer(b, a) for a, b in zip(x, y, strict=True))
        s = sum(np.outer(a, a) for a in x)
        answer = answer + w @ x_query
        y = y - np.array([w @ a for a in x])
        x, x_query = np.array([a - g * s @ a for a in x]), x_query - g * s @ x_query
    return answer


@settings(max_examples=10)
@given(sizes, seeds, st.sampled_from([1, 2, 4]))
def test_gd_plus_plus_is_the_loop(size, seed, steps):
    n, d, m = size
    task = a_task(seed, n, d, m)
    rate, gamma = np.random.default_rng(seed).uniform(0, 0.2, (2, steps))
    found = GD_PLUS_PLUS(task.x, task.y, task.x_query, rate, gamma)
    expected = loop_gd_plus_plus(task.x, task.y, task.x_query, rate, gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_without_gamma_it_is_gradient_descent():
    task = a_task(1, 5, 3, 2)
    path = descent.gradient_descent(jnp.zeros((2, 3)), task.x, task.y, 5 * 0.07, 4)
    same = jnp.full(4, 0.07), jnp.zeros(4)
    found = descent.gd_plus_plus(task.x, task.y, task.x_query, *same)
    np.testing.assert_allclose(found, path[-1] @ task.x_query, rtol=1e-12)
