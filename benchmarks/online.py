"""Cost of a delta layer with decay: pair by pair, in chunks, and as one chunk.

    python benchmarks/online.py [--save]

A layer of 16 heads of 64, float32, batch 1, each form compiled and timed in turn, several times;
the table gives medians in milliseconds, forwards and forwards with backwards (slopes for all five
arguments), and the memory that the compiled program asks for beside its input and output. Then the
times divided by those of the recurrence, which are fair on a busy machine, as milliseconds are not;
and how many multiply-adds a form does in a second, as a share of those of one large product. With
--save the numbers become the record that the chapter on chunks draws, one for a CPU and one for a
GPU.
"""

import statistics
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import timing
from causal import milliseconds

from icl_gd import online
from icl_gd.book import records

HEADS, D, LENGTHS, ROUNDS = 16, 64, [512, 1024, 2048, 4096], 3
CHUNKS, LONGEST = [16, 32, 64, 128], 2048  # of one chunk: its memory grows like T^2
PASSES = {"forward": "", "both": "_both"}


def operations(length, chunk):
    """Multiply-adds in products of matrices for one head, as counted in the chapter."""
    if chunk is None:
        return 3 * length * D**2
    return length * (3 * D**2 + 5 * chunk * D + (chunk**2 - 1) / 3)


def forms(length):
    """What is compared for a length: its chunk (None for pair by pair) by name."""
    chunks = {f"chunk {c}": c for c in CHUNKS}
    return {"recurrent": None, **chunks, **({"one chunk": length} if length <= LONGEST else {})}


def inputs(length):
    """Queries, keys of length 1, values, step sizes and mild decays of all heads."""
    keys = jax.random.split(jax.random.key(length), 5)
    q, k, v = (jax.random.normal(key, (HEADS, length, D)) for key in keys[:3])
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    beta, decay = (jax.random.uniform(key, (HEADS, length)) for key in keys[3:])
    return q, k, v, beta, jnp.exp(-0.1 * decay)


def compiled(chunk, kind, arguments):
    """The program of one form for one pass."""
    if chunk is None:
        head = partial(online.outputs, online.DELTA)
    else:
        head = partial(online.chunkwise, chunk=chunk)
    program = heads = jax.vmap(head)
    if kind == "both":
        total = lambda *a: jnp.vdot(heads(*a), a[2])
        program = jax.value_and_grad(total, argnums=range(5))
    return jax.jit(program).lower(*arguments).compile()


def one_product(size=2048):
    """Multiply-adds a millisecond of one product of large matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    program = jax.jit(jnp.matmul).lower(a, a).compile()
    times = [milliseconds(lambda a: program(a, a), a) for _ in range(ROUNDS)]
    return size**3 / statistics.median(times)


def measure(length, kind):
    """Median milliseconds and MiB of every form."""
    arguments = inputs(length)
    programs = {n: compiled(chunk, kind, arguments) for n, chunk in forms(length).items()}
    times = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            run = lambda arguments, program=program: program(*arguments)
            times[name].append(milliseconds(run, arguments))
    mib = lambda program: program.memory_analysis().temp_size_in_bytes / 2**20
    return {name: (statistics.median(times[name]), mib(programs[name])) for name in programs}


def main():
    """Runs everything and prints the tables."""
    peak = one_product()
    cost = {kind: [measure(length, kind) for length in LENGTHS] for kind in PASSES}
    lines = [f"one product of 2048 x 2048: {peak / 1e6:.1f}e9 multiply-adds a second"]
    names = list(forms(0))
    for kind, rows in cost.items():
        for title, number in {
            f"{kind}, ms": lambda row, name, _: f"{row[name][0]:.1f}",
            f"{kind}, MiB": lambda row, name, _: f"{row[name][1]:.0f}",
            f"{kind}, time / recurrent": lambda row, name, _: (
                f"{row[name][0] / row['recurrent'][0]:.2f}"
            ),
            "share of one product": lambda row, name, length: (
                f"{HEADS * operations(length, forms(length)[name]) / row[name][0] / peak:.0%}"
            ),
        }.items():
            if kind == "both" and title.startswith("share"):
                continue  # products backwards are not counted
            lines += ["", f"{title:26s}" + "".join(f"{name:>11s}" for name in names)]
            for length, row in zip(LENGTHS, rows, strict=True):
                cells = (number(row, n, length) if n in row else "-" for n in names)
                lines.append(f"T = {length:<22d}" + "".join(f"{cell:>11s}" for cell in cells))
    setting = f"{HEADS} heads of {D}, float32, batch 1, median of {ROUNDS} rounds"
    timing.ROUNDS = ROUNDS
    timing.report("online", lines, cost, setting=setting)
    if "--save" in sys.argv[1:]:
        save(peak, cost, setting)


def save(peak, cost, setting):
    """The record of this kind of device."""
    data = {"length": np.array(LENGTHS), "peak": np.array(peak)}
    for kind, end in PASSES.items():
        for name in forms(0):
            rows = [row[name] for row in cost[kind] if name in row]
            ms, mib = zip(*rows, strict=True)
            data |= {f"{name}{end}_ms": np.array(ms), f"{name}{end}_mib": np.array(mib)}
    where = "cpu" if jax.default_backend() == "cpu" else "gpu"
    load = f"{timing.os.getloadavg()[0]:.1f} at the end"
    command = "python benchmarks/online.py --save"
    about = records.provenance(command, setting=setting, **{"load average": load})
    records.save(timing.RECORDED / f"chunks_{where}.json", records.Record(about, data))


if __name__ == "__main__":
    main()
