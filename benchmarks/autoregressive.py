"""Speed of the published autoregressive simulation: by moments, exact, and by a plain loop.

    python benchmarks/autoregressive.py [--save]

The figure set is that of Zheng et al. (2024): Gaussian and one-hot starts at three scales and
all-ones starts, each from three initialisations, 10 000 sequences of 100 tokens, d = 5.

sampled  draws the sequences, takes their moments once, and trains every block by them.
exact    trains the two active blocks on the population loss, by counting.
plain    is our own, written after the published algorithm: each epoch evaluates the layer anew on
         every prefix of every sequence and differentiates through all of it. One epoch is timed,
         after one that compiles, and the figure set is EXTRAPOLATED from it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import timing

from icl_gd import constructions, flow, moments, tasks, tokens
from icl_gd.attention import Products

D, LENGTH, COUNT = 5, 100, 10_000
STARTS = ((0.1, 0.1), (0.5, 1.5), (2.0, 2.0))
SETTINGS = {  # law: sampler, moments of the start, and (scale, step size, epochs)
    "Gaussian": (
        jax.random.normal,
        moments.independent(1.0, 3.0, 15.0),
        ((0.5, 1e-3, 200), (1.0, 1e-4, 150), (2.0, 2e-6, 201)),
    ),
    "one-hot": (
        tasks.one_hot_start,
        moments.one_hot(),
        ((0.5, 3e-2, 200), (1.0, 1e-3, 201), (2.0, 1e-4, 121)),
    ),
    "ones": (tasks.ones_start, moments.ones, ((1.0, 5e-4, 200),)),
}
EPOCHS = sum(len(STARTS) * e for _, _, runs in SETTINGS.values() for _, _, e in runs)


def stacked(layers):
    """Layers with a leading axis of runs."""
    return jax.tree.map(lambda *w: jnp.stack(w), *layers)


@partial(jax.jit, static_argnums=0)
def draw(start):
    """The sequences of one law, in single precision as published."""
    one = lambda key: tasks.autoregressive(key, LENGTH, D, start).astype(jnp.complex64)
    return tasks.batch(one, jax.random.key(0), COUNT)


def trained(quartic, runs, start):
    """All runs of one law."""
    for scale, rate, epochs in runs:
        loss = partial(moments.quartic_loss, q=moments.scaled(quartic, scale))
        yield flow.descend(loss, start, jnp.full(len(STARTS), rate), epochs).losses


def sampled():
    """The figure set on sampled sequences, every block trained."""
    layers = [constructions.autoregressive_step(*ab, D) for ab in STARTS]
    start = jax.tree.map(lambda w: w.astype(jnp.complex64), stacked(layers))
    for sampler, _, runs in SETTINGS.values():
        yield from trained(jax.jit(moments.sampled_quartic)(draw(sampler)), runs, start)


def exact():
    """The figure set on the population loss of the two active blocks."""
    start = stacked([Products(a * jnp.eye(D), b * jnp.eye(D)) for a, b in STARTS])
    for _, powers, runs in SETTINGS.values():
        yield from trained(moments.exact_quartic(LENGTH, D, powers), runs, start)


def plain_epoch(layer, e, rate):
    """One epoch of the published loop."""

    def loss(layer):
        total = 0.0
        for t in range(2, LENGTH):
            seen, now = e[:, :t], e[:, t - 1]
            values = seen @ layer.pv.T
            gram = jnp.einsum("nti,ntj->nij", values, seen.conj())
            prediction = jnp.einsum("nij,jk,nk->ni", gram, layer.kq, now) / (t - 1)
            total += 0.5 * jnp.sum(jnp.abs(prediction - e[:, t, :D]) ** 2) / COUNT
        return total

    slope = jax.grad(loss)(layer)
    return jax.tree.map(lambda w, g: w - rate * g.conj(), layer, slope)


def plain(_):
    """One epoch on Gaussian sequences."""
    layer = constructions.autoregressive_step(0.1, 0.1, D)
    layer = jax.tree.map(lambda w: w.astype(jnp.complex64), layer)
    return plain_epoch(layer, PAIRS, 1e-4)


def main():
    """Runs everything and prints the table."""
    global PAIRS
    rows = {}
    for name, run in (("sampled", sampled), ("exact", exact)):
        timing.peak_mib(reset=True)
        clock, _ = timing.seconds(lambda _, run=run: list(run()), None)
        rows[name] = (clock, timing.peak_mib())
        print(f"{name}: {rows[name][0]:.1f} s", flush=True)
    PAIRS = jax.jit(jax.vmap(tokens.pair))(draw(jax.random.normal))
    timing.seconds(plain, None)
    timing.peak_mib(reset=True)
    epoch, _ = timing.seconds(plain, None)
    rows["plain"] = (epoch * EPOCHS, timing.peak_mib())
    lines = [f"{'':10s}{f'{EPOCHS} epochs, s':>16s}{'peak MiB':>10s}{'plain / it':>12s}"]
    for name, (total, memory) in rows.items():
        ratio = rows["plain"][0] / total
        lines.append(f"{name:10s}{total:16.1f}{memory or 0:10d}{ratio:12.0f}")
    lines += ["", f"plain is EXTRAPOLATED from one epoch of {epoch:.2f} s; the others ran in full,"]
    lines += ["drawing, counting and compiling included."]
    setting = f"d = {D}, T = {LENGTH}, {COUNT} sequences, three laws, three initialisations"
    timing.report("autoregressive", lines, rows, setting=setting)


if __name__ == "__main__":
    main()
