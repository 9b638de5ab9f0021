"""Measures of models whose answers are known, or found by finite differences."""

from functools import partial

import jax
import numpy as np
import pytest
from problems import a_layer, a_matrix, a_task, in_numpy, stacked

from icl_gd import attention, constructions, induction, measures, tasks, tokens, training
from icl_gd.tokens import Prompt

N, D, M, COUNT = 4, 3, 2, 7
BATCH = jax.device_put(stacked(*(a_task(i, N, D, M) for i in range(COUNT))))


def linear(seed):
    """A model that is linear in its query, with another matrix for every task."""
    a, b = a_matrix(seed, M, D), a_matrix(seed + 100, M, N)
    return lambda task: (a + b @ task.x) @ task.x_query


def matrices(seed):
    a, b = in_numpy((a_matrix(seed, M, D), a_matrix(seed + 100, M, N)))
    return [a + b @ np.asarray(x) for x in BATCH.x]


def test_mean_loss_is_the_sum_written_out():
    total = 0.0
    for w, x_q, y_q in zip(matrices(0), *in_numpy(BATCH[2:]), strict=True):
        total += sum((np.dot(w[k], x_q) - y_q[k]) ** 2 / 2 for k in range(M))
    np.testing.assert_allclose(measures.mean_loss(linear(0), BATCH), total / COUNT, rtol=1e-12)


def test_sensitivity_of_a_linear_model_is_its_matrix():
    for i, w in enumerate(matrices(0)):
        task = jax.tree.map(lambda a, i=i: a[i], BATCH)
        np.testing.assert_allclose(measures.sensitivity(linear(0), task), w, rtol=1e-12)


def test_alignment_is_the_mean_over_tasks():
    each = []
    for a, b, x_q in zip(matrices(0), matrices(1), np.asarray(BATCH.x_query), strict=True):
        cosine = (a * b).sum() / ((a**2).sum() * (b**2).sum()) ** 0.5
        each.append([cosine, ((a - b) ** 2).sum() ** 0.5, (((a - b) @ x_q) ** 2).sum() ** 0.5])
    found = measures.alignment(linear(0), linear(1), BATCH)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-12)


def test_errors_along_a_sequence_are_written_out():
    draw = np.random.default_rng(0).normal
    x, predictions = (draw(size=(k, 3)) + 1j * draw(size=(k, 3)) for k in (6, 5))
    found = measures.sequence_errors(*map(jax.device_put, (x, predictions)))
    for t in range(2, 6):  # counted from 1, as predictions[t - 2], which is of x[t]
        gaps = predictions[t - 2] - x[t]
        assert found[t - 2] == pytest.approx(sum(g.real**2 + g.imag**2 for g in gaps) / 2)
    assert len(found) == 4


run = jax.jit(induction.forward)
draw = jax.jit(lambda key: training.initialise_transformer(key, 5, 12, 2, 3, 6))


def a_transformer(seed=0):
    return draw(jax.random.key(seed))


def losses_of(logits, sequence):
    """Minus the log of what each token but the first is given."""
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [-np.log(chances[i, token]) for i, token in enumerate(sequence[1:])]


def test_token_losses_are_minus_log_probabilities():
    model, sequence = a_transformer(), np.array([0, 3, 1, 4, 1])
    expected = losses_of(np.asarray(run(model, sequence).logits), sequence)
    np.testing.assert_allclose(measures.token_losses(model, sequence), expected, rtol=1e-12)


def test_means_over_sequences_are_those_of_each():
    model = a_transformer()
    sequences = jax.random.randint(jax.random.key(1), (3, 12), 0, 5)
    each = [np.asarray(measures.token_losses(model, s)) for s in sequences]
    found = jax.jit(measures.mean_token_losses)(model, sequences)
    np.testing.assert_allclose(found, sum(each) / 3, rtol=1e-12)
    each = [measures.prefix_matching(run(model, s).patterns, s) for s in sequences]
    found = jax.jit(measures.mean_prefix_matching)(model, sequences)
    np.testing.assert_allclose(found, sum(each) / 3, rtol=1e-12)


def test_induction_head_matches_prefixes_and_copies():
    """On repeated tokens; it knows nothing of those that it sees for the first time."""
    sequence = jax.jit(lambda key: tasks.repeated(key, 40, distinct=True))(jax.random.key(0))
    circuit = jax.jit(constructions.induction_circuit, static_argnums=(0, 1))(40, 101)
    found = measures.prefix_matching(run(circuit, sequence).patterns, sequence)
    np.testing.assert_allclose(found, [[0], [1]], atol=1e-14)
    np.testing.assert_array_equal(measures.copying_score(circuit), [[0], [1]])
    losses = measures.token_losses(circuit, sequence)
    np.testing.assert_allclose(losses, [np.log(40)] * 26 + [0] * 74, rtol=1e-12, atol=1e-14)


