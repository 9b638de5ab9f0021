"""Write every executed page as a notebook that reads well in Colab.

    python scripts/colab.py OUT    (after `make book`)

Colab shows MyST's directives and roles raw, so the notebooks that its button opens are these:
the committed ones with their text cells rewritten in plain Markdown. Code cells and outputs
stay as they are. All numbers (equations, theorems, figures, exercises) and addresses are read
from what the build of the book left behind, so they are the book's.

Why not sphinx-tojupyter: tried on a page with every construct of the book, it lost the outputs
and figures of the notebook, the titles of tips and warnings and the folding of solutions, broke
aligned equations and titles of exercises, and it brings a scheduler for clusters (dask) along.

The text is changed only where MyST marks it; all else keeps the author's words. Whatever is
not known here (see `Page.directive` and `Page.role`) is an error that names it, and what comes
out is parsed again and must hold nothing but plain Markdown: a new directive cannot slip through.
"""

import pickle
import posixpath
import re
import sys
from pathlib import Path

import nbformat
import notebooks
from docutils.nodes import make_id
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from pybtex.richtext import Text

BOXES = {"note", "tip", "important", "warning"}
STATEMENTS = {"theorem", "proposition", "lemma", "corollary", "definition", "remark"}
OPTIONS = {"label", "class", "name", "alt", "align", "width", "height", "scale", "figwidth"}
PLAIN = re.compile(
    r"(paragraph|heading|em|strong|link|bullet_list|ordered_list|list_item|blockquote|table|thead"
    r"|tbody|tr|th|td)_(open|close)|inline|text|softbreak|hardbreak|code_inline|image|fence|hr"
    r"|math_inline|math_inline_double|math_block|html_inline|html_block"
)
ROLE = re.compile(
    r"\{(?P<role>[\w:+.-]+)\}(?P<ticks>`+)(?P<target>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<code>`+).+?(?<!`)(?P=code)(?!`)"
    r"|^(?P<margin>[ ]*)\[\^(?P<definition>[^\]\s]+)\]:[ ]*"
    r"|\[\^(?P<footnote>[^\]\s]+)\]"
    r"|\[(?P<words>[^\]]+)\]\(#(?P<label>[^)\s]+)\)",
    re.DOTALL | re.MULTILINE,
)


class Fault(ValueError):
    """What keeps a page from being converted, in words for its author."""


