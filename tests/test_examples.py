"""What the front pages and docstrings show runs as printed, outside these tests' settings.

Only that it is compiled quickly is like here.
"""

import re
import subprocess
import sys

import pytest
from chapters import PAGES, ROOT

FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
TEXTS = [*FRONT, *sorted(set((ROOT / "book").rglob("*.md")) - set(PAGES))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.M | re.S)
CODE = re.compile(r"^```bash\n(.*?)^```$|`([^`\n]+)`", re.M | re.S)


def without_pages(path):
    """The text without what stands in fences of five, the page that is a template."""
    return re.sub(r"^`{5}.*?^`{5}$", "", path.read_text("utf-8"), flags=re.M | re.S)


EXAMPLES = [
    pytest.param(code, printed, id=f"{path.relative_to(ROOT)}-{number}")
    for path in TEXTS
    for number, (code, printed) in enumerate(EXAMPLE.findall(without_pages(path)))
]
DOCTESTS = """
import doctest, importlib, pkgutil
import icl_gd

names = [m.name for m in pkgutil.walk_packages(icl_gd.__path__, "icl_gd.")]
for name in ["icl_gd", *names]:
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed, name
    print(name, result.attempted)
"""


QUICKLY = f"""import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import quickly
sys.path.pop(0)
quickly.little()
del quickly, sys
"""


def run(code):
    """What code prints in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", QUICKLY + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(path):
    """The shell commands that a text shows, without their comments."""
    for fence, span in CODE.findall(path.read_text("utf-8")):
        for line in (fence or span).splitlines():
            yield from map(str.strip, line.partition(" #")[0].split("&&"))


@pytest.mark.parametrize("code, printed", EXAMPLES)
def test_example_prints_what_it_shows(code, printed):
    assert run(code) == printed


def test_readme_shows_an_example_and_what_it_prints():
    assert EXAMPLES[0].id == "README.md-0"
    assert EXAMPLES[0].values[1]


def test_docstrings_print_what_they_show():
    counted = dict(line.split() for line in run(DOCTESTS).splitlines())
    assert int(counted["icl_gd"]) > 0


@pytest.mark.parametrize("path", [*FRONT, ROOT / "book" / "index.md"], ids=lambda path: path.name)
def test_commands_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    shown = list(commands(path))
    for command in shown:
        words = command.split()
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, command
        for script in re.findall(r"[\w/]+\.py\b", command):
            assert (ROOT / script).exists(), command
            options = [word for word in words if word.startswith("--")]
            source = (ROOT / script).read_text("utf-8")
            assert all(f'"{option}"' in source for option in options), command
    assert any(command.startswith("make ") for command in shown)
