"""What the plain versions of the published loops share: tasks as the published code draws them."""

import jax
import jax.numpy as jnp

from icl_gd import tasks

N = D = 10
BATCH = 2048


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
