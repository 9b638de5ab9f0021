"""A user's mistakes, one a line: what each call gives, or which error says what was expected.

The package is called as a user has it, without the checks of annotations that tests add.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icl_gd import (
    attention,
    constructions,
    corpus,
    descent,
    fast,
    flow,
    induction,
    measures,
    moments,
    tasks,
    theory,
    tokens,
    training,
)
from icl_gd.attention import Products
from icl_gd.book import setup
from icl_gd.tasks import Task
from icl_gd.theory import Schedule

pytestmark = pytest.mark.usefixtures("unchecked")


def integers(tree):
    return type(tree)(*(np.round(3 * a).astype(int) for a in tree))


# One regression problem in NumPy, N = 3, d = 2, m = 1, and one layer for its tokens.
draw = np.random.default_rng(0).normal
X, Y, XQ, YQ, W0 = (draw(size=shape) for shape in ((3, 2), (3, 1), 2, 1, (1, 2)))
TASK, LAYER = Task(X, Y, XQ, YQ), Products(*draw(size=(2, 3, 3)))
ONE = Task(*(np.full(shape, 2.0) for shape in ((1, 1), (1, 1), 1, 1)))  # N = d = m = 1
BATCH = Task(*(np.stack([a, 2 * a]) for a in TASK))
INTS = integers(TASK)
E, CAUSAL = draw(size=(2, 2)), Products(*draw(size=(2, 2, 2)))  # T = 2
MOMENTS = theory.uniform_moments()
H, STEPS = np.array([0.5, 1.0, 3.0]), Schedule(np.array([0.1, 0.2]), np.array([0.05, 0.0]))
SPECTRA, START = np.array([[0.5, 1.0], [2.0, 3.0]]), Schedule(np.array([0.3]), np.array([0.0]))
LAW = moments.Kappas(1.0, 1.0, 1.0, 1.0)
SEQUENCE = [0, 2, 1, 2]
CIRCUIT = constructions.induction_circuit(3, 4)
MUTE = CIRCUIT._replace(unembed=0 * CIRCUIT.unembed)  # all tokens are equally likely
SGD = optax.sgd(0.1)


def in_single(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)


def a_key(*shape):
    return jax.random.split(jax.random.key(0), shape) if shape else jax.random.key(0)


def fresh(tree):
    """Copies: an array that a program in x64 holds as a constant JAX also takes for one without."""
    return jax.tree.map(np.array, tree)


def in_lists(tree):
    return type(tree)(*(a.tolist() for a in tree))


# What is expected, written out in NumPy.


def path(w0=W0, x=X, y=Y, eta=0.1, steps=2):
    found = [np.array(w0, float)]
    for _ in range(steps):
        w = found[-1]
        pairs = zip(x, y, strict=True)
        found.append(w - eta / len(x) * sum(np.outer(w @ a - b, a) for a, b in pairs))
    return np.array(found)


def predicted(task=TASK, layer=LAYER, w0=None, times=1):
    """All tokens pass through the layer; minus the label of the last one."""
    x, y, x_query, y_query = (np.array(a, float) for a in task)
    w0 = np.zeros((len(y_query), len(x_query))) if w0 is None else w0
    query = np.append(x_query, -w0 @ x_query)
    context, found = np.hstack([x, y]), []
    for _ in range(times):
        gram = context.T @ context
        change = np.array(layer.pv) @ gram @ layer.kq
        query, context = query + change @ query, context + context @ change.T
        found.append(-query[len(x_query) :])
    return found[-1]


def left(h=H, schedule=STEPS):
    p, s = np.ones_like(h), np.ones_like(h)
    for rate, gamma in zip(*schedule, strict=True):
        p, s = p * (1 - rate * h * s**2), s * (1 - gamma * h * s**2)
    return p


def plus_plus(x=X, w=W0, x_query=XQ, schedule=STEPS):
    """w^T (1 - p(S)) x_q for labels of the teacher w, by the eigenvalues of S = X^T X."""
    values, vectors = np.linalg.eigh(x.T @ x)
    return w @ vectors @ np.diag(1 - left(values, schedule)) @ vectors.T @ x_query


def compiled(call):
    """As one program: the package does the same while it is traced, and it is faster."""
    return lambda: jax.jit(call)()


class Bad(NamedTuple):
    """An error: its type, and its message as a regular expression."""

    kind: type
    message: str


class Case(NamedTuple):
    call: Callable
    expected: object
    dtype: str | None = None
    x64: bool = True


def a_list(name, kind=TypeError):
    return Bad(kind, rf"^{re.escape(name)} must be an? .*(array|number).*, got a list$")


def of_shape(name, wanted, given):
    text = f"{name} must have shape {wanted}, got {given}"
    return Bad(ValueError, f"^{re.escape(text)}$")


def no_int(name, given, least=1):
    return Bad(TypeError, f"^{name} must be an int of at least {least}, got {re.escape(given)}")


gd = lambda w0=W0, x=X, y=Y, eta=0.1, steps=2: descent.gradient_descent(w0, x, y, eta, steps)
gd_pp = lambda x=X, y=None, x_query=XQ, rate=STEPS.rate, gamma=STEPS.gamma: descent.gd_plus_plus(
    x, X @ W0.T if y is None else y, x_query, rate, gamma
)
ends = lambda layer=LAYER, task=TASK, steps=2, damping=1.0: attention.roll_out(
    layer, task, steps, damping
)
WEIGHTS, RATES, TIMES = np.ones((2, 3)), np.array([0.1, 0.2]), np.array([0.0, 1.0])
SHRUNK = WEIGHTS * [[0.64], [0.36]]  # after two steps of w <- (1 - 2 rate) w


def fit(params=WEIGHTS, key=None, optimiser=SGD):
    key = a_key() if key is None else key
    return training.fit(lambda p, _: jnp.sum(p**2), params, key, optimiser, 2, 1).params


def descend(start=WEIGHTS, rate=RATES):
    return flow.descend(lambda w: jnp.sum(w**2), start, rate, 2).weights


def decay(times=TIMES, start=WEIGHTS[0]):
    velocity = lambda y: jax.tree.map(jnp.negative, y)
    return jax.tree.map(lambda found: found[-1], flow.integrate(velocity, start, times))


loss_of = lambda task: measures.mean_loss(lambda t: attention.predict([LAYER], t), task)

CASES = {
    # descent: integers, lists, single beside double
    "gd: integer w0": Case(lambda: gd(jnp.array([[1, 2]])), path([[1, 2]]), "float64"),
    "gd: unsigned w0": Case(lambda: gd(np.array([[1, 2]], np.uint8)), path([[1, 2]]), "float64"),
    "gd: w0 as a list": Case(lambda: gd([[1.0, 2.0]]), path([[1, 2]])),
    "gd: all as lists": Case(lambda: gd(W0.tolist(), X.tolist(), Y.tolist()), path()),
    "gd: integers only": Case(lambda: gd([[0, 1]], INTS.x, INTS.y), path([[0, 1]], *INTS[:2])),
    "gd: integer step": Case(lambda: gd(eta=1), path(eta=1)),
    "gd: double step for single": Case(
        lambda: gd(*in_single((W0, X, Y)), np.float64(0.1)), path(), "float64"
    ),
    "gd: double step as array for single": Case(
        lambda: gd(*in_single((W0, X, Y)), np.array(0.1)), path(), "float64"
    ),
    "gd: single w0, double data": Case(lambda: gd(in_single(W0)), path(), "float64"),
    "gd: double w0, single data": Case(lambda: gd(W0, *in_single((X, Y))), path(), "float64"),
    "gd: single stays single": Case(lambda: gd(*in_single((W0, X, Y))), path(), "float32"),
    "gd: double without x64": Case(lambda: gd(*fresh((W0, X, Y))), path(), "float32", x64=False),
    "gd: integer w0 without x64": Case(lambda: gd([[1, 2]]), path([[1, 2]]), "float32", x64=False),
    "gd: N = d = 1": Case(lambda: gd([[0.0]], *ONE[:2]), path([[0.0]], *ONE[:2])),
    "gd: inside jit": Case(lambda: jax.jit(gd)(W0.tolist(), X, Y, 0.1), path()),
    "gd: a step not finite inside jit": Case(
        lambda: jax.jit(gd)(W0, X, Y, np.nan), path(eta=np.nan)
    ),
    "gd: inside vmap": Case(
        lambda: jax.vmap(lambda eta: gd(eta=eta))(jnp.array([0.1, 1.0])), [path(), path(eta=1.0)]
    ),
    "gd: inside grad": Case(
        lambda: jax.grad(lambda w: descent.loss(w, X, Y))(W0), (path(steps=1)[0] - path()[1]) / 0.1
    ),
    "gd: a step not finite": Case(lambda: gd(eta=np.nan), Bad(ValueError, "^eta must be finite")),
    "gd: steps as a list": Case(lambda: gd(eta=[0.1, 0.2]), a_list("eta")),
    "gd: a step not finite, known inside jit": Case(
        lambda: jax.jit(lambda x: gd(x=x, eta=np.nan))(X), Bad(ValueError, "^eta must be finite")
    ),
    "gd: a step for each run": Case(lambda: gd(eta=np.ones(2)), of_shape("eta", (), (2,))),
    "gd: complex step": Case(lambda: gd(eta=0.1j), Bad(TypeError, "^eta must be real .*complex")),
    "gd: complex w0": Case(lambda: gd(W0 + 0j), Bad(TypeError, "^w0 must be real .*complex128$")),
    "gd: truth values": Case(lambda: gd(W0 > 0), Bad(TypeError, "^w0 must be real .*, got bool$")),
    "gd: w0 forgotten": Case(
        lambda: gd(None), Bad(TypeError, "^w0 must be an array of real numbers, got None$")
    ),
    "gd: w0 as text": Case(lambda: gd("zero"), Bad(TypeError, "^w0 must be .*, got 'zero'$")),
    "gd: ragged list": Case(lambda: gd([[1.0], [1.0, 2.0]]), Bad(TypeError, r"^w0 must .*\[\[1")),
    "gd: w0 transposed": Case(lambda: gd(W0.T), of_shape("w0", (1, 2), (2, 1))),
    "gd: w0 as a vector": Case(lambda: gd(W0[0]), of_shape("w0", (1, 2), (2,))),
    "gd: labels as a vector": Case(lambda: gd(y=Y[:, 0]), of_shape("y", (3, "any"), (3,))),
    "gd: a label missing": Case(lambda: gd(y=Y[1:]), of_shape("y", (3, "any"), (2, 1))),
    "gd: one input": Case(lambda: gd(x=XQ), of_shape("x", ("any", "any"), (2,))),
    "gd: no steps": Case(lambda: gd(steps=0), Bad(ValueError, "^steps must be .* 1, got 0$")),
    "gd: half a step": Case(lambda: gd(steps=1.5), no_int("steps", "1.5")),
    "gd: steps as JAX has them": Case(lambda: gd(steps=jnp.array(2)), no_int("steps", "Array(2")),
    "gd: steps traced": Case(
        lambda: jax.jit(lambda s: gd(steps=s))(2), Bad(TypeError, "^steps .*int[(]steps[)]")
    ),
    "loss: lists": Case(
        lambda: descent.loss(W0.tolist(), X.tolist(), Y.tolist()), np.mean((X @ W0.T - Y) ** 2) / 2
    ),
    "loss: w of another size": Case(
        lambda: descent.loss(W0.T, X, Y), of_shape("w", ("any", 2), (2, 1))
    ),
    "gradient: a number for inputs": Case(
        lambda: descent.gradient(W0, 1.0, Y), of_shape("x", ("any", "any"), ())
    ),
    "gd++: lists": Case(
        lambda: gd_pp(X.tolist(), (X @ W0.T).tolist(), XQ.tolist(), *in_lists(STEPS)), plus_plus()
    ),
    "gd++: double steps for single": Case(
        lambda: gd_pp(*in_single((X, X @ W0.T, XQ))), plus_plus(), "float64"
    ),
    "gd++: integer data": Case(
        lambda: gd_pp(INTS.x, INTS.x @ [[1], [2]], INTS.x_query),
        plus_plus(INTS.x, np.array([[1, 2]]), INTS.x_query),
    ),
    "gd++: one step as a number": Case(
        lambda: gd_pp(rate=0.1, gamma=0.0), of_shape("rate", ("any",), ())
    ),
    "gd++: a gamma missing": Case(
        lambda: gd_pp(gamma=STEPS.gamma[:1]), of_shape("gamma", (2,), (1,))
    ),
    "gd++: a rate not finite": Case(
        lambda: gd_pp(rate=np.array([0.1, np.inf])), Bad(ValueError, "^rate must be finite")
    ),
    "gd++: query of another size": Case(
        lambda: gd_pp(x_query=XQ[:1]), of_shape("x_query", (2,), (1,))
    ),
    "running step: a list": Case(lambda: descent.running_step(E.tolist(), 0.1), a_list("x")),
    "running step: T = 2": Case(
        lambda: descent.running_step(E, 0.1), 0.1 * np.outer(E[1], E[0])[None]
    ),
    "running least squares: a list": Case(
        lambda: descent.running_least_squares(E.tolist()), a_list("x")
    ),
    "running least squares: T = 2": Case(
        lambda: descent.running_least_squares(E), [np.outer(E[1], E[0]) / (E[0] @ E[0])]
    ),
    # attention and tokens
    "predict: single layer, double task": Case(
        lambda: attention.predict([in_single(LAYER)], TASK), predicted(), "float64"
    ),
    "predict: double without x64": Case(
        lambda: attention.predict([fresh(LAYER)], fresh(TASK), W0.tolist()),
        predicted(w0=W0),
        "float32",
        x64=False,
    ),
    "predict: integer task": Case(lambda: attention.predict([LAYER], INTS), predicted(INTS)),
    "predict: a task of lists": Case(
        lambda: attention.predict([LAYER], in_lists(TASK)), predicted()
    ),
    "predict: a layer of lists": Case(
        lambda: attention.predict([in_lists(LAYER)], TASK), a_list("layer.kq")
    ),
    "predict: w0 as a list": Case(
        lambda: attention.predict([LAYER], TASK, [[1, 2]]), predicted(w0=np.array([[1, 2]]))
    ),
    "predict: w0 not finite": Case(
        lambda: attention.predict([LAYER], TASK, W0 * np.nan), Bad(ValueError, "^w0 must be finite")
    ),
    "predict: w0 not finite inside jit": Case(
        lambda: jax.jit(lambda w: attention.predict([LAYER], TASK, w))(W0 * np.nan), [np.nan]
    ),
    "predict: w0 transposed": Case(
        lambda: attention.predict([LAYER], TASK, W0.T), of_shape("w0", (1, 2), (2, 1))
    ),
    "predict: a complex layer": Case(
        lambda: attention.predict([LAYER._replace(kq=1j * LAYER.kq)], TASK),
        Bad(TypeError, r"^layer\.kq must be real numbers, got complex128$"),
    ),
    "predict: a layer for other tokens": Case(
        lambda: attention.predict([Products(*np.ones((2, 4, 4)))], TASK),
        of_shape("layer.kq", (3, 3), (4, 4)),
    ),
    "predict: not a number in a task": Case(
        lambda: attention.predict([LAYER], TASK._replace(x_query=XQ * np.nan)), [np.nan]
    ),
    "predict: query of another size": Case(
        lambda: attention.predict([LAYER], TASK._replace(x_query=XQ[:1])),
        of_shape("task.x_query", (2,), (1,)),
    ),
    "predict: a label missing": Case(
        lambda: attention.predict([LAYER], TASK._replace(y=Y[1:])),
        of_shape("task.y", (3, "any"), (2, 1)),
    ),
    "predict: a batch of tasks": Case(
        lambda: attention.predict([LAYER], BATCH), of_shape("task.x", ("any", "any"), (2, 3, 2))
    ),
    "predict: complex inputs": Case(
        lambda: attention.predict([LAYER], TASK._replace(x=1j * X)),
        Bad(TypeError, r"^task\.x must be real numbers, got complex128$"),
    ),
    "predict: clip as a list": Case(
        lambda: attention.predict([LAYER], TASK, clip=[1.0]), a_list("clip")
    ),
    "predict: N = d = 1": Case(
        lambda: attention.predict([Products(*np.ones((2, 2, 2)))], ONE),
        predicted(ONE, Products(*np.ones((2, 2, 2)))),
    ),
    "by Gram: a task of lists": Case(
        compiled(lambda: fast.by_gram([LAYER, LAYER], in_lists(TASK))),
        predicted(times=2),
    ),
    "by batch: single tasks": Case(
        compiled(lambda: fast.batch([LAYER], in_single(BATCH))),
        [predicted(), predicted(Task(*(2 * a for a in TASK)))],
        "float64",
    ),
    "by batch: one task": Case(
        lambda: fast.batch([LAYER], TASK),
        Bad(ValueError, "^all arrays of tasks must have the same leading axis, of tasks, got"),
    ),
    "by batch: lists": Case(
        compiled(lambda: fast.batch([LAYER], in_lists(BATCH))[0]),
        predicted(),
    ),
    "roll-out: single task, double layer": Case(
        compiled(lambda: ends(task=in_single(TASK), steps=1)[1]), predicted(), "float64"
    ),
    "roll-out: double task, single layer": Case(
        compiled(lambda: ends(in_single(LAYER), steps=1)[1]), predicted(), "float64"
    ),
    "roll-out: without x64": Case(
        lambda: ends(fresh(LAYER), fresh(TASK), 1, np.float64(0.5))[1],
        predicted() / 2,
        "float32",
        x64=False,
    ),
    "roll-out: integer task": Case(compiled(lambda: ends(task=INTS, steps=1)[1]), predicted(INTS)),
    "roll-out: lists": Case(lambda: ends(in_lists(LAYER), in_lists(TASK), 1)[1], predicted()),
    "roll-out: double damping for single": Case(
        lambda: ends(*in_single((LAYER, TASK)), 1, np.float64(0.5))[1], predicted() / 2, "float64"
    ),
    "roll-out: a damping for each run": Case(
        lambda: ends(damping=np.ones(2)), of_shape("damping", (), (2,))
    ),
    "roll-out: no damping": Case(
        lambda: ends(damping=0), Bad(ValueError, "^damping must be positive, got 0$")
    ),
    "roll-out: steps as text": Case(lambda: ends(steps="2"), no_int("steps", "'2'")),
    "separate: integer task": Case(
        compiled(lambda: tokens.separate(INTS, 2).context[:2, 2:]),
        [[*INTS.x[0], 0], [0, 0, *INTS.y[0]]],
    ),
    "separate: labels of another number": Case(
        lambda: tokens.separate(TASK._replace(y=Y[1:])), of_shape("task.y", (3, "any"), (2, 1))
    ),
    "pair: a list": Case(lambda: tokens.pair(E.tolist()), a_list("x")),
    "pair: T = 2": Case(lambda: tokens.pair(E), [[*E[0], 0, 0], [*E[1], *E[0]]]),
    "causal: a list": Case(lambda: attention.causal_prefix(CAUSAL, E.tolist()), a_list("e")),
    "causal: a vector": Case(
        lambda: attention.causal_quadratic(CAUSAL, E[0]), of_shape("e", ("any", "any"), (2,))
    ),
    "causal: T = 2, integers": Case(
        lambda: attention.causal_recurrent(CAUSAL, np.array([[1, 2], [3, 4]])),
        [CAUSAL.pv @ [[10, 14], [14, 20]] @ CAUSAL.kq @ [3, 4]],
    ),
    # weights set by hand
    "gradient step: integer w0": Case(
        compiled(
            lambda: attention.predict(
                [constructions.gradient_step(0.1, 3, np.array([[1, 2]], np.uint8))], TASK, [[1, 2]]
            )
        ),
        path([[1, 2]])[1] @ XQ,
    ),
    "gradient step: w0 as a list": Case(
        lambda: constructions.gradient_step(3.0, 3, [[1, 2]]).pv[2], [1, 2, -1]
    ),
    "gradient step: eta as a list": Case(
        lambda: constructions.gradient_step([0.1], 3, W0), a_list("eta")
    ),
    "gradient step: n as JAX has it": Case(
        lambda: constructions.gradient_step(0.1, jnp.array(3), W0), no_int("n", "Array(3")
    ),
    "softmax step: w0 as a list": Case(
        lambda: constructions.softmax_step(2.0, [[1, 2]], 1.0).pv[0, 2], [1, 2, -1]
    ),
    "balance: lists": Case(
        lambda: np.trace(constructions.balance(in_lists(LAYER), 2).kq[:2, :2]), 2.0
    ),
    "blocks: lists": Case(
        lambda: constructions.embed_blocks(in_lists(CAUSAL)), a_list("blocks.kq")
    ),
    # closed forms
    "gd_loss: several noisy": Case(
        lambda: theory.gd_loss(1.0, 4, 3, MOMENTS, np.array([0, 4])),
        [theory.gd_loss(1.0, 4, 3, MOMENTS), (3 / 24) * (1 + 1 / 4 / 12)],
    ),
    "gd_loss: several noisy, as JAX has them": Case(
        lambda: jax.jit(lambda noisy: theory.gd_loss(1.0, 4, 3, MOMENTS, noisy))(jnp.arange(2))[1],
        theory.gd_loss(1.0, 4, 3, MOMENTS, 1),
    ),
    "gd_loss: one too many noisy": Case(
        lambda: theory.gd_loss(1.0, 4, 3, MOMENTS, np.array([0, 5])),
        Bad(ValueError, r"^noisy must be between 0 and 4, got \[0 5\]$"),
    ),
    "gd_loss: noisy as a list": Case(
        lambda: theory.gd_loss(1.0, 4, 3, MOMENTS, [0, 4]), a_list("noisy")
    ),
    "gd_loss: eta as a list": Case(
        lambda: theory.gd_loss([0.1, 0.2], 4, 3, MOMENTS), a_list("eta")
    ),
    "gd_loss: eta not finite": Case(
        lambda: theory.gd_loss(np.array([1, np.inf]), 4, 3, MOMENTS),
        Bad(ValueError, "^eta must be"),
    ),
    "gd_loss: N = d = 1": Case(lambda: theory.gd_loss(0.0, 1, 1, MOMENTS), 1 / 24),
    "best step: n as JAX has it": Case(
        lambda: theory.best_step(jnp.array(10), 10, MOMENTS), no_int("n", "Array(10")
    ),
    "best step: N = d = 1": Case(lambda: theory.best_step(1, 1, MOMENTS), 80 / 12),
    "population loss: lists": Case(
        lambda: theory.population_loss(Products(*map(list, CAUSAL)), 3, MOMENTS),
        a_list("layer.kq"),
    ),
    "unlearned: single spectra": Case(
        lambda: theory.unlearned(in_single(H), STEPS), left(), "float64"
    ),
    "unlearned: single schedule": Case(
        lambda: theory.unlearned(H, in_single(STEPS)), left(), "float64"
    ),
    "unlearned: double without x64": Case(
        lambda: theory.unlearned(fresh(H), fresh(STEPS)), left(), "float32", x64=False
    ),
    "unlearned: lists": Case(lambda: theory.unlearned(H.tolist(), in_lists(STEPS)), left()),
    "unlearned: integers": Case(
        lambda: theory.unlearned([1, 2, 3], STEPS), left(np.array([1.0, 2, 3]))
    ),
    "unlearned: a number": Case(lambda: theory.unlearned(2, STEPS), left(np.array(2.0))),
    "unlearned: steps not finite": Case(
        lambda: theory.unlearned(H, STEPS._replace(rate=[np.nan, 0])),
        Bad(ValueError, r"^schedule\.rate must be finite"),
    ),
    "spectral loss: single spectra": Case(
        lambda: theory.spectral_loss(in_single(H), STEPS, MOMENTS), sum(left() ** 2) / 24, "float64"
    ),
    "best steps: a list": Case(
        lambda: theory.best_steps(SPECTRA.tolist(), 1).rate,
        [np.sum(SPECTRA) / np.sum(SPECTRA**2)],
    ),
    "best steps: inside jit": Case(
        lambda: jax.jit(lambda s: theory.best_steps(s, 1))(SPECTRA),
        Bad(TypeError, "^spectra must be known numbers, got traced ones"),
    ),
    "best schedule: without x64": Case(
        lambda: theory.best_schedule(SPECTRA, START),
        Bad(ValueError, "^jax_enable_x64 must be True for best_schedule, got False$"),
        x64=False,
    ),
    "best schedule: single spectra": Case(
        lambda: theory.best_schedule(in_single(SPECTRA), in_single(START)).rate,
        [np.sum(SPECTRA) / np.sum(SPECTRA**2)],
        "float64",
    ),
    "best schedule: spectra not finite": Case(
        lambda: theory.best_schedule(SPECTRA * np.nan, START), Bad(ValueError, "^spectra must be")
    ),
    "best schedule: start as lists": Case(
        lambda: theory.best_schedule(SPECTRA, in_lists(START)), a_list("start.gamma")
    ),
    "best schedule: inside grad": Case(
        lambda: jax.grad(lambda s: theory.best_schedule(s, START).rate[0])(SPECTRA),
        Bad(TypeError, "must be known numbers, got traced ones"),
    ),
    "triple angle: edge as a list": Case(lambda: theory.triple_angle([1.0], 2), a_list("edge")),
    "mean loss: a model without the axis of outputs": Case(
        lambda: measures.mean_loss(lambda task: task.y_query[0], BATCH),
        of_shape("what the model predicts", (2, 1), (2,)),
    ),
    # flows
    "integrate: without x64": Case(
        lambda: decay(),
        Bad(
            ValueError,
            "^jax_enable_x64 must be True for integrate with tolerance = 1e-09, got False$",
        ),
        x64=False,
    ),
    "integrate: a negative tolerance": Case(
        lambda: flow.integrate(jnp.negative, 1.0, TIMES, -1e-3),
        Bad(ValueError, "^tolerance must be between 0 and 1, got -0.001$"),
    ),
    "integrate: times as a list": Case(lambda: decay([0.0, 1.0]), a_list("times")),
    "integrate: one time": Case(
        lambda: decay(np.array([0.0])), Bad(ValueError, "^times must be two or more increasing")
    ),
    "integrate: backwards": Case(
        lambda: decay(np.array([1.0, 0.0])), Bad(ValueError, "^times must be .*increasing numbers")
    ),
    "integrate: times traced": Case(
        lambda: jax.jit(decay)(TIMES), WEIGHTS[0] * np.exp(TIMES[0] - TIMES[-1])
    ),
    "integrate: integers beside single": Case(
        lambda: sum(decay(start={"a": np.array([1, 1]), "b": np.ones(2, np.float32)}).values()),
        2 * np.exp([-1.0, -1.0]),
        "float64",
    ),
    "descend: one rate for all": Case(lambda: descend(rate=0.1), of_shape("rate", (2,), ())),
    "descend: a rate missing": Case(
        lambda: descend(rate=np.array([0.1])), of_shape("rate", (2,), (1,))
    ),
    "descend: rates as a list": Case(lambda: descend(rate=[0.1, 0.2])[:, 2], SHRUNK),
    "descend: double rates for single weights": Case(
        lambda: descend(in_single(WEIGHTS))[:, 2], SHRUNK, "float64"
    ),
    "descend: integer weights": Case(lambda: descend(np.ones((2, 3), int))[:, 2], SHRUNK),
    "descend: without x64": Case(lambda: descend()[:, 2], SHRUNK, "float32", x64=False),
    "descend: weights without runs": Case(
        lambda: descend({"a": np.ones((2, 3)), "b": np.array(1.0)}),
        Bad(ValueError, r"^all arrays of start must .* axis, of runs, got shapes .*[(][)]"),
    ),
    "descend: too fast": Case(
        lambda: descend(rate=np.array([0.1, 1e200])), Bad(ValueError, "^rate must be small enough")
    ),
    "descend: a rate not finite": Case(
        lambda: descend(rate=np.array([0.1, np.nan])), Bad(ValueError, "^rate must be finite")
    ),
    "descend: inside jit": Case(
        lambda: jax.jit(descend)(WEIGHTS), Bad(TypeError, "must be known numbers, got tr")
    ),
    "loss at: t as a list": Case(lambda: flow.loss_at(0.5, [2, 3], 2, LAW), a_list("t")),
    "loss at: t inside jit": Case(
        lambda: jax.jit(lambda t: flow.loss_at(0.5, t, 1, LAW))(2), 0.5 * (0.25 * 2 - 1 + 1)
    ),
    "loss at: nothing seen": Case(
        lambda: flow.loss_at(0.5, np.array([1, 2]), 2, LAW),
        Bad(ValueError, "^t must be at least 2"),
    ),
    "law: several": Case(
        lambda: moments.independent(np.ones(2), 3.0, 15.0), of_shape("m2", (), (2,))
    ),
    "law: inside jit": Case(
        lambda: jax.jit(lambda m2: moments.independent(m2, 3.0, 15.0)((2,)))(1.0),
        Bad(TypeError, "^moments must be known numbers"),
    ),
    "quartic: T = 2": Case(
        lambda: moments.exact_quartic(2, 1, moments.ones),
        Bad(ValueError, "^length must be at least 3"),
    ),
    "quartic: d = 1": Case(lambda: moments.exact_quartic(3, 1, moments.ones).power, 1.0),
    "quartic: sequences as a list": Case(
        lambda: moments.sampled_quartic([[[1.0]]], 1), a_list("sequences")
    ),
    # measures
    "mean loss: single tasks": Case(
        compiled(lambda: loss_of(in_single(BATCH))),
        np.mean([(predicted(t) - t.y_query) ** 2 for t in (TASK, Task(*(2 * a for a in TASK)))])
        / 2,
    ),
    "mean loss: one task": Case(
        lambda: loss_of(TASK), Bad(ValueError, "^all arrays of tasks must .* axis, of tasks, got")
    ),
    "mean loss: lists": Case(compiled(lambda: loss_of(in_lists(BATCH))), lambda: loss_of(BATCH)),
    "alignment: one task": Case(
        lambda: measures.alignment(lambda t: t.x_query, lambda t: t.x_query, TASK),
        Bad(ValueError, "^all arrays of tasks must have the same leading axis"),
    ),
    "alignment: integer tasks": Case(
        compiled(
            lambda: measures.alignment(
                lambda t: 2 * t.x_query, lambda t: t.x_query, integers(BATCH)
            )
        ),
        [1.0, 2**0.5, np.mean(np.linalg.norm(integers(BATCH).x_query, axis=1))],
    ),
    "sensitivity: a task of lists": Case(
        lambda: measures.sensitivity(lambda t: 2 * t.x_query, in_lists(INTS)), 2 * np.eye(2)
    ),
    "copying score: inside jit": Case(
        lambda: jax.jit(measures.copying_score)(CIRCUIT),
        Bad(TypeError, "^model must be known numbers, got traced ones: call this outside of jit"),
    ),
    "copying score: inside vmap": Case(
        lambda: jax.vmap(measures.copying_score)(jax.tree.map(lambda w: w[None], CIRCUIT)),
        Bad(TypeError, "^model must be known numbers, got traced ones: call this outside of jit"),
    ),
    "context score: a list": Case(lambda: measures.in_context_score([0.0] * 20), a_list("losses")),
    "context score: too short": Case(
        lambda: measures.in_context_score(np.ones(9)), Bad(ValueError, "^the number of tokens must")
    ),
    "prefix: a list of tokens": Case(
        lambda: measures.prefix_matching(np.eye(4), SEQUENCE), a_list("sequence")
    ),
    "prefix: nothing twice, T = 2": Case(
        lambda: measures.prefix_matching(np.eye(2), np.array([0, 1])),
        Bad(ValueError, "^the number of repeated tokens in sequence must be positive, got 0$"),
    ),
    # tokens of a vocabulary
    "run: a list of tokens": Case(
        compiled(lambda: induction.forward(CIRCUIT, SEQUENCE).logits[3].argmax()),
        1,  # after 2 came 1
    ),
    "run: a token beyond the vocabulary": Case(
        lambda: induction.forward(CIRCUIT, np.array([0, 3])),
        Bad(ValueError, "^sequence must be tokens from 0 to 2, got 3$"),
    ),
    "run: a token beyond, without x64": Case(
        lambda: induction.forward(CIRCUIT, [0, 25]),
        Bad(ValueError, "^sequence .*, got 25$"),
        x64=False,
    ),
    "run: a negative token": Case(
        lambda: induction.forward(CIRCUIT, jnp.array([0, -1])),
        Bad(ValueError, "^sequence must be tokens from 0 to 2, got -1$"),
    ),
    "run: a token beyond, known inside jit": Case(
        lambda: jax.jit(lambda: induction.forward(CIRCUIT, np.array([0, 25])))(),
        Bad(ValueError, "^sequence must be tokens from 0 to 2, got 25"),
    ),
    "run: tokens traced are taken for the last": Case(
        lambda: jax.jit(lambda s: induction.forward(CIRCUIT, s).logits)(np.array([0, 25, 1, -1])),
        lambda: induction.forward(CIRCUIT, np.array([0, 2, 1, 2])).logits,
    ),
    "run: known tokens, a traced model": Case(
        lambda: jax.jit(lambda model: induction.forward(model, jnp.array([0, 2])).logits)(MUTE),
        np.zeros((2, 3)),
    ),
    "run: words": Case(
        lambda: induction.forward(CIRCUIT, ["the", "end"]),
        Bad(TypeError, "^sequence must be an array of whole numbers, got .*'end'"),
    ),
    "run: fractions of tokens": Case(
        lambda: induction.forward(CIRCUIT, np.array([0.0, 1.0])),
        Bad(TypeError, "^sequence must be whole numbers, got float64$"),
    ),
    "run: a batch of sequences": Case(
        lambda: induction.forward(CIRCUIT, np.zeros((2, 3), int)),
        of_shape("sequence", ("any",), (2, 3)),
    ),
    "run: beyond the reach": Case(
        lambda: induction.forward(CIRCUIT, [0, 1, 2, 1, 2]),
        Bad(ValueError, "^context must be between"),
    ),
    "token losses: a list, T = 2": Case(
        compiled(lambda: measures.token_losses(MUTE, [0, 1])), [np.log(3)]
    ),
    "token losses: a token beyond": Case(
        lambda: measures.token_losses(CIRCUIT, [0, 3]), Bad(ValueError, "^sequence must be tokens")
    ),
    "ablated losses: lists": Case(
        compiled(lambda: measures.ablated_losses(MUTE, [SEQUENCE], "zero")[1, 0, 0]),
        np.full(3, np.log(3)),
    ),
    "ablated losses: a token beyond": Case(
        lambda: measures.ablated_losses(CIRCUIT, [[0, 1], [0, 3]], "zero"),
        Bad(ValueError, "^sequences must be tokens from 0 to 2, got 3$"),
    ),
    "ablated losses: one sequence": Case(
        lambda: measures.ablated_losses(CIRCUIT, SEQUENCE, "zero"),
        of_shape("sequences", ("any", "any"), (4,)),
    ),
    "repeated: vocabulary as JAX has it": Case(
        lambda: tasks.repeated(a_key(), jnp.array(5)), no_int("vocabulary", "Array(5", 2)
    ),
    "spellings: a negative token": Case(
        lambda: corpus.spellings(np.array([[-1, 97]])),
        Bad(ValueError, r"^pairs\[0\] must be tokens from 0 to 255, got \[-1 97\]$"),
    ),
    "encode: a token that is not there yet": Case(
        lambda: corpus.encode(b"abc", [[97, 98], [257, 99]]),
        Bad(ValueError, r"^pairs\[1\] must be tokens from 0 to 256, got \[257  99\]$"),
    ),
    "window: a list": Case(lambda: corpus.window(a_key(), [7, 7, 7], 2), [7, 7]),
    "tiled: a list": Case(lambda: corpus.tiled(a_key(), [7, 7, 7, 7]), [7] * 4),
    "tiled: T = 2": Case(
        lambda: corpus.tiled(a_key(), [1, 2]), Bad(ValueError, r"^len\(tokens\) must be at least 4")
    ),
    # random problems
    "uniform: n as JAX has it": Case(
        lambda: tasks.uniform(a_key(), jnp.array(10), 2),
        no_int("n", "Array(10, dtype=int64, weak_type=True); a size is int(n), outside of jit"),
    ),
    "uniform: n traced": Case(
        lambda: jax.jit(lambda n: tasks.uniform(a_key(), n, 2))(3),
        Bad(TypeError, "^n must be an int"),
    ),
    "regression: d as text": Case(
        lambda: tasks.regression(a_key(), 5, "ten"), no_int("d", "'ten'")
    ),
    "regression: N = d = 1": Case(lambda: tasks.regression(a_key(), 1, 1).x.shape, (1, 1)),
    "noisy labels: integer task": Case(
        lambda: tasks.noisy_labels(a_key(), INTS, 1).y[1:], INTS.y[1:]
    ),
    "noisy labels: count too large": Case(
        lambda: tasks.noisy_labels(a_key(), TASK, 4),
        Bad(ValueError, "^count must be between 0 and 3"),
    ),
    "noisy labels: several counts": Case(
        lambda: tasks.noisy_labels(a_key(), TASK, np.arange(3)), of_shape("count", (), (3,))
    ),
    # training
    "fit: a number for a key": Case(
        lambda: fit(key=0), Bad(TypeError, "^key must be made by jax.random.key, got 0$")
    ),
    "fit: a key of the old style": Case(
        lambda: fit(key=np.zeros(2, np.uint32)),
        Bad(TypeError, "^key must be made by jax.random.key, got an array of uint32$"),
    ),
    "fit: a key missing": Case(lambda: fit(key=a_key(1)), of_shape("key", (2,), (1,))),
    "fit: parameters without seeds": Case(
        lambda: fit(params={"w": np.ones((2, 3)), "b": np.array(0.0)}),
        Bad(ValueError, r"^all arrays of params must .* axis, of seeds, got shapes .*[(][)]"),
    ),
    "fit: parameters of several numbers of seeds": Case(
        lambda: fit(params=[np.ones((2, 3)), np.ones((3, 3))]),
        Bad(ValueError, r"^all arrays of params must .*\(2, 3\), \(3, 3\)"),
    ),
    "fit: integer parameters": Case(
        lambda: fit(params={"w": np.ones((2, 3), int)}),
        Bad(TypeError, r"^params\['w'\] must be floating-point numbers, got int64$"),
    ),
    "fit: single parameters": Case(
        lambda: fit(params=in_single(WEIGHTS)), np.full((2, 3), 0.64), "float32"
    ),
    "fit: keys for the seeds": Case(lambda: fit(key=a_key(2)), np.full((2, 3), 0.64)),
    "fit: double rate for single parameters": Case(
        lambda: fit(
            params=in_single(WEIGHTS),
            optimiser=training.clipped_adam(np.float64(0.1), np.float64(1.0)),
        ),
        np.full((2, 3), 0.8),
        "float32",
    ),
    "initialise: token as JAX has it": Case(
        lambda: training.initialise(a_key(), jnp.array(3)), no_int("token", "Array(3")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_answer_or_named_error(name):
    call, expected, dtype, x64 = CASES[name]
    with setup.x64(x64):
        if isinstance(expected, Bad):
            with pytest.raises(expected.kind, match=expected.message):
                call()
            return
        found = call()
        expected = expected() if callable(expected) else expected
    assert dtype is None or found.dtype == dtype
    exact = x64 and "single" not in name
    np.testing.assert_allclose(found, expected, rtol=1e-6 if exact else 2e-5, atol=1e-6)


def test_there_are_enough():
    assert len(CASES) >= 100
