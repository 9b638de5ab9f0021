"""Layers that take steps as they read: against their inner losses, and against brute force."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import descent, online

LENGTH, DIM, OUTPUTS = 24, 5, 3
KEYS = jax.random.split(jax.random.key(0), 6)
Q, K = (jax.random.normal(key, (LENGTH, DIM)) / DIM**0.5 for key in KEYS[:2])
V = jax.random.normal(KEYS[2], (LENGTH, OUTPUTS))
BETA = jax.random.uniform(KEYS[3], (LENGTH,))
ALPHA = jax.random.uniform(KEYS[4], (LENGTH,), minval=0.6)
START = jax.random.normal(KEYS[5], (OUTPUTS, DIM))
close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def inner(state, k, v):
    return 0.5 * jnp.sum((state @ k - v) ** 2)


def test_a_delta_layer_descends_the_loss_of_the_newest_pair():
    state = START
    for k, v, beta, alpha in zip(K, V, BETA, ALPHA, strict=True):
        decayed = alpha * state
        state = decayed - beta * jax.grad(inner)(decayed, k, v)
    close(online.states(online.DELTA, K, V, BETA, ALPHA, START)[-1], state)


def test_a_sum_is_one_step_on_all_pairs():
    whole = lambda state: sum(inner(state, k, v) for k, v in zip(K, V, strict=True))
    step = START - 0.1 * jax.grad(whole)(START)
    close(online.states(online.SUM, K, V, 0.1, start=START)[-1], step)
    twice = descent.gradient_descent(START, K, V, 0.1 * LENGTH, 1)[-1]
    close(online.states(online.SUM, K, V, 0.1, start=START)[-1], twice)


def test_a_decayed_sum_weighs_pairs_by_their_age():
    weight = BETA * jnp.array([jnp.prod(ALPHA[t + 1 :]) for t in range(LENGTH)])
    close(online.states(online.SUM, K, V, BETA, ALPHA)[-1], (weight[:, None] * V).T @ K)


@pytest.mark.parametrize("size", [1, 4, LENGTH])
def test_a_batch_shares_the_state_that_it_began_with(size):
    state = START
    for begin in range(0, LENGTH, size):
        pairs = list(zip(K, V, strict=True))[begin : begin + size]
        loss = lambda at, pairs=pairs: sum(inner(at, k, v) for k, v in pairs)
        state = state - 0.1 * jax.grad(loss)(state)
    close(online.states(online.Rule(batch=size), K, V, 0.1, start=START)[-1], state)
    rule = {1: online.DELTA, LENGTH: online.SUM}.get(size, online.Rule(batch=size))
    close(online.states(rule, K, V, 0.1, start=START)[-1], state)


def test_within_a_batch_pairs_add_up_as_they_come():
    states = online.states(online.Rule(batch=4), K, V, 0.1)
    close(states[5], states[3] - 0.1 * sum(jax.grad(inner)(states[3], K[t], V[t]) for t in (4, 5)))


def test_the_start_of_a_batch_decays_with_the_state():
    state = began = START
    for t, (k, v, beta, alpha) in enumerate(zip(K, V, BETA, ALPHA, strict=True)):
        began = alpha * (began if t % 4 else state)
        state = alpha * state - beta * jax.grad(inner)(began, k, v)
    close(online.states(online.Rule(batch=4), K, V, BETA, ALPHA, START)[-1], state)


def test_a_proximal_step_minimises_the_loss_beside_the_way_it_goes():
    states = online.states(online.PROXIMAL, K, V, BETA, ALPHA, START)
    before = jnp.concatenate([START[None], states[:-1]]) * ALPHA[:, None, None]
    whole = lambda s, old, k, v, beta: inner(s, k, v) + jnp.sum((s - old) ** 2) / (2 * beta)
    close(jax.vmap(jax.grad(whole))(states, before, K, V, BETA), 0)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_least_squares_are_those_of_all_pairs(gamma):
    """Against the normal equations; the ridge fades as the pairs do, and in ``mesa`` it stays."""
    states = online.states(online.LEAST_SQUARES, K, V, 2.0, gamma)
    for t in (1, 4, LENGTH):
        root = jnp.sqrt(gamma ** jnp.arange(t - 1, -1, -1))[:, None]
        faded = jnp.sqrt(0.5 * gamma**t) * jnp.eye(DIM)
        x, y = jnp.vstack([root * K[:t], faded]), jnp.vstack([root * V[:t], 0 * START.T])
        close(states[t - 1], jnp.linalg.lstsq(x, y)[0].T)
        x = jnp.vstack([root * K[:t], jnp.sqrt(0.5) * jnp.eye(DIM)])
        answer = jnp.linalg.lstsq(x, y)[0].T @ Q[t - 1]
        close(online.mesa(Q, K, V, 0.5, gamma)[t - 1], answer)


def test_least_squares_hold_over_many_pairs():
    """Rounding errors of the metric fade with the pairs; along P k they grow as 1 / gamma^t."""
    q, k, v = (jnp.tile(a, (10, 1)) for a in (Q, K, V))
    answer = online.mesa(q, k, v, 0.5 * 0.8 ** len(k), 0.8)[-1]
    close(online.states(online.LEAST_SQUARES, k, v, 2.0, 0.8)[-1] @ q[-1], answer)


def test_least_squares_from_a_start_stay_near_it():
    state = online.states(online.LEAST_SQUARES, K, V, 2.0, start=START)[-1]
    ridge = jnp.linalg.solve(K.T @ K + 0.5 * jnp.eye(DIM), K.T @ (V - K @ START.T)).T
    close(state, START + ridge)


@pytest.mark.parametrize("rule", [online.SUM, online.DELTA, online.PROXIMAL, online.Rule(batch=6)])
def test_an_answer_is_read_from_the_state_of_its_place(rule):
    read = online.outputs(rule, Q, K, V, BETA, ALPHA, START)
    close(read, jnp.einsum("tod,td->to", online.states(rule, K, V, BETA, ALPHA, START), Q))


@pytest.mark.parametrize("chunk", [1, 6, LENGTH])
def test_chunks_give_what_the_recurrence_gives(chunk):
    plain = partial(online.outputs, online.DELTA)
    in_chunks = partial(online.chunkwise, chunk=chunk)
    close(in_chunks(Q, K, V, BETA, ALPHA), plain(Q, K, V, BETA, ALPHA))
    close(in_chunks(Q, K, V, 0.3), plain(Q, K, V, 0.3))
    total = lambda form: lambda *parts: jnp.sum(jnp.sin(form(*parts)))
    slopes = lambda form: jax.grad(total(form), argnums=range(5))(Q, K, V, BETA, ALPHA)
    jax.tree.map(close, slopes(in_chunks), slopes(plain))


def test_chunks_bear_a_strong_decay_in_single_precision():
    """c_t falls below what float32 can hold, and its ratios do not."""
    q, k, v = (a.astype(jnp.float32) for a in (jnp.tile(Q, (8, 1)), jnp.tile(K, (8, 1)), V[:1]))
    v, alpha = jnp.tile(v, (len(q), 1)), jnp.full(len(q), 1e-3, jnp.float32)
    beta = jnp.full(len(q), 0.5, jnp.float32)
    chunks = lambda log: jnp.sum(online.chunkwise(q, k, v, beta, jnp.exp(log), chunk=96))
    plain = lambda log: jnp.sum(online.outputs(online.DELTA, q, k, v, beta, jnp.exp(log)))
    for form in (lambda f: f(jnp.log(alpha)), lambda f: jax.grad(f)(jnp.log(alpha))):
        np.testing.assert_allclose(form(chunks), form(plain), rtol=1e-4, atol=1e-5)


def test_chunks_bear_keys_that_repeat():
    """All writes but the first are what the values change by; powers of the system are huge."""
    k = jnp.tile(jnp.array([0.6, 0.8], jnp.float32), (96, 1))
    v = jax.random.normal(jax.random.key(1), (96, 2), jnp.float32)
    one = jnp.ones(96, jnp.float32)
    answers = online.chunkwise(k, k, v, one, one, chunk=96)
    np.testing.assert_allclose(answers, v, rtol=1e-4, atol=1e-5)


def test_no_chunk_calls_lapack():
    """Its solves of many systems at once can wait for each other for ever on two cores."""
    loss = lambda *parts: jnp.sum(online.chunkwise(*parts, chunk=6))
    program = jax.jit(jax.grad(loss, argnums=range(5))).lower(Q, K, V, BETA, ALPHA).as_text()
    assert "lapack" not in program and "triangular_solve" not in program


@pytest.mark.parametrize("kind", [jnp.float32, jnp.float64])
def test_a_number_for_a_rate_leaves_the_type(kind):
    q, k, v = (a.astype(kind) for a in (Q, K, V))
    found = [
        online.chunkwise(q, k, v, 0.3, chunk=6),
        online.mesa(q, k, v, 0.5, 0.9),
        *(online.outputs(rule, q, k, v, 0.3, 0.9) for rule in (online.SUM, online.LEAST_SQUARES)),
    ]
    assert {a.dtype for a in found} == {jnp.dtype(kind)}
    np.testing.assert_allclose(found[0], online.outputs(online.DELTA, Q, K, V, 0.3), atol=1e-5)
