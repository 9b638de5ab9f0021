"""Print the constraints of a test environment, for `pip install -c`.

    python scripts/minimum.py floors  every dependency of the package at its lower bound
    python scripts/minimum.py colab   Colab's versions

The bounds are pyproject.toml's. The tools around them keep the versions of requirements.txt, but
for what the packages held here bring along, which pip chooses to fit.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLLOWS = {"contourpy", "jaxlib", "ml-dtypes", "opt-einsum", "pyparsing", "scipy"}
COLAB = {  # of what Colab lists, what the package and a page use (August 2026, Python 3.13)
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "jax": "0.7.2",
    "jaxlib": "0.7.2",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "optax": "0.2.8",
    "scipy": "1.16.3",
}


def floors():
    """The lower bound of each dependency."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = tomllib.loads(text)["project"]["dependencies"]
    lowest = dict(re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,.*)?", d).groups() for d in needed)
    return lowest | {"jaxlib": lowest["jax"]}


def constraints(held):
    """The lines that hold these versions, and the tools' of requirements.txt."""
    yield from (f"{package}=={version}" for package, version in held.items())
    yield "pyparsing<3.3"  # from 3.3 on it warns of names that matplotlib 3.10.0 uses
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        pin = re.match(r"([\w.-]+)==", line)
        if pin and pin[1] not in held.keys() | FOLLOWS:
            yield line


if __name__ == "__main__":
    lists = {"colab": COLAB, "floors": floors()}
    if len(sys.argv) != 2 or sys.argv[1] not in lists:
        sys.exit(__doc__)
    print(*constraints(lists[sys.argv[1]]), sep="\n")
