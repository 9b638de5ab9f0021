"""In Colab a chapter reads as plain Markdown, with the book's numbers and unchanged code.

Three books are converted: the real one in `_build` (`make book`), a small one that is built here,
whose page holds every construct that a chapter may use, and one whose every page holds a construct
that must not pass. A page's Markdown is rendered, and has to say what the site's page says.
"""

import re
import shutil
import subprocess
import sys
from copy import deepcopy as copy_of
from pathlib import Path

import nbformat
import notebooks
import pytest

pytest.importorskip("jupyter_book", reason="the tools of the book are not installed here")

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

pytestmark = pytest.mark.site
PAGES = notebooks.pages()
each_page = pytest.mark.parametrize("path", PAGES, ids=notebooks.name)
MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)

SMALL = Path(__file__).parent / "small_book"  # every.md holds every construct
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def build(root, *options):
    """Run `jupyter-book build` as the publishing workflow does; what it printed, if it fails."""
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", ".", "-W", "-n", "-q", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.returncode and done.stdout + done.stderr


FOR_COLAB = ("--builder", "custom", "--custom-builder", "colab")


def copy(root):
    """Begin a book: the small one's pages with the real one's configuration."""
    shutil.copytree(SMALL, root, dirs_exist_ok=True)
    for folder in ("_static", "_ext"):
        shutil.copytree(notebooks.BOOK / folder, root / "book" / folder)
    shutil.copy(notebooks.ROOT / "_config.yml", root)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A book with two pages: its root, the source notebook and the one that Colab is given."""
    root = tmp_path_factory.mktemp("book")
    copy(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "ROOT", root)
        source = notebooks.read(root / "book/part/every.md")
    code = [c for c in source.cells if c.cell_type == "code"]
    code[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": DOT})]
    notebooks.write(source, root / "book/part/every.ipynb")
    assert not build(root)
    assert not build(root, *FOR_COLAB)
    return root, source, nbformat.read(root / "_build/colab/book/part/every.ipynb", as_version=4)


@pytest.fixture(scope="module")
def text(small):
    """The text of the small book's page, as Colab is given it."""
    return text_of(small[2])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What is said of a book whose pages must not pass."""
    root = tmp_path_factory.mktemp("bad")
    copy(root)
    names = [f"book/part/bad{number}" for number in range(len(BAD))]
    toc = (root / "_toc.yml").read_text().replace("  - file: book/part/every.ipynb\n", "")
    toc += "".join(f"  - file: {name}.ipynb\n" for name in names)
    (root / "_toc.yml").write_text(toc)
    for name, (bad, _) in zip(names, BAD, strict=True):
        cells = [nbformat.v4.new_markdown_cell(text) for text in ("# Fine", bad)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), root / f"{name}.ipynb")
    return build(root, "--keep-going", *FOR_COLAB)


@pytest.fixture(scope="module")
def real():
    """The folder of the real book's notebooks for Colab, made anew."""
    folder = notebooks.ROOT / "_build/colab"
    shutil.rmtree(folder, ignore_errors=True)
    assert not build(notebooks.ROOT, *FOR_COLAB)
    return folder


