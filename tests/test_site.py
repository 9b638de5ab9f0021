"""The built book in a browser without a network: what it shows, prints and finds."""

import re
from urllib.parse import quote

import nbformat
import pytest
from browsing import (
    CHAPTERS,
    DESK,
    PAGES,
    PHONE,
    ROOT,
    SITE,
    assert_accessible,
    each_page,
    has_mathematics,
    look,
    visit,
)

pytestmark = pytest.mark.site

CUT_FORMULAS = """() =>
    [...document.querySelectorAll('.bd-article :is(div.math, mjx-container[display])')]
    .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.id || e.textContent.slice(0, 60))"""
LOADED = """async i => { i.loading = "eager"; await i.decode(); return i.naturalWidth > 0; }"""
WEIGHTS = "[...document.querySelectorAll('figcaption *')].map(e => getComputedStyle(e).fontWeight)"


# Where the first figure begins; the words of the text, without code, formulas and what is folded.
FIGURE_TOP = """() => {
    const figures = document.querySelectorAll(".bd-article :is(" +
        "figure, .icl-view, .icl-drawing, .cell_output img)");
    const first = [...figures].find(figure => figure.checkVisibility());
    return first ? first.getBoundingClientRect().top + scrollY : Infinity;
}"""
CUT_CODE = """() =>
    [...document.querySelectorAll(".bd-article .cell_input .highlight pre")].filter(
        e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map(
        e => e.textContent.split("\\n").reduce((a, b) => a.length > b.length ? a : b))"""
WORDS = """() => {
    const article = document.querySelector(".bd-article").cloneNode(true);
    const aside = "pre, script, style, mjx-container, details, .admonition.dropdown";
    article.querySelectorAll(aside).forEach(e => e.remove());
    return article.textContent.trim().split(/\\s+/).length;
}"""
OPENING = "[...document.querySelectorAll('.bd-article h1 ~ p')].slice(0, 2).map(p => p.innerHTML)"
GUESS = """() => [...document.querySelectorAll(".bd-article p > strong")].filter(
    e => e.textContent === "Guess first." &&
        e.parentElement.nextElementSibling?.matches(".admonition.dropdown")).length"""


def assert_shows_before_it_tells(tab):
    """A question, what reading takes, a guess, and the first figure on the first screen."""
    faults = []
    if (top := tab.evaluate(FIGURE_TOP)) > DESK["height"]:
        faults.append(f"the first figure begins at {top:.0f} px")
    faults += [f"cut at the right: {code}" for code in tab.evaluate(CUT_CODE)]
    question, reading = tab.evaluate(OPENING)
    if not re.fullmatch(r"<em>[^<].*\?</em>", question, re.S):
        faults.append(f"no question in italics at the top, but {question}")
    minutes = re.match(r"<em>(\d*[05]) minutes\. ", reading)
    words = tab.evaluate(WORDS)
    if not minutes or abs(int(minutes[1]) - words / 200) > 5:
        faults.append(f"{words} words, and of the time that they take: {reading[:60]}")
    if words > 3000:
        faults.append(f"{words} words")
    if not tab.evaluate(GUESS):
        faults.append("nothing to guess before its answer is unfolded")
    assert not faults, "\n".join(faults)


@each_page
def test_page_reads_offline_and_accessibly_with_no_formula_cut(browser, address, page):
    with visit(browser, address + page, DESK) as tab:
        look(tab, page)
        if page in CHAPTERS:
            assert_shows_before_it_tells(tab)
        for image in tab.locator("article img").all():
            assert (image.get_attribute("alt") or "").strip(), image.get_attribute("src")
            assert image.evaluate(LOADED)
        assert not tab.evaluate(CUT_FORMULAS)
        assert set(tab.evaluate(WEIGHTS)) <= {"400"}
        tab.set_viewport_size({"width": 1024, "height": 768})
        assert not tab.evaluate(CUT_FORMULAS)
        tab.set_viewport_size(DESK)
        assert_accessible(tab, "light", "dark")


@pytest.mark.parametrize("scheme, pale", [("light", "#bbb"), ("dark", "#444")])
def test_one_pale_text_among_many_is_found(browser, address, scheme, pale):
    with visit(browser, address + CHAPTERS[0], DESK) as tab:
        last = tab.locator(".bd-article section > p:visible").last
        last.evaluate(f"p => {{ p.style.color = '{pale}'; }}")
        with pytest.raises(AssertionError, match="color-contrast"):
            assert_accessible(tab, scheme)


INK = """() => [...document.querySelectorAll(".bd-article :is(h1, h2, p, pre, figcaption)")].map(
    e => Math.max(...getComputedStyle(e).color.match(/[\\d.]+/g).slice(0, 3)))"""
