"""Attention weights that are set by hand."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from icl_gd import _require
from icl_gd.attention import Attention, Products, products


def gradient_step(eta, n: int, w0: Float[Array, "outputs dim"]) -> Attention:
    """The layer that takes one gradient step of size eta on ``descent.loss``, from w0.

    W_K = W_Q = diag(I_x, 0), W_V = [[0, 0], [W0, -I_y]], P = (eta/N) I. The query token
    must carry -W0 x_q, as ``tokens.join(task, w0)`` does. von Oswald et al. (2022),
    Proposition 1. Raises ValueError unless n >= 1, eta is finite and w0 is a finite (m,
    d) matrix.
    """
    _require.positive_int("n", n)
    _require.finite("eta", eta)
    _require.shape("w0", w0, (None, None))
    _require.finite("w0", w0)
    m, d = w0.shape
    on_x = jnp.diag((jnp.arange(d + m) < d).astype(w0.dtype))
    minus = -jnp.eye(m, dtype=w0.dtype)
    residual = jnp.block([[jnp.zeros((d, d + m), w0.dtype)], [w0, minus]])
    return Attention(on_x, on_x, residual, eta / n * jnp.eye(d + m, dtype=w0.dtype))


def balance(layer: Attention, d: int) -> Products:
    """Scales KQ to a unit mean of its first d diagonal entries, and PV inversely.

    The layer's function does not change: a linear layer is the same for (KQ / s, s PV),
    and this choice of s makes weights comparable (there is none where the mean is 0).
    von Oswald et al. (2022), A.3. Raises ValueError unless 1 <= d <= token size.
    """
    _require.between("d", d, 1, layer.query.shape[-1])
    kq, pv = products(layer)
    scale = jnp.mean(jnp.diagonal(kq)[:d])
    return Products(kq / scale, pv * scale)


def interpolate(trained: Attention, constructed: Attention, d: int) -> Attention:
    """The layer halfway between two layers, whose products are balanced first.

    von Oswald et al. (2022), section 3 ("interpolated" model).
    """
    ends = balance(trained, d), balance(constructed, d)
    kq, pv = jax.tree.map(lambda a, b: 0.5 * (a + b), *ends)
    identity = jnp.eye(kq.shape[0], dtype=kq.dtype)
    return Attention(query=kq, key=identity, value=pv, project=identity)
