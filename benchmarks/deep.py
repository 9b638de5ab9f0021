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
from published import BATCH, D, N, plain_draw

from icl_gd import attention, constructions, fast, measures, tasks, theory, training
from icl_gd.book import setup

EVERY, PARTS = 100, 8


def draw(key, count):
    """A batch of tasks."""
    return tasks.batch(lambda k: tasks.regression(k, N, D), key, count)


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

    def plain(self):
        """The published loop; returns the function that runs it."""

        def loss(p, batch):
            tokens, target = batch
            for layer in self.stack(p):
                tokens = plain_layer(layer, tokens)
                if self.clip is not None:
                    tokens = jnp.clip(tokens, -self.clip, self.clip)
            return 0.5 * jnp.mean((-tokens[:, -1, -1] - target) ** 2)

        @jax.jit
        def update(p, state, batch):
            value, grads = jax.value_and_grad(loss)(p, batch)
            updates, state = self.optimiser.update(grads, state, p)
            return optax.apply_updates(p, updates), state, value

        evaluate = {name: jax.jit(f) for name, f in self.watch().items()}

        def run(steps):
            p, key, history = self.start(), jax.random.key(2), []
            state = self.optimiser.init(p)
            for step in range(steps):
                key, key_batch = jax.random.split(key)
                p, state, value = update(p, state, plain_draw(key_batch))
                if step % EVERY == 0:
                    history.append([float(value), *(f(p) for f in evaluate.values())])
            return p, history

        return run


def plain_layer(p, tokens):
    """Linear attention of all tokens to all but the last, batch first, one head."""
    queries, keys = tokens @ p.query.T, tokens[:, :-1] @ p.key.T
    values = tokens[:, :-1] @ p.value.T
    scores = jnp.einsum("bthd,bThd->bhtT", queries[:, :, None], keys[:, :, None])
    mixed = jnp.einsum("bhtT,bThd->bthd", scores, values[:, :, None])
    return tokens + mixed[:, :, 0] @ p.project.T


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
    optimiser = optax.adam(1e-3)

    def loss(schedule, key):
        each = [constructions.gd_plus_plus(*row, D) for row in zip(*schedule, strict=True)]
        model = lambda task: attention.predict(each * (layers // size), task, clip=10.0)
        return measures.mean_loss(model, draw(key, 512))

    @jax.jit
    def update(schedule, state, key):
        grads = jax.grad(loss)(schedule, key)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(schedule, updates), state

    def run(steps):
        schedule, key = (jnp.full(size, 0.5), jnp.full(size, 0.1)), jax.random.key(2)
        state = optimiser.init(schedule)
        for _ in range(steps):
            key, key_batch = jax.random.split(key)
            schedule, state = update(schedule, state, key_batch)
        return schedule

    return run


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
