"""The only home of token layout and sign conventions.

Joined tokens: e_j = (x_j, y_j) in R^(d + m). The query token is (x_q, -W0 x_q), and a
prediction is minus the last m entries of the query token: attention *adds* to a token,
gradient descent *subtracts* from a residual, and the two signs meet here.

Pairs: e_t = (x_t, x_{t-1}) in C^(2d), for a sequence that is to be continued.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require
from icl_gd.tasks import Task


class Prompt(NamedTuple):
    """Tokens of one task. Keys and values are read from the context only."""

    context: Float[Array, "context token"]
    query: Float[Array, " token"]


def join(task: Task, w0: Float[Array, "outputs dim"] | None = None) -> Prompt:
    """Writes a task as joined tokens; the prediction starts at W0 x_q (0 if None).

    von Oswald et al. (2022), section 2. Raises ValueError if w0 is not of shape (m, d)
    or not finite.
    """
    if w0 is None:
        y_query = jnp.zeros_like(task.y_query)
    else:
        _require.shape("w0", w0, (task.y_query.shape[0], task.x_query.shape[0]))
        _require.finite("w0", w0)
        y_query = -w0 @ task.x_query
    context = jnp.concatenate([task.x, task.y], axis=1)
    return Prompt(context, jnp.concatenate([task.x_query, y_query]))


def prediction(prompt: Prompt, outputs: int) -> Float[Array, "{outputs}"]:
    """Reads the prediction: minus the last ``outputs`` entries of the query token.

    Raises ValueError unless 1 <= outputs < token size.
    """
    _require.positive_int("outputs", outputs)
    _require.between("outputs", outputs, 1, prompt.query.shape[0] - 1)
    return -prompt.query[-outputs:]


def pair(x: Inexact[Array, "length dim"]) -> Inexact[Array, "length 2*dim"]:
    """Joins every x_t to the one before: e_t = (x_t, x_{t-1}), with x_0 = 0.

    Zheng et al. (2024), section 3.
    """
    before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    return jnp.concatenate([x, before], axis=1)
