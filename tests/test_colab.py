"""In Colab a chapter reads as plain Markdown, with the book's numbers and unchanged code.

Two books are read: the real one in `_build` (`make book`), and a small one that is built here,
whose page holds every construct that a chapter may use.
"""

import html
import re
import shutil
import subprocess
import sys

import nbformat
import notebooks
import pytest

pytest.importorskip("myst_parser", reason="the tools of the book are not installed here")
import colab

pytestmark = pytest.mark.site
PAGES = notebooks.pages()
each_page = pytest.mark.parametrize("path", PAGES, ids=notebooks.name)

RAW = {
    "role": r"\{[\w:+.-]+\}`",
    "directive": r"^[ >]*(`{3,}|~{3,}|:{3,})\{",
    "colon fence": r"^\s*:{3,}",
    "label": r"^\s*\([^\s()]+\)=\s*$",
    "numbered equation": r"\$\$[ ]*\([\w:.-]+\)",
    "footnote": r"\[\^",
    "option": r"^:[\w-]+:",
    "comment": r"^%",
    "link within the book": r"\]\((?!https://)",
}
NUMBERED = "Theorem|Proposition|Lemma|Corollary|Definition|Remark|Exercise|Fig."

HEAD = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""

EVERY = r"""(ch:every)=
# Every construct

Inline $x^2$, and a role in code `` {cite}`a` ``.
{cite:t}`three`; {cite:t}`two,one`; {cite:p}`three,two`; {cite}`one`.
Equations {eq}`eq:one`, {eq}`eq:other`, {eq}`eq:list`.
Figures {numref}`fig:plot`, {numref}`fig:pic`, {numref}`fig:other`.
Statements {prf:ref}`thm:one`, {prf:ref}`thm:other`, {prf:ref}`the lemma <lem:one>`.
Exercises {ref}`ex:two`, {ref}`ex:other`.
Solved: {ref}`sol:two`.
Pages {doc}`other`, {doc}`text <other>`, {doc}`/book/references`.
Places {ref}`ch:every`, {ref}`the
other <ch:other>`, {ref}`ch:other`, [below](#sec), [far](#ch:other).
Footnotes[^x], again[^x], and another[^y].

[^y]: The other, with `code`.

| {eq}`eq:one` | {cite:t}`one` |
|---|---|
| $a$ | {numref}`fig:pic` |

% a comment

**Word** {cite}`one`
: Its definition, {eq}`eq:one`.

**Next**
: Defined
  further.

$$
a &= b \\
  &= c
$$ (eq:one)

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig:plot
    caption: |
      A plot of $x^2$ as in {cite:t}`three`.
  image:
    alt: A line.
tags: [hide-input]
---
plot([1, 2])
```

(sec)=
## A section

[^x]: A footnote with $y$ and {cite:t}`two`.

:::{prf:theorem} Name $x$ of {cite}`one`
:label: thm:one

Then

$$x = y$$ (eq:two)

```{note}
Inside.
```
:::
```{prf:proof}
:class: dropdown
Trivial, as {eq}`eq:two`.
```

```{prf:proposition}
:label: prop:one
Proposed.
```

```{prf:lemma}
:label: lem:one
Helpful.
```

```{prf:corollary}
:label: cor:one
Hence.
```

```{prf:definition} Name
:label: def:one
Defined.
```

```{prf:remark}
:label: rem:one
:class: dropdown
Remarked.
```

```{prf:proof}
Short.
```

:::{note}
Noted {eq}`eq:one`.
:::

:::{tip}
:class: dropdown
Tipped.
:::

:::{important} Starts here
and goes on.
:::

```{warning}
Warned.
```

:::{admonition} My title
:class: tip
Told.
:::

:::{dropdown} My fold
Folded.
:::

```{figure} ../_static/favicon.svg
:name: fig:pic
:alt: A descending line.

Its caption, {eq}`eq:one`.
```

:::{exercise}
:label: ex:one
First.
:::

:::{exercise} Named
:label: ex:two
Second.
:::

````{solution} ex:two
:label: sol:two
:class: dropdown
Here $a = b$:

```python
a = {b}  # {eq}`eq:one` in code stays
```

$$
a = b
$$
````

1. A list

   $$
   q = r
   $$ (eq:list)

2. more
"""

OTHER = """(ch:other)=
# The other page

$$
a = b
$$ (eq:other)

```{prf:theorem}
:label: thm:other
Stated.
```

```{figure} ../_static/favicon.svg
:name: fig:other
:alt: Another.

Another caption.
```

:::{exercise}
:label: ex:other
Do.
:::
"""

