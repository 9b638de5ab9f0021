"""The built book in a browser without a network: every page, wide and narrow, light and dark.

`make book` builds the site that is read here. Without Chromium these tests are skipped, and fail
instead where REQUIRE_CHROMIUM=1.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

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
    assert PAGES, f"there is no book in {SITE}: run `make book`"
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


class Visit:
    """One page, opened with every other host blocked, and what went wrong on the way."""

    def __init__(self, browser, url, size, scheme="light"):
        self.faults = []
        self.tab = browser.new_page(viewport=size, color_scheme=scheme)
        origin = "file:" if url.startswith("file:") else "/".join(url.split("/")[:3]) + "/"
        self.tab.route("**/*", functools.partial(self.let_through, origin))
        self.tab.on("pageerror", lambda e: self.faults.append(f"error in the page: {e}"))
        self.tab.on("console", self.listen)
        self.tab.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url}"))
        self.tab.on("response", self.answered)
        self.tab.goto(url)
        self.tab.evaluate("() => window.MathJax?.startup?.promise.then(() => document.fonts.ready)")

    def let_through(self, origin, route):
        url = route.request.url
        if url.startswith((origin, "data:")):
            route.continue_()
        else:
            self.faults.append(f"asked the network for {url}")
            route.abort()

    def listen(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def answered(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tab.close()


def has_mathematics(page):
    return 'class="math ' in (SITE / page).read_text(encoding="utf-8")


def look(visit, page):
    """What holds on every page, however it is opened."""
    tab = visit.tab
    assert not visit.faults
    assert not tab.locator("mjx-merror, [data-mjx-error]").count()
    if has_mathematics(page):
        rendered = tab.locator(".math mjx-container").count()
        assert rendered == tab.locator(".math").count() > 0
    article = tab.locator("article.bd-article")
    code = "pre, code, script, mjx-container, .highlight"
    text = article.evaluate(
        "(a, code) => { a = a.cloneNode(true);"
        " a.querySelectorAll(code).forEach(e => e.remove()); return a.textContent }",
        code,
    )
    assert not RAW.findall(text)


@each_page
def test_page_reads_offline(browser, address, page):
    with Visit(browser, address + page, DESK) as visit:
        look(visit, page)
        for image in visit.tab.locator("article img").all():
            assert (image.get_attribute("alt") or "").strip(), image.get_attribute("src")
            assert image.evaluate("i => i.complete && i.naturalWidth > 0")


@each_page
def test_phone_never_scrolls_sideways(browser, address, page):
    with Visit(browser, address + page, PHONE, "dark") as visit:
        for scheme in ["dark", "light"]:
            visit.tab.emulate_media(color_scheme=scheme)
            visit.tab.wait_for_selector(f"html[data-theme={scheme}]")
            look(visit, page)
            width = visit.tab.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], visit.tab.evaluate(TOO_WIDE)


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
    with Visit(browser, address + page, size) as visit:
        view = visit.tab.locator("[aria-label='Attention view']")
        tokens, said = view.locator("button[data-t]"), view.locator("p[aria-live]")
        sign = lambda at: f"Token {at} \u201c{tokens.nth(at).text_content()}\u201d: head "
        shares = lambda: [float(share) for _, share, _ in view.evaluate(SHOWN)]
        last = tokens.count() - 1
        tokens.nth(20).hover()
        assert said.text_content().startswith(sign(20))
        assert sum(shares()) == pytest.approx(1, abs=0.03) and not any(shares()[21:])
        tokens.nth(last).click()
        assert said.text_content().startswith(sign(last))
        for key, at in [("ArrowLeft", last - 1), ("Home", 0), ("ArrowRight", 1), ("End", last)]:
            visit.tab.keyboard.press(key)
            assert said.text_content().startswith(sign(at))
            assert tokens.nth(at).evaluate("t => t === document.activeElement")
        heads = view.locator("input")
        names = [head.get_attribute("value") for head in heads.all()]
        for key, head in [("ArrowDown", names[1]), ("ArrowUp", names[0]), ("ArrowUp", names[-1])]:
            visit.tab.keyboard.press(key)
            assert said.text_content().startswith(sign(last) + head)
            assert view.locator("input:checked").get_attribute("value") == head
        heads.nth(2).check()
        assert said.text_content().startswith(sign(last) + names[2])
        share, at, _ = view.locator("output").nth(2).text_content().split(" ", 2)
        colours = shares()
        assert colours.index(max(colours)) == int(at)
        assert f"{100 * max(colours):.0f}%" == share or abs(100 * max(colours) % 1 - 0.5) < 1e-6
        assert not visit.faults


@each_view
def test_attention_view_is_a_picture_without_scripts(browser, address, page):
    """What stands there before any script runs is what the script shows first."""
    pictures = []
    for scripts in (False, True):
        context = browser.new_context(viewport=PHONE, java_script_enabled=scripts)
        tab = context.new_page()
        tab.goto(address + page)
        view = tab.locator("[aria-label='Attention view']")
        tokens = view.locator("button[data-t]")
        styles = [token.get_attribute("style") for token in tokens.all()]
        shares = [float(re.search(r"--a: ?([\d.e-]+)", style)[1]) for style in styles]
        texts = [view.locator(part).all_text_contents() for part in ("output", "p", "code")]
        pictures.append((shares, texts))
        context.close()
    assert pictures[0] == pictures[1]
    assert sum(pictures[0][0]) == pytest.approx(1, abs=0.03)


def test_a_page_reads_from_disk(browser, address):
    page = next(filter(has_mathematics, PAGES))
    with Visit(browser, (SITE / page).as_uri(), DESK) as visit:
        look(visit, page)


def test_the_front_door_leads_to_the_book():
    """`_build/html/index.html`, which `make book` names, is one hop from the book's first page."""
    door = (SITE / "index.html").read_text(encoding="utf-8")
    assert re.search(r'http-equiv="Refresh" content="0; url=book/index\.html"', door)


def test_search_finds_a_chapter_offline(browser, address):
    with Visit(browser, address + "search.html?q=gradient", DESK) as visit:
        visit.tab.locator("#search-results li").first.wait_for()
        assert not visit.faults


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
