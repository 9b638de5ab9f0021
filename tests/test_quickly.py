"""What is compiled quickly, and that it says the same."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quickly
from jax._src import compiler

tried = pytest.mark.skipif(
    not jax.__version__.startswith(quickly.TRIED), reason="does nothing with this JAX"
)


def module_of(f, *arguments):
    return jax.jit(f).lower(*arguments).compiler_ir()


def test_a_flag_is_added_once_where_it_was_tried(monkeypatch):
    for tried, given, then in [
        ("0.10.2", "", f"{quickly.FLAG}=false"),
        ("0.10.2", "--other", f"--other {quickly.FLAG}=false"),
        ("0.10.2", f"{quickly.FLAG}=true", f"{quickly.FLAG}=true"),
        ("0.11.0", "", ""),
    ]:
        monkeypatch.setenv("XLA_FLAGS", given)
        monkeypatch.setattr(quickly, "version", lambda _, tried=tried: tried)
        for _ in range(2):
            quickly.older_way()
        assert quickly.os.environ["XLA_FLAGS"] == then


@tried
def test_numbers_are_those_of_every_round():
    inner = lambda x: jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x), x)
    outer = lambda x: jax.lax.fori_loop(0, 50, lambda _, x: inner(x), x)
    x = jnp.ones(9)
    assert quickly.numbers(module_of(jnp.sin, x)) == 9
    of_inner = quickly.numbers(module_of(inner, x))  # and the numbers that count the rounds
    assert 7 * 9 < of_inner <= 7 * (9 + 2) + 1
    assert 50 * of_inner < quickly.numbers(module_of(outer, x)) <= 50 * (of_inner + 2) + 1


@tried
def test_a_loop_that_may_end_at_any_time_has_infinitely_many():
    until = lambda x: jax.lax.while_loop(lambda x: x.sum() < 5, jnp.exp, x)
    assert quickly.numbers(module_of(until, jnp.ones(9))) == math.inf
    each = lambda x: jax.lax.map(until, x)
    assert quickly.numbers(module_of(each, jnp.ones((3, 9)))) == math.inf


@tried
@pytest.mark.parametrize("told", ["0.10.2", "0.11.0"])
def test_only_programs_that_compute_much_are_optimised(monkeypatch, told):
    real, levels = compiler.compile_or_get_cached, []

    def noting(backend, module, devices, options, *rest):
        debug = options.executable_build_options.debug_options
        levels.append(debug.xla_backend_optimization_level)
        return real(backend, module, devices, options, *rest)

    monkeypatch.setattr(compiler, "compile_or_get_cached", noting)
    monkeypatch.setattr(quickly, "version", lambda _: told)
    quickly.little()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        long = jax.jit(lambda x: jax.lax.fori_loop(0, 10**7, lambda _, x: jnp.sin(x), x))
        short = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, x: jnp.sin(x), x))
        x = np.linspace(0, 1, 9)
        long.lower(x).compile()
        found = short(x)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    assert levels == ([1, 0] if told.startswith(quickly.TRIED) else [3, 3])
    for _ in range(10):
        x = np.sin(x)
    np.testing.assert_allclose(found, x, rtol=1e-14)
