"""In Colab a chapter reads as plain Markdown, with the book's numbers and unchanged code.

Three books are converted: the real one in `_build` (`make book`), a small one that is built here,
whose page holds every construct that a chapter may use, and one whose every page holds a construct
that must not pass.
"""

import html
import re
import shutil
import subprocess
import sys

import nbformat
import notebooks
import pytest

pytest.importorskip("jupyter_book", reason="the tools of the book are not installed here")
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
    "link within the book": r"(?<!\\)\]\((?!https://)",
}
NUMBERED = "Theorem|Proposition|Lemma|Corollary|Definition|Remark|Axiom|Exercise|Fig."

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
Links [page](other.md), [site](https://example.org/a_b), <https://example.org>.
Footnotes[^x], again[^x], and another[^y].
Text 2 \* 3 \* 4, \_a\_, \$5 and \$6, \`x\`, a\\b, \<b>, \[a\](b), "quoted" it's.

1986\. A year.

\# No title.

+++

> Quoted.
>
> ```{note}
> Within.
> ```

- tight
- list

| left | right |
|:-----|------:|
| `a`  | \|x\|  |

![A dot.](../_static/favicon.svg)

`` a `tick` ``

    indented code

````
a fence with ```
````

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

```{prf:axiom}
Without a label.
```

```{prf:remark} Name
:nonumber:
Without a number.
```

```{seealso}
Elsewhere.
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

:::{exercise}
:nonumber:
Third.
:::

```{code-cell} ipython3
:tags: [remove-cell]
"not on the page"
```

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


def build(root, *options):
    """Run `jupyter-book build` as the publishing workflow does; what it printed, if it fails."""
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", ".", "-W", "-n", "-q", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.returncode and done.stdout + done.stderr


FOR_COLAB = ("--builder", "custom", "--custom-builder", "colab")


def write(root, files):
    """Begin a book: the real one's configuration and these files."""
    for folder in ("_static", "_ext"):
        shutil.copytree(notebooks.BOOK / folder, root / "book" / folder)
    shutil.copy(notebooks.ROOT / "_config.yml", root)
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A book with two pages: its root, the source notebook and the one that Colab is given."""
    root = tmp_path_factory.mktemp("book")
    write(root, FILES)
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
    names = [f"book/part/bad{number}" for number in range(len(BAD))]
    toc = FILES["_toc.yml"].replace("part/every.ipynb\n  - file: book/part/other", "part/other")
    toc += "".join(f"  - file: {name}.ipynb\n" for name in names)
    write(root, FILES | {"_toc.yml": toc})
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
    assert titles == re.findall(r'caption-number">([^<]*\d) *</span>', article)


@each_page
def test_page_is_plain(real, path):
    name = path.relative_to(notebooks.ROOT).with_suffix(".ipynb")
    source = nbformat.read(notebooks.ROOT / name, as_version=4)
    result = nbformat.read(real / name, as_version=4)
    nbformat.validate(result)
    assert_plain(result)
    assert_same_code(source, result)
    site = notebooks.ROOT / "_build/html" / name.with_suffix(".html")
    assert_same_numbers(result, site.read_text(encoding="utf-8"))


def test_every_page_is_written(real):
    written = {p.relative_to(real).as_posix() for p in real.rglob("*.ipynb")}
    assert written == {notebooks.name(p.with_suffix(".ipynb")) for p in PAGES}


def test_every_construct_is_plain(small):
    root, source, result = small
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
    r"Text 2 \* 3 \* 4, \_a\_, \$5 and \$6, \`x\`, a\\b, \<b>, [a\](b), “quoted” it’s.",
    "\n1986\\. A year.\n\n\\# No title.\n\n>",
    "> Quoted.\n>\n> ***\n>\n> **Note.**\n>\n> Within.\n>\n> ***\n\n",
    "- tight\n- list\n\n",
    "| left | right |\n| :-- | --: |\n| `a` | \\|x\\| |\n\n",
    f"![A dot.]({BOOK}_images/favicon.svg)\n\n`` a `tick` ``\n\n",
    "```\nindented code\n```\n\n````\na fence with ```\n````\n\n",
    "\n<sup>2</sup> The other, with `code`.",
    "**Word** [[Akyürek, 2001](https://doi.org/10.1/one)]\n\nIts definition, (1).\n\n"
    "**Next**\n\nDefined\nfurther.",
    "| (1) | Akyürek [[2001](https://doi.org/10.1/one)] |\n| --- | --- |\n| $a$ | Fig. 2 |",
    "$$\n\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned} \\tag{1}\n$$",
    f"**Fig. 1.** A plot of $x^2$ as in von Oswald *et al.* [[2003]({OSWALD})].",
    "***\n\n**Theorem 1 (Name $x$ of [[Akyürek, 2001](https://doi.org/10.1/one)]).**\n\nThen\n\n"
    "$$\nx = y \\tag{2}\n$$\n\n***\n\n**Note.**\n\nInside.\n\n***\n\n"
    "<details>\n<summary><b>Proof.</b></summary>\n\nTrivial, as (2).\n\n</details>\n\n",
    "<details>\n<summary><b>Remark 1.</b></summary>\n\nRemarked.\n\n</details>",
    "**Proof.**\n\nShort.\n\n∎",
    "**Axiom 1.**\n\nWithout a label.",
    "**Remark (Name).**\n\nWithout a number.",
    "**See also.**\n\nElsewhere.",
    "**Important.**\n\nStarts here\nand goes on.",
    "**My title.**\n\nTold.",
    "<details>\n<summary><b>My fold.</b></summary>\n\nFolded.\n\n</details>",
    f"![A descending line.]({BOOK}_images/favicon.svg)\n\n**Fig. 2.** Its caption, (1).",
    "**Exercise 2 (Named).**\n\nSecond.",
    "**Exercise.**\n\nThird.",
    "<details>\n<summary><b>Solution to Exercise 2 (Named).</b></summary>\n\nHere $a = b$:\n\n"
    "```python\na = {b}  # {eq}`eq:one` in code stays\n```\n\n$$\na = b\n$$\n\n</details>",
    "1. A list\n\n   $$\n   q = r \\tag{3}\n   $$\n\n2. more",
]


@pytest.mark.parametrize("part", EXPECTED)
def test_what_a_construct_becomes(text, part):
    # The author's line breaks stay; here they do not matter between words.
    assert part in text or " ".join(part.split()) in " ".join(text.split())


def test_cells_are_in_the_order_of_the_page(small):
    kinds = [cell.cell_type for cell in small[2].cells]
    assert kinds == ["markdown", "markdown", "code", "markdown", "markdown", "code"]
    assert small[2].cells[3].source.startswith("**Fig. 1.** A plot")


# What must not pass: what the builder does not know, then what the book itself has to find.
BAD = [
    ("{cite}`one`\n\n```{bibliography}\n```", "no plain Markdown for container ('"),
    ("````{tab-set}\n```{tab-item} A\nB.\n```\n````", "no plain Markdown for container ('"),
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
    place = re.escape(f"book/part/bad{number}") + r"\.ipynb:\d*: "
    said = [line for line in log.splitlines() if re.search(place, line)]
    assert any(BAD[number][1] in line for line in said), said
