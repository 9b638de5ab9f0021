"""How fast a layer learns as it reads: exact errors after t pairs.

Setting: labels y = w x + noise with a teacher w of N(0, 1) entries; inputs are
independent of each other, with E x x^T = m I and E ||x||^2 x x^T = c I (``Law``); label
noise has variance sigma^2 (``noise``). The error is e = E ||S - w||^2 / d for a state S
that begins at 0: the share that is left of the loss on a fresh input, for each output
(label noise not counted).
The teacher may drift, w <- rho w + sqrt(1 - rho^2) N(0, I) before every pair.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from icl_gd import _require
from icl_gd._annotations import Numbers, Scalar
from icl_gd.online import Rule


class Law(NamedTuple):
    """Second and fourth moment of inputs: E x x^T = m I and E ||x||^2 x x^T = c I."""

    m: Scalar
    c: Scalar


def gaussian(d: int) -> Law:
    """Inputs of N(0, I): m = 1 and c = d + 2."""
    _require.at_least(1, d=d)
    return Law(1.0, d + 2.0)


def unit(d: int) -> Law:
    """Inputs uniform on the unit sphere: m = c = 1 / d."""
    _require.at_least(1, d=d)
    return Law(1 / d, 1 / d)


def _require_law(law, noise, rho):
    _require.positive(m=law.m, c=law.c)
    _require.at_least(0, noise=noise)
    _require.between(0, 1, rho=rho)


def _require_disturbed(law, noise):
    """Raises where one pair says all: one dimension, keys of one length, no noise."""
    _require.positive(**{"c + noise m - m^2": law.c + noise * law.m - law.m**2})


def learning_curve(
    rule: Rule,
    law: Law,
    beta: Num[Array, " length"],
    alpha: Numbers = 1.0,
    noise: Scalar = 0.0,
    rho: Scalar = 1.0,
) -> Float[Array, " length"]:
    """The error after each pair, for the rules ``SUM`` and ``DELTA``.

    With p = E S w^T / d and s = E S S^T / d the error is s - 2 p + 1, and a pair turns
    p into alpha rho p (1 - beta m) + beta m, s into alpha^2 s (1 - 2 beta m + beta^2 c)
    + 2 alpha beta rho p (m - beta c) + beta^2 (c + sigma^2 m); for the sum without the
    terms in which the state's own prediction meets the pair.
    """
    if rule not in [Rule(batch=None), Rule()]:
        raise ValueError(f"rule must be online.SUM or online.DELTA, got {rule}")
    _require_law(law, noise, rho)
    _require.finite(beta=beta, alpha=alpha)
    (m, c), own = law, float(rule.batch == 1)

    def read(moments, rates):
        p, s = moments
        b, a = rates
        cross = 2 * a * b * rho * p * (m - own * b * c)
        s = a**2 * s * (1 - own * (2 * b * m - b**2 * c)) + cross
        s = s + b**2 * (c + noise * m)
        p = a * rho * p * (1 - own * b * m) + b * m
        return (p, s), s - 2 * p + 1

    rates = beta, jnp.broadcast_to(alpha, beta.shape)
    rates = jax.tree.map(lambda rate: rate.astype(float), rates)
    return jax.lax.scan(read, (0.0, 0.0), rates)[1]


def best_sum(t: Numbers, law: Law, noise: Scalar = 0.0) -> Numbers:
    """The error of t pairs summed at the step size that is best for t.

    1 - t m^2 / (c + sigma^2 m + (t - 1) m^2); for Gaussian inputs (d + 1 + sigma^2) /
    (t + d + 1 + sigma^2). Raises unless c + sigma^2 m > m^2.
    """
    _require.at_least(0, t=t)
    _require_law(law, noise, 1.0)
    _require_disturbed(law, noise)
    m, c = law
    return 1 - t * m**2 / (c + noise * m + (t - 1) * m**2)


def best_delta(
    length: int, law: Law, noise: Scalar = 0.0, rho: Scalar = 1.0
) -> tuple[Float[Array, " {length}"], Float[Array, " {length}"]]:
    """The best step sizes of a delta layer, pair by pair, and the errors they leave.

    Its best decay is rho. With f = rho^2 e + 1 - rho^2, the error before the pair,
    beta = m f / (c f + sigma^2 m) leaves e = (1 - beta m) f. Raises unless
    c + sigma^2 m > m^2.
    """
    _require.at_least(1, length=length)
    _require_law(law, noise, rho)
    _require_disturbed(law, noise)
    m, c = law

    def read(e, _):
        f = rho**2 * e + 1 - rho**2
        beta = m * f / (c * f + noise * m)
        e = (1 - beta * m) * f
        return e, (beta, e)

    return jax.lax.scan(read, 1.0, None, length=length)[1]


def best_decay(rho: Numbers, law: Law, noise: Scalar = 0.0) -> Numbers:
    """The decay with which a sum, at its best step size, errs least in the long run.

    alpha + 1 / alpha = (k + (k - 2) rho^2) / ((k - 1) rho) with k = (c + sigma^2 m) /
    m^2, and alpha <= 1. rho > 0. Raises unless c + sigma^2 m > m^2, that is k > 1.
    """
    _require_law(law, noise, rho)
    _require_disturbed(law, noise)
    _require.positive(rho=rho)
    k = (law.c + noise * law.m) / law.m**2
    above = (1 - rho) * (k - (k - 2) * rho) / (2 * (k - 1) * rho)  # (a + 1/a) / 2 - 1
    return 1 + above - jnp.sqrt(above * (above + 2))
