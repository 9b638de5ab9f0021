"""Makes the full-size records that chapters draw beside their live runs.

    python scripts/reproduce.py [name ...]     (`make reproduce`: all that are missing)

A run goes seed by seed, and a seed in stretches. After each stretch its state is kept under
.reproduce/, so that it can be interrupted at any time and goes on from there. The record is written
to src/icl_gd/book/recorded/ whenever a seed is complete, and says how many are. A record that
exists is made again only if it is named.

A run is a function of this file with its numbers, in ``RUNS``. What a record says of them is put
together from the numbers themselves.
"""

import ast
import hashlib
import inspect
import json
import platform
import sys
import time
import zipfile
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
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
PACKAGE = ROOT / "src" / "icl_gd"
RECORDED = PACKAGE / "book" / "recorded"
UNFINISHED = ROOT / ".reproduce"
COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


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


def adam(batch: int, rate: float, norm: float, b1=0.9, b2=0.98):
    """Adam on gradients clipped to a norm, and what a record says of the training."""
    chain = optax.chain(optax.clip_by_global_norm(norm), optax.adam(rate, b1=b1, b2=b2))
    at = np.format_float_scientific(rate, trim="-", exp_digits=1)
    return chain, f"batch {batch}, Adam ({b1}, {b2}) at {at}, gradients clipped to norm {norm:g}"


def streams(seeds: int, *names: str):
    """A key for each name, numbered from 0, and what a record says of the seeds."""
    told = ", ".join(f"{name} key {number}" for number, name in enumerate(names))
    return map(jax.random.key, range(len(names))), f"{COUNTS[seeds]}; {told}"


def deep(
    layers: int, recurrent: bool, steps: int, every: int, stretches: int,
    seeds=3, n=10, clip=10.0, variance=0.002, batch=2048, parts=8, rate=5e-4, norm=10.0,
) -> Run:  # fmt: skip
    """A deep stack as published: tokens clipped after each layer.

    With weights of its own for every layer; or recurrent, one layer applied again and again.
    """
    d = n
    optimiser, trained = adam(batch, rate, norm)
    (key_evaluation, key_weights, key_tasks), drawn_from = streams(
        seeds, "evaluation", "weights", "tasks"
    )

    def draw(key, count):
        return tasks.batch(lambda k: tasks.regression(k, n, d), key, count)

    def start(key):
        keys = jax.random.split(key, 1 if recurrent else layers)
        return [training.initialise(k, d + 1, variance / layers) for k in keys]

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

    evaluation = draw(key_evaluation, 10_000)
    return Run(
        loss=loss,
        params=tasks.batch(start, key_weights, seeds),
        keys=jax.random.split(key_tasks, seeds),
        optimiser=optimiser,
        steps=steps,
        every=every,
        stretches=stretches,
        measures={
            "loss": lambda params: jnp.mean(errors(stack(params), evaluation)),
            "median": lambda params: jnp.median(errors(stack(params), evaluation)),
            "weights": weights,
        },
        keep=keep,
        setting={
            "what": f"{COUNTS[layers]} layers of linear attention, d = N = {n}, "
            + ("all with the same weights" if recurrent else "weights of their own"),
            "training": f"{trained}, tokens clipped to {clip:g} after each layer, "
            f"initial variance {variance} / {layers} / {d + 1}",
            "seeds": drawn_from,
        },
    )


def sine(
    one_key: bool, attends: bool, rate: float, b2: float, seeds=3, n=10, width=40, eta=0.1,
    batch=2048, parts=4, norm=100.0, steps=20_000, every=200, stretches=20,
) -> Run:  # fmt: skip
    """Sine waves, as published: an MLP before one linear attention layer, or one gradient step.

    The size eta of the step, which is that of ``constructions.gradient_step``, is not trained. Of
    the weights those of the first seed are kept.
    """
    optimiser, trained = adam(batch, rate, norm, b2=b2)
    (key_evaluation, key_weights, key_tasks), drawn_from = streams(
        seeds, "evaluation", "weights", "tasks"
    )

    def draw(key, count):
        return tasks.batch(lambda k: tasks.sine(k, n, one_key), key, count)

    step = constructions.gradient_step(eta, n, jnp.zeros((1, width - 1)))

    def model(weights):
        layer = attention.products(weights["layer"]) if attends else step
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

    evaluation = draw(key_evaluation, 10_000)
    params = tasks.batch(start, key_weights, seeds)
    hidden = params["features"].hidden.shape[1]
    return Run(
        loss=training.accumulated(loss, parts),
        params=params,
        keys=jax.random.split(key_tasks, seeds),
        optimiser=optimiser,
        steps=steps,
        every=every,
        stretches=stretches,
        measures={"loss": lambda weights: measures.mean_loss(model(weights), evaluation)},
        keep=keep,
        setting={
            "what": f"sine waves, N = {n}, MLP (2 to {width}, {hidden} hidden) and "
            + ("one layer of linear attention" if attends else f"one gradient step, eta = {eta}"),
            "data": "amplitude and phase from one key, as published"
            if one_key
            else "amplitude and phase independent",
            "training": trained,
            "seeds": drawn_from,
        },
    )


