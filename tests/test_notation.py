"""The tables of notation say what every letter of every chapter means, and what it is in code."""

import importlib
import inspect
import re
from functools import cache
from typing import NamedTuple

import pytest
from chapters import BOOK, FENCE, ROOT, prose

PAGES = re.findall(
    r"book/((?:construction|dynamics|induction|online|real)/\w+)", (ROOT / "_toc.yml").read_text()
)
PARTS = {
    "Part I": "construction",
    "Part II": "dynamics",
    "Part III": "induction",
    "Part IV": "online",
}
INDICES = set("ijklts")  # below a letter of the tables they make no symbol of their own
GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|"
    "sigma|tau|upsilon|phi|varphi|chi|psi|omega|ell|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|"
    "Phi|Psi|Omega"
)
FONT = r"\\math(?:bb|cal|rm)(?:\s*\{[A-Za-z]\}|\s+[A-Za-z])"
NAME = rf"(?:{FONT}|\\(?:{GREEK})(?![A-Za-z])|[A-Za-z])"
ACCENT = r"\\(?P<accent>bar|hat|tilde|check)\s*"
BRACED = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
STAR = r"\^(?:\\star|\{\\star\})"
TOKEN = re.compile(
    rf"(?:(?:{ACCENT}(?:\{{\s*(?P<in>{NAME})\s*\}}|(?P<on>{NAME})))|(?P<bare>{NAME}))"
    rf"(?P<star>{STAR})?(?:_(?P<sub>{BRACED}|{NAME}|\\[A-Za-z]+|\d))?(?P<late>{STAR})?"
    r"|\\[A-Za-z]+"
)
UNREAD = re.compile(
    r"\\(?:text\w*|operatorname\*?|label|tag|begin|end|math(?:rm|bf|sf))\s*"
    rf"(?!\{{[A-Za-z]\}}){BRACED}|\\\\(?![A-Za-z])"
)


class Letter(NamedTuple):
    """A letter with its accent; what stands below it; whether it has a star."""

    name: str
    below: str = ""
    star: bool = False

    def __str__(self):
        below = f"_{{{self.below}}}" if len(self.below) > 1 else self.below and f"_{self.below}"
        star = r"^\star" if self.star else ""
        return f"${self.name}{below}{star}$"


@cache
def letters(maths):
    """The letters of a formula in order, each with what stands below it."""
    found = []
    for match in TOKEN.finditer(UNREAD.sub(" ", maths)):
        name = match["in"] or match["on"] or match["bare"]
        if name is None:
            continue
        name = re.sub(r"(\\math[a-z]+)[\s{]*([A-Za-z])\}?$", r"\1{\2}", name)
        if match["accent"]:
            name = rf"\{match['accent']}{{{name}}}"
        below = re.sub(r"^\{|\}$|\s", "", match["sub"] or "")
        found.append(Letter(name, below, bool(match["star"] or match["late"])))
    return found


