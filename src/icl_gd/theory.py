"""Closed forms for linear regression in context.

Setting: inputs with i.i.d. coordinates of mean 0, symmetric, with moments m2 = E x^2
and m4 = E x^4; teacher entries N(0, 1); one output; loss 1/2 (prediction - label)^2,
averaged over tasks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from icl_gd import _require
from icl_gd.attention import Products


class Moments(NamedTuple):
    """Second and fourth moment of one input coordinate."""

    m2: float
    m4: float


def uniform_moments(input_range=1.0) -> Moments:
    """Moments of U(-input_range/2, input_range/2); ValueError unless it is positive."""
    _require.positive("input_range", input_range)
    return Moments(input_range**2 / 12, input_range**4 / 80)


def _require_moments(moments):
    if any(isinstance(m, jax.core.Tracer) for m in moments):
        return
    m2, m4 = map(np.asarray, moments)
    if not (np.isfinite(m4).all() and (m2 > 0).all() and (m4 >= m2**2).all()):
        raise ValueError(f"moments must satisfy m4 >= m2^2 > 0, got {moments}")


def _curvature(n, d, moments):
    """c of E[S^2] = N^2 c I for S = sum_i x_i x_i^T: (m4 + (d + N - 2) m2^2) / N."""
    return (moments.m4 + (d + n - 2) * moments.m2**2) / n


def best_step(n: int, d: int, moments: Moments) -> float:
    """The step size that minimises the expected loss after one step from W = 0: m2 / c.

    eta* = N m2 / (m4 + (d + N - 2) m2^2), for L(W) = 1/(2N) sum_i ||W x_i - y_i||^2.
    Raises ValueError unless n, d >= 1 and m4 >= m2^2 > 0.
    """
    _require.positive_int("n", n)
    _require.positive_int("d", d)
    _require_moments(moments)
    return moments.m2 / _curvature(n, d, moments)


def gd_loss(eta, n: int, d: int, moments: Moments, noisy=0):
    """Expected loss after one step from W = 0, with ``noisy`` of the N labels N(0, 1).

    Without noise 1/2 m2 d (1 - 2 eta m2 + c eta^2). The moments are those of the inputs
    at test time: scaling inputs by r turns them into (r^2 m2, r^4 m4), which makes this
    a sextic in r. Raises ValueError unless n, d >= 1 and 0 <= noisy <= n.
    """
    _require.positive_int("n", n)
    _require.positive_int("d", d)
    _require.between("noisy", noisy, 0, n)
    _require.finite("eta", eta)
    _require_moments(moments)
    m2, m4 = moments
    clean = n - noisy
    signal = (
        1
        - 2 * eta * m2 * clean / n
        + (eta / n) ** 2 * clean * (m4 + (d + clean - 2) * m2**2)
    )
    return 0.5 * m2 * d * (signal + (eta / n) ** 2 * noisy * m2)


def population_loss(layer: Products, n: int, moments: Moments) -> Float[Array, ""]:
    """Expected loss of any linear layer, for one output and a query (x_q, 0).

    It depends on the last row of PV and on the x-columns of KQ; nothing else is read.
    With p = (p_x, p_y) the last row of PV, Q the x-block of KQ and q its lower left
    row, the prediction is -w^T S M x_q - r^T x_q, with M = p_y Q + p_x q^T odd and r =
    Q^T S p_x + p_y (w^T S w) q even in w, and L = m2/2 (E||I + S M||^2 + E||r||^2), S =
    sum_i x_i x_i^T. Raises ValueError unless n >= 1 and the products are square
    matrices of one size.
    """
    _require.positive_int("n", n)
    token = layer.kq.shape[0]
    _require.shape("layer.kq", layer.kq, (token, token))
    _require.shape("layer.pv", layer.pv, (token, token))
    _require_moments(moments)
    (m2, m4), d = moments, token - 1
    p_x, p_y = layer.pv[-1, :d], layer.pv[-1, d]
    q_x, q_y = layer.kq[:d, :d], layer.kq[d, :d]

    s2 = n * (m4 + (d + n - 2) * m2**2)  # E[S^2] = s2 I
    s_trace = (
        n * (m4 + (d - 1) * m2**2) + n * (n - 1) * d * m2**2
    )  # E[S tr S] = s_trace I
    m = p_y * q_x + jnp.outer(p_x, q_y)
    odd = d + 2 * n * m2 * jnp.trace(m) + s2 * jnp.sum(m**2)

    b = q_x @ q_x.T  # E[S B S], entry by entry
    off = n * m2**2 * (2 * b + jnp.eye(d) * (jnp.trace(b) - 3 * jnp.diagonal(b)))
    sbs = off + n * m4 * jnp.diag(jnp.diagonal(b)) + n * (n - 1) * m2**2 * b
    even = (
        p_x @ sbs @ p_x
        + 2 * p_y * s_trace * (p_x @ q_x @ q_y)
        + p_y**2 * (2 * d * s2 + d * s_trace) * (q_y @ q_y)
    )
    return 0.5 * m2 * (odd + even)
