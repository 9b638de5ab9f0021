"""A Sphinx builder: every executed page as a notebook that reads well in Colab.

    jupyter-book build . --builder custom --custom-builder colab    (into _build/colab)

Colab shows MyST's directives and roles raw, so the notebooks that its button opens are these:
the committed ones, code cells and outputs as they are, and between them the page's text in plain
Markdown. It is read from the resolved document, from which the site's page is made too: numbers,
references and citations are the book's. A node that is not known here is an error that names it.

Code that the page folds or leaves out is folded here too, under a title of one line before it.
"""

import ast
import re
import textwrap
from pathlib import Path

import nbformat
from docutils import nodes
from myst_nb.core.render import base_render_priority
from sphinx.builders import Builder
from sphinx.errors import SphinxError
from sphinx.locale import admonitionlabels
from sphinx.util.logging import get_node_location

# What Markdown would take for markup, and is text.
MARKUP = re.compile(r"[\\`*_$~]|<(?=[a-zA-Z/!])|\](?=[(\[])")
NOTE = re.compile(r"^ *\[\^(\S+)\]:", re.MULTILINE)
MARK = re.compile(r"^(\d*)([-+.)](?=\s)|[#>])", re.MULTILINE)  # at the beginning of a line
FOLDED = {"hide-input", "remove-input"}
COLUMN = {"text-left": ":--", "text-center": ":-:", "text-right": "--:"}


class Fault(SphinxError):
    """What cannot be written for Colab, in words for its author."""

    category = "Not written for Colab"


