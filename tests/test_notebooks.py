"""Each notebook is its text, executed: in step, in order, without errors or a machine's traces."""

import re
from functools import cache

import nbformat
import notebooks
import pytest

from icl_gd.book import views

PAGES = notebooks.pages()
each_page = pytest.mark.parametrize("page", PAGES, ids=notebooks.name)

MACHINE = re.compile(
    r"/(home|root|tmp|work|Users|private|var|content|mnt|opt)/[\w.]"
    r"|[A-Z]:\\\w|site-packages|\b0x[0-9a-f]{6,}"
)


@cache
def committed(page):
    return nbformat.read(page.with_suffix(".ipynb"), as_version=4)


def printed(output):
    """The texts of an output: streams, errors, and every representation but pictures."""
    yield output.get("text", "")
    yield from output.get("traceback", [])
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/") or kind == "image/svg+xml":
            yield str(value)


def test_there_are_pages():
    assert PAGES, "no text under book/ has the front matter of a notebook"


def test_no_notebook_without_a_text():
    texts = {page.with_suffix(".ipynb") for page in PAGES}
    found = (p for p in notebooks.BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    assert set(found) <= texts


@each_page
def test_notebook_is_its_text_executed(page):
    stale, broken = notebooks.faults(page)
    assert not stale + broken, f"run `make notebooks ONLY={notebooks.name(page)}`"


@each_page
def test_notebook_is_its_text_cell_by_cell(page):
    """The same, by a second route that does not go through the script's own comparison."""
    text = page.read_text(encoding="utf-8")
    cells = committed(page).cells
    fences = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    code = [c.source for c in cells if c.cell_type == "code"]
    assert len(fences) == len(code)
    for fence, source in zip(fences, code, strict=True):
        assert fence.rstrip("\n").endswith(source.rstrip("\n"))
    at = 0
    for cell in cells:
        if cell.cell_type == "markdown":
            at = text.index(cell.source.strip(), at) + 1


@each_page
def test_cell_ids_are_unique_and_stable(page):
    ids = [cell.id for cell in committed(page).cells]
    assert len(ids) == len(set(ids))
    assert ids == [cell.id for cell in notebooks.read(page).cells]


@each_page
def test_nothing_of_the_machine_is_left(page):
    notebook = committed(page)
    assert set(notebook.metadata.language_info) >= {"name"}
    assert "version" not in notebook.metadata.language_info
    for number, cell in enumerate(notebook.cells):
        assert "execution" not in cell.metadata, f"cell {number} records when it ran"
        for output in cell.get("outputs", []):
            for text in printed(output):
                found = MACHINE.search(text)
                assert not found, f"cell {number} shows {found[0]!r} in its output"


@each_page
def test_every_picture_is_described(page):
    for number, cell in enumerate(committed(page).cells):
        kinds = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
        pictures = sum(kind.startswith("image/") for kind in kinds)
        if pictures:
            told = cell.metadata.get("mystnb", {})
            assert told.get("image", {}).get("alt", "").strip(), f"cell {number} has no alt text"
            assert told.get("figure", {}).get("caption", "").strip(), f"cell {number}: no caption"
            assert pictures == 1, f"cell {number}: one text cannot describe several pictures"


ASSETS = {"icl-view": "view", "data-dial": "moving", "icl-drawing": "drawing"}


@each_page
def test_figures_of_html_have_todays_styles_and_scripts(page):
    """They are written into the page: a page is executed again when they change."""
    scripts = [path.read_text("utf-8").split("DATA") for path in views.BROWSER.glob("*.js")]
    outputs = [o for c in committed(page).cells for o in c.get("outputs", []) if "data" in o]
    for html in (o["data"].get("text/html", "") for o in outputs):
        for mark, name in ASSETS.items():
            assert mark not in html or views.style(name) in html, f"{name}.css"
        if "<script>" in html:
            assert any(before in html and after in html for before, after in scripts)


@each_page
def test_no_cell_hides_its_value_with_a_semicolon(page):
    """nbval executes without a history, where IPython shows the value all the same."""
    for source in notebooks.code_of(committed(page)):
        assert not source.rstrip().endswith(";"), f"assign the value to _ instead: {source[-60:]!r}"


FRONT = "---\njupytext:\n  text_representation:\n    format_name: myst\n---\n"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one page that sums, to change and break."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "BOOK", tmp_path / "book")
    page = tmp_path / "book" / "sum.md"
    page.parent.mkdir()
    page.write_text(FRONT + "\n# A sum\n\n```{code-cell} ipython3\nprint(1 + 1)\n```\n")
    return page


WARNING = {"output_type": "stream", "name": "stderr", "text": "UserWarning: no"}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
PRINTED = {"output_type": "stream", "name": "stdout", "text": "2\n"}


def execute_by_hand(page, output=PRINTED, count=1):
    """Write the notebook that an execution gives, without the cost of a kernel."""
    notebook = notebooks.read(page)
    cell = notebook.cells[-1]
    cell.execution_count, cell.outputs = count, [nbformat.from_dict(output)]
    notebooks.write(notebook, page.with_suffix(".ipynb"))


def test_check_finds_what_is_stale_and_what_is_broken(book, capsys):
    assert notebooks.check([book]) == 2  # there is none
    for broken in ({"output": WARNING}, {"output": ERROR}, {"count": 2}, {"count": None}):
        execute_by_hand(book, **broken)
        assert notebooks.check([book]) == 2
    execute_by_hand(book)
    assert notebooks.check([book]) == 0
    book.write_text(book.read_text().replace("# A sum", "# The sum"))
    assert notebooks.check([book]) == 1
    assert "book/sum.md" in capsys.readouterr().out


SHOWN = {"output_type": "execute_result", "data": {"text/plain": "<Axes: >"}, "metadata": {}}
DRAWN = {"output_type": "display_data", "data": {"image/png": "", "text/plain": ""}, "metadata": {}}


@pytest.mark.parametrize(
    "outputs, complaint",
    [
        ([WARNING, DRAWN], "wrote to stderr: UserWarning: no"),
        ([ERROR, DRAWN], "ValueError: no"),
        ([SHOWN, DRAWN], "shows <Axes: > beside its figure: end it with plt.show()"),
        ([], "has a caption and no figure: end it with plt.show()"),
        ([DRAWN], None),
    ],
)
def test_what_a_figure_should_not_show_is_told(outputs, complaint):
    metadata = {"mystnb": {"figure": {"name": "fig-a"}}}
    cell = nbformat.v4.new_code_cell("ax.legend()", metadata=metadata)
    cell.outputs = [nbformat.from_dict(output) for output in outputs]
    assert list(notebooks.complaints(cell)) == ([complaint] if complaint else [])


def test_new_text_keeps_outputs_but_new_code_does_not(book):
    execute_by_hand(book)
    book.write_text(book.read_text().replace("# A sum", "# The sum"))
    notebook = notebooks.keep_outputs(book)
    assert notebook.cells[-1].outputs[0].text == "2\n"
    notebooks.write(notebook, book.with_suffix(".ipynb"))
    assert notebooks.check([book]) == 0
    book.write_text(book.read_text().replace("1 + 1", "1 + 2"))
    with pytest.raises(SystemExit, match="its code has changed"):
        notebooks.keep_outputs(book)


def test_interrupted_writing_leaves_the_old_notebook(book, monkeypatch):
    execute_by_hand(book)
    before = book.with_suffix(".ipynb").read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute_by_hand(book)
    assert book.with_suffix(".ipynb").read_bytes() == before
    assert sorted(p.name for p in book.parent.iterdir()) == ["sum.ipynb", "sum.md"]


def test_unknown_page_is_named(book):
    with pytest.raises(SystemExit, match=r"not an executable page: book/nothing\.md"):
        notebooks.choose(["book/nothing.md"])
