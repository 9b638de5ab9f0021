"""A record comes back as it was saved, and a file is written whole or not at all."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from icl_gd.book import records

DATA = {
    "at": np.arange(3),
    "loss": np.array([[1 / 3, 2e-9, 12345678.0]]),
    "flag": np.array(2.5),
}


def test_what_is_saved_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "recorded").mkdir()
    about = records.provenance("make it", seeds="one")
    records.save(tmp_path / "recorded" / "run.json", records.Record(about, DATA))
    monkeypatch.setattr(records, "files", lambda package: tmp_path)
    found = records.load("run")
    assert found.about == about and list(found.data) == list(DATA)
    for name, values in DATA.items():
        assert found.data[name].shape == values.shape
        np.testing.assert_allclose(found.data[name], values, rtol=5e-6)
    assert found.data["at"].dtype.kind == "i"
    assert [f.name for f in (tmp_path / "recorded").iterdir()] == ["run.json"]


def test_six_digits_are_kept(tmp_path):
    records.save(tmp_path / "run.json", records.Record({}, DATA))
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["data"]["loss"] == [[0.333333, 2e-9, 12345700.0]]


def test_numbers_that_are_not_finite_leave_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    records.save(path, records.Record({}, DATA))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"data\['loss'\] must be finite"):
        records.save(path, records.Record({}, {**DATA, "loss": np.array([np.nan])}))
    assert path.read_bytes() == before


def test_unknown_name_is_named(tmp_path, monkeypatch):
    (tmp_path / "recorded").mkdir()
    records.save(tmp_path / "recorded" / "run.json", records.Record({}, DATA))
    monkeypatch.setattr(records, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match="name must be one of run, got 'walk'"):
        records.load("walk")


def test_provenance_says_how_to_repeat():
    about = records.provenance("make it", seeds="one")
    assert about["command"] == "make it" and about["seeds"] == "one"
    assert {"date", "commit", "device", "host", "jax", "numpy", "python", "peak MiB"} <= set(about)
    assert repr(records.Record(about, {})).startswith("command: make it\nseeds: one\n")


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert records.provenance("make it")["commit"] == "unknown"


def test_provenance_without_resource(monkeypatch):
    """Windows has no such module."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert records.provenance("make it")["peak MiB"] is None


@pytest.mark.parametrize("system, unit", [("linux", 2**10), ("darwin", 2**20)])
def test_peak_is_in_mib(monkeypatch, system, unit):
    """Linux counts in KiB, macOS in bytes."""
    resource = SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=300 * unit)
    )
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(records, "sys", SimpleNamespace(platform=system))
    assert records.provenance("make it")["peak MiB"] == 300


def test_provenance_marks_changes_other_than_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = partial(subprocess.run, check=True, capture_output=True)
    paths = [tmp_path / "package" / "recorded" / "run.json", tmp_path / "code.py"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    author = "-c", "user.name=a", "-c", "user.email=a@b"
    for command in (["init"], ["add", "."], [*author, "commit", "-m", "start"]):
        git(["git", *command])
    paths[0].write_text("after")
    clean = records.provenance("make it")["commit"]
    paths[1].write_text("after")
    assert len(clean) >= 7 and not clean.endswith("-dirty")
    assert records.provenance("make it")["commit"] == f"{clean}-dirty"
