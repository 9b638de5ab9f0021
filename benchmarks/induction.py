"""Speed of training the attention-only model: one scan beside a plain loop, in one process.

    python benchmarks/induction.py [--save]

Random repeats as in the chapter on the phase change: two layers, width 64, windows of 64 tokens in
batches of 32. The plain version is our own: a Python loop whose every step draws a batch with one
jitted call and updates with another, and reads its loss; heads loop in Python, each with its own
product, and positions enter by a mask and a table of biases, as in a first implementation. The
batch of seeds shares its draws.

Both do the same arithmetic, nearly all of it in products. How much a scan can save is therefore
bounded: the table ends with the rate of a step beside that of one large product.
"""

import time

import jax
import jax.numpy as jnp
import optax
import timing

from icl_gd import corpus, measures, training

VOCABULARY, LENGTH, BATCH, HEADS, RUN = 64, 64, 32, 4, 300
OPTIMISER = training.clipped_adam(5e-3, 1.0)
TOKENS = BATCH * (LENGTH - 1)  # that are predicted in a step


def repeats(key):
    """Token 0, and random tokens that repeat with a random period."""
    key_fresh, key_period = jax.random.split(key)
    fresh = jax.random.randint(key_fresh, (LENGTH - 1,), 1, VOCABULARY)
    return jnp.concatenate([jnp.zeros(1, fresh.dtype), corpus.tiled(key_period, fresh)])


def draw(key):
    """A batch of sequences."""
    return jax.vmap(repeats)(jax.random.split(key, BATCH))


def start(seeds):
    """The weights at the start, one a seed."""
    begin = lambda key: training.initialise_transformer(key, VOCABULARY, LENGTH)
    return jax.vmap(begin)(jax.random.split(jax.random.key(1), seeds))


# Ours.


def mean_loss(model, key):
    """On a fresh batch."""
    return jnp.mean(jax.vmap(measures.token_losses, (None, 0))(model, draw(key)))


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


@jax.jit
def plain_update(model, state, sequences):
    """One step of the optimiser."""
    mean = lambda model: jnp.mean(jax.vmap(plain_losses, (None, 0))(model, sequences))
    loss, grads = jax.value_and_grad(mean)(model)
    updates, state = OPTIMISER.update(grads, state, model)
    return optax.apply_updates(model, updates), state, loss


plain_draw = jax.jit(draw)


def plain(steps):
    """The loop in Python."""
    model = jax.tree.map(lambda w: w[0], start(1))
    state, key, history = OPTIMISER.init(model), jax.random.key(2), []
    for _ in range(steps):
        key, key_batch = jax.random.split(key)
        model, state, loss = plain_update(model, state, plain_draw(key_batch))
        history.append(float(loss))
    return model


def agree():
    """Both versions give the same losses, or there is nothing to compare."""
    model = jax.tree.map(lambda w: w[0], start(1))
    sequences = draw(jax.random.key(3))
    pair = [jax.vmap(f, (None, 0))(model, sequences) for f in (plain_losses, measures.token_losses)]
    assert jnp.allclose(*pair, rtol=1e-4, atol=1e-4)


# What forbids more.


def arithmetic():
    """Floating-point operations of one step, as XLA counts them."""
    model = jax.tree.map(lambda w: w[0], start(1))
    step = jax.jit(jax.value_and_grad(mean_loss)).lower(model, jax.random.key(0)).compile()
    return step.cost_analysis()["flops"]


def fastest_rate(size=1024, calls=20):
    """Operations a second of one large product, the best of several calls."""
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.dot)
    best = float("inf")
    for _ in range(calls):
        begin = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


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
    plain_ms, ours_ms = results["plain"][0], results["ours"][0]
    flops, rate = arithmetic(), fastest_rate()
    lines += [
        f"ours / plain = {plain_ms / ours_ms:.2f}",
        f"a step is {flops / 1e9:.2f} GFLOP: ours {flops / ours_ms / 1e6:.0f} GFLOP/s, one product "
        f"of 1024 x 1024 matrices {rate / 1e9:.0f} GFLOP/s; at that rate ours / plain would be "
        f"{plain_ms / (flops / rate * 1e3):.2f}",
    ]
    timing.report(
        "induction", lines, results,
        seeds="weights key 1, sequences key 2",
        setting=f"two layers of 4 heads, width 64, {LENGTH} tokens, vocabulary {VOCABULARY}, "
        f"batch {BATCH}, {TOKENS} predicted tokens a step and seed",
    )  # fmt: skip


if __name__ == "__main__":
    main()
