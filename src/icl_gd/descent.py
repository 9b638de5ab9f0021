"""The learning algorithms that attention is compared with, written without attention.

The loss everywhere is L(W) = 1/(2N) sum_i ||W x_i - y_i||^2: a mean over examples, with
the half. Products of matrices are float32-exact, whatever the caller sets.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require
from icl_gd._annotations import Scalar
from icl_gd._precision import exact
from icl_gd.tasks import Task


@exact
def loss(
    w: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
) -> Float[Array, ""]:
    """L(W) = 1/(2N) sum_i ||W x_i - y_i||^2."""
    return 0.5 * jnp.mean(jnp.sum((x @ w.T - y) ** 2, axis=1))  # mutant: squared


@exact
def gradient(
    w: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
) -> Float[Array, "outputs dim"]:
    """dL/dW = 1/N sum_i (W x_i - y_i) x_i^T."""
    return (x @ w.T - y).T @ x / len(x)


def gradient_descent(
    w0: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
    eta: Scalar,
    steps: int,
) -> Float[Array, "{steps}+1 outputs dim"]:
    """Every iterate of W <- W - eta dL/dW, from w0 on."""
    _require.at_least(1, steps=steps)
    _require.finite(eta=eta)
    _require.as_wide_as((x, y, eta), w0=w0)

    def step(w, _):
        w = w - eta * gradient(w, x, y)
        return w, w

    _, path = jax.lax.scan(step, w0, None, length=steps)
    return jnp.concatenate([w0[None], path])


@exact
def predict(
    task: Task,
    eta: Scalar,
    steps: int = 1,
    w0: Float[Array, "outputs dim"] | None = None,
) -> Float[Array, " outputs"]:
    """The label W x_q that a query gets after steps of gradient descent from W0.

    W0 = 0 if None.
    """
    if w0 is None:
        dtype = jnp.result_type(task.y, eta)  # mutant: in any order
        w0 = jnp.zeros((task.y.shape[1], task.x.shape[1]), dtype)
    return gradient_descent(w0, task.x, task.y, eta, steps)[-1] @ task.x_query


@exact
def gd_plus_plus(
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
    x_query: Float[Array, " dim"],
    rate: Float[Array, " steps"],
    gamma: Float[Array, " steps"],
) -> Float[Array, " outputs"]:
    """The prediction for x_query after steps of GD++ from W = 0.

    Each step fits residuals by a gradient step of size eta = N rate from W = 0, adds
    what it learned to the prediction, and then replaces every input by (I - gamma sum_i
    x_i x_i^T) x, with the inputs before the step. von Oswald et al. (2022), A.10.
    """
    _require.finite(rate=rate, gamma=gamma)
    _require.as_wide_as((x, y, x_query, rate, gamma), x=x, y=y, x_query=x_query)
    w0 = jnp.zeros((y.shape[1], x.shape[1]), y.dtype)

    def step(carry, size):
        x, y, x_query, prediction = carry
        rate, gamma = size
        w = -len(x) * rate * gradient(w0, x, y)
        shrink = lambda inputs: inputs - gamma * inputs @ x.T @ x  # mutant: all turn
        return (shrink(x), y - x @ w.T, shrink(x_query), prediction + w @ x_query), None

    start = x, y, x_query, w0 @ x_query
    (_, _, _, prediction), _ = jax.lax.scan(step, start, (rate, gamma))
    return prediction


def running_step(
    x: Inexact[Array, "length dim"], eta: Scalar
) -> Inexact[Array, "length-1 dim dim"]:
    """One gradient step from W = 0 on what was seen before each position t = 2..T.

    W_t = eta/(t-1) sum_{i<t} x_{i+1} x_i^*, the step of size eta on 1/(2(t-1))
    sum_{i<t} ||W x_i - x_{i+1}||^2; W_t x_t predicts x_{t+1}.
    """
    _require.finite(eta=eta)
    pairs = x[1:, :, None] * x[:-1].conj()[:, None, :]
    return eta * jnp.cumsum(pairs, axis=0) / jnp.arange(1, len(x))[:, None, None]


@exact
def running_least_squares(
    x: Inexact[Array, "length dim"],
) -> Inexact[Array, "length-1 dim dim"]:
    """The least-norm minimiser of the same loss at each position t = 2..T."""

    def solve(t):
        seen = (jnp.arange(len(x) - 1) < t - 1)[:, None]
        inverse = jnp.linalg.pinv(seen * x[:-1], rtol=1e-10)  # mutant: small enough
        return (inverse @ (seen * x[1:])).T

    return jax.vmap(solve)(jnp.arange(2, len(x) + 1))
