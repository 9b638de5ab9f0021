"""Makes the full-size records that chapters draw beside their live runs.

    python scripts/reproduce.py [name ...]     (`make reproduce`: all that are missing)

A run goes seed by seed, and a seed in stretches. After each stretch its state is kept under
.reproduce/, so that it can be interrupted at any time and goes on from there. The record is written
to src/icl_gd/book/recorded/ whenever a seed is complete, and says how many are. A record that
exists is made again only if it is named.
"""

import hashlib
import pickle
import re
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icl_gd import (
    attention,
    constructions,
    corpus,
    descent,
    fast,
    induction,
    measures,
    tasks,
    theory,
    tokens,
    training,
)
from icl_gd.book import records, setup

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "src" / "icl_gd" / "book" / "recorded"
UNFINISHED = ROOT / ".reproduce"


class Run(NamedTuple):
    """A training run: what ``training.fit`` takes, and what of its end is kept.

    ``params`` has a leading axis of seeds and ``keys`` one key a seed; ``measures`` are taken
    every ``every`` steps; ``keep`` makes what is recorded of the final parameters and of that,
    for the seeds that are complete.
    """

    loss: Callable
    params: Any
    keys: jax.Array
    optimiser: optax.GradientTransformation
    steps: int
    every: int
    stretches: int
    measures: dict[str, Callable]
    keep: Callable[[Any, dict], dict[str, jax.Array]]
    setting: dict[str, str]


