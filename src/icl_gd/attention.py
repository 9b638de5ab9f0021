"""The forward pass of linear self-attention, for trained and hand-set weights alike.

Its matrix products follow the caller's ``jax_default_matmul_precision``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require
from icl_gd.tasks import Task
from icl_gd.tokens import Prompt, join, prediction


class Attention(NamedTuple):
    """What is trained: W_Q, W_K, W_V and projection P of a head, acting on columns."""

    query: Float[Array, "*batch token token"]
    key: Float[Array, "*batch token token"]
    value: Float[Array, "*batch token token"]
    project: Float[Array, "*batch token token"]


class Products(NamedTuple):
    """What a layer is: it depends on KQ = W_K^T W_Q and PV = P W_V alone."""

    kq: Float[Array, "*batch token token"]
    pv: Float[Array, "*batch token token"]


Attend = Callable[[Products, Prompt], Prompt]


def products(layer: Attention) -> Products:
    """Multiplies a layer's weights into KQ and PV."""
    (layer,) = _require.real(layer=layer)
    return Products(layer.key.mT @ layer.query, layer.project @ layer.value)


def _of_size(layer, prompt):
    """KQ and PV; raises unless all tokens have one size, and both matrices too."""
    token = prompt.query.shape[0]
    _require.shape("prompt.context", prompt.context, (None, token))
    if not isinstance(layer, Products):
        given = type(layer).__name__
        raise TypeError(f"layer must be Products, got {given} (see attention.products)")
    for name, matrix in layer._asdict().items():
        _require.shape(f"layer.{name}", matrix, (token, token))
    return _require.real(layer=layer)[0]


def linear_attention(layer: Products, prompt: Prompt) -> Prompt:
    """Adds sum_j PV e_j e_j^T KQ e to every token e, over context tokens e_j.

    No softmax, no scaling by 1/sqrt(d) or 1/N; the query token is never attended to.
    von Oswald et al. (2022), section 2. Raises ValueError if a matrix is not of the
    tokens' size.
    """
    kq, pv = _of_size(layer, prompt)

    def update(e: Float[Array, "*tokens token"]) -> Float[Array, "*tokens token"]:
        return e @ kq.T @ prompt.context.T @ prompt.context @ pv.T

    return jax.tree.map(lambda e: e + update(e), prompt)


def softmax_attention(layer: Products, prompt: Prompt) -> Prompt:
    """Adds sum_j PV e_j softmax_j(e_j^T KQ e / sqrt(token)) to every token e.

    The softmax runs over the context, so that its weights sum to one for every length;
    the query token is never attended to. As in the code published with von Oswald et
    al. (2022), keys have the size of tokens. Raises ValueError if a matrix is not of
    the tokens' size.
    """
    token = prompt.query.shape[0]
    kq, pv = _of_size(layer, prompt)

    def update(e: Float[Array, "*tokens token"]) -> Float[Array, "*tokens token"]:
        scores = e @ kq.T @ prompt.context.T / jnp.sqrt(token)
        return jax.nn.softmax(scores) @ prompt.context @ pv.T

    return jax.tree.map(lambda e: e + update(e), prompt)


def softmax_then_linear(layers: Sequence[Products], prompt: Prompt) -> Prompt:
    """Two layers: ``softmax_attention``, and ``linear_attention`` after it.

    On separate tokens the first can copy each label to its input, which takes a
    softmax, so that the second can descend. von Oswald et al. (2022).
    """
    first, second = layers
    return linear_attention(second, softmax_attention(first, prompt))


def multi_head(attend: Attend, heads: Products, prompt: Prompt) -> Prompt:
    """Adds to every token what each head would add to it: e + sum_h (attend_h(e) - e).

    ``heads`` has a leading axis of heads, ``attend`` is ``linear_attention`` or
    ``softmax_attention``.
    """
    after = jax.vmap(attend, in_axes=(0, None))(heads, prompt)
    return jax.tree.map(lambda e, out: e + jnp.sum(out - e, axis=0), prompt, after)


class Norm(NamedTuple):
    """Scale and offset of a LayerNorm, one entry a feature."""

    scale: Float[Array, "*batch token"]
    offset: Float[Array, "*batch token"]


def layer_norm(norm: Norm, e: Float[Array, " token"]) -> Float[Array, " token"]:
    """scale (e - mean) / sqrt(variance + 1e-5) + offset, over the features of a token.

    Raises ValueError unless scale and offset have the token's shape.
    """
    for name, entry in norm._asdict().items():
        _require.shape(f"norm.{name}", entry, e.shape)
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