def separate_tokens(
    seeds=3, n=10, variance=0.02, batch=2048, rate=1e-3, norm=10.0,
    steps=10_000, every=100, stretches=20,
) -> Run:  # fmt: skip
    """Inputs and labels as tokens of their own, two layers, the first with a softmax.

    As published.
    """
    d, size = n, 2 * n
    optimiser, trained = adam(batch, rate, norm)
    (key_evaluation, key_weights, key_tasks), drawn_from = streams(
        seeds, "evaluation", "weights", "tasks"
    )

    def draw(key, count):
        return tasks.batch(lambda k: tasks.regression(k, n, d), key, count)

    def model(weights):
        copy, after = map(attention.products, weights)

        def label(task):
            prompt = attention.softmax_attention(copy, tokens.separate_published(task))
            return tokens.prediction(attention.linear_attention(after, prompt), 1)

        return label

    def start(key):
        return tuple(training.initialise(k, size, variance / 2) for k in jax.random.split(key))

    def step(task):
        zero = jnp.zeros((1, d))
        return descent.gradient_descent(zero, task.x, task.y, eta, 1)[-1] @ task.x_query

    def copying(layers):
        copy = partial(attention.softmax_attention, attention.products(layers[0]))
        found = measures.token_sensitivity(copy, prompts)
        return jnp.stack([jnp.stack([part[::2].mean(), part[1::2].mean()]) for part in found])

    def cosine(layers):
        return measures.alignment(model(layers), step, few).cosine

    def keep(layers, measured):
        first, second = map(attention.products, layers)
        weights = {"kq1": first.kq, "pv1": first.pv, "kq2": second.kq, "pv2": second.pv}
        return {**measured, **weights}

    eta = theory.best_step(n, d, theory.uniform_moments())
    evaluation = draw(key_evaluation, 10_000)
    few = jax.tree.map(lambda values: values[:1000], evaluation)
    prompts = jax.vmap(tokens.separate_published)(few)
    return Run(
        loss=lambda layers, key: measures.mean_loss(model(layers), draw(key, batch)),
        params=tasks.batch(start, key_weights, seeds),
        keys=jax.random.split(key_tasks, seeds),
        optimiser=optimiser,
        steps=steps,
        every=every,
        stretches=stretches,
        measures={
            "loss": lambda layers: measures.mean_loss(model(layers), evaluation),
            "copying": copying,
            "cosine": cosine,
        },
        keep=keep,
        setting={
            "what": f"separate tokens of inputs and labels, d = N = {n}, two layers of attention, "
            f"softmax in the first, positions in {COUNTS[size - d]} channels behind the inputs",
            "training": f"{trained}, initial variance {variance} / 2 / {size}",
            "seeds": drawn_from,
        },
    )


@cache
def library(merges: int) -> tuple[jax.Array, jax.Array]:
    """The standard library's source in bytes and merged pairs: to train on, and held out."""
    training_text, held_out = (b"\n".join(part.values()) for part in corpus.standard_library())
    pairs = corpus.byte_pairs(training_text[:1_000_000], merges)
    return jnp.asarray(corpus.encode(training_text, pairs)), corpus.encode(held_out, pairs)


