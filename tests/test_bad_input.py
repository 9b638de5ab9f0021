"""A user's mistakes, one a line: which error says what was given and what was expected."""

import re

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import optax
import pytest
from problems import a_layer, a_task

from icl_gd import (
    attention,
    constructions,
    corpus,
    curves,
    descent,
    fast,
    flow,
    induction,
    measures,
    moments,
    online,
    real,
    tasks,
    theory,
    tokens,
    training,
)
from icl_gd.attention import Products
from icl_gd.book import setup
from icl_gd.theory import Schedule

KEY = jax.random.key(0)
TASK, LAYER = a_task(0, 3, 2, 1), a_layer(0, 3)  # N = 3, d = 2, one output
BATCH = jax.tree.map(lambda a: np.stack([a, 2 * a]), TASK)
PROMPT = tokens.join(TASK)
W0, INFINITE = np.zeros((1, 2)), np.array([[1.0, np.inf]])
MOMENTS, IMPOSSIBLE = theory.uniform_moments(), theory.Moments(0.5, 0.24)
STEPS = Schedule(np.array([0.1, 0.2]), np.array([0.05, 0.0]))
SPECTRA = np.array([[0.5, 1.0], [2.0, 3.0]])
LAW = moments.Kappas(1.0, 1.0, 1.0, 1.0)
CIRCUIT = constructions.induction_circuit(3, 4)
SEQUENCE = np.array([0, 2, 1, 2])
PAIRS = {"keys": np.ones((4, 2)), "values": np.ones((4, 3)), "beta": 0.5}
READ = {"queries": np.ones((4, 2)), **PAIRS}
UNIT = curves.unit(2)
LLAMA = llamas.a_model()
FEATURES = training.initialise_features(jax.random.key(2), 3, 4)

