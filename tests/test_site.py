"""The built book in a browser without a network: every page, wide and narrow, light and dark.

`make book` builds the site that is read here. Without Chromium these tests are skipped, and fail
instead where REQUIRE_CHROMIUM=1.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import threading
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import matplotlib.pyplot as plt
import pytest

from icl_gd.book import plots

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in (SITE / "book").rglob("*.html"))
each_page = pytest.mark.parametrize("page", PAGES)

pytestmark = pytest.mark.site

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
# What MyST, MathJax or docutils would have turned into something else.
RAW = re.compile(
    r"\{(?:cite|eq|ref|doc|numref|prf|code-cell)\b[:\w]*\}|:::|^```|^\.\. \w+:|\\[(\[]|\$\$", re.M
)

# Elements that reach past the right edge and are not inside a box that scrolls by itself.
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1 || !e.checkVisibility()) return false;
    for (let box = e.parentElement; box; box = box.parentElement)
        if (!['visible'].includes(getComputedStyle(box).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 160))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """A local server of the site."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    names = ["chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "no Chromium found: the built site was not looked at"
        (pytest.fail if os.environ.get("REQUIRE_CHROMIUM") == "1" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(browser, url, size, scheme="light"):
    """A tab with a page, every other host blocked; nothing may go wrong until it is left."""
    faults = []
    origin = "file:" if url.startswith("file:") else "/".join(url.split("/")[:3]) + "/"

    def let_through(route):
        if route.request.url.startswith((origin, "data:")):
            return route.continue_()
        faults.append(f"asked the network for {route.request.url}")
        route.abort()

    tab = browser.new_page(viewport=size, color_scheme=scheme)
    tab.route("**/*", let_through)
    tab.on("pageerror", lambda error: faults.append(f"error in the page: {error}"))
    tab.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    tab.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status}: {r.url}"))
    tab.goto(url)
    tab.evaluate("() => window.MathJax?.startup?.promise.then(() => document.fonts.ready)")
    yield tab
    tab.close()
    assert not faults


def has_mathematics(page):
    return 'class="math ' in (SITE / page).read_text(encoding="utf-8")


TEXT = """a => {
    a = a.cloneNode(true);
    a.querySelectorAll("pre, code, script, mjx-container, .highlight").forEach(e => e.remove());
    return a.textContent;
}"""


CUT_FORMULAS = """() =>
    [...document.querySelectorAll('.bd-article :is(div.math, mjx-container[display])')]
    .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.id || e.textContent.slice(0, 60))"""
UNFOLD = """() => {
    document.querySelectorAll("details").forEach(e => { e.open = true; });
    document.querySelectorAll(".toggle-hidden").forEach(e => e.classList.remove("toggle-hidden"));
    dispatchEvent(new Event("resize"));
}"""
CUT_IN_LINES = """() =>
    [...document.querySelectorAll(".bd-article mjx-container:not([display])")].filter(formula => {
        const box = formula.closest("p, li, dd");
        return box?.checkVisibility() && getComputedStyle(formula).overflowX !== "auto"
            && formula.getBoundingClientRect().right > box.getBoundingClientRect().right + 1;
    }).map(e => e.textContent)"""
LOADED = """async i => { i.loading = "eager"; await i.decode(); return i.naturalWidth > 0; }"""
WEIGHTS = "[...document.querySelectorAll('figcaption *')].map(e => getComputedStyle(e).fontWeight)"


# One code token of each kind is enough: their colours are those of a style sheet.
FEW_TOKENS = """() => {
    const seen = new Set();
    for (const token of document.querySelectorAll(":is(.highlight, .sig) span:not([id])")) {
        const key = [token.className, token.closest(".cell_output, .sig")?.className].join();
        if (seen.has(key)) token.replaceWith(...token.childNodes); else seen.add(key);
    }
}"""
BARRIERS = """async options => {
    await Promise.all(document.getAnimations().map(animation => animation.finished));
    options = { ...options, preload: false, resultTypes: ["violations"] };
    const { violations } = await axe.run(document, options);
    return violations.filter(found => ["serious", "critical"].includes(found.impact)).flatMap(
        found => found.nodes.map(node => [found.id, node.html, node.failureSummary]));
}"""


