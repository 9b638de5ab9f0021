"""Closed forms for linear regression in context.

Setting: inputs with i.i.d. coordinates of mean 0, symmetric, with moments m2 = E x^2
and m4 = E x^4; teacher entries N(0, 1); one output; loss 1/2 (prediction - label)^2,
averaged over tasks. Steps of gradient descent and layers of attention have their
losses here, then steps on inputs from N(0, Lambda), whose coordinates differ, then
schedules of many steps (``Schedule``), for given spectra of contexts.
Products of matrices are float32-exact, whatever the caller sets.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import minimize

from icl_gd import _require
from icl_gd._annotations import Numbers, Scalar
from icl_gd._precision import exact
from icl_gd.attention import Products


class Moments(NamedTuple):
    """Second and fourth moment of one input coordinate."""

    m2: Numbers
    m4: Numbers


def uniform_moments(input_range: Numbers = 1.0) -> Moments:
    """Moments of U(-input_range/2, input_range/2)."""
    _require.positive(input_range=input_range)
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


def best_step(n: int, d: int, moments: Moments) -> Numbers:
    """The step size that minimises the expected loss after one step from W = 0: m2 / c.

    eta* = N m2 / (m4 + (d + N - 2) m2^2), for L(W) = 1/(2N) sum_i ||W x_i - y_i||^2.
    """
    _require.at_least(1, n=n, d=d)
    _require_moments(moments)
    return moments.m2 / _curvature(n, d, moments)


def gd_loss(
    eta: Numbers, n: int, d: int, moments: Moments, noisy: Numbers = 0
) -> Numbers:
    """Expected loss after one step from W = 0, with ``noisy`` of the N labels N(0, 1).

    Without noise 1/2 m2 d (1 - 2 eta m2 + c eta^2). The moments are those of the inputs
    at test time: scaling inputs by r turns them into (r^2 m2, r^4 m4), which makes this
    a sextic in r.
    """
    _require.at_least(1, n=n, d=d)
    _require.between(0, n, noisy=noisy)
    _require.finite(eta=eta)
    _require_moments(moments)
    m2, m4 = moments
    clean = n - noisy
    signal = (
        1
        - 2 * eta * m2 * clean / n
        + (eta / n) ** 2 * clean * (m4 + (d + clean - 2) * m2**2)
    )
    return 0.5 * m2 * d * (signal + (eta / n) ** 2 * noisy * m2)


@exact
def population_loss(layer: Products, n: int, moments: Moments) -> Float[Array, ""]:
    """Expected loss of any linear layer, for one output and a query (x_q, 0).

    It depends on the last row of PV and on the x-columns of KQ; nothing else is read.
    With p = (p_x, p_y) the last row of PV, Q the x-block of KQ and q its lower left
    row, the prediction is -w^T S M x_q - r^T x_q, with M = p_y Q + p_x q^T odd and r =
    Q^T S p_x + p_y (w^T S w) q even in w, and L = m2/2 (E||I + S M||^2 + E||r||^2), S =
    sum_i x_i x_i^T.
    """
    _require.at_least(1, n=n)
    _require_moments(moments)
    (m2, m4), d = moments, len(layer.kq) - 1
    p_x, p_y = layer.pv[-1, :d], layer.pv[-1, d]
    q_x, q_y = layer.kq[:d, :d], layer.kq[d, :d]

    s2 = n * (m4 + (d + n - 2) * m2**2)  # E[S^2] = s2 I
    s_trace = (
        n * (m4 + (d - 1) * m2**2) + n * (n - 1) * d * m2**2
    )  # E[S tr S] = s_trace I
    m = odd_map(layer)
    odd = d + 2 * n * m2 * jnp.trace(m) + s2 * jnp.sum(m**2)

    b = q_x @ q_x.T  # E[S B S] = sbs
    sbs = n * (n + 1) * m2**2 * b + n * m2**2 * jnp.trace(b) * jnp.eye(d)
    sbs += n * (m4 - 3 * m2**2) * jnp.diag(jnp.diagonal(b))  # 0 for Gaussian inputs
    even = (
        p_x @ sbs @ p_x  # 2 mutants: sbs is symmetric
        + 2 * p_y * s_trace * (p_x @ q_x @ q_y)  # mutant: the same number
        + p_y**2 * (2 * d * s2 + d * s_trace) * (q_y @ q_y)
    )
    return 0.5 * m2 * (odd + even)


def odd_map(layer: Products) -> Float[Array, "dim dim"]:
    """M = p_y Q + p_x q^T: the part of a layer that is linear in the labels.

    For one output and a query (x_q, 0) the prediction is -(M^T S w + u)^T x_q, with S =
    sum_i x_i x_i^T and u even in the teacher w; p = (p_x, p_y) is the last row of PV, Q
    the x-block of KQ and q its lower left row. One gradient step from W = 0 has M =
    -(eta/N) I and u = 0.
    """
    p_x, p_y = layer.pv[-1, :-1], layer.pv[-1, -1]
    return p_y * layer.kq[:-1, :-1] + jnp.outer(p_x, layer.kq[-1, :-1])


def _centred_curvature(n, d, moments):
    """c of E[S^2] = N^2 c I for the centred S = sum_i (x_i - mean) (x_i - mean)^T."""
    kurtosis = (1 - 1 / n) * (moments.m4 - 3 * moments.m2**2)
    return (n - 1) / n**2 * (kurtosis + (d + n) * moments.m2**2)


def best_centred_step(n: int, d: int, moments: Moments) -> Numbers:
    """The step size that minimises ``centred_loss``.

    N m2 / ((1 - 1/N) (m4 - 3 m2^2) + (d + N) m2^2).
    """
    _require_centred(n, d, moments)
    return (1 - 1 / n) * moments.m2 / _centred_curvature(n, d, moments)


def centred_loss(eta: Numbers, n: int, d: int, moments: Moments) -> Numbers:
    """Expected loss after one step from W = 0 on a context less its mean.

    The step is on 1/(2N) sum_i ||W (x_i - mean x) - (y_i - mean y)||^2, which is least
    squares with a free intercept; the query is not centred. Without noise 1/2 m2 d (1 -
    2 eta (1 - 1/N) m2 + c eta^2). n >= 2.
    """
    _require_centred(n, d, moments)
    _require.finite(eta=eta)
    slope = (1 - 1 / n) * moments.m2
    bend = _centred_curvature(n, d, moments)
    return 0.5 * moments.m2 * d * (1 - 2 * eta * slope + bend * eta**2)


def _require_centred(n, d, moments):
    _require.at_least(2, n=n)
    _require.at_least(1, d=d)
    _require_moments(moments)


def _require_covariance(covariance):
    _require.finite(covariance=covariance)
    if isinstance(covariance, jax.core.Tracer):
        return
    given = np.asarray(covariance, float)
    values = np.linalg.eigvalsh(given)
    slack = 1e-5 * np.abs(values).max()  # mutant: above the rounding of float32
    alike = np.abs(given - given.T).max() <= slack  # 2 mutants: a size, about so
    positive = values.min() >= -slack and values.max() > 0  # mutant: about so
    if not (alike and positive):
        raise ValueError(
            "covariance must be symmetric, without negative eigenvalues and not zero, "
            f"got {covariance}"
        )


def _spread(n, covariance):
    """B of E[S^2] = N^2 Lambda B: (1 + 1/N) Lambda + tr(Lambda)/N I."""
    identity = jnp.eye(len(covariance), dtype=covariance.dtype)
    return (1 + 1 / n) * covariance + jnp.trace(covariance) / n * identity


@exact
def preconditioner(
    n: int, covariance: Float[Array, "dim dim"]
) -> Float[Array, "dim dim"]:
    """A*, the best matrix in place of a step size, for inputs from N(0, Lambda).

    The prediction is 1/N w^T S A x_q, S = sum_i x_i x_i^T, one step from W = 0 on
    1/(2N) sum_i (W x_i - y_i)^2 whose gradient is multiplied by A. A* = ((1 + 1/N)
    Lambda + tr(Lambda)/N I)^-1. Ahn et al. (2023), Theorem 1.
    """
    _require.at_least(1, n=n)
    _require_covariance(covariance)
    return jnp.linalg.inv(_spread(n, covariance))


@exact
def preconditioned_loss(
    step: Float[Array, "dim dim"], n: int, covariance: Float[Array, "dim dim"]
) -> Float[Array, ""]:
    """Expected loss of the prediction 1/N w^T S A x_q with A = ``step``.

    1/2 [tr Lambda - 2 tr(Lambda A Lambda) + tr(A Lambda A^T Lambda B)], inputs and
    query from N(0, Lambda), B the inverse of ``preconditioner``. A multiple of the
    identity is plain gradient descent.
    """
    _require.at_least(1, n=n)
    _require.finite(step=step)
    _require_covariance(covariance)
    first = jnp.trace(covariance @ step @ covariance)  # 2 mutants: the same trace
    bend = covariance @ _spread(n, covariance)  # mutant: they commute
    second = jnp.trace(step @ covariance @ step.T @ bend)  # mutant: the same trace
    return 0.5 * (jnp.trace(covariance) - 2 * first + second)


@exact
def shaped_loss(
    layer: Products, n: int, covariance: Float[Array, "dim dim"]
) -> Float[Array, ""]:
    """``population_loss`` for inputs and query from N(0, Lambda).

    ``preconditioned_loss`` of A = -N M, and 1/2 E[u^T Lambda u] of the part u that is
    even in w, with M and u as there.
    """
    step = -n * odd_map(layer)
    odd = preconditioned_loss(step, n, covariance)
    p_x, p_y = layer.pv[-1, :-1], layer.pv[-1, -1]
    q_x, q_y = layer.kq[:-1, :-1], layer.kq[-1, :-1]
    b, total = q_x @ covariance @ q_x.T, jnp.trace(covariance)
    square = covariance @ covariance
    # E[S B S], E[S tr S] and E[(w^T S w)^2]
    sbs = n * (n + 1) * covariance @ b @ covariance
    sbs += n * jnp.trace(covariance @ b) * covariance  # mutant: the same trace
    s_trace = n**2 * total * covariance + 2 * n * square
    w_s_w = n * (n + 2) * (total**2 + 2 * jnp.trace(square))
    even = p_x @ sbs @ p_x  # 2 mutants: sbs is symmetric
    even += p_y**2 * w_s_w * (q_y @ covariance @ q_y)  # 2 mutants: so is covariance
    cross = p_x @ s_trace @ q_x @ covariance @ q_y  # 3 mutants: the same number
    even += 2 * p_y * cross
    return odd + 0.5 * even


class Schedule(NamedTuple):
    """Two numbers for each layer of GD++; with gamma = 0 it is gradient descent.

    ``rate`` is eta_k / N, the step of the labels, and ``gamma`` the step of the inputs,
    x <- (I - gamma_k S) x, with S = sum_i x_i x_i^T of that layer. The last gamma is
    never read.
    """

    rate: Float[Array, " layers"]
    gamma: Float[Array, " layers"]


def unlearned(
    h: Float[Array, "*spectra"], schedule: Schedule
) -> Float[Array, "*spectra"]:
    """p(h), the part of the teacher that is left on eigenvectors of S of eigenvalue h.

    Layer by layer p <- p (1 - rate h s^2) and s <- s (1 - gamma h s^2), both from 1;
    the prediction is w^T (I - p(S)) x_q. A polynomial in h of degree (3^L - 1)/2, or L
    without gamma.
    """
    _require.finite(rate=schedule.rate, gamma=schedule.gamma)
    _require.as_wide_as(schedule, h=h)

    def layer(carry, step):
        p, s = carry
        rate, gamma = step
        seen = h * s**2
        return (p * (1 - rate * seen), s * (1 - gamma * seen)), None  # mutant: s^2

    (p, _), _ = jax.lax.scan(layer, (jnp.ones_like(h), jnp.ones_like(h)), schedule)
    return p


def spectral_loss(
    spectrum: Float[Array, " dim"], schedule: Schedule, moments: Moments
) -> Float[Array, ""]:
    """The expected loss given a context: 1/2 m2 sum_i p(h_i)^2, h the eigenvalues of S.

    The averages over the teacher and the query are exact; the mean over contexts is the
    caller's.
    """
    _require_moments(moments)
    return 0.5 * moments.m2 * jnp.sum(unlearned(spectrum, schedule) ** 2)


def best_steps(spectra: Float[Array, "contexts dim"], layers: int) -> Schedule:
    """The steps of gradient descent with the smallest loss on given contexts, exactly.

    The minimiser of the mean of p(h)^2 over all polynomials of degree L with p(0) = 1
    is orthogonal to lower degrees in the measure h dmu(h), mu the spectra. Its zeros
    are the Gauss nodes of that measure (eigenvalues of the Jacobi matrix, by Lanczos),
    all positive, so that L steps of sizes 1/zero reach it. In increasing order; any
    order gives the same p. Rounding shows from some tens of layers on, where p is steep
    at the largest eigenvalues. Raises ValueError unless the spectra hold as many
    different positive eigenvalues.
    """
    _require.at_least(1, layers=layers)
    _require.concrete(spectra=spectra)
    _require.finite(spectra=spectra)
    h = np.maximum(np.asarray(spectra, float).ravel(), 0)  # mutant: it commutes
    different = np.unique(h[h > 0]).size
    if different < layers:
        raise ValueError(
            f"spectra must hold {layers} different positive eigenvalues, "
            f"got {different}"
        )
    basis, ahead = np.zeros((layers, h.size)), np.sqrt(h)
    for k in range(layers):  # Lanczos; orthogonal to all, against rounding
        ahead = ahead - basis.T @ (basis @ ahead)  # mutant: no matter which way
        basis[k] = ahead / np.linalg.norm(ahead)
        ahead = h * basis[k]
    zeros = np.linalg.eigvalsh((basis * h) @ basis.T)
    return Schedule(jnp.asarray(1 / zeros[::-1]), jnp.zeros(layers))


def triple_angle(edge: Scalar, layers: int) -> Schedule:
    """Layers that triple an angle: rate_k = gamma_k = 9^(k-1) 4 / (3 edge).

    On h = edge sin^2 theta they give p(h) = sin(3^L theta) / (3^L sin theta), the
    polynomial of degree (3^L - 1)/2 with p(0) = 1 for which the largest absolute value
    of sqrt(h) p(h) on [0, edge] is smallest.
    """
    _require.at_least(1, layers=layers)
    _require.positive(edge=edge)
    steps = 4 / (3 * edge) * 9.0 ** jnp.arange(layers)
    return Schedule(steps, steps)


@jax.jit
def _log_loss_and_slope(spectra, schedule):
    square = lambda schedule: unlearned(spectra, schedule) ** 2
    log_loss = lambda schedule: jnp.log(jnp.mean(square(schedule)))  # mutant: shift
    return jax.value_and_grad(log_loss)(schedule)


def best_schedule(
    spectra: Float[Array, "contexts dim"], start: Schedule, shared: bool = False
) -> Schedule:
    """The schedule with the smallest loss on given contexts, by BFGS from ``start``.

    Rates and gammas are multiplied by factors, one each, or with ``shared`` one for all
    rates and one for all gammas: zeros and (shared) ratios stay as they are. In double
    precision only: raises ValueError without ``jax_enable_x64``, and RuntimeError where
    no minimum is reached.
    """
    _require.double("best_schedule")
    _require.concrete(spectra=spectra, start=start)
    _require.finite(spectra=spectra, rate=start.rate, gamma=start.gamma)
    first = np.asarray(start, float)

    def objective(factors):
        schedule = Schedule(*(first * factors.reshape(2, -1)))  # mutant: any negative
        value, slope = _log_loss_and_slope(spectra, schedule)
        slope = np.asarray(slope, float) * first
        slope = slope.sum(axis=1) if shared else slope  # mutant: BFGS minds no scale
        return float(value), slope.ravel()

    ones = np.ones(2 if shared else first.size)
    close = {"gtol": 1e-6}  # mutant: closer than needed
    found = minimize(objective, ones, jac=True, options=close)
    if not np.linalg.norm(found.jac) < 1e-3:  # 2 mutants: it is far from either
        raise RuntimeError(f"no minimum reached from {start}: {found.message}")
    factors = found.x.reshape(2, -1)  # mutant: any negative
    return Schedule(*jnp.asarray(first * factors))