# What works, by function; every mistake below changes it a little.
GOOD = {
    tasks.batch: {"sample": jax.random.normal, "key": KEY, "count": 2},
    tasks.uniform: {"key": KEY, "n": 1, "d": 1},
    tasks.normalised: {"key": KEY, "n": 2, "d": 1},
    tasks.regression: {"key": KEY, "n": 1, "d": 1},
    tasks.noisy_labels: {"key": KEY, "task": TASK, "count": 3},
    tasks.sine: {"key": KEY, "n": 1},
    tasks.autoregressive: {"key": KEY, "length": 1, "d": 1},
    tasks.repeated: {"key": KEY, "vocabulary": 2, "length": 1, "repeats": 1},
    corpus.byte_pairs: {"text": b"abab", "merges": 1},
    corpus.encode: {"text": b"abc", "pairs": np.array([[97, 98]])},
    corpus.spellings: {"pairs": np.array([[97, 98]])},
    corpus.window: {"key": KEY, "tokens": SEQUENCE, "length": 4},
    corpus.tiled: {"key": KEY, "tokens": SEQUENCE},
    corpus.mixed: {"key": KEY, "tokens": SEQUENCE, "length": 5, "share": 1},
    corpus.in_windows: {"tokens": SEQUENCE, "length": 2},
    corpus.random_repeats: {"key": KEY, "vocabulary": 2, "length": 5},
    corpus.class_repeats: {"key": KEY, "classes": 2, "members": 1, "length": 5},
    corpus.repeated_pairs: {"key": KEY, "merges": 1},
    tokens.join: {"task": TASK, "w0": W0},
    tokens.prediction: {"prompt": PROMPT, "outputs": 2},
    tokens.pair: {"x": np.ones((2, 2))},
    tokens.positions: {"length": 1, "channels": 2},
    tokens.separate: {"task": TASK},
    tokens.separate_published: {"task": TASK},
    attention.linear_attention: {"layer": LAYER, "prompt": PROMPT},
    attention.softmax_attention: {"layer": LAYER, "prompt": PROMPT},
    attention.layer_norm: {"norm": attention.Norm(np.ones(3), np.zeros(3)), "e": np.ones(3)},
    attention.forward: {"layers": [LAYER], "prompt": PROMPT, "clip": 1.0},
    attention.predict: {"layers": [LAYER], "task": TASK, "w0": W0},
    attention.roll_out: {"layer": LAYER, "task": TASK, "steps": 1},
    attention.causal_quadratic: {"layer": LAYER, "e": np.ones((2, 3))},
    fast.causal_prefix: {"layer": LAYER, "e": np.ones((2, 3))},
    fast.causal_recurrent: {"layer": LAYER, "e": np.ones((2, 3))},
    fast.batch: {"layers": [LAYER], "tasks": BATCH, "clip": 1.0},
    fast.features: {"weights": FEATURES, "layer": a_layer(0, 4), "task": TASK},
    online.states: {"rule": online.DELTA, "alpha": 0.9, **PAIRS},
    online.outputs: {"rule": online.DELTA, "start": np.zeros((3, 2)), **READ},
    online.mesa: {"queries": np.ones((4, 2)), "keys": PAIRS["keys"], "values": PAIRS["values"],
                  "ridge": 1.0},
    online.chunkwise: {"chunk": 2, **READ},
    real.run: {"model": LLAMA, "tokens": SEQUENCE, "keep": np.ones((2, 1, 2))},
    real.through: {"model": LLAMA, "stream": np.ones((4, 6)), "first": 1, "last": 2},
    real.turns: {"positions": 4, "size": 2, "base": 100.0},
    real.Tokenizer: {"meta": llamas.a_llama()[0]},
    induction.forward: {"model": CIRCUIT, "sequence": SEQUENCE},
    descent.loss: {"w": W0, "x": TASK.x, "y": TASK.y},
    descent.gradient: {"w": W0, "x": TASK.x, "y": TASK.y},
    descent.gradient_descent: {"w0": W0, "x": TASK.x, "y": TASK.y, "eta": 0.1, "steps": 1},
    descent.predict: {"task": TASK, "eta": 0.1, "w0": W0},
    descent.gd_plus_plus: {
        "x": TASK.x, "y": TASK.y, "x_query": TASK.x_query, "rate": STEPS.rate, "gamma": STEPS.gamma
    },
    descent.running_step: {"x": np.ones((2, 1)), "eta": 0.1},
    constructions.gradient_step: {"eta": 0.1, "n": 1, "w0": W0},
    constructions.softmax_step: {"eta": 0.1, "w0": W0, "beta": 1.0},
    constructions.gd_plus_plus: {"rate": 0.1, "gamma": 0.1, "d": 1},
    constructions.balance: {"layer": LAYER, "d": 3},
    constructions.interpolate: {"trained": LAYER, "constructed": LAYER, "d": 1},
    constructions.autoregressive_step: {"a": 1.0, "b": 1.0, "d": 1},
    constructions.embed_blocks: {"a": np.eye(2), "b": np.eye(2)},
    constructions.copy_then_step: {"eta": 0.1, "n": 1, "d": 1},
    constructions.induction_circuit: {"vocabulary": 1, "reach": 2},
    theory.uniform_moments: {"input_range": 1.0},
    theory.best_step: {"n": 1, "d": 1, "moments": MOMENTS},
    theory.gd_loss: {"eta": 1.0, "n": 1, "d": 1, "moments": MOMENTS, "noisy": 1},
    theory.population_loss: {"layer": LAYER, "n": 1, "moments": MOMENTS},
    theory.preconditioner: {"n": 1, "covariance": np.eye(2)},
    theory.preconditioned_loss: {"step": np.eye(2), "n": 1, "covariance": np.eye(2)},
    theory.shaped_loss: {"layer": LAYER, "n": 1, "covariance": np.eye(len(LAYER.kq) - 1)},
    theory.best_centred_step: {"n": 2, "d": 1, "moments": MOMENTS},
    theory.centred_loss: {"eta": 1.0, "n": 2, "d": 1, "moments": MOMENTS},
    theory.unlearned: {"h": SPECTRA, "schedule": STEPS},
    theory.spectral_loss: {"spectrum": SPECTRA[0], "schedule": STEPS, "moments": MOMENTS},
    theory.best_steps: {"spectra": SPECTRA, "layers": 1},
    theory.triple_angle: {"edge": 1.0, "layers": 1},
    theory.best_schedule: {"spectra": SPECTRA, "start": STEPS},
    curves.gaussian: {"d": 1},
    curves.unit: {"d": 1},
    curves.learning_curve: {"rule": online.SUM, "law": UNIT, "beta": np.ones(3), "alpha": 1.0},
    curves.best_sum: {"t": 0, "law": UNIT, "noise": 0.0},
    curves.best_delta: {"length": 1, "law": UNIT},
    curves.best_decay: {"rho": 0.9, "law": UNIT},
    moments.independent: {"m2": 1, "m4": 1, "m6": 1},
    moments.one_hot: {"size": 1},
    moments.kappas: {"powers": moments.ones, "d": 1},
    moments.scaled: {"q": moments.exact_quartic(3, 1, moments.ones), "factor": 2.0},
    moments.exact_quartic: {"length": 3, "d": 1, "powers": moments.ones},
    moments.sampled_quartic: {"sequences": np.ones((4, 3, 1), complex)},
    moments.quartic_loss: {
        "layer": Products(np.eye(2), np.eye(2)), "q": moments.exact_quartic(3, 2, moments.ones)
    },
    flow.crosstalk: {"length": 3},
    flow.loss_at: {"ab": 0.5, "t": 2, "d": 1, "law": LAW},
    flow.diagonal_loss: {"ab": 0.5, "length": 3, "d": 1, "law": LAW},
    flow.logistic: {"time": 0.1, "start": 1.0, "length": 3, "law": LAW},
    flow.integrate: {
        "velocity": jnp.negative, "start": np.ones(1), "times": np.array([0.0, 1.0])
    },
    flow.descend: {
        "loss": lambda w: w**2, "start": np.ones(1), "rate": np.array([0.1]), "epochs": 1
    },
    training.initialise: {"key": KEY, "token": 1},
    training.initialise_features: {"key": KEY, "token": 1, "width": 1},
    training.initialise_transformer: {
        "key": KEY, "vocabulary": 1, "reach": 1, "layers": 1, "heads": 1, "width": 1
    },
    training.clipped_adam: {},
    training.accumulated: {"loss": lambda p, key: p, "parts": 1},
    training.fit: {
        "loss": lambda p, key: jnp.sum(p["w"] ** 2), "params": {"w": np.ones((2, 3))}, "key": KEY,
        "optimiser": optax.sgd(0.1), "steps": 2, "every": 1,
    },
    measures.mean_loss: {"model": lambda task: task.y_query, "tasks": BATCH},
    measures.alignment: {
        "model": lambda t: t.x_query[:1], "other": lambda t: 2 * t.x_query[:1], "tasks": BATCH
    },
    measures.prefix_matching: {"patterns": np.eye(4), "sequence": SEQUENCE},
    measures.copying_score: {"model": CIRCUIT},
    measures.in_context_score: {"losses": np.zeros(10)},
    measures.ablated_losses: {"model": CIRCUIT, "sequences": SEQUENCE[None], "kind": "zero"},
}  # fmt: skip

