"""Each of pytest's workers keeps to its share of the cores, with all that it starts.

XLA works with as many threads as it sees cores. Two workers on two cores are then four threads,
that wait for each other.
"""

import os


def pytest_configure(config):
    worker = getattr(config, "workerinput", None)
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores, workers = sorted(os.sched_getaffinity(0)), worker["workercount"]
    if len(cores) >= workers:
        os.sched_setaffinity(0, cores[int(worker["workerid"].removeprefix("gw")) :: workers])
