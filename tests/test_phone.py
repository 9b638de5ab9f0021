"""The built book on a phone: every page fits, with letters that can be read."""

import re

import matplotlib.pyplot as plt
import pytest
from browsing import (
    CHAPTERS,
    PHONE,
    ROOT,
    UNFOLD,
    assert_accessible,
    each_page,
    look,
    visit,
)

from icl_gd.book import plots

pytestmark = pytest.mark.site

# Elements that reach past the right edge and are not inside a box that scrolls by itself.
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1 || !e.checkVisibility()) return false;
    for (let box = e.parentElement; box; box = box.parentElement)
        if (!['visible'].includes(getComputedStyle(box).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 160))"""


CUT_IN_LINES = """() =>
    [...document.querySelectorAll(".bd-article mjx-container:not([display])")].filter(formula => {
        const box = formula.closest("p, li, dd");
        return box?.checkVisibility() && getComputedStyle(formula).overflowX !== "auto"
            && formula.getBoundingClientRect().right > box.getBoundingClientRect().right + 1;
    }).map(e => e.textContent)"""


def assert_letters_are_ten_pixels_high(tab, page):
    """In the figures of a chapter."""
    text = (ROOT / page).with_suffix(".md").read_text(encoding="utf-8")
    with plt.rc_context():
        plots.use_style()
        style = [plt.rcParams[size] for size in ("font.size", "axes.titlesize", "legend.fontsize")]
        dots = plt.rcParams["figure.dpi"] / 72
    points = min([*style, *map(float, re.findall(r"(?:font|label)size=([\d.]+)", text))])
    for image in tab.locator(".bd-article .cell_output figure img:visible").all():
        shown = image.evaluate("i => i.getBoundingClientRect().width / i.naturalWidth")
        assert points * dots * shown >= 10, image.get_attribute("alt")


@each_page
def test_phone_never_scrolls_sideways_and_cuts_no_formula(browser, address, page):
    with visit(browser, address + page, PHONE, "dark") as tab:
        if page in CHAPTERS:
            assert_letters_are_ten_pixels_high(tab, page)
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
