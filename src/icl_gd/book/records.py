"""Records of runs that are too long for a page: small JSON files with their provenance.

``scripts/reproduce.py`` writes them, a chapter draws them beside what it runs itself.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Record(NamedTuple):
    """What a long run left: where it comes from, and its arrays by name."""

    about: dict[str, Any]
    data: dict[str, np.ndarray]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.about.items())


def load(name: str) -> Record:
    """Reads the record of that name. Raises ValueError if there is none."""
    folder = files("icl_gd.book").joinpath("recorded")
    names = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".json"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    stored = json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Record(stored["about"], {k: np.array(v) for k, v in stored["data"].items()})


def save(path: Path, record: Record) -> None:
    """Writes a record at once: a run that is cut off leaves the old file or none.

    Numbers keep six significant digits. Raises ValueError for arrays that are not
    finite.
    """
    data = {}
    for name, values in record.data.items():
        values = np.asarray(values)
        if not np.isfinite(values).all():
            raise ValueError(f"data[{name!r}] must be finite, got {values}")
        data[name] = _six_digits(values.tolist())
    lines = [f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in data.items()]
    about = json.dumps(record.about, indent=1)
    temporary = path.with_suffix(".tmp")
    text = f'{{"about": {about},\n"data": {{\n' + ",\n".join(lines) + "\n}}\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _six_digits(values):
    if isinstance(values, list):
        return [_six_digits(v) for v in values]
    return values if isinstance(values, int) else float(f"{values:.6g}")


def _git(*arguments):
    git = ["git", *arguments]
    return subprocess.run(
        git, capture_output=True, text=True, check=True
    ).stdout.strip()


def _peak_mib():
    """Peak resident memory of this process, None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def provenance(command: str, **setting: Any) -> dict[str, Any]:
    """What a reader needs in order to repeat a run and to read its numbers."""
    try:
        commit = _git("describe", "--always")
        others = (
            ":!*/recorded/*",
            ":!benchmarks/results/*",
        )  # what runs write themselves
        if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others):
            commit += "-dirty"
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "command": command,
        **setting,
        "date": date.today().isoformat(),
        "commit": commit,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "peak MiB": _peak_mib(),
    }
