"""Measures of models whose answers are known, or found by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, a_task, in_numpy

from icl_gd import measures
from icl_gd.tasks import Task

N, D, M, COUNT = 4, 3, 2, 7
BATCH = Task(*(jnp.stack(arrays) for arrays in zip(*(a_task(i, N, D, M) for i in range(COUNT)))))  # noqa: B905


def linear(seed):
    """A model that is linear in its query, with another matrix for every task."""
    a, b = a_matrix(seed, M, D), a_matrix(seed + 100, M, N)
    return lambda task: (a + b @ task.x) @ task.x_query


def matrices(seed):
    a, b = np.asarray(a_matrix(seed, M, D)), np.asarray(a_matrix(seed + 100, M, N))
    return [a + b @ np.asarray(x) for x in BATCH.x]


def curved(task):
    return jnp.sin(task.x_query[:M] * task.x_query[-1]) + task.y[0]


def test_mean_loss_is_the_sum_written_out():
    total = 0.0
    for w, x_q, y_q in zip(matrices(0), *in_numpy(BATCH[2:]), strict=True):
        for k in range(M):
            total += (np.dot(w[k], x_q) - y_q[k]) ** 2 / 2
    np.testing.assert_allclose(measures.mean_loss(linear(0), BATCH), total / COUNT, rtol=1e-12)


def test_sensitivity_of_a_linear_model_is_its_matrix():
    for i, w in enumerate(matrices(0)):
        task = jax.tree.map(lambda a, i=i: a[i], BATCH)
        np.testing.assert_allclose(measures.sensitivity(linear(0), task), w, rtol=1e-12)


def test_sensitivity_is_the_finite_difference():
    task, h = a_task(1, N, D, M), 1e-6
    found = measures.sensitivity(curved, task)
    assert found.shape == (M, D)
    for i in range(D):
        up, down = (curved(task._replace(x_query=task.x_query.at[i].add(step))) for step in (h, -h))
        np.testing.assert_allclose(found[:, i], (up - down) / (2 * h), rtol=1e-8, atol=1e-9)


def test_alignment_is_the_mean_over_tasks():
    cosines, models, predictions = [], [], []
    for a, b, x_q in zip(matrices(0), matrices(1), np.asarray(BATCH.x_query), strict=True):
        cosines.append((a * b).sum() / ((a**2).sum() * (b**2).sum()) ** 0.5)
        models.append(((a - b) ** 2).sum() ** 0.5)
        predictions.append((((a - b) @ x_q) ** 2).sum() ** 0.5)
    found = measures.alignment(linear(0), linear(1), BATCH)
    expected = [np.mean(cosines), np.mean(models), np.mean(predictions)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("factor", [1.0, -1.0, 2.5])
def test_alignment_with_a_multiple_of_itself(factor):
    model = linear(0)
    found = measures.alignment(model, lambda task: factor * model(task), BATCH)
    norms = [np.linalg.norm(w) for w in matrices(0)]
    sizes = [np.linalg.norm(w @ x_q) for w, x_q in zip(matrices(0), BATCH.x_query, strict=True)]
    gap = abs(1 - factor)
    assert found.cosine == pytest.approx(np.sign(factor), rel=1e-12)
    assert found.model_difference == pytest.approx(gap * np.mean(norms), rel=1e-12)
    assert found.prediction_difference == pytest.approx(gap * np.mean(sizes), rel=1e-12)


def test_alignment_does_not_tell_the_models_apart():
    one = measures.alignment(linear(0), linear(1), BATCH)
    np.testing.assert_allclose(measures.alignment(linear(1), linear(0), BATCH), one, rtol=1e-12)
