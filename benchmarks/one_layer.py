"""Speed of one-layer training: ours beside a plain version of the published loop, in one process.

    python benchmarks/one_layer.py [--save]

The plain version is our own, written after the published algorithm (von Oswald et al. 2022): a
Python loop whose every step draws a batch with one jitted call and updates with another, attention
computed for all tokens and then read at the last, and every 100 steps the published evaluation on
10 000 tasks (loss, interpolated loss, alignment with gradient descent twice). All its functions are
jitted. Both are run in turn, several times; the table gives medians. `--save` keeps the table in
benchmarks/results/ with its provenance.
"""

import jax
import jax.numpy as jnp
import timing
from published import BATCH, D, N, draw, plain_draw, plain_error, plain_layer, plain_loop

from icl_gd import attention, constructions, measures, theory, training

EVERY, RUN = 100, 5000
MOMENTS = theory.uniform_moments()
GD = constructions.gradient_step(theory.best_step(N, D, MOMENTS), N, jnp.zeros((1, D)))
OPTIMISER = training.clipped_adam()


# Ours.


def model(layer):
    """The layer as a function from a task to a label."""
    return lambda task: attention.predict([layer], task)


def measured(function):
    """A measure of a layer, as one of the weights that are trained."""
    return lambda weights: function(attention.products(weights))


EVALUATION = draw(jax.random.key(0), 10_000)
HALFWAY = {
    "loss": measured(lambda layer: measures.mean_loss(model(layer), EVALUATION)),
    "interpolated": measured(
        lambda layer: measures.mean_loss(model(constructions.interpolate(layer, GD, D)), EVALUATION)
    ),
    "alignment": measured(lambda layer: measures.alignment(model(layer), model(GD), EVALUATION)),
}


def start(seeds):
    """Initial weights of several seeds."""
    keys = jax.random.split(jax.random.key(1), seeds)
    return jax.vmap(lambda key: training.initialise(key, D + 1))(keys)


def sampled(steps, seeds=1, key=None):
    """The published run, sampled, in one scan."""

    def loss(weights, k):
        return measures.mean_loss(model(attention.products(weights)), draw(k, BATCH))

    key = jax.random.split(jax.random.key(2), seeds) if key is None else key
    return training.fit(loss, start(seeds), key, OPTIMISER, steps, EVERY, HALFWAY)


def shared(steps):
    """Twenty seeds on one stream of tasks."""
    return sampled(steps, seeds=20, key=jax.random.key(2))


def exact(steps):
    """The same start, trained on the exact population loss."""

    def loss(layer, _):
        return theory.population_loss(attention.products(layer), N, MOMENTS)

    return training.fit(loss, start(1), jax.random.key(2), OPTIMISER, steps, EVERY)


# Plain.


def plain_loss(p, batch):
    """Half the mean squared error at the last token."""
    tokens, target = batch
    return plain_error(plain_layer(p, tokens), target)


plain_evaluate = {name: jax.jit(f) for name, f in HALFWAY.items()}
plain = plain_loop(
    plain_loss, OPTIMISER, plain_draw, lambda: jax.tree.map(lambda w: w[0], start(1)),
    [*plain_evaluate.values(), plain_evaluate["alignment"]], EVERY,
)  # fmt: skip


def main():
    """Runs everything and prints one table."""
    runs = {
        "plain": (plain, 100, 400),
        "ours": (sampled, 100, 2100),
        "ours, 20 seeds": (shared, 100, 500),
        "exact": (exact, 100, 20100),
    }
    plain(1)  # compiles what is jitted once and for all
    results = timing.measure(runs)
    lines = timing.table(results, RUN)
    total = {name: first + RUN * step / 1e3 for name, (step, first, *_) in results.items()}
    lines += [
        "",
        timing.ratio(results),
        f"20 runs / one run of 20 seeds: ours {20 * total['ours'] / total['ours, 20 seeds']:.1f}, "
        f"plain {20 * total['plain'] / total['ours, 20 seeds']:.1f}",
        f"exact, 5000 steps after compiling: {RUN * results['exact'][0] / 1e3:.2f} s",
    ]
    timing.report(
        "one_layer", lines, results,
        seeds="evaluation key 0, weights key 1, tasks key 2",
        setting=f"d = N = {N}, batch {BATCH}, evaluation on 10000 tasks every {EVERY} steps",
    )  # fmt: skip


if __name__ == "__main__":
    main()
