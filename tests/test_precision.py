"""Which products are float32-exact on every card, and which follow the caller.

No card is needed: the precision that a product asks for stands in its jaxpr.
"""

import inspect
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import optax
import pytest
from jax.lax import Precision

from icl_gd import (
    attention,
    descent,
    fast,
    flow,
    induction,
    measures,
    moments,
    real,
    tasks,
    theory,
    tokens,
    training,
)
from icl_gd._precision import exact
from icl_gd.attention import Attention, Products
from icl_gd.book import setup
from icl_gd.moments import Kappas
from icl_gd.theory import Moments, Schedule

SETTINGS = None, "bfloat16", "tensorfloat32"  # what a caller may have set
N, D, OUTPUTS, LENGTH = 4, 3, 2, 5
MOMENTS, LAW = Moments(1.0, 3.0), Kappas(1.0, 3.0, 15.0, 6.0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


TASK = tasks.regression(jax.random.key(1), N, D, OUTPUTS)
TASKS = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), TASK)
W0 = normal(OUTPUTS, D)
WEIGHTS = Attention(*normal(4, D + OUTPUTS, D + OUTPUTS, seed=2))
LAYER = Products(*WEIGHTS[:2])
SQUARE = Products(normal(D, D), normal(D, D, seed=1))
PAIRS = Products(normal(2 * D, 2 * D), normal(D, 2 * D))
TURNS = tasks.autoregressive(jax.random.key(3), LENGTH, D)
SEQUENCE = jnp.array([0, 1, 2, 1, 2])
LLAMA = llamas.a_model()
MODEL = training.initialise_transformer(
    jax.random.key(4), vocabulary=3, reach=LENGTH, layers=2, heads=2, width=4, smeared=True
)
PATTERNS = jax.nn.softmax(normal(2, LENGTH, LENGTH))
SCHEDULE = Schedule(jnp.array([0.1, 0.2]), jnp.array([0.05, 0.1]))
SPECTRA, TIMES = jnp.linspace(0.5, 2.0, 6).reshape(2, 3), jnp.array([0.0, 0.1])


@jax.jit
def predict(layer, task):
    return attention.predict([layer], task)


def model_of(layer):
    return lambda task: predict(layer, task)


def quartic(square):
    zero = jnp.zeros((D, D, D, D))
    return moments.Quartic(square.reshape((D,) * 6), zero, jnp.ones(()))


def velocity(y):
    return -(y @ y)


def case(function, *arrays, **rest):
    """A function of arrays, or of tuples of them, and where to call it."""
    return partial(function, **rest), arrays


# Functions with products.
EXACT = {
    "theory.population_loss": case(theory.population_loss, SQUARE, n=N, moments=MOMENTS),
    "theory.preconditioner": case(partial(theory.preconditioner, N), jnp.eye(D)),
    "theory.preconditioned_loss": case(
        theory.preconditioned_loss, normal(D, D), n=N, covariance=jnp.eye(D)
    ),
    "theory.shaped_loss": case(theory.shaped_loss, SQUARE, n=N, covariance=jnp.eye(D - 1)),
    "flow.integrate": case(lambda y: flow.integrate(velocity, y, TIMES), normal(2, 2)),
    "moments.quartic_loss": case(
        lambda layer, square: moments.quartic_loss(layer, quartic(square)), SQUARE, normal(D**6)
    ),
    "moments.sampled_quartic": case(
        lambda x: moments.sampled_quartic(x * TURNS[None]), normal(2, LENGTH, D)
    ),
    "measures.mean_loss": case(lambda w: measures.mean_loss(model_of(w), TASKS), LAYER),
    "measures.sensitivity": case(lambda w: measures.sensitivity(model_of(w), TASK), LAYER),
    "measures.alignment": case(
        lambda w: measures.alignment(model_of(w), lambda t: t.x_query @ W0.T, TASKS), LAYER
    ),
    "measures.token_losses": case(measures.token_losses, MODEL, sequence=SEQUENCE),
    "measures.mean_token_losses": case(measures.mean_token_losses, MODEL, sequences=SEQUENCE[None]),
    "measures.mean_prefix_matching": case(
        measures.mean_prefix_matching, MODEL, sequences=SEQUENCE[None]
    ),
    "measures.ablated_losses": case(
        measures.ablated_losses, MODEL, sequences=SEQUENCE[None], kind="mean"
    ),
    "measures.token_sensitivity": case(
        lambda w, prompts: measures.token_sensitivity(
            partial(attention.linear_attention, w), prompts
        ),
        LAYER,
        jax.vmap(tokens.join)(TASKS),
    ),
    "descent.loss": case(descent.loss, W0, TASK.x, TASK.y),
    "descent.gradient": case(descent.gradient, W0, TASK.x, TASK.y),
    "descent.gradient_descent": case(
        descent.gradient_descent, W0, TASK.x, TASK.y, eta=0.1, steps=3
    ),
    "descent.predict": case(lambda w, task: descent.predict(task, 0.1, 3, w), W0, TASK),
    "descent.gd_plus_plus": case(descent.gd_plus_plus, *TASK[:2], TASK.x_query, *SCHEDULE),
    "descent.running_least_squares": case(descent.running_least_squares, normal(LENGTH, D)),
    "tasks.regression": case(
        lambda scale: tasks.regression(jax.random.key(0), N, D, OUTPUTS, target_scale=scale),
        jnp.ones(()),
    ),
    "tokens.join": case(tokens.join, TASK, W0),
}

