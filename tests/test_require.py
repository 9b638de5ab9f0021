"""What arguments must satisfy, and how the messages read."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import _require
from icl_gd.tasks import Task


@pytest.mark.parametrize("value", [1, 7, np.int32(1)])
def test_positive_ints_pass(value):
    _require.positive_int("n", value)


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.float64(2), jnp.arange(2)])
def test_what_is_no_int_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^n must be an int of at least 1, got "):
        _require.positive_int("n", value)


@pytest.mark.parametrize("value", [0, -1, np.int64(0)])
def test_small_ints_are_a_value_error(value):
    with pytest.raises(ValueError, match=f"^n must be at least 1, got {value}$"):
        _require.positive_int("n", value)


@pytest.mark.parametrize("check", [_require.finite, _require.positive])
@pytest.mark.parametrize(
    "value",
    [1, 1e-300, 2.5, np.uint8(3), np.float32(2), np.ones((2, 2)), jnp.ones(3, jnp.bfloat16)],
)
def test_positive_numbers_pass(check, value):
    check("eta", value)


@pytest.mark.parametrize("value", [0, -1.5, np.array([0.0, -2.0])])
def test_zero_and_less_are_finite_but_not_positive(value):
    _require.finite("eta", value)
    with pytest.raises(ValueError, match=r"^eta must be positive, got "):
        _require.positive("eta", value)


def test_one_bad_entry_is_enough():
    with pytest.raises(ValueError, match=r"^eta must be positive, got \[1. 0.\]$"):
        _require.positive("eta", np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"^eta must be finite, got \[ ?1. nan\]$"):
        _require.finite("eta", np.array([1.0, np.nan]))


@pytest.mark.parametrize("check", [_require.finite, _require.positive])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_value_error(check, value):
    with pytest.raises(ValueError, match=f"^eta must be finite, got {value}$"):
        check("eta", value)


@pytest.mark.parametrize("check", [_require.finite, _require.positive])
@pytest.mark.parametrize(
    "value, kind", [(1j, "complex128"), ("one", "<U3"), (True, "bool"), (None, "object")]
)
def test_what_is_not_real_is_a_type_error(check, value, kind):
    with pytest.raises(TypeError, match=f"^eta must be real numbers, got {kind}$"):
        check("eta", value)


@pytest.mark.parametrize("check", [_require.finite, _require.positive])
@pytest.mark.parametrize("value, kind", [([1.0], "list"), ((1, 2), "tuple")])
def test_what_cannot_be_multiplied_is_a_type_error(check, value, kind):
    with pytest.raises(TypeError, match=f"^eta must be a number or an array, got a {kind}$"):
        check("eta", value)


@pytest.mark.parametrize("value", [2, 3, 4.0, np.float32(2.5), np.array([2, 4])])
def test_values_between_pass(value):
    _require.between("d", value, 2, 4)


@pytest.mark.parametrize("value", [1, 5, np.nan, np.array([3, 5]), np.array([1, 3])])
def test_values_outside_are_a_value_error(value):
    with pytest.raises(
        ValueError, match=f"^d must be between 2 and 4, got {re.escape(str(value))}$"
    ):
        _require.between("d", value, 2, 4)


def test_values_may_have_no_upper_limit():
    _require.between("d", 1e300, 2, float("inf"))
    with pytest.raises(ValueError, match=r"^d must be at least 2, got 1$"):
        _require.between("d", 1, 2, float("inf"))


@pytest.mark.parametrize(
    "shape, expected", [((), ()), ((2, 3), (2, 3)), ((2, 3), (None, 3)), ((5, 1), (None, None))]
)
def test_shapes_that_fit_pass(shape, expected):
    _require.shape("w0", np.zeros(shape), expected)


@pytest.mark.parametrize(
    "shape, expected, message",
    [
        ((3, 2), (2, 3), r"shape \(2, 3\), got \(3, 2\)"),
        ((2, 2), (2, 3), r"shape \(2, 3\), got \(2, 2\)"),
        ((3, 3), (2, 3), r"shape \(2, 3\), got \(3, 3\)"),
        ((2, 3), (None, 2), r"shape \('any', 2\), got \(2, 3\)"),
        ((2, 3), (2,), r"shape \(2,\), got \(2, 3\)"),
        ((2,), (2, 3), r"shape \(2, 3\), got \(2,\)"),
        ((), (None,), r"shape \('any',\), got \(\)"),
    ],
)
def test_other_shapes_are_a_value_error(shape, expected, message):
    with pytest.raises(ValueError, match=f"^w0 must have {message}$"):
        _require.shape("w0", np.zeros(shape), expected)


@pytest.mark.parametrize(
    "value, kind", [([1, 2, 3], "list"), ((1, 2, 3), "tuple"), (None, "NoneType")]
)
def test_what_is_no_array_has_no_shape(value, kind):
    with pytest.raises(TypeError, match=rf"^w0 must be an array of shape \(3,\), got a {kind}$"):
        _require.shape("w0", value, (3,))


@pytest.mark.parametrize(
    "given, dtype",
    [
        ((1, 2), "float64"),
        (([1, 2], 3), "float64"),
        ((np.float32(1), 2), "float32"),
        ((np.float32(1), 2.0), "float32"),
        ((np.ones(2, np.float32), np.float64(1)), "float64"),
        ((np.ones(2, np.float32), np.arange(3)), "float32"),
        ((jnp.ones(2, jnp.bfloat16), 0.5), "bfloat16"),
    ],
)
def test_real_arrays_get_one_dtype(given, dtype):
    found = _require.real(**{"z": given[0], "a": given[1]})
    for value, array in zip(given, found, strict=True):
        np.testing.assert_array_equal(np.asarray(array, float), np.asarray(value, float))
        assert array.dtype == dtype and not array.weak_type


def test_real_keeps_a_tree_and_names_its_part():
    task = Task(np.ones((1, 1)), [[2]], np.ones(1), np.ones(1))
    (found,) = _require.real(task=task)
    assert isinstance(found, Task) and found.y.dtype == "float64"
    for bad, given in ((1j, "complex128"), (True, "bool"), (None, "None"), ("ten", "'ten'")):
        with pytest.raises(TypeError, match=rf"^task\.y must be .*real numbers, got {given}$"):
            _require.real(task=task._replace(y=bad))


def test_values_that_are_traced_are_let_through():
    def f(value):
        _require.finite("eta", value)
        _require.positive("eta", value)
        _require.between("eta", value, 0, 1)
        return value

    assert jax.jit(f)(-2.0) == -2
    np.testing.assert_array_equal(jax.vmap(f)(jnp.array([-2.0, 5.0])), [-2, 5])
