"""Speed of one-layer training: ours beside a plain version of the published loop, in one process.

    python benchmarks/one_layer.py [--save]

The plain version is our own, written after the published algorithm (von Oswald et al. 2022): a
Python loop whose every step draws a batch with one jitted call and updates with another, attention
computed for all tokens and then read at the last, and every 100 steps the published evaluation on
10 000 tasks (loss, interpolated loss, alignment with gradient descent twice). All its functions are
jitted. Both are run in turn, several times; the table gives medians. `--save` keeps the table in
benchmarks/results/ with its provenance.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icl_gd import attention, constructions, measures, tasks, theory, training

N = D = 10
BATCH, EVERY, RUN = 2048, 100, 5000
ROUNDS = 3
MOMENTS = theory.uniform_moments()
GD = constructions.gradient_step(theory.best_step(N, D, MOMENTS), N, jnp.zeros((1, D)))
OPTIMISER = training.clipped_adam()


# Ours.


def draw(key, count):
    """A batch of tasks."""
    return jax.vmap(lambda k: tasks.regression(k, N, D))(jax.random.split(key, count))


def model(layer):
    """The layer as a function from a task to a label."""
    return lambda task: attention.predict([layer], task)


EVALUATION = draw(jax.random.key(0), 10_000)
HALFWAY = {
    "loss": lambda p: measures.mean_loss(model(p), EVALUATION),
    "interpolated": lambda p: measures.mean_loss(
        model(constructions.interpolate(p, GD, D)), EVALUATION
    ),
    "alignment": lambda p: measures.alignment(model(p), model(GD), EVALUATION),
}


def start(seeds):
    """Initial weights of several seeds."""
    keys = jax.random.split(jax.random.key(1), seeds)
    return jax.vmap(lambda key: training.initialise(key, D + 1))(keys)


def sampled(steps, seeds=1, key=None):
    """The published run, sampled, in one scan."""

    def loss(layer, k):
        return measures.mean_loss(model(layer), draw(k, BATCH))

    key = jax.random.split(jax.random.key(2), seeds) if key is None else key
    return training.fit(loss, start(seeds), key, OPTIMISER, steps, EVERY, HALFWAY)


def shared(steps):
    """Twenty seeds on one stream of tasks."""
    return sampled(steps, seeds=20, key=jax.random.key(2))


def exact(steps):
    """The same start, trained on the exact population loss."""

    def loss(layer, _):
        return theory.population_loss(attention.products(layer), N, MOMENTS)

    return training.fit(loss, start(1), jax.random.key(2), OPTIMISER, steps, EVERY)


# Plain.


def plain_task(key):
    """One task with five keys and a choice of labels to spoil (none), as published."""
    k_w, k_x, k_q, k_noise, k_choice = jax.random.split(key, 5)
    w = jax.random.normal(k_w, (D,))
    x = jax.random.uniform(k_x, (N, D), minval=-0.5, maxval=0.5)
    x_query = jax.random.uniform(k_q, (1, D), minval=-0.5, maxval=0.5)
    chosen = jax.random.choice(k_choice, N, (0,), replace=False)
    y = (x @ w).at[chosen].set(jax.random.normal(k_noise, (0,)))
    context = jnp.concatenate([x, y[:, None]], axis=1)
    query = jnp.concatenate([x_query, jnp.zeros((1, 1))], axis=1)
    return jnp.concatenate([context, query]), (x_query @ w)[0]


def plain_layer(p, tokens):
    """Linear attention of all tokens to all but the last, batch first."""
    queries, keys = tokens @ p.query.T, tokens[:, :-1] @ p.key.T
    values = tokens[:, :-1] @ p.value.T
    scores = jnp.einsum("btd,bTd->btT", queries, keys)
    return tokens + jnp.einsum("btT,bTd->btd", scores, values) @ p.project.T


def plain_loss(p, batch):
    """Half the mean squared error at the last token."""
    tokens, target = batch
    return 0.5 * jnp.mean((-plain_layer(p, tokens)[:, -1, -1] - target) ** 2)


plain_draw = jax.jit(lambda key: jax.vmap(plain_task)(jax.random.split(key, BATCH)))
plain_evaluate = {name: jax.jit(f) for name, f in HALFWAY.items()}


@jax.jit
def plain_update(p, state, batch):
    """One update of the published optimiser."""
    loss, grads = jax.value_and_grad(plain_loss)(p, batch)
    updates, state = OPTIMISER.update(grads, state, p)
    return optax.apply_updates(p, updates), state, loss


def plain(steps):
    """The loop in Python."""
    p = jax.tree.map(lambda w: w[0], start(1))
    state, key, history = OPTIMISER.init(p), jax.random.key(2), []
    for step in range(steps):
        key, key_batch = jax.random.split(key)
        p, state, loss = plain_update(p, state, plain_draw(key_batch))
        if step % EVERY == 0:
            history.append(
                [float(loss)]
                + [jax.tree.map(float, plain_evaluate[m](p)) for m in plain_evaluate]
                + [jax.tree.map(float, plain_evaluate["alignment"](p))]
            )
    return p


# Measuring.


def seconds(run, steps):
    """Wall-clock seconds of one run, until its results are there."""
    before = time.perf_counter()
    jax.block_until_ready(run(steps))
    return time.perf_counter() - before


def peak_mib(reset=False):
    """Peak resident memory of this process since the last reset, in MiB (Linux; else None)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return None


