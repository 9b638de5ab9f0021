"""Print constraints that hold every dependency of the package at its lower bound.

The bounds are pyproject.toml's; the tools around them keep the versions of requirements.txt,
but for what jax and numpy bring, which pip chooses to fit.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLLOWS = {"contourpy", "jaxlib", "ml-dtypes", "opt-einsum", "pyparsing", "scipy"}

project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
lowest = dict(
    re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,.*)?", d).groups() for d in project["dependencies"]
)
lowest["jaxlib"] = lowest["jax"]
for package, version in lowest.items():
    print(f"{package}=={version}")
print("pyparsing<3.3")  # from 3.3 on it warns of names that matplotlib 3.10.0 uses
for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
    pin = re.match(r"([\w.-]+)==", line)
    if pin and pin[1] not in lowest.keys() | FOLLOWS:
        print(line)
