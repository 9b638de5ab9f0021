"""Cost of the three forms of causal linear attention as the sequence grows.

    python benchmarks/causal.py [--save]

Each form is compiled for one sequence of tokens of size 10 and timed in turn, several times; the
table gives medians in milliseconds, and the memory that the compiled program asks for beside its
input and output. With --save the numbers become the record that the chapter on sequences draws.
"""

import statistics
import sys
import time

import jax
import numpy as np
import timing

from icl_gd import attention, constructions, fast, tasks, tokens
from icl_gd.book import records

D, LENGTHS, ROUNDS = 5, [2**k for k in range(4, 13)], 7
FORMS = {
    "quadratic": attention.causal_quadratic,
    "prefix": fast.causal_prefix,
    "recurrent": fast.causal_recurrent,
}


def compiled(form, length):
    """One form for one length: the program and a sequence to run it on."""
    layer = constructions.autoregressive_step(1.0, 1.0, D)
    e = tokens.pair(tasks.autoregressive(jax.random.key(length), length, D))
    program = jax.jit(lambda e: form(layer, e)).lower(e).compile()
    return program, e


def milliseconds(program, e):
    """A call, averaged over as many as fit into 30 ms."""
    jax.block_until_ready(program(e))
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.03:
        jax.block_until_ready(program(e))
        calls += 1
    return 1e3 * (time.perf_counter() - began) / calls


def main():
    """Runs everything and prints the table."""
    cost = {name: ([], []) for name in FORMS}
    for length in LENGTHS:
        programs = {name: compiled(form, length) for name, form in FORMS.items()}
        times = {name: [] for name in FORMS}
        for _ in range(ROUNDS):
            for name, made in programs.items():
                times[name].append(milliseconds(*made))
        for name, (program, _) in programs.items():
            cost[name][0].append(statistics.median(times[name]))
            cost[name][1].append(program.memory_analysis().temp_size_in_bytes / 1024)
        print(f"T = {length}", *(f"{name} {cost[name][0][-1]:.3f} ms" for name in cost), flush=True)
    lines = [f"{'T':>6s}" + "".join(f"{f'{name}, ms':>16s}{'KiB':>9s}" for name in cost)]
    for row, length in enumerate(LENGTHS):
        cells = (f"{ms[row]:16.3f}{kib[row]:9.0f}" for ms, kib in cost.values())
        lines.append(f"{length:6d}" + "".join(cells))
    setting = f"one sequence, tokens of size {2 * D}, median of {ROUNDS} rounds"
    timing.report("causal", lines, cost, setting=setting)
    if "--save" in sys.argv[1:]:
        about = records.provenance("python benchmarks/causal.py --save", setting=setting)
        data = {"length": np.array(LENGTHS)}
        for name, (ms, kib) in cost.items():
            data |= {f"{name}_ms": np.array(ms), f"{name}_kib": np.array(kib)}
        records.save(timing.RECORDED / "causal_cost.json", records.Record(about, data))


if __name__ == "__main__":
    main()