def measure(runs):
    """For each run: milliseconds a step, seconds before the first step, and peak memory.

    A run is timed at two lengths; their difference is free of what comes before the first step.
    """
    times = {name: [] for name in runs}
    memory = {}
    for round_ in range(ROUNDS):
        for name, (run, brief, long) in runs.items():
            print(f"round {round_ + 1}/{ROUNDS}: {name} ...", end="", flush=True)
            peak_mib(reset=True)
            first, last = seconds(run, brief), seconds(run, long)
            memory[name] = peak_mib()
            step = (last - first) / (long - brief)
            times[name].append((1e3 * step, first - brief * step))
            print(f" {1e3 * step:.2f} ms a step", flush=True)
    return {
        name: (*(statistics.median(column) for column in zip(*rows, strict=True)), memory[name])
        for name, rows in times.items()
    }


def provenance():
    """What a reader needs to know to read the numbers."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "command": "python benchmarks/one_layer.py --save",
        "date": date.today().isoformat(),
        "commit": commit,
        "device": str(jax.devices()[0].device_kind),
        "host": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "seeds": "evaluation key 0, weights key 1, tasks key 2",
        "setting": f"d = N = {N}, batch {BATCH}, evaluation on 10000 tasks every {EVERY} steps",
    }


def main():
    """Runs everything and prints one table."""
    runs = {
        "plain": (plain, 100, 400),
        "ours": (sampled, 100, 2100),
        "ours, 20 seeds": (shared, 100, 500),
        "exact": (exact, 100, 20100),
    }
    plain(1)  # compiles what is jitted once and for all
    results = measure(runs)
    lines = [f"{'':16s}{'ms a step':>10s}{'first s':>9s}{'5000 steps, s':>15s}{'peak MiB':>10s}"]
    total = {}
    for name, (step, first, memory) in results.items():
        total[name] = first + RUN * step / 1e3
        lines.append(f"{name:16s}{step:10.2f}{first:9.1f}{total[name]:15.1f}{memory or 0:10d}")
    lines += [
        "",
        "'first' is what a run costs before its first step: tracing and compiling ('plain' has",
        "compiled before the table); '5000 steps' is extrapolated from it and the time a step.",
        "",
        f"a step: plain / ours = {results['plain'][0] / results['ours'][0]:.1f}",
        f"20 runs / one run of 20 seeds: ours {20 * total['ours'] / total['ours, 20 seeds']:.1f}, "
        f"plain {20 * total['plain'] / total['ours, 20 seeds']:.1f}",
        f"exact, 5000 steps after compiling: {RUN * results['exact'][0] / 1e3:.2f} s",
    ]
    about = provenance()
    table = "\n".join([*lines, "", *(f"{k}: {v}" for k, v in about.items())])
    print("\n" + table)
    if "--save" in sys.argv[1:]:
        kind = "".join(c if c.isalnum() else "-" for c in about["device"].lower())
        target = Path(__file__).parent / "results" / f"one_layer_{kind}.txt"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(table + "\n" + json.dumps({"ms": results}) + "\n", encoding="utf-8")
        temporary.replace(target)


if __name__ == "__main__":
    main()
