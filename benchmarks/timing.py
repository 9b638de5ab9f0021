"""What the benchmarks share: paired timings, peak memory, and the record of a table."""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import jax

from icl_gd.book import records, setup

setup.begin()  # float32-exact products on every card, as on the pages

ROUNDS = 3
RESULTS = Path(__file__).parent / "results"
RECORDED = Path(__file__).parents[1] / "src" / "icl_gd" / "book" / "recorded"


def seconds(run, steps):
    """Wall-clock and processor seconds of one run, until its results are there."""
    before = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(steps))
    return time.perf_counter() - before[0], time.process_time() - before[1]


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
    """For each run: milliseconds a step, seconds before the first, the same of the processors, MiB.

    A run is timed at two lengths; their difference is free of what comes before the first step.
    Processor time is that of all cores together. It is what can be trusted on a busy machine. Steps
    on a GPU are so short that the two compilations would differ by more than the runs: there the
    second run is 50 times as much longer than the first.
    """
    more = 1 if jax.default_backend() == "cpu" else 50
    times = {name: [] for name in runs}
    memory = {}
    for round_ in range(ROUNDS):
        for name, (run, brief, long) in runs.items():
            long = brief + more * (long - brief)
            print(f"round {round_ + 1}/{ROUNDS}: {name} ...", end="", flush=True)
            peak_mib(reset=True)
            first, last = seconds(run, brief), seconds(run, long)
            memory[name] = peak_mib()
            row = []
            for short_time, long_time in zip(first, last, strict=True):
                step = (long_time - short_time) / (long - brief)
                row += [1e3 * step, short_time - brief * step]
            times[name].append(row)
            print(f" {row[0]:.2f} ms a step, processors {row[2]:.2f}", flush=True)
    return {
        name: (*(statistics.median(column) for column in zip(*rows, strict=True)), memory[name])
        for name, rows in times.items()
    }


def table(results, run):
    """The rows of a table: a step, before the first, the whole run, processors, memory."""
    lines = [
        f"{'':16s}{'ms a step':>10s}{'first s':>9s}{f'{run} steps, s':>15s}{'cpu ms':>9s}"
        f"{'peak MiB':>10s}"
    ]
    for name, (step, first, cpu, _, memory) in results.items():
        total = first + run * step / 1e3
        lines.append(f"{name:16s}{step:10.2f}{first:9.1f}{total:15.1f}{cpu:9.2f}{memory or 0:10d}")
    return [
        *lines,
        "",
        f"'first' is what a run costs before its first step; '{run} steps' is extrapolated from it",
        "and the time a step. 'cpu ms' is the processor time of a step on all cores together.",
        "'plain' has compiled before the table.",
    ]


def ratio(results):
    """Plain over ours, a step."""
    wall, cpu = (results["plain"][i] / results["ours"][i] for i in (0, 2))
    return f"a step: plain / ours = {wall:.1f} by the clock, {cpu:.1f} in processor time"


def report(name, lines, results, **setting):
    """Prints a table with its provenance; with --save, keeps it in benchmarks/results/.

    A load average beyond one run's own threads tells that others used the machine. The ratio is
    still fair, because both are run in turn; the milliseconds are not those of a quiet machine.
    """
    setting["rounds"] = ROUNDS
    setting["load average"] = f"{os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores"
    about = records.provenance(f"python benchmarks/{name}.py --save", **setting)
    table = "\n".join([*lines, "", *(f"{k}: {v}" for k, v in about.items())])
    print("\n" + table)
    if "--save" in sys.argv[1:]:
        kind = "".join(c if c.isalnum() else "-" for c in jax.devices()[0].device_kind.lower())
        target = RESULTS / f"{name}_{kind}.txt"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(table + "\n" + json.dumps({"ms": results}) + "\n", encoding="utf-8")
        temporary.replace(target)
