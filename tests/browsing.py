"""What tests of the built site share: a visit without a network, and what holds on every page."""

import contextlib
import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in (SITE / "book").rglob("*.html"))
each_page = pytest.mark.parametrize("page", PAGES)

PARTS = re.compile(r"book/(construction|dynamics|induction|online|real)/")
CHAPTERS = [page for page in PAGES if PARTS.match(page)]

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
# What MyST, MathJax or docutils would have turned into something else.
RAW = re.compile(
    r"\{(?:cite|eq|ref|doc|numref|prf|code-cell)\b[:\w]*\}|:::|^```|^\.\. \w+:|\\[(\[]|\$\$", re.M
)


def without_formulas(tab):
    """MathJax, which takes longer than all else of a page, gets an empty script."""
    nothing = {"body": "", "content_type": "text/javascript"}
    tab.route("**/mathjax/**", lambda route: route.fulfill(**nothing))


@contextlib.contextmanager
def visit(browser, url, size, scheme="light", formulas=True):
    """A tab with a page, every other host blocked; nothing may go wrong until it is left."""
    faults = []
    origin = "file:" if url.startswith("file:") else "/".join(url.split("/")[:3]) + "/"

    def let_through(route):
        if route.request.url.startswith((origin, "data:")):
            return route.continue_()
        faults.append(f"asked the network for {route.request.url}")
        route.abort()

    tab = browser.new_page(viewport=size, color_scheme=scheme)
    tab.set_default_timeout(120_000)  # a page waits long where much else runs
    tab.route("**/*", let_through)
    if not formulas:
        without_formulas(tab)
    tab.on("pageerror", lambda error: faults.append(f"error in the page: {error}"))
    tab.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    tab.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status}: {r.url}"))
    tab.goto(url)
    tab.evaluate("() => window.MathJax?.startup?.promise?.then(() => document.fonts.ready)")
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


UNFOLD = """() => {
    document.querySelectorAll("details").forEach(e => { e.open = true; });
    document.querySelectorAll(".toggle-hidden").forEach(e => e.classList.remove("toggle-hidden"));
    dispatchEvent(new Event("resize"));
}"""
# One code token of each kind is enough: their colours are those of a style sheet.
FEW_TOKENS = """() => {
    const seen = new Set();
    for (const token of document.querySelectorAll(":is(.highlight, .sig) span:not([id])")) {
        const key = [token.className, token.closest(".cell_output, .sig")?.className].join();
        if (seen.has(key)) token.replaceWith(...token.childNodes); else seen.add(key);
    }
}"""
# axe-core passes over what is hidden from a screen reader, slowly: thousands of letters that a
# style sheet draws. A blank of their size leaves all else in its place.
BLANK_FORMULAS = """() => {
    const drawn = [...document.querySelectorAll("mjx-math[aria-hidden=true]")];
    const sizes = drawn.map(e => e.getBoundingClientRect());
    drawn.forEach((e, i) => {
        const { width, height } = sizes[i];
        e.replaceChildren();
        e.style.cssText += `display: inline-block; width: ${width}px; height: ${height}px`;
    });
}"""
# Of texts that look alike, in their letters and in what lies behind them, the first.
UNLIKE = """() => {
    const looks = new Map([[null, ""]]), seen = new Set();
    const behind = e => {
        if (!looks.has(e)) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(e);
            const own = [backgroundColor, backgroundImage, opacity].join();
            const none = own === "rgba(0, 0, 0, 0),none,1";
            looks.set(e, (none ? "" : own) + behind(e.parentElement));
        }
        return looks.get(e);
    };
    for (const e of document.querySelectorAll("body, body *")) {
        delete e.dataset.unlike;
        const text = [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!(text || e.matches("input, select, textarea")) || !e.checkVisibility()) continue;
        const { color, fontSize, fontWeight, textShadow } = getComputedStyle(e);
        const key = [color, fontSize, fontWeight, textShadow, behind(e)].join();
        if (!seen.has(key)) e.dataset.unlike = "";
        seen.add(key);
    }
    return seen.size;
}"""
BARRIERS = """async ([within, options]) => {
    await Promise.all(document.getAnimations().map(animation => animation.finished));
    options = { ...options, preload: false, resultTypes: ["violations"] };
    const { violations } = await axe.run(within, options);
    return violations.filter(found => ["serious", "critical"].includes(found.impact)).flatMap(
        found => found.nodes.map(node => [found.id, node.html, node.failureSummary]));
}"""


# Contrast has a look of its own; the others take long and find nothing serious.
ALL_BUT = {
    "rules": {name: {"enabled": False} for name in ("color-contrast", "region", "hidden-content")}
}


def assert_accessible(tab, *schemes):
    """Nothing serious that axe-core finds, all unfolded; the contrast in each scheme."""
    tab.evaluate(UNFOLD)
    tab.evaluate(FEW_TOKENS)
    tab.evaluate(BLANK_FORMULAS)
    tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = tab.evaluate(BARRIERS, ["html", ALL_BUT])
    for scheme in schemes:
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_selector(f"html[data-theme={scheme}]")
        assert tab.evaluate(UNLIKE) > 5
        found += tab.evaluate(BARRIERS, ["[data-unlike]", {"runOnly": ["color-contrast"]}])
    assert not found, (len(found), found[:5])


def look(tab, page):
    """What holds on every page, however it is opened."""
    assert not tab.locator("mjx-merror, [data-mjx-error]").count()
    if has_mathematics(page):
        rendered = tab.locator(".math mjx-container").count()
        assert rendered == tab.locator(".math").count() > 0
    assert not RAW.findall(tab.locator("article.bd-article").evaluate(TEXT))
