"""The forward pass against sums written out token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from problems import a_layer, a_matrix, a_task, in_numpy, seeds, sizes

from icl_gd import attention, constructions, descent, tokens

FORWARD = jax.jit(attention.forward)
PREDICT = jax.jit(attention.predict)


def attend(layer, context, query):
    """e + sum_j P W_V e_j <W_K e_j, W_Q e>, for every token e, one pair of tokens at a time."""
    layer = in_numpy(layer)

    def after(e):
        out = np.array(e)
        for e_j in context:
            score = np.dot(layer.key @ e_j, layer.query @ e)
            out += layer.project @ (layer.value @ e_j) * score
        return out

    return np.stack([after(e) for e in context]), after(query)


def tokens_of(task, w0=None):
    task, w0 = in_numpy((task, w0))
    query = np.zeros_like(task.y_query) if w0 is None else -w0 @ task.x_query
    return np.hstack([task.x, task.y]), np.hstack([task.x_query, query])


def test_one_layer_is_the_double_loop():
    for n, token in ((1, 2), (3, 4), (5, 3)):
        context, query = a_matrix(1, n, token), a_matrix(2, token)
        layer = a_layer(3, token)
        after = attention.linear_attention(layer, tokens.Prompt(context, query))
        expected = attend(layer, *in_numpy((context, query)))
        np.testing.assert_allclose(after.context, expected[0], rtol=1e-12)
        np.testing.assert_allclose(after.query, expected[1], rtol=1e-12)


def test_products_are_what_a_layer_depends_on():
    layer = attention.Attention(*(a_matrix(i, 2, 3, 3) for i in range(4)))  # a batch of two
    kq, pv = attention.products(layer)
    np.testing.assert_allclose(kq, np.einsum("bki,bkj->bij", layer.key, layer.query), rtol=1e-12)
    np.testing.assert_allclose(
        pv, np.einsum("bik,bkj->bij", layer.project, layer.value), rtol=1e-12
    )


@settings(max_examples=20)
@given(sizes, seeds)
def test_prediction_through_layers_is_the_double_loop(size, seed):
    n, d, m = size
    task, w0 = a_task(seed, n, d, m), a_matrix(seed, m, d)
    layers = [a_layer(seed + i, d + m) for i in range(3)]
    context, query = tokens_of(task, w0)
    for layer in layers:
        context, query = attend(layer, context, query)
    scale = np.abs(np.concatenate([context.ravel(), query])).max()
    after = FORWARD(layers, tokens.join(task, w0))
    np.testing.assert_allclose(after.context, context, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(after.query, query, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(PREDICT(layers, task, w0), -query[d:], rtol=1e-9, atol=1e-12 * scale)


def test_without_layers_the_prediction_is_where_it_starts():
    task, w0 = a_task(0, 4, 3, 2), a_matrix(1, 2, 3)
    np.testing.assert_allclose(attention.predict([], task, w0), w0 @ task.x_query, rtol=1e-14)
    np.testing.assert_array_equal(attention.predict([], task), [0, 0])


@pytest.mark.parametrize("damping", [None, 0.3])
def test_roll_out_is_the_loop_that_moves_labels_only(damping):
    n, d, m, steps = 4, 3, 2, 5
    task, layer = a_task(0, n, d, m), a_layer(1, d + m)
    layer = layer._replace(project=0.01 * layer.project)
    context, query = tokens_of(task)
    expected = [-query[d:]]
    for _ in range(steps):
        after, query_after = attend(layer, context, query)
        strength = 1.0 if damping is None else damping
        context[:, d:] += strength * (after - context)[:, d:]
        query[d:] += strength * (query_after - query)[d:]
        expected.append(-query[d:])
    given_damping = {} if damping is None else {"damping": damping}
    path = attention.roll_out(layer, task, steps, **given_damping)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-13)


def test_roll_out_of_the_construction_is_damped_gradient_descent():
    n, d, m, eta = 6, 3, 2, 0.4
    task = a_task(2, n, d, m)
    layer = constructions.gradient_step(eta, n, jnp.zeros((m, d)))
    path = descent.gradient_descent(jnp.zeros((m, d)), task.x, task.y, 0.75 * eta, 8)
    rolled = attention.roll_out(layer, task, 8, damping=0.75)
    np.testing.assert_allclose(rolled, path @ task.x_query, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        attention.roll_out(layer, task, 3)[-1], attention.predict([layer] * 3, task), rtol=1e-12
    )


@pytest.mark.parametrize("name", attention.Attention._fields)
@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (6, 6), (5,)])
def test_weight_of_another_size_is_named(unchecked, name, shape):
    task = a_task(0, 4, 3, 2)
    layer = a_layer(0, 5)._replace(**{name: np.zeros(shape)})
    message = rf"layer.{name} must have shape \(5, 5\), got \({', '.join(map(str, shape))},?\)"
    with pytest.raises(ValueError, match=message):
        attention.predict([layer], task)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an int of at least 1, got 2.0"),
        ({"damping": 0.0}, ValueError, "damping must be positive, got 0.0"),
        ({"damping": np.nan}, ValueError, "damping must be finite, got nan"),
    ],
)
def test_bad_roll_out_is_named(unchecked, change, error, message):
    with pytest.raises(error, match=message):
        attention.roll_out(a_layer(0, 5), a_task(0, 4, 3, 2), **{"steps": 3, **change})


def test_bad_start_is_named(unchecked):
    with pytest.raises(ValueError, match=r"w0 must have shape \(2, 3\), got \(3, 2\)"):
        attention.predict([], a_task(0, 4, 3, 2), np.zeros((3, 2)))
