"""Each of pytest's workers keeps to its share of the cores, with the kernel that it starts.

XLA works with as many threads as it sees cores. Two kernels on two cores would be four threads,
that wait for each other: a tenth more time. Not for tests with a browser, which needs any core
that is free.
"""

import os


def take():
    """The share of this worker; all cores where there are no workers, or more than cores."""
    worker, count = map(os.environ.get, ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"))
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    share = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: int(count)]
    if share:
        os.sched_setaffinity(0, share)


pytest_configure = take  # as a plugin, with `-p shares`
