"""GD++ on eigenvalues against matrices, tokens and training; optima against other searches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import a_matrix, a_task, in_numpy
from scipy.optimize import minimize

from icl_gd import attention, constructions, descent, theory, training
from icl_gd.theory import Schedule

MOMENTS = theory.Moments(0.7, 0.9)
STEPS = [0.05, 0.11, 0.02, 0.08, 0.13, 0.01, 0.09, 0.06, 0.04, 0.1, 0.03, 0.07]


def a_schedule(layers):
    """Different rates and gammas in every layer, small enough for all spectra used here."""
    rate = np.resize(STEPS, layers)
    return jax.device_put(Schedule(rate, 0.6 * rate[::-1] + 0.01))


unlearned = jax.jit(theory.unlearned)
gd_plus_plus = jax.jit(constructions.gd_plus_plus, static_argnames="d")


def some_spectra(contexts=40, d=4, n=5, seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (contexts, n, d))
    return np.linalg.eigvalsh(np.einsum("bni,bnj->bij", x, x))


SPECTRA = some_spectra()


def loop(h, rate, gamma):
    p, a = np.ones_like(h), np.ones_like(h)
    for r, g in zip(np.asarray(rate), np.asarray(gamma), strict=True):
        p, a = p * (1 - r * h * a * a), a * (1 - g * h * a * a)
    return p


def mean_square(spectra, schedule):
    return np.mean(loop(spectra, *schedule) ** 2)


def test_two_layers_are_the_polynomial_written_out():
    h = np.linspace(0, 3, 7)
    p = (1 - 0.2 * h) * (1 - 0.3 * h * (1 - 0.1 * h) ** 2)
    schedule = Schedule(jnp.array([0.2, 0.3]), jnp.array([0.1, 99.0]))  # the last is not read
    np.testing.assert_allclose(unlearned(h, schedule), p, rtol=1e-13)
    assert unlearned(1.5, schedule) == pytest.approx((1 - 0.3) * (1 - 0.3 * 1.5 * 0.85**2))


@pytest.mark.parametrize("layers", [1, 2, 5, 12, 20])
def test_spectrum_gives_what_tokens_give(layers):
    task, schedule = a_task(0, 6, 4, 1), a_schedule(layers)
    w = a_matrix(1, 4)
    task = jax.device_put(task._replace(y=np.asarray(task.x @ w)[:, None]))
    stack = [gd_plus_plus(r, g, d=4) for r, g in zip(*in_numpy(schedule), strict=True)]
    x, w, x_query = in_numpy((task.x, w, task.x_query))
    h, u = np.linalg.eigh(x.T @ x)
    learned = 1 - np.array(unlearned(h, schedule))
    expected = float((w @ u) @ np.diag(learned) @ (u.T @ x_query))
    on_tokens = attention.predict(stack, task)[0]
    on_data = descent.gd_plus_plus(task.x, task.y, task.x_query, *schedule)[0]
    assert abs(expected) > 0.01
    assert on_tokens == pytest.approx(expected, rel=1e-10)
    assert on_data == pytest.approx(expected, rel=1e-10)


def test_loss_given_a_context_is_the_mean_over_teachers_and_queries():
    """Predictions are linear in both, so that unit vectors give all second moments."""
    x, schedule = a_matrix(2, 5, 3), a_schedule(3)
    answer = jax.jit(lambda w, q: descent.gd_plus_plus(x, x @ w[:, None], q, *schedule)[0])
    total = sum((answer(w, q) - w @ q) ** 2 for w in np.eye(3) for q in np.eye(3))
    spectrum = np.linalg.eigvalsh(np.array(x).T @ np.array(x))
    found = jax.jit(theory.spectral_loss)(spectrum, schedule, MOMENTS)
    assert found == pytest.approx(0.5 * 0.7 * float(total), rel=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_best_steps_are_the_least_squares_polynomial(layers):
    h = SPECTRA.ravel()
    powers = h[:, None] ** np.arange(1, layers + 1)
    bend, *_ = np.linalg.lstsq(powers, -np.ones_like(h), rcond=None)
    zeros = np.sort(np.roots([*bend[::-1], 1.0]).real)
    best = theory.best_steps(jax.device_put(SPECTRA), layers)
    np.testing.assert_allclose(best.rate, 1 / zeros[::-1], rtol=1e-7)
    np.testing.assert_array_equal(best.gamma, np.zeros(layers))
    assert mean_square(SPECTRA, best) == pytest.approx(np.mean((1 + powers @ bend) ** 2), rel=1e-10)


def test_best_steps_are_stationary_at_any_depth():
    h = jax.device_put(some_spectra(400))
    best = theory.best_steps(h, 12)

    def log_loss(t):
        return jnp.log(jnp.mean(theory.unlearned(h, Schedule(best.rate * t, best.gamma)) ** 2))

    np.testing.assert_allclose(jax.jit(jax.grad(log_loss))(jnp.ones(12)), 0, atol=1e-5)


def test_one_best_step_is_the_closed_form():
    """All contexts of two inputs from {-1, 1}^2 are equally likely."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T.reshape(-1, 2, 2)
    spectra = np.linalg.eigvalsh(np.einsum("bni,bnj->bij", signs, signs))
    best = theory.best_steps(jax.device_put(spectra), 1)
    expected = theory.best_step(2, 2, theory.Moments(1.0, 1.0)) / 2
    assert best.rate[0] == pytest.approx(expected, rel=1e-12)


