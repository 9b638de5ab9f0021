"""Layers that carry a state and take a step on it at every pair that they read.

A state S maps keys to values, v ~ S k, and is judged pair by pair by the inner loss
1/2 ||S k - v||^2: with the half, without a mean. A layer is a ``Rule`` for S, and its
answer to a query is S q. Keys, values and queries stand in rows, one for a position.
Products of matrices follow the caller's ``jax_default_matmul_precision``.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from icl_gd import _require
from icl_gd._annotations import Numbers, Scalar


class Rule(NamedTuple):
    """A layer as data: which step on the inner loss it takes at a pair.

    ``batch``: residuals S k - v are those of the state with which a batch of so many
    pairs began; 1 is the newest state, None makes the sequence one batch. ``implicit``:
    the step minimises the loss itself, not its tangent. ``metric``: a step is measured
    by all pairs seen, not by one step size. Both need ``batch`` 1, and ``metric`` is
    for implicit steps.
    """

    batch: int | None = 1
    implicit: bool = False
    metric: bool = False


SUM = Rule(batch=None)  # linear attention
DELTA = Rule()  # DeltaNet; with a decay Gated DeltaNet
PROXIMAL = Rule(implicit=True)  # Longhorn
LEAST_SQUARES = Rule(implicit=True, metric=True)  # recursive; the mesa layer


class Memory(NamedTuple):
    """What a layer carries: its state, that of its batch's start, and its metric P."""

    state: Float[Array, "outputs dim"]
    began: Float[Array, "outputs dim"]
    metric: Float[Array, "dim dim"] | None


def step(
    rule: Rule,
    memory: Memory,
    k: Float[Array, " dim"],
    v: Float[Array, " outputs"],
    beta: Scalar,
    alpha: Scalar = 1.0,
) -> Memory:
    """One pair: S <- alpha S - (S_b k - v) g^T; S_b, of the batch's start, decays too.

    g = beta k, for an implicit step beta k / (1 + beta ||k||^2): the new state X has
    the least 1/2 ||X k - v||^2 + ||X - alpha S||^2 / (2 beta). The step that remembers
    its metric has g = P k / (1 + k^T P k) with P <- P / alpha before and P <- P - g k^T
    P after it; there alpha discounts the pairs and not S, and beta is where P = beta I
    begins.
    """
    state, began, metric = memory
    if rule.metric:
        metric = metric / alpha
        along = metric @ k
    else:
        state, began = alpha * state, alpha * began
        along = beta * k
    began = state if rule.batch == 1 else began
    gain = along / (1 + k @ along) if rule.implicit else along
    if rule.metric:
        # k^T P, not P k: what rounding makes of P grows as 1 / alpha^t along P k
        metric = metric - jnp.outer(gain, k @ metric)
    return Memory(state - jnp.outer(began @ k - v, gain), began, metric)


def _require_rule(rule, length, beta, alpha):
    if rule.batch is not None:
        _require.at_least(1, batch=rule.batch)
    if (rule.implicit or rule.metric) and (rule.batch != 1 or not rule.implicit):
        raise ValueError(
            "a rule with implicit or metric must have batch 1, and one with metric "
            f"must be implicit, got {rule}"
        )
    _require_rates(length, beta, alpha)
    if rule.metric:
        _require.positive(alpha=alpha, beta=beta)
        if jnp.ndim(beta):
            message = "beta must be one number for a rule with metric, got several"
            raise ValueError(message)


def _require_rates(length, beta, alpha):
    _require.finite(beta=beta, alpha=alpha)
    _require.at_least(0, alpha=alpha)
    for name, rate in {"beta": beta, "alpha": alpha}.items():
        if jnp.shape(rate) not in [(), (length,)]:
            raise ValueError(
                f"{name} must be one number or {length}, one for a pair, got shape "
                f"{jnp.shape(rate)}"
            )


def _rates(keys, values, beta, alpha):
    """beta and alpha for every pair, of the type of all that is combined."""
    kind = jnp.result_type(keys, values, beta, alpha)
    spread = lambda rate: jnp.broadcast_to(jnp.asarray(rate, kind), len(keys))
    return spread(beta), spread(alpha)


def _scan(rule, look, keys, values, beta, alpha, start, seen):
    """What ``look(state, what is seen there)`` gives after every pair."""
    length, dim = keys.shape
    _require_rule(rule, length, beta, alpha)
    rates = _rates(keys, values, beta, alpha)
    if start is None:
        start = jnp.zeros((values.shape[1], dim), rates[0].dtype)
    _require.as_wide_as((keys, values, beta, alpha), start=start)
    metric = beta * jnp.eye(dim, dtype=start.dtype) if rule.metric else None
    batch = length if rule.batch is None else rule.batch

    def read_pair(memory, pair):
        at, seen, *pair = pair
        if batch > 1:
            began = jnp.where(at % batch == 0, memory.state, memory.began)
            memory = memory._replace(began=began)
        memory = step(rule, memory, *pair)
        return memory, look(memory.state, seen)

    memory = Memory(start, start, metric)
    pairs = jnp.arange(length), seen, keys, values, *rates
    return jax.lax.scan(read_pair, memory, pairs)[1]


def states(
    rule: Rule,
    keys: Float[Array, "length dim"],
    values: Float[Array, "length outputs"],
    beta: Numbers,
    alpha: Numbers = 1.0,
    start: Float[Array, "outputs dim"] | None = None,
) -> Float[Array, "length outputs dim"]:
    """The state after every pair, from ``start`` on (0 if None).

    beta and alpha are one number or one for a pair; alpha is not negative.
    """
    return _scan(rule, lambda state, _: state, keys, values, beta, alpha, start, None)


