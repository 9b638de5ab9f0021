"""The layout of tokens, entry by entry."""

import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, a_task

from icl_gd import tokens

N, D, M = 4, 3, 2
TASK = a_task(0, N, D, M)


def test_each_entry_of_the_context_stands_where_it_should():
    context = tokens.join(TASK).context
    assert context.shape == (N, D + M)
    for j in range(N):
        for i in range(D):
            assert context[j, i] == TASK.x[j, i]
        for i in range(M):
            assert context[j, D + i] == TASK.y[j, i]


def test_query_starts_at_minus_w0_x():
    w0 = a_matrix(1, M, D)
    query = tokens.join(TASK, w0).query
    np.testing.assert_array_equal(query[:D], TASK.x_query)
    for i in range(M):
        assert query[D + i] == pytest.approx(-sum(w0[i, k] * TASK.x_query[k] for k in range(D)))


def test_query_starts_at_zero_and_never_carries_its_label():
    np.testing.assert_array_equal(tokens.join(TASK).query, [*TASK.x_query, 0, 0])


def test_prediction_is_minus_the_last_entries():
    prompt = tokens.Prompt(jnp.zeros((1, 4)), jnp.array([1.0, 2.0, 3.0, 5.0]))
    np.testing.assert_array_equal(tokens.prediction(prompt, 1), [-5])
    np.testing.assert_array_equal(tokens.prediction(prompt, 3), [-2, -3, -5])


def test_joined_prompt_predicts_w0_x():
    w0 = a_matrix(2, M, D)
    np.testing.assert_allclose(
        tokens.prediction(tokens.join(TASK, w0), M), w0 @ TASK.x_query, rtol=1e-14
    )


@pytest.mark.parametrize(
    "w0, error, message",
    [
        (np.zeros((D, M)), ValueError, r"w0 must have shape \(2, 3\), got \(3, 2\)"),
        (np.zeros(D), ValueError, r"w0 must have shape \(2, 3\), got \(3,\)"),
        (np.full((M, D), np.nan), ValueError, "w0 must be finite, got .*nan"),
        (np.zeros((M, D), complex), TypeError, "w0 must be real numbers, got complex128"),
    ],
)
def test_bad_start_is_named(unchecked, w0, error, message):
    with pytest.raises(error, match=message):
        tokens.join(TASK, w0)


@pytest.mark.parametrize(
    "outputs, error, message",
    [
        (0, ValueError, "outputs must be at least 1, got 0"),
        (1.0, TypeError, "outputs must be an int of at least 1, got 1.0"),
        (5, ValueError, "outputs must be between 1 and 4, got 5"),
        (6, ValueError, "outputs must be between 1 and 4, got 6"),
    ],
)
def test_bad_outputs_are_named(unchecked, outputs, error, message):
    with pytest.raises(error, match=message):
        tokens.prediction(tokens.join(TASK), outputs)
    tokens.prediction(tokens.join(TASK), 4)