def test_as_many_steps_as_eigenvalues_leave_nothing():
    h = jnp.array([[-1e-18, 0.0, 0.5], [0.5, 2.0, 3.0]])
    best = theory.best_steps(h, 3)
    np.testing.assert_allclose(best.rate, [1 / 3, 1 / 2, 2], rtol=1e-10)
    with pytest.raises(ValueError, match="hold 4 different positive eigenvalues, got 3"):
        theory.best_steps(h, 4)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_tripled_angles_are_chebyshev_polynomials(layers):
    edge, n = 2.3, 3**layers
    schedule = theory.triple_angle(edge, layers)
    x = np.linspace(0.01, 1.15, 400)  # beyond the edge too
    chebyshev = np.polynomial.Chebyshev([0] * n + [1])(x) * (-1) ** ((n - 1) // 2)
    p = np.array(unlearned(edge * x**2, schedule))
    np.testing.assert_allclose(p, chebyshev / (n * x), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(schedule.rate, schedule.gamma)
    inside = x <= 1
    bound = np.minimum(1, 1 / (n * x[inside]))
    assert (np.abs(p[inside]) <= bound + 1e-12).all() and (np.abs(p[x > 1.1]) > bound[-1]).all()


def test_no_polynomial_is_smaller_everywhere():
    edge, h = 1.7, np.linspace(0, 1.7, 2000)
    largest = np.max(np.sqrt(h) * np.abs(loop(h, *theory.triple_angle(edge, 2))))
    assert largest == pytest.approx(np.sqrt(edge) / 9, rel=1e-5)
    draw = np.random.default_rng(0)
    zeros = edge * np.sin(np.pi * np.arange(1, 5) / 9) ** 2
    for _ in range(200):
        moved = zeros * np.exp(draw.normal(size=4) * draw.choice([0.01, 0.1, 0.5]))
        p = np.prod(1 - h[:, None] / moved, axis=1)
        assert np.max(np.sqrt(h) * np.abs(p)) > largest


def test_search_ends_at_the_gauss_nodes():
    start = Schedule(jnp.array([0.3, 0.7, 2.0]), jnp.zeros(3))
    found = theory.best_schedule(jax.device_put(SPECTRA), start)
    best = theory.best_steps(jax.device_put(SPECTRA), 3)
    np.testing.assert_allclose(found.rate, best.rate, rtol=1e-4)
    np.testing.assert_array_equal(found.gamma, np.zeros(3))
    assert mean_square(SPECTRA, found) == pytest.approx(mean_square(SPECTRA, best), rel=1e-8)


def test_shared_steps_are_the_best_on_a_grid():
    start = Schedule(jnp.array([0.4, 0.4]), jnp.zeros(2))
    found = theory.best_schedule(jax.device_put(SPECTRA), start, shared=True)
    grid = np.linspace(0.2, 0.8, 2001)
    losses = [mean_square(SPECTRA, ([r, r], [0.0, 0.0])) for r in grid]
    np.testing.assert_allclose(found.rate, grid[np.argmin(losses)], atol=2e-4)
    assert found.rate[0] == found.rate[1]
    np.testing.assert_array_equal(found.gamma, np.zeros(2))


@pytest.mark.parametrize("shared", [False, True])
def test_search_agrees_with_one_that_uses_no_slopes(shared):
    edge = SPECTRA.max()
    start = Schedule(jnp.array([0.9, 1.8]) / edge, jnp.array([0.5, 1.0]) / edge)
    found = theory.best_schedule(jax.device_put(SPECTRA), start, shared=shared)
    full = (lambda t: np.repeat(t.reshape(2, 1), 2, 1)) if shared else (lambda t: t.reshape(2, 2))
    loss = lambda t: mean_square(SPECTRA, np.asarray(start) * full(t))
    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
    other = minimize(loss, np.ones(2 if shared else 4), method="Nelder-Mead", options=options)
    assert mean_square(SPECTRA, found) == pytest.approx(other.fun, rel=1e-7)
    assert mean_square(SPECTRA, found) < 0.9 * mean_square(SPECTRA, start)
    read = slice(None, 1) if not shared else slice(None)  # the last gamma is not read
    expected = np.asarray(start) * full(other.x)
    np.testing.assert_allclose(found.rate, expected[0], rtol=1e-3)
    np.testing.assert_allclose(found.gamma[read], expected[1, read], rtol=1e-3)
    if shared:
        np.testing.assert_allclose(found.rate[1] / found.rate[0], 2, rtol=1e-12)


def test_search_ends_where_training_ends():
    """Adam on the tokens of two recurrent layers, over the same contexts and all teachers."""
    x = jax.device_put(np.random.default_rng(3).uniform(-1, 1, (12, 3, 2)))
    spectra = jnp.linalg.eigvalsh(jnp.einsum("bni,bnj->bij", x, x))
    basis = jnp.eye(2)

    def loss(steps, _):
        def error(x, w, x_query):
            answer = descent.gd_plus_plus(
                x, x @ w[:, None], x_query, *jnp.repeat(steps[:, None], 2, 1)
            )
            return (answer[0] - w @ x_query) ** 2

        over_queries = jax.vmap(error, in_axes=(None, None, 0))
        over_teachers = jax.vmap(over_queries, in_axes=(None, 0, None))
        return jnp.mean(jax.vmap(over_teachers, in_axes=(0, None, None))(x, basis, basis))

    run = training.fit(
        loss, jnp.array([[0.5, 0.1]]), jax.random.key(0), optax.adam(0.02), 3000, every=3000
    )
    start = Schedule(jnp.full(2, 0.5), jnp.full(2, 0.1))
    found = theory.best_schedule(spectra, start, shared=True)
    np.testing.assert_allclose(run.params[0], [found.rate[0], found.gamma[0]], rtol=1e-4)


def test_a_search_that_fails_says_so():
    far = Schedule(jnp.full(6, 1e9), jnp.full(6, 1e9))
    with pytest.raises(RuntimeError, match="no minimum reached from Schedule"):
        theory.best_schedule(jax.device_put(SPECTRA), far)
