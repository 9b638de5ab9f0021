"""Attention weights that are set by hand.

A gradient step as a layer, linear (von Oswald et al. 2022), by two softmax heads, with
transformed inputs (GD++), on a sequence (Zheng et al. 2024), and after a layer that
copies; the induction circuit (Olsson et al. 2022); layers balanced and interpolated.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from icl_gd import _require, tokens
from icl_gd._annotations import Scalar
from icl_gd.attention import Products
from icl_gd.induction import Heads, Transformer


def gradient_step(eta: Scalar, n: int, w0: Float[Array, "outputs dim"]) -> Products:
    """The layer that takes one gradient step of size eta on ``descent.loss``, from w0.

    With W_K = W_Q = diag(I_x, 0), W_V = [[0, 0], [W0, -I_y]] and P = (eta/N) I. The
    query token must carry -W0 x_q, as ``tokens.join(task, w0)`` does. von Oswald et al.
    (2022), Proposition 1.
    """
    _require.at_least(1, n=n)
    _require.finite(eta=eta, w0=w0)
    m, d = w0.shape
    on_x = jnp.diag((jnp.arange(d + m) < d).astype(w0.dtype))
    minus = -jnp.eye(m, dtype=w0.dtype)
    residual = jnp.block([[jnp.zeros((d, d + m), w0.dtype)], [w0, minus]])
    return Products(on_x, eta / n * residual)


def softmax_step(
    eta: Scalar, w0: Float[Array, "outputs dim"], beta: Scalar
) -> Annotated[Products, "heads=2"]:
    """Two softmax heads with scores +-beta x_j^T x, whose difference is a step.

    Up to terms of order beta^2 it is one gradient step of size eta from w0 on 1/(2N)
    sum_i ||W (x_i - mean x) - (y_i - mean y)||^2. No N enters, because a softmax
    averages. The query token must carry -W0 x_q. von Oswald et al. (2022), equations 18
    to 21, with the means that are left out there.
    """
    _require.positive(beta=beta)
    kq, pv = gradient_step(eta / (2 * beta), 1, w0)
    signs = jnp.array([1, -1], w0.dtype)[:, None, None]
    kq = beta * sum(w0.shape) ** 0.5 * signs * kq  # mutant: 1 / signs are the signs
    return Products(kq, signs * pv)


def gd_plus_plus(rate: Scalar, gamma: Scalar, d: int, outputs: int = 1) -> Products:
    """The layer of GD++: x <- (I - gamma S) x, and a gradient step of size rate on y.

    With W_K = W_Q = diag(I_x, 0), W_V = diag(I_x, -I_y), P = diag(-gamma I_x, rate
    I_y); S = sum_i x_i x_i^T and rate = eta / N. The linear model starts at W0 = 0: a
    W0 in W_V would serve the first layer only, because the next one reads other inputs.
    von Oswald et al. (2022), A.10.
    """
    _require.at_least(1, d=d, outputs=outputs)
    _require.finite(rate=rate, gamma=gamma)
    blocks = lambda on_x, on_y: jnp.diag(
        jnp.concatenate([jnp.full(d, on_x), jnp.full(outputs, on_y)])
    )
    return Products(blocks(1.0, 0.0), blocks(-gamma, -rate))


def balance(layer: Products, d: int) -> Products:
    """Scales KQ to a unit mean of its first d diagonal entries, and PV inversely.

    The layer's function does not change: a linear layer is the same for (KQ / s, s PV),
    and this choice of s makes weights comparable (there is none where the mean is 0).
    von Oswald et al. (2022), A.3.
    """
    _require.between(1, layer.kq.shape[-1], d=d)
    scale = jnp.mean(jnp.diagonal(layer.kq)[:d])
    return Products(layer.kq / scale, layer.pv * scale)


def interpolate(trained: Products, constructed: Products, d: int) -> Products:
    """The layer halfway between two layers, which are balanced first.

    von Oswald et al. (2022), section 3 ("interpolated" model).
    """
    ends = balance(trained, d), balance(constructed, d)
    return jax.tree.map(lambda a, b: 0.5 * (a + b), *ends)


def autoregressive_step(a: Scalar, b: Scalar, d: int) -> Products:
    """The causal layer that takes one gradient step of size ab on the sequence so far.

    For tokens (x_t, x_{t-1}): KQ = [[0, 0], [a I, 0]] scores x_{s-1} against x_t, PV =
    [b I, 0] writes x_s. Zheng et al. (2024), Assumption 3.1 and Corollary 4.1.
    """
    _require.at_least(1, d=d)
    _require.finite(a=a, b=b)
    return embed_blocks(a * jnp.eye(d), b * jnp.eye(d))


def embed_blocks(
    a: Inexact[Array, "dim dim"], b: Inexact[Array, "dim dim"]
) -> Products:
    """A and B in a causal layer for pairs: KQ = [[0, 0], [A, 0]], PV = [B, 0]."""
    none = jnp.zeros_like(a)
    return Products(jnp.block([[none, none], [a, none]]), jnp.hstack([b, none]))


def copy_then_step(
    eta: Scalar, n: int, d: int, sharpness: Scalar = 100.0
) -> tuple[Products, Products]:
    """Two layers that take one gradient step from W = 0 on ``tokens.separate``.

    In the first, a softmax layer, the token at p attends to the one at p - 1: its score
    for position j is sharpness * sum_k cos(w_k (p - 1 - j)). It adds the inputs that it
    finds there to its own, so that a label stands beside its input; tokens of inputs
    find a label, whose inputs are zero. (The first token has none before it and finds a
    mixture.) The second, a linear layer, is ``gradient_step``, which passes over tokens
    without a label. After von Oswald et al. (2022), who say that it can be done; it is
    exact up to e^(-0.47 sharpness). One output.
    """
    _require.at_least(1, d=d)
    _require.positive(sharpness=sharpness)
    channels, size = tokens.CHANNELS, tokens.CHANNELS + d + 1
    at_one = tokens.positions(2, channels)[1]  # 2 mutants: it is the last of two
    sines, cosines = at_one.reshape(-1, 2).T
    turns = jnp.stack([cosines, -sines, sines, cosines], axis=1).reshape(-1, 2, 2)
    back = jax.scipy.linalg.block_diag(*turns)  # the encoding of p to that of p - 1
    look_back = jnp.pad(sharpness * size**0.5 * back, (0, d + 1))
    entry = jnp.arange(size)
    on_x = jnp.diag(1.0 * ((entry >= channels) & (entry < channels + d)))
    step = gradient_step(eta, n, jnp.zeros((1, d)))
    step = jax.tree.map(lambda matrix: jnp.pad(matrix, (channels, 0)), step)
    return Products(look_back, on_x), step


def induction_circuit(
    vocabulary: int, reach: int, sharpness: Scalar = 100.0
) -> Transformer:
    """A previous-token head and an induction head, one a layer, on tokens one-hot.

    The stream is [token | previous | output]. The first head attends by its bias to the
    position before and writes the token there into "previous"; position 0 has nothing
    before it and attends to itself. The second head looks for positions whose
    "previous" is the present token, and writes ``sharpness`` times the token there into
    "output", which is read as the logits. A token without a match rests on token 0,
    which is to begin every sequence and raises no logit. Scores are 0, sharpness / 2
    (token 0) or sharpness (a match). Olsson et al. (2022). The bias has 2 entries or
    more.
    """
    _require.at_least(1, vocabulary=vocabulary)
    _require.at_least(2, reach=reach)
    _require.positive(sharpness=sharpness)
    token, previous, output = jnp.split(jnp.eye(3 * vocabulary), 3)
    rest = 0.5 * jnp.outer(jnp.ones(vocabulary), token[0])
    heads = Heads(  # 6 mutants: one zero is enough, of the queries or of the keys
        query=jnp.stack([0 * token, sharpness * vocabulary**0.5 * token])[:, None],
        key=jnp.stack([0 * token, previous + rest])[:, None],
        value=jnp.stack([token, token.at[0].set(0.0)])[:, None],
        output=jnp.stack([previous.T, sharpness * output.T])[:, None],
        bias=jnp.zeros((2, 1, reach)).at[0, 0, 1].set(sharpness),  # mutant: one head
    )
    return Transformer(token.T, heads, output)