# Functions without products. What NumPy computes is computed by the processor.
WITHOUT = {
    "theory.uniform_moments": lambda: theory.uniform_moments(1.0),
    "theory.best_step": lambda: theory.best_step(N, D, MOMENTS),
    "theory.gd_loss": lambda: theory.gd_loss(jnp.ones(2), N, D, MOMENTS),
    "theory.odd_map": lambda: theory.odd_map(Products(normal(D, D), normal(D, D))),
    "theory.best_centred_step": lambda: theory.best_centred_step(N, D, MOMENTS),
    "theory.centred_loss": lambda: theory.centred_loss(jnp.ones(2), N, D, MOMENTS),
    "theory.unlearned": lambda: theory.unlearned(normal(D), SCHEDULE),
    "theory.spectral_loss": lambda: theory.spectral_loss(normal(D), SCHEDULE, MOMENTS),
    "theory.best_steps": lambda: theory.best_steps(SPECTRA, 2),
    "theory.triple_angle": lambda: theory.triple_angle(1.0, 2),
    # SciPy asks for values, so that only what it asks for can be traced.
    "theory.best_schedule": lambda: theory._log_loss_and_slope(SPECTRA, SCHEDULE),
    "moments.independent": lambda: moments.independent(1.0, 3.0, 15.0)((2, 4)),
    "moments.one_hot": lambda: moments.one_hot()((2, 0)),
    "moments.ones": lambda: moments.ones((2, 4)),
    "moments.kappas": lambda: moments.kappas(moments.ones, D),
    "flow.crosstalk": lambda: flow.crosstalk(LENGTH),
    "flow.limit": lambda: flow.limit(LENGTH, LAW),
    "flow.loss_at": lambda: flow.loss_at(jnp.ones(2), np.array(3), D, LAW),
    "flow.diagonal_loss": lambda: flow.diagonal_loss(jnp.ones(2), LENGTH, D, LAW),
    "flow.diagonal_flow": lambda: flow.diagonal_flow((1.0, 1.0), LENGTH, LAW),
    "flow.logistic": lambda: flow.logistic(jnp.ones(2), 0.1, LENGTH, LAW),
    "moments.scaled": lambda: moments.scaled(quartic(normal(D**6)), 2.0),
    "moments.exact_quartic": lambda: moments.exact_quartic(LENGTH, D, moments.ones),
    "measures.prefix_matching": lambda: measures.prefix_matching(PATTERNS, SEQUENCE),
    "measures.copying_score": lambda: measures.copying_score(jax.tree.map(np.asarray, MODEL)),
    "measures.sequence_errors": lambda: measures.sequence_errors(TURNS, TURNS[1:]),
    "measures.in_context_score": lambda: measures.in_context_score(normal(20)),
    "descent.running_step": lambda: descent.running_step(TURNS, 0.1),
    "tasks.batch": lambda: tasks.batch(jax.random.normal, jax.random.key(0), 3),
    "tasks.uniform": lambda: tasks.uniform(jax.random.key(0), N, D),
    "tasks.normalised": lambda: tasks.normalised(jax.random.key(0), N, D),
    "tasks.noisy_labels": lambda: tasks.noisy_labels(jax.random.key(0), TASK, 2),
    "tasks.sine": lambda: tasks.sine(jax.random.key(0), N),
    "tasks.autoregressive": lambda: tasks.autoregressive(jax.random.key(0), LENGTH, D),
    "tasks.one_hot_start": lambda: tasks.one_hot_start(jax.random.key(0), (D,)),
    "tasks.sign_start": lambda: tasks.sign_start(jax.random.key(0), (D,)),
    "tasks.ones_start": lambda: tasks.ones_start(jax.random.key(0), (D,)),
    "tasks.repeated": lambda: tasks.repeated(jax.random.key(0), 9, distinct=True, length=4),
    "tokens.prediction": lambda: tokens.prediction(tokens.join(TASK), OUTPUTS),
    "tokens.reader": lambda: tokens.reader(lambda prompt: prompt)(TASK),
    "tokens.pair": lambda: tokens.pair(TURNS),
    "tokens.positions": lambda: tokens.positions(N, 4),
    "tokens.separate": lambda: tokens.separate(TASK),
    "tokens.separate_published": lambda: tokens.separate_published(TASK),
}  # fmt: skip