no_int = "must be int, got"
at_least = "must be at least {}, got {}".format
FINITE, POSITIVE = "must be finite, got", "must be positive, got"

# The change, and the error: "w0 must be ..." of what was changed, unless it names another.
BAD = [
    # shapes and types, by annotation: what is no JAX array of the right kind
    (descent.gradient_descent, {"w0": [[0.0, 0.0]]}, "must be Float[Array, 'outputs dim'], got [["),
    (descent.gradient_descent, {"w0": np.zeros((1, 2), int)}, "must be Float[Array, 'outputs dim'], got int64[1, 2]"),
    (descent.gradient_descent, {"w0": W0 + 0j}, "must be Float[Array, 'outputs dim'], got complex128[1, 2]"),
    (descent.gradient_descent, {"w0": None}, "must be Float[Array, 'outputs dim'], got None"),
    (descent.gradient_descent, {"w0": "zero"}, "must be Float[Array, 'outputs dim'], got 'zero'"),
    (descent.gradient_descent, {"w0": np.zeros((2, 1))}, "x must be Float[Array, 'context dim'], got float64[3, 2]"),
    (descent.gradient_descent, {"y": TASK.y[1:]}, "must be Float[Array, 'context outputs'], got float64[2, 1]"),
    (descent.gradient_descent, {"y": TASK.y[:, 0]}, "must be Float[Array, 'context outputs'], got float64[3]"),
    (descent.gradient_descent, {"eta": [0.1]}, "must be Real[Array, ''] | float | int, got [0.1]"),
    (descent.gradient_descent, {"eta": np.ones(2)}, "must be Real[Array, ''], got float64[2]"),
    (descent.gradient_descent, {"eta": 0.1j}, "must be Real[Array, ''] | float | int, got 0.1j"),
    (descent.gradient_descent, {"steps": 1.5}, f"{no_int} 1.5"),
    (descent.gradient_descent, {"steps": np.array(2)}, f"{no_int} int64[]"),
    (descent.predict, {"w0": np.zeros((2, 1))}, "must be Float[Array, 'outputs dim'], got float64[2, 1]; dim is 2 in task.x but 1 in w0; outputs is 1 in task.y but 2 in w0"),
    (descent.gd_plus_plus, {"rate": STEPS.rate[:1]}, "gamma must be Float[Array, 'steps'], got float64[2]"),
    (descent.loss, {"y": np.ones((3, 2))}, "must be Float[Array, 'context outputs'], got float64[3, 2]"),
    (descent.gradient, {"x": TASK.x_query}, "must be Float[Array, 'context dim'], got float64[2]"),
    (attention.predict, {"task": BATCH}, "task.x must be Float[Array, 'context dim'], got float64[2, 3, 2]"),
    (attention.predict, {"task": TASK._replace(y=TASK.y[1:])}, "task.y must be Float[Array, 'context outputs'], got float64[2, 1]"),
    (attention.predict, {"task": TASK._replace(x_query=TASK.x_query[:1])}, "task.x_query must be Float[Array, 'dim'], got float64[1]"),
    (attention.predict, {"task": PROMPT}, "must be Task, got Prompt(context=float64[3, 3], query=float64[3])"),
    (attention.predict, {"layers": [attention.Attention(*[np.eye(3)] * 4)]}, "layers[0] must be Products, got Attention("),
    (attention.predict, {"layers": LAYER}, "must be Sequence[Products], got Products(kq=float64[3, 3], pv=float64[3, 3])"),
    (attention.predict, {"layers": [a_layer(0, 4)]}, "prompt.context must be Float[Array, 'tokens token'], got float64[3, 3]; token is 4 in layers[0].kq but 3 in prompt.context"),
    (attention.predict, {"layers": [LAYER._replace(kq=[1.0])]}, "layers[0].kq must be Inexact[Array, 'token token'], got [1.0]"),
    (attention.linear_attention, {"layer": a_layer(0, 4)}, "prompt.context must be Float[Array, 'tokens token'], got float64[3, 3]"),
    (attention.linear_attention, {"layer": LAYER._replace(pv=np.ones((2, 3)))}, "what it returns must be Float[Array, '*tokens token'], got float64[3, 2]"),
    (attention.softmax_attention, {"layer": LAYER._replace(pv=1j * LAYER.pv)}, "what it returns must be Float[Array, '*tokens token'], got complex128[3, 3]"),
    (attention.layer_norm, {"e": np.ones(2)}, "must be Float[Array, 'token'], got float64[2]"),
    (fast.causal_prefix, {"e": np.ones((2, 2))}, "must be Inexact[Array, 'length token'], got float64[2, 2]"),
    (fast.batch, {"tasks": TASK}, "tasks.x must be Float[Array, 'tasks context dim'], got float64[3, 2]"),
    (fast.features, {"layer": a_layer(0, 3)}, "layer.kq must be Inexact[Array, 'token token'], got float64[3, 3]"),
    (constructions.embed_blocks, {"b": np.eye(3)}, "must be Inexact[Array, 'dim dim'], got float64[3, 3]"),
    (theory.unlearned, {"schedule": STEPS._replace(gamma=np.ones(3))}, "schedule.gamma must be Float[Array, 'layers'], got float64[3]"),
    (moments.quartic_loss, {"layer": Products(np.eye(3), np.ones((2, 3)))}, "q.square must be Inexact[Array, 'token token token token token token'], got"),
    (moments.quartic_loss, {"layer": Products(np.eye(2), np.ones((3, 2)))}, "q.cross must be Inexact[Array, 'written token token token'], got"),
    (online.states, {"values": np.ones((3, 3))}, "must be Float[Array, 'length outputs'], got float64[3, 3]"),
    (online.outputs, {"queries": np.ones((3, 2))}, "keys must be Float[Array, 'length dim'], got float64[4, 2]"),
    (online.chunkwise, {"keys": np.ones((4, 3))}, "must be Float[Array, 'length dim'], got float64[4, 3]"),
    (online.states, {"rule": (1, False, False)}, "must be Rule, got (1, False, False)"),
    (curves.learning_curve, {"beta": 0.5}, "must be Num[Array, 'length'], got 0.5"),
    (induction.forward, {"sequence": np.array([0.0, 1.0])}, "must be Int[Array, 'context'], got float64[2]"),
    (real.run, {"tokens": np.array([0.0, 1.0])}, "must be Int[Array, 'context'], got float64[2]"),
    (real.run, {"tokens": [0, 1]}, "must be Int[Array, 'context'], got [0, 1]"),
    (real.run, {"tokens": "the end"}, "must be Int[Array, 'context'], got 'the end'"),
    (real.run, {"keep": np.ones((1, 2))}, "must be Float[Array, 'layers groups heads'], got float64[1, 2]"),
    (real.run, {"keep": np.ones((2, 1, 2), int)}, "must be Float[Array, 'layers groups heads'], got int64[2, 1, 2]"),
    (real.run, {"keep": np.ones((3, 1, 2))}, "must be Float[Array, 'layers groups heads'], got float64[3, 1, 2]; layers is 2 in model.layers.norm but 3 in keep"),
    (real.run, {"instead": np.ones((2, 1, 2, 3))}, "must be Float[Array, 'layers groups heads size'], got float64[2, 1, 2, 3]"),
    (real.run, {"model": LLAMA._replace(norm=np.ones(5))}, "model.norm must be Float[Array, 'width'], got float64[5]"),
    (real.through, {"stream": np.ones((4, 5))}, "must be Float[Array, 'context width'], got float64[4, 5]"),
    (induction.forward, {"sequence": ["the", "end"]}, "must be Int[Array, 'context'], got ["),
    (induction.forward, {"model": CIRCUIT._replace(embed=np.ones((4, 3)))}, "model.heads.query must be Float[Array, 'layers heads size width'], got float64[2, 1, 3, 9]"),
    (tasks.regression, {"key": np.zeros(2, np.uint32)}, "must be Key[Array, ''], got uint32[2]"),
    (tasks.regression, {"inputs": lambda key, n, d: np.ones((n - 1, d))}, "what it returns must be Float[Array, '{n} {d}'], got float64[1, 1]\nin icl_gd.tasks.regression.<locals>.law"),
    (tasks.regression, {"d": "ten"}, f"{no_int} 'ten'"),
    (training.fit, {"key": jax.random.split(jax.random.key(1), 3)}, "must be Key[Array, ''] | Key[Array, 'seeds'], got key<fry>[3]"),
    (training.fit, {"params": {"w": np.ones((2, 3)), "b": np.ones(1)}}, "params['w'] must be Inexact[Array, 'seeds ...'], got float64[2, 3]; seeds is 1 in params['b'] but 2 in params['w']"),
    (training.fit, {"params": {"w": np.ones((2, 3), int)}}, "params['w'] must be Inexact[Array, 'seeds ...'], got int64[2, 3]\n"),
    (flow.descend, {"rate": np.array([0.1, 0.2])}, "must be Float[Array, 'runs'], got float64[2]"),
    (flow.integrate, {"times": [0.0, 1.0]}, "must be Float[Array, 'times'], got [0.0, 1.0]"),
    (measures.mean_loss, {"model": lambda task: task.y_query[0]}, "prediction must be Float[Array, 'outputs'], got float64[]"),
    (measures.mean_loss, {"tasks": TASK}, "tasks.x must be Float[Array, 'tasks context dim'], got"),
    (measures.alignment, {"tasks": TASK}, "tasks.x must be Float[Array, 'tasks context dim'], got"),
    (measures.prefix_matching, {"patterns": np.zeros((2, 3, 4))}, "must be Float[Array, '*heads context context'], got"),
    (measures.ablated_losses, {"kind": "other"}, "must be Literal['zero', 'mean', 'patterns'], got 'other'"),
    # arrays of two types in a scan
    (descent.gradient_descent, {"w0": W0.astype("float32")}, "must be of float64, as what it is combined with, got float32"),
    (descent.gd_plus_plus, {"x": np.float32(TASK.x)}, "must be of float64, as what it is combined with, got float32"),
    (online.outputs, {"start": np.zeros((3, 2), "float32")}, "must be of float64, as what it is combined with, got float32"),
    (real.through, {"stream": np.ones((4, 6), "float32")}, "must be of float64, as what it is combined with, got float32"),
    (attention.roll_out, {"task": jax.tree.map(np.float32, TASK)}, "must be of float64, as what it is combined with, got float32"),
    (theory.unlearned, {"h": np.float32(SPECTRA)}, "must be of float64, as what it is combined with, got float32"),
    (flow.integrate, {"start": np.ones(1, "float32")}, "must be of float64, as what it is combined with, got float32"),
    (flow.descend, {"start": np.ones(1, "complex64")}, "must be of complex128, as what it is combined with, got complex64"),
    # numbers
    (tasks.batch, {"count": 0}, at_least(1, 0)),
    (tasks.uniform, {"n": 0}, at_least(1, 0)),
    (tasks.uniform, {"d": 0}, at_least(1, 0)),
    (tasks.uniform, {"input_range": 0}, f"{POSITIVE} 0"),
    (tasks.normalised, {"n": 1}, at_least(2, 1)),
    (tasks.normalised, {"d": 0}, at_least(1, 0)),
    (tasks.normalised, {"scale": -1.0}, f"{POSITIVE} -1.0"),
    (tasks.normalised, {"law": "laplace"}, "must be Callable | None, got 'laplace'"),
    (tasks.normalised, {"law": lambda key, shape: np.ones((3, 1))}, "what it returns must be Float[Array, '{n} {d}'], got float64[3, 1]"),
    (tasks.regression, {"n": 0}, at_least(1, 0)),
    (tasks.regression, {"d": 0}, at_least(1, 0)),
    (tasks.regression, {"outputs": 0}, at_least(1, 0)),
    (tasks.regression, {"target_scale": np.nan}, f"{FINITE} nan"),
    (tasks.noisy_labels, {"count": -1}, "must be between 0 and 3, got -1"),
    (tasks.noisy_labels, {"count": 4}, "must be between 0 and 3, got 4"),
    (tasks.sine, {"n": 0}, at_least(1, 0)),
    (tasks.autoregressive, {"length": 0}, at_least(1, 0)),
    (tasks.autoregressive, {"d": 0}, at_least(1, 0)),
    (tasks.repeated, {"vocabulary": 1}, at_least(2, 1)),
    (tasks.repeated, {"length": 0}, at_least(1, 0)),
    (tasks.repeated, {"repeats": 0}, at_least(1, 0)),
    (tasks.repeated, {"vocabulary": 5, "length": 5, "distinct": True}, at_least(6, 5)),
    (corpus.byte_pairs, {"merges": 0}, at_least(1, 0)),
    (corpus.byte_pairs, {"merges": 9}, "text must have pairs for 9 merges, it had 2"),
    (corpus.spellings, {"pairs": np.array([[-1, 97]])}, "pairs[0] must be tokens from 0 to 255, got [-1 97]"),
    (corpus.encode, {"pairs": np.array([[97, 98], [257, 99]])}, "pairs[1] must be tokens from 0 to 256, got [257  99]"),
    (corpus.window, {"length": 0}, "must be between 1 and 4, got 0"),
    (corpus.window, {"length": 5}, "must be between 1 and 4, got 5"),
    (corpus.tiled, {"tokens": SEQUENCE[1:]}, f"n {at_least(4, 3)}"),
    (corpus.mixed, {"length": 6}, "must be between 1 and 4, got 5"),
    (corpus.mixed, {"length": 4}, f"n {at_least(4, 3)}"),
    (corpus.in_windows, {"length": 1}, at_least(2, 1)),
    (corpus.random_repeats, {"vocabulary": 1}, at_least(2, 1)),
    (corpus.random_repeats, {"length": 4}, at_least(5, 4)),
    (corpus.class_repeats, {"classes": 1}, at_least(2, 1)),
    (corpus.class_repeats, {"members": 0}, at_least(1, 0)),
    (corpus.class_repeats, {"length": 4}, at_least(5, 4)),
    (corpus.repeated_pairs, {"merges": 0}, at_least(1, 0)),
    (tokens.join, {"w0": INFINITE}, FINITE),
    (tokens.prediction, {"outputs": 0}, "must be between 1 and 2, got 0"),
    (tokens.prediction, {"outputs": 3}, "must be between 1 and 2, got 3"),
    (tokens.positions, {"length": 0}, at_least(1, 0)),
    (tokens.positions, {"channels": 0}, at_least(1, 0)),
    (tokens.positions, {"channels": 3}, "must be even, got 3"),
    (tokens.separate_published, {"task": a_task(0, 3, 1, 2)}, "outputs must be between 1 and 1, got 2"),
    (attention.forward, {"clip": 0.0}, POSITIVE),
    (attention.roll_out, {"steps": 0}, at_least(1, 0)),
    (attention.roll_out, {"damping": 0.0}, POSITIVE),
    (fast.batch, {"clip": 0.0}, POSITIVE),
    (online.states, {"rule": online.Rule(batch=0)}, f"batch {at_least(1, 0)}"),
    (online.states, {"rule": online.Rule(batch=2, implicit=True)}, "a rule with implicit or metric must have batch 1, and one with metric must be implicit, got Rule(batch=2, implicit=True, metric=False)"),
    (online.states, {"rule": online.Rule(metric=True)}, "a rule with implicit or metric must have batch 1, and one with metric must be implicit, got"),
    (online.states, {"beta": np.nan}, FINITE),
    (online.states, {"beta": np.ones(3)}, "must be one number or 4, one for a pair, got shape (3,)"),
    (online.states, {"alpha": np.ones((4, 1))}, "must be one number or 4, one for a pair, got shape (4, 1)"),
    (online.states, {"alpha": -0.1}, at_least(0, -0.1)),
    (online.states, {"alpha": np.inf}, f"{FINITE} inf"),
    (online.outputs, {"rule": online.LEAST_SQUARES, "beta": np.ones(4)}, "beta must be one number for a rule with metric, got several"),
    (online.outputs, {"rule": online.LEAST_SQUARES, "beta": 0.0}, f"beta {POSITIVE} 0.0"),
    (online.outputs, {"rule": online.LEAST_SQUARES, "alpha": 0.0}, f"alpha {POSITIVE} 0.0"),
    (online.mesa, {"ridge": 0.0}, POSITIVE),
    (online.mesa, {"gamma": -0.1}, "must be between 0 and 1, got -0.1"),
    (online.chunkwise, {"chunk": 0}, at_least(1, 0)),
    (online.chunkwise, {"chunk": 3}, "must divide length = 4, got 3"),
    (online.chunkwise, {"alpha": 0.0}, POSITIVE),
    (online.chunkwise, {"beta": np.ones(2)}, "must be one number or 4, one for a pair, got shape (2,)"),
    (curves.gaussian, {"d": 0}, at_least(1, 0)),
    (curves.unit, {"d": 0}, at_least(1, 0)),
    (curves.learning_curve, {"rule": online.PROXIMAL}, "must be online.SUM or online.DELTA, got Rule(batch=1, implicit=True, metric=False)"),
    (curves.learning_curve, {"law": curves.Law(0.0, 1.0)}, f"m {POSITIVE} 0.0"),
    (curves.learning_curve, {"law": curves.Law(1.0, np.inf)}, f"c {FINITE} inf"),
    (curves.learning_curve, {"beta": np.array([np.nan])}, FINITE),
    (curves.learning_curve, {"alpha": np.nan}, f"{FINITE} nan"),
    (curves.learning_curve, {"noise": -1.0}, at_least(0, -1.0)),
    (curves.learning_curve, {"rho": 1.5}, "must be between 0 and 1, got 1.5"),
    (curves.best_sum, {"t": -1}, at_least(0, -1)),
    (curves.best_sum, {"noise": -1.0}, at_least(0, -1.0)),
    (curves.best_delta, {"length": 0}, at_least(1, 0)),
    (curves.best_delta, {"rho": -0.5}, "must be between 0 and 1, got -0.5"),
    (curves.best_decay, {"rho": 0.0}, POSITIVE),
    (curves.best_decay, {"law": curves.Law(1.0, -1.0)}, f"c {POSITIVE} -1.0"),
    (curves.best_sum, {"law": curves.unit(1)}, f"c + noise m - m^2 {POSITIVE} 0.0"),
    (curves.best_delta, {"law": curves.unit(1)}, f"c + noise m - m^2 {POSITIVE} 0.0"),
    (curves.best_decay, {"law": curves.unit(1)}, f"c + noise m - m^2 {POSITIVE} 0.0"),
    (induction.forward, {"sequence": np.array([0, 3])}, "must be between 0 and 2, got [0 3]"),
    (induction.forward, {"sequence": np.array([0, -1])}, "must be between 0 and 2, got [ 0 -1]"),
    (induction.forward, {"sequence": np.array([0, 1, 2, 1, 2])}, "context must be between 1 and 4, got 5"),
    (real.run, {"tokens": np.array([0, 8])}, "must be between 0 and 7, got [0 8]"),
    (real.run, {"tokens": np.array([-1])}, "must be between 0 and 7, got [-1]"),
    (real.run, {"tokens": np.zeros(17, int)}, "context must be between 1 and 16, got 17"),
    (real.run, {"tokens": np.zeros(0, int)}, "context must be between 1 and 16, got 0"),
    (real.run, {"keep": np.full((2, 1, 2), 1.5)}, "must be between 0 and 1, got"),
    (real.run, {"keep": np.full((2, 1, 2), np.nan)}, "must be between 0 and 1, got"),
    (real.through, {"last": 3}, "must be between 0 and 2, got 3"),
    (real.through, {"first": 3}, "must be between 0 and 2, got 3"),
    (real.through, {"first": -1}, "must be between 0 and 2, got -1"),
    (descent.gradient_descent, {"steps": 0}, at_least(1, 0)),
    (descent.gradient_descent, {"eta": np.nan}, f"{FINITE} nan"),
    (descent.gd_plus_plus, {"rate": np.array([0.1, np.inf])}, FINITE),
    (descent.gd_plus_plus, {"gamma": np.array([0.1, np.nan])}, FINITE),
    (descent.running_step, {"eta": np.inf}, FINITE),
    (constructions.gradient_step, {"n": 0}, at_least(1, 0)),
    (constructions.gradient_step, {"eta": np.nan}, FINITE),
    (constructions.gradient_step, {"w0": INFINITE}, FINITE),
    (constructions.softmax_step, {"beta": 0.0}, POSITIVE),
    (constructions.softmax_step, {"eta": np.nan}, FINITE),
    (constructions.gd_plus_plus, {"d": 0}, at_least(1, 0)),
    (constructions.gd_plus_plus, {"outputs": 0}, at_least(1, 0)),
    (constructions.gd_plus_plus, {"rate": np.nan}, FINITE),
    (constructions.gd_plus_plus, {"gamma": np.inf}, FINITE),
    (constructions.balance, {"d": 0}, "must be between 1 and 3, got 0"),
    (constructions.interpolate, {"d": 4}, "must be between 1 and 3, got 4"),
    (constructions.autoregressive_step, {"a": np.nan}, FINITE),
    (constructions.autoregressive_step, {"b": np.inf}, FINITE),
    (constructions.autoregressive_step, {"d": 0}, at_least(1, 0)),
    (constructions.copy_then_step, {"d": 0}, at_least(1, 0)),
    (constructions.copy_then_step, {"sharpness": 0.0}, POSITIVE),
    (constructions.induction_circuit, {"vocabulary": 0}, at_least(1, 0)),
    (constructions.induction_circuit, {"reach": 1}, at_least(2, 1)),
    (constructions.induction_circuit, {"sharpness": -1.0}, POSITIVE),
    (theory.uniform_moments, {"input_range": 0.0}, POSITIVE),
    (theory.uniform_moments, {"input_range": np.inf}, FINITE),
    (theory.best_step, {"n": 0}, at_least(1, 0)),
    (theory.best_step, {"d": 0}, at_least(1, 0)),
    (theory.gd_loss, {"n": 0, "noisy": 0}, f"n {at_least(1, 0)}"),
    (theory.gd_loss, {"d": 0}, at_least(1, 0)),
    (theory.gd_loss, {"noisy": -1}, "must be between 0 and 1, got -1"),
    (theory.gd_loss, {"noisy": np.array([0, 2])}, "must be between 0 and 1, got [0 2]"),
    (theory.gd_loss, {"eta": np.inf}, FINITE),
    (theory.population_loss, {"n": 0}, at_least(1, 0)),
    (theory.preconditioner, {"n": 0}, at_least(1, 0)),
    (theory.preconditioner, {"covariance": np.full((2, 2), np.inf)}, f"covariance {FINITE}"),
    (theory.preconditioner, {"covariance": -np.eye(2)}, "covariance must be symmetric, without"),
    (theory.preconditioned_loss, {"n": 0}, at_least(1, 0)),
    (theory.preconditioned_loss, {"step": np.full((2, 2), np.nan)}, f"step {FINITE}"),
    (theory.shaped_loss, {"n": 0}, at_least(1, 0)),
    (theory.best_centred_step, {"n": 1}, at_least(2, 1)),
    (theory.centred_loss, {"d": 0}, at_least(1, 0)),
    (theory.centred_loss, {"eta": np.nan}, FINITE),
    (theory.unlearned, {"schedule": STEPS._replace(rate=np.full(2, np.nan))}, f"rate {FINITE}"),
    (theory.unlearned, {"schedule": STEPS._replace(gamma=np.full(2, np.inf))}, f"gamma {FINITE}"),
    (theory.best_steps, {"layers": 0}, at_least(1, 0)),
    (theory.best_steps, {"spectra": INFINITE}, FINITE),
    (theory.best_steps, {"layers": 5}, "spectra must hold 5 different positive eigenvalues, got 4"),
    (theory.triple_angle, {"edge": 0.0}, POSITIVE),
    (theory.triple_angle, {"layers": 0}, at_least(1, 0)),
    (theory.best_schedule, {"spectra": INFINITE}, FINITE),
    (theory.best_schedule, {"start": STEPS._replace(rate=np.full(2, np.nan))}, f"rate {FINITE}"),
    (theory.best_schedule, {"start": STEPS._replace(gamma=np.full(2, np.nan))}, f"gamma {FINITE}"),
    (moments.independent, {"m2": 0}, POSITIVE),
    (moments.independent, {"m4": np.inf}, FINITE),
    (moments.independent, {"m6": np.nan}, FINITE),
    (moments.independent, {"m4": 0.9}, "moments must satisfy m4 >= m2^2, as those of every law do, got m2 = 1, m4 = 0.9"),
    (moments.independent, {"m2": 0.5, "m4": 0.2}, "moments must satisfy m4 >= m2^2"),
    (moments.independent, {"m4": 2.0, "m6": 3.9}, "moments must satisfy m2 m6 >= m4^2"),
    (moments.one_hot, {"size": 0}, POSITIVE),
    (moments.kappas, {"d": 0}, at_least(1, 0)),
    (moments.kappas, {"powers": lambda n: 0.5 if 4 in n else 1.0}, "moments must satisfy m4 >= m2^2"),
    (moments.kappas, {"powers": lambda n: 1.0 - 1.5 * (sorted(n) == [2, 4]), "d": 2}, "k3 must be between 0 and (d - 1) k2 = 1.0, got -0.5"),
    (moments.kappas, {"powers": lambda n: 1.0 + 0.1 * (sorted(n) == [0, 2, 4]), "d": 3}, "k3 must be between 0 and (d - 1) k2 = 2.0, got 2.2"),
    (moments.scaled, {"factor": 0.0}, POSITIVE),
    (moments.exact_quartic, {"length": 2}, at_least(3, 2)),
    (moments.exact_quartic, {"d": 0}, at_least(1, 0)),
    (moments.sampled_quartic, {"sequences": np.ones((4, 2, 1), complex)}, f"length {at_least(3, 2)}"),
    (flow.crosstalk, {"length": 2}, at_least(3, 2)),
    (flow.loss_at, {"t": np.array([2, 1])}, at_least(2, "[2 1]")),
    (flow.loss_at, {"ab": np.inf}, FINITE),
    (flow.loss_at, {"d": 0}, at_least(1, 0)),
    (flow.diagonal_loss, {"ab": np.nan}, FINITE),
    (flow.diagonal_loss, {"d": 0}, at_least(1, 0)),
    (flow.diagonal_loss, {"length": 2}, at_least(3, 2)),
    (flow.logistic, {"start": 0.0}, POSITIVE),
    (flow.logistic, {"time": np.nan}, FINITE),
    (flow.integrate, {"tolerance": -1e-3}, "must be between 0 and 1, got -0.001"),
    (flow.integrate, {"times": np.array([0.0])}, "must be two or more increasing numbers, got"),
    (flow.integrate, {"times": np.array([0.0, 0.0])}, "must be two or more increasing numbers, got"),
    (flow.integrate, {"times": np.array([0.0, np.nan])}, FINITE),
    (flow.descend, {"rate": np.array([0.0])}, POSITIVE),
    (flow.descend, {"epochs": 0}, at_least(1, 0)),
    (flow.descend, {"rate": np.array([1e200]), "epochs": 3}, "rate must be small enough to descend, got 1e+200: run 0 is not finite from epoch 1 on"),
    (training.initialise, {"token": 0}, at_least(1, 0)),
    (training.initialise, {"scale": 0.0}, POSITIVE),
    (training.initialise_features, {"token": 0}, at_least(1, 0)),
    (training.initialise_features, {"width": 0}, at_least(1, 0)),
    (training.initialise_features, {"scale": 0.0}, POSITIVE),
    *((training.initialise_transformer, {name: 0}, at_least(1, 0))
      for name in ("vocabulary", "reach", "layers", "heads", "width")),
    (training.initialise_transformer, {"heads": 2}, "must divide width = 1, got 2"),
    (training.clipped_adam, {"learning_rate": 0.0}, POSITIVE),
    (training.clipped_adam, {"clip": 0.0}, POSITIVE),
    (training.accumulated, {"parts": 0}, at_least(1, 0)),
    (training.fit, {"loss": lambda p, key: 0.0}, "what it returns must be Float[Array, ''], got 0.0\nin icl_gd.training._update_of.<locals>.loss_of_one"),
    (training.fit, {"loss": lambda p, key: p["w"][:1] ** 2}, "what it returns must be Float[Array, ''], got float64[1]"),
    (training.fit, {"steps": 0}, at_least(1, 0)),
    (training.fit, {"every": 0}, at_least(1, 0)),
    (training.fit, {"steps": 5, "every": 2}, "every must divide steps = 5, got 2"),
    (measures.prefix_matching, {"sequence": np.arange(4)}, "the number of repeated tokens in sequence must be positive, got 0"),
    (measures.in_context_score, {"losses": np.zeros(9)}, f"n {at_least(11, 10)}"),
    (measures.ablated_losses, {"sequences": np.array([[0, 3]])}, "must be between 0 and 2, got"),
]  # fmt: skip


