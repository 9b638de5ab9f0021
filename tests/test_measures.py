"""Measures of models whose answers are known, or found by finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_layer, a_matrix, a_task, in_numpy

from icl_gd import attention, constructions, induction, measures, tasks, tokens, training
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


REPEATED = jax.jit(lambda key: tasks.repeated(key, 40, distinct=True))(jax.random.key(0))
CIRCUIT = jax.jit(constructions.induction_circuit, static_argnums=(0, 1))(40, 101)
run = jax.jit(induction.forward)
token_losses = jax.jit(measures.token_losses)


draw = jax.jit(lambda key: training.initialise_transformer(key, 5, 12, 2, 3, 6))


def a_transformer(seed=0):
    return draw(jax.random.key(seed))


def test_induction_head_matches_prefixes_and_copies():
    trace = run(CIRCUIT, REPEATED)
    np.testing.assert_allclose(
        measures.prefix_matching(trace.patterns, REPEATED), [[0], [1]], atol=1e-14
    )
    np.testing.assert_array_equal(measures.copying_score(CIRCUIT), [[0], [1]])


def test_prefix_matching_of_a_uniform_head():
    uniform = np.tri(101) / np.arange(1, 102)[:, None]
    expected = np.mean([((i - 1) // 25) / (i + 1) for i in range(26, 101)])
    found = measures.prefix_matching(jax.device_put(uniform), REPEATED)
    assert found == pytest.approx(expected, rel=1e-12)
    assert 0.02 < expected < 0.04


def test_prefix_matching_of_a_previous_token_head():
    assert measures.prefix_matching(jnp.eye(101, k=-1), REPEATED) == 0


def test_without_a_start_the_first_token_matches_falsely():
    """Position 0 looks at itself, so that its token seems to follow itself."""
    sequence = REPEATED[1:]
    pattern = run(CIRCUIT, sequence).patterns[1, 0]
    missed = 1 / 2 + 1 / 3 + 1 / 4
    found = measures.prefix_matching(pattern, sequence)
    assert found == pytest.approx(1 - missed / 75, rel=1e-12)


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
    model = a_transformer()
    found = measures.copying_score(model)
    assert found.shape == (2, 3)
    for layer in range(2):
        for head in range(3):
            o, v = (np.asarray(w[layer, head]) for w in (model.heads.output, model.heads.value))
            values = np.linalg.eigvals(np.asarray(model.unembed) @ o @ v @ np.asarray(model.embed))
            share = values.sum().real / np.abs(values).sum()
            assert found[layer, head] == pytest.approx(share, rel=1e-6)
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_copying_score_of_a_copy_and_of_its_opposite(sign):
    heads = CIRCUIT.heads._replace(value=sign * CIRCUIT.heads.value)
    assert measures.copying_score(CIRCUIT._replace(heads=heads))[1, 0] == sign


def test_copying_score_takes_models_in_any_number():
    models = jax.tree.map(lambda *w: jnp.stack(w)[None], a_transformer(0), a_transformer(1))
    found = measures.copying_score(models)
    assert found.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(found[0, 1], measures.copying_score(a_transformer(1)), rtol=1e-9)


def test_token_losses_are_minus_log_probabilities():
    model, sequence = a_transformer(), np.array([0, 3, 1, 4, 1])
    logits = np.asarray(run(model, sequence).logits)
    found = np.asarray(token_losses(model, sequence))
    assert found.shape == (4,)
    for i in range(4):
        chances = np.exp(logits[i]) / np.exp(logits[i]).sum()
        assert found[i] == pytest.approx(-np.log(chances[sequence[i + 1]]), rel=1e-12)


def test_means_over_sequences_are_those_of_each():
    model = a_transformer()
    sequences = jax.random.randint(jax.random.key(1), (3, 12), 0, 5)
    each = [np.asarray(token_losses(model, s)) for s in sequences]
    found = jax.jit(measures.mean_token_losses)(model, sequences)
    np.testing.assert_allclose(found, sum(each) / 3, rtol=1e-12)
    each = [measures.prefix_matching(run(model, s).patterns, s) for s in sequences]
    found = jax.jit(measures.mean_prefix_matching)(model, sequences)
    np.testing.assert_allclose(found, sum(each) / 3, rtol=1e-12)


def test_errors_along_a_sequence_are_written_out():
    draw = np.random.default_rng(0).normal
    x, predictions = (draw(size=(k, 3)) + 1j * draw(size=(k, 3)) for k in (6, 5))
    found = measures.sequence_errors(*map(jax.device_put, (x, predictions)))
    expected = []
    for t in range(2, 6):  # counted from 1, as predictions[t - 2], which is of x[t]
        gaps = predictions[t - 2] - x[t]
        expected.append(sum(gap.real**2 + gap.imag**2 for gap in gaps) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_induction_circuit_knows_nothing_and_then_everything():
    losses = np.asarray(token_losses(CIRCUIT, REPEATED))
    np.testing.assert_allclose(losses[:25], np.log(40), rtol=1e-12)
    assert losses[25] == pytest.approx(np.log(40))  # what follows the last token is not known
    assert (losses[26:] < 1e-14).all()


@pytest.mark.parametrize("tokens_, late, early", [(512, 500, 50), (64, 62, 6), (11, 10, 1)])
def test_in_context_score_is_a_difference_of_two_tokens(tokens_, late, early):
    losses = np.random.default_rng(0).normal(size=(3, tokens_ - 1))
    found = measures.in_context_score(jax.device_put(losses))
    np.testing.assert_allclose(found, losses[:, late - 1] - losses[:, early - 1], rtol=1e-12)


ablated_losses = jax.jit(measures.ablated_losses, static_argnums=2)


@pytest.mark.parametrize("kind", ["zero", "mean", "patterns"])
def test_ablation_cuts_one_head_at_a_time(kind):
    model = a_transformer(3)
    sequences = np.array([[0, 1, 2, 1, 2], [0, 4, 4, 1, 3], [0, 2, 2, 2, 1]])
    whole = [run(model, sequence) for sequence in sequences]
    mean = np.mean([trace.written for trace in whole], axis=0)
    found = np.asarray(ablated_losses(model, sequences, kind))
    assert found.shape == (2, 3, 3, 4)
    for layer, head in np.ndindex(2, 3):
        keep = np.ones((2, 3))
        keep[layer, head] = 0
        for i, sequence in enumerate(sequences):
            ablation = induction.Ablation(
                keep,
                mean if kind == "mean" else 0 * mean,
                whole[i].patterns if kind == "patterns" else None,
            )
            logits = np.asarray(run(model, sequence, ablation).logits)
            expected = np.log(np.exp(logits).sum(1))[:4] - logits[np.arange(4), sequence[1:]]
            np.testing.assert_allclose(found[layer, head, i], expected, rtol=1e-10)


def test_ablations_of_the_circuit():
    """Without its pattern the second head is lost; with it, the first one is not missed."""
    lost = {
        kind: np.asarray(ablated_losses(CIRCUIT, REPEATED[None], kind))[:, 0, 0, 26:].mean(-1)
        for kind in ("zero", "patterns")
    }
    np.testing.assert_allclose(lost["zero"], np.log(40), rtol=1e-12)
    np.testing.assert_allclose(lost["patterns"], [0, np.log(40)], atol=1e-12)


def test_copying_is_the_derivative_by_finite_differences():
    separate = jax.jit(lambda task: tokens.separate(task))
    batch = in_numpy([separate(a_task(i, 2, 2, 1)) for i in range(3)])
    layer, h = a_layer(0, 13), 1e-6
    apply = jax.jit(lambda prompt: attention.softmax_attention(layer, prompt))
    slopes = np.zeros((4, 5, 13))
    for context, query in batch:
        for j, entry in np.ndindex(5, 13):
            moved = np.vstack([context, query])
            moved[j, entry] += h
            up = np.array(apply(tokens.Prompt(moved[:-1], moved[-1])).context)
            moved[j, entry] -= 2 * h
            down = np.array(apply(tokens.Prompt(moved[:-1], moved[-1])).context)
            slopes[:, j, entry] += np.sum(up - down, axis=1) / (2 * h) / len(batch)
    norms = np.linalg.norm(slopes, axis=-1)
    prompts = jax.tree.map(lambda *a: np.stack(a), *batch)
    found = in_numpy(jax.jit(partial(measures.token_sensitivity, apply))(prompts))
    for k in range(3):
        others = [norms[k, j] for j in range(5) if j not in (k, k + 1)]
        expected = [norms[k, k], norms[k, k + 1], np.mean(others)]
        np.testing.assert_allclose([part[k] for part in found], expected, rtol=1e-5)
    assert found.own.shape == (3,)


def test_copying_of_the_constructed_layer():
    """A token of labels holds itself and the one before; none depends on the next."""

    @jax.jit
    def copying(task):
        copy, _ = constructions.copy_then_step(0.1, 3, 4)
        prompts = jax.tree.map(lambda a: a[None], tokens.separate(task))
        return measures.token_sensitivity(lambda p: attention.softmax_attention(copy, p), prompts)

    own, following, other = in_numpy(copying(a_task(1, 3, 4, 1)))
    assert following == pytest.approx(0, abs=1e-10)
    # Entries of the token itself pass, 15 of them; so do the 4 inputs of the one before.
    np.testing.assert_allclose(own[1:], 15**0.5, rtol=1e-10)
    np.testing.assert_allclose(other[1:], 4**0.5 / 5, rtol=1e-10)
