"""The laws that tasks are drawn from, by their moments, ranges and exact relations."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import tasks

regression = jax.jit(tasks.regression, static_argnums=(1, 2, 3))


def many(draw, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def many_normalised(n, d, count, **changes):
    # Under vmap every law is drawn and one is kept, which the checker takes for a second use.
    with jax.debug_key_reuse(False):
        return many(lambda key: tasks.normalised(key, n + 1, d, **changes), count)


def near(found, expected, error):
    assert abs(found - expected) < 4.5 * error, (found, expected, error)


@pytest.mark.parametrize("width", [None, 0.4, 3.0])
def test_uniform_fills_its_range(width):
    changes = {} if width is None else {"input_range": width}
    x = many(lambda key: tasks.uniform(key, 5, 3, **changes))
    assert x.shape == (4000, 5, 3)
    x, half = x.reshape(-1), (width or 1.0) / 2
    assert -half <= x.min() < -0.999 * half
    assert half > x.max() > 0.999 * half
    near(x.mean(), 0, half / 3**0.5 / x.size**0.5)
    near(np.mean(x**2), half**2 / 3, half**2 * (4 / 45) ** 0.5 / x.size**0.5)


def test_uniform_coordinates_are_independent():
    x = many(lambda key: tasks.uniform(key, 3, 2)).reshape(4000, -1)
    correlation = np.corrcoef(x.T)
    np.testing.assert_allclose(correlation, np.eye(6), atol=4.5 / 4000**0.5)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_normalised_context_has_norm_scale(scale):
    changes = {} if scale is None else {"scale": scale}
    x = many_normalised(5, 3, 100, **changes)
    assert x.shape == (100, 6, 3)
    norm = (x[:, :5] ** 2).sum(axis=(1, 2)) ** 0.5
    np.testing.assert_allclose(norm, scale or 1.0, rtol=1e-12)


def test_normalised_draws_three_laws_equally_often():
    n, count = 1000, 900
    x = many_normalised(n, 1, count)[..., 0]
    assert x.shape == (count, n + 1)
    one_sided = (x >= 0).all(axis=1)
    flatness = np.abs(x).mean(axis=1) * n**0.5  # mean |x| / rms: 0.798 normal, 0.707 Laplace
    normal = ~one_sided & (flatness > 0.76)
    laplace = ~one_sided & ~normal
    for law, expected in ((one_sided, 0.5**0.5), (normal, (2 / np.pi) ** 0.5), (laplace, 0.5**0.5)):
        near(law.sum(), count / 3, (count * 2 / 9) ** 0.5)
        near(flatness[law].mean(), expected, 0.02 / law.sum() ** 0.5 + 0.0005)
    # The query is drawn and scaled like the context.
    near(n * np.mean(x[:, -1] ** 2), 1, (4 / count) ** 0.5)


LAWS = {  # mean |x| / rms and mean of x / rms
    "exponential": (0.5**0.5, 0.5**0.5),
    "normal": ((2 / np.pi) ** 0.5, 0.0),
    "laplace": (0.5**0.5, 0.0),
}


@pytest.mark.parametrize("name", LAWS)
def test_normalised_draws_the_law_that_it_is_given(name):
    n, (flatness, mean) = 1000, LAWS[name]
    law = getattr(jax.random, name)
    x = many(lambda key: tasks.normalised(key, n + 1, 1, 2.0, law), 100)[..., 0]
    np.testing.assert_allclose((x[:, :n] ** 2).sum(axis=1), 4.0, rtol=1e-12)
    x = x * n**0.5 / 2
    near(np.abs(x).mean(), flatness, 1 / x.size**0.5)
    near(x.mean(), mean, 1 / x.size**0.5)
    near(np.mean(np.abs(x).mean(axis=1) > 0.76), name == "normal", 0.001)
    near(np.mean(x[:, -1] ** 2), 1, (5 / 100) ** 0.5)


def test_a_law_is_asked_once_for_all_inputs():
    asked = []

    def law(key, shape):
        asked.append(shape)
        return jnp.arange(6.0).reshape(shape)

    x = tasks.normalised(jax.random.key(0), 3, 2, law=law)
    assert asked == [(3, 2)]
    np.testing.assert_allclose(x, np.arange(6.0).reshape(3, 2) / 14**0.5, rtol=1e-14)


@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_labels_are_a_linear_teacher(outputs):
    n, d = 6, 4
    changes = {} if outputs is None else {"outputs": outputs}
    task = many(lambda key: tasks.regression(key, n, d, **changes), 20)
    m = outputs or 1
    assert [a.shape[1:] for a in task] == [(n, d), (n, m), (d,), (m,)]
    for x, y, x_q, y_q in zip(*task, strict=True):
        w, residual, rank, _ = np.linalg.lstsq(x, y, rcond=None)
        assert rank == d
        assert residual == pytest.approx(0, abs=1e-20)
        np.testing.assert_allclose(x_q @ w, y_q, atol=1e-10)


@pytest.mark.parametrize("target_scale", [None, 3.0])
def test_teachers_are_normal_and_do_not_depend_on_inputs(target_scale):
    changes = {} if target_scale is None else {"target_scale": target_scale}
    # Inputs that are known show the teacher: the identity, and a query of ones.
    rows = lambda key, n, d: jnp.concatenate([jnp.eye(n - 1, d), jnp.ones((1, d))])
    task = many(lambda key: tasks.regression(key, 3, 3, 2, rows, **changes))
    w, s = task.y, target_scale or 1.0
    np.testing.assert_allclose(task.y_query, w.sum(axis=1), atol=1e-12)
    near(w.mean(), 0, s / w.size**0.5)
    near(np.mean(w**2), s**2, s**2 * 2**0.5 / w.size**0.5)
    near(np.mean(w**4), 3 * s**4, s**4 * 96**0.5 / w.size**0.5)
    np.testing.assert_allclose(np.corrcoef(w.reshape(4000, -1).T), np.eye(6), atol=0.075)


def test_inputs_are_drawn_by_the_given_law():
    seen = []

    def inputs(key, n, d):
        seen.append((n, d))
        return tasks.uniform(key, n, d, 4.0)

    x = many(lambda key: tasks.regression(key, 3, 2, inputs=inputs), 1000).x
    assert seen == [(4, 2)]
    assert 1.9 < x.max() < 2.0
    assert 0.49 < many(lambda key: tasks.regression(key, 3, 2), 1000).x.max() < 0.5


def test_same_key_same_task_other_key_other_task():
    draw = lambda seed: jax.tree.map(np.array, regression(jax.random.key(seed), 3, 2))
    for a, b, c in zip(draw(0), draw(0), draw(1), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).all()


@pytest.mark.parametrize("count", range(6))
def test_first_labels_become_noise(count):
    task = regression(jax.random.key(0), 5, 3, 2)
    noisy = jax.jit(tasks.noisy_labels, static_argnums=2)(jax.random.key(1), task, count)
    task, noisy = jax.tree.map(np.array, (task, noisy))
    for name in ("x", "x_query", "y_query"):
        np.testing.assert_array_equal(getattr(noisy, name), getattr(task, name))
    assert noisy.y.shape == task.y.shape
    np.testing.assert_array_equal(noisy.y[count:], task.y[count:])
    assert (noisy.y[:count] != task.y[:count]).all()


def test_noise_is_standard_normal():
    clean = tasks.Task(jnp.zeros((3, 1)), jnp.full((3, 2), 7.0), jnp.zeros(1), jnp.zeros(2))
    y = many(lambda key: tasks.noisy_labels(key, clean, 2)).y
    np.testing.assert_array_equal(y[:, 2], 7)
    noise = y[:, :2].reshape(-1)
    near(noise.mean(), 0, 1 / noise.size**0.5)
    near(noise.var(), 1, (2 / noise.size) ** 0.5)
    near(np.mean(noise**4), 3, (96 / noise.size) ** 0.5)
    np.testing.assert_allclose(np.corrcoef(y[:, :2].reshape(-1, 4).T), np.eye(4), atol=0.075)


def test_noise_keeps_the_precision_of_the_labels():
    task = jax.eval_shape(lambda key: tasks.regression(key, 5, 3), jax.random.key(0))
    task = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), task)
    assert tasks.noisy_labels(jax.random.key(1), task, 2).y.dtype == jnp.float32


BAD_SIZES = [
    (0, ValueError, "at least 1, got 0"),
    (2.0, TypeError, "an int of at least 1, got 2.0"),
]
BAD_SCALES = [
    (0.0, ValueError, "positive, got 0.0"),
    (-1.0, ValueError, "positive, got -1.0"),
    (np.inf, ValueError, "finite, got inf"),
    ("1", TypeError, "real numbers, got <U1"),
]
BAD = [
    (function, {name: value}, error, f"{name} must be {message}")
    for function, sizes, scale in (
        ("uniform", ("n", "d"), "input_range"),
        ("normalised", ("d",), "scale"),
        ("regression", ("n", "d", "outputs"), "target_scale"),
    )
    for name, cases in [(size, BAD_SIZES) for size in sizes] + [(scale, BAD_SCALES)]
    for value, error, message in cases
]
BAD += [
    ("normalised", {"n": 1}, ValueError, "n must be at least 2, got 1"),
    ("normalised", {"n": 2.0}, TypeError, "n must be an int of at least 2, got 2.0"),
]


def test_a_batch_is_one_draw_a_key():
    draw = lambda key: tasks.regression(key, 3, 2)
    batch = tasks.batch(draw, jax.random.key(3), 4)
    for at, own in enumerate(jax.random.split(jax.random.key(3), 4)):
        for found, alone in zip(batch, draw(own), strict=True):
            np.testing.assert_allclose(found[at], alone, rtol=1e-14)


@cache
def waves(one_key):
    keys = jax.random.split(jax.random.key(7), 20_000)
    how = {"one_key": True} if one_key else {}
    draw = jax.jit(jax.vmap(lambda key: tasks.sine(key, 6, **how)))
    return jax.tree.map(np.asarray, draw(keys))


def amplitude_and_phase(batch):
    """Solves y = A sin x + B cos x by least squares, in NumPy."""
    found = []
    for x, y in zip(batch.x[:2000, :, 0], batch.y[:2000, :, 0], strict=True):
        sine, cosine = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], 1), y)[0]
        found.append((np.hypot(sine, cosine), np.arctan2(cosine, sine)))
    return np.array(found).T


def test_sine_has_its_shapes_and_ranges():
    batch = waves(False)
    assert batch.x.shape == (20_000, 6, 1) and batch.y.shape == (20_000, 6, 1)
    assert batch.x_query.shape == (20_000, 1) and batch.y_query.shape == (20_000, 1)
    inputs = np.concatenate([np.ravel(batch.x), np.ravel(batch.x_query)])
    assert -5 <= inputs.min() < -4.99 and 4.99 < inputs.max() <= 5
    assert inputs.mean() == pytest.approx(0, abs=0.03)
    amplitude, phase = amplitude_and_phase(batch)
    assert amplitude.min() + 1e-9 >= 0.1 and amplitude.max() <= 0.5 + 1e-9
    assert amplitude.mean() == pytest.approx(0.3, abs=0.01)
    assert phase.min() >= -1e-9 and phase.max() <= np.pi + 1e-9
    assert phase.mean() == pytest.approx(np.pi / 2, abs=0.08)


def test_query_lies_on_the_same_wave():
    for one_key in (False, True):
        batch = waves(one_key)
        amplitude, phase = amplitude_and_phase(batch)
        wave = amplitude * np.sin(batch.x_query[:2000, 0] + phase)
        np.testing.assert_allclose(batch.y_query[:2000, 0], wave, atol=1e-6)


def test_one_key_ties_amplitude_to_phase():
    amplitude, phase = amplitude_and_phase(waves(True))
    np.testing.assert_allclose(amplitude, 0.1 + 0.4 * phase / np.pi, atol=1e-6)
    amplitude, phase = amplitude_and_phase(waves(False))
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.08


def test_repeated_tokens_are_one_start_and_the_same_again():
    drawn = many(lambda key: tasks.repeated(key, 9, 5, 3), 2000)
    assert drawn.shape == (2000, 16)
    assert (drawn[:, 0] == 0).all()
    np.testing.assert_array_equal(drawn[:, 1:6], drawn[:, 6:11])
    np.testing.assert_array_equal(drawn[:, 1:6], drawn[:, 11:])
    once = drawn[:, 1:6]
    for token in range(1, 9):
        near((once == token).mean(), 1 / 8, (7 / 64 / once.size) ** 0.5)
    near((once[:, 0] == once[:, 1]).mean(), 1 / 8, (7 / 64 / 2000) ** 0.5)


def test_distinct_tokens_are_a_random_choice():
    once = many(lambda key: tasks.repeated(key, 6, 5, 1, distinct=True), 2000)[:, 1:]
    np.testing.assert_array_equal(np.sort(once), np.tile(np.arange(1, 6), (2000, 1)))
    for token in range(1, 6):
        near((once[:, 1] == token).mean(), 1 / 5, (4 / 25 / 2000) ** 0.5)
    few = many(lambda key: tasks.repeated(key, 9, 3, 1, distinct=True), 2000)[:, 1:]
    for token in range(1, 9):
        near((few == token).any(1).mean(), 3 / 8, (15 / 64 / 2000) ** 0.5)


def test_published_repeats_are_25_tokens_4_times():
    drawn = tasks.repeated(jax.random.key(0), 50)
    assert drawn.shape == (101,)
    np.testing.assert_array_equal(drawn[1:26], drawn[76:])
    assert tasks.repeated(jax.random.key(0), 2, 1, 1).tolist() == [0, 1]
