"""The layout of tokens, entry by entry."""

import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, a_task, in_numpy

from icl_gd import tokens

N, D, M = 4, 3, 2
TASK = a_task(0, N, D, M)
ENTRIES = in_numpy(TASK)


def test_each_entry_of_the_context_stands_where_it_should():
    context = in_numpy(tokens.join(TASK).context)
    assert context.shape == (N, D + M)
    for j in range(N):
        for i in range(D):
            assert context[j, i] == ENTRIES.x[j, i]
        for i in range(M):
            assert context[j, D + i] == ENTRIES.y[j, i]


def test_query_starts_at_minus_w0_x():
    w0 = a_matrix(1, M, D)
    w0, query = in_numpy((w0, tokens.join(TASK, w0).query))
    np.testing.assert_array_equal(query[:D], ENTRIES.x_query)
    for i in range(M):
        assert query[D + i] == pytest.approx(-sum(w0[i, k] * ENTRIES.x_query[k] for k in range(D)))


def test_query_starts_at_zero_and_never_carries_its_label():
    np.testing.assert_array_equal(tokens.join(TASK).query, [*ENTRIES.x_query, 0, 0])


def test_prediction_is_minus_the_last_entries():
    prompt = tokens.Prompt(jnp.zeros((1, 4)), jnp.array([1.0, 2.0, 3.0, 5.0]))
    np.testing.assert_array_equal(tokens.prediction(prompt, 1), [-5])
    np.testing.assert_array_equal(tokens.prediction(prompt, 3), [-2, -3, -5])


def test_joined_prompt_predicts_w0_x():
    w0 = a_matrix(2, M, D)
    np.testing.assert_allclose(
        tokens.prediction(tokens.join(TASK, w0), M), w0 @ TASK.x_query, rtol=1e-14
    )


@pytest.mark.parametrize("write", [tokens.join, tokens.separate_published])
def test_reader_reads_the_query_after_the_layers(write):
    """Here the layers subtract from the query what the task says and the context's last token."""
    layers = lambda p: p._replace(query=p.query - p.context[-1] - jnp.arange(len(p.query)))
    context, query = in_numpy(write(TASK))
    size = len(query)
    found = tokens.reader(layers, write)(TASK)
    expected = -query[-M:] + context[-1, -M:] + np.arange(size - M, size)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_reader_writes_joined_tokens_unless_told():
    first = lambda prompt: prompt._replace(query=-prompt.context[0])
    np.testing.assert_array_equal(tokens.reader(first)(TASK), ENTRIES.y[0])


def test_positions_are_sines_and_cosines_in_turn():
    found = in_numpy(tokens.positions(5, 6))
    assert found.shape == (5, 6)
    for p in range(5):
        for k in range(3):
            angle = p / 10_000 ** (2 * k / 6)
            assert found[p, 2 * k] == pytest.approx(np.sin(angle), abs=1e-14)
            assert found[p, 2 * k + 1] == pytest.approx(np.cos(angle), abs=1e-14)


def test_separate_tokens_stand_in_turn():
    context, query = in_numpy(tokens.separate(TASK))
    assert context.shape == (2 * N, 10 + D + M)
    for j in range(N):
        np.testing.assert_array_equal(context[2 * j, 10:], [*ENTRIES.x[j], 0, 0])
        np.testing.assert_array_equal(context[2 * j + 1, 10:], [0, 0, 0, *ENTRIES.y[j]])
    np.testing.assert_array_equal(query[10:], [*ENTRIES.x_query, 0, 0])
    places = np.vstack([context, query])[:, :10]
    np.testing.assert_array_equal(places, tokens.positions(2 * N + 1, 10))


def test_published_labels_share_the_last_inputs():
    context, query = in_numpy(tokens.separate_published(TASK))
    assert context.shape == (2 * N, D + 10)
    for j in range(N):
        np.testing.assert_array_equal(context[2 * j, :D], ENTRIES.x[j])
        np.testing.assert_array_equal(context[2 * j + 1, :D], [0, *ENTRIES.y[j]])
    np.testing.assert_array_equal(query[:D], ENTRIES.x_query)
    places = np.vstack([context, query])[:, D:]
    np.testing.assert_array_equal(places, tokens.positions(2 * N + 1, 10))


def test_a_label_may_fill_its_token():
    task = a_task(1, 2, 3, 3)
    found, expected = in_numpy((tokens.separate_published(task).context, task.y))
    np.testing.assert_array_equal(found[1, :3], expected[0])
    with pytest.raises(ValueError, match="outputs must be between 1 and 2, got 3"):
        tokens.separate_published(a_task(1, 2, 2, 3))
