"""The learning algorithms that attention is compared with, written without attention.

The loss everywhere is L(W) = 1/(2N) sum_i ||W x_i - y_i||^2: a mean over examples, with
the half.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from icl_gd import _require


def loss(
    w: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
) -> Float[Array, ""]:
    """L(W) = 1/(2N) sum_i ||W x_i - y_i||^2. ValueError if shapes disagree."""
    _require.shape("w", w, (None, x.shape[1]))
    _require.shape("y", y, (x.shape[0], w.shape[0]))
    return 0.5 * jnp.mean(jnp.sum((x @ w.T - y) ** 2, axis=1))


def gradient(
    w: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
) -> Float[Array, "outputs dim"]:
    """dL/dW = 1/N sum_i (W x_i - y_i) x_i^T. ValueError if shapes disagree."""
    _require.shape("w", w, (None, x.shape[1]))
    _require.shape("y", y, (x.shape[0], w.shape[0]))
    return (x @ w.T - y).T @ x / x.shape[0]


def gradient_descent(
    w0: Float[Array, "outputs dim"],
    x: Float[Array, "context dim"],
    y: Float[Array, "context outputs"],
    eta,
    steps: int,
) -> Float[Array, "{steps}+1 outputs dim"]:
    """Every iterate of W <- W - eta dL/dW, from w0 on.

    Raises ValueError if shapes disagree, steps < 1 or eta is not finite.
    """
    _require.shape("w0", w0, (y.shape[1], x.shape[1]))
    _require.shape("y", y, (x.shape[0], None))
    _require.positive_int("steps", steps)
    _require.finite("eta", eta)

    def step(w, _):
        w = w - eta * gradient(w, x, y)
        return w, w

    _, path = jax.lax.scan(step, w0, None, length=steps)
    return jnp.concatenate([w0[None], path])


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
    Raises ValueError if shapes disagree or a step is not finite.
    """
    _require.shape("y", y, (x.shape[0], None))
    _require.shape("x_query", x_query, (x.shape[1],))
    _require.shape("gamma", gamma, np.shape(rate))
    _require.finite("rate", rate)
    _require.finite("gamma", gamma)
    w0 = jnp.zeros((y.shape[1], x.shape[1]), y.dtype)

    def step(carry, size):
        x, y, x_query, prediction = carry
        rate, gamma = size
        w = -x.shape[0] * rate * gradient(w0, x, y)
        shrink = lambda inputs: inputs - gamma * inputs @ x.T @ x
        return (shrink(x), y - x @ w.T, shrink(x_query), prediction + w @ x_query), None

    start = x, y, x_query, w0 @ x_query
    (_, _, _, prediction), _ = jax.lax.scan(step, start, (rate, gamma))
    return prediction
