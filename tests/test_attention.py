"""The forward pass against sums written out token by token."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from problems import a_layer, a_matrix, a_task, close, in_numpy, seeds, sizes, stacked

from icl_gd import attention, fast, tokens
from icl_gd.tokens import Prompt


def attend(layer, prompt, softmax=False):
    """e + sum_j PV e_j <e_j, KQ e>, for every token e, one pair of tokens at a time.

    With softmax, exp(<e_j, KQ e> / sqrt(token)) over the sum of these takes the place of the score.
    """
    (kq, pv), (context, query) = in_numpy((layer, prompt))

    def after(e):
        votes = [np.dot(e_j, kq @ e) for e_j in context]
        if softmax:
            votes = [np.exp(vote / len(e) ** 0.5) for vote in votes]
            votes = [vote / sum(votes) for vote in votes]
        return e + sum(vote * pv @ e_j for vote, e_j in zip(votes, context, strict=True))

    return Prompt(np.stack([after(e) for e in context]), after(query))


def a_prompt(seed, n, token):
    return Prompt(a_matrix(seed, n, token), a_matrix(seed + 1, token))


KINDS = {
    "linear": (attention.linear_attention, attend),
    "softmax": (attention.softmax_attention, partial(attend, softmax=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, token", [(1, 2), (3, 4), (5, 3)])
def test_a_layer_is_the_double_loop_and_heads_add_up(kind, n, token):
    layer, loop = KINDS[kind]
    prompt, heads = a_prompt(1, n, token), (a_layer(3, token), a_layer(4, token))
    one, two = (loop(head, prompt) for head in heads)
    close(jax.jit(layer)(heads[0], prompt), one, rtol=1e-11)
    both = jax.jit(attention.multi_head, static_argnums=0)(layer, stacked(*heads), prompt)
    close(both, jax.tree.map(lambda a, b, e: a + b - e, one, two, prompt), rtol=1e-10, atol=1e-12)


def test_softmax_comes_before_the_linear_layer():
    prompt, layers = a_prompt(1, 3, 4), [a_layer(3, 4), a_layer(4, 4)]
    expected = attend(layers[1], attend(layers[0], prompt, softmax=True))
    close(jax.jit(attention.softmax_then_linear)(layers, prompt), expected, rtol=1e-10)


def test_products_are_what_a_layer_depends_on():
    layer = attention.Attention(*(a_matrix(i, 2, 3, 3) for i in range(4)))  # a batch of two
    kq = np.einsum("bki,bkj->bij", layer.key, layer.query)
    pv = np.einsum("bik,bkj->bij", layer.project, layer.value)
    close(attention.products(layer), (kq, pv), rtol=1e-12)


@jax.jit
def through_layers(layers, task, w0):
    after = attention.forward(layers, tokens.join(task, w0))
    return after, attention.predict(layers, task, w0)


@settings(max_examples=20)
@given(sizes, seeds)
def test_prediction_through_layers_is_the_double_loop(size, seed):
    n, d, m = size
    task, w0 = a_task(seed, n, d, m), a_matrix(seed, m, d)
    layers = [a_layer(seed + i, d + m) for i in range(3)]
    expected = tokens.join(task, w0)
    for layer in layers:
        expected = attend(layer, expected)
    scale = max(np.abs(leaf).max() for leaf in expected)
    found = through_layers(layers, task, w0)
    close(found, (expected, -expected.query[d:]), rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("clip", [0.3, 2.0])
def test_clip_holds_every_token_after_each_layer(clip):
    layers, task = [a_layer(1, 3), a_layer(2, 3)], a_task(5, 4, 2, 1)
    expected = tokens.join(task)
    for layer in layers:
        expected = jax.tree.map(lambda e: np.clip(e, -clip, clip), attend(layer, expected))
    close(attention.forward(layers, tokens.join(task), clip), expected, rtol=1e-10)
    label = attention.predict(layers, task, clip=clip)
    np.testing.assert_allclose(label, -expected.query[-1:], rtol=1e-10)


@pytest.mark.parametrize("damping", [None, 0.3])
def test_roll_out_is_the_loop_that_moves_labels_only(damping):
    n, d, m, steps = 4, 3, 2, 5
    task, layer = a_task(0, n, d, m), a_layer(1, d + m)
    layer = layer._replace(pv=0.01 * layer.pv)
    prompt = in_numpy(tokens.join(task))
    expected = [-prompt.query[d:]]
    for _ in range(steps):
        for e, after in zip(prompt, attend(layer, prompt), strict=True):
            e[..., d:] += (damping or 1.0) * (after - e)[..., d:]
        expected.append(-prompt.query[d:])
    given_damping = {} if damping is None else {"damping": damping}
    path = jax.jit(attention.roll_out, static_argnums=2)(layer, task, steps, **given_damping)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-13)


def normed(norm, e):
    mean = sum(e) / len(e)
    variance = sum((entry - mean) ** 2 for entry in e) / len(e)
    return norm.scale * (e - mean) / (variance + 1e-5) ** 0.5 + norm.offset


NORM = in_numpy(attention.Norm(a_matrix(4, 4), a_matrix(5, 4)))


# Of the second the 1e-5 under the root keeps the spread small, the third has none.
@pytest.mark.parametrize("e", [[1.0, -2, 4, 0.5], [1e-4, -1e-4, 0, 0], [7.0] * 4])
def test_layer_norm_is_the_sum_written_out(e):
    e = np.array(e)
    np.testing.assert_allclose(attention.layer_norm(NORM, e), normed(NORM, e), rtol=1e-12)


def test_pre_norm_attends_to_normalised_tokens_and_keeps_the_raw():
    prompt, layer = a_prompt(1, 3, 4), a_layer(3, 4)
    context, query = in_numpy(prompt)
    inner = Prompt(np.stack([normed(NORM, e) for e in context]), normed(NORM, query))
    expected = jax.tree.map(lambda e, a, b: e + a - b, prompt, attend(layer, inner), inner)
    close(attention.pre_norm(NORM, layer, prompt), expected, rtol=1e-9, atol=1e-11)


def random_features(seed, token=3, width=4, hidden=5):
    shapes = (width, token), (hidden, width), (hidden,), (width, hidden), (width,)
    return attention.Features(*(a_matrix(seed + i, *shape) for i, shape in enumerate(shapes)))


def test_features_are_the_formula_token_by_token():
    weights, prompt = random_features(0), a_prompt(9, 4, 3)
    w = in_numpy(weights)

    def by_hand(e):
        inside = w.embed @ e
        z = w.hidden @ inside + w.hidden_bias
        gelu = 0.5 * z * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3)))
        return inside + w.out @ gelu + w.out_bias

    # On a GPU, XLA's tanh of doubles is a rational function: 3e-10 was seen on an H200. With erf
    # in place of tanh, gelu differs by some 1e-4.
    rtol = 1e-12 if jax.default_backend() == "cpu" else 1e-8
    found = jax.tree.map(jax.jit(partial(attention.features, weights)), prompt)
    context, query = in_numpy(prompt)
    close(found, (np.stack([by_hand(e) for e in context]), by_hand(query)), rtol=rtol)


def composed(weights, layer, task):
    embedded = jax.tree.map(partial(attention.features, weights), tokens.join(task))
    return tokens.prediction(attention.linear_attention(layer, embedded), 1)


@pytest.mark.parametrize("n, d", [(4, 1), (1, 3), (5, 2)])
def test_prediction_from_the_query_side_is_the_composition(n, d):
    """Value and every derivative, to rounding; two tasks, whose gradients are scaled apart."""
    arguments = random_features(0, d + 1), a_layer(7, 4)
    batch = stacked(a_task(9, n, d, 1), a_task(11, n, d, 1))

    def value_and_gradients(predict):
        def value(weights, layer, batch):
            return jnp.sum(jnp.sin(jax.vmap(partial(predict, weights, layer))(batch)))

        return jax.jit(jax.value_and_grad(value, (0, 1, 2)))(*arguments, batch)

    found, expected = map(value_and_gradients, (fast.features, composed))
    close(found, expected, rtol=1e-9, atol=1e-11)


def each_task(predict):
    return lambda layers, batch: jax.vmap(partial(predict, layers))(batch)


def values_and_gradients(predict, layers, batch):
    def value(layers, batch):
        each = predict(layers, batch)
        return jnp.sum(jnp.sin(each) * jnp.arange(1.0, 1 + each.shape[1])), each

    return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(layers, batch)


SHORT = {
    "gram": (each_task(fast.by_gram), None),
    "batch": (fast.batch, None),
    "batch, clipped": (partial(fast.batch, clip=0.3), 0.3),
}


def a_stack(depth):
    """Layers of small weights, and three tasks."""
    layers = [jax.tree.map(lambda weight: weight / 4, a_layer(i, 5)) for i in range(depth)]
    return layers, jax.device_put(stacked(*(a_task(i, 6, 3, 2) for i in (9, 11, 13))))


@cache
def through_the_layers(depth, clip):
    whole = each_task(partial(attention.predict, clip=clip))
    return values_and_gradients(whole, *a_stack(depth))


@pytest.mark.parametrize("form", list(SHORT))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_short_forms_are_the_layers(form, depth):
    """Value and every derivative, for several outputs, against the layers one by one."""
    short, clip = SHORT[form]
    found, free = values_and_gradients(short, *a_stack(depth)), through_the_layers(depth, None)
    close(found, through_the_layers(depth, clip), rtol=1e-8, atol=1e-10)
    assert np.allclose(found[0][1], free[0][1]) == (clip is None)


def test_products_of_a_batch_are_the_same_where_there_is_no_cpu(monkeypatch):
    """What is lowered for a GPU, run here."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *ab, cpu, default: default(*ab))
    found = values_and_gradients(fast.batch, *a_stack(3))
    close(found, through_the_layers(3, None), rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices take one product")
def test_xla_leaves_the_products_of_a_batch_apart():
    """Merged into one another they would take a hundred times longer: see it, not the clock."""
    compiled = jax.jit(fast.batch).lower(*a_stack(3)).compile()
    assert compiled.as_text().count(" call(") == 2 * 2  # two for each layer but the last
