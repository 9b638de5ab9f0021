"""The language model, against itself written out in NumPy, position by position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, in_numpy

from icl_gd import induction
from icl_gd.induction import Ablation, Heads, Transformer

LAYERS, HEADS, SIZE, WIDTH, REACH, VOCABULARY = 2, 3, 2, 5, 7, 4
SEQUENCE = jnp.array([0, 3, 1, 3, 2, 1])


run = jax.jit(induction.forward)


def a_model(seed=0, smeared=False):
    draw = lambda i, *shape: a_matrix(10 * seed + i, *shape)
    inward = (draw(i, LAYERS, HEADS, SIZE, WIDTH) for i in range(3))
    output, bias = draw(3, LAYERS, HEADS, WIDTH, SIZE), draw(4, LAYERS, HEADS, REACH)
    smear = draw(5, LAYERS, HEADS) if smeared else None
    heads = Heads(*inward, output, bias, smear)
    return Transformer(draw(6, WIDTH, VOCABULARY), heads, draw(7, VOCABULARY, WIDTH))


def written_out(model, sequence, keep=None, instead=None, given=None):
    """Logits, patterns and results, with loops over layers, heads and positions."""
    embed, heads, unembed = in_numpy(model)
    n = len(sequence)
    stream = [embed[:, s] for s in sequence]
    patterns = np.zeros((LAYERS, HEADS, n, n))
    written = np.zeros((LAYERS, HEADS, n, WIDTH))
    for l in range(LAYERS):
        for h in range(HEADS):
            keys = [heads.key[l, h] @ r for r in stream]
            if heads.smear is not None:
                own = 1 / (1 + np.exp(-heads.smear[l, h]))
                smeared = [keys[0]]
                for j in range(1, n):
                    smeared.append(own * keys[j] + (1 - own) * keys[j - 1])
                keys = smeared
            for i in range(n):
                query = heads.query[l, h] @ stream[i]
                scores = [
                    query @ keys[j] / SIZE**0.5 + heads.bias[l, h, i - j] for j in range(i + 1)
                ]
                shares = np.exp(np.array(scores) - max(scores))
                patterns[l, h, i, : i + 1] = shares / shares.sum()
                if given is not None:
                    patterns[l, h, i] = given[l, h, i]
                seen = sum(patterns[l, h, i, j] * heads.value[l, h] @ stream[j] for j in range(n))
                written[l, h, i] = heads.output[l, h] @ seen
                if keep is not None:
                    written[l, h, i] *= keep[l, h]
                    written[l, h, i] += (1 - keep[l, h]) * instead[l, h, i]
        stream = [r + written[l, :, i].sum(0) for i, r in enumerate(stream)]
    return np.array([unembed @ r for r in stream]), patterns, written


@pytest.mark.parametrize("smeared", [False, True])
def test_forward_pass_is_the_one_written_out(smeared):
    model = a_model(1, smeared)
    for found, expected in zip(run(model, SEQUENCE), written_out(model, SEQUENCE), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_attention_is_causal_and_sums_to_one():
    model = a_model(2)
    pattern = run(model, SEQUENCE).patterns
    np.testing.assert_allclose(np.sum(pattern, -1), 1, rtol=1e-14)
    assert (np.triu(pattern, 1) == 0).all()
    before = run(model, SEQUENCE[:4]).logits
    np.testing.assert_allclose(run(model, SEQUENCE).logits[:4], before, rtol=1e-12)


def test_sequence_may_be_as_long_as_the_bias_and_not_longer():
    model, long = a_model(3), jnp.zeros(REACH + 1, int)
    assert run(model, long[:REACH]).logits.shape == (REACH, VOCABULARY)
    with pytest.raises(ValueError, match="context must be between 1 and 7, got 8"):
        induction.forward(model, long)


def test_a_head_that_smears_nothing_is_one_that_does_not_smear():
    model = a_model(4)
    keeps = model._replace(heads=model.heads._replace(smear=jnp.full((LAYERS, HEADS), 50.0)))
    same = run(keeps, SEQUENCE).logits
    np.testing.assert_allclose(run(model, SEQUENCE).logits, same, rtol=1e-12)


def test_ablation_keeps_shares_of_what_heads_write():
    model = a_model(5)
    keep = np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.7]])
    instead = np.asarray(a_matrix(50, LAYERS, HEADS, len(SEQUENCE), WIDTH))
    found = run(model, SEQUENCE, Ablation(jax.device_put(keep), jax.device_put(instead)))
    for one, other in zip(found, written_out(model, SEQUENCE, keep, instead), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_ablation_may_hold_the_patterns():
    model = a_model(6)
    keep, instead = np.eye(LAYERS, HEADS), np.zeros((LAYERS, HEADS, len(SEQUENCE), WIDTH))
    given = np.tril(np.abs(a_matrix(60, LAYERS, HEADS, len(SEQUENCE), len(SEQUENCE))))
    found = run(model, SEQUENCE, Ablation(*map(jax.device_put, (keep, instead, given))))
    np.testing.assert_array_equal(found.patterns, given)
    expected, _, _ = written_out(model, SEQUENCE, keep, instead, given)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-10, atol=1e-12)


def test_circuits_are_products_of_weights():
    heads = a_model(7).heads
    circuits = jax.jit(lambda heads: (induction.qk_circuit(heads), induction.ov_circuit(heads)))
    qk, ov = in_numpy(circuits(heads))
    for l in range(LAYERS):
        for h in range(HEADS):
            q, k, v, o = (np.asarray(w)[l, h] for w in heads[:4])
            np.testing.assert_allclose(qk[l, h], q.T @ k / SIZE**0.5, rtol=1e-12)
            np.testing.assert_allclose(ov[l, h], o @ v, rtol=1e-12)
    one_layer = jax.tree.map(lambda w: w[1], heads)
    one_qk, one_ov = circuits(one_layer)
    np.testing.assert_allclose(one_qk, qk[1], rtol=1e-12)
    np.testing.assert_allclose(one_ov, ov[1], rtol=1e-12)


def test_circuits_say_what_a_layer_does():
    """Scores from QK and results from OV, without the four matrices."""
    model = a_model(8)
    heads = jax.tree.map(lambda w: w[:1], model.heads)
    trace = run(model._replace(heads=heads), SEQUENCE)
    stream, distance = model.embed.T[SEQUENCE], np.subtract.outer(np.arange(6), np.arange(6))
    scores = stream @ induction.qk_circuit(heads)[0] @ stream.T
    scores = np.where(distance < 0, -np.inf, scores + heads.bias[0][:, np.abs(distance)])
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(trace.patterns[0], shares, rtol=1e-11)
    ov = np.asarray(induction.ov_circuit(heads)[0])
    seen = shares @ np.asarray(stream)
    np.testing.assert_allclose(trace.written[0], seen @ ov.swapaxes(1, 2), rtol=1e-10, atol=1e-12)


def test_models_batch():
    models = jax.tree.map(lambda *w: jnp.stack(w), a_model(1), a_model(2))
    logits = jax.vmap(lambda m: run(m, SEQUENCE).logits)(models)
    np.testing.assert_allclose(logits[1], run(a_model(2), SEQUENCE).logits, rtol=1e-11)