class Colab(Builder):
    name, format = "colab", "markdown"

    def init(self):
        """Choose among a cell's outputs as the site does: a figure's caption stands with one."""
        self.config.nb_mime_priority_overrides = [
            (self.name, *choice) for choice in base_render_priority()["html"].items()
        ]

    def get_outdated_docs(self):
        return [name for name in self.env.found_docs if self.env.doc2path(name).endswith(".ipynb")]

    def get_target_uri(self, docname, typ=None):
        return f"{self.config.html_baseurl}{docname}.html"

    def get_relative_uri(self, from_, to, typ=None):
        return self.get_target_uri(to)

    def prepare_writing(self, docnames):
        """Collect where the entries of the bibliography lead: a citation goes there directly."""
        self.faults, self.papers = [], {}
        cited = self.env.get_domain("cite").citations
        for docname in {citation.bibliography_key.docname for citation in cited}:
            for entry in self.env.get_and_resolve_doctree(docname, self).findall(nodes.citation):
                for link in entry.findall(nodes.reference):
                    place = f"{self.get_target_uri(docname)}#{entry['ids'][0]}"
                    self.papers[place] = link["refuri"]

    def write_doc(self, docname, doctree):
        source = Path(self.env.doc2path(docname))
        if source.suffix != ".ipynb":
            return
        notebook = nbformat.read(source, as_version=4)
        try:
            all_notes_are_shown(source, doctree, notebook.cells)
            cells = [cell for cell in self.cells(docname, doctree, notebook.cells) if cell]
        except Fault as fault:
            self.faults.append(str(fault))
            return
        notebook.cells = [
            nbformat.v4.new_markdown_cell(cell, id=f"text-{n}") if isinstance(cell, str) else cell
            for n, cell in enumerate(cells)
        ]
        target = Path(self.outdir, f"{docname}.ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)

    def finish(self):
        if self.faults:
            raise Fault("\n".join(self.faults))

    def cells(self, docname, doctree, source):
        """The page: code cells of its notebook, strings of Markdown for the text between them."""
        markdown, url = Markdown(self, docname), self.get_target_uri(docname)
        page = f"a page of the book [{self.config.html_title}]({url})"
        yield f"*This notebook is {page}, where it reads best.*"
        texts, shown = [], 0
        for block in blocks(doctree):
            if block.get("nb_element") != "cell_code":
                texts.append(markdown.text(block))
                continue
            yield join(texts)
            end = block["cell_index"] + 1  # the page leaves out cells tagged `remove-cell`
            figure = next(block.findall(nodes.figure), None)
            number = figure and markdown.number(figure)
            yield from (code(c, number) for c in source[shown:end] if c.cell_type == "code")
            yield from map(markdown.text, block.findall(nodes.caption))
            texts, shown = [], end
        yield join(texts)
        yield from (code(cell) for cell in source[shown:] if cell.cell_type == "code")


def all_notes_are_shown(source, doctree, cells):
    """MyST drops a footnote that nothing refers to, in silence."""
    shown = {name for note in doctree.findall(nodes.footnote) for name in note["names"]}
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    if lost := set(NOTE.findall(text)) - shown:
        raise Fault(f"{source}: footnotes that nothing refers to: {', '.join(sorted(lost))}")


def code(cell, figure=None):
    """A code cell; one that the page folds is a form, which Colab and JupyterLab fold too."""
    if FOLDED.intersection(cell.metadata.get("tags", [])):
        cell.metadata.update(cellView="form", jupyter={"source_hidden": True})
        cell.source = f"# @title {title(cell.source, figure)}\n{cell.source}"
    return cell


def title(source, figure=None):
    """What a folded cell does: the figure that it draws, or what stands in it."""
    if figure:
        return f"{figure}: the code"
    if "%pip" in source:
        return "Installation"
    if "setup.begin(" in source:
        return "Imports and settings"
    if comment := re.match(r"# *(\S.*)", source):
        return comment[1].rstrip(".")
    try:
        names = [name for line in ast.parse(source).body for name in defined(line)]
    except SyntaxError:  # a magic
        names = []
    names = [*dict.fromkeys(names)]
    more = " and more" * (len(names) > 4)
    return "Code" + (f": {', '.join(names[:4])}{more}" if names else "")


def defined(line):
    """The names that a line of a cell defines."""
    if isinstance(line, ast.FunctionDef | ast.ClassDef):
        return [line.name]
    targets = [node for target in getattr(line, "targets", []) for node in ast.walk(target)]
    return [n.id for n in targets if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def blocks(parent):
    """The blocks of a page, in order, out of their sections."""
    for node in parent.children:
        if isinstance(node, nodes.section):
            yield from blocks(node)
        else:
            yield node


def join(texts):
    return "\n\n".join(filter(None, texts)).replace("***\n\n***", "***")


def box(title, body, folded):
    if folded:  # the empty lines let Colab render the Markdown between the tags
        return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"
    return f"***\n\n**{title}**\n\n{body}\n\n***"


class Markdown:
    """The nodes of a page in plain Markdown: each method is named after the class that it writes.

    The class of a node or the first of its bases that has a method decides.
    """

    def __init__(self, builder, docname):
        self.builder, self.env = builder, builder.env
        self.url = builder.get_target_uri(docname)
        self.numbers = builder.env.toc_fignumbers.get(docname, {})

    def text(self, node):
        for kind in type(node).__mro__:
            if method := getattr(self, f"of_{kind.__name__}", None):
                return method(node)
        raise self.fault(node)

    def fault(self, node, what=None):
        what = f"{what or node.tagname} ({node.astext()[:60]!r})"
        return Fault(f"{get_node_location(node)}: no plain Markdown for {what}")

    def blocks(self, node):
        return join(map(self.text, node.children))

    def line(self, node):
        return "".join(map(self.text, node.children))

    def nothing(self, node):
        return ""

    def number(self, node):
        """As in "Fig. 3", "theorem 2" or, of an equation, "1"; empty where there is none."""
        for kind, numbers in self.numbers.items():
            for anchor in numbers.keys() & node["ids"]:
                number = ".".join(map(str, numbers[anchor]))
                return self.builder.config.numfig_format.get(kind, "%s") % number
        return ""

    of_section = of_compound = of_figure = of_legend = blocks
    of_table = of_definition_list = of_definition_list_item = of_definition = blocks
    of_term = of_inline = line
    of_target = of_comment = nothing

    # Blocks

    def of_title(self, node):
        depth, parent = 0, node.parent
        while isinstance(parent, nodes.section):
            depth, parent = depth + 1, parent.parent
        if not depth:
            raise self.fault(node, f"a title of {parent.tagname}")
        return f"{'#' * depth} {self.line(node)}"

    def of_Admonition(self, node):
        title, body = self.number(node) or node.get("realtype", ""), node.children
        if isinstance(body[0], nodes.title):
            title, body = title.capitalize() + self.line(body[0]), body[1:]
        elif node.tagname in admonitionlabels:
            title = admonitionlabels[node.tagname]
        else:
            raise self.fault(node)
        folded = {"dropdown", "solution"} & set(node["classes"])
        return box(f"{title.strip()}.", join(map(self.text, body)), folded)

    def of_proof_node(self, node):
        title, body = self.blocks(node[0]).split(maxsplit=1)
        if "dropdown" in node[0]["classes"]:
            return box(title, body, folded=True)
        return f"**{title}**\n\n{body}\n\n∎"

    def of_container(self, node):
        if node.get("design_component") == "div":  # classes for the site's style alone
            return self.blocks(node)
        if node.get("design_component") != "dropdown" or not node["has_title"]:
            raise self.fault(node)
        return box(f"{self.line(node[0])}.", join(map(self.text, node[1:])), folded=True)

    def of_raw(self, node):
        if not node.astext().lstrip().startswith("<script"):  # sphinx-thebe's, on every page
            raise self.fault(node)
        return ""

    def of_paragraph(self, node):
        return MARK.sub(r"\1\\\2", self.line(node))

    def of_bullet_list(self, node):
        return self.items(node, ("- " for _ in node))

    def of_enumerated_list(self, node):
        return self.items(node, (f"{n}. " for n, _ in enumerate(node, node.get("start", 1))))

    def items(self, node, marks):
        items = [
            mark + textwrap.indent(self.blocks(item), " " * len(mark)).lstrip()
            for mark, item in zip(marks, node, strict=True)
        ]
        return ("\n" if all(len(item) == 1 for item in node) else "\n\n").join(items)

    def of_block_quote(self, node):
        return "\n".join(f"> {line}".rstrip() for line in self.blocks(node).split("\n"))

    def of_tgroup(self, node):
        if not isinstance(node[-2], nodes.thead):
            raise self.fault(node, "a table without a head")
        rows = [[self.cell(entry) for entry in row] for row in node.findall(nodes.row)]
        rule = [COLUMN.get(" ".join(entry["classes"]), "---") for entry in node[-2][0]]
        return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])

    def cell(self, entry):
        return " ".join(self.blocks(entry).split()).replace("|", r"\|")

    def of_literal_block(self, node):
        fence = "`" * max(3, 1 + longest(node))
        language = re.sub("none|default", "", node["language"])
        return f"{fence}{language}\n{node.astext().rstrip()}\n{fence}"

    def of_math_block(self, node):
        content = "\n".join(filter(None, map(str.strip, node.astext().split("\n"))))
        # The book aligns such lines by itself; Colab does so only if it is told.
        if "\\\\" in re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", content, flags=re.DOTALL):
            content = f"\\begin{{aligned}}\n{content}\n\\end{{aligned}}"
        if number := self.number(node):
            content += f" \\tag{{{number}}}"
        return f"$$\n{content}\n$$"

    def of_image(self, node):
        if node["uri"] not in self.env.images:
            raise self.fault(node, f"the image {node['uri']}")
        name = self.env.images[node["uri"]][1]
        return f"![{node.get('alt', '')}]({self.builder.config.html_baseurl}_images/{name})"

    def of_caption(self, node):
        return f"**{self.number(node.parent)}.** {self.line(node)}"

    def of_transition(self, node):
        return "***"

    def of_footnote(self, node):
        return f"<sup>{node[0].astext()}</sup> {join(map(self.text, node[1:]))}"

    # Within a line

    def of_Text(self, node):
        return MARKUP.sub(r"\\\g<0>", node.astext())

    def of_emphasis(self, node):
        return f"*{self.line(node)}*"

    def of_strong(self, node):
        return f"**{self.line(node)}**"

    def of_literal(self, node):
        ticks = "`" * (1 + longest(node))
        space = " " * ("`" in node.astext())
        return f"{ticks}{space}{node.astext()}{space}{ticks}"

    def of_math(self, node):
        return f"${node.astext()}$"

    def of_footnote_reference(self, node):
        return f"<sup>{node.astext()}</sup>"

    def of_reference(self, node):
        text, address = self.line(node), node.get("refuri", "#" * ("refid" in node))
        if address.startswith(("#", self.url)):  # on this page
            return text
        if not address.startswith(("https://", "http://")):
            raise self.fault(node, f"the link {address}")
        return f"[{text}]({self.builder.papers.get(address, address)})"


def longest(node):
    """The length of the longest row of backticks in a node's text."""
    return max(map(len, re.findall("`+", node.astext())), default=0)


def setup(app):
    app.add_builder(Colab)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