class Page:
    """One page of the built book: `environment` is what Sphinx knows of it."""

    def __init__(self, environment, docname):
        self.env, self.docname = environment, docname
        self.base = environment.config.html_baseurl
        extensions = set(environment.config.myst_enable_extensions)
        self.parser = create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)
        self.statements = getattr(environment, "proof_list", {})
        self.exercises = getattr(environment, "sphinx_exercise_registry", {})
        self.roles = {
            "doc": self.document,
            "eq": self.equation,
            "numref": self.numbered,
            "prf:ref": self.statement,
            "ref": self.reference,
        }
        self.footnotes = []  # in the order in which they are first referred to

    def notebook(self, source):
        """The same notebook with plain Markdown, captions in cells below their figures."""
        result = nbformat.from_dict(source)
        texts = "\n\n".join(c.source for c in source.cells if c.cell_type == "markdown")
        notes = [m["footnote"] for m in ROLE.finditer(texts) if m["footnote"]]
        self.footnotes = list(dict.fromkeys(notes))
        url, title = f"{self.base}{self.docname}.html", self.env.config.html_title
        origin = f"*This notebook is a page of the book [{title}]({url}), where it reads best.*"
        result.cells = [markdown("origin", origin)]
        for number, cell in enumerate(source.cells, 1):
            try:
                if cell.cell_type == "markdown":
                    text = self.convert(cell.source)
                    if text.strip():
                        result.cells.append(nbformat.from_dict({**cell, "source": text}))
                    continue
                result.cells.append(cell)
                figure = cell.metadata.get("mystnb", {}).get("figure")
                if figure:
                    caption = self.caption(figure.get("name"), figure["caption"])
                    result.cells.append(markdown(f"{cell.id}-caption", caption))
            except Fault as fault:
                raise Fault(f"{self.docname}: cell {number}: {fault}") from None
        return result

    def convert(self, text):
        """Plain Markdown that says what this MyST text says."""
        result = self.rewrite(text)
        tokens = self.parser.parse(result)
        for token in tokens + [c for t in tokens for c in t.children or ()]:
            directive = token.type == "fence" and token.info.startswith("{")
            if directive or not PLAIN.fullmatch(token.type):
                what = token.info or token.content or token.meta or token.markup
                raise Fault(f"{token.type} is not plain Markdown: {what}")
            address = token.attrs.get("href") or token.attrs.get("src")
            if address and not address.startswith(("https://", "http://")):
                raise Fault(f"{address}: a link within the book; use {{doc}}, {{ref}} or a figure")
        return result

    def rewrite(self, text):
        lines = text.splitlines()
        changes = {}  # first line: end, new text
        for token in self.parser.parse(text):
            new = self.block(token, lines)
            if new is not None:
                changes.setdefault(token.map[0], (token.map[1], new))  # the outermost block
        result, at = [], 0
        while at < len(lines):
            end, new = changes.get(at, (at + 1, lines[at]))
            at = end
            if new.startswith("\n"):  # a block: one empty line before it and one after
                new = new.strip("\n") + "\n"
                if result and result[-1].strip() and not result[-1].endswith("\n"):
                    result.append("")
                while at < len(lines) and not lines[at].strip():
                    at += 1
            result.append(new)
        return "\n".join(result).strip("\n").replace("***\n\n***\n", "***\n")

    def block(self, token, lines):
        """What replaces the lines of a token; None where they stay."""
        if token.type == "inline":
            return self.prose("\n".join(lines[slice(*token.map)]))
        if token.type in ("myst_target", "myst_line_comment"):
            return ""
        if token.type == "dl_open":  # a definition becomes a paragraph below its term
            listed = "\n".join(lines[slice(*token.map)])
            listed = re.sub(r"^(\S.*)\n+: +", r"\1\n\n", listed, flags=re.MULTILINE)
            return "\n" + self.rewrite(re.sub(r"^(  |: +)", "", listed, flags=re.MULTILINE))
        if token.type in ("math_block", "math_block_label"):
            new = self.display(token)
        elif token.type in ("fence", "colon_fence") and token.info.startswith("{"):
            name, _, argument = token.info[1:].partition("}")
            new = self.directive(name, argument.strip(), token.content)
        else:
            return None
        first = lines[token.map[0]]
        margin = first[: len(first) - len(first.lstrip())]
        if not first.lstrip().startswith(("`", "~", ":", "$")):
            raise Fault(f"begins within a line, put it on its own: {first.strip()}")
        return "\n" + "\n".join((margin + line).rstrip() for line in new.split("\n"))

    def display(self, token):
        lines = (line.strip() for line in token.content.split("\n"))
        content = "\n".join(filter(None, lines))
        # The book aligns such lines by itself; Colab does so only if it is told.
        if "\\\\" in re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", content, flags=re.DOTALL):
            content = f"\\begin{{aligned}}\n{content}\n\\end{{aligned}}"
        if token.type == "math_block_label":
            content += f" \\tag{{{self.equation(token.info)[1].strip('()')}}}"
        return f"$$\n{content}\n$$"

    def directive(self, name, argument, content):
        options, body = split_options(content)
        folded = "dropdown" in options.get("class", "")
        kind = name.removeprefix("prf:")
        if name == "figure":
            return self.figure(argument, options, body)
        if name == "prf:proof":
            title, body = "Proof.", self.rewrite(body) + ("" if folded else "\n\n∎")
            return fold(title, body) if folded else f"**{title}**\n\n{body}"
        if name == "solution":
            return fold(f"Solution to {self.exercise(argument)[1]}.", self.rewrite(body))
        if name.startswith("prf:") and kind in STATEMENTS:
            title = self.statement(options.get("label"))[1]
        elif name == "exercise":
            title = self.exercise(options.get("label"))[1]
        elif name in BOXES:  # what follows their name is the beginning of their text
            title, argument, body = name.title(), "", f"{argument}\n{body}".strip("\n")
        elif name in ("admonition", "dropdown"):
            title, argument, folded = self.prose(argument), "", folded or name == "dropdown"
        else:
            raise Fault(f"unknown directive {{{name}}}")
        title += f" ({self.prose(argument)})." if argument else "."
        return fold(title, self.rewrite(body)) if folded else rule(title, self.rewrite(body))

    def figure(self, path, options, body):
        key = posixpath.normpath(posixpath.join(posixpath.dirname(self.docname), path))
        if key not in self.env.images:
            raise Fault(f"no image {path}")
        address = f"{self.base}_images/{self.env.images[key][1]}"
        image = f"![{options.get('alt', '')}]({address})"
        return f"{image}\n\n{self.caption(options.get('name'), body)}"

    def caption(self, name, text):
        return f"**{self.numbered(name)[1]}.** {self.rewrite(text)}"

    def prose(self, text):
        """Text without blocks: roles and footnotes become plain, code stays."""

        def plain(match):
            if match["role"]:
                return self.role(match["role"], " ".join(match["target"].split()))
            if match["label"]:
                return self.role("ref", f"{match['words']} <{match['label']}>")
            note = match["definition"] or match["footnote"]
            if not note:
                return match[0]
            if note not in self.footnotes:
                raise Fault(f"footnote [^{note}] is never referred to")
            mark = f"<sup>{self.footnotes.index(note) + 1}</sup>"
            return f"\n{match['margin']}{mark} " if match["definition"] else mark

        return ROLE.sub(plain, text)

    def role(self, name, target):
        if name in ("cite", "cite:t", "cite:p"):
            return self.cite(target.split(","), textual=name == "cite:t")
        titled = re.fullmatch(r"(.+?)\s*<([^<>]+)>", target)
        text, target = titled.groups() if titled else (None, target)
        if name not in self.roles:
            raise Fault(f"unknown role {{{name}}}")
        address, own = self.roles[name](target)
        docname, _, anchor = address.partition("#")
        text = text or re.sub(r"([*_`\[\]\\])", r"\\\1", own)
        if docname == self.docname:
            return text
        return f"[{text}]({self.base}{docname}.html{'#' + anchor if anchor else ''})"

    def cite(self, keys, textual):
        cited = []
        known = {c.key: c for c in self.env.domaindata["cite"]["citations"]}
        for key in keys:
            citation = self.look(known, key.strip(), "citation")
            who, year = authors(citation.entry), citation.entry.fields["year"]
            text = f"{who} ({year})" if textual else f"{who}, {year}"
            cited.append(f"[{text}]({self.address(citation)})")
        return ", ".join(cited) if textual else f"({'; '.join(cited)})"

    def address(self, citation):
        fields = citation.entry.fields
        if "doi" in fields:
            return f"https://doi.org/{fields['doi']}"
        if "eprint" in fields:
            return f"https://arxiv.org/abs/{fields['eprint']}"
        entry = f"{citation.bibliography_key.docname}.html#{citation.citation_id}"
        return fields.get("url", self.base + entry)

    # Each of the following gives the address (page#anchor) and the text of a reference.

    def equation(self, label):
        docname = self.look(self.env.domaindata["math"]["objects"], label, "equation")[0]
        anchor = make_id(f"equation-{label}")
        return f"{docname}#{anchor}", f"({self.number(docname, 'displaymath', anchor)})"

    def numbered(self, label):
        docname, anchor, _ = self.label(label, "figure :name:")
        kind = "exercise" if label in self.exercises else "figure"
        number = self.number(docname, kind, anchor)
        return f"{docname}#{anchor}", self.env.config.numfig_format[kind] % number

    def statement(self, label):
        found = self.look(self.statements, label, "statement :label:")
        number = self.number(found["docname"], found["countertype"], label)
        return f"{found['docname']}#{label}", f"{found['realtype'].title()} {number}"

    def exercise(self, label):
        found = self.look(self.exercises, label, "exercise :label:")
        if found["type"] == "solution":
            solved = self.exercise(found["node"]["target_label"])[1]
            return f"{found['docname']}#{label}", f"Solution to {solved}"
        number = self.number(found["docname"], "exercise", label)
        return f"{found['docname']}#{label}", f"Exercise {number}"

    def document(self, path):
        folder = "" if path.startswith("/") else posixpath.dirname(self.docname)
        docname = posixpath.normpath(posixpath.join(folder, path.lstrip("/")))
        return docname, self.look(self.env.titles, docname, "page").astext()

    def reference(self, label):
        if label in self.exercises:
            return self.exercise(label)
        docname, anchor, title = self.label(label, "label")
        return f"{docname}#{anchor}", title

    def label(self, label, kind):
        return self.look(self.env.domaindata["std"]["labels"], (label or "").lower(), kind)

    def look(self, table, label, kind):
        if label not in table:
            raise Fault(f"unknown or missing {kind}: {label}")
        return table[label]

    def number(self, docname, kind, anchor):
        return ".".join(map(str, self.env.toc_fignumbers[docname][kind][anchor]))


