"""The forward pass of linear self-attention, for trained and hand-set weights alike.

A layer (``Products``) maps the tokens of a ``Prompt`` to others; ``predict`` writes a
task as tokens, applies layers, and reads the label of its query. Beside it softmax,
several heads, a LayerNorm before a layer, an MLP on tokens, and a causal form. Products
of matrices follow the caller's ``jax_default_matmul_precision``.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require
from icl_gd._annotations import Scalar
from icl_gd.tasks import Task
from icl_gd.tokens import Prompt, join, prediction


class Attention(NamedTuple):
    """What is trained: W_Q, W_K, W_V and projection P of a head, acting on columns."""

    query: Float[Array, "token token"]
    key: Float[Array, "token token"]
    value: Float[Array, "token token"]
    project: Float[Array, "token token"]


class Products(NamedTuple):
    """What a layer is: KQ = W_K^T W_Q and PV = P W_V. A causal one may be complex."""

    kq: Inexact[Array, "token token"]
    pv: Inexact[Array, "written token"]


def products(
    layer: Annotated[Attention, "*batch"],
) -> Annotated[Products, "*batch"]:
    """Multiplies a layer's weights into KQ and PV."""
    return Products(layer.key.mT @ layer.query, layer.project @ layer.value)


def linear_attention(layer: Products, prompt: Prompt) -> Prompt:
    """Adds sum_j PV e_j e_j^T KQ e to every token e, over context tokens e_j.

    No softmax, no scaling by 1/sqrt(d) or 1/N; the query token is never attended to.
    von Oswald et al. (2022), section 2.
    """

    def update(e: Float[Array, "*tokens token"]) -> Float[Array, "*tokens token"]:
        return e @ layer.kq.T @ prompt.context.T @ prompt.context @ layer.pv.T

    return jax.tree.map(lambda e: e + update(e), prompt)


def softmax_attention(layer: Products, prompt: Prompt) -> Prompt:
    """Adds sum_j PV e_j softmax_j(e_j^T KQ e / sqrt(token)) to every token e.

    The softmax runs over the context, so that its weights sum to one for every length;
    the query token is never attended to. As in the code published with von Oswald et
    al. (2022), keys have the size of tokens.
    """
    token = len(prompt.query)

    def update(e: Float[Array, "*tokens token"]) -> Float[Array, "*tokens token"]:
        scores = e @ layer.kq.T @ prompt.context.T / jnp.sqrt(token)
        return jax.nn.softmax(scores) @ prompt.context @ layer.pv.T

    return jax.tree.map(lambda e: e + update(e), prompt)


def softmax_then_linear(layers: Sequence[Products], prompt: Prompt) -> Prompt:
    """A softmax layer, which can copy labels to their inputs, and a linear one."""
    return linear_attention(layers[1], softmax_attention(layers[0], prompt))


def multi_head(
    attend: Callable[[Products, Prompt], Prompt],
    heads: Annotated[Products, "heads"],
    prompt: Prompt,
) -> Prompt:
    """Adds to every token what each head would add to it: e + sum_h (attend_h(e) - e).

    ``attend`` is ``linear_attention`` or ``softmax_attention``.
    """
    after = jax.vmap(attend, in_axes=(0, None))(heads, prompt)
    return jax.tree.map(lambda e, out: e + jnp.sum(out - e, axis=0), prompt, after)


class Norm(NamedTuple):
    """Scale and offset of a LayerNorm, one entry a feature."""

    scale: Float[Array, " token"]
    offset: Float[Array, " token"]


def layer_norm(norm: Norm, e: Float[Array, " token"]) -> Float[Array, " token"]:
    """scale (e - mean) / sqrt(variance + 1e-5) + offset, over a token's features."""
    spread = jnp.sqrt(jnp.var(e) + 1e-5)
    return norm.scale * (e - jnp.mean(e)) / spread + norm.offset


def pre_norm(norm: Norm, layer: Products, prompt: Prompt) -> Prompt:
    """Linear attention to normalised tokens, added to the tokens as they were.

    von Oswald et al. (2022), A.9, Figure 14 (a).
    """
    over_tokens = jax.vmap(layer_norm, in_axes=(None, 0))
    normed = Prompt(over_tokens(norm, prompt.context), layer_norm(norm, prompt.query))
    after = linear_attention(layer, normed)
    return jax.tree.map(lambda e, a, b: e + a - b, prompt, after, normed)


def forward(
    layers: Sequence[Products], prompt: Prompt, clip: Scalar | None = None
) -> Prompt:
    """Runs a prompt through the layers in order.

    With ``clip``, all entries are held to [-clip, clip] after each layer: to 10 for
    more than two layers in the code published with von Oswald et al. (2022).
    """
    if clip is not None:
        _require.positive(clip=clip)
    hold = lambda e: e if clip is None else jnp.clip(e, -clip, clip)  # mutant: commutes
    for layer in layers:
        prompt = jax.tree.map(hold, linear_attention(layer, prompt))
    return prompt


def predict(
    layers: Sequence[Products],
    task: Task,
    w0: Float[Array, "outputs dim"] | None = None,
    clip: Scalar | None = None,
) -> Float[Array, " outputs"]:
    """The label that the layers give to a query; the prediction starts at W0 x_q."""
    return prediction(forward(layers, join(task, w0), clip), len(task.y_query))


def roll_out(
    layer: Products, task: Task, steps: int, damping: Scalar = 1.0
) -> Float[Array, "{steps}+1 outputs"]:
    """The query's prediction before and after each application of one layer.

    Starts at W0 = 0. Only the y-entries of the tokens change, by ``damping`` times what
    the layer adds, as in the roll-out of von Oswald et al. (2022), A.6.
    """
    _require.at_least(1, steps=steps)
    _require.positive(damping=damping)
    _require.as_wide_as((layer, damping), task=task)
    outputs = len(task.y_query)

    def step(prompt, _):
        after = linear_attention(layer, prompt)
        move = lambda e, to: e + damping * (to - e).at[..., :-outputs].set(0.0)
        prompt = jax.tree.map(move, prompt, after)
        return prompt, prediction(prompt, outputs)

    start = join(task)
    _, predictions = jax.lax.scan(step, start, None, length=steps)
    return jnp.concatenate([prediction(start, outputs)[None], predictions])


class Features(NamedTuple):
    """A linear embedding of a token, and an MLP of one hidden layer that adds to it."""

    embed: Float[Array, "token entries"]
    hidden: Float[Array, "hidden token"]
    hidden_bias: Float[Array, " hidden"]
    out: Float[Array, "token hidden"]
    out_bias: Float[Array, " token"]


def features(
    weights: Features, e: Float[Array, "*tokens entries"]
) -> Float[Array, "*tokens token"]:
    """m(e) = E e + V_2 gelu(V_1 E e + b_1) + b_2, of every token by itself.

    The last of the new entries takes the place of the label. von Oswald et al. (2022),
    A.7.
    """
    e = e @ weights.embed.T
    hidden = jax.nn.gelu(e @ weights.hidden.T + weights.hidden_bias)
    return e + hidden @ weights.out.T + weights.out_bias


def causal_quadratic(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 written"]:
    """Causal linear attention: PV E_t E_t^* KQ e_t / (t - 1) at positions t = 2..T.

    E_t has the columns e_1 .. e_t. Every token is scored against every earlier one, in
    O(T^2) time and memory; ``fast`` has shorter forms. Zheng et al. (2024), equation 2.
    """
    scores = (e @ layer.kq.T) @ e.conj().T
    return (jnp.tril(scores) @ e @ layer.pv.T)[1:] / jnp.arange(1, len(e))[:, None]
