"""The page that CONTRIBUTING shows as a template is one: it runs, checks, draws and solves."""

import re

import chapters
import check_pages
import jupytext
import matplotlib.pyplot as plt
import pytest
import yaml

from icl_gd.book import claims, setup

TEXT = (chapters.ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGE = re.search(r"^`{5}markdown\n(.*?)^`{5}$", TEXT, re.M | re.S)[1]
ENTRY = re.search(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)[1]


@pytest.fixture
def template(monkeypatch):
    entries = claims.validated(yaml.safe_load(ENTRY))
    monkeypatch.setattr(claims, "registry", lambda: entries)
    monkeypatch.setattr(setup, "begin", lambda x64: None)  # of this process
    monkeypatch.setattr(plt, "show", lambda: None)
    return jupytext.reads(PAGE, fmt="md:myst")


def test_it_runs_as_a_page_does(template, capsys):
    names, cells = {}, [c for c in template.cells if c.cell_type == "code"]
    assert "remove-input" in cells[0].metadata["tags"]
    for cell in cells[1:]:
        exec(cell.source, names)
    assert "✓ own-toy" in capsys.readouterr().out
    assert [c.metadata["mystnb"]["figure"]["name"] for c in cells if "mystnb" in c.metadata]
    ((_, code, printed),) = check_pages.solutions(PAGE)
    exec(code, names)
    assert capsys.readouterr().out == printed
    plt.close("all")


def test_it_has_the_parts_of_a_chapter():
    """Those that every chapter has, in their order."""
    heads = re.findall(r"^## (.+)$", PAGE, re.M)
    assert heads[0] == "The picture"
    assert heads[-3:] == ["What to remember", "Exercises", "Sources"]
    for page in chapters.PAGES:
        if page.stem != "index":
            found = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.M)
            assert found[-3:] == heads[-3:], page
            assert page.read_text("utf-8").startswith(PAGE[: PAGE.index("(toy)=")]), page