def test_prefix_matching_counts_by_token():
    """Written out: tokens that come back by chance, next to each other, and at once."""
    sequence = np.array([0, 1, 1, 2, 1, 2, 2])
    patterns = np.random.default_rng(0).dirichlet(np.ones(7), size=(2, 7))
    total = np.zeros(2)
    for i, places in {2: [2], 4: [2, 3], 5: [4], 6: [4, 6]}.items():
        total += patterns[:, i, places].sum(-1)
    found = measures.prefix_matching(jax.device_put(patterns), jax.device_put(sequence))
    np.testing.assert_allclose(found, total / 4, rtol=1e-12)


def test_copying_score_is_the_share_of_the_large_matrix():
    models = [a_transformer(0), a_transformer(1)]
    found = measures.copying_score(stacked(*models))
    for i, layer, head in np.ndindex(2, 2, 3):
        embed, heads, unembed = in_numpy(models[i])
        matrix = unembed @ heads.output[layer, head] @ heads.value[layer, head] @ embed
        values = np.linalg.eigvals(matrix)
        share = values.sum().real / np.abs(values).sum()
        assert found[i, layer, head] == pytest.approx(share, rel=1e-6)
    small = models[0]._replace(embed=1e-3 * models[0].embed)  # the size does not matter
    np.testing.assert_allclose(measures.copying_score(small), found[0], rtol=1e-6)


@pytest.mark.parametrize(
    "tokens_, late, early", [(512, 500, 50), (64, 62, 6), (11, 10, 1), (5000, 4882, 488)]
)
def test_in_context_score_is_a_difference_of_two_tokens(tokens_, late, early):
    losses = np.random.default_rng(0).normal(size=(3, tokens_ - 1))
    found = measures.in_context_score(jax.device_put(losses))
    np.testing.assert_allclose(found, losses[:, late - 1] - losses[:, early - 1], rtol=1e-12)


@pytest.mark.parametrize("kind", ["zero", "mean", "patterns"])
def test_ablation_cuts_one_head_at_a_time(kind):
    model = a_transformer(3)
    sequences = np.array([[0, 1, 2, 1, 2], [0, 4, 4, 1, 3], [0, 2, 2, 2, 1]])
    whole = [run(model, sequence) for sequence in sequences]
    mean = np.mean([trace.written for trace in whole], axis=0)
    found = jax.jit(measures.ablated_losses, static_argnums=2)(model, sequences, kind)
    for layer, head, i in np.ndindex(2, 3, 3):
        keep = np.ones((2, 3))
        keep[layer, head] = 0
        instead = mean if kind == "mean" else 0 * mean
        patterns = whole[i].patterns if kind == "patterns" else None
        ablation = induction.Ablation(keep, instead, patterns)
        logits = np.asarray(run(model, sequences[i], ablation).logits)
        expected = losses_of(logits, sequences[i])
        np.testing.assert_allclose(found[layer, head, i], expected, rtol=1e-10)


def test_copying_is_the_derivative_by_finite_differences():
    prompts = stacked(*(tokens.separate(a_task(i, 2, 2, 1)) for i in range(3)))
    layer = partial(attention.softmax_attention, a_layer(0, 13))
    h, slopes = 1e-6, np.zeros((4, 5, 13))
    mean_of = jax.jit(lambda e: jax.vmap(lambda e: layer(Prompt(e[:-1], e[-1])))(e).context.mean(0))
    e = np.concatenate([prompts.context, prompts.query[:, None]], axis=1)
    for j, entry in np.ndindex(5, 13):
        move = np.zeros((5, 13))
        move[j, entry] = h
        slopes[:, j, entry] = np.sum(mean_of(e + move) - mean_of(e - move), axis=1) / (2 * h)
    norms = np.linalg.norm(slopes, axis=-1)
    found = in_numpy(jax.jit(partial(measures.token_sensitivity, layer))(prompts))
    for k in range(3):
        others = [norms[k, j] for j in range(5) if j not in (k, k + 1)]
        expected = [norms[k, k], norms[k, k + 1], np.mean(others)]
        np.testing.assert_allclose([part[k] for part in found], expected, rtol=1e-5)
    assert found.own.shape == (3,)