def formulas(text):
    text = re.sub(r"^```+\{math\}(.*?)^```+$", r"$$\1$$", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    both = re.findall(r"\$\$(.*?)\$\$|(?<![\\$])\$([^$]+)\$", text, re.S)
    return ["".join(pair) for pair in both]


@cache
def words(page):
    """What the author says: without code, what it prints, and the page's metadata."""
    text = re.sub(r"\A---\n.*?^---\n", "", prose(BOOK / f"{page}.md"), flags=re.M | re.S)
    return re.sub(r"^```(?:python|text|bash)\n.*?^```$", "", text, flags=re.M | re.S)


@cache
def maths(page):
    """The formulas of the text, of the captions, and on the figures."""
    found = formulas(words(page))
    for cell in FENCE.findall((BOOK / f"{page}.md").read_text("utf-8")):
        caption = re.search(r"^    caption: \|\n(.*?)^  \S", cell, re.M | re.S)
        found += formulas(caption[1]) if caption else []
        drawn = cell[caption.end() :] if caption else cell
        plain = re.sub(r"\{[^{}]*:[^{}]*\}", "", drawn).replace("\\\\", "\\")
        found += re.findall(r"\$([^$\n]+)\$", plain)
    return found


class Entry(NamedTuple):
    symbol: str
    meaning: str
    page: str
    code: str

    def __str__(self):
        return f"${self.symbol}$"


def table(section):
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| $")]
    for cells in rows:
        assert len(cells) == 4, f"a row has four cells: {cells}"
        symbols, meaning, page, code = (cell.strip() for cell in cells)
        (page,) = re.findall(r"\{doc\}`[^`]*?([\w/]+)>?`", page)
        for symbol in re.findall(r"\$([^$]+)\$", symbols):
            yield Entry(symbol, meaning, page, code.strip("`"))


def items(line, page):
    """``$a$, $b$ meaning; $c$ meaning``"""
    for item in line.split(";"):
        symbols, meaning = re.fullmatch(r"\s*((?:\$[^$]+\$(?:, )?)+)\s*(.+?)\.?\s*", item).groups()
        yield from (Entry(one, meaning, page, "") for one in re.findall(r"\$([^$]+)\$", symbols))


SECTIONS = dict(re.findall(r"^## ([^\n:.]+)[^\n]*\n(.*?)(?=^## |\Z)",
                           (BOOK / "notation.md").read_text("utf-8"), re.M | re.S))  # fmt: skip
EVERYWHERE, *OF_PARTS = (list(table(SECTIONS[name])) for name in ("Everywhere", *PARTS))
OF_PARTS = dict(zip(PARTS.values(), OF_PARTS, strict=True))
SIGNS = [entry for line in re.findall(r"^- (.+)$", SECTIONS["Everywhere"], re.M)
         for entry in items(line, "")]  # fmt: skip
LOCAL = {page: [] for page in PAGES}
for page, line in re.findall(r"^- \{doc\}`[^`]*?([\w/]+)>?`: (.+)$",
                             SECTIONS["Letters of one page"], re.M):  # fmt: skip
    LOCAL.setdefault(page, []).extend(items(line, page))
ROWS = [("", row) for row in EVERYWHERE] + [
    (part, row) for part in OF_PARTS for row in OF_PARTS[part]
]


def register(entries):
    """What each symbol of a page means, and the symbols that have been given two meanings."""
    known, twice = {}, []
    for entry in entries:
        parts = letters(entry.symbol)
        for letter in parts:
            if len(parts) > 1 and means(known, letter):  # a product of known letters
                continue
            index = set(letter.below) <= INDICES | set("+-,")
            key = letter._replace(below="") if index else letter
            if key in known and letter.below and entry.code:  # W_t beside W, in a table
                key = letter
            if key in known:
                twice.append(f"{entry} is {known[key].meaning}, and {entry.meaning}")
            known[key] = entry
    return known, twice


def means(known, letter):
    """The symbol that is meant, or None: with all that a letter carries, or with less."""
    name, below, star = letter
    tries = (letter, Letter(name, below), Letter(name, "", star), Letter(name))
    return next((one for one in tries if one in known), None)


def read(known, formula):
    """Pairs of a letter of a formula and the symbol that it is, also of those below letters."""
    for letter in letters(formula):
        symbol = means(known, letter)
        yield letter if symbol else Letter(letter.name), symbol
        if not (symbol and symbol.below):
            yield from read(known, letter.below)


@cache
def registry(page):
    part = page.split("/")[0]
    return register([*EVERYWHERE, *SIGNS, *OF_PARTS.get(part, []), *LOCAL[page]])


def holds(page, entry, formula):
    """Whether a formula of the page contains the symbol of an entry."""
    parts = letters(entry.symbol)
    if len(parts) > 1:
        return squeeze(entry.symbol) in squeeze(formula)
    known, _ = registry(page)
    return any(symbol and known[symbol] == entry for _, symbol in read(known, formula))


def squeeze(formula):
    return re.sub(r"\s|\\[,;:! ]", "", formula)


SMALL = re.compile(
    "that|what|with|from|which|their|this|than|they|have|where|index|indices|conjugate"
)


def stems(text):
    """The first letters of the longer words, which inflection leaves alone."""
    plain = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", " ", text, flags=re.S).lower()
    return {
        word.rstrip("s")[:5]
        for word in re.findall(r"[a-z]{4,}", plain)
        if not SMALL.fullmatch(word)
    }


@cache
def paragraphs(page):
    """The paragraphs of a page, without the signs of directives, but with their titles."""
    text = re.sub(
        r"^(?:`{3,}\{solution\}.*|:[\w-]+:.*|`{3,}(?:\{[\w:-]+\})?)", "", words(page), flags=re.M
    )
    return re.split(r"\n\s*\n", re.sub(r"`[^`\n]*`", "", text))


def introduces(page, entry):
    """Whether the symbol and a word of its meaning stand in one paragraph, or in neighbours."""
    blocks, wanted = paragraphs(page), stems(entry.meaning)
    near = [" ".join(blocks[max(0, i - 1) : i + 2]) for i, block in enumerate(blocks)
            if any(holds(page, entry, formula) for formula in formulas(block))]  # fmt: skip
    return bool(near) and (not wanted or any(wanted & stems(text) for text in near))


def test_letters_are_read():
    read_off = lambda formula: [str(letter) for letter in letters(formula)]
    assert read_off(r"\tfrac12 \bar\eta^\star_{s_i} W_{KQ}") == [
        r"$\bar{\eta}_{s_i}^\star$",
        "$W_{KQ}$",
    ]
    assert read_off(r"\mathbb{E} \lVert \hat y_t \rVert^2") == [r"$\mathbb{E}$", r"$\hat{y}_t$"]
    assert read_off(r"\begin{pmatrix} I_x & 0 \\ a \end{pmatrix}_{\text{on}}") == ["$I_x$", "$a$"]
    assert read_off(r"\dot x + \operatorname{tr} \bar{\mathcal{L}}") == [
        "$x$",
        r"$\bar{\mathcal{L}}$",
    ]


def test_the_tables_are_read():
    assert len(PAGES) > 13 and len(EVERYWHERE) > 5 and len(SIGNS) > 5
    assert all(len(rows) > 5 for rows in OF_PARTS.values())
    assert sum(map(len, LOCAL.values())) > 20
    assert set(LOCAL) == set(PAGES), "a page is listed that is not in _toc.yml"


@pytest.mark.parametrize("page", PAGES)
def test_no_symbol_has_two_meanings_on_a_page(page):
    _, twice = registry(page)
    assert not twice, f"{page}: " + "; ".join(twice)


@pytest.mark.parametrize("page", PAGES)
def test_every_letter_of_a_page_is_registered(page):
    known, _ = registry(page)
    missing = {}
    for formula in maths(page):
        for letter, symbol in read(known, formula):
            if symbol is None:
                missing.setdefault(str(letter), " ".join(formula.split())[:60])
    listed = "".join(f"\n  {letter}, first in ${where}$" for letter, where in missing.items())
    assert not missing, f"{page}: what do these letters mean? (book/notation.md){listed}"


@pytest.mark.parametrize("page", PAGES)
def test_every_letter_in_the_list_of_a_page_occurs_there(page):
    unused = [f"{entry} ({entry.meaning})" for entry in LOCAL[page]
              if not any(holds(page, entry, formula) for formula in maths(page))]  # fmt: skip
    assert not unused, f"{page}: no longer on the page: " + ", ".join(unused)


@pytest.mark.parametrize("sign", SIGNS, ids=str)
def test_every_sign_occurs(sign):
    assert any(holds(page, sign, formula) for page in PAGES for formula in maths(page))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_its_own_letters_mean(page):
    silent = [f"{entry} ({entry.meaning})" for entry in LOCAL[page]
              if any(holds(page, entry, formula) for formula in formulas(words(page)))
              and not introduces(page, entry)]  # fmt: skip
    assert not silent, f"{page}: no word of the meaning stands near " + ", ".join(silent)


@pytest.mark.parametrize(("part", "row"), ROWS, ids=lambda value: str(value))
def test_a_row_names_the_page_that_introduces_its_symbol(part, row):
    of_part = [page for page in PAGES if page.startswith(part)]
    assert row.page in of_part, f"{row}: {row.page} is not a page of this part"
    assert introduces(row.page, row), f"{row.page}: {row} and a word of “{row.meaning}” do not meet"
    earlier = [page for page in of_part[: of_part.index(row.page)]
               if any(holds(page, row, formula) for formula in maths(page))]  # fmt: skip
    assert not earlier, f"{row} occurs already in {earlier[0]}"


@pytest.mark.parametrize("row", [row for _, row in ROWS if row.code != "—"], ids=str)
def test_code_name_exists(row):
    module, path, parameter = re.fullmatch(r"(\w+)\.([\w.]+?)(?:\((\w+)\))?", row.code).groups()
    found = importlib.import_module(f"icl_gd.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    if parameter:
        assert parameter in inspect.signature(found).parameters
