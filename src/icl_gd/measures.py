"""Numbers from models: functions from a task to the label of its query."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from icl_gd.tasks import Task

Model = Callable[[Task], Float[Array, " outputs"]]


class Alignment(NamedTuple):
    """How close two models are, averaged over tasks."""

    cosine: Float[Array, ""]
    model_difference: Float[Array, ""]
    prediction_difference: Float[Array, ""]


def mean_loss(model: Model, tasks: Task) -> Float[Array, ""]:
    """The mean over a batch of tasks of 1/2 ||prediction - label||^2 at the query."""
    predictions = jax.vmap(model)(tasks)
    return 0.5 * jnp.mean(jnp.sum((predictions - tasks.y_query) ** 2, axis=-1))


def sensitivity(model: Model, task: Task) -> Float[Array, "outputs dim"]:
    """d prediction / d x_query: for a model linear in its query, the W it learned."""
    return jax.jacrev(lambda x: model(task._replace(x_query=x)))(task.x_query)


def alignment(model: Model, other: Model, tasks: Task) -> Alignment:
    """Compares two models on a batch of tasks, as in von Oswald et al. (2022), Fig. 2.

    The mean cosine between their sensitivities, the mean norm of the difference of the
    sensitivities, and the mean norm of the difference of the predictions. The cosine is
    not a number where a sensitivity is zero.
    """

    def compare(task):
        a, b = sensitivity(model, task), sensitivity(other, task)
        cosine = jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        return Alignment(
            cosine, jnp.linalg.norm(a - b), jnp.linalg.norm(model(task) - other(task))
        )

    return jax.tree.map(jnp.mean, jax.vmap(compare)(tasks))