# Forward passes and training.
FOLLOWING = {
    "attention.products": lambda: attention.products(WEIGHTS),
    "attention.predict": lambda: attention.predict([LAYER, LAYER], TASK),
    "fast.by_gram": lambda: fast.by_gram([LAYER], TASK),
    "fast.batch": lambda: fast.batch([LAYER] * 2, TASKS),
    "attention.softmax_attention": lambda: attention.softmax_attention(LAYER, tokens.join(TASK)),
    "attention.roll_out": lambda: attention.roll_out(LAYER, TASK, 2),
    "fast.causal_prefix": lambda: fast.causal_prefix(PAIRS, tokens.pair(TURNS)),
    "fast.causal_recurrent": lambda: fast.causal_recurrent(PAIRS, tokens.pair(TURNS)),
    "induction.forward": lambda: induction.forward(MODEL, SEQUENCE),
    "real.run": lambda: real.run(LLAMA, SEQUENCE),
    "training.fit": lambda: training.fit(
        lambda layer, key: jnp.sum(predict(layer, TASK)),
        jax.tree.map(lambda w: w[None], LAYER), jax.random.key(0), optax.sgd(0.1), 2, 1,
    ).losses,
}  # fmt: skip


def public(module):
    short = module.__name__.split(".")[1]
    for name, function in vars(module).items():
        own = inspect.isfunction(function) and function.__module__ == module.__name__
        if own and not name.startswith("_"):
            yield f"{short}.{name}"


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def asked(function, *arguments):
    """What each factor of each product of a function asks for, as the function is traced now."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    found = [e for e in equations(jaxpr) if "precision" in e.params]
    assert {e.primitive.name for e in found} <= {"dot_general"}
    return [p for e in found for p in (e.params["precision"] or (None, None))]


def slopes(function):
    """The derivatives of a function by all its arguments, backwards."""

    def total(*arguments):
        return sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(function(*arguments)))

    return lambda *arguments: jax.grad(total, range(len(arguments)))(*arguments)


def forwards(function):
    """The derivative along the arguments themselves."""
    return lambda *arguments: jax.jvp(function, arguments, arguments)


def batched(function):
    twice = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)
    return lambda *arguments: jax.vmap(function)(*twice(arguments))


TRANSFORMS = {
    "itself": lambda function: function,
    "jvp": forwards,
    "grad": slopes,
    "vmap of grad of jit": lambda function: batched(slopes(jax.jit(function))),
}


def test_every_function_has_a_case():
    modules = theory, moments, flow, measures, descent, tasks, tokens
    cases = [*EXACT, *WITHOUT, "flow.descend"]
    assert sorted(cases) == sorted(name for module in modules for name in public(module))


@pytest.mark.parametrize("how", TRANSFORMS)
@pytest.mark.parametrize("name", EXACT)
def test_products_are_exact_under_every_setting(name, how):
    function, arguments = EXACT[name]
    changed = TRANSFORMS[how](function)
    for setting in SETTINGS:  # whatever is kept from one does not serve another
        with jax.default_matmul_precision(setting):
            precisions = asked(changed, *arguments)
        assert precisions
        assert set(precisions) == {Precision.HIGHEST}, setting


@pytest.mark.parametrize("setting", SETTINGS)
def test_descend_evaluates_its_loss_exactly(setting):
    """It looks at values, so it is not traced as a whole: its loss tells under what it is."""
    precisions = []

    def loss(w):
        value = lambda w: jnp.sum((TASK.x @ w) ** 2)
        precisions.extend(asked(jax.value_and_grad(value), w))
        return value(w)

    with jax.default_matmul_precision(setting):
        flow.descend(loss, normal(1, D), jnp.array([0.1]), 2)
    assert set(precisions) == {Precision.HIGHEST}


@pytest.mark.parametrize("name", WITHOUT)
def test_others_have_no_products(name):
    assert asked(WITHOUT[name]) == []


@pytest.mark.parametrize("name", FOLLOWING)
def test_forward_passes_follow_the_caller(name):
    for setting in [*SETTINGS, "highest"]:
        with jax.default_matmul_precision(setting):
            precisions, own = asked(FOLLOWING[name]), asked(jnp.dot, W0[0], W0[0])
        assert precisions
        assert set(precisions) == set(own), setting


def test_a_caller_gets_its_setting_back():
    """Also where the function raises."""
    with jax.default_matmul_precision("bfloat16"):
        before = asked(jnp.dot, W0[0], W0[0])
        descent.loss(W0, TASK.x, TASK.y)
        with pytest.raises(ZeroDivisionError):
            exact(lambda: 1 / 0)()
        assert asked(jnp.dot, W0[0], W0[0]) == before == [Precision.DEFAULT] * 2


@pytest.mark.parametrize(
    "script, name", [("scripts/reproduce.py", "__main__"), ("benchmarks/timing.py", "timing")]
)
def test_records_ask_for_exact_products(monkeypatch, script, name):
    begun = []
    monkeypatch.setattr(setup, "begin", lambda: begun.append(script))
    monkeypatch.setattr(sys, "argv", [script, "no such run"])
    try:
        runpy.run_path(str(Path(__file__).parents[1] / script), run_name=name)
    except SystemExit as end:
        assert "no such run" in str(end)
    assert begun == [script]


def test_a_card_is_asked_for_one_kernel_a_product(monkeypatch):
    """What the reader has set stays, and nothing is set for a JAX that may not know the flags."""
    theirs = "--xla_gpu_autotune_level=4 --xla_dump_to=here"
    monkeypatch.setenv("XLA_FLAGS", theirs)
    monkeypatch.setattr(setup, "_TRIED", False)
    setup.cublas()
    assert os.environ["XLA_FLAGS"] == theirs
    monkeypatch.setattr(setup, "_TRIED", True)
    for _ in range(2):
        setup.cublas()
        assert os.environ["XLA_FLAGS"] == f"{theirs} --xla_gpu_enable_triton_gemm=false"


THREEFRY = {  # words of counter and key, and what they become: Random123's known answers
    (0x00000000, 0x00000000, 0x00000000, 0x00000000): (0x6B200159, 0x99BA4EFE),
    (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF): (0x1CB996FC, 0xBB002BE7),
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344): (0xC4923A9C, 0x483DF7A0),
}


@pytest.mark.parametrize("words", THREEFRY)
def test_threefry_gives_the_known_answers(words):
    *counter, key1, key2 = map(np.uint32, words)
    found = setup.threefry(*map(jnp.asarray, (key1, key2, *counter)))
    assert tuple(map(int, found)) == THREEFRY[words]


def test_random_bits_are_jaxs_own():
    """Of both widths, of many keys, in both layouts, and in keys made of others."""
    program = (
        "import jax, numpy as np\n"
        "from icl_gd.book import setup\n"
        "def drawn():\n"
        "    keys = jax.random.split(jax.random.key(3), 5)\n"
        "    for layout in (True, False):\n"
        "        with jax.threefry_partitionable(layout):\n"
        "            for width in ('uint32', 'uint64'):\n"
        "                one = lambda key: jax.random.bits(key, (3, 7), width)\n"
        "                yield jax.vmap(one)(keys)\n"
        "            yield jax.random.key_data(jax.random.fold_in(keys[1], 4))\n"
        "setup.jax.config.update('jax_enable_x64', True)\n"
        "with_a_loop = [*drawn()]\n"
        "assert 'while' in jax.jit(jax.random.bits).lower(jax.random.key(0)).as_text()\n"
        "setup.unrolled(), jax.clear_caches()\n"
        "assert 'while' not in jax.jit(jax.random.bits).lower(jax.random.key(0)).as_text()\n"
        "for a, b in zip(with_a_loop, drawn(), strict=True):\n"
        "    np.testing.assert_array_equal(a, b)\n"
    )
    on_a_processor = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=on_a_processor)


@pytest.mark.parametrize("processor", [False, True])
def test_a_page_can_ask_for_the_processor(processor):
    """Two processors stand in for a GPU and a processor, the second of which is asked for."""
    program = (
        "import jax\n"
        "from icl_gd.book import setup\n"
        "jax.config.update('jax_num_cpu_devices', 2)\n"
        "devices = jax.devices\n"
        "jax.devices = lambda kind=None: devices()[::-1] if kind == 'cpu' else devices()\n"
        f"setup.begin(processor={processor})\n"
        "x = jax.numpy.arange(3.0) + 1\n"
        f"assert x.devices() == {{devices()[{int(processor)}]}}, x.devices()\n"
        "setup.begin()\n"
        "assert jax.numpy.ones(3).devices() == {devices()[0]}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_flags_come_before_the_devices():
    """A page's first cell imports the package and begins; devices are looked for after that."""
    program = (
        "import importlib, pkgutil, icl_gd\n"
        "from icl_gd.book import setup\n"
        "from jax._src import xla_bridge\n"
        "for module in pkgutil.iter_modules(icl_gd.__path__):\n"
        "    importlib.import_module(f'icl_gd.{module.name}')\n"
        "setup.begin()\n"
        "assert not xla_bridge._backends, 'devices were looked for'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