def assert_accessible(tab, scheme, other=None):
    """Nothing serious that axe-core finds, all unfolded; contrast in another scheme too."""
    tab.evaluate(UNFOLD)
    tab.evaluate(FEW_TOKENS)
    tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    looks = [(scheme, {}), (other, {"runOnly": ["color-contrast"]})]
    for colours, options in looks if other else looks[:1]:
        tab.emulate_media(color_scheme=colours)
        tab.wait_for_selector(f"html[data-theme={colours}]")
        found = tab.evaluate(BARRIERS, options)
        assert not found, (colours, len(found), found[:5])


def look(tab, page):
    """What holds on every page, however it is opened."""
    assert not tab.locator("mjx-merror, [data-mjx-error]").count()
    if has_mathematics(page):
        rendered = tab.locator(".math mjx-container").count()
        assert rendered == tab.locator(".math").count() > 0
    assert not RAW.findall(tab.locator("article.bd-article").evaluate(TEXT))


@each_page
def test_page_reads_offline_and_accessibly_with_no_formula_cut(browser, address, page):
    with visit(browser, address + page, DESK) as tab:
        look(tab, page)
        for image in tab.locator("article img").all():
            assert (image.get_attribute("alt") or "").strip(), image.get_attribute("src")
            assert image.evaluate(LOADED)
        assert not tab.evaluate(CUT_FORMULAS)
        assert set(tab.evaluate(WEIGHTS)) <= {"400"}
        tab.set_viewport_size({"width": 1024, "height": 768})
        assert not tab.evaluate(CUT_FORMULAS)
        tab.set_viewport_size(DESK)
        assert_accessible(tab, "light", "dark")


@each_page
def test_phone_never_scrolls_sideways_and_cuts_no_formula(browser, address, page):
    with visit(browser, address + page, PHONE, "dark") as tab:
        for scheme in ["dark", "light"]:
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_selector(f"html[data-theme={scheme}]")
            look(tab, page)
            width = tab.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], tab.evaluate(TOO_WIDE)
        for width in (PHONE["width"], 360):
            tab.set_viewport_size({"width": width, "height": 844})
            tab.evaluate(UNFOLD)
            assert not tab.evaluate(CUT_IN_LINES)
        tab.set_viewport_size(PHONE)
        assert_accessible(tab, "dark")


CHAPTERS = [page for page in PAGES if re.match(r"book/(construction|dynamics|induction)/", page)]
each_chapter = pytest.mark.parametrize("page", CHAPTERS)
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


@each_chapter
def test_chapter_shows_before_it_tells(browser, address, page):
    """A question, what reading takes, a guess, and the first figure on the first screen."""
    with visit(browser, address + page, DESK) as tab:
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


@each_chapter
def test_letters_of_figures_are_ten_pixels_high_on_a_phone(browser, address, page):
    text = (ROOT / page).with_suffix(".md").read_text(encoding="utf-8")
    with plt.rc_context():
        plots.use_style()
        style = [plt.rcParams[size] for size in ("font.size", "axes.titlesize", "legend.fontsize")]
        dots = plt.rcParams["figure.dpi"] / 72
    points = min([*style, *map(float, re.findall(r"(?:font|label)size=([\d.]+)", text))])
    with visit(browser, address + page, PHONE) as tab:
        for image in tab.locator(".bd-article .cell_output figure img:visible").all():
            shown = image.evaluate("i => i.getBoundingClientRect().width / i.naturalWidth")
            assert points * dots * shown >= 10, image.get_attribute("alt")


