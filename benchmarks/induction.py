"""Speed of training the attention-only model: one scan beside a plain loop, in one process.

    python benchmarks/induction.py [--save]

Random repeats as in the chapter on the phase change: two layers, width 64, windows of 64 tokens in
batches of 32. The plain version is our own: a Python loop whose every step draws a batch with one
jitted call and updates with another, and reads its loss; heads loop in Python, each with its own
product, and positions enter by a mask and a table of biases, as in a first implementation. The
batch of seeds shares its draws.

Both do the same arithmetic, which is nearly all of a step here: a scan saves the calls, the keys
and the losses that are read, and nothing else. The last lines say how much that can be: a gradient
on a batch that is there already, for both, and the ratio if ours did nothing besides.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import optax
import timing
from published import plain_loop

from icl_gd import corpus, measures, tasks, training

VOCABULARY, LENGTH, BATCH, HEADS, RUN = 64, 64, 32, 4, 300
OPTIMISER = training.clipped_adam(5e-3, 1.0)
TOKENS = BATCH * (LENGTH - 1)  # that are predicted in a step


def draw(key):
    """A batch of sequences: token 0, and random tokens that repeat with a random period."""
    return tasks.batch(lambda key: corpus.random_repeats(key, VOCABULARY, LENGTH), key, BATCH)


def start(seeds):
    """The weights at the start, one a seed."""
    begin = lambda key: training.initialise_transformer(key, VOCABULARY, LENGTH)
    return tasks.batch(begin, jax.random.key(1), seeds)


# Ours.


def mean_loss(model, key):
    """On a fresh batch."""
    return jnp.mean(measures.mean_token_losses(model, draw(key)))


def ours(steps, seeds=1):
    """The run of the chapter in one scan, seeds as an axis."""
    return training.fit(mean_loss, start(seeds), jax.random.key(2), OPTIMISER, steps, steps)


# Plain.


def plain_losses(model, sequence):
    """The losses of one sequence, head by head."""
    stream = model.embed.T[sequence]
    distance = jnp.arange(LENGTH)[:, None] - jnp.arange(LENGTH)
    for layer in range(2):
        total = 0.0
        for head in range(HEADS):
            weights = jax.tree.map(lambda w, at=(layer, head): w[at], model.heads)
            queries, keys = stream @ weights.query.T, stream @ weights.key.T
            scores = queries @ keys.T / jnp.sqrt(weights.query.shape[0])
            scores = scores + weights.bias[jnp.maximum(distance, 0)]
            pattern = jax.nn.softmax(jnp.where(distance >= 0, scores, -jnp.inf))
            total = total + pattern @ (stream @ weights.value.T) @ weights.output.T
        stream = stream + total
    logits = (stream @ model.unembed.T)[:-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, sequence[1:])


def plain_loss(model, sequences):
    """The mean over a batch."""
    return jnp.mean(jax.vmap(plain_losses, (None, 0))(model, sequences))


def first():
    """The weights of one seed at the start."""
    return jax.tree.map(lambda w: w[0], start(1))


plain = plain_loop(plain_loss, OPTIMISER, jax.jit(draw), first)


def agree():
    """Both versions give the same losses, or there is nothing to compare."""
    model = first()
    sequences = draw(jax.random.key(3))
    pair = [jax.vmap(f, (None, 0))(model, sequences) for f in (plain_losses, measures.token_losses)]
    assert jnp.allclose(*pair, rtol=1e-4, atol=1e-4)


# What forbids more.


def gradients(rounds=20, calls=20):
    """Milliseconds of a loss with its gradient on one batch, plain and ours: the median of both."""
    model, sequences = first(), draw(jax.random.key(3))
    times = {}
    for name, losses in {"plain": plain_losses, "ours": measures.token_losses}.items():
        mean = lambda m, s, losses=losses: jnp.mean(jax.vmap(losses, (None, 0))(m, s))
        times[name] = (jax.jit(jax.value_and_grad(mean)), [])
    for _ in range(rounds + 1):  # the first compiles
        for gradient, seen in times.values():
            begin = time.perf_counter()
            for _ in range(calls):
                found = gradient(model, sequences)
            jax.block_until_ready(found)
            seen.append(1e3 * (time.perf_counter() - begin) / calls)
    return {name: statistics.median(seen[1:]) for name, (_, seen) in times.items()}


def main():
    """Runs all and prints one table."""
    agree()
    plain(1)  # compiles what is jitted once and for all
    runs = {
        "plain": (plain, 50, 550),
        "ours": (ours, 50, 550),
        "ours, 4 seeds": (lambda steps: ours(steps, 4), 50, 550),
    }
    results = timing.measure(runs)
    speed = {name: TOKENS / (step / 1e3) for name, (step, *_) in results.items()}
    speed["ours, 4 seeds"] *= 4
    lines = timing.table(results, RUN)
    lines += ["", "tokens a second: " + ", ".join(f"{n} {s:,.0f}" for n, s in speed.items())]
    alone = gradients()
    lines += [
        f"ours / plain = {speed['ours'] / speed['plain']:.2f}",
        f"a gradient alone: plain {alone['plain']:.2f} ms, ours {alone['ours']:.2f} ms; if a step "
        f"of ours were nothing else, ours / plain = {results['plain'][0] / alone['ours']:.2f}",
    ]
    timing.report(
        "induction", lines, results,
        seeds="weights key 1, sequences key 2",
        setting=f"two layers of 4 heads, width 64, {LENGTH} tokens, vocabulary {VOCABULARY}, "
        f"batch {BATCH}, {TOKENS} predicted tokens a step and seed",
    )  # fmt: skip


if __name__ == "__main__":
    main()
