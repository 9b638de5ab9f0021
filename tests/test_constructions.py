"""Weights set by hand: entry by entry, and against gradient descent that knows no attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import a_layer, a_matrix, a_task, in_numpy, seeds, sizes

from icl_gd import attention, constructions, descent, induction, tokens


def descend(w, x, y, eta, steps):
    """W after ``steps`` steps on 1/(2N) sum_i ||W x_i - y_i||^2, in NumPy."""
    w, x, y = in_numpy((w, x, y))
    for _ in range(steps):
        w = w - eta / len(x) * sum(np.outer(w @ a - b, a) for a, b in zip(x, y, strict=True))
    return w


# Compiled whole, once a size.
gradient_step = jax.jit(constructions.gradient_step, static_argnames="n")
softmax_step = jax.jit(constructions.softmax_step)
gd_plus_plus = jax.jit(constructions.gd_plus_plus, static_argnames=("d", "outputs"))
induction_circuit = jax.jit(constructions.induction_circuit, static_argnums=(0, 1))
balance = jax.jit(constructions.balance, static_argnums=1)
interpolate = jax.jit(constructions.interpolate, static_argnums=2)
predict = jax.jit(attention.predict)
DEPTHS = 1, 2, 5


@partial(jax.jit, static_argnames="n")
def through_layers(eta, n, w0, task):
    """The prompt after each of the depths."""
    layer, prompt = constructions.gradient_step(eta, n, w0), tokens.join(task, w0)
    return {depth: attention.forward([layer] * depth, prompt) for depth in DEPTHS}


def test_gradient_step_has_the_published_weights():
    w0 = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    layer = gradient_step(0.5, 10, w0)
    on_x, project = np.diag([1, 1, 1, 0, 0]), 0.05 * np.eye(5)
    value = [[0] * 5] * 3 + [[1, 2, 3, -1, 0], [4, 5, 6, 0, -1]]
    np.testing.assert_array_equal(layer.kq, on_x.T @ on_x)
    np.testing.assert_array_equal(layer.pv, project @ value)


def test_gradient_step_keeps_the_precision_of_w0():
    layer = gradient_step(0.5, 10, jnp.zeros((2, 3), jnp.float32))
    assert {weight.dtype for weight in layer} == {jnp.dtype("float32")}


@settings(max_examples=15)
@given(sizes, seeds, st.floats(-0.5, 0.5), st.sampled_from(DEPTHS))
def test_layers_are_steps(size, seed, eta, depth):
    """von Oswald et al. (2022), Proposition 1, for any W0, several outputs and any depth."""
    n, d, m = size
    task, w0 = a_task(seed, n, d, m), a_matrix(seed, m, d)
    after = in_numpy(through_layers(eta, n, w0, task)[depth])
    task, w0 = in_numpy((task, w0))
    w = descend(w0, task.x, task.y, eta, depth)
    near = {"rtol": 1e-9, "atol": 1e-12 * max(1.0, np.abs(w).max()) ** 2}
    np.testing.assert_allclose(after.query[:d], task.x_query, rtol=0)
    np.testing.assert_allclose(-after.query[d:], w @ task.x_query, **near)
    np.testing.assert_allclose(after.context[:, :d], task.x, rtol=0)
    np.testing.assert_allclose(after.context[:, d:], task.y - task.x @ (w - w0).T, **near)


def test_hundred_layers_are_a_hundred_steps():
    task, w0 = a_task(0, 10, 5, 3), a_matrix(1, 3, 5)
    layer = gradient_step(0.1, 10, w0)
    prediction = attention.predict([layer] * 100, task, w0)  # compiled whole it takes longer
    w = descend(w0, task.x, task.y, 0.1, 100)
    np.testing.assert_allclose(prediction, w @ task.x_query, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("d, m", [(1, 1), (3, 2), (4, 1)])
def test_balance_changes_the_scale_and_not_the_layer(d, m, sign):
    before = in_numpy(a_layer(3, d + m))
    flip = sign * np.sign(np.trace(before.kq[:d, :d]))  # a negative trace is balanced too
    layer = before._replace(kq=jax.device_put(flip * before.kq))
    balanced = balance(layer, d)
    kq, pv = in_numpy(balanced)
    assert np.mean([kq[i, i] for i in range(d)]) == pytest.approx(1)
    np.testing.assert_allclose(np.kron(kq, pv), np.kron(layer.kq, layer.pv), rtol=1e-10, atol=1e-12)
    task = a_task(4, 3, d, m)
    np.testing.assert_allclose(predict([balanced], task), predict([layer], task), rtol=1e-10)


def test_balance_may_take_the_whole_diagonal():
    layer = a_layer(0, 4)
    assert np.trace(balance(layer, 4).kq) == pytest.approx(4)


def test_halfway_between_a_layer_and_itself_is_the_layer():
    layer, task = a_layer(5, 5), a_task(6, 4, 3, 2)
    other = attention.Products(-3 * layer.kq, layer.pv / -3)  # the same function
    half = interpolate(layer, other, 3)
    np.testing.assert_allclose(predict([half] * 2, task), predict([layer] * 2, task), rtol=1e-9)


def test_halfway_is_the_mean_of_the_balanced_products():
    one, two = a_layer(7, 5), a_layer(8, 5)
    half = interpolate(one, two, 3)
    expected = []
    for layer in in_numpy((one, two)):
        kq, pv = layer
        scale = (kq[0, 0] + kq[1, 1] + kq[2, 2]) / 3
        expected.append((kq / scale, pv * scale))
    (kq1, pv1), (kq2, pv2) = expected
    kq, pv = half
    np.testing.assert_allclose(kq, (kq1 + kq2) / 2, rtol=1e-10)
    np.testing.assert_allclose(pv, (pv1 + pv2) / 2, rtol=1e-10)


def test_balance_and_interpolate_batch():
    layers = jax.tree.map(lambda *a: jnp.stack(a), *(a_layer(i, 4) for i in range(3)))
    many = jax.jit(jax.vmap(lambda layer: constructions.balance(layer, 3)))(layers)
    np.testing.assert_allclose(many.kq[1], balance(a_layer(1, 4), 3).kq, rtol=1e-12)


@jax.jit
def softmax_prediction(heads, task, w0=None):
    prompt = tokens.join(task, w0)
    after = attention.multi_head(attention.softmax_attention, heads, prompt)
    return tokens.prediction(after, task.y_query.shape[0])


def test_softmax_step_is_a_step_on_centred_data_up_to_beta_squared():
    n, d, m, eta = 6, 3, 2, 0.7
    task, w0 = a_task(0, n, d, m), a_matrix(1, m, d)
    x, y = in_numpy(task[:2])
    centred = x - x.mean(0), y - y.mean(0)
    expected = descend(w0, *centred, eta, 1) @ in_numpy(task.x_query)

    def error(beta):
        heads = softmax_step(eta, w0, beta)
        return np.abs(softmax_prediction(heads, task, w0) - expected).max()

    assert error(1e-3) < 1e-5 * np.abs(expected).max()
    assert error(2e-2) / error(1e-2) == pytest.approx(4, rel=1e-2)


def test_softmax_step_is_the_difference_of_two_weighted_means():
    """At any temperature, written out; scores are +-beta x_j^T x_q whatever the token's size."""
    n, d, m, eta, beta = 5, 3, 2, 0.7, 1.3
    task, w0 = a_task(2, n, d, m), a_matrix(3, m, d)
    x, y, x_q = in_numpy(task[:3])
    residuals = y - x @ in_numpy(w0).T
    up, down = (np.exp(sign * beta * x @ x_q) for sign in (1, -1))
    moved = eta / (2 * beta) * (up / up.sum() - down / down.sum()) @ residuals
    found = softmax_prediction(softmax_step(eta, w0, beta), task, w0)
    np.testing.assert_allclose(found, in_numpy(w0) @ x_q + moved, rtol=1e-11)


