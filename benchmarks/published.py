"""What benchmarks share: the tasks, and of the plain versions a layer of attention and the loop."""

import jax
import jax.numpy as jnp
import optax

from icl_gd import tasks

N = D = 10
BATCH = 2048


def draw(key, count):
    """A batch of tasks."""
    return tasks.batch(lambda k: tasks.regression(k, N, D), key, count)


def plain_task(key):
    """One task with five keys and a choice of labels to spoil (none), as published."""
    k_w, k_x, k_q, k_noise, k_choice = jax.random.split(key, 5)
    w = jax.random.normal(k_w, (D,))
    x = jax.random.uniform(k_x, (N, D), minval=-0.5, maxval=0.5)
    x_query = jax.random.uniform(k_q, (1, D), minval=-0.5, maxval=0.5)
    chosen = jax.random.choice(k_choice, N, (0,), replace=False)
    y = (x @ w).at[chosen].set(jax.random.normal(k_noise, (0,)))
    context = jnp.concatenate([x, y[:, None]], axis=1)
    query = jnp.concatenate([x_query, jnp.zeros((1, 1))], axis=1)
    return jnp.concatenate([context, query]), (x_query @ w)[0]


plain_draw = jax.jit(lambda key: tasks.batch(plain_task, key, BATCH))


def plain_layer(p, tokens):
    """Linear attention of all tokens to all but the last, batch first, one head."""
    queries, keys = tokens @ p.query.T, tokens[:, :-1] @ p.key.T
    values = tokens[:, :-1] @ p.value.T
    scores = jnp.einsum("bthd,bThd->bhtT", queries[:, :, None], keys[:, :, None])
    mixed = jnp.einsum("bhtT,bThd->bthd", scores, values[:, :, None])
    return tokens + mixed[:, :, 0] @ p.project.T


def plain_error(tokens, target):
    """Half the mean squared error of the prediction that the last token holds."""
    return 0.5 * jnp.mean((-tokens[:, -1, -1] - target) ** 2)


def plain_loop(loss, optimiser, draw, start, evaluate=(), every=1):
    """The loop in Python, as a function of the number of steps; gives the last weights.

    Every step draws a batch with one jitted call and updates with another; ``every`` so many steps
    the loss of the batch is read, and each of the jitted functions ``evaluate`` of the weights.
    """

    @jax.jit
    def update(weights, state, batch):
        value, grads = jax.value_and_grad(loss)(weights, batch)
        updates, state = optimiser.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state, value

    def run(steps):
        weights, key, history = start(), jax.random.key(2), []
        state = optimiser.init(weights)
        for step in range(steps):
            key, key_batch = jax.random.split(key)
            weights, state, value = update(weights, state, draw(key_batch))
            if step % every == 0:
                found = [value, *(measure(weights) for measure in evaluate)]
                history.append(jax.tree.map(float, found))
        return weights

    return run
