"""Closed forms and exact flows for autoregressive training.

Setting (Zheng et al. 2024): x_{t+1} = W x_t for t = 1..T-1, W = diag(lambda), phases
independent and uniform on the unit circle; a real start x_1 independent of them; tokens
(x_t, x_{t-1}) with x_0 = 0; a causal linear layer that predicts x_{t+1}
(``fast.causal_prefix``); loss 1/2 sum_{t=2}^{T-1} ||prediction - x_{t+1}||^2,
summed over positions and averaged over sequences. Products of matrices are
float32-exact, whatever the caller sets, also those of a loss or velocity given here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, PyTree

from icl_gd import _require
from icl_gd._annotations import Numbers, Scalar
from icl_gd._precision import exact
from icl_gd.moments import Kappas


def crosstalk(length: int) -> float:
    """chi, the mean of 1/(t - 1) over the positions t = 2..T-1 that predict.

    H_{T-2} / (T - 2), with the harmonic number H. T >= 3.
    """
    _require.at_least(3, length=length)
    return float(np.mean(1 / np.arange(1.0, length - 1)))


def limit(length: int, law: Kappas) -> Scalar:
    """Where ab ends: k1 / (k2 + k3 chi). Zheng et al. (2024), Theorem 4.1."""
    return law.k1 / (law.k2 + law.k3 * crosstalk(length))


def loss_at(ab: Numbers, t: Numbers, d: int, law: Kappas) -> Numbers:
    """Expected loss of the prediction of x_{t+1} on the diagonal A = a I, B = b I.

    d/2 [(ab)^2 (k2 + k3 / (t - 1)) - 2 ab k1 + m2], t >= 2.
    """
    _require.at_least(1, d=d)
    _require.finite(ab=ab)
    _require.at_least(2, t=t)
    return d / 2 * (ab**2 * (law.k2 + law.k3 / (t - 1)) - 2 * ab * law.k1 + law.m2)


def diagonal_loss(ab: Numbers, length: int, d: int, law: Kappas) -> Numbers:
    """The loss on the diagonal: ``loss_at`` summed over t = 2..T-1.

    d/2 (T - 2) [(ab)^2 (k2 + k3 chi) - 2 ab k1 + m2], T >= 3.
    """
    _require.at_least(1, d=d)
    _require.finite(ab=ab)
    bend = law.k2 + law.k3 * crosstalk(length)
    return d / 2 * (length - 2) * (ab**2 * bend - 2 * ab * law.k1 + law.m2)


def diagonal_flow(
    point: tuple[Numbers, Numbers], length: int, law: Kappas
) -> tuple[Numbers, Numbers]:
    """The velocity of (a, b) under gradient flow of every entry of the weights.

    a' = (T - 2) b [k1 - ab (k2 + k3 chi)], b' the same with a: 1/d of the gradient of
    ``diagonal_loss``, because d entries share the derivative.
    """
    a, b = point
    pull = (length - 2) * (law.k1 - a * b * (law.k2 + law.k3 * crosstalk(length)))
    return b * pull, a * pull


def logistic(time: Numbers, start: Numbers, length: int, law: Kappas) -> Numbers:
    """The product ab after a time of the flow from a = b.

    u / (1 + (u/u0 - 1) e^(-2 (T-2) k1 time)) with the ``limit`` u and u0 = ``start`` =
    a0 b0 > 0.
    """
    _require.positive(start=start)
    _require.finite(time=time)
    end = limit(length, law)
    fade = jnp.exp(-2 * (length - 2) * law.k1 * time)
    return end / (1 + (end / start - 1) * fade)


@exact
def integrate(
    velocity: Callable[[Any], Any],
    start: PyTree[Float[Array, "..."]],
    times: Float[Array, " times"],
    tolerance: float = 1e-9,
) -> PyTree[Float[Array, "times ..."]]:
    """Solves y' = velocity(y) from times[0] on; y at all times, along a leading axis.

    Tsitouras' method with adaptive steps (diffrax); the error of a step is held to
    ``tolerance`` times the size of y, plus a thousandth of it. Raises ValueError for a
    tolerance below 1e-6 without double precision, RuntimeError where the solution
    leaves every bound.
    """
    _require.between(0, 1, tolerance=tolerance)
    if tolerance < 1e-6:
        _require.double(f"integrate with tolerance = {tolerance}")
    _require.increasing(times=times)
    _require.as_wide_as(times, start=start)
    # diffrax's own first step may overflow
    first = 1e-6 * (times[-1] - times[0])  # 4 mutants: any small one
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: velocity(y)), diffrax.Tsit5(),
        times[0], times[-1], first, start, max_steps=100_000,  # 3 mutants: about so
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(tolerance, 1e-3 * tolerance),
    )  # fmt: skip
    return solution.ys


class Descent(NamedTuple):
    """Gradient descent of several runs: what there is before and after each epoch."""

    weights: Any
    losses: Float[Array, "runs iterates"]


@exact
def descend(
    loss: Callable[[Any], Float[Array, ""]],
    start: PyTree[Inexact[Array, "runs ..."]],
    rate: Float[Array, " runs"],
    epochs: int,
) -> Descent:
    """Full-batch gradient descent on ``loss(weights)``, many runs in one scan.

    ``start`` has a leading axis of runs, and ``rate`` one step size a run. For complex
    weights the gradient is d/dRe + i d/dIm. Raises ValueError for a run that diverges.
    """
    _require.concrete(start=start, rate=rate)
    _require.positive(rate=rate)
    _require.at_least(1, epochs=epochs)
    _require.as_wide_as(rate, start=start)

    def one(start, rate):
        def epoch(weights, _):
            value, slope = jax.value_and_grad(loss)(weights)
            ahead = jax.tree.map(lambda w, g: w - rate * g.conj(), weights, slope)
            return ahead, (weights, value)

        last, (path, losses) = jax.lax.scan(epoch, start, None, length=epochs)
        end = jax.tree.map(lambda p, w: jnp.concatenate([p, w[None]]), path, last)
        return Descent(end, jnp.append(losses, loss(last)))

    runs = jax.jit(jax.vmap(one))(start, rate)
    lost = np.asarray(~jnp.isfinite(runs.losses))
    if lost.any():
        run = lost.any(axis=1).argmax()
        raise ValueError(
            f"rate must be small enough to descend, got {rate[run]}: run {run} is not "
            f"finite from epoch {lost[run].argmax()} on"
        )
    return runs