def text_of(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def code_of(notebook):
    """Its code cells; the title of a folded one and what folds it are Colab's."""
    cells = [copy_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = re.sub(r"\A# @title .*\n", "", cell.source)
        cell.metadata = {k: v for k, v in cell.metadata.items() if k not in ("cellView", "jupyter")}
    return [dict(cell) for cell in cells]


def folded(notebook):
    """The titles of the cells that the page folds or leaves out; no other cell has one."""
    titles = []
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        fold = {"hide-input", "remove-input"} & set(cell.metadata.get("tags", []))
        assert (cell.metadata.get("cellView") == "form") == bool(fold)
        assert cell.source.startswith("# @title ") == bool(fold)
        if fold:
            titles.append(cell.source.split("\n")[0].removeprefix("# @title "))
    return titles


def article(html):
    """A page of the site: its text and its figures' captions, each number within its equation."""
    page = BeautifulSoup(html, "html.parser").article
    apart = "a.headerlink, script, .icl-view, .icl-drawing, .cell_input, .fn-bracket, .backrefs"
    for part in page.select(f"{apart}, summary:has(.collapsed)"):
        part.decompose()
    for output in page.select(".cell_output"):
        output.replace_with(*output.select("figcaption"))
    for number in page.select(".eqno"):
        number.parent.append(f"\\tag{{{number.extract().text[1:-1]}}}")
    return page


# How the two mark mathematics, and what only notebooks add: a stop after a title, a proof's end.
MARKS = re.compile(r"\\[\[\]()]|\\(begin|end)\{(split|align|aligned)\}|[.∎]")


def words(part):
    return re.findall(r"\w+|[^\w\s]", MARKS.sub(" ", part.get_text(" ")))


def assert_reads_as(site, notebook):
    """The same words and signs in the same order, and the same of them in lists, tables, code."""
    nbformat.validate(notebook)
    origin, *text = text_of(notebook).split("\n\n")
    assert "a page of the book" in origin
    ours, theirs = BeautifulSoup(MARKDOWN.render("\n\n".join(text)), "html.parser"), article(site)
    assert words(ours) == words(theirs)
    for kind in ("h1", "h2, h3", "em", "li", "td, th", "blockquote", ":not(pre) > code", "pre"):
        assert [*map(words, ours.select(kind))] == [*map(words, theirs.select(kind))]
    addresses = [part.get("href") or part["src"] for part in ours.select("a, img")]
    assert all(address.startswith("https://") for address in addresses)


def hidden_figure(cell):
    figure = "figure" in cell.metadata.get("mystnb", {})
    return figure and "hide-input" in cell.metadata.get("tags", [])


@each_page
def test_page_reads_as_on_the_site(real, path):
    name = path.relative_to(notebooks.ROOT).with_suffix(".ipynb")
    source = nbformat.read(notebooks.ROOT / name, as_version=4)
    result = nbformat.read(real / name, as_version=4)
    assert code_of(result) == code_of(source)
    titles = folded(result)
    assert titles[0] == "Installation" and all(len(title) <= 80 for title in titles)
    drawn = [*filter(hidden_figure, source.cells)]
    assert sum(bool(re.fullmatch(r"Fig\. \d+: the code", t)) for t in titles) == len(drawn)
    site = notebooks.ROOT / "_build/html" / name.with_suffix(".html")
    assert_reads_as(site.read_text(encoding="utf-8"), result)


def test_every_page_is_written(real):
    written = {p.relative_to(real).as_posix() for p in real.rglob("*.ipynb")}
    assert written == {notebooks.name(p.with_suffix(".ipynb")) for p in PAGES}


def test_every_construct_reads_as_on_the_site(small):
    root, source, result = small
    assert code_of(result) == code_of(source)
    site = (root / "_build/html/book/part/every.html").read_text(encoding="utf-8")
    assert_reads_as(site, result)


BOOK = "https://icl-gd.github.io/icl-gd/"
OSWALD = "https://arxiv.org/abs/2212.07677"
EXPECTED = [
    f"von Oswald *et al.* [[2003]({OSWALD})]; "
    "A and B [[2002](https://example.org/two)], Akyürek [[2001](https://doi.org/10.1/one)]; "
    f"[[A and B, 2002](https://example.org/two), [von Oswald *et al.*, 2003]({OSWALD})]; "
    "[[Akyürek, 2001](https://doi.org/10.1/one)].",
    f"Equations (1), [(4)]({BOOK}book/part/other.html#equation-eq-other), (3).",
    f"[Theorem 2]({BOOK}book/part/other.html#thm:other), the lemma.",
    f"Exercise 2, [Exercise 3]({BOOK}book/part/other.html#ex:other).\n"
    "Solved: Solution to Exercise 2 (Named).",
    f"[text]({BOOK}book/part/other.html), [References]({BOOK}book/references.html).",
    f"[The other page]({BOOK}book/part/other.html#ch-other), below, [far]",
    f"[page]({BOOK}book/part/other.html), [site](https://example.org/a_b), "
    "[https://example.org](https://example.org).",
    "Footnotes<sup>1</sup>, again<sup>1</sup>, and another<sup>2</sup>.",
    "> Quoted.\n>\n> ***\n>\n> **Note.**\n>\n> Within.\n>\n> ***\n\n",
    "\n\n- tight\n- list\n\n1. one\n2. two\n\n",
    "| left | right |\n| :-- | --: |\n| `a` | \\|x\\| |\n\n",
    "$$\n\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned} \\tag{1}\n$$",
    f"**Fig. 1.** A plot of $x^2$ as in von Oswald *et al.* [[2003]({OSWALD})].",
    "***\n\n**Theorem 1 (Name $x$ of [[Akyürek, 2001](https://doi.org/10.1/one)]).**\n\nThen\n\n"
    "$$\nx = y \\tag{2}\n$$\n\n***\n\n**Note.**\n\nInside.\n\n***\n\n"
    "<details>\n<summary><b>Proof.</b></summary>\n\nTrivial, as (2).\n\n</details>\n\n",
    "<details>\n<summary><b>Remark 1.</b></summary>\n\nRemarked.\n\n</details>",
    "**Proof.**\n\nShort.\n\n∎",
    "<details>\n<summary><b>My fold.</b></summary>\n\nFolded.\n\n</details>",
    "<details>\n<summary><b>My answer.</b></summary>\n\nAnswered.\n\n</details>\n\nSet apart.",
    f"![A descending line.]({BOOK}_images/favicon.svg)\n\n**Fig. 2.** Its caption, (1).",
    "<details>\n<summary><b>Solution to Exercise 2 (Named).</b></summary>\n\nHere $a = b$:\n\n"
    "```python\na = {b}  # {eq}`eq:one` in code stays\n```\n\n$$\na = b\n$$\n\n</details>",
    "3. A list\n\n   $$\n   q = r \\tag{3}\n   $$\n\n4. more",
]


@pytest.mark.parametrize("part", EXPECTED)
def test_what_a_construct_becomes(text, part):
    assert part in text


def test_cells_are_in_the_order_of_the_page(small):
    kinds = [cell.cell_type for cell in small[2].cells]
    assert kinds == ["markdown", *["markdown", "code", "markdown"] * 2, "code"]
    assert folded(small[2]) == ["Fig. 1: the code", "Code: a, b, c, twice"]
    assert small[2].cells[3].source.startswith("**Fig. 1.** A plot")


# What must not pass: what the builder does not know, then what the book itself has to find.
BAD = [
    ("{cite}`one`\n\n```{bibliography}\n```", "no plain Markdown for container ('"),
    ("````{tab-set}\n```{tab-item} A\nB.\n```\n````", "no plain Markdown for container ('"),
    (":::{dropdown}\nFolded.\n:::", "no plain Markdown for container ('"),
    (":::{note}\nText {abbr}`word (a word)`.\n:::", "no plain Markdown for abbreviation ('word')"),
    ("H{sub}`2`O", "no plain Markdown for subscript ('2')"),
    ("```{glossary}\nword\n  Meaning.\n```", "no plain Markdown for glossary ('word"),
    ("```{topic} A topic\nTold.\n```", "no plain Markdown for topic ('A topic"),
    ("```{versionadded} 1.0\n```", "no plain Markdown for versionmodified ('"),
    ("```{list-table}\n* - a\n  - b\n```", "no plain Markdown for a table without a head ("),
    (
        "```{table} Title\n| a |\n|---|\n| b |\n```",
        "no plain Markdown for a title of table ('Title",
    ),
    ("<b>HTML</b>", "no plain Markdown for raw ('<b>')"),
    ("a line\\\nbroken", "no plain Markdown for raw ('<br"),
    ("![](https://example.org/a.png)", "the image https://example.org/a.png"),
    ("{download}`other <other.md>`", "the link "),
    ("[^z]: Of nothing.", "footnotes that nothing refers to: z"),
    ("```{plot} x\n```", "Unknown directive type: 'plot'"),
    ("Text {rolle}`word`.", 'Unknown interpreted text role "rolle"'),
    ("Text {term}`no`.", "term not in glossary: 'no'"),
    ("{cite}`nobody`", 'could not find bibtex key "nobody"'),
    ("{eq}`eq:no`", "equation not found: eq:no"),
    ("{prf:ref}`no`", "prf:ref reference target not found: no"),
    ("{ref}`no`", "undefined label: 'no'"),
    ("{doc}`no`", "unknown document: 'no'"),
    ("{numref}`no`", "undefined label: 'no'"),
    ("```{figure} no.png\n```", "image file not readable: book/part/no.png"),
]


@pytest.mark.parametrize("number", range(len(BAD)), ids=[message for _, message in BAD])
def test_what_must_not_pass_is_named(log, number):
    place = rf"book/part/bad{number}\.ipynb(:\d*)?: "
    said = [line for line in log.splitlines() if re.search(place, line)]
    assert any(BAD[number][1] in line for line in said), said
