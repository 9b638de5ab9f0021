"""The language model, against itself written out in NumPy, position by position."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, close, in_numpy

from icl_gd import induction
from icl_gd.induction import Ablation, Heads, Transformer

LAYERS, HEADS, SIZE, WIDTH, REACH, VOCABULARY = 2, 3, 2, 5, 8, 4
SEQUENCE = jnp.array([0, 3, 1, 3, 2, 1, 1])
run = jax.jit(induction.forward)


def a_model(seed=0, smeared=False):
    draw = lambda i, *shape: a_matrix(10 * seed + i, *shape)
    inward = (draw(i, LAYERS, HEADS, SIZE, WIDTH) for i in range(3))
    output, bias = draw(3, LAYERS, HEADS, WIDTH, SIZE), draw(4, LAYERS, HEADS, REACH)
    smear = draw(5, LAYERS, HEADS) if smeared else None
    heads = Heads(*inward, output, bias, smear)
    return Transformer(draw(6, WIDTH, VOCABULARY), heads, draw(7, VOCABULARY, WIDTH))


def attention_of(head, stream):
    """One position at a time, and none that comes later."""
    keys = [head.key @ r for r in stream]
    if head.smear is not None:
        own = 1 / (1 + np.exp(-head.smear))
        keys[1:] = [own * key + (1 - own) * before for before, key in pairwise(keys)]
    pattern = np.zeros((len(stream), len(stream)))
    for i, r in enumerate(stream):
        scores = [head.query @ r @ keys[j] / SIZE**0.5 + head.bias[i - j] for j in range(i + 1)]
        pattern[i, : i + 1] = np.exp(scores) / np.exp(scores).sum()
    return pattern


def written_out(model, sequence, keep=None, instead=None, given=None):
    """Logits, patterns and results, head by head."""
    embed, heads, unembed = in_numpy(model)
    stream = embed.T[np.array(sequence)]
    patterns = np.zeros((LAYERS, HEADS, len(sequence), len(sequence)))
    written = np.zeros((LAYERS, HEADS, len(sequence), WIDTH))
    for l in range(LAYERS):
        for h in range(HEADS):
            head = jax.tree.map(lambda w, at=(l, h): w[at], heads)
            pattern = attention_of(head, stream) if given is None else given[l, h]
            result = pattern @ stream @ head.value.T @ head.output.T
            if keep is not None:
                result = keep[l, h] * result + (1 - keep[l, h]) * instead[l, h]
            patterns[l, h], written[l, h] = pattern, result
        stream = stream + written[l].sum(axis=0)
    return stream @ unembed.T, patterns, written


ABLATIONS = {
    "whole": None,
    "cut": Ablation(
        keep=np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.7]]),
        instead=np.random.default_rng(0).normal(size=(LAYERS, HEADS, len(SEQUENCE), WIDTH)),
    ),
}
ABLATIONS["cut, patterns held"] = ABLATIONS["cut"]._replace(
    patterns=np.random.default_rng(1).uniform(size=(LAYERS, HEADS, len(SEQUENCE), len(SEQUENCE)))
)


@pytest.mark.parametrize("smeared", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_forward_pass_is_the_one_written_out(ablation, smeared):
    model, ablation = a_model(1, smeared), ABLATIONS[ablation]
    found = run(model, SEQUENCE, jax.device_put(ablation))
    close(found, written_out(model, SEQUENCE, *(ablation or [])), rtol=1e-10, atol=1e-12)


def test_circuits_are_products_of_weights():
    heads = a_model(7).heads
    both = jax.jit(lambda heads: (induction.qk_circuit(heads), induction.ov_circuit(heads)))
    query, key, value, output, *_ = in_numpy(heads)
    qk = np.einsum("lhsi,lhsj->lhij", query, key) / SIZE**0.5
    ov = np.einsum("lhis,lhsj->lhij", output, value)
    close(both(heads), (qk, ov), rtol=1e-12)
    close(both(jax.tree.map(lambda w: w[1], heads)), (qk[1], ov[1]), rtol=1e-12)