VIEWED = [p for p in PAGES if 'aria-label="Attention view"' in (SITE / p).read_text("utf-8")]
each_view = pytest.mark.parametrize("page", VIEWED)
SHOWN = """view => [...view.querySelectorAll("[data-t]")].map(
    token => [token.textContent, token.style.getPropertyValue("--a"), token.tabIndex])"""


def test_some_page_has_an_attention_view():
    assert VIEWED


@each_view
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_attention_view_answers(browser, address, page, size):
    """Hovering, tapping and the keyboard choose a token and a head."""
    with visit(browser, address + page, size) as tab:
        view = tab.locator("[aria-label='Attention view']")
        tokens, said = map(view.locator, ("button[data-t]", "p[aria-live]"))
        heads = view.locator("[data-heads] input")
        names = [head.get_attribute("value") for head in heads.all()]
        shares = lambda: [float(share) for _, share, _ in view.evaluate(SHOWN)]

        def tells(at, head=""):
            sign = f"Token {at} \u201c{tokens.nth(at).text_content()}\u201d: head {head}"
            return said.text_content().startswith(sign)

        tokens.nth(20).hover()
        assert tells(20)
        assert sum(shares()) == pytest.approx(1, abs=0.03) and not any(shares()[21:])
        last = tokens.count() - 1
        tokens.nth(last).click()
        assert tells(last)
        for key, at in [("ArrowLeft", last - 1), ("Home", 0), ("ArrowRight", 1), ("End", last)]:
            tab.keyboard.press(key)
            assert tells(at)
            assert tokens.nth(at).evaluate("t => t === document.activeElement")
        for key, head in [("ArrowDown", names[1]), ("ArrowUp", names[0]), ("ArrowUp", names[-1])]:
            tab.keyboard.press(key)
            assert tells(last, head)
            assert view.locator("[data-heads] input:checked").get_attribute("value") == head
        heads.nth(2).check()
        assert tells(last, names[2])
        share, at, _ = view.locator("output").nth(2).text_content().split(" ", 2)
        colours = shares()
        assert colours.index(max(colours)) == int(at)
        assert f"{100 * max(colours):.0f}%" == share or abs(100 * max(colours) % 1 - 0.5) < 1e-6
        look_at_both_models(view, tokens, said)


def look_at_both_models(view, tokens, said):
    """On an example that the late model gets right the early one looks elsewhere and is wrong."""
    right, trap = view.locator("[data-go]").all()
    looks = lambda: re.search(r"looks most at token (\d+)", said.text_content())[1]
    spoken = re.compile(r"model says \u201c(.*)\u201d \(\d+%\); the text says \u201c(.*)\u201d")
    says = lambda: spoken.search(said.text_content()).groups()
    trap.click()
    view.locator("[data-heads] input").first.check()
    assert says()[0] != says()[1] and says()[0] == tokens.nth(int(looks())).text_content()
    right.click()
    assert says()[0] == says()[1] == tokens.nth(int(looks())).text_content()
    there = looks()
    view.get_by_label("Before").check()
    assert said.text_content().count("Before, the model says") == 1
    assert looks() != there and says()[0] != says()[1]


@each_view
def test_attention_view_is_a_picture_without_scripts(browser, address, page):
    """What stands there before any script runs is what the script shows first."""
    pictures = []
    for scripts in (False, True):
        tab = browser.new_context(viewport=PHONE, java_script_enabled=scripts).new_page()
        tab.goto(address + page)
        view = tab.locator("[aria-label='Attention view']")
        styles = [t.get_attribute("style") for t in view.locator("button[data-t]").all()]
        shares = [float(re.search(r"--a: ?([\d.e-]+)", style)[1]) for style in styles]
        texts = [view.locator(part).all_text_contents() for part in ("output", "p", "code")]
        pictures.append((shares, texts))
        tab.context.close()
    assert pictures[0] == pictures[1]
    assert sum(pictures[0][0]) == pytest.approx(1, abs=0.03)


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
CHAPTER = re.compile(r"book/(construction|dynamics|induction)/")


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