def split_options(content):
    """The `:key: value` lines at the head of a directive, and the rest."""
    options, lines = {}, content.split("\n")
    while match := re.fullmatch(r":([\w-]+):(?: +(.*))?", lines[0] if lines else ""):
        options[match[1]] = match[2] or ""
        lines.pop(0)
    unknown = options.keys() - OPTIONS
    if unknown or (lines and lines[0].strip() == "---"):
        raise Fault(f"unknown option: {', '.join(sorted(unknown)) or 'a block between ---'}")
    return options, "\n".join(lines).strip("\n")


def markdown(cell_id, text):
    return nbformat.v4.new_markdown_cell(text, id=cell_id)


def fold(title, body):
    # The blank lines let Colab render the Markdown between the tags.
    return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def rule(title, body):
    return f"***\n\n**{title}**\n\n{body}\n\n***"


def authors(entry):
    people = entry.persons.get("author") or entry.persons["editor"]
    names = [" ".join(p.prelast_names + p.last_names) for p in people]
    names = [Text.from_latex(n).render_as("text") for n in names]
    return " and ".join(names) if len(names) < 3 else f"{names[0]} et al."


def built(root):
    """What Sphinx knows of the book that was last built under `root`."""
    path = root / "_build" / ".doctrees" / "environment.pickle"
    if not path.exists():
        raise Fault("the book is not built, and its numbers are needed: run `make book` first")
    with path.open("rb") as file:
        return pickle.load(file)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/colab.py OUT")
    environment = built(notebooks.ROOT)
    for page in notebooks.pages():
        path = page.relative_to(notebooks.ROOT).with_suffix(".ipynb")
        source = nbformat.read(notebooks.ROOT / path, as_version=4)
        result = Page(environment, path.with_suffix("").as_posix()).notebook(source)
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(result, target)
        print(f"{path}: {len(result.cells)} cells")


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(str(fault))
