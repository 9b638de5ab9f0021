"""The published initialisation and optimiser, and one jitted scan for a whole run.

``initialise`` and its kin draw the weights of one seed; ``fit`` trains a batch of seeds
on any loss of weights and a key. Nothing here knows a task.
Products in a loss follow the caller's ``jax_default_matmul_precision``, unless the
loss asks for itself, as ``measures`` do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Inexact, Int, Key, PyTree

from icl_gd import _require
from icl_gd._annotations import Scalar
from icl_gd.attention import Attention, Features
from icl_gd.induction import Heads, Transformer


class Fit(NamedTuple):
    """What a run leaves: seeds lead every array but ``at``.

    ``state`` is the optimiser's, with which ``fit`` goes on.
    """

    params: Any
    losses: Float[Array, "seeds steps"]
    at: Int[Array, " points"]
    measured: dict[str, Any]
    state: Any


def initialise(key: Key[Array, ""], token: int, scale: Scalar = 0.002) -> Attention:
    """Draws the four (token, token) weights: truncated normal, variance scale / fan-in.

    The code published with von Oswald et al. (2022) has scale = 0.002 / (number of
    layers).
    """
    _require.at_least(1, token=token)
    _require.positive(scale=scale)
    draw = jax.nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return Attention(*(draw(k, (token, token)) for k in jax.random.split(key, 4)))


def initialise_features(
    key: Key[Array, ""], token: int, width: int, scale: Scalar = 0.002
) -> Features:
    """Draws the weights of ``attention.features``, 4 width hidden units, biases 0.

    Distribution as for ``initialise``.
    """
    _require.at_least(1, token=token, width=width)
    _require.positive(scale=scale)
    draw = jax.nn.initializers.variance_scaling(
        scale,
        "fan_in",
        "truncated_normal",
        in_axis=1,
        out_axis=0,  # mutant: of 2 axes
    )
    shapes = (width, token), (4 * width, width), (width, 4 * width)
    keys = jax.random.split(key, 3)  # mutant: one too many does no harm
    embed, hidden, out = map(draw, keys, shapes)
    return Features(embed, hidden, jnp.zeros(4 * width), out, jnp.zeros(width))


def initialise_block(
    key: Key[Array, ""], token: int, width: int
) -> dict[str, Features | Attention]:
    """Draws "features" of tokens, and a "layer" of attention to these features.

    Distribution as for ``initialise``.
    """
    key_features, key_layer = jax.random.split(key)
    features = initialise_features(key_features, token, width)
    return {"features": features, "layer": initialise(key_layer, width)}


def initialise_transformer(
    key: Key[Array, ""],
    vocabulary: int,
    reach: int,
    layers: int = 2,
    heads: int = 4,
    width: int = 64,
    smeared: bool = False,
) -> Transformer:
    """Draws the weights of ``induction.forward``: normal, of variance 1 / fan-in.

    Heads have size width / heads. The embedding has unit variance, biases start at 0,
    and smeared keys halfway between a position and the one before it.
    """
    _require.at_least(1, vocabulary=vocabulary, reach=reach)
    _require.at_least(1, layers=layers, heads=heads, width=width)
    if width % heads:
        raise ValueError(f"heads must divide width = {width}, got {heads}")
    draw = lambda key, *shape: jax.random.normal(key, shape) / shape[-1] ** 0.5
    key_embed, key_unembed, key_output, *inward = jax.random.split(key, 6)
    size = width // heads
    return Transformer(
        embed=jax.random.normal(key_embed, (width, vocabulary)),
        heads=Heads(
            *(draw(k, layers, heads, size, width) for k in inward),
            output=draw(key_output, layers, heads, width, size),
            bias=jnp.zeros((layers, heads, reach)),
            smear=jnp.zeros((layers, heads)) if smeared else None,
        ),
        unembed=draw(key_unembed, vocabulary, width),
    )


def _weak(number):
    """The number without a precision of its own, as optax wants it."""
    return number if isinstance(number, jax.core.Tracer) else float(number)


def clipped_adam(
    learning_rate: Scalar = 1e-3, clip: Scalar = 1e-3
) -> optax.GradientTransformation:
    """Adam (b1 = 0.9, b2 = 0.98) on gradients clipped to global norm ``clip``.

    The code published with von Oswald et al. (2022) uses AdamW with weight decay 0,
    which is Adam.
    """
    _require.positive(learning_rate=learning_rate, clip=clip)
    clip, learning_rate = map(_weak, (clip, learning_rate))
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.adam(learning_rate, b1=0.9, b2=0.98)
    )


def accumulated(
    loss: Callable[[Any, Key[Array, ""]], Float[Array, ""]], parts: int
) -> Callable[[Any, Key[Array, ""]], Float[Array, ""]]:
    """The mean of ``loss(params, key)`` over ``parts`` keys split from a key.

    Its gradient is taken part by part with the value, and scaled afterwards: a part is
    drawn, used and forgotten, so that on a CPU it can stay in the cache.
    """
    _require.at_least(1, parts=parts)

    def over_parts(f, key):
        each = jax.lax.map(f, jax.random.split(key, parts))
        return jax.tree.map(partial(jnp.mean, axis=0), each)

    @jax.custom_vjp
    def mean(params, key):
        return over_parts(partial(loss, params), key)

    mean.defvjp(
        lambda params, key: over_parts(partial(jax.value_and_grad(loss), params), key),
        lambda grads, g: (jax.tree.map(lambda grad: g * grad, grads), None),
    )
    return mean


def _update_of(loss, optimiser, shared):
    """One update of all seeds: a vmap if they share the key, else seed by seed."""

    def loss_of_one(params: Any, key: Key[Array, ""]) -> Float[Array, ""]:
        return loss(params, key)

    def update(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss_of_one)(params, key)
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value  # mutant: a sum

    def in_turn(carry, keys):
        return jax.lax.map(lambda seed: update(*seed), (carry, keys))

    def together(carry, key):
        if len(jax.tree.leaves(carry)[0]) > 1:  # 3 mutants: both ways give the same
            return jax.vmap(update, in_axes=(0, None))(carry, key)
        # A vmap over one seed would only slow its matrix products.
        each = lambda at: partial(jax.tree.map, lambda leaf: leaf[at])
        alone = each(0)(carry)  # 2 mutants: there is one
        return each(None)(update(alone, key))

    return together if shared else in_turn


def _where_they_lie(run, params, shared):
    """Compiles a run; if the caller spread the seeds, each device trains its own."""
    placed = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params))
    sharding = next((s for s in placed if isinstance(s, NamedSharding)), None)
    if sharding is None:
        return jax.jit(run)
    own, same = PartitionSpec(*sharding.spec[:1]), PartitionSpec()
    specs = own, own, same if shared else own
    shares = jax.shard_map(
        run,
        mesh=sharding.mesh,
        in_specs=specs,
        out_specs=own,
        check_vma=False,  # mutant: a check of types that a loss need not pass
    )
    return jax.jit(shares)


def _of_steps(key, steps):
    """A key for each step, in front of the axis of seeds."""
    split = partial(jax.random.split, num=steps)
    return jax.vmap(split, out_axes=1)(key) if key.ndim else split(key)


def fit(
    loss: Callable[[Any, Key[Array, ""]], Float[Array, ""]],
    params: PyTree[Inexact[Array, "seeds ..."]],
    key: Key[Array, ""] | Key[Array, " seeds"],
    optimiser: optax.GradientTransformation,
    steps: int,
    every: int = 100,
    measures: Mapping[str, Callable[[Any], Any]] | None = None,
    state: Any = None,
) -> Fit:
    """Minimises ``loss(params, key)`` for a batch of seeds, in one scan over the steps.

    ``params`` has a leading axis of seeds. A single ``key`` gives all seeds the same
    stream of random tasks: they differ in their initial weights only, and seeds are a
    vmap axis that shares the draws. An array of keys, one a seed, gives each seed a
    stream of its own: seeds then take turns within a step, which on a CPU is faster
    than a vmap that shares nothing. ``measures`` maps names to functions of one seed's
    parameters, evaluated before step 0, ``every``, 2 ``every``, ... and after the last.
    Given its ``params``, its ``state`` and a new key, a run goes on. Seeds are trained
    where they lie: spread over a mesh of devices by a ``jax.sharding.NamedSharding`` of
    their axis, and keys of their own likewise, each device trains its share (README).

    Random bits come from JAX's sequential Threefry layout, which on a CPU is several
    times faster than the partitionable default and gives other numbers. ``every``
    divides ``steps``.
    """
    _require.at_least(1, steps=steps, every=every)
    if steps % every:
        raise ValueError(f"every must divide steps = {steps}, got {every}")
    shared, measures = key.ndim == 0, dict(measures or {})
    update = _update_of(loss, optimiser, shared)

    def measure(params):
        return jax.lax.map(lambda p: {m: f(p) for m, f in measures.items()}, params)

    def stretch(carry, keys):
        measured = measure(carry[0])
        carry, losses = jax.lax.scan(update, carry, keys)
        return carry, (losses, measured)

    def run(params, state, key):
        state = jax.vmap(optimiser.init)(params) if state is None else state
        keys = _of_steps(key, steps).reshape(steps // every, every, *key.shape)
        carry, (losses, measured) = jax.lax.scan(stretch, (params, state), keys)
        append = lambda a, b: jnp.moveaxis(jnp.concatenate([a, b[None]]), 0, 1)
        measured = jax.tree.map(append, measured, measure(carry[0]))
        return *carry, losses.reshape(steps, -1).T, measured

    run = _where_they_lie(run, params, shared)
    with jax.threefry_partitionable(False):
        params, state, losses, measured = run(params, state, key)
    return Fit(params, losses, jnp.arange(0, steps + 1, every), measured, state)
