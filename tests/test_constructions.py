"""Weights set by hand: entry by entry, and against gradient descent that knows no attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import a_layer, a_matrix, a_task, close, in_numpy, seeds, sizes

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


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("d", [1, 3, 5])
def test_balance_changes_the_scale_and_not_the_layer(d, sign):
    layer = a_layer(3, 5)
    flip = sign * np.sign(np.trace(layer.kq[:d, :d]))  # a negative trace is balanced too
    kq, pv = in_numpy(balance(layer._replace(kq=flip * layer.kq), d))
    assert np.trace(kq[:d, :d]) == pytest.approx(d)
    np.testing.assert_allclose(np.kron(kq, pv), flip * np.kron(*layer), rtol=1e-10, atol=1e-12)


def test_halfway_is_the_mean_of_the_balanced_products():
    layers = a_layer(7, 5), a_layer(8, 5)
    half = jax.jit(constructions.interpolate, static_argnums=2)(*layers, 3)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *(balance(layer, 3) for layer in layers))
    close(half, expected, rtol=1e-10)


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


def test_steps_keep_the_precision_of_w0():
    heads = softmax_step(0.5, jnp.zeros((1, 3), jnp.float32), 2.0)
    assert {weight.dtype for weight in heads} == {jnp.dtype("float32")}


def test_gd_plus_plus_has_the_published_weights():
    layer = gd_plus_plus(0.3, 0.2, d=3, outputs=2)
    value, project = np.diag([1, 1, 1, -1, -1]), np.diag([-0.2, -0.2, -0.2, 0.3, 0.3])
    np.testing.assert_array_equal(layer.kq, np.diag([1, 1, 1, 0, 0]))
    np.testing.assert_allclose(layer.pv, project @ value)
    assert gd_plus_plus(0.3, 0.2, 4).kq.shape == (5, 5)


@pytest.mark.parametrize("n, d, m", [(1, 1, 1), (4, 3, 2), (3, 5, 1)])
def test_layers_are_steps_of_gd_plus_plus(n, d, m):
    task = a_task(10, n, d, m)
    rates, gammas = np.array([0.1, 0.02, 0.07]), np.array([0.03, 0.06, 0.01])
    layers = [gd_plus_plus(*step, d=d, outputs=m) for step in zip(rates, gammas, strict=True)]
    expected = jax.jit(descent.gd_plus_plus)(task.x, task.y, task.x_query, rates, gammas)
    np.testing.assert_allclose(predict(layers, task), expected, rtol=1e-11)


@jax.jit
def copied_and_predicted(task, eta, **more):
    """The tokens before and after the layer that copies, and the prediction."""
    copy, step = constructions.copy_then_step(eta, *task.x.shape, **more)
    prompt = tokens.separate(task)
    middle = attention.softmax_attention(copy, prompt)
    prediction = tokens.prediction(attention.linear_attention(step, middle), 1)
    return prompt.context, middle.context, prediction


@pytest.mark.parametrize("n, d", [(1, 1), (4, 3), (10, 10)])
def test_copying_and_a_step_are_a_step(n, d):
    task = in_numpy(a_task(11, n, d, 1))
    before, after, prediction = in_numpy(copied_and_predicted(task, 0.3))
    before[1:, 10 : 10 + d] += before[:-1, 10 : 10 + d]  # but the first token finds a mixture
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-13)
    w = descend(np.zeros((1, d)), task.x, task.y, 0.3, 1)
    np.testing.assert_allclose(prediction, w @ task.x_query, rtol=1e-12)


def test_copying_is_as_sharp_as_told():
    """The weight of a position depends on its distance alone, by the sum of cosines."""
    before, after, _ = in_numpy(copied_and_predicted(a_task(12, 3, 2, 1), 0.3, sharpness=7.0))
    distance = np.arange(6)[:, None] - 1 - np.arange(6)
    rates = 10_000.0 ** (-np.arange(5) / 5)
    shares = np.exp(7.0 * np.cos(rates * distance[..., None]).sum(axis=-1))
    shares /= shares.sum(axis=1, keepdims=True)
    before[:, 10:12] += shares @ before[:, 10:12]
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-15)
    told, usual = (constructions.copy_then_step(0.3, 3, 2, *s)[0] for s in ([100.0], []))
    np.testing.assert_array_equal(told.kq, usual.kq)


def test_induction_circuit_in_one_program_with_what_reads_it():
    """Its zeros are computed: with ``jnp.zeros``, which XLA knows, its CPU fused the scores of the
    first head into a softmax that read memory nobody had written (jaxlib 0.10.2)."""
    sequence = np.append(0, np.tile(np.random.default_rng(0).integers(1, 32, 60), 3))
    read = lambda circuit, sequence: induction.forward(circuit, sequence).patterns
    expected = jax.jit(read)(induction_circuit(32, 181), sequence)
    whole = jax.jit(lambda s: read(constructions.induction_circuit(32, 181), s))
    for _ in range(20):
        jax.block_until_ready([jnp.full(2**n, jnp.nan) for n in range(8, 20)])  # used memory
        np.testing.assert_allclose(whole(sequence), expected, atol=1e-12)


def causal_shares(scores):
    shares = np.tril(np.exp(scores))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("sharpness", [None, 3.0])
def test_induction_circuit_looks_back_and_copies_what_followed(sharpness):
    """A token without a match rests on token 0, which raises no logit."""
    sequence = np.array([0, 2, 1, 3, 2, 1, 2, 2])
    circuit = induction_circuit(5, 8, *([] if sharpness is None else [sharpness]))
    logits, patterns, _ = in_numpy(jax.jit(induction.forward)(circuit, sequence))
    sharpness, token = sharpness or 100.0, np.eye(5)[sequence]
    previous = causal_shares(sharpness * np.eye(8, k=-1))
    looks = causal_shares(sharpness * (token @ (previous @ token).T + 0.5 * (sequence == 0)))
    near = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(patterns[:, 0], [previous, looks], **near)
    np.testing.assert_allclose(logits, sharpness * looks @ token * [0, 1, 1, 1, 1], **near)