def source(
    share: float, steps: int, seeds: int, stretches: int, merges=256, length=128, layers=2, heads=4,
    width=64, batch=16, rate=1e-2, norm=1.0, every=100,
) -> Run:  # fmt: skip
    """Python source, of whose windows a share repeats its beginning."""
    text, held_out = library(merges)
    optimiser, trained = adam(batch, rate, norm)
    (key_repeated, key_weights, key_windows, key_tiled), drawn_from = streams(
        seeds, "repeated tokens", "weights", "windows", "held-out tiled windows"
    )
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
    tiled = jax.vmap(corpus.tiled)(jax.random.split(key_tiled, len(natural)), natural)
    natural, tiled = jax.vmap(begun)(natural), jax.vmap(begun)(tiled)
    pairs_only = lambda key: tasks.repeated(key, merges + 1)  # they stand for pairs: all occur
    repeated = tasks.batch(pairs_only, key_repeated, 8)
    repeated = jnp.where(repeated > 0, repeated + 255, 0)
    start = lambda key: training.initialise_transformer(
        key, 256 + merges, length, layers, heads, width
    )
    return Run(
        loss=lambda model, key: jnp.mean(mean_losses(model, tasks.batch(draw, key, batch))),
        params=tasks.batch(start, key_weights, seeds),
        keys=jax.random.split(key_windows, seeds),
        optimiser=optimiser,
        steps=steps,
        every=every,
        stretches=stretches,
        measures={
            "prefix": prefix,
            "natural": lambda model: mean_losses(model, natural),
            "tiled": lambda model: jnp.mean(mean_losses(model, tiled)),
        },
        keep=keep,
        setting={
            "what": f"attention only, {layers} layers of {heads} heads, width {width}, "
            "learned relative bias",
            "data": f"standard library, byte pairs with {merges} merges, "
            f"windows of {length} tokens, {100 * share:g}% of them a snippet tiled",
            "training": trained,
            "seeds": drawn_from,
        },
    )


RUNS = {
    "five_layers": partial(deep, layers=5, recurrent=False, steps=50_000, every=500, stretches=25),
    "ten_layers": partial(deep, layers=10, recurrent=True, steps=5000, every=100, stretches=10),
    "sine_independent_attention": partial(sine, one_key=False, attends=True, rate=1e-3, b2=0.98),
    "sine_independent_gd": partial(sine, one_key=False, attends=False, rate=3e-4, b2=0.999),
    "sine_published_attention": partial(sine, one_key=True, attends=True, rate=1e-3, b2=0.98),
    "sine_published_gd": partial(sine, one_key=True, attends=False, rate=3e-4, b2=0.999),
    "separate_tokens": partial(separate_tokens),
    "source_tiled": partial(source, share=0.5, steps=3000, seeds=3, stretches=6),
    "source_natural": partial(source, share=0.0, steps=4500, seeds=2, stretches=9),
}


def code(function: Callable, home: dict) -> list[str]:
    """The source of a function, and of its file (``home``) all functions and values it names."""
    tree = ast.parse(inspect.getsource(function))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found = [ast.dump(tree)]
    for name in sorted((named & home.keys()) - {function.__name__}):
        part = home[name]
        if isinstance(part, (int, float, str, list, tuple, dict)):
            found.append(repr(part))
        elif getattr(part, "__module__", "") == function.__module__:
            found += code(part, home)
    return found


@cache
def mathematics(package: Path) -> list[str]:
    """The code of the package, without what only pages use."""
    return [ast.dump(ast.parse(path.read_bytes())) for path in sorted(package.glob("*.py"))]


