"""Speed of two recurrent and of five separate layers: ours beside a plain published loop.

    python benchmarks/deep.py [--save]

The plain version is our own, written after the published algorithm (von Oswald et al. 2022): a
Python loop whose every step draws a batch with one jitted call and updates with another; every
layer projects all tokens four times and attends from all of them, the last one too; every 100 steps
the published evaluation on 10 000 tasks. Both are run in turn, several times; the table gives
medians. Last, the optimum of GD++ from the spectrum alone, beside the published fit of the same
step sizes (Adam, batch 512; 1000 steps for two recurrent layers, 30 000 for five separate ones,
extrapolated from a few).
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import timing
from published import BATCH, D, N, draw, plain_draw, plain_error, plain_layer, plain_loop

from icl_gd import attention, constructions, fast, measures, theory, training
from icl_gd.book import setup

EVERY, PARTS = 100, 8


EVALUATION = draw(jax.random.key(0), 10_000)
GD = constructions.gradient_step(
    theory.best_step(N, D, theory.uniform_moments()), N, jnp.zeros((1, D))
)


class Setting:
    """Two recurrent layers or five separate ones, with the published optimiser."""

    def __init__(self, layers, shared, optimiser, clip):
        self.layers, self.shared, self.clip = layers, shared, clip
        self.optimiser = optimiser

    def start(self):
        """Initial weights: a list of layers, of which a recurrent network has one."""
        keys = jax.random.split(jax.random.key(1), 1 if self.shared else self.layers)
        return [training.initialise(k, D + 1, 0.002 / self.layers) for k in keys]

    def stack(self, p):
        """Weights in the order in which they act."""
        return p * self.layers if self.shared else p

    def products(self, p):
        """The layers in that order."""
        return [attention.products(weights) for weights in self.stack(p)]

    def model(self, p):
        """The layers one after another, as a function from a task to a label."""
        return lambda task: attention.predict(self.products(p), task, clip=self.clip)

    def watch(self):
        """What is measured every 100 steps."""
        steps = lambda task: attention.predict([GD] * self.layers, task, clip=self.clip)
        return {
            "loss": lambda p: measures.mean_loss(self.model(p), EVALUATION),
            "alignment": lambda p: measures.alignment(self.model(p), steps, EVALUATION),
        }

    def loss(self, p, key):
        """Ours, in the form that is fast for this depth."""
        if self.clip is None:
            label = partial(fast.by_gram, self.products(p))
            return measures.mean_loss(label, draw(key, BATCH))

        def of_part(layers, key):
            part = draw(key, BATCH // PARTS)
            labels = fast.batch(layers, part, self.clip)
            return 0.5 * jnp.mean((labels - part.y_query) ** 2)

        return training.accumulated(of_part, PARTS)(self.products(p), key)

    def ours(self, steps):
        """The published run in one scan."""
        start = jax.tree.map(lambda w: w[None], self.start())
        keys = jax.random.split(jax.random.key(2), 1)
        return training.fit(self.loss, start, keys, self.optimiser, steps, EVERY, self.watch())

    def plain_loss(self, p, batch):
        """The layers one after another, as published."""
        tokens, target = batch
        for layer in self.stack(p):
            tokens = plain_layer(layer, tokens)
            if self.clip is not None:
                tokens = jnp.clip(tokens, -self.clip, self.clip)
        return plain_error(tokens, target)

    def plain(self):
        """The published loop; returns the function that runs it."""
        evaluate = map(jax.jit, self.watch().values())
        return plain_loop(
            self.plain_loss, self.optimiser, plain_draw, self.start, [*evaluate], EVERY
        )


# The step sizes of GD++: from the spectrum, and by the published fit.


def spectra(count=10_000):
    """Eigenvalues of S for as many contexts."""
    x = draw(jax.random.key(3), count).x
    return jnp.linalg.eigvalsh(jnp.einsum("bni,bnj->bij", x, x).astype(jnp.float64))


def optimum(layers, shared):
    """The best schedule, the spectra included."""
    with setup.x64(True):
        h = spectra()
        start = theory.Schedule(jnp.full(layers, 0.5), jnp.full(layers, 0.1))
        return jax.block_until_ready(theory.best_schedule(h, start, shared))


def published_fit(layers, shared):
    """The same step sizes by Adam on sampled tasks, through the layers; a Python loop."""
    size = 1 if shared else layers

    def loss(schedule, batch):
        each = [constructions.gd_plus_plus(*row, D) for row in zip(*schedule, strict=True)]
        model = lambda task: attention.predict(each * (layers // size), task, clip=10.0)
        return measures.mean_loss(model, batch)

    fresh = jax.jit(lambda key: draw(key, 512))
    start = lambda: (jnp.full(size, 0.5), jnp.full(size, 0.1))
    return plain_loop(loss, optax.adam(1e-3), fresh, start, every=EVERY)


def main():
    """Runs everything and prints the tables."""
    settings = {
        "two recurrent": (Setting(2, True, training.clipped_adam(), None), 5000, 1100),
        "five separate": (Setting(5, False, training.clipped_adam(5e-4, 10.0), 10.0), 50_000, 1100),
    }
    lines, results = [], {}
    for name, (setting, run, long) in settings.items():
        plain = setting.plain()
        plain(1)  # compiles what is jitted once and for all
        found = timing.measure({"plain": (plain, 50, 250), "ours": (setting.ours, 100, long)})
        lines += [name, *timing.table(found, run), ""]
        lines += [timing.ratio(found), ""]
        results[name] = found
    for name, layers, shared, steps in (
        ("two recurrent", 2, True, 1000),
        ("five separate", 5, False, 30_000),
    ):
        fit = published_fit(layers, shared)
        fit(1)
        optimum(layers, shared)  # compiles
        spectrum = timing.seconds(partial(optimum, layers), shared)[0]
        step = timing.seconds(fit, 50)[0] / 50
        lines += [
            f"step sizes of GD++, {name}: {spectrum:.2f} s from the spectra of 10 000 contexts, "
            f"{steps * step:.0f} s by {steps} steps of the published fit: "
            f"{steps * step / spectrum:.0f} times"
        ]
        results[f"GD++ {name}"] = (spectrum, steps * step)
    timing.report(
        "deep", lines, results,
        seeds="evaluation key 0, weights key 1, tasks key 2, spectra key 3",
        setting=f"d = N = {N}, batch {BATCH}, evaluation on 10000 tasks every {EVERY} steps",
    )  # fmt: skip


if __name__ == "__main__":
    main()
