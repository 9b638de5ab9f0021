"""The forward pass against sums written out token by token."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from problems import a_layer, a_matrix, a_task, in_numpy, seeds, sizes

from icl_gd import attention, constructions, descent, fast, tokens


@jax.jit
def through_layers(layers, task, w0):
    after = attention.forward(layers, tokens.join(task, w0))
    return after, attention.predict(layers, task, w0)


def attend(layer, context, query):
    """e + sum_j PV e_j <e_j, KQ e>, for every token e, one pair of tokens at a time."""
    layer = in_numpy(layer)

    def after(e):
        out = np.array(e)
        for e_j in context:
            out += layer.pv @ e_j * np.dot(e_j, layer.kq @ e)
        return out

    return np.stack([after(e) for e in context]), after(query)


def tokens_of(task, w0=None):
    task, w0 = in_numpy((task, w0))
    query = np.zeros_like(task.y_query) if w0 is None else -w0 @ task.x_query
    return np.hstack([task.x, task.y]), np.hstack([task.x_query, query])


def test_one_layer_is_the_double_loop():
    for n, token in ((1, 2), (3, 4), (5, 3)):
        context, query = a_matrix(1, n, token), a_matrix(2, token)
        layer = a_layer(3, token)
        after = jax.jit(attention.linear_attention)(layer, tokens.Prompt(context, query))
        expected = attend(layer, *in_numpy((context, query)))
        np.testing.assert_allclose(after.context, expected[0], rtol=1e-12)
        np.testing.assert_allclose(after.query, expected[1], rtol=1e-12)


def test_products_are_what_a_layer_depends_on():
    layer = attention.Attention(*(a_matrix(i, 2, 3, 3) for i in range(4)))  # a batch of two
    kq, pv = attention.products(layer)
    np.testing.assert_allclose(kq, np.einsum("bki,bkj->bij", layer.key, layer.query), rtol=1e-12)
    np.testing.assert_allclose(
        pv, np.einsum("bik,bkj->bij", layer.project, layer.value), rtol=1e-12
    )


@settings(max_examples=20)
@given(sizes, seeds)
def test_prediction_through_layers_is_the_double_loop(size, seed):
    n, d, m = size
    task, w0 = a_task(seed, n, d, m), a_matrix(seed, m, d)
    layers = [a_layer(seed + i, d + m) for i in range(3)]
    context, query = tokens_of(task, w0)
    for layer in layers:
        context, query = attend(layer, context, query)
    scale = np.abs(np.concatenate([context.ravel(), query])).max()
    after, prediction = through_layers(layers, task, w0)
    np.testing.assert_allclose(after.context, context, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(after.query, query, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(prediction, -query[d:], rtol=1e-9, atol=1e-12 * scale)


def test_without_layers_the_prediction_is_where_it_starts():
    task, w0 = a_task(0, 4, 3, 2), a_matrix(1, 2, 3)
    np.testing.assert_allclose(attention.predict([], task, w0), w0 @ task.x_query, rtol=1e-14)
    np.testing.assert_array_equal(attention.predict([], task), [0, 0])


roll_out = jax.jit(attention.roll_out, static_argnums=2)
gradient_descent = jax.jit(descent.gradient_descent, static_argnums=4)


@pytest.mark.parametrize("damping", [None, 0.3])
def test_roll_out_is_the_loop_that_moves_labels_only(damping):
    n, d, m, steps = 4, 3, 2, 5
    task, layer = a_task(0, n, d, m), a_layer(1, d + m)
    layer = layer._replace(pv=0.01 * layer.pv)
    context, query = tokens_of(task)
    expected = [-query[d:]]
    for _ in range(steps):
        after, query_after = attend(layer, context, query)
        strength = 1.0 if damping is None else damping
        context[:, d:] += strength * (after - context)[:, d:]
        query[d:] += strength * (query_after - query)[d:]
        expected.append(-query[d:])
    given_damping = {} if damping is None else {"damping": damping}
    path = roll_out(layer, task, steps, **given_damping)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-13)


def test_roll_out_of_the_construction_is_damped_gradient_descent():
    n, d, m, eta = 6, 3, 2, 0.4
    task = a_task(2, n, d, m)
    layer = jax.jit(constructions.gradient_step, static_argnums=1)(eta, n, jnp.zeros((m, d)))
    path = gradient_descent(jnp.zeros((m, d)), task.x, task.y, 0.75 * eta, 8)
    rolled = roll_out(layer, task, 8, damping=0.75)
    np.testing.assert_allclose(rolled, path @ task.x_query, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        roll_out(layer, task, 3)[-1], attention.predict([layer] * 3, task), rtol=1e-12
    )


def attend_softmax(layer, context, query):
    """The same with weights exp(score / sqrt(token)) over their sum, one token at a time."""
    layer = in_numpy(layer)

    def after(e):
        scores = [np.dot(e_j, layer.kq @ e) / len(e) ** 0.5 for e_j in context]
        votes = [np.exp(score) for score in scores]
        out = np.array(e)
        for e_j, vote in zip(context, votes, strict=True):
            out += layer.pv @ e_j * vote / sum(votes)
        return out

    return np.stack([after(e) for e in context]), after(query)


def a_pair(seed, token):
    return jax.tree.map(lambda *w: np.stack(w), a_layer(seed, token), a_layer(seed + 1, token))


@pytest.mark.parametrize("n, token", [(1, 2), (3, 4), (5, 3)])
def test_softmax_layer_is_the_double_loop(n, token):
    context, query = a_matrix(1, n, token), a_matrix(2, token)
    layer = a_layer(3, token)
    after = jax.jit(attention.softmax_attention)(layer, tokens.Prompt(context, query))
    expected = attend_softmax(layer, *in_numpy((context, query)))
    np.testing.assert_allclose(after.context, expected[0], rtol=1e-11)
    np.testing.assert_allclose(after.query, expected[1], rtol=1e-11)


def test_softmax_comes_before_the_linear_layer():
    context, query, layers = a_matrix(1, 3, 4), a_matrix(2, 4), [a_layer(3, 4), a_layer(4, 4)]
    after = jax.jit(attention.softmax_then_linear)(layers, tokens.Prompt(context, query))
    expected = attend(layers[1], *attend_softmax(layers[0], *in_numpy((context, query))))
    np.testing.assert_allclose(after.context, expected[0], rtol=1e-10)
    np.testing.assert_allclose(after.query, expected[1], rtol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_heads_add_up(kind):
    context, query, pair = a_matrix(1, 3, 4), a_matrix(2, 4), a_pair(3, 4)
    ours = {"linear": attention.linear_attention, "softmax": attention.softmax_attention}[kind]
    loop = {"linear": attend, "softmax": attend_softmax}[kind]
    multi_head = jax.jit(attention.multi_head, static_argnums=0)
    after = multi_head(ours, pair, tokens.Prompt(context, query))
    context, query = in_numpy((context, query))
    one, two = (loop(a_layer(seed, 4), context, query) for seed in (3, 4))
    np.testing.assert_allclose(after.context, one[0] + two[0] - context, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(after.query, one[1] + two[1] - query, rtol=1e-10, atol=1e-12)


def test_layer_norm_is_the_sum_written_out():
    e, norm = np.array([1.0, -2.0, 4.0, 0.5]), attention.Norm(a_matrix(0, 4), a_matrix(1, 4))
    mean = (1.0 - 2.0 + 4.0 + 0.5) / 4
    variance = sum((entry - mean) ** 2 for entry in e) / 4
    expected = [
        norm.scale[i] * (e[i] - mean) / (variance + 1e-5) ** 0.5 + norm.offset[i] for i in range(4)
    ]
    np.testing.assert_allclose(attention.layer_norm(norm, jax.device_put(e)), expected, rtol=1e-12)


def test_a_constant_token_is_normalised_to_the_offset():
    norm = attention.Norm(jnp.ones(3), jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(attention.layer_norm(norm, jnp.full(3, 7.0)), norm.offset)


def test_layer_norm_keeps_small_tokens_small():
    """The 1e-5 under the root: a token of spread 1e-4 is not blown up to spread one."""
    norm = attention.Norm(jnp.ones(2), jnp.zeros(2))
    small = attention.layer_norm(norm, jnp.array([1e-4, -1e-4]))
    np.testing.assert_allclose(small, np.array([1, -1]) * (1e-8 / (1e-8 + 1e-5)) ** 0.5, rtol=1e-10)


def test_pre_norm_attends_to_normalised_tokens_and_keeps_the_raw():
    context, query, layer = a_matrix(1, 3, 4), a_matrix(2, 4), a_layer(3, 4)
    norm = attention.Norm(a_matrix(4, 4), a_matrix(5, 4))
    after = attention.pre_norm(norm, layer, tokens.Prompt(context, query))

    def normed(e):
        centred = e - e.mean()
        return norm.scale * centred / np.sqrt((centred**2).mean() + 1e-5) + norm.offset

    context, query = in_numpy((context, query))
    inner = np.stack([normed(e) for e in context]), normed(query)
    added = [out - e for out, e in zip(attend(layer, *inner), inner, strict=True)]
    np.testing.assert_allclose(after.context, context + added[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(after.query, query + added[1], rtol=1e-9, atol=1e-11)


def random_features(seed, token=3, width=4, hidden=5):
    shapes = (width, token), (hidden, width), (hidden,), (width, hidden), (width,)
    return attention.Features(*(a_matrix(seed + i, *shape) for i, shape in enumerate(shapes)))


def test_features_are_the_formula_token_by_token():
    weights = random_features(0)
    task = a_task(9, 4, 2, 1)
    prompt = tokens.join(task)
    found = jax.tree.map(jax.jit(partial(attention.features, weights)), prompt)
    w = in_numpy(weights)

    def by_hand(e):
        inside = w.embed @ e
        z = w.hidden @ inside + w.hidden_bias
        gelu = 0.5 * z * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3)))
        return inside + w.out @ gelu + w.out_bias

    # On a GPU, XLA's tanh of doubles is a rational function: 3e-10 was seen on an H200. With erf
    # in place of tanh, gelu differs by some 1e-4.
    rtol = 1e-12 if jax.default_backend() == "cpu" else 1e-8
    for row, e in zip(*in_numpy((found.context, prompt.context)), strict=True):
        np.testing.assert_allclose(row, by_hand(e), rtol=rtol)
    np.testing.assert_allclose(found.query, by_hand(np.array(prompt.query)), rtol=rtol)


def composed(weights, layer, task):
    embedded = jax.tree.map(partial(attention.features, weights), tokens.join(task))
    return tokens.prediction(attention.linear_attention(layer, embedded), 1)


@pytest.mark.parametrize("n, d", [(4, 1), (1, 3), (5, 2)])
def test_prediction_from_the_query_side_is_the_composition(n, d):
    """Value and every derivative, to rounding; two tasks, whose gradients are scaled apart."""
    weights, layer = random_features(0, d + 1), a_layer(7, 4)
    batch = jax.tree.map(lambda *two: np.stack(two), a_task(9, n, d, 1), a_task(11, n, d, 1))

    def value(predict, weights, layer, batch):
        each = jax.vmap(lambda task: predict(weights, layer, task))(batch)
        assert each.shape == (2, 1)
        return jnp.sum(jnp.sin(each))

    found, expected = (
        jax.jit(jax.value_and_grad(partial(value, predict), (0, 1, 2)))(weights, layer, batch)
        for predict in (fast.features, composed)
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    jax.tree.map(close, found, expected)


def each_task(predict):
    return lambda layers, batch: jax.vmap(lambda task: predict(layers, task))(batch)


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
    layers = [
        jax.tree.map(lambda weight: np.array(weight) / 4, a_layer(i, 5)) for i in range(depth)
    ]
    batch = jax.tree.map(lambda *each: np.stack(each), *(a_task(i, 6, 3, 2) for i in (9, 11, 13)))
    return jax.device_put((layers, batch))


@cache
def through_the_layers(depth, clip):
    whole = each_task(partial(attention.predict, clip=clip))
    return values_and_gradients(whole, *a_stack(depth))


@pytest.mark.parametrize("form", list(SHORT))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_short_forms_are_the_layers(form, depth):
    """Value and every derivative, for several outputs, against the layers one by one."""
    short, clip = SHORT[form]
    found = values_and_gradients(short, *a_stack(depth))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    jax.tree.map(close, found, through_the_layers(depth, clip))
    if clip is not None:
        free = through_the_layers(depth, None)
        assert not np.allclose(free[0][1], found[0][1])


def test_products_of_a_batch_are_the_same_where_there_is_no_cpu(monkeypatch):
    """What is lowered for a GPU, run here."""
    layers, batch = a_stack(3)
    here = values_and_gradients(fast.batch, layers, batch)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *ab, cpu, default: default(*ab))
    there = values_and_gradients(fast.batch, layers, batch)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    jax.tree.map(close, here, there)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices take one product")
def test_xla_leaves_the_products_of_a_batch_apart():
    """Merged into one another they would take a hundred times longer: see it, not the clock."""
    layers, batch = a_stack(3)
    compiled = jax.jit(fast.batch).lower(layers, batch).compile()
    assert compiled.as_text().count(" call(") == 2 * 2  # two for each layer but the last


@pytest.mark.parametrize("clip", [0.3, 2.0])
def test_clip_holds_every_token_after_each_layer(clip):
    layers, prompt = [a_layer(1, 3), a_layer(2, 3)], tokens.join(a_task(5, 4, 2, 1))
    found = attention.forward(layers, prompt, clip)
    expected = prompt
    for layer in layers:
        expected = attention.forward([layer], expected)
        expected = jax.tree.map(lambda e: jnp.minimum(jnp.maximum(e, -clip), clip), expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(found)) == clip
    task = a_task(5, 4, 2, 1)
    label = attention.predict(layers, task, clip=clip)
    np.testing.assert_allclose(label, -found.query[-1:], rtol=1e-12)
