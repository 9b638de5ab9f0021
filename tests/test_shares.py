"""Which cores a worker keeps to."""

import pytest
import shares


@pytest.mark.parametrize(
    "worker, cores, share",
    [
        ("gw0", {0, 1}, [0]),
        ("gw1", {0, 1}, [1]),
        ("gw1", {8, 3, 5, 4, 9}, [4, 8]),
        ("gw1", {3}, None),  # more workers than cores
        (None, {0, 1}, None),
    ],
)
def test_two_workers_share_the_cores(monkeypatch, worker, cores, share):
    taken = []
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if worker:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    monkeypatch.setattr(shares.os, "sched_getaffinity", lambda _: cores, raising=False)
    keep = lambda _, share: taken.append(share)
    monkeypatch.setattr(shares.os, "sched_setaffinity", keep, raising=False)
    shares.take()
    assert taken == ([share] if share else [])


def test_without_workers_to_tell_apart_nothing_is_done(monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1")
    monkeypatch.delattr(shares.os, "sched_setaffinity", raising=False)
    shares.take()  # as on a Mac
