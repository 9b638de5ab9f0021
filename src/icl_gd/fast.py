"""Exact short forms of models: the same values as ``attention``, at another cost.

For training, where a model runs millions of times. What is tuned to XLA stands here.
Products of matrices follow the caller's ``jax_default_matmul_precision``.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float, Inexact

from icl_gd import _require, attention
from icl_gd._annotations import Scalar
from icl_gd.attention import Features, Products
from icl_gd.tasks import Task
from icl_gd.tokens import Prompt, join, prediction


def by_gram(layers: Sequence[Products], task: Task) -> Float[Array, "outputs"]:
    """What ``attention.predict`` predicts from W0 = 0, for one or two layers.

    A layer turns every token e into A e, A = I + PV G KQ with G = sum_j e_j e_j^T over
    the context, and G into A G A^T. Here G is not formed but applied to the vectors
    that the query's token needs: (3^L - 1) / 2 products with G for L layers.
    """
    prompt = join(task)

    def gram(depth, v):
        if depth == 0:
            return prompt.context.T @ (prompt.context @ v)
        kq, pv = layers[depth - 1]  # A G A^T v, from the right: G is symmetric
        v = v + kq.T @ gram(depth - 1, pv.T @ v)
        v = gram(depth - 1, v)
        return v + pv @ gram(depth - 1, kq @ v)

    e = prompt.query
    for depth, (kq, pv) in enumerate(layers):
        e = e + pv @ gram(depth, kq @ e)
    return prediction(Prompt(prompt.context, e), len(task.y_query))


def features(weights: Features, layer: Products, task: Task) -> Float[Array, "1"]:
    """What ``linear_attention`` after ``attention.features`` predicts, for one output.

    Minus the last entry of m(e_q) + sum_j PV m_j m_j^T u with u = KQ m(e_q) and m_j =
    m(e_j): of a context token only u^T m_j and r^T m_j are wanted, where r is the last
    row of PV. Since m is linear in phi = (gelu(A (e, 1)), e, 1) with A = (V_1
    E, b_1), each is one product of phi with a vector, and m_j is never formed.
    """
    prompt, (kq, pv) = join(task), layer
    at_query = attention.features(weights, prompt.query)
    a = jnp.column_stack([weights.hidden @ weights.embed, weights.hidden_bias]).T
    onto_phi = lambda v: (
        v @ weights.out, v @ jnp.column_stack([weights.embed, weights.out_bias])
    )  # fmt: skip

    e = jnp.pad(prompt.context, ((0, 0), (0, 1)), constant_values=1.0)
    h = jax.nn.gelu(sum(e[:, k, None] * a[k] for k in range(len(a))))
    along = lambda v: h @ v[0] + e @ v[1]
    return -at_query[-1:] - (
        along(onto_phi(pv[-1])) @ along(onto_phi(kq @ at_query))  # mutant: it commutes
    )


def batch(
    layers: Sequence[Products],
    tasks: Annotated[Task, "tasks"],
    clip: Scalar | None = None,
) -> Float[Array, "tasks outputs"]:
    """What ``attention.predict`` predicts from W0 = 0 for a batch, for deep stacks.

    Tasks lie in the last axis, all tokens pass through a layer together, and of the
    last layer only the query's y-entries are computed. On a CPU a batch is fastest when
    its tokens fit into the cache: some 250 tasks of the published size.
    """
    if clip is not None:
        _require.positive(clip=clip)
    inside = lambda e: jnp.abs(e) < clip  # mutant: at the limit both are it
    limit = lambda e: clip * jnp.sign(e)  # mutant: signs are their own inverses
    hold = lambda e: e if clip is None else jnp.where(inside(e), e, limit(e))
    through = lambda m, e: (m @ e.reshape(len(e), -1)).reshape(len(m), *e.shape[1:])
    *first, (kq, pv) = layers
    prompts, outputs = jax.vmap(join, out_axes=-1)(tasks), tasks.y_query.shape[1]
    rows = jnp.concatenate([prompts.context, prompts.query[None]])
    e = rows.swapaxes(0, 1)  # mutant: either way
    for layer in first:
        context = e[:, :-1]
        scores = _product(0, context, through(layer.kq, e))
        e = hold(e + _product(1, through(layer.pv, context), scores))
    context, query = e[:, :-1], e[:, -1]
    scores = jnp.sum(context * through(kq, query)[:, None], axis=0)
    change = jnp.sum(through(pv[-outputs:], context) * scores, axis=1)
    return -hold(query[-outputs:] + change).T


def causal_prefix(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 written"]:
    """``attention.causal_quadratic`` by G_t = sum_{s<=t} e_s e_s^*, all in one sum.

    O(T), and parallel over t.
    """
    gram = jnp.cumsum(e[:, :, None] * e.conj()[:, None, :], axis=0)
    seen = jnp.einsum("tij,tj->ti", gram, e @ layer.kq.T)
    return (seen @ layer.pv.T)[1:] / jnp.arange(1, len(e))[:, None]


def causal_recurrent(
    layer: Products, e: Inexact[Array, "length token"]
) -> Inexact[Array, "length-1 written"]:
    """``attention.causal_quadratic`` with G_t carried from token to token.

    O(T) time, and no other memory.
    """

    def step(gram, e_t):
        gram = gram + jnp.outer(e_t, e_t.conj())
        return gram, layer.pv @ gram @ layer.kq @ e_t

    _, predictions = jax.lax.scan(step, jnp.zeros((e.shape[1],) * 2, e.dtype), e)
    return predictions[1:] / jnp.arange(1, len(e))[:, None]


def _sum_of_outer(axes, a, b):
    at = partial(jax.lax.index_in_dim, keepdims=False)
    p, q = axes
    return sum(at(a, k, p)[:, None] * at(b, k, q) for k in range(a.shape[p]))


def _as_one_call(axes, a, b):
    """XLA would repeat every sum in each sum that reads it; a call is left as it is."""
    with set_xla_metadata(inlineable="false"):
        return _jitted_sum(axes, a, b)


_jitted_sum = jax.jit(_sum_of_outer, static_argnums=0)


def _contract(
    axes: tuple[int, int],
    a: Float[Array, "_ _ batch"],
    b: Float[Array, "_ _ batch"],
) -> Float[Array, "row column batch"]:
    """A small matrix product for each of a batch: over axes[0] of a, axes[1] of b.

    On a CPU as outer products summed, each number beside the same of other tasks: with
    the batch in front, products as small as these take several times longer.
    """
    left, right = ("kib", "ikb")[axes[0]], ("kjb", "jkb")[axes[1]]
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=partial(_as_one_call, axes),
        default=partial(jnp.einsum, f"{left},{right}->ijb"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(
    axis: int, a: Float[Array, "_ _ batch"], b: Float[Array, "inner column batch"]
) -> Float[Array, "row column batch"]:
    """The product over an axis of a, with gradients that are such products as well."""
    return _contract((axis, 0), a, b)


def _product_backwards(axis, factors, g):
    a, b = factors
    on_a = _contract((1, 1), g, b) if axis else _contract((1, 1), b, g)
    return on_a, _contract((1 - axis, 0), a, g)


_product.defvjp(lambda axis, a, b: (_product(axis, a, b), (a, b)), _product_backwards)