def outputs(
    rule: Rule,
    queries: Float[Array, "length dim"],
    keys: Float[Array, "length dim"],
    values: Float[Array, "length outputs"],
    beta: Numbers,
    alpha: Numbers = 1.0,
    start: Float[Array, "outputs dim"] | None = None,
) -> Float[Array, "length outputs"]:
    """S_t q_t, with the state S_t after the pair of the same position.

    As ``states``, none of which is kept.
    """
    return _scan(rule, jnp.matmul, keys, values, beta, alpha, start, queries)


def mesa(
    queries: Float[Array, "length dim"],
    keys: Float[Array, "length dim"],
    values: Float[Array, "length outputs"],
    ridge: Scalar,
    gamma: Scalar = 1.0,
) -> Float[Array, "length outputs"]:
    """S_t q_t for S_t of least sum_s gamma^(t-s) ||S k_s - v_s||^2 + ridge ||S||^2.

    S_t = G_t (H_t + ridge I)^-1 with G_t = sum_s gamma^(t-s) v_s k_s^T and H_t the same
    sum of k_s k_s^T. von Oswald et al. (2023, 2025).
    """
    _require.positive(ridge=ridge)
    _require.between(0, 1, gamma=gamma)
    read = partial(states, SUM, keys, beta=1.0, alpha=gamma)
    g, h = read(values), read(keys)
    kept = ridge * jnp.eye(len(keys.T), dtype=h.dtype)
    solve = lambda g, h, q: g @ jnp.linalg.solve(h + kept, q)
    return jax.vmap(solve)(g, h, queries)


def chunkwise(
    queries: Float[Array, "length dim"],
    keys: Float[Array, "length dim"],
    values: Float[Array, "length outputs"],
    beta: Numbers,
    alpha: Numbers = 1.0,
    chunk: int = 64,
) -> Float[Array, "length outputs"]:
    """What ``outputs`` gives for ``DELTA`` from S = 0, a chunk of positions at a time.

    In a chunk that begins with S, and with c_t = alpha_1 ... alpha_t in it, S_t = c_t S
    + sum_{s <= t} (c_t / c_s) u_s k_s^T, where u_t = beta_t (v_t - alpha_t S_{t-1} k_t)
    is what is written: ``_writes``. Only u and the next S wait for the chunk before;
    answers are read for all chunks at once. alpha is positive. Yang et al. (2024),
    arXiv:2406.06484 and arXiv:2412.06464.
    """
    length, dim = keys.shape
    _require_rates(length, beta, alpha)
    _require.positive(alpha=alpha)
    _require.at_least(1, chunk=chunk)
    if length % chunk:
        raise ValueError(f"chunk must divide length = {length}, got {chunk}")
    rates = _rates(keys, values, beta, alpha)
    cut = lambda rows: rows.reshape(length // chunk, chunk, *rows.shape[1:])
    q, k, v, beta, alpha = map(cut, (queries, keys, values, *rates))
    log_c = jnp.cumsum(jnp.log(alpha), axis=1)
    causal = jnp.tril(jnp.ones((chunk, chunk), bool))
    over = log_c[:, :, None] - log_c[:, None, :]
    since = jnp.exp(jnp.where(causal, over, -jnp.inf))  # c_t / c_s
    c = jnp.exp(log_c)[..., None]
    free, bound = _writes(k, v, beta[..., None], since, c)
    left, late = c[:, -1:], since[:, -1, :, None] * k

    def pass_chunk(state, parts):
        left, late, free, bound = parts
        u = free - bound @ state.T
        return left * state + u.T @ late, (state, u)

    state = jnp.zeros((v.shape[-1], dim), c.dtype)
    parts = left, late, free, bound
    _, (state, u) = jax.lax.scan(pass_chunk, state, parts, unroll=4)  # for a GPU
    read = c * (q @ state.mT) + (since * (q @ k.mT)) @ u
    return read.reshape(length, -1)


def _writes(k, v, beta, since, c):
    """F and B of Z = F - B S^T, the rows of Z being the u, for every chunk at once.

    (I + A) Z = diag(beta) (V - diag(c) K S^T), A_ts = beta_t (c_t / c_s) k_t . k_s for
    s < t: one triangular system, whatever S is.
    """
    lower = jnp.tril(beta * since * (k @ k.mT), -1)
    inverse = _inverse(jax.lax.stop_gradient(lower))
    solve = partial(
        jax.lax.custom_linear_solve,
        lambda u: u + lower @ u,
        solve=lambda _, right: inverse @ right,
        transpose_solve=lambda _, right: inverse.mT @ right,
    )
    return solve(beta * v), solve(beta * c * k)


def _inverse(lower):
    """(I + A)^-1 for many A at once, from blocks of 1, 2, 4, ... rows.

    [[D, 0], [G, E]]^-1 = [[D^-1, 0], [-E^-1 G D^-1, E^-1]]. LAPACK's solve is as exact,
    but many of them at once can block a machine of two cores for good (JAX 0.10).
    """
    many, size = lower.shape[:2]
    doublings = (size - 1).bit_length()
    gap = 2**doublings - size
    lower = jnp.pad(lower, ((0, 0), (0, gap), (0, gap)))
    inverse = jnp.ones((2**doublings, many, 1, 1), lower.dtype)
    for rows in (2**i for i in range(doublings)):
        at = jnp.arange(len(inverse) // 2)
        g = lower.reshape(many, len(at), 2 * rows, len(at), 2 * rows)
        g = g[:, at, rows:, at, :rows]
        d, e = inverse[0::2], inverse[1::2]
        inverse = jnp.block([[d, jnp.zeros_like(d)], [-e @ g @ d, e]])
    return inverse[0, :, :size, :size]
