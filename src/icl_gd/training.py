"""The published initialisation and optimiser, and one jitted scan for a whole run."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from icl_gd import _require
from icl_gd.attention import Attention


class Fit(NamedTuple):
    """What a run leaves: seeds lead every array of ``params`` and ``measured``."""

    params: Any
    losses: Float[Array, "seeds steps"]
    at: Int[Array, " points"]
    measured: dict[str, Array]


def initialise(key: Key[Array, ""], token: int, scale=0.002) -> Attention:
    """Draws the four (token, token) weights: truncated normal, variance scale / fan-in.

    The code published with von Oswald et al. (2022) has scale = 0.002 / (number of
    layers). Raises ValueError unless token >= 1 and scale is positive.
    """
    _require.positive_int("token", token)
    _require.positive("scale", scale)
    draw = jax.nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return Attention(*(draw(k, (token, token)) for k in jax.random.split(key, 4)))


def clipped_adam(learning_rate=1e-3, clip=1e-3) -> optax.GradientTransformation:
    """Adam (b1 = 0.9, b2 = 0.98) on gradients clipped to global norm ``clip``.

    The code published with von Oswald et al. (2022) uses AdamW with weight decay 0,
    which is Adam. Raises ValueError unless both arguments are positive.
    """
    _require.positive("learning_rate", learning_rate)
    _require.positive("clip", clip)
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.adam(learning_rate, b1=0.9, b2=0.98)
    )


def _update_of(loss, optimiser, shared):
    """One update of all seeds: a vmap if they share the key, else seed by seed."""

    def update(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    if shared:
        return jax.vmap(update, in_axes=(0, None))
    return lambda carry, keys: jax.lax.map(lambda seed: update(*seed), (carry, keys))


def fit(
    loss: Callable[[Any, Key[Array, ""]], Float[Array, ""]],
    params: Any,
    key: Key[Array, "*seeds"],
    optimiser: optax.GradientTransformation,
    steps: int,
    every: int = 100,
    measures: Mapping[str, Callable[[Any], Array]] | None = None,
) -> Fit:
    """Minimises ``loss(params, key)`` for a batch of seeds, in one scan over the steps.

    ``params`` has a leading axis of seeds. A single ``key`` gives all seeds the same
    stream of random tasks: they differ in their initial weights only, and seeds are a
    vmap axis that shares the draws. An array of keys, one a seed, gives each seed a
    stream of its own: seeds then take turns within a step, which on a CPU is faster
    than a vmap that shares nothing. ``measures`` maps names to functions of one seed's
    parameters, evaluated before step 0, ``every``, 2 ``every``, ... and after the last.

    Random bits come from JAX's sequential Threefry layout, which on a CPU is several
    times faster than the partitionable default and gives other numbers. Raises
    ValueError unless ``every`` divides ``steps``, and TypeError for a key not made by
    ``jax.random.key``.
    """
    _require.positive_int("steps", steps)
    _require.positive_int("every", every)
    if steps % every:
        raise ValueError(f"every must divide steps = {steps}, got {every}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be made by jax.random.key, got an array of {key.dtype}"
        )
    measures = dict(measures or {})
    shared = key.ndim == 0
    update = _update_of(loss, optimiser, shared)

    def measure(params):
        return jax.lax.map(lambda p: {m: f(p) for m, f in measures.items()}, params)

    def stretch(carry, keys):
        measured = measure(carry[0])
        carry, losses = jax.lax.scan(update, carry, keys)
        return carry, (losses, measured)

    @jax.jit
    def run(params, key):
        split = partial(jax.random.split, num=steps)
        keys = split(key) if shared else jax.vmap(split, out_axes=1)(key)
        keys = keys.reshape(steps // every, every, *key.shape)
        start = params, jax.vmap(optimiser.init)(params)
        (params, _), (losses, measured) = jax.lax.scan(stretch, start, keys)
        append = lambda a, b: jnp.moveaxis(jnp.concatenate([a, b[None]]), 0, 1)
        measured = jax.tree.map(append, measured, measure(params))
        return params, losses.reshape(steps, -1).T, measured

    with jax.threefry_partitionable(False):
        params, losses, measured = run(params, key)
    return Fit(params, losses, jnp.arange(0, steps + 1, every), measured)