def deep(layers: int, recurrent: bool) -> Run:
    """A deep stack as published: tokens clipped to 10 after each layer.

    With weights of its own for every layer, for 50 000 steps; or recurrent, one layer applied
    again and again, for 5000.
    """
    n = d = 10
    clip, batch, parts = 10.0, 2048, 8

    def draw(key, count):
        return jax.vmap(lambda k: tasks.regression(k, n, d))(jax.random.split(key, count))

    def start(key):
        keys = jax.random.split(key, 1 if recurrent else layers)
        return [training.initialise(k, d + 1, 0.002 / layers) for k in keys]

    def products(params):
        return [attention.products(layer) for layer in params]

    def stack(params):
        return products(params) * (layers if recurrent else 1)

    def errors(stack, drawn):
        return 0.5 * (fast.batch(stack, drawn, clip) - drawn.y_query)[:, 0] ** 2

    def loss(params, key):
        of_part = lambda stack, key: jnp.mean(errors(stack, draw(key, batch // parts)))
        return training.accumulated(of_part, parts)(stack(params), key)

    def weights(params):
        return jax.tree.map(lambda *same: jnp.stack(same), *products(params))

    def keep(_, measured):
        path = measured.pop("weights")
        return {**measured, "kq": path.kq[:, -1], "pv": path.pv[:, -1]}

    evaluation = draw(jax.random.key(0), 10_000)
    return Run(
        loss=loss,
        params=jax.vmap(start)(jax.random.split(jax.random.key(1), 3)),
        keys=jax.random.split(jax.random.key(2), 3),
        optimiser=training.clipped_adam(5e-4, 10.0),
        steps=5000 if recurrent else 50_000,
        every=100 if recurrent else 500,
        stretches=10 if recurrent else 25,
        measures={
            "loss": lambda params: jnp.mean(errors(stack(params), evaluation)),
            "median": lambda params: jnp.median(errors(stack(params), evaluation)),
            "weights": weights,
        },
        keep=keep,
        setting={
            "what": {5: "five", 10: "ten"}[layers]
            + " layers of linear attention, d = N = 10, "
            + ("all with the same weights" if recurrent else "weights of their own"),
            "training": "batch 2048, Adam (0.9, 0.98) at 5e-4, gradients clipped to norm 10, "
            f"tokens clipped to 10 after each layer, initial variance 0.002 / {layers} / 11",
            "seeds": "three; evaluation key 0, weights key 1, tasks key 2",
        },
    )


def sine(one_key: bool, attends: bool) -> Run:
    """Sine waves: an MLP before one linear attention layer, or before one gradient step.

    As published: 20 000 steps of batch 2048, width 40, 160 hidden units; Adam at 1e-3 with
    attention, at 3e-4 with the gradient step, whose size eta = 0.1 is not trained. The step is
    that of ``constructions.gradient_step``. Of the weights those of the first seed are kept.
    """
    n, width, eta, batch, parts = 10, 40, 0.1, 2048, 4

    def draw(key, count):
        one = lambda k: tasks.sine(k, n, one_key)
        return jax.vmap(one)(jax.random.split(key, count))

    step = constructions.gradient_step(eta, n, jnp.zeros((1, width - 1)))

    def model(weights):
        layer = weights.get("layer", step)
        return lambda task: fast.features(weights["features"], layer, task)

    def start(key):
        key_features, key_layer = jax.random.split(key)
        weights = {"features": training.initialise_features(key_features, 2, width)}
        return {**weights, "layer": training.initialise(key_layer, width)} if attends else weights

    def keep(weights, measured):
        first = jax.tree.map(lambda weight: weight[:1], weights)
        flat = first["features"]._asdict()
        if attends:
            flat |= attention.products(first["layer"])._asdict()
        return {**measured, **flat}

    def loss(weights, key):
        return measures.mean_loss(model(weights), draw(key, batch // parts))

    evaluation = draw(jax.random.key(0), 10_000)
    return Run(
        loss=training.accumulated(loss, parts),
        params=jax.vmap(start)(jax.random.split(jax.random.key(1), 3)),
        keys=jax.random.split(jax.random.key(2), 3),
        optimiser=optax.chain(
            optax.clip_by_global_norm(100.0),
            optax.adam(1e-3, b1=0.9, b2=0.98) if attends else optax.adam(3e-4),
        ),
        steps=20_000,
        every=200,
        stretches=20,
        measures={"loss": lambda weights: measures.mean_loss(model(weights), evaluation)},
        keep=keep,
        setting={
            "what": "sine waves, N = 10, MLP (2 to 40, 160 hidden) and "
            + ("one layer of linear attention" if attends else "one gradient step, eta = 0.1"),
            "data": "amplitude and phase from one key, as published"
            if one_key
            else "amplitude and phase independent",
            "training": "batch 2048, gradients clipped to norm 100, "
            + ("Adam (0.9, 0.98) at 1e-3" if attends else "Adam (0.9, 0.999) at 3e-4"),
            "seeds": "three; evaluation key 0, weights key 1, tasks key 2",
        },
    )


def separate_tokens() -> Run:
    """Inputs and labels as tokens of their own, two layers, the first with a softmax.

    As published: 10 000 steps of batch 2048, Adam at 1e-3, initial variance 0.02 / 2 / 20.
    """
    n = d = 10
    size = d + 10

    def draw(key, count):
        return jax.vmap(lambda k: tasks.regression(k, n, d))(jax.random.split(key, count))

    def model(layers):
        def label(task):
            prompt = attention.softmax_attention(layers[0], tokens.separate_published(task))
            return tokens.prediction(attention.linear_attention(layers[1], prompt), 1)

        return label

    def start(key):
        return tuple(training.initialise(k, size, 0.02 / 2) for k in jax.random.split(key))

    def step(task):
        zero = jnp.zeros((1, d))
        return descent.gradient_descent(zero, task.x, task.y, eta, 1)[-1] @ task.x_query

    def copying(layers):
        found = measures.token_sensitivity(partial(attention.softmax_attention, layers[0]), prompts)
        return jnp.stack([jnp.stack([part[::2].mean(), part[1::2].mean()]) for part in found])

    def cosine(layers):
        return measures.alignment(model(layers), step, few).cosine

    def keep(layers, measured):
        first, second = map(attention.products, layers)
        weights = {"kq1": first.kq, "pv1": first.pv, "kq2": second.kq, "pv2": second.pv}
        return {**measured, **weights}

    eta = theory.best_step(n, d, theory.uniform_moments())
    evaluation = draw(jax.random.key(0), 10_000)
    few = jax.tree.map(lambda values: values[:1000], evaluation)
    prompts = jax.vmap(tokens.separate_published)(few)
    return Run(
        loss=lambda layers, key: measures.mean_loss(model(layers), draw(key, 2048)),
        params=jax.vmap(start)(jax.random.split(jax.random.key(1), 3)),
        keys=jax.random.split(jax.random.key(2), 3),
        optimiser=training.clipped_adam(1e-3, 10.0),
        steps=10_000,
        every=100,
        stretches=20,
        measures={
            "loss": lambda layers: measures.mean_loss(model(layers), evaluation),
            "copying": copying,
            "cosine": cosine,
        },
        keep=keep,
        setting={
            "what": "separate tokens of inputs and labels, d = N = 10, two layers of attention, "
            "softmax in the first, positions in ten channels behind the inputs",
            "training": "batch 2048, Adam (0.9, 0.98) at 1e-3, gradients clipped to norm 10, "
            "initial variance 0.02 / 2 / 20",
            "seeds": "three; evaluation key 0, weights key 1, tasks key 2",
        },
    )


@cache
def library() -> tuple[jax.Array, jax.Array]:
    """The standard library's source in 512 kinds of tokens: to train on, and held out."""
    training_text, held_out = (b"\n".join(part.values()) for part in corpus.standard_library())
    pairs = corpus.byte_pairs(training_text[:1_000_000], 256)
    return jnp.asarray(corpus.encode(training_text, pairs)), corpus.encode(held_out, pairs)


def source(share: float, steps: int, seeds: int) -> Run:
    """Python source, of whose windows a share repeats its beginning: two layers, width 64."""
    length, batch = 128, 16
    text, held_out = library()
    begun = lambda window: jnp.concatenate([jnp.zeros(1, window.dtype), window])  # token 0 first

    def draw(key):
        key_window, key_tiled, key_share = jax.random.split(key, 3)
        window = corpus.window(key_window, text, length - 1)
        tiled = corpus.tiled(key_tiled, window)
        return begun(jnp.where(jax.random.uniform(key_share) < share, tiled, window))

    def mean_losses(model, sequences):
        return jnp.mean(jax.vmap(measures.token_losses, (None, 0))(model, sequences), axis=0)

    def prefix(model):
        patterns = jax.vmap(lambda s: induction.forward(model, s).patterns)(repeated)
        return jnp.mean(jax.vmap(measures.prefix_matching)(patterns, repeated), axis=0)

    def keep(models, measured):
        return {**measured, "copying": measures.copying_score(models)}

    windows = len(held_out) // (length - 1)
    natural = np.reshape(held_out[: windows * (length - 1)], (windows, -1))[:: windows // 200]
    tiled = jax.vmap(corpus.tiled)(jax.random.split(jax.random.key(3), len(natural)), natural)
    natural, tiled = jax.vmap(begun)(natural), jax.vmap(begun)(tiled)
    pairs_only = lambda key: tasks.repeated(key, 257)  # tokens that stand for pairs: all occur
    repeated = jax.vmap(pairs_only)(jax.random.split(jax.random.key(0), 8))
    repeated = jnp.where(repeated > 0, repeated + 255, 0)
    start = lambda key: training.initialise_transformer(key, 512, length)
    return Run(
        loss=lambda model, key: jnp.mean(
            mean_losses(model, jax.vmap(draw)(jax.random.split(key, batch)))
        ),
        params=jax.vmap(start)(jax.random.split(jax.random.key(1), seeds)),
        keys=jax.random.split(jax.random.key(2), seeds),
        optimiser=training.clipped_adam(1e-2, 1.0),
        steps=steps,
        every=100,
        stretches=steps // 500,
        measures={
            "prefix": prefix,
            "natural": lambda model: mean_losses(model, natural),
            "tiled": lambda model: jnp.mean(mean_losses(model, tiled)),
        },
        keep=keep,
        setting={
            "what": "attention only, 2 layers of 4 heads, width 64, learned relative bias",
            "data": f"standard library, byte pairs with 256 merges, windows of {length} tokens, "
            f"{100 * share:.0f}% of them a snippet tiled",
            "training": f"batch {batch}, Adam (0.9, 0.98) at 1e-2, gradients clipped to norm 1",
            "seeds": f"{('one', 'two', 'three')[seeds - 1]}; repeated tokens key 0, weights key 1, "
            "windows key 2",
        },
    )


RUNS = {
    "five_layers": partial(deep, 5, False),
    "ten_layers": partial(deep, 10, True),
    "sine_independent_attention": partial(sine, False, True),
    "sine_independent_gd": partial(sine, False, False),
    "sine_published_attention": partial(sine, True, True),
    "sine_published_gd": partial(sine, True, False),
    "separate_tokens": separate_tokens,
    "source_tiled": partial(source, 0.5, 3000, 3),
    "source_natural": partial(source, 0.0, 4500, 2),
}


def update(run: Run, params: Any, key: jax.Array) -> Any:
    """All that a run computes of one seed: start, loss, slopes, one step, measures."""
    state = run.optimiser.init(params)
    value, slopes = jax.value_and_grad(run.loss)(params, key)
    measured = {name: measure(params) for name, measure in run.measures.items()}
    return state, value, run.optimiser.update(slopes, state, params), measured


def fingerprint(run: Run) -> str:
    """Changes with the setting of a run, its length, its seeds and the version of JAX.

    And with what it computes: the traced program of one update and the measures, the numbers
    that stand in it (evaluation sets), and the initial parameters. Addresses of functions, which
    JAX prints, differ from process to process and are left out.
    """
    one = jax.tree.map(lambda weight: weight[0], run.params)
    program = jax.make_jaxpr(partial(update, run))(one, run.keys[0])
    text = re.sub(r"0x[0-9a-f]+", "", str(program))
    numbers = [np.asarray(n).tobytes() for n in (*program.consts, *jax.tree.leaves(run.params))]
    keys = jax.random.key_data(run.keys).tolist()
    parts = run.setting, run.steps, run.every, run.stretches, keys, jax.__version__
    mark = hashlib.sha256(repr((*parts, text)).encode())
    for part in numbers:
        mark.update(part)
    return mark.hexdigest()


class Progress(NamedTuple):
    """How far a seed is: stretches done, parameters, optimiser's state, pieces, seconds."""

    done: int
    params: Any
    state: Any
    pieces: list
    seconds: float


def resume(path: Path, mark: str, start: Progress) -> Progress:
    """What was kept of a seed; a fresh start if there is nothing, or another setting's."""
    if path.exists():
        kept = pickle.loads(path.read_bytes())
        if kept["mark"] == mark:
            return Progress(*kept["progress"])
    return start


def stretch(run: Run, key: jax.Array, now: Progress) -> Progress:
    """The next stretch of one seed."""
    began = time.perf_counter()
    keys = jax.random.fold_in(key, now.done)[None]
    fit = training.fit(
        run.loss, now.params, keys, run.optimiser, run.steps // run.stretches, run.every,
        run.measures, now.state,
    )  # fmt: skip
    new = slice(1 if now.done else 0, None)  # a stretch begins where the last one ended
    piece = jax.tree.map(lambda m: np.asarray(m)[:, new], fit.measured)
    params, state = jax.tree.map(np.asarray, (fit.params, fit.state))
    seconds = now.seconds + time.perf_counter() - began
    return Progress(now.done + 1, params, state, [*now.pieces, piece], seconds)


def write(path: Path, run: Run, ended: list[Progress]) -> None:
    """Records the seeds that are complete."""
    join = lambda axis: lambda *parts: np.concatenate(parts, axis=axis)
    measured = [jax.tree.map(join(1), *seed.pieces) for seed in ended]
    params, measured = (
        jax.tree.map(join(0), *each) for each in ([seed.params for seed in ended], measured)
    )
    data = {"at": np.arange(0, run.steps + 1, run.every), **run.keep(params, measured)}
    minutes = round(sum(seed.seconds for seed in ended) / 60, 1)
    about = records.provenance(
        f"python scripts/reproduce.py {path.stem}",
        **run.setting, complete=f"{len(ended)} of {len(run.keys)} seeds", minutes=minutes,
    )  # fmt: skip
    records.save(path, records.Record(about, data))


def make(name: str, run: Run, recorded: Path = RECORDED, unfinished: Path = UNFINISHED) -> None:
    """Runs what is left of a run, and writes its record whenever a seed is complete."""
    recorded.mkdir(exist_ok=True)
    unfinished.mkdir(exist_ok=True)
    mark, ended = fingerprint(run), []
    checkpoints = [unfinished / f"{name}_{seed}.pickle" for seed in range(len(run.keys))]
    for seed, checkpoint in enumerate(checkpoints):
        params = jax.tree.map(lambda weight, seed=seed: weight[seed : seed + 1], run.params)
        now = resume(checkpoint, mark, Progress(0, params, None, [], 0.0))
        while now.done < run.stretches:
            now = stretch(run, run.keys[seed], now)
            temporary = checkpoint.with_suffix(".tmp")
            temporary.write_bytes(pickle.dumps({"mark": mark, "progress": tuple(now)}))
            temporary.replace(checkpoint)
            left = now.seconds / now.done * (run.stretches - now.done) / 60
            place = f"seed {seed + 1}/{len(run.keys)}, {now.done}/{run.stretches}"
            print(f"{name}: {place}, {left:.0f} min left of this seed", flush=True)
        ended.append(now)
        write(recorded / f"{name}.json", run, ended)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def main(names: list[str]) -> None:
    """Makes the named records, or all that are missing."""
    unknown = set(names) - set(RUNS)
    if unknown:
        raise SystemExit(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    # Every stretch runs the same program: it is compiled once and then read from here.
    jax.config.update("jax_compilation_cache_dir", str(UNFINISHED / "compiled"))
    for name in names or [n for n in RUNS if not (RECORDED / f"{n}.json").exists()]:
        make(name, RUNS[name]())


if __name__ == "__main__":
    setup.begin()
    main(sys.argv[1:])
