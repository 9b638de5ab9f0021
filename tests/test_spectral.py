"""GD++ on eigenvalues against matrices and tokens; optima against other searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_matrix, a_task, in_numpy
from scipy.optimize import minimize

from icl_gd import attention, constructions, descent, theory
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


@pytest.mark.parametrize("layers", [1, 2, 5, 20])
def test_spectrum_gives_what_tokens_give(layers):
    task, schedule, w = in_numpy(a_task(0, 6, 4, 1)), a_schedule(layers), a_matrix(1, 4)
    task = task._replace(y=task.x @ w[:, None])
    h, u = np.linalg.eigh(task.x.T @ task.x)
    expected = (w @ u) * (1 - unlearned(h, schedule)) @ (u.T @ task.x_query)
    stack = [gd_plus_plus(*step, d=4) for step in zip(*in_numpy(schedule), strict=True)]
    found = attention.predict(stack, jax.device_put(task))
    np.testing.assert_allclose(found, [expected], rtol=1e-10)


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
    x = np.linspace(0.01, 1.15, 40)  # beyond the edge too
    chebyshev = np.polynomial.Chebyshev([0] * n + [1])(x) * (-1) ** ((n - 1) // 2)
    p = np.array(unlearned(edge * x**2, schedule))
    np.testing.assert_allclose(p, chebyshev / (n * x), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(schedule.rate, schedule.gamma)


def test_search_ends_at_the_gauss_nodes():
    start = Schedule(jnp.array([0.3, 0.7, 2.0]), jnp.zeros(3))
    found = theory.best_schedule(jax.device_put(SPECTRA), start)
    best = theory.best_steps(jax.device_put(SPECTRA), 3)
    np.testing.assert_allclose(found.rate, best.rate, rtol=1e-4)
    np.testing.assert_array_equal(found.gamma, np.zeros(3))
    assert mean_square(SPECTRA, found) == pytest.approx(mean_square(SPECTRA, best), rel=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_search_agrees_with_one_that_uses_no_slopes(shared):
    start = np.array([[0.9, 1.8], [0.5, 1.0]]) / SPECTRA.max()
    found = theory.best_schedule(jax.device_put(SPECTRA), Schedule(*start), shared=shared)
    scaled = lambda t: start * t.reshape(2, -1)
    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
    other = minimize(
        lambda t: mean_square(SPECTRA, scaled(t)),
        np.ones(2 if shared else 4),
        method="Nelder-Mead",
        options=options,
    )
    assert mean_square(SPECTRA, found) == pytest.approx(other.fun, rel=1e-7)
    rate, gamma = scaled(other.x)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-3)
    np.testing.assert_allclose(found.gamma[0], gamma[0], rtol=1e-3)  # the last is not read


def test_a_search_that_fails_says_so():
    far = Schedule(jnp.full(6, 1e9), jnp.full(6, 1e9))
    with pytest.raises(RuntimeError, match="no minimum reached from Schedule"):
        theory.best_schedule(jax.device_put(SPECTRA), far)
