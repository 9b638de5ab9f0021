"""Speed of the sine-wave run: ours beside a plain version of the published loop, in one process.

    python benchmarks/sine.py [--save]

The plain version is our own, written after the published algorithm (von Oswald et al. 2022): a
Python loop whose every step draws a batch with one jitted call and updates with another; the layer
projects all tokens four times and attends from all of them; every 1000 steps a batch is evaluated.
Both are run in turn, several times; the table gives medians.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import timing
from published import plain_error, plain_layer, plain_loop

from icl_gd import attention, fast, measures, tasks, tokens, training

N, WIDTH, BATCH, PARTS, EVERY, RUN = 10, 40, 2048, 4, 1000, 20_000
OPTIMISER = optax.chain(
    optax.clip_by_global_norm(100.0), optax.adamw(1e-3, b1=0.9, b2=0.98, weight_decay=0.0)
)


def start():
    """The weights at the start."""
    return training.initialise_block(jax.random.key(1), 2, WIDTH)


# Ours.


def draw(key, count):
    """A batch of tasks."""
    return tasks.batch(lambda k: tasks.sine(k, N, True), key, count)


def model(weights):
    """The MLP and the layer as a function from a task to a label."""
    layer = attention.products(weights["layer"])
    return lambda task: fast.features(weights["features"], layer, task)


EVALUATION = draw(jax.random.key(0), BATCH)


def evaluate(weights):
    """What is measured every 1000 steps."""
    return measures.mean_loss(model(weights), EVALUATION)


def ours(steps):
    """The published run in one scan."""
    of_part = lambda weights, key: measures.mean_loss(model(weights), draw(key, BATCH // PARTS))
    loss = training.accumulated(of_part, PARTS)
    params = jax.tree.map(lambda w: w[None], start())
    keys = jax.random.split(jax.random.key(2), 1)
    return training.fit(loss, params, keys, OPTIMISER, steps, min(steps, EVERY), {"loss": evaluate})


# Plain.


def plain_task(key):
    """One task with five keys, amplitude and phase from the first, as published."""
    key, k_x, k_q, k_noise, k_choice = jax.random.split(key, 5)
    amplitude = jax.random.uniform(key, (1,), minval=0.1, maxval=0.5)
    phase = jax.random.uniform(key, (1,)) * jnp.pi
    x = jax.random.uniform(k_x, (N, 1), minval=-5.0, maxval=5.0)
    x_query = jax.random.uniform(k_q, (1, 1), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x + phase)
    chosen = jax.random.choice(k_choice, N, (0,), replace=False)
    y = y.at[chosen].set(jax.random.normal(k_noise, (0, 1)))
    tokens = jnp.concatenate([jnp.concatenate([x, y], 1), jnp.pad(x_query, ((0, 0), (0, 1)))])
    return tokens, (amplitude * jnp.sin(x_query + phase))[0, 0]


plain_draw = jax.jit(lambda key: tasks.batch(plain_task, key, BATCH))


def plain_loss(weights, batch):
    """Half the mean squared error at the last token, batch first."""
    tokens, target = batch
    f = weights["features"]
    e = tokens @ f.embed.T
    e = e + jax.nn.gelu(e @ f.hidden.T + f.hidden_bias) @ f.out.T + f.out_bias
    return plain_error(plain_layer(weights["layer"], e), target)


@jax.jit
def plain_evaluate(weights):
    """What is measured every 1000 steps, token by token."""
    layer = attention.products(weights["layer"])
    embed = partial(attention.features, weights["features"])
    through = lambda prompt: attention.linear_attention(layer, jax.tree.map(embed, prompt))
    return measures.mean_loss(tokens.reader(through), EVALUATION)


plain = plain_loop(plain_loss, OPTIMISER, plain_draw, start, [plain_evaluate], EVERY)


def main():
    """Runs both and prints one table."""
    plain(1)  # compiles what is jitted once and for all
    results = timing.measure({"plain": (plain, 10, 60), "ours": (ours, 20, 120)})
    lines = timing.table(results, RUN)
    lines += ["", timing.ratio(results)]
    timing.report(
        "sine", lines, results,
        seeds="evaluation key 0, weights key 1, tasks key 2",
        setting=f"N = {N}, width {WIDTH}, batch {BATCH}, evaluation on {BATCH} tasks "
        f"every {EVERY} steps",
    )  # fmt: skip


if __name__ == "__main__":
    main()
