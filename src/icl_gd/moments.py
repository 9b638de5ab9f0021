"""Moments of sequences, exact or sampled, and the loss of a layer in terms of them.

Setting as in ``flow``: x_{t+1} = W x_t with phases uniform on the unit circle, a real
start x_1 independent of them. A loss that is quartic in the weights needs the moments
of what the layer sees, once, and no sequence after that. Products of matrices are
float32-exact, whatever the caller sets.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from icl_gd import _require, tokens
from icl_gd._annotations import Scalar
from icl_gd._precision import exact
from icl_gd.attention import Products

# E prod_k x_k^(n_k) over the coordinates of the start, as a function of (n_1 .. n_d).
Powers = Callable[[tuple[int, ...]], float]


def independent(m2: float | int, m4: float | int, m6: float | int) -> Powers:
    """Independent coordinates of one symmetric law with these moments.

    N(0, s^2) has (s^2, 3 s^4, 15 s^6), coordinates +-1 have (1, 1, 1). As for every
    law m2 > 0, m4 >= m2^2 and m2 m6 >= m4^2.
    """
    _require_law(m2, m4, m6)
    even = {0: 1.0, 2: m2, 4: m4, 6: m6}
    return lambda powers: float(np.prod([even.get(n, 0.0) for n in powers]))


def one_hot(size: float | int = 1.0) -> Powers:
    """+-size at one coordinate, each equally likely, zero at the others."""
    _require.positive(size=size)

    def expectation(powers):
        n = sum(powers)
        alone = max(powers) == n and n % 2 == 0
        return float(size) ** n / len(powers) if alone else 0.0

    return expectation


def ones(powers: tuple[int, ...]) -> float:
    """The start that is always (1, ..., 1)."""
    return 1.0


def _require_law(m2, m4, m6):
    _require.positive(m2=m2)
    _require.finite(m4=m4, m6=m6)
    for text, large, small in (
        ("m4 >= m2^2", m4, m2**2),
        ("m2 m6 >= m4^2", m2 * m6, m4**2),
    ):
        if large < small * (1 - 1e-12):  # 2 mutants: rounding
            raise ValueError(
                f"moments must satisfy {text}, as those of every law do, got "
                f"m2 = {m2}, m4 = {m4}, m6 = {m6}"
            )


class Kappas(NamedTuple):
    """What the loss on the diagonal knows of the start, the same for each coordinate j.

    m2 = E x_j^2, k1 = E x_j^4, k2 = E x_j^6, k3 = sum over k != j of E x_j^2 x_k^4.
    """

    m2: Scalar
    k1: Scalar
    k2: Scalar
    k3: Scalar


def kappas(powers: Powers, d: int) -> Kappas:
    """The four moments of a start in d dimensions whose coordinates are exchangeable.

    As for every law, m2 > 0, k1 >= m2^2, m2 k2 >= k1^2 and 0 <= k3 <= (d - 1) k2.
    """
    _require.at_least(1, d=d)
    rest = (0,) * (d - 1)
    m2, k1, k2 = (powers((n, *rest)) for n in (2, 4, 6))
    _require_law(m2, k1, k2)
    mixed = powers((2, 4, *rest[1:])) if d > 1 else 0.0  # 3 mutants: times zero
    k3 = (d - 1) * mixed
    if not 0 <= k3 <= (d - 1) * k2 * (1 + 1e-12):  # mutant: rounding
        raise ValueError(
            f"k3 must be between 0 and (d - 1) k2 = {(d - 1) * k2}, got {k3}"
        )
    return Kappas(m2, k1, k2, k3)


class Quartic(NamedTuple):
    """A loss that is quartic in the weights, by the moments of what the layer sees.

    With Phi = G_t e_t / (t - 1), the products of values, keys and query at position t,
    ``square`` holds E sum_t Phi_vkq conj(Phi_v'k'q') in the order v v' k k' q q',
    ``cross`` holds E sum_t x_{t+1} conj(Phi_vkq), and ``power`` E sum_t ||x_{t+1}||^2.
    """

    square: Inexact[Array, "token token token token token token"]
    cross: Inexact[Array, "written token token token"]
    power: Float[Array, ""]


@exact
def quartic_loss(layer: Products, q: Quartic) -> Float[Array, ""]:
    """1/2 E sum_t ||PV Phi KQ - x_{t+1}||^2, from the moments alone."""
    values = layer.pv.T @ layer.pv.conj()
    scores = layer.kq[:, None, :, None] * layer.kq.conj()[:, None, :]
    table = q.square.reshape(values.size, -1)
    square = values.ravel() @ table @ scores.ravel()  # mutant: from either end
    cross = jnp.einsum("ovkq,ov,kq->", q.cross, layer.pv.conj(), layer.kq.conj())
    return 0.5 * (square.real - 2 * cross.real + q.power)


def scaled(q: Quartic, factor: Scalar) -> Quartic:
    """The same moments with every start multiplied by a factor."""
    _require.positive(factor=factor)
    return Quartic(factor**6 * q.square, factor**4 * q.cross, factor**2 * q.power)


def exact_quartic(length: int, d: int, powers: Powers) -> Quartic:
    """The population loss of A and B, all of their entries, without any sampling.

    B (d x d) multiplies x_s in the values, A (d x d) stands between x_{s-1} and x_t in
    the scores: ``Products(kq=A, pv=B)``. A product of powers of the phases has mean 1
    if every power is zero, else 0, so that each entry is the moment of the start times
    a count of positions; the counts depend only on which coordinates coincide. T >= 3.
    """
    _require.at_least(3, length=length)
    _require.at_least(1, d=d)
    moment = cache(powers)

    @cache
    def over_positions(count, decay, pattern):
        return sum(count(t, pattern) / (t - 1) ** decay for t in range(2, length))

    def entry(count, decay, coordinates):
        names = {}
        name = lambda j: names.setdefault(j, len(names))  # mutant: fewer are shared
        pattern = tuple(map(name, coordinates))
        start = moment(tuple(coordinates.count(j) for j in range(d)))
        return start and start * over_positions(count, decay, pattern)  # mutant: faster

    square = [entry(_pairs, 2, c) for c in product(range(d), repeat=6)]
    cross = [entry(_single, 1, c) for c in product(range(d), repeat=4)]
    total = sum(moment(tuple(2 * (j == k) for k in range(d))) for j in range(d))
    return Quartic(
        jnp.reshape(jnp.array(square), (d,) * 6),
        jnp.reshape(jnp.array(cross), (d,) * 4),
        jnp.asarray((length - 2.0) * total),
    )


# Exponents of the phases: x_s has s - 1, a conjugate the negative. Phi_vkq is the sum
# over s = 2..t of x_s,v conj(x_{s-1,k}) x_t,q / (t - 1).


@cache
def _pairs(t, pattern):
    """How many (s, s') leave no phase, for the coordinates v v' k k' q q'."""
    s, u = np.ogrid[2 : t + 1, 2 : t + 1]
    like = s * u  # 2 mutants: its shape counts
    return _without_phase((s - 1, 1 - u, 2 - s, u - 2, t - 1, 1 - t), pattern, like)


@cache
def _single(t, pattern):
    """How many s leave no phase, for the coordinates o v k q."""
    s = np.arange(2, t + 1)
    return _without_phase((t, 1 - s, s - 2, 1 - t), pattern, s)


def _without_phase(exponents, pattern, like):
    """Counts where the exponents of every coordinate of the pattern add up to zero."""
    zero = np.ones_like(like, bool)
    for name in set(pattern):
        of = zip(exponents, pattern, strict=True)  # mutant: they are as many
        same = [e for e, other in of if other == name]  # mutant: all add up to zero
        zero &= sum(same) == 0
    return int(zero.sum())


@exact
def sampled_quartic(
    sequences: Complex[Array, "sequences length dim"],
) -> Quartic:
    """The loss of a whole layer on given sequences, as moments: one pass over the data.

    ``Products(kq, pv)`` of shapes (2d, 2d) and (d, 2d), every block. A Hermitian matrix
    is determined by its real plus its imaginary part, so that the moments are one real
    matrix product. T >= 3.
    """
    count, length, d = sequences.shape
    _require.at_least(3, length=length)

    def add(total, x):
        return jax.tree.map(jnp.add, total, _moments(x)), None

    few = gcd(count, 20)  # 3 mutants: any divisor, so many are in memory at a time
    chunks = sequences.reshape(-1, few, length, d)  # mutant: their order
    shapes = jax.eval_shape(_moments, chunks[0])  # mutant: all have one shape
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (square, cross, power), _ = jax.lax.scan(add, zero, chunks)
    return Quartic(_unfold(square, 2 * d) / count, cross / count, power / count)


def _moments(x):
    """Sums of products over some sequences and positions: square as real matrices.

    Matrix k has the products of entry i of G_t and entry i + k, cyclically, in its rows
    and the entries of e_t e_t^* in its columns, all by ``_as_real``. A product does not
    know its order, so that half of all k are enough.
    """
    _, length, d = x.shape
    size, samples = 2 * d, len(x) * (length - 2)
    e = jax.vmap(tokens.pair)(x)
    outer = e[..., :, None] * e[..., None, :].conj()
    divisor = jnp.arange(1, length - 1)[:, None, None]  # t - 1
    gram = jnp.cumsum(outer, axis=1)[:, 1:-1] / divisor
    real = _as_real(gram).reshape(samples, -1).T
    twice, seen = jnp.vstack([real, real]), _as_real(outer[:, 1:-1])

    def apart(k):
        other = jax.lax.dynamic_slice_in_dim(twice, k, size**2)
        return (real * other) @ seen.reshape(samples, -1)

    square = jax.lax.map(apart, jnp.arange(size**2 // 2 + 1))
    now, ahead = e[:, 1:-1], x[:, 2:]
    pairs = (ahead[..., :, None] * now[..., None, :].conj()).reshape(samples, -1)
    cross = (pairs.T @ gram.conj().reshape(samples, -1)).reshape(d, size, size, size)
    return square, cross.transpose(0, 2, 3, 1), jnp.sum(jnp.abs(ahead) ** 2)


def _unfold(square, size):
    """From the matrices of ``_moments`` to the complex tensor of ``Quartic.square``."""
    first, k = np.arange(size**2), np.arange(len(square))
    second = (first + k[:, None]) % size**2
    full = jnp.zeros((size**2,) * 3, square.dtype)  # mutant: all are set
    full = full.at[first, second].set(square).at[second, first].set(square)
    full = full.reshape((size,) * 6)  # v k, v' k', q q'
    for axis, sign in ((0, 1), (2, -1), (4, 1)):
        full = _as_complex(full, axis, sign)
    return full.transpose(0, 2, 1, 3, 4, 5)


def _as_real(hermitian):
    """Real plus imaginary part of H = H^*: a real matrix that determines it."""
    return hermitian.real + hermitian.imag


def _as_complex(real, axis, sign):
    """Back to H (sign 1) or its conjugate (-1) on the pair of axes from ``axis``."""
    turned = jnp.swapaxes(real, axis, axis + 1)
    half = 0.5j * sign  # mutant: a sign is its own inverse
    return 0.5 * (real + turned) + half * (real - turned)
