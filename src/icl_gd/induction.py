"""The attention-only language model, for trained and hand-set weights alike.

A sequence of tokens becomes a residual stream, one vector a position. Heads read from
it and add to it; logits are read off at the end. There is no MLP and no normalisation,
so that everything between two softmaxes is a product of matrices. These follow the
caller's ``jax_default_matmul_precision``.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from icl_gd import _require


class Heads(NamedTuple):
    """Attention heads of one layer; weights act on columns.

    ``bias`` is what a score gains by the distance from the attending token back to the
    attended one, 0, 1, ... in that order. ``smear`` (None: no smearing) mixes each key
    with the one before it: k_j <- sigmoid(a) k_j + (1 - sigmoid(a)) k_{j-1}.
    """

    query: Float[Array, "heads size width"]
    key: Float[Array, "heads size width"]
    value: Float[Array, "heads size width"]
    output: Float[Array, "heads width size"]
    bias: Float[Array, "heads reach"]
    smear: Float[Array, " heads"] | None = None


class Transformer(NamedTuple):
    """Embedding W_E, layers of heads, unembedding W_U."""

    embed: Float[Array, "width vocabulary"]
    heads: Annotated[Heads, "layers"]
    unembed: Float[Array, "vocabulary width"]


class Ablation(NamedTuple):
    """Which heads are cut, and what they write instead.

    A head writes keep * (its own result) + (1 - keep) * instead. ``patterns`` (None:
    each head computes its own) are attention patterns that all heads use as they are,
    so that what a cut head wrote does not move the attention of later heads.
    """

    keep: Float[Array, "layers heads"]
    instead: Float[Array, "layers heads context width"]
    patterns: Float[Array, "layers heads context context"] | None = None


class Trace(NamedTuple):
    """A forward pass: its logits, and each head's attention and result.

    ``patterns[l, h, i, j]`` is the attention of position i to position j, and
    ``written[l, h, i]`` what the head adds to the residual stream at position i.
    """

    logits: Float[Array, "context vocabulary"]
    patterns: Float[Array, "layers heads context context"]
    written: Float[Array, "layers heads context width"]


def attention_pattern(
    heads: Heads, stream: Float[Array, "context width"]
) -> Float[Array, "heads context context"]:
    """The causal attention of the heads of one layer: softmax_j of their scores.

    The score of position i for position j <= i is q_i^T k_j / sqrt(size) + bias_{i-j},
    with q = W_Q r, k = W_K r (smeared, if the heads smear; the first key stays as it
    is). The bias reaches as far as the context is long.
    """
    length, size = len(stream), heads.query.shape[-2]
    _require.between(1, heads.bias.shape[-1], context=length)
    query = jnp.einsum("hsw,iw->his", heads.query / jnp.sqrt(size), stream)
    key = jnp.einsum("hsw,iw->his", heads.key, stream)
    if heads.smear is not None:
        own = jax.nn.sigmoid(heads.smear)[:, None, None]
        before = jnp.concatenate([key[:, :1], key[:, :-1]], axis=1)
        key = own * key + (1 - own) * before
    distance = jnp.arange(length)[:, None] - jnp.arange(length)
    bias = heads.bias[:, jnp.maximum(distance, 0)]  # 2 mutants: below 0 is masked
    # The mask joins the bias, which all sequences share: one pass over scores less.
    bias = jnp.where(distance >= 0, bias, -jnp.inf)
    return jax.nn.softmax(jnp.einsum("his,hjs->hij", query, key) + bias)


def forward(
    model: Transformer,
    sequence: Int[Array, " context"],
    ablation: Ablation | None = None,
) -> Trace:
    """The forward pass: r <- r + sum_h W_O^h W_V^h (sum_j A_ij^h r_j), layer by layer.

    The stream starts at r_i = W_E e_{s_i} and is read by W_U. Elhage et al. (2021),
    without normalisation; positions enter by the bias alone. Tokens outside
    the vocabulary raise ValueError, but not where they are traced (``jit``, ``vmap``):
    one beyond the last is taken for the last, and -1, -2, ... count from the end.
    """
    _require.between(0, model.embed.shape[-1] - 1, sequence=sequence)
    stream = model.embed.T[sequence]
    patterns, written = [], []
    for layer in range(model.heads.query.shape[0]):
        heads = jax.tree.map(lambda w, at=layer: w[at], model.heads)
        pattern = attention_pattern(heads, stream)
        if ablation is not None and ablation.patterns is not None:
            pattern = ablation.patterns[layer]
        value = jnp.einsum("hsw,jw->hjs", heads.value, stream)
        mixed = jnp.einsum("hij,hjs->his", pattern, value)
        result = jnp.einsum("his,hws->hiw", mixed, heads.output)
        if ablation is None:  # the same sum, faster where nobody reads what heads wrote
            stream = stream + jnp.einsum("his,hws->iw", mixed, heads.output)
        else:
            keep = ablation.keep[layer][:, None, None]
            result = keep * result + (1 - keep) * ablation.instead[layer]
            stream = stream + jnp.sum(result, axis=0)
        patterns.append(pattern)
        written.append(result)
    return Trace(stream @ model.unembed.T, jnp.stack(patterns), jnp.stack(written))


def qk_circuit(
    heads: Annotated[Heads, "*layers"],
) -> Float[Array, "*layers heads width width"]:
    """W_Q^T W_K / sqrt(size): r_i^T (this) r_j is a score without bias or smearing."""
    return heads.query.mT @ heads.key / jnp.sqrt(heads.query.shape[-2])


def ov_circuit(
    heads: Annotated[Heads, "*layers"],
) -> Float[Array, "*layers heads width width"]:
    """W_O W_V: a head adds (this) r to the stream of a token that attends to r."""
    return heads.output @ heads.value
