"""The only home of token layout and sign conventions.

Joined tokens: e_j = (x_j, y_j) in R^(d + m). The query token is (x_q, -W0 x_q), and a
prediction is minus the last m entries of the query token: attention *adds* to a token,
gradient descent *subtracts* from a residual, and the two signs meet here.

Pairs: e_t = (x_t, x_{t-1}) in C^(2d), for a sequence that is to be continued. Separate
tokens x_1, y_1, x_2, y_2, ..., x_q also carry the encoding of their position.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require
from icl_gd._precision import exact
from icl_gd.tasks import Task


class Prompt(NamedTuple):
    """Tokens of one task. Keys and values are read from the context only."""

    context: Float[Array, "tokens token"]
    query: Float[Array, " token"]


@exact
def join(task: Task, w0: Float[Array, "outputs dim"] | None = None) -> Prompt:
    """Writes a task as joined tokens; the prediction starts at W0 x_q (0 if None).

    von Oswald et al. (2022), section 2.
    """
    if w0 is None:
        y_query = jnp.zeros_like(task.y_query)
    else:
        _require.finite(w0=w0)
        y_query = -w0 @ task.x_query
    context = jnp.concatenate([task.x, task.y], axis=1)
    return Prompt(context, jnp.concatenate([task.x_query, y_query]))


def prediction(prompt: Prompt, outputs: int) -> Float[Array, "{outputs}"]:
    """Reads the prediction: minus the last ``outputs`` entries of the query token."""
    _require.between(1, len(prompt.query) - 1, outputs=outputs)
    return -prompt.query[-outputs:]


def reader(
    layers: Callable[[Prompt], Prompt], write: Callable[[Task], Prompt] = join
) -> Callable[[Task], Float[Array, " outputs"]]:
    """The model that writes a task as tokens and reads its prediction after the layers.

    A function from a task to the label of its query, as ``measures`` take it.
    """
    return lambda task: prediction(layers(write(task)), len(task.y_query))


def pair(x: Inexact[Array, "length dim"]) -> Inexact[Array, "length 2*dim"]:
    """Joins every x_t to the one before: e_t = (x_t, x_{t-1}), with x_0 = 0.

    Zheng et al. (2024), section 3.
    """
    before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    return jnp.concatenate([x, before], axis=1)


def positions(length: int, channels: int) -> Float[Array, "{length} {channels}"]:
    """sin(w_k p) and cos(w_k p) in turn, w_k = 10000^(-2k / channels), p = 0, 1, ...

    The usual encoding of positions, as in the code published with von Oswald et al.
    (2022). The number of channels is even.
    """
    _require.at_least(1, length=length, channels=channels)
    if channels % 2:
        raise ValueError(f"channels must be even, got {channels}")
    rates = 10_000.0 ** (-jnp.arange(0, channels, 2) / channels)
    angles = jnp.arange(length)[:, None] * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=2).reshape(length, -1)


def _in_turn(
    x: Float[Array, "inputs entries"], y: Float[Array, "labels entries"]
) -> Float[Array, "tokens entries"]:
    """x_1, y_1, x_2, y_2, ..., x_q."""
    tokens = jnp.empty((2 * len(y) + 1, x.shape[1]), x.dtype)
    return tokens.at[::2].set(x).at[1::2].set(y)


CHANNELS = 10  # of the encoding of positions in separate tokens


def separate(task: Task) -> Prompt:
    """Tokens (p, x_j, 0) and (p, 0, y_j) in turn, and the query (p, x_q, 0).

    p is the encoding of the token's position, with ten entries.
    """
    d, outputs = task.x.shape[1], task.y.shape[1]
    x = jnp.pad(jnp.vstack([task.x, task.x_query]), ((0, 0), (0, outputs)))
    tokens = _in_turn(x, jnp.pad(task.y, ((0, 0), (d, 0))))
    encoding = positions(len(tokens), CHANNELS).astype(tokens.dtype)
    tokens = jnp.hstack([encoding, tokens])
    return Prompt(tokens[:-1], tokens[-1])


def separate_published(task: Task) -> Prompt:
    """Tokens (x_j, p) and ((0, y_j), p) in turn, and the query (x_q, p).

    As in the code published with von Oswald et al. (2022): a label shares the last
    entries of the inputs, and ``prediction`` reads the last entries of p, which do not
    start at 0. So there are at most as many outputs as entries of an input.
    """
    d, outputs = task.x.shape[1], task.y.shape[1]
    _require.between(1, d, outputs=outputs)
    labels = jnp.pad(task.y, ((0, 0), (d - outputs, 0)))
    tokens = _in_turn(jnp.vstack([task.x, task.x_query]), labels)
    encoding = positions(len(tokens), CHANNELS).astype(tokens.dtype)
    tokens = jnp.hstack([tokens, encoding])
    return Prompt(tokens[:-1], tokens[-1])