FOLDED = "document.querySelectorAll('.bd-article details:not([open])').length"
CUT = """() => [...document.querySelectorAll(".bd-article .highlight pre")].filter(
    e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""


def test_a_page_in_dark_prints_dark_on_white_unfolded_and_uncut(browser, address):
    page = "book/induction/source.html"
    with visit(browser, address + page, DESK, "dark") as tab:
        tab.wait_for_selector("html[data-theme=dark]")
        assert max(tab.evaluate(INK)) > 200 and tab.evaluate(FOLDED)
        tab.emulate_media(media="print", color_scheme="dark")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert max(tab.evaluate(INK)) < 130
        assert not tab.evaluate(FOLDED) and not tab.evaluate(CUT)
        assert not any(i.is_visible() for i in tab.locator(".icl-view input").all())
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.evaluate(FOLDED)
        assert tab.locator("html[data-theme=dark]").count()


def test_a_page_is_printed_as_pdf(browser, tmp_path):
    """With what was folded, a text that can be searched, an outline, and links to the live book."""
    import pdf
    from pypdf import PdfReader

    name, target = "book/construction/one_step", tmp_path / "one.pdf"
    pdf.write(browser, [name], target)
    printed = PdfReader(target)
    assert [entry["/Title"] for entry in printed.outline if not isinstance(entry, list)] == [
        "I. Attention as gradient descent"
    ]
    text = " ".join(" ".join(page.extract_text() for page in printed.pages).split())
    assert "One layer is one step" in text and "What to remember" in text
    assert "setup.begin" not in text  # folded on the page
    notes = [note.get_object() for page in printed.pages for note in page.get("/Annots", [])]
    leads = [note["/A"]["/URI"] for note in notes if "/URI" in note.get("/A", {})]
    assert leads and all(lead.startswith("https://") for lead in leads)
    assert any("/Dest" in note for note in notes)  # a reference within it


def test_a_page_reads_from_disk(browser, address):
    page = next(filter(has_mathematics, PAGES))
    with visit(browser, (SITE / page).as_uri(), DESK) as tab:
        look(tab, page)


def test_the_front_door_leads_to_the_book():
    """`_build/html/index.html`, which `make book` names, is one hop from the book's first page."""
    door = (SITE / "index.html").read_text(encoding="utf-8")
    assert re.search(r'http-equiv="Refresh" content="0; url=book/index\.html"', door)


FOUND = """list => [...list.querySelectorAll("li")].map(item =>
    [item.querySelector("a").getAttribute("href"), item.querySelector("p.context")?.textContent])"""
CHAPTER = re.compile(r"book/(construction|dynamics|induction|online|real)/")


def search(browser, address, query):
    """What the site finds offline: the address and the excerpt of each result, in order."""
    with visit(browser, f"{address}search.html?q={quote(query)}", DESK) as tab:
        tab.wait_for_selector("#search-results .search-summary:not(:empty)")
        tab.wait_for_load_state("networkidle")
        return tab.locator("#search-results").evaluate(FOUND)


@pytest.mark.parametrize("query", ["GD++", "ICL", "induction head", "gradient descent"])
def test_search_lists_chapters_first_and_shows_their_text(browser, address, query):
    found = search(browser, address, query)
    chapters = [n for n, (place, _) in enumerate(found) if CHAPTER.match(place)]
    api = [n for n, (place, _) in enumerate(found) if place.startswith("book/back/api.html")]
    assert len(chapters) >= 3 and all(n > chapters[-1] for n in api)
    for place, excerpt in found:
        if "api.html#" not in place:
            assert re.match(r"(… )?[^\W_]|(… )?\S+ ", excerpt), (place, excerpt)
            assert not re.match(r"(… )?(Contents|Show code|Hide code|Click to|import )", excerpt)


def test_search_finds_a_function_by_its_name(browser, address):
    place, _ = search(browser, address, "gradient_descent")[0]
    assert place == "book/back/api.html#icl_gd.descent.gradient_descent"


@pytest.mark.parametrize("page", ["search.html?q=softmax", "genindex.html"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_lookup_is_accessible(browser, address, page, size):
    with visit(browser, address + page, size) as tab:
        tab.wait_for_load_state("networkidle")
        assert_accessible(tab, "light", "dark")


def test_the_site_is_small():
    shipped = [path for path in SITE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) < 25e6
    assert not [path for path in shipped if path.suffix == ".map"]


def test_notebooks_to_download_are_whole_and_not_executed():
    offered = sorted((SITE / "_sources").rglob("*.ipynb"))
    assert len(offered) == len(list((ROOT / "book").glob("[!.]*/*.ipynb"))) + 1  # the index
    for path in offered:
        there, here = (
            nbformat.read(place, as_version=4)
            for place in (path, ROOT / path.relative_to(SITE / "_sources"))
        )
        assert [cell.source for cell in there.cells] == [cell.source for cell in here.cells]
        assert not any(cell.get("outputs") for cell in there.cells)


def test_executable_pages_open_in_colab_and_binder():
    """The buttons name the branch that the publishing workflow writes."""
    notebooks = sorted((ROOT / "book").rglob("*.ipynb"))
    assert notebooks
    for path in (p.relative_to(ROOT) for p in notebooks if ".ipynb_checkpoints" not in p.parts):
        html = (SITE / path.with_suffix(".html")).read_text(encoding="utf-8")
        for button in [
            rf'"https://colab\.research\.google\.com/github/[^"]+/blob/colab/{path}"',
            rf'"https://mybinder\.org/v2/gh/[^"]+/colab\?urlpath=[^"]*{path}"',
        ]:
            assert re.search(button, html)


def test_there_is_a_site():
    assert PAGES, f"there is no book in {SITE}: run `make book`"