def fingerprint(builder: partial) -> str:
    """The mark of a run: another one as soon as anything is another that determines its numbers.

    That is the code of its builder and of a stretch, the numbers that it is given, the package's
    mathematics, Python (whose library is a text to train on), other packages, device, precision,
    random generator. So all seeds of a record come from one state of the code, that of its commit.
    Comments and the layout of code do not count.
    """
    parts = (
        builder.args,
        sorted(builder.keywords.items()),
        *(code(part, part.__globals__) for part in (builder.func, begin, stretch)),
        mathematics(PACKAGE),
        *(version(name) for name in ("jax", "jaxlib", "numpy", "optax")),
        platform.python_version(),
        jax.devices()[0].device_kind,
        jax.config.jax_enable_x64,
        jax.config.jax_default_matmul_precision,
        jax.config.jax_default_prng_impl,
        jax.config.jax_threefry_partitionable,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Progress(NamedTuple):
    """How far a seed is: stretches done, their seconds, parameters, optimiser's state, measures.

    All three trees have a leading axis of one seed, the last one then an axis of points.
    """

    done: int
    seconds: float
    params: Any
    state: Any
    measured: dict[str, Any]


def begin(run: Run, seed: int) -> Progress:
    """A seed before its first stretch: nothing is measured."""
    params = jax.tree.map(lambda weight: weight[seed : seed + 1], run.params)
    measure = lambda params: {name: f(params) for name, f in run.measures.items()}
    one = jax.eval_shape(jax.vmap(measure), params)
    measured = jax.tree.map(lambda m: np.zeros((1, 0, *m.shape[1:]), m.dtype), one)
    return Progress(0, 0.0, params, jax.vmap(run.optimiser.init)(params), measured)


def stretch(run: Run, seed: int, now: Progress) -> Progress:
    """The next stretch of one seed."""
    began = time.perf_counter()
    key = jax.random.fold_in(run.keys[seed], now.done)[None]
    fit = training.fit(
        run.loss, now.params, key, run.optimiser, run.steps // run.stretches, run.every,
        run.measures, now.state,
    )  # fmt: skip
    new = slice(1 if now.done else 0, None)  # a stretch begins where the last one ended
    join = lambda old, m: np.concatenate([old, np.asarray(m)[:, new]], axis=1)
    measured = jax.tree.map(join, now.measured, fit.measured)
    seconds = now.seconds + time.perf_counter() - began
    return Progress(now.done + 1, seconds, fit.params, fit.state, measured)


def is_key(leaf: Any) -> bool:
    """Whether this is a random key, which is no plain array."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save(path: Path, mark: str, now: Progress) -> None:
    """Writes a checkpoint at once: its arrays by their place in the trees, and whose they are."""
    about = json.dumps({"mark": mark, "done": now.done, "seconds": now.seconds})
    arrays = {
        jax.tree_util.keystr(place): jax.random.key_data(leaf) if is_key(leaf) else leaf
        for place, leaf in jax.tree.leaves_with_path(now[2:])
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, about=about, **arrays)
    temporary.replace(path)


def resume(path: Path, mark: str, start: Progress) -> Progress:
    """What was kept of a seed, or its start if nothing was.

    A checkpoint that is broken or another run's is neither used nor replaced.
    """

    def stored(place, like):
        array = arrays[jax.tree_util.keystr(place)]
        return (
            jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
            if is_key(like)
            else array
        )

    if not path.exists():
        return start
    again = "delete it to start the seed again"
    try:
        with path.open("rb") as file, np.load(file) as kept:
            arrays = dict(kept)
        about = json.loads(str(arrays["about"]))
        if about["mark"] != mark:
            raise SystemExit(f"{path} is the checkpoint of another run; {again}")
        trees = jax.tree.map_with_path(stored, start[2:])
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{path} is broken ({error}); {again}") from error
    return Progress(about["done"], about["seconds"], *trees)


def write(path: Path, run: Run, ended: list[Progress]) -> None:
    """Records the seeds that are complete."""
    join = lambda *seeds: np.concatenate(seeds)
    params = jax.tree.map(join, *(seed.params for seed in ended))
    measured = jax.tree.map(join, *(seed.measured for seed in ended))
    data = {"at": np.arange(0, run.steps + 1, run.every), **run.keep(params, measured)}
    minutes = round(sum(seed.seconds for seed in ended) / 60, 1)
    about = records.provenance(
        f"python scripts/reproduce.py {path.stem}",
        **run.setting, complete=f"{len(ended)} of {len(run.keys)} seeds", minutes=minutes,
    )  # fmt: skip
    records.save(path, records.Record(about, data))


def make(
    name: str, run: Run, mark: str, recorded: Path = RECORDED, unfinished: Path = UNFINISHED
) -> None:
    """Runs what is left of a run, and writes its record whenever a seed is complete."""
    recorded.mkdir(exist_ok=True)
    unfinished.mkdir(exist_ok=True)
    ended = []
    checkpoints = [unfinished / f"{name}_{seed}.npz" for seed in range(len(run.keys))]
    for seed, checkpoint in enumerate(checkpoints):
        now = resume(checkpoint, mark, begin(run, seed))
        while now.done < run.stretches:
            now = stretch(run, seed, now)
            save(checkpoint, mark, now)
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
    names = names or [name for name in RUNS if not (RECORDED / f"{name}.json").exists()]
    # Before the first run: hours later the files may hold other code than this process runs.
    marks = [fingerprint(RUNS[name]) for name in names]
    for name, mark in zip(names, marks, strict=True):
        make(name, RUNS[name](), mark)


if __name__ == "__main__":
    setup.begin()
    main(sys.argv[1:])
