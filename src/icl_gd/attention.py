"""The forward pass of linear self-attention, for trained and hand-set weights alike."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from icl_gd import _require
from icl_gd.tasks import Task
from icl_gd.tokens import Prompt, join, prediction


class Attention(NamedTuple):
    """The weights of one head, acting on columns: W_Q, W_K, W_V and projection P."""

    query: Float[Array, "*batch token token"]
    key: Float[Array, "*batch token token"]
    value: Float[Array, "*batch token token"]
    project: Float[Array, "*batch token token"]


class Products(NamedTuple):
    """The two matrices that a layer depends on: KQ = W_K^T W_Q and PV = P W_V."""

    kq: Float[Array, "*batch token token"]
    pv: Float[Array, "*batch token token"]


def products(layer: Attention) -> Products:
    """Multiplies a layer's weights into KQ and PV."""
    return Products(layer.key.mT @ layer.query, layer.project @ layer.value)


def linear_attention(layer: Attention, prompt: Prompt) -> Prompt:
    """Adds sum_j P W_V e_j (W_K e_j)^T W_Q e to every token e, over context tokens e_j.

    No softmax, no scaling by 1/sqrt(d) or 1/N; the query token is never attended to.
    von Oswald et al. (2022), section 2. Raises ValueError if a weight is not of the
    tokens' size.
    """
    token = prompt.query.shape[0]
    for name, weight in layer._asdict().items():
        _require.shape(f"layer.{name}", weight, (token, token))

    def update(e: Float[Array, " token"]) -> Float[Array, " token"]:
        scores = prompt.context @ (layer.key.T @ (layer.query @ e))
        return layer.project @ (layer.value @ (scores @ prompt.context))

    changes = Prompt(jax.vmap(update)(prompt.context), update(prompt.query))
    return jax.tree.map(jnp.add, prompt, changes)


def forward(layers: Sequence[Attention], prompt: Prompt) -> Prompt:
    """Runs a prompt through the layers in order."""
    for layer in layers:
        prompt = linear_attention(layer, prompt)
    return prompt


def predict(
    layers: Sequence[Attention],
    task: Task,
    w0: Float[Array, "outputs dim"] | None = None,
) -> Float[Array, " outputs"]:
    """The label that the layers give to a query; the prediction starts at W0 x_q."""
    return prediction(forward(layers, join(task, w0)), task.y_query.shape[0])


def roll_out(
    layer: Attention, task: Task, steps: int, damping=1.0
) -> Float[Array, "{steps}+1 outputs"]:
    """The query's prediction before and after each application of one layer.

    Starts at W0 = 0. Only the y-entries of the tokens change, by ``damping`` times what
    the layer adds, as in the roll-out of von Oswald et al. (2022), A.6. Raises
    ValueError unless steps >= 1 and damping is positive.
    """
    _require.positive_int("steps", steps)
    _require.positive("damping", damping)
    outputs = task.y_query.shape[0]

    def step(prompt, _):
        after = linear_attention(layer, prompt)
        change = jax.tree.map(
            lambda new, old: damping * (new - old).at[..., :-outputs].set(0.0),
            after,
            prompt,
        )
        prompt = jax.tree.map(jnp.add, prompt, change)
        return prompt, prediction(prompt, outputs)

    start = join(task)
    _, predictions = jax.lax.scan(step, start, None, length=steps)
    return jnp.concatenate([prediction(start, outputs)[None], predictions])