def forward(layers: Sequence[Products], prompt: Prompt, clip=None) -> Prompt:
    """Runs a prompt through the layers in order.

    With ``clip``, all entries of all tokens are held to [-clip, clip] after each layer,
    as the code published with von Oswald et al. (2022) does with 10 for more than two
    layers. Raises ValueError unless clip is positive.
    """
    if clip is not None:
        _require.positive("clip", clip)
    for layer in layers:
        prompt = linear_attention(layer, prompt)
        if clip is not None:
            prompt = jax.tree.map(
                lambda e: jnp.clip(e, -clip, clip),  # mutant: it commutes
                prompt,
            )
    return prompt


def predict(
    layers: Sequence[Products],
    task: Task,
    w0: Float[Array, "outputs dim"] | None = None,
    clip=None,
) -> Float[Array, " outputs"]:
    """The label that the layers give to a query; the prediction starts at W0 x_q."""
    return prediction(forward(layers, join(task, w0), clip), len(task.y_query))


def roll_out(
    layer: Products, task: Task, steps: int, damping=1.0
) -> Float[Array, "{steps}+1 outputs"]:
    """The query's prediction before and after each application of one layer.

    Starts at W0 = 0. Only the y-entries of the tokens change, by ``damping`` times what
    the layer adds, as in the roll-out of von Oswald et al. (2022), A.6. Raises
    ValueError unless steps >= 1 and damping is positive.
    """
    _require.positive_int("steps", steps)
    _require.positive("damping", damping)
    _require.shape("damping", damping, ())
    layer, task, damping = _require.real(layer=layer, task=task, damping=damping)
    outputs = len(task.y_query)

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


class Features(NamedTuple):
    """A linear embedding of a token, and an MLP of one hidden layer that adds to it."""

    embed: Float[Array, "*batch width token"]
    hidden: Float[Array, "*batch hidden width"]
    hidden_bias: Float[Array, "*batch hidden"]
    out: Float[Array, "*batch width hidden"]
    out_bias: Float[Array, "*batch width"]


def features(weights: Features, prompt: Prompt) -> Prompt:
    """Maps every token e by itself to m(e) = E e + W_2 gelu(W_1 E e + b_1) + b_2.

    The last of the new entries takes the place of the label. von Oswald et al. (2022),
    A.7.
    """

    def transform(e: Float[Array, "*tokens token"]) -> Float[Array, "*tokens width"]:
        e = e @ weights.embed.T
        hidden = jax.nn.gelu(e @ weights.hidden.T + weights.hidden_bias)
        return e + hidden @ weights.out.T + weights.out_bias

    return jax.tree.map(transform, prompt)


# Causal linear attention, three forms of one map: at each position t = 2..T it gives PV
# E_t E_t^* KQ e_t / (t - 1), with E_t the columns e_1 .. e_t.


def causal_quadratic(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 outputs"]:
    """Scores every token against every earlier one: O(T^2) time and memory.

    Raises ValueError unless ``layer.kq`` is square of the tokens' size and ``layer.pv``
    reads tokens. Zheng et al. (2024), equation 2, which this takes at all positions.
    """
    ages = _require_causal(layer, e)
    scores = (e @ layer.kq.T) @ e.conj().T
    return (jnp.tril(scores) @ e @ layer.pv.T)[1:] / ages


def causal_prefix(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 outputs"]:
    """Sums G_t = sum_{s<=t} e_s e_s^* once for all t: O(T), and parallel over t.

    Errors as for ``causal_quadratic``.
    """
    ages = _require_causal(layer, e)
    gram = jnp.cumsum(e[:, :, None] * e.conj()[:, None, :], axis=0)
    seen = jnp.einsum("tij,tj->ti", gram, e @ layer.kq.T)
    return (seen @ layer.pv.T)[1:] / ages


def causal_recurrent(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 outputs"]:
    """Carries G_t from token to token: O(T) time, and no other memory.

    Errors as for ``causal_quadratic``.
    """
    ages = _require_causal(layer, e)

    def step(gram, e_t):
        gram = gram + jnp.outer(e_t, e_t.conj())
        return gram, layer.pv @ gram @ layer.kq @ e_t

    _, predictions = jax.lax.scan(step, jnp.zeros((e.shape[1],) * 2, e.dtype), e)
    return predictions[1:] / ages


def _require_causal(layer, e):
    """Raises unless shapes fit; the divisors t - 1 of the positions 2..T."""
    _require.shape("e", e, (None, None))
    token = e.shape[1]
    _require.shape("layer.kq", layer.kq, (token, token))
    _require.shape("layer.pv", layer.pv, (None, token))
    return jnp.arange(1, len(e))[:, None]