FILES = {
    "_toc.yml": "format: jb-book\nroot: book/index\nchapters:\n  - file: book/references\n"
    "  - file: book/part/every.ipynb\n  - file: book/part/other\n",
    "book/index.md": "# Index\n",
    "book/references.md": "# References\n\n```{bibliography}\n```\n",
    "book/part/every.md": HEAD + EVERY,
    "book/part/other.md": OTHER,
    "book/references.bib": r"""
@article{one, title={One}, journal={J}, year={2001}, author={Aky{\"u}rek, Ekin}, doi={10.1/one}}
@article{two, title={Two}, journal={J}, year={2002}, author={A, First and B, Second},
  url={https://example.org/two}}
@article{three, title={Three}, journal={J}, year={2003}, eprint={2212.07677},
  archiveprefix={arXiv}, author={von Oswald, Johannes and B, Second and C, Third}}
""",
}

DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A book with two pages, its source notebook and what Colab is given."""
    root = tmp_path_factory.mktemp("book")
    for folder in ("_static", "_ext"):
        shutil.copytree(notebooks.BOOK / folder, root / "book" / folder)
    shutil.copy(notebooks.ROOT / "_config.yml", root)
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "ROOT", root)
        source = notebooks.read(root / "book/part/every.md")
    (code,) = (c for c in source.cells if c.cell_type == "code")
    code.execution_count = 1
    code.outputs = [nbformat.v4.new_output("display_data", {"image/png": DOT})]
    notebooks.write(source, root / "book/part/every.ipynb")
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", ".", "-W", "-n", "-q"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, source, colab.Page(colab.built(root), "book/part/every")


@pytest.fixture(scope="module")
def text(small):
    """The text of the small book's page, as Colab is given it."""
    _, source, page = small
    return text_of(page.notebook(source))


@pytest.fixture(scope="module")
def environment():
    """What Sphinx knows of the real book."""
    return colab.built(notebooks.ROOT)