def full_name(function):
    return f"{function.__module__.removeprefix('icl_gd.')}.{function.__name__}"


def call(function, change):
    given = GOOD[function] | change
    return function(**{k: jax.random.clone(v) if v is KEY else v for k, v in given.items()})


def named(change, message):
    """The message says of what it speaks; if it begins with must, of what was changed."""
    return f"{next(iter(change))} {message}" if message.startswith("must") else message


@pytest.mark.parametrize(
    "function, change, message",
    BAD,
    ids=[f"{full_name(function)}: {', '.join(change)}" for function, change, _ in BAD],
)
def test_a_mistake_is_named(function, change, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(named(change, message))):
        call(function, change)


@pytest.mark.parametrize("function", GOOD, ids=full_name)
def test_what_is_good_passes(function):
    call(function, {})


@pytest.mark.parametrize(
    "function", [theory.best_step, theory.gd_loss, theory.population_loss,
                 theory.best_centred_step, theory.centred_loss, theory.spectral_loss], ids=full_name
)  # fmt: skip
@pytest.mark.parametrize(
    "m2, m4", [(0.5, 0.24), (0.0, 1.0), (-1.0, 2.0), (np.nan, 1.0), (1.0, np.inf),
               (np.array([1.0, 1.0]), np.array([2.0, 0.5])),
               (np.array([1.0, 1.0]), np.array([np.inf, 2.0])),
               (np.array([1.0, -1.0]), np.array([2.0, 2.0]))]
)  # fmt: skip
def test_impossible_moments_are_named(function, m2, m4):
    with pytest.raises(ValueError, match=r"^moments must satisfy m4 >= m2\^2 > 0, got"):
        call(function, {"moments": theory.Moments(m2, m4)})


