"""Sequences, pairs of tokens, causal attention and the running step, written out entry by entry."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import in_numpy

from icl_gd import attention, constructions, descent, fast, tasks, tokens
from icl_gd.attention import Products

FORMS = [
    jax.jit(form)
    for form in (attention.causal_quadratic, fast.causal_prefix, fast.causal_recurrent)
]
running_step = jax.jit(descent.running_step)
STARTS = jax.random.normal, tasks.one_hot_start, tasks.sign_start, tasks.ones_start


def some(seed, *shape):
    draw = np.random.default_rng(seed).normal
    return jax.device_put(draw(size=shape) + 1j * draw(size=shape))


# Tasks.


@pytest.mark.parametrize("start", STARTS)
def test_every_token_is_the_one_before_turned(start):
    draw = jax.jit(lambda key: tasks.autoregressive(key, 6, 3, start))
    x = in_numpy(draw(jax.random.key(0)))
    assert x.shape == (6, 3)
    moving = np.abs(x[0]) > 0
    turns = x[1:, moving] / x[:-1, moving]
    np.testing.assert_allclose(turns, np.broadcast_to(turns[0], turns.shape), rtol=1e-12)
    np.testing.assert_allclose(np.abs(turns), 1, rtol=1e-12)
    assert np.all(x[0].imag == 0)


def test_phases_are_uniform_and_independent():
    draw = jax.jit(jax.vmap(lambda key: tasks.autoregressive(key, 2, 2, tasks.ones_start)[1]))
    w = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)))
    four = 4 / np.sqrt(20_000)
    for power in (w, w**2, w**3, w[:, :1] * w[:, 1:], w[:, :1] * w[:, 1:].conj()):
        assert np.all(np.abs(power.mean(axis=0)) < four)


@pytest.mark.parametrize(
    "start, outcomes",
    [
        (tasks.one_hot_start, [tuple(sign * row) for sign in (-1, 1) for row in np.eye(3)]),
        (tasks.sign_start, product((-1, 1), repeat=3)),
        (tasks.ones_start, [(1, 1, 1)]),
    ],
)
def test_starts_have_their_law(start, outcomes):
    """All outcomes are equally likely."""
    starts = jax.jit(partial(tasks.batch, lambda key: start(key, (3,)), count=12_000))
    found, counts = np.unique(starts(jax.random.key(2)), axis=0, return_counts=True)
    np.testing.assert_array_equal(found, sorted(outcomes))
    mean = 12_000 / len(found)
    assert np.all(np.abs(counts - mean) < 4 * np.sqrt(mean))


# Tokens.


def test_a_pair_holds_a_token_and_the_one_before():
    x = some(0, 5, 2)
    before = np.vstack([np.zeros(2), x[:-1]])
    np.testing.assert_array_equal(tokens.pair(x), np.hstack([x, before]))


# Attention.


def by_definition(layer, e):
    """PV E_t E_t^* KQ e_t / (t - 1), with columns, for t = 2..T."""
    (kq, pv), columns = in_numpy((layer, e.T))
    for t in range(2, len(e) + 1):
        seen = columns[:, :t]
        yield pv @ seen @ seen.conj().T @ kq @ columns[:, t - 1] / (t - 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length, token, outputs", [(2, 2, 1), (7, 4, 2), (5, 3, 3)])
def test_causal_attention_by_definition(form, length, token, outputs):
    layer = Products(some(1, token, token), some(2, outputs, token))
    e = some(3, length, token)
    np.testing.assert_allclose(form(layer, e), [*by_definition(layer, e)], rtol=1e-11)


# Constructions and descent.


def test_blocks_stand_where_they_should():
    a, b = some(0, 2, 2), some(1, 2, 2)
    kq, pv = jax.jit(constructions.embed_blocks)(a, b)
    none = np.zeros((2, 2))
    np.testing.assert_array_equal(kq, np.block([[none, none], [a, none]]))
    np.testing.assert_array_equal(pv, np.hstack([b, none]))


def test_the_layer_takes_the_running_step():
    x = some(4, 7, 3)
    layer = constructions.autoregressive_step(0.6, -0.5, 3)
    assert (layer.kq[3, 0], layer.pv[0, 0]) == (0.6, -0.5)
    layer = jax.tree.map(lambda w: w.astype(complex), layer)
    predictions = attention.causal_quadratic(layer, tokens.pair(x))
    expected = jnp.einsum("tij,tj->ti", running_step(x, -0.3), x[1:])
    np.testing.assert_allclose(predictions, expected, rtol=1e-11)


def test_running_step_by_autodiff():
    x = some(5, 6, 2)

    def loss(w, t):
        gaps = [w @ x[i] - x[i + 1] for i in range(t - 1)]
        return sum(jnp.sum(jnp.abs(gap) ** 2) for gap in gaps) / (2 * (t - 1))

    start, times = jnp.zeros((2, 2), complex), range(2, 7)
    slopes = jax.jit(lambda: [jax.grad(loss)(start, t) for t in times])()
    for slope, w in zip(slopes, in_numpy(running_step(x, 0.7)), strict=True):
        np.testing.assert_allclose(w, -0.7 * np.conj(slope), rtol=1e-11)


def test_running_least_squares():
    """The least-norm solution from too few pairs, and W itself from enough."""
    true, x = some(6, 2, 2), [some(7, 2)]
    for _ in range(4):
        x.append(true @ x[-1])
    x = jnp.stack(x)
    found = descent.running_least_squares(x)
    first = jnp.outer(x[1], x[0].conj()) / jnp.sum(jnp.abs(x[0]) ** 2)
    np.testing.assert_allclose(found[0], first, rtol=1e-10)
    np.testing.assert_allclose(found[1:], np.broadcast_to(true, (3, 2, 2)), rtol=1e-8)