def text_of(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def without_code(text):
    text = re.sub(r"^( *)(```+|~~~+)(?!\{).*?^\1\2\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<![`}])(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def assert_plain(notebook):
    text = without_code(text_of(notebook))
    for what, pattern in RAW.items():
        found = re.search(pattern, text, re.MULTILINE)
        assert not found, f"{what}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"
    assert text.count("<details>") == text.count("\n</details>")


def assert_same_code(source, result):
    def code(notebook):
        return [dict(c) for c in notebook.cells if c.cell_type == "code"]

    assert code(source) == code(result)


def assert_same_numbers(result, site):
    article = re.search(r"<article.*?</article>", site, re.DOTALL)[0]
    text = text_of(result)
    assert re.findall(r"\\tag\{(.+?)\}", text) == re.findall(r'class="eqno">\((.+?)\)', article)
    titles = re.findall(rf"(?:\*\*|<b>)((?:{NUMBERED}) [\d.]*\d)", text)
    assert titles == [t.strip() for t in re.findall(r'caption-number">(.+?)</span>', article)]


@each_page
def test_page_is_plain(environment, path):
    source = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    docname = path.relative_to(notebooks.ROOT).with_suffix("").as_posix()
    result = colab.Page(environment, docname).notebook(source)
    nbformat.validate(result)
    assert_plain(result)
    assert_same_code(source, result)
    site = notebooks.ROOT / "_build/html" / f"{docname}.html"
    assert_same_numbers(result, site.read_text(encoding="utf-8"))


def test_every_page_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["colab.py", str(tmp_path)])
    colab.main()
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")}
    assert written == {notebooks.name(p.with_suffix(".ipynb")) for p in PAGES}
    assert len(capsys.readouterr().out.splitlines()) == len(PAGES)


def test_every_construct_is_plain(small):
    root, source, page = small
    result = page.notebook(source)
    nbformat.validate(result)
    assert_plain(result)
    assert_same_code(source, result)
    site = (root / "_build/html/book/part/every.html").read_text(encoding="utf-8")
    assert_same_numbers(result, site)
    # The references too are the book's, wherever they lead.
    for line in ("Equations", "Figures", "Statements", "Exercises", "Pages", "Places"):
        built = re.search(rf"^(?:<p>)?{line} .*?\.(?=\n|</p>)", site, re.MULTILINE | re.DOTALL)[0]
        built = html.unescape(re.sub(r"<[^>]+>", "", built))
        ours = re.search(rf"^{line} .*?\.$", text_of(result), re.MULTILINE | re.DOTALL)[0]
        assert re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", ours).split() == built.split()


BOOK = "https://icl-gd.github.io/icl-gd/"
OSWALD = "https://arxiv.org/abs/2212.07677"
EXPECTED = [
    "Inline $x^2$, and a role in code `` {cite}`a` ``.",
    f"[von Oswald et al. (2003)]({OSWALD}); "
    "[A and B (2002)](https://example.org/two), [Akyürek (2001)](https://doi.org/10.1/one); "
    f"([von Oswald et al., 2003]({OSWALD}); [A and B, 2002](https://example.org/two)); "
    "([Akyürek, 2001](https://doi.org/10.1/one)).",
    f"Equations (1), [(4)]({BOOK}book/part/other.html#equation-eq-other), (3).",
    f"[Theorem 2]({BOOK}book/part/other.html#thm:other), the lemma.",
    f"Exercise 2, [Exercise 3]({BOOK}book/part/other.html#ex:other).\n"
    "Solved: Solution to Exercise 2.",
    f"[text]({BOOK}book/part/other.html), [References]({BOOK}book/references.html).",
    f"[The other page]({BOOK}book/part/other.html#ch-other), below, [far]",
    "Footnotes<sup>1</sup>, again<sup>1</sup>, and another<sup>2</sup>.",
    "\n<sup>2</sup> The other, with `code`.",
    "**Word** ([Akyürek, 2001](https://doi.org/10.1/one))\n\nIts definition, (1).\n\n"
    "**Next**\n\nDefined\nfurther.",
    "| (1) | [Akyürek (2001)](https://doi.org/10.1/one) |\n|---|---|\n| $a$ | Fig. 2 |",
    "$$\n\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned} \\tag{1}\n$$",
    f"**Fig. 1.** A plot of $x^2$ as in [von Oswald et al. (2003)]({OSWALD}).",
    "***\n\n**Theorem 1 (Name $x$ of ([Akyürek, 2001](https://doi.org/10.1/one))).**\n\nThen\n\n"
    "$$\nx = y \\tag{2}\n$$\n\n***\n\n**Note.**\n\nInside.\n\n***\n\n"
    "<details>\n<summary><b>Proof.</b></summary>\n\nTrivial, as (2).\n\n</details>\n\n",
    "<details>\n<summary><b>Remark 1.</b></summary>\n\nRemarked.\n\n</details>",
    "**Proof.**\n\nShort.\n\n∎",
    "**Important.**\n\nStarts here\nand goes on.",
    "**My title.**\n\nTold.",
    "<details>\n<summary><b>My fold.</b></summary>\n\nFolded.\n\n</details>",
    f"![A descending line.]({BOOK}_images/favicon.svg)\n\n**Fig. 2.** Its caption, (1).",
    "**Exercise 2 (Named).**\n\nSecond.",
    "<details>\n<summary><b>Solution to Exercise 2.</b></summary>\n\nHere $a = b$:\n\n"
    "```python\na = {b}  # {eq}`eq:one` in code stays\n```\n\n$$\na = b\n$$\n\n</details>",
    "1. A list\n\n   $$\n   q = r \\tag{3}\n   $$\n\n2. more",
]


@pytest.mark.parametrize("part", EXPECTED)
def test_what_a_construct_becomes(text, part):
    # The author's line breaks stay; here they do not matter between words.
    assert part in text or " ".join(part.split()) in " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```{plot} x\n```", "unknown directive {plot}"),
        ("```{prf:axiom}\n:label: a\nA.\n```", "unknown directive {prf:axiom}"),
        (":::{seealso}\nA.\n:::", "unknown directive {seealso}"),
        ("```{bibliography}\n```", "unknown directive {bibliography}"),
        ("Text {term}`word`.", "unknown role {term}"),
        (":::{note}\nText {abbr}`word`.\n:::", "unknown role {abbr}"),
        ("Text {cite:alp}`one`.", "unknown role {cite:alp}"),
        ("{cite}`nobody`", "citation: nobody"),
        ("{eq}`eq:no`", "equation: eq:no"),
        ("{prf:ref}`no`", "statement :label:: no"),
        ("{ref}`no`", "label: no"),
        ("{doc}`no`", "page: book/part/no"),
        ("{numref}`no`", "figure :name:: no"),
        ("```{prf:lemma}\nNo label.\n```", "missing statement :label:"),
        ("```{exercise}\nNo label.\n```", "missing exercise :label:"),
        ("```{figure} no.png\n```", "no image no.png"),
        ("```{prf:lemma}\n:label: lem:one\n:nonumber:\nA.\n```", "unknown option: nonumber"),
        ("```{note}\n---\nclass: tip\n---\nA.\n```", "unknown option"),
        ("> ```{note}\n> A.\n> ```", "begins within a line"),
        ("[a page](other.md)", "a link within the book"),
        ("![](../_static/favicon.svg)", "a link within the book"),
        ("[^z]: Of nothing.", "footnote [^z]"),
        ("+++", "myst_block_break is not plain Markdown"),
    ],
)
def test_unknown_constructs_are_named(small, text, message):
    page = small[2]
    cells = [nbformat.v4.new_markdown_cell("Fine."), nbformat.v4.new_markdown_cell(text)]
    with pytest.raises(colab.Fault, match=re.escape(message)) as error:
        page.notebook(nbformat.v4.new_notebook(cells=cells))
    assert str(error.value).startswith("book/part/every: cell 2: ")


def test_code_that_looks_like_myst_is_left_alone(small):
    text = "```python\n# {eq}`x`\n(a)=\n```\n\n~~~\n[^x]: y\n~~~\n\n    {ref}`in an indented block`"
    with pytest.raises(colab.Fault, match="code_block"):  # indented code is not used in the book
        small[2].convert(text)
    text = text.rpartition("\n\n")[0]
    assert small[2].convert(text) == text


def test_without_a_built_book_the_message_says_so(tmp_path):
    with pytest.raises(colab.Fault, match="make book"):
        colab.built(tmp_path)
