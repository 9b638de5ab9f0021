"""Random problems to be solved in context. One call draws one problem.

Linear regression (``regression``, from a law of inputs), waves (``sine``), sequences to
be continued (``autoregressive``, from a law of starts) and repeated (``repeated``);
``batch`` draws many of anything.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, Key

from icl_gd import _require
from icl_gd._annotations import Scalar
from icl_gd._precision import exact


class Task(NamedTuple):
    """A regression problem: N labelled inputs, a query, and the label it should get."""

    x: Float[Array, "context dim"]
    y: Float[Array, "context outputs"]
    x_query: Float[Array, " dim"]
    y_query: Float[Array, " outputs"]


def batch(sample: Callable, key: Key[Array, ""], count: int) -> Any:
    """``count`` independent draws of ``sample(key)``, along a leading axis.

    Of tasks, or of anything else that a key makes: weights, one set for each seed.
    """
    _require.at_least(1, count=count)
    return jax.vmap(sample)(jax.random.split(key, count))


def uniform(
    key: Key[Array, ""], n: int, d: int, input_range: Scalar = 1.0
) -> Float[Array, "{n} {d}"]:
    """Draws n inputs from U(-input_range/2, input_range/2).

    ``input_range=1`` is the setting of the code published with von Oswald et al.
    (2022), whose comments call it U(-1, 1).
    """
    _require.at_least(1, n=n, d=d)
    _require.positive(input_range=input_range)
    return input_range * jax.random.uniform(key, (n, d), minval=-0.5, maxval=0.5)


def normalised(
    key: Key[Array, ""],
    n: int,
    d: int,
    scale: Scalar = 1.0,
    law: Callable | None = None,
) -> Float[Array, "{n} {d}"]:
    """Draws n inputs of one law: exponential, normal or Laplace, equally likely.

    All are divided by the Frobenius norm of all but the last, which is the query, and
    multiplied by ``scale``, as in the published test on "other distributions" (von
    Oswald et al. 2022, ``create_ood_data``). If there is a ``law``, ``law(key, (n,
    d))`` draws them. Exponential inputs have a mean, so that the closed forms of
    ``theory`` do not apply. n >= 2.
    """
    _require.at_least(2, n=n)
    _require.at_least(1, d=d)
    _require.positive(scale=scale)
    key_law, key_x = jax.random.split(key)
    published = [jax.random.exponential, jax.random.normal, jax.random.laplace]
    laws = [law] if law else published
    draws = [lambda k, law=law: law(k, (n, d)) for law in laws]
    x = jax.lax.switch(jax.random.randint(key_law, (), 0, len(laws)), draws, key_x)
    return scale * x / jnp.linalg.norm(x[:-1])


@exact
def regression(
    key: Key[Array, ""],
    n: int,
    d: int,
    outputs: int = 1,
    inputs: Callable = uniform,
    target_scale: Scalar = 1.0,
) -> Task:
    """Draws N + 1 inputs and a teacher W with N(0, target_scale^2) entries: y = W x.

    ``inputs(key, N + 1, d)`` draws them, the last is the query. Defaults: the code
    published with von Oswald et al. (2022).
    """
    _require.at_least(1, n=n, outputs=outputs)
    _require.positive(target_scale=target_scale)
    key_x, key_w = jax.random.split(key)

    def law(key: Key[Array, ""], n: int, d: int) -> Float[Array, "{n} {d}"]:
        return inputs(key, n, d)

    x = law(key_x, n + 1, d)
    w = target_scale * jax.random.normal(key_w, (outputs, d))
    y = x @ w.T
    return Task(x[:-1], y[:-1], x[-1], y[-1])


def noisy_labels(key: Key[Array, ""], task: Task, count: Int[Array, ""] | int) -> Task:
    """Replaces the first ``count`` labels by N(0, 1) noise; the query stays clean.

    The published code replaces a random subset; the inputs are exchangeable, so that
    the law of the task is the same.
    """
    _require.between(0, len(task.y), count=count)
    noise = jax.random.normal(key, task.y.shape, task.y.dtype)
    spoilt = jnp.arange(len(task.y))[:, None] < count
    return task._replace(y=jnp.where(spoilt, noise, task.y))


def sine(key: Key[Array, ""], n: int, one_key: bool = False) -> Task:
    """Draws y = a sin(x + phase) at N inputs and a query, x from U(-5, 5).

    Amplitude a from U(0.1, 0.5), phase from U(0, pi). With ``one_key`` both come from
    one random key, as in the code published with von Oswald et al. (2022), so that a =
    0.1 + 0.4 phase / pi; otherwise they are independent.
    """
    _require.at_least(1, n=n)
    key_x, key_phase, key_amplitude = jax.random.split(key, 3)
    x = jax.random.uniform(key_x, (n + 1, 1), minval=-5.0, maxval=5.0)
    turn = jax.random.uniform(key_phase)
    size = turn if one_key else jax.random.uniform(key_amplitude)
    y = (0.1 + 0.4 * size) * jnp.sin(x + jnp.pi * turn)
    return Task(x[:-1], y[:-1], x[-1], y[-1])


def autoregressive(
    key: Key[Array, ""], length: int, d: int, start: Callable = jax.random.normal
) -> Complex[Array, "{length} {d}"]:
    """Draws x_1 and phases and continues x_{t+1} = diag(lambda) x_t up to x_T.

    ``start(key, (d,))`` draws x_1, which is real; the lambda_j are independent and
    uniform on the unit circle. Zheng et al. (2024), section 3.
    """
    _require.at_least(1, length=length, d=d)
    key_start, key_phase = jax.random.split(key)
    angle = 2 * jnp.pi * jax.random.uniform(key_phase, (d,))
    turns = jnp.exp(1j * angle * jnp.arange(length)[:, None])
    return start(key_start, (d,)) * turns  # mutant: turned back, the law is the same


def one_hot_start(key: Key[Array, ""], shape: tuple[int]) -> Float[Array, " dim"]:
    """+1 or -1 at one coordinate and zero elsewhere, all equally likely."""
    key_place, key_sign = jax.random.split(key)
    place = jax.random.randint(key_place, (), 0, shape[0])  # mutant: there is one axis
    return jax.random.rademacher(key_sign, (), float) * jax.nn.one_hot(place, *shape)


def sign_start(key: Key[Array, ""], shape: tuple[int]) -> Float[Array, " dim"]:
    """Independent coordinates +1 or -1."""
    return jax.random.rademacher(key, shape, float)


def ones_start(key: Key[Array, ""], shape: tuple[int]) -> Float[Array, " dim"]:
    """Ones."""
    return jnp.ones(shape)


def repeated(
    key: Key[Array, ""],
    vocabulary: int,
    length: int = 25,
    repeats: int = 4,
    distinct: bool = False,
) -> Int[Array, "1+{length}*{repeats}"]:
    """Token 0, and after it ``length`` random tokens, ``repeats`` times the same.

    Token 0 begins every sequence and does not occur again. The others are independent
    and uniform on 1, ..., vocabulary - 1, or with ``distinct`` all different, as 25
    tokens of a large vocabulary nearly always are. Defaults: Olsson et al. (2022). The
    vocabulary has 2 tokens or more, with ``distinct`` more than ``length``.
    """
    _require.at_least(1, length=length, repeats=repeats)
    least = length + 1 if distinct else 2
    _require.at_least(least, vocabulary=vocabulary)
    if distinct:
        once = 1 + jax.random.permutation(key, vocabulary - 1)[:length]
    else:
        once = jax.random.randint(key, (length,), 1, vocabulary)
    return jnp.concatenate([jnp.zeros(1, once.dtype), jnp.tile(once, repeats)])
