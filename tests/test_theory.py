"""Closed forms against exact enumeration of every task, autodiff, and Monte Carlo."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import a_layer

from icl_gd import attention, constructions, tasks, theory

# x in {-a, 0, a} with probability p/2, 1 - p, p/2; Gauss-Hermite nodes that integrate N(0, 1)
# exactly up to degree 3 and 5.
WIDTH, P = 1.3, 0.7
LAW = [(-WIDTH, P / 2), (0.0, 1 - P), (WIDTH, P / 2)]
MOMENTS = theory.Moments(P * WIDTH**2, P * WIDTH**4)
TWO = [(-1.0, 0.5), (1.0, 0.5)]
THREE = [(-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6)]


# Compiled whole, once a size.
loss_and_slope = jax.jit(jax.value_and_grad(theory.population_loss), static_argnames="n")


@partial(jax.jit, static_argnames=("n", "d"))
def construction(eta, n, d):
    return constructions.gradient_step(eta, n, jnp.zeros((1, d)))


def points(law, *shape):
    """Every array of that shape with independent entries from the law, and its probability."""
    size = int(np.prod(shape))
    grid = np.array(list(product(law, repeat=size))).reshape(len(law) ** size, size, 2)
    return grid[..., 0].reshape(len(grid), *shape), grid[..., 1].prod(axis=1)


def enumerated_loss(kq, pv, n, d, law=LAW, root=1.0):
    """E 1/2 (prediction - w x_q)^2 of a linear layer, summed over all contexts and queries."""
    (x, p_x), (w, p_w), (x_q, p_q) = points(law, n, d), points(THREE, d), points(law, d)
    x, x_q = (z @ root if np.ndim(root) else z for z in (x, x_q))
    total = 0.0
    for teacher, p_teacher in zip(w, p_w, strict=True):
        e = np.concatenate([x, (x @ teacher)[..., None]], axis=-1)
        e_q = np.concatenate([x_q, np.zeros((len(x_q), 1))], axis=-1)
        added = np.einsum("bni,ij,qj,bnk,k->bq", e, kq, e_q, e, pv[-1], optimize=True)
        total += p_teacher * (p_x @ (-added - x_q @ teacher) ** 2 @ p_q)
    return total / 2


def enumerated_gd_loss(eta, n, d, noisy=0, scale=1.0):
    """The same for one gradient step from W = 0, whose first ``noisy`` labels are N(0, 1)."""
    (x, p_x), (w, p_w), (x_q, p_q) = points(LAW, n, d), points(TWO, d), points(LAW, d)
    noise, p_noise = points(TWO, noisy)
    x, x_q, total = scale * x, scale * x_q, 0.0
    for teacher, p_teacher in zip(w, p_w, strict=True):
        for spoilt, p_spoilt in zip(noise, p_noise, strict=True):
            y = x @ teacher
            y[:, :noisy] = spoilt
            learned = eta / n * np.einsum("bn,bni->bi", y, x)
            total += p_teacher * p_spoilt * (p_x @ ((learned - teacher) @ x_q.T) ** 2 @ p_q)
    return total / 2


@pytest.mark.parametrize("n, d", [(1, 1), (1, 3), (2, 2), (3, 2), (4, 1)])
def test_population_loss_is_the_sum_over_all_tasks(n, d):
    for seed in range(3):  # all entries of KQ and PV at random
        layer = a_layer(seed, d + 1)
        expected = enumerated_loss(np.asarray(layer.kq), np.asarray(layer.pv), n, d)
        found, _ = loss_and_slope(layer, n, MOMENTS)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


SHAPED = [(1, 1), (1, 3), (2, 2), (3, 2)]


def a_shape(d):
    """A covariance whose eigenvectors are no axes, and a root: z @ root has it."""
    root = np.random.default_rng(d).normal(size=(d, d)) + np.eye(d)
    return root.T @ root, root


@pytest.mark.parametrize("n, d", SHAPED)
def test_shaped_loss_is_the_sum_over_all_tasks(n, d):
    covariance, root = a_shape(d)
    for seed in range(3):
        layer = a_layer(seed, d + 1)
        layer = layer._replace(kq=layer.kq + 0.3)  # all entries of KQ and PV, without symmetry
        expected = enumerated_loss(np.asarray(layer.kq), np.asarray(layer.pv), n, d, THREE, root)
        found = theory.shaped_loss(layer, n, covariance)
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("n, d", SHAPED)
def test_preconditioned_loss_is_that_of_the_layer_with_this_matrix(n, d):
    covariance, root = a_shape(d)
    step = np.random.default_rng(1).normal(size=(d, d))
    kq = np.pad(step, ((0, 1), (0, 1)))
    pv = -np.diag(np.append(np.zeros(d), 1 / n))
    expected = enumerated_loss(kq, pv, n, d, THREE, root)
    found = theory.preconditioned_loss(step, n, covariance)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("n, d", SHAPED)
def test_no_matrix_is_better_than_the_preconditioner(n, d):
    covariance, _ = a_shape(d)
    loss = lambda step: theory.preconditioned_loss(step, n, covariance)
    best = theory.preconditioner(n, covariance)
    np.testing.assert_allclose(jax.grad(loss)(best), 0.0, atol=1e-11)
    flat = lambda step: loss(step.reshape(d, d))
    curvature = jnp.linalg.eigvalsh(jax.hessian(flat)(best.ravel()))
    assert curvature.min() > 0


def test_on_round_inputs_the_preconditioner_is_the_best_step():
    round_law, gaussian = 0.7 * np.eye(3), theory.Moments(0.7, 3 * 0.7**2)
    best = theory.best_step(5, 3, gaussian)
    np.testing.assert_allclose(theory.preconditioner(5, round_law), best * np.eye(3), atol=1e-12)
    layer = a_layer(0, 4)
    expected = theory.population_loss(layer, 5, gaussian)
    np.testing.assert_allclose(theory.shaped_loss(layer, 5, round_law), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "covariance",
    [[[1.0, 0.1], [0.2, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]],
)
def test_a_covariance_is_symmetric_and_not_negative(covariance):
    covariance = np.array(covariance)
    layer = a_layer(0, 3)
    for call in (
        lambda: theory.preconditioner(3, covariance),
        lambda: theory.preconditioned_loss(np.eye(2), 3, covariance),
        lambda: theory.shaped_loss(layer, 3, covariance),
    ):
        with pytest.raises(ValueError, match="covariance must be symmetric, without negative"):
            call()


def test_a_covariance_of_float32_is_one():
    covariance, _ = a_shape(3)
    rounded = jnp.asarray(covariance, jnp.float32).at[0, 1].add(1e-6)
    assert theory.preconditioner(2, rounded).dtype == jnp.float32
    singular = np.diag([1.0, 0.0])
    np.testing.assert_allclose(theory.preconditioner(1, singular), np.diag([1 / 3, 1.0]))


@pytest.mark.parametrize("n, d", [(1, 1), (2, 2), (3, 2), (4, 1)])
def test_gd_loss_is_the_sum_over_all_tasks(n, d):
    for noisy in range(n + 1):
        for eta in (0.0, 0.7, 2.3):
            expected = enumerated_gd_loss(eta, n, d, noisy)
            found = theory.gd_loss(eta, n, d, MOMENTS, noisy)
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_labels_are_clean_unless_said():
    assert theory.gd_loss(0.7, 3, 2, MOMENTS) == theory.gd_loss(0.7, 3, 2, MOMENTS, 0)
    assert theory.gd_loss(0.7, 3, 2, MOMENTS) != theory.gd_loss(0.7, 3, 2, MOMENTS, 1)


def test_gd_loss_follows_the_inputs_as_a_sextic():
    scales = np.arange(1.0, 9.0)
    losses = []
    for r in scales:
        moments = theory.Moments(r**2 * MOMENTS.m2, r**4 * MOMENTS.m4)
        losses.append(theory.gd_loss(0.7, 2, 2, moments))
        assert losses[-1] == pytest.approx(enumerated_gd_loss(0.7, 2, 2, scale=r), rel=1e-12)
    assert np.diff(losses, 6)[0] > 1
    assert np.diff(losses, 7) == pytest.approx(0, abs=1e-9 * max(losses))


@pytest.mark.parametrize("n, d", [(1, 1), (2, 2), (3, 2)])
def test_best_step_is_the_vertex_of_the_enumerated_parabola(n, d):
    at = [enumerated_gd_loss(eta, n, d) for eta in (0, 1, 2)]
    bend, slope = at[2] - 2 * at[1] + at[0], at[1] - at[0]
    expected = 0.5 - slope / bend
    assert theory.best_step(n, d, MOMENTS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n, d", [(1, 1), (10, 10), (7, 3)])
def test_best_step_is_stationary(n, d):
    moments = theory.uniform_moments()
    eta = theory.best_step(n, d, moments)
    slope = jax.jit(jax.grad(lambda eta: theory.gd_loss(eta, n, d, moments)))
    assert slope(eta) == pytest.approx(0, abs=1e-14)
    assert slope(1.01 * eta) > 0 > slope(0.99 * eta)


def test_published_numbers():
    moments = theory.uniform_moments()
    eta = theory.best_step(10, 10, moments)
    assert eta / 10 == pytest.approx(0.60606, abs=5e-6)
    assert theory.gd_loss(eta, 10, 10, moments) == pytest.approx(0.206229, abs=5e-7)


@pytest.mark.parametrize("n, d", [(1, 1), (3, 2), (10, 10)])
def test_population_loss_of_the_construction_is_gd_loss(n, d):
    moments = theory.Moments(0.4, 0.9)
    found, _ = loss_and_slope(construction(1.7, n, d), n, moments)
    np.testing.assert_allclose(found, theory.gd_loss(1.7, n, d, moments), rtol=1e-12)


def test_construction_is_stationary_among_all_layers():
    n, d = 4, 3
    moments = theory.uniform_moments()
    eta = theory.best_step(n, d, moments)
    _, slope = loss_and_slope(construction(eta, n, d), n, moments)
    np.testing.assert_allclose(np.concatenate([slope.kq, slope.pv]), 0, atol=1e-14)


@pytest.mark.parametrize("n, d", [(3, 2), (2, 3)])
@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_population_loss_is_the_mean_over_sampled_tasks(n, d, law):
    def normal(key, n, d):
        return 0.8 * jax.random.normal(key, (n, d))

    inputs, moments = {
        "uniform": (tasks.uniform, theory.uniform_moments()),
        "normal": (normal, theory.Moments(0.8**2, 3 * 0.8**4)),
    }[law]
    layer = a_layer(3, d + 1)

    @jax.jit
    def losses(keys):
        def one(key):
            task = tasks.regression(key, n, d, inputs=inputs)
            return 0.5 * (attention.predict([layer], task) - task.y_query)[0] ** 2

        return jax.vmap(one)(keys)

    sample = np.asarray(losses(jax.random.split(jax.random.key(5), 200_000)))
    expected, _ = loss_and_slope(layer, n, moments)
    error = sample.std() / len(sample) ** 0.5
    assert error < 0.03 * expected
    assert abs(sample.mean() - expected) < 4.5 * error


@pytest.mark.parametrize("input_range", [None, 1.0, 0.3, 2])
def test_uniform_moments_are_the_integrals(input_range):
    moments = theory.uniform_moments(*([] if input_range is None else [input_range]))
    nodes, weight = np.polynomial.legendre.leggauss(3)  # exact up to degree 5
    x = nodes * (input_range or 1.0) / 2
    assert moments.m2 == pytest.approx(weight @ x**2 / 2, rel=1e-14)
    assert moments.m4 == pytest.approx(weight @ x**4 / 2, rel=1e-14)


def test_smallest_possible_moments_are_allowed():
    assert theory.best_step(2, 2, theory.Moments(0.5, 0.25)) == pytest.approx(4 / 3)


def test_moments_may_be_traced_in_part():
    of_m4 = jax.jit(lambda m4: theory.gd_loss(1.0, 2, 2, theory.Moments(1.0, m4)))
    assert of_m4(2.0) == pytest.approx(theory.gd_loss(1.0, 2, 2, theory.Moments(1.0, 2.0)))


def enumerated_centred_loss(eta, n, d):
    """The loss of one step from W = 0 on centred data, summed over all contexts."""
    (x, p_x), m2 = points(LAW, n, d), MOMENTS.m2
    total = 0.0
    for context, probability in zip(x, p_x, strict=True):
        centred = context - context.mean(axis=0)
        left = np.eye(d) - eta / n * centred.T @ centred  # times the teacher: what is not learned
        total += probability * np.sum(left**2)
    return m2 / 2 * total


@pytest.mark.parametrize("n, d", [(2, 1), (2, 3), (3, 2), (5, 1)])
def test_centred_loss_is_the_sum_over_all_contexts(n, d):
    for eta in (0.0, 0.7, 2.3):
        expected = enumerated_centred_loss(eta, n, d)
        np.testing.assert_allclose(theory.centred_loss(eta, n, d, MOMENTS), expected, rtol=1e-12)


@pytest.mark.parametrize("n, d", [(2, 1), (3, 2), (10, 10)])
def test_best_centred_step_is_stationary(n, d):
    moments = theory.uniform_moments()
    eta = theory.best_centred_step(n, d, moments)
    slope = jax.jit(jax.grad(lambda eta: theory.centred_loss(eta, n, d, moments)))
    assert slope(eta) == pytest.approx(0, abs=1e-14)
    assert slope(1.01 * eta) > 0 > slope(0.99 * eta)


@pytest.mark.parametrize("n, d", [(2, 1), (10, 10), (7, 3)])
def test_centring_gaussian_inputs_costs_exactly_one_example(n, d):
    gaussian = theory.Moments(0.4, 3 * 0.4**2)
    centred = theory.centred_loss(theory.best_centred_step(n, d, gaussian), n, d, gaussian)
    fewer = theory.gd_loss(theory.best_step(n - 1, d, gaussian), n - 1, d, gaussian)
    assert centred == pytest.approx(fewer, rel=1e-12)


predict_by_layer = jax.jit(lambda layer, task: attention.predict([layer], task))
odd_map = jax.jit(theory.odd_map)


@pytest.mark.parametrize("n, d", [(1, 1), (3, 2), (2, 4)])
def test_odd_map_is_what_changes_sign_with_the_labels(n, d):
    draw = np.random.default_rng(n).normal
    x, w, x_q = draw(size=(n, d)), draw(size=d), draw(size=d)
    for seed in range(3):
        layer = a_layer(seed, d + 1)

        def predict(teacher, layer=layer):
            task = tasks.Task(x, (x @ teacher)[:, None], x_q, np.array([x_q @ teacher]))
            return float(predict_by_layer(layer, task)[0])

        expected = (predict(w) - predict(-w)) / 2
        m = np.asarray(odd_map(layer))
        assert -w @ x.T @ x @ m @ x_q == pytest.approx(expected, rel=1e-10)


def test_odd_map_has_both_routes():
    kq, pv = np.arange(9.0).reshape(3, 3), np.array([[9.0, 9, 9], [9, 9, 9], [2, 3, 5]])
    # p_y Q = 5 [[0, 1], [3, 4]] and p_x q^T = (2, 3) (6, 7)^T
    m = theory.odd_map(attention.Products(jax.device_put(kq), jax.device_put(pv)))
    np.testing.assert_array_equal(m, [[12, 19], [33, 41]])


def test_odd_map_of_the_construction_is_its_step():
    np.testing.assert_allclose(odd_map(construction(1.7, 4, 3)), -1.7 / 4 * np.eye(3), rtol=1e-15)


@pytest.mark.parametrize("n, d", [(1, 1), (2, 2), (10, 10)])
def test_swapped_layer_closes_one_part_in_d_of_the_gap(n, d):
    """Labels as keys, inputs as values: stationary, and for d = 1 as good as gradient descent."""
    moments = theory.Moments(0.4, 0.9)
    eta = theory.best_step(n, d, moments)
    zero, best = (theory.gd_loss(step, n, d, moments) for step in (0.0, eta))
    v = np.random.default_rng(d).normal(size=d)
    v /= np.linalg.norm(v)
    kq, pv = np.zeros((2, d + 1, d + 1))
    kq[-1, :d], pv[-1, :d] = 2 * v, -eta / n / 2 * v
    swapped = attention.Products(jax.device_put(kq), jax.device_put(pv))
    found, slope = loss_and_slope(swapped, n, moments)
    assert found == pytest.approx(zero - (zero - best) / d)
    np.testing.assert_allclose(np.concatenate([slope.kq, slope.pv]), 0, atol=1e-12)