@pytest.mark.parametrize(
    "function, name",
    [(theory.best_steps, "spectra"), (theory.best_schedule, "spectra"),
     (measures.copying_score, "model"), (flow.descend, "start"), (flow.descend, "rate")],
    ids=lambda given: given if isinstance(given, str) else full_name(given),
)  # fmt: skip
def test_what_needs_numbers_says_so_inside_jit(function, name):
    rest = {k: v for k, v in GOOD[function].items() if k != name}
    message = f"^{name} must be known numbers, got traced ones: call this outside of jit"
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda given: function(**rest, **{name: given}))(GOOD[function][name])


def test_values_that_are_traced_are_let_through():
    gd = lambda eta, w0: descent.gradient_descent(w0, TASK.x, TASK.y, eta, 1)
    assert np.isnan(jax.jit(gd)(jnp.nan, W0)[-1]).all()
    assert jax.vmap(gd, (0, None))(jnp.array([0.1, jnp.inf]), W0).shape == (2, 2, 1, 2)
    # What is known inside of jit is looked at.
    with pytest.raises(ValueError, match=r"^eta must be finite, got nan"):
        jax.jit(lambda w0: gd(jnp.nan, w0))(W0)
    logits = jax.jit(lambda s: induction.forward(CIRCUIT, s).logits)
    beyond, within = jnp.array([0, 25, 1, -1]), jnp.array([0, 2, 1, 2])
    np.testing.assert_array_equal(logits(beyond), logits(within))


@pytest.mark.parametrize(
    "function, name",
    [(theory.best_schedule, "best_schedule"), (flow.integrate, "integrate with tolerance = 1e-09")],
    ids=["theory.best_schedule", "flow.integrate"],
)
def test_single_precision_is_refused_where_it_is_too_little(function, name):
    single = lambda a: a.astype("float32") if isinstance(a, jax.Array) else a
    given = jax.tree.map(single, GOOD[function])
    with (
        setup.x64(False),
        pytest.raises(ValueError, match=f"^jax_enable_x64 must be True for {name}"),
    ):
        function(**given)


def test_single_precision_stays_single():
    single = jax.tree.map(jnp.float32, (W0, TASK.x, TASK.y))
    assert descent.gradient_descent(*single, 0.1, 1).dtype == "float32"