def test_softmax_step_is_two_opposed_heads_in_the_precision_of_w0():
    heads = softmax_step(0.5, jnp.zeros((1, 3), jnp.float32), 2.0)
    assert {(weight.shape, weight.dtype) for weight in heads} == {((2, 4, 4), jnp.dtype("float32"))}
    kq, pv = in_numpy(heads)
    np.testing.assert_allclose(kq[0], 4.0 * np.diag([1, 1, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(pv[0], np.diag([0, 0, 0, -0.125]), rtol=1e-6)
    np.testing.assert_array_equal(kq[1], -kq[0])
    np.testing.assert_array_equal(pv[1], -pv[0])


def test_gd_plus_plus_has_the_published_weights():
    layer = gd_plus_plus(0.3, 0.2, d=3, outputs=2)
    value, project = np.diag([1, 1, 1, -1, -1]), np.diag([-0.2, -0.2, -0.2, 0.3, 0.3])
    np.testing.assert_array_equal(layer.kq, np.diag([1, 1, 1, 0, 0]))
    np.testing.assert_allclose(layer.pv, project @ value)
    assert gd_plus_plus(0.3, 0.2, 4).kq.shape == (5, 5)


def test_gd_plus_plus_shrinks_inputs_and_steps_labels():
    task = a_task(9, 4, 3, 2)
    after = in_numpy(attention.forward([gd_plus_plus(0.3, 0.2, d=3, outputs=2)], tokens.join(task)))
    x, y, x_query = in_numpy((task.x, task.y, task.x_query))
    s, w = x.T @ x, 0.3 * y.T @ x
    np.testing.assert_allclose(after.context[:, :3], x - 0.2 * x @ s, rtol=1e-12)
    np.testing.assert_allclose(after.context[:, 3:], y - x @ w.T, rtol=1e-12)
    np.testing.assert_allclose(after.query[:3], x_query - 0.2 * s @ x_query, rtol=1e-12)
    np.testing.assert_allclose(after.query[3:], -w @ x_query, rtol=1e-12)


@pytest.mark.parametrize("n, d, m", [(1, 1, 1), (4, 3, 2), (3, 5, 1)])
def test_layers_are_steps_of_gd_plus_plus(n, d, m):
    task = a_task(10, n, d, m)
    rate, gamma = jnp.array([0.1, 0.02, 0.07]), jnp.array([0.03, 0.06, 0.01])
    steps = zip(*in_numpy((rate, gamma)), strict=True)
    layers = [gd_plus_plus(r, g, d=d, outputs=m) for r, g in steps]
    expected = jax.jit(descent.gd_plus_plus)(task.x, task.y, task.x_query, rate, gamma)
    np.testing.assert_allclose(predict(layers, task), expected, rtol=1e-11)


@jax.jit
def copied_and_predicted(task, eta, **more):
    """The positions, the prompt before and after the layer that copies, and the prediction."""
    n, d = task.x.shape
    copy, step = constructions.copy_then_step(eta, n, d, **more)
    prompt = tokens.separate(task)
    middle = attention.softmax_attention(copy, prompt)
    prediction = tokens.prediction(attention.linear_attention(step, middle), 1)
    return tokens.positions(2 * n + 1, 10), prompt, middle, prediction


@pytest.mark.parametrize("n, d", [(1, 1), (4, 3), (10, 10)])
def test_copying_and_a_step_are_a_step(n, d):
    task = a_task(11, n, d, 1)
    places, _, middle, prediction = in_numpy(copied_and_predicted(task, 0.3))
    task = in_numpy(task)
    for j in range(n):
        expected = [*task.x[j], *task.y[j]]
        np.testing.assert_allclose(middle.context[2 * j + 1, 10:], expected, atol=1e-13)
        if j:  # the first token finds a mixture
            expected = [*task.x[j], 0]
            np.testing.assert_allclose(middle.context[2 * j, 10:], expected, atol=1e-13)
    np.testing.assert_allclose(middle.context[:, :10], places[:-1], atol=1e-13)
    w = descend(np.zeros((1, d)), task.x, task.y, 0.3, 1)
    np.testing.assert_allclose(prediction, w @ task.x_query, rtol=1e-12)


def test_copying_is_as_sharp_as_told():
    """The weight of a position depends on its distance alone, by the sum of cosines."""
    task, sharpness = a_task(12, 3, 2, 1), 7.0
    found = copied_and_predicted(task, 0.3, sharpness=sharpness)
    _, (context, _), middle, _ = in_numpy(found)
    rates = 10_000.0 ** (-np.arange(5) / 5)
    for p in range(6):
        scores = [sharpness * np.cos(rates * (p - 1 - j)).sum() for j in range(6)]
        shares = np.exp(scores) / np.exp(scores).sum()
        inputs = context[p, 10:12] + shares @ context[:, 10:12]
        np.testing.assert_allclose(middle.context[p, 10:12], inputs, rtol=1e-12)


def test_induction_circuit_attends_before_and_after():
    """A token without a match rests on token 0; one that occurred looks to what followed."""
    sequence = np.array([0, 2, 1, 3, 2, 1, 2, 2])
    logits, patterns, _ = in_numpy(jax.jit(induction.forward)(induction_circuit(4, 8), sequence))
    before = np.zeros((8, 8))
    before[range(8), [0, *range(7)]] = 1
    np.testing.assert_allclose(patterns[0, 0], before, atol=1e-15)
    looks = [{0}, {0}, {0}, {0}, {2}, {3}, {2, 5}, {2, 5, 7}]
    for i, places in enumerate(looks):
        expected = [(j in places) / len(places) for j in range(8)]
        np.testing.assert_allclose(patterns[1, 0, i], expected, atol=1e-15)
        votes = [sum(sequence[j] == s for j in places) / len(places) for s in range(4)]
        np.testing.assert_allclose(logits[i], 100 * np.array([0, *votes[1:]]), atol=1e-10)


def test_induction_circuit_has_the_stated_scores():
    vocabulary, sharpness = 3, 5.0
    circuit = induction_circuit(vocabulary, 4, sharpness)
    assert circuit.heads.smear is None
    np.testing.assert_array_equal(circuit.heads.bias[:, 0], [[0, sharpness, 0, 0], [0] * 4])
    eye = np.eye(3 * vocabulary).reshape(3, vocabulary, -1)
    qk = np.asarray(induction.qk_circuit(circuit.heads)[:, 0])
    np.testing.assert_array_equal(qk[0], 0)
    for t, present in enumerate(eye[0]):
        assert [present @ qk[1] @ key for key in eye[1]] == pytest.approx(
            [sharpness * (t == s) for s in range(vocabulary)]
        )
        assert [present @ qk[1] @ key for key in eye[0]] == pytest.approx([sharpness / 2, 0, 0])
    ov = np.asarray(induction.ov_circuit(circuit.heads)[:, 0])
    np.testing.assert_array_equal(ov[0], eye[1].T @ eye[0])
    np.testing.assert_array_equal(ov[1], sharpness * eye[2].T @ np.diag([0, 1, 1]) @ eye[0])
    np.testing.assert_array_equal(circuit.embed, eye[0].T)
    np.testing.assert_array_equal(circuit.unembed, eye[2])
