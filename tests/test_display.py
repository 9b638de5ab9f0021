"""A notebook shows claims, sources and views in the same way, whatever the version of IPython."""

import inspect

import nbformat
import pytest

from icl_gd import tokens
from icl_gd.book import claims

client = pytest.importorskip("nbclient")
CELLS = [
    'from icl_gd.book import claims\nclaims.check("oswald-prop1", 0.0, 0.0)',
    "from icl_gd import tokens\nfrom icl_gd.book import plots\nplots.source(tokens.pair)",
    'from icl_gd.book import views\nviews.View("<b>a figure</b>", "in words")',
]


@pytest.fixture(scope="module")
def shown():
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    parts = ("output_type", "data", "metadata")
    return [
        [{part: output[part] for part in parts} for output in c.outputs] for c in notebook.cells
    ]


def test_claim_is_a_line_with_its_values(shown):
    tolerance = claims.registry()["oswald-prop1"]["tolerance"]
    record = {"id": "oswald-prop1", "gap": "0", "measured": "0", "expected": "0"}
    line = f"✓ oswald-prop1: gap ≤ {tolerance:g}"
    (output,) = shown[0]
    assert output == {
        "output_type": "display_data",
        "data": {"text/plain": line},
        "metadata": {"claim": record},
    }


def test_source_is_highlighted_and_plain(shown):
    code = inspect.getsource(tokens.pair).rstrip()
    (output,) = shown[1]
    assert output == {
        "output_type": "execute_result",
        "data": {"text/plain": code, "text/markdown": f"```python\n{code}\n```"},
        "metadata": {},
    }


def test_view_is_html_and_words(shown):
    (output,) = shown[2]
    assert output == {
        "output_type": "execute_result",
        "data": {"text/plain": "in words", "text/html": "<b>a figure</b>"},
        "metadata": {},
    }
