"""What values must satisfy, and how the messages read."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import _require

inf, nan = np.inf, np.nan


@pytest.mark.parametrize(
    "check, good, bad, what",
    [
        (lambda x: _require.at_least(2, x=x), [2, np.array([2, 3])], [1, [2, 1], nan], "at least 2"),
        (lambda x: _require.between(2, 4, x=x), [2, 4.0, np.array([2, 4])], [1, 5, nan, [3, 5], [1, 3]], "between 2 and 4"),
        (lambda x: _require.finite(x=x), [0, -1.5, 1j, jnp.ones(3, jnp.bfloat16)], [nan, inf, -inf, [1.0, nan]], "finite"),
        (lambda x: _require.positive(x=x), [1e-300, 3, np.ones((2, 2))], [0, -1.5, [1.0, 0.0]], "positive"),
        (lambda x: _require.positive(x=x), [1], [nan, inf], "finite"),
        (lambda x: _require.increasing(x=x), [[0, 1], [-1.0, 0.0, 0.5]], [[1.0], [0, 0], [0, 2, 1]], "two or more increasing numbers"),
        (lambda x: _require.increasing(x=x), [[0, 1]], [[0.0, inf]], "finite"),
    ],
)  # fmt: skip
def test_values(check, good, bad, what):
    for value in good:
        check(jnp.asarray(value))
        jax.jit(lambda check=check, value=value: check(jnp.asarray(value)))()
    for value in map(np.asarray, bad):
        with pytest.raises(ValueError, match=f"^x must be {what}, got {re.escape(str(value))}$"):
            check(value)


def test_each_argument_is_looked_at_and_named():
    for check in (_require.finite, _require.positive):
        with pytest.raises(ValueError, match=r"^b must be finite, got nan$"):
            check(a=1.0, b=nan)
    with pytest.raises(ValueError, match=r"^b must be positive, got 0$"):
        _require.positive(a=1.0, b=0)
    with pytest.raises(ValueError, match=r"^b must be at least 1, got 0$"):
        _require.at_least(1, a=1, b=0)


def test_values_that_are_traced_are_let_through():
    def f(value):
        _require.finite(a=value)
        _require.positive(a=value)
        _require.at_least(0, a=value)
        _require.between(0, 1, a=value)
        _require.increasing(a=jnp.stack([value, value]))
        return value

    assert jax.jit(f)(-2.0) == -2
    np.testing.assert_array_equal(jax.vmap(f)(jnp.array([-2.0, 5.0])), [-2, 5])


def test_known_numbers_are_no_tracers():
    _require.concrete(a={"b": jnp.ones(2)}, c=3.0)
    with pytest.raises(
        TypeError, match=r"^c must be known numbers, got traced ones: call this out"
    ):
        jax.jit(lambda c: _require.concrete(a=1.0, c={"d": [1.0, c]}))(1.0)


def test_what_a_scan_carries_keeps_its_type():
    single, double = np.ones(2, np.float32), jnp.ones(2)
    _require.as_wide_as((0.1, single, 3), a=double, b={"c": single})
    _require.as_wide_as(single, a=jnp.ones(1, "complex64"))
    message = r"^{} must be of {}, as what it is combined with, got {}$".format
    with pytest.raises(TypeError, match=message("b", "float64", "float32")):
        _require.as_wide_as([single, {"eta": double}], a=double, b=[double, single])
    with pytest.raises(TypeError, match=message("a", "complex128", "float64")):
        _require.as_wide_as(1j * double, a=double)
