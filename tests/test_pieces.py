"""The pieces that move, in Chromium: controls by keyboard and hand, numbers by the package.

What a figure says after its controls were moved is compared with what the package, or a formula
of the chapter, gives for the same setting, by another route than the page's.
"""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browsing import DESK, PAGES, PHONE, SITE, visit, without_formulas

from icl_gd import flow, moments, online, tasks, theory

pytestmark = pytest.mark.site

PIECES = {
    "two-views": "construction/one_step",
    "scrub": "construction/trained",
    "spectrum-bench": "construction/depth",
    "portrait": "dynamics/emergence",
    "learning-hand": "online/learning_curves",
    "heads-hand": "real/learner",
}
WORDS = {"a-word": "induction/circuit", "bridge-word": "induction/bridge"}
each_piece = pytest.mark.parametrize("name, page", PIECES.items())
each_word = pytest.mark.parametrize("name, page", WORDS.items())


def url(site, page):
    return f"{site}book/{page}.html"


def said(piece):
    return piece.locator("[aria-live]").text_content()


def number(text, before):
    return float(re.search(re.escape(before) + r" ?(-?[\d.]+(?:e[-+]?\d+)?)", text)[1].rstrip("."))


@pytest.fixture
def piece(request, browser, address):
    """Opens a page at a size, and leaves it without a fault."""
    opened = []

    def open_at(name, page, size=DESK):
        context = visit(browser, url(address, page), size, formulas=False)
        opened.append(context)
        return context.__enter__().locator(f"#{name}")

    yield open_at
    for context in opened:
        context.__exit__(None, None, None)


@each_piece
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_control_answers_the_keyboard(piece, name, page, size):
    figure = piece(name, page, size)
    first, drawn = said(figure), figure.locator("path[data-m]").last
    for slider in figure.locator("input[type=range]").all():
        at, shown = slider.input_value(), slider.evaluate("s => s.nextElementSibling.textContent")
        slider.focus()
        for key in ("Home", "End"):
            slider.press(key)
            end = slider.input_value()
            assert end == slider.get_attribute("min" if key == "Home" else "max")
            assert slider.get_attribute("aria-valuetext") in figure.inner_text()
        moved = said(figure), drawn.get_attribute("d")
        slider.press("ArrowLeft")
        assert (said(figure), drawn.get_attribute("d")) != moved
        slider.fill(at)
        assert slider.evaluate("s => s.nextElementSibling.textContent") == shown
    assert said(figure) == first
    choices = figure.locator("input[type=radio]")
    if choices.count():
        for slider in figure.locator("input[type=range]").all():
            slider.fill(str(int(slider.get_attribute("max")) // 2))
        middle = said(figure)
        figure.locator("input[type=radio]:checked").focus()
        figure.page.keyboard.press("ArrowRight")
        assert said(figure) != middle


@each_piece
def test_every_control_answers_a_finger(browser, address, name, page):
    context = browser.new_context(viewport=PHONE, has_touch=True)
    tab = context.new_page()
    without_formulas(tab)
    tab.goto(url(address, page))
    figure = tab.locator(f"#{name}")
    for control in figure.locator("input").all():
        before = said(figure), control.input_value(), control.evaluate("c => c.checked")
        box = control.bounding_box()
        assert box["width"] and box["x"] + box["width"] <= PHONE["width"]
        control.tap(position={"x": box["width"] * 0.93, "y": box["height"] / 2})
        after = said(figure), control.input_value(), control.evaluate("c => c.checked")
        assert after != before or before[2]
    context.close()


@pytest.mark.parametrize("name, page", {**PIECES, **WORDS}.items())
def test_a_piece_is_a_picture_without_its_script(browser, address, name, page):
    """What stands there before any script runs is what the script shows first; it is small."""
    seen = []
    for scripts in (False, True):
        tab = browser.new_context(viewport=PHONE, java_script_enabled=scripts).new_page()
        without_formulas(tab)
        tab.goto(url(address, page))
        figure = tab.locator(f"#{name}")
        html = figure.evaluate("e => e.outerHTML") if scripts else ""
        paths = [p.get_attribute("d") for p in figure.locator("path[data-m]").all()]
        cells = [c.get_attribute("style") for c in figure.locator("i, td[style]").all()]
        shades = [float(re.search(r":\s*(-?[\d.e-]+)", cell)[1]) for cell in cells]
        texts = figure.locator("td, output, [aria-live]").all_text_contents()
        seen.append((paths, np.round(shades, 2).tolist(), texts))
        tab.context.close()
    assert seen[0] == seen[1]
    assert said_in_source(page, name)
    assert len(html.encode()) < 31_000


def said_in_source(page, name):
    html = (SITE / "book" / f"{page}.html").read_text("utf-8")
    return f'id="{name}"' in html and "aria-live" in html


def move(figure, **sliders):
    """Sets sliders, by their order, to the values that they show."""
    for at, value in sliders.items():
        slider = figure.locator("input[type=range]").nth(int(at[1:]))
        shown = slider.get_attribute("data-values").split()
        slider.fill(str(shown.index(f"{value:g}")))


def test_steps_and_layers_are_those_of_the_closed_form(piece):
    """On the line the slope is s (1 - (1 - eta m)^k), with m = mean x^2 and s of least squares."""
    figure = piece("two-views", PIECES["two-views"])
    x = np.array([-1.0, -0.6, -0.25, 0.3, 0.7, 1.0])
    y = 1.3 * x + np.array([0.25, -0.2, 0.3, -0.15, 0.1, -0.3])
    m, s = np.mean(x**2), np.dot(x, y) / np.dot(x, x)
    for depth, eta in [(0, 0.4), (3, 1.2), (8, 5.2)]:
        move(figure, s0=depth, s1=eta)
        slope = s * (1 - (1 - eta * m) ** depth)
        loss = np.mean((slope * x - y) ** 2) / 2
        assert number(said(figure), "slope") == pytest.approx(slope, abs=6e-4)
        assert number(said(figure), "loss") == pytest.approx(loss, rel=1e-4, abs=6e-5)
        assert number(said(figure), "to within") <= 1e-9 * max(1, abs(slope))
        heights = tops(figure, ".points.trained")
        expected = 102 - 94 * np.clip(y - slope * x, -3, 3) / 2
        inside = np.abs(y - slope * x) < 2
        np.testing.assert_allclose(np.array(heights)[inside], expected[inside], atol=0.2)
    assert abs(slope) > 40  # a step that is too long diverges on both sides


def tops(figure, marks):
    d = figure.locator(f"path[data-m]{marks}").first.get_attribute("d")
    return [float(y) for y in re.findall(r"M[-\d.]+ ([-\d.]+)", d)]


def test_training_starts_at_no_prediction_and_ends_at_the_best_step(piece):
    figure = piece("scrub", PIECES["scrub"])
    law = theory.uniform_moments()
    best = theory.gd_loss(theory.best_step(10, 10, law), 10, 10, law)
    nothing = theory.gd_loss(0.0, 10, 10, law)
    for run in ("straight", "by a detour"):
        figure.get_by_label(run).check()
        move(figure, s0=0)
        assert number(said(figure), "loss") == pytest.approx(nothing, abs=6e-4)
        assert abs(number(said(figure), "cosine")) < 0.2
        move(figure, s0=900)
        assert number(said(figure), "loss") == pytest.approx(best, abs=6e-4)
        assert number(said(figure), "of one gradient step") == pytest.approx(best, abs=6e-4)
        assert number(said(figure), "cosine") == 1
        shades = [
            float(re.search(r":\s*(.+?);?$", c.get_attribute("style"))[1])
            for c in figure.locator(".cells").first.locator("i").all()
        ]
        kq = np.reshape(shades, (11, 10))
        np.testing.assert_allclose(kq[:10], kq[0, 0] * np.eye(10), atol=0.02)
    move(figure, s0=360)  # the detour: labels as keys, the rank-one plateau
    rank_one = nothing - (nothing - best) / 10
    assert number(said(figure), "loss") == pytest.approx(rank_one, abs=2e-3)


@cache
def spectra():
    x = np.asarray(tasks.uniform(jax.random.key(3), 40960, 10), float).reshape(-1, 10, 10)
    return np.linalg.eigvalsh(x.mT @ x)


def test_bench_has_the_polynomial_and_its_loss(piece):
    """By p(h) = sin(n theta) / (n sin theta) on h = R sin^2 theta, hyperbolic beyond R."""
    figure = piece("spectrum-bench", PIECES["spectrum-bench"])
    slider = figure.locator("input[type=range]").nth(1)
    reaches = [float(v) for v in slider.get_attribute("data-values").split()]
    law = theory.uniform_moments()
    for method, depth, reach in [
        ("GD", 3, reaches[4]),
        ("GD++", 3, reaches[4]),
        ("GD++", 2, reaches[3]),
        ("GD", 4, reaches[1]),
    ]:
        figure.get_by_label(method, exact=True).check()
        move(figure, s0=depth, s1=reach)
        n = 3**depth if method == "GD++" else 2 * depth + 1
        theta = np.arcsin(np.sqrt(spectra().clip(1e-12) / reach + 0j))
        p = np.real(np.sin(n * theta) / (n * np.sin(theta)))
        loss = 0.5 * law.m2 * np.mean(np.sum(p**2, axis=1))
        assert f"{(n - 1) // 2} zeros" in said(figure)
        assert number(said(figure), ", loss") == pytest.approx(loss, rel=6e-3)
    assert number(said(figure), "Without layers it is") == pytest.approx(5 * law.m2, abs=6e-4)


def test_portrait_ends_where_theory_says(piece):
    figure = piece("portrait", PIECES["portrait"])
    law = moments.kappas(moments.independent(1.0, 3.0, 15.0), 5)
    alpha = flow.limit(100, law)
    least = float(flow.diagonal_loss(alpha, 100, 5, law))
    for a, b, product in [(1.8, 0.6, alpha), (-2.4, 1.2, alpha), (0.6, -0.6, 0.0), (0, 0, 0.0)]:
        move(figure, s0=a, s1=b)
        kept = a**2 - b**2
        assert number(said(figure), "a\u00b2 \u2212 b\u00b2 is") == pytest.approx(kept, abs=6e-3)
        assert number(said(figure), "at the start and") == pytest.approx(kept, abs=2e-2)
        assert number(said(figure), "ab ends at") == pytest.approx(product, abs=2e-3)
        loss = float(flow.diagonal_loss(product, 100, 5, law))
        assert number(said(figure), "the loss at") == pytest.approx(loss, abs=0.11)
    assert number(said(figure), "least:") == pytest.approx(least, abs=0.06)


def test_portrait_starts_where_it_is_pressed(piece):
    figure = piece("portrait", PIECES["portrait"])
    pad = figure.locator("svg[data-pad]")
    unit = pad.bounding_box()["width"] / 320
    x0, x1, y0, y1 = 50, 306, 196, 8
    for a, b in [(1.8, 1.2), (-1.2, 0.6)]:
        x = x0 + (x1 - x0) * (a + 2.6) / 5.2
        y = y0 + (y1 - y0) * (b + 2.6) / 5.2
        pad.click(position={"x": x * unit, "y": y * unit})
        assert said(figure).startswith(f"From ({a:.1f}, {b:.1f})")


def error_by_writes(rule, beta, noise, rho, t, d=10):
    """s - 2 p + 1 with p and s summed over all writes and pairs of writes, for Gaussian keys.

    A write that is j pairs old has been turned j times by I - beta k k^T: by 1 - beta on average,
    by keeps on average of squares; where a later write meets an older one, by 1 - beta (d + 2).
    """
    corrects = float(rule == "delta")
    shrinks, meets = 1 - corrects * beta, 1 - corrects * beta * (d + 2)
    keeps = 1 - corrects * (2 * beta - beta**2 * (d + 2))
    age = np.arange(t)[::-1]
    p = beta * np.sum((rho * shrinks) ** age)
    s = beta**2 * (d + 2 + noise) * np.sum(keeps**age)
    for later in range(t):
        since = np.arange(1, later + 1)
        crossed = rho**since * shrinks ** (since - 1) * meets
        s += 2 * beta**2 * keeps ** age[later] * np.sum(crossed)
    return s - 2 * p + 1


def test_hand_has_the_errors_of_sums_over_writes(piece):
    figure = piece("learning-hand", PIECES["learning-hand"])
    for rule, beta, noise, rho in [
        ("sum", 0.02, 0, 1),
        ("sum", 0.16, 2, 0.9),
        ("delta", 0.08, 0, 1),
        ("delta", 0.12, 0.5, 1),
        ("delta", 0.16, 2, 0.98),
    ]:
        figure.get_by_label(rule, exact=True).check()
        move(figure, s0=beta, s1=noise, s2=rho)
        curve = [error_by_writes(rule, beta, noise, rho, t) for t in range(41)]
        assert number(said(figure), "after 40 pairs") == pytest.approx(
            curve[-1], rel=1e-4, abs=6e-4
        )
        assert number(said(figure), "Least was") == pytest.approx(min(curve), abs=6e-4)
        assert int(number(said(figure), ", after")) == int(np.argmin(curve))
        seen = figure.locator("path[data-m].line.theory").first.get_attribute("d")
        heights = [float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", seen)]
        expected = 196 - 188 * (np.log10(curve[::2]) + 2) / 4
        np.testing.assert_allclose(heights, np.clip(expected, -90, 330), atol=0.4)
        spread = number(said(figure), "is left,")
        state, teacher = run_by_hand(rule, beta, noise, rho)
        assert spread == pytest.approx(np.mean((state - teacher) ** 2), rel=1e-3, abs=6e-4)


def run_by_hand(rule, beta, noise, rho, t=40, d=10):
    """The page's run in a loop of NumPy: the last state, and the last teacher."""
    z = np.random.default_rng(6).normal(size=(1, t, 2 * d + 1))[0]
    state, teacher = np.zeros(d), z[0, d:-1]
    for at, (k, move, epsilon) in enumerate(zip(z[:, :d], z[:, d:-1], z[:, -1], strict=True)):
        teacher = rho * teacher + np.sqrt(1 - rho**2) * move if at else teacher
        answer = state @ k if rule == "delta" else 0.0
        state = state - beta * (answer - teacher @ k - np.sqrt(noise) * epsilon) * k
    return state, teacher


def test_head_is_held_against_least_squares_that_forgets(piece):
    """The shares of the rule are the mesa layer's, for one-hot keys."""
    figure = piece("heads-hand", PIECES["heads-hand"])
    shares = {}
    for order in ("AABB", "BBAA", "BAAA"):
        figure.get_by_label(order, exact=True).check()
        for gamma in (0.4, 1.0, 1.3):
            move(figure, s0=18.6, s1=gamma)
            text = said(figure)
            keys, values = np.eye(13)[[0, 1, 2] * 4], np.zeros((12, 2))
            keys[::3] = np.eye(13)[12]
            values[::3] = np.eye(2)[["AB".index(letter) for letter in order]]
            to_a, newest = (
                online.mesa(np.tile(np.eye(13)[12], (12, 1)), keys, v, 1e-6, min(gamma, 1.0))[-1, 0]
                for v in (values, np.eye(12)[:, 9:10])
            )
            if gamma > 1:  # the layer has no such rate: the formula
                weights = gamma ** np.array([12, 9, 6, 3])
                to_a = weights @ values[::3, 0] / weights.sum()
                newest = weights[-1] / weights.sum()
            rule = re.search(r"gives (\d+)% and (\d+)%\.", text)
            assert [int(part) for part in rule.groups()] == pytest.approx(
                [100 * float(newest), 100 * float(to_a)], abs=0.6
            )
            shares[order] = number(text, "to the newest and")
            off, least = number(text, "They differ in"), number(text, ", in")
            assert 0 <= least <= off <= 100
    assert shares["AABB"] + shares["BBAA"] == pytest.approx(100, abs=12)


@each_word
def test_word_is_answered_by_softmax_attention_on_notes(piece, name, page):
    figure = piece(name, page, PHONE)
    text, slider = figure.locator("input[type=text]"), figure.locator("input[type=range]")
    for word, at in [("mississippi", 4), ("banana", 0), ("abracadabra", 2), ("tattat", 5)]:
        text.fill(word)
        slider.fill(str(at))
        beta = float(slider.get_attribute("aria-valuetext"))
        letters, s = sorted(set(word)), np.array(list(word))
        weights = jax.nn.softmax(beta * jnp.asarray(s[:-1] == s[-1], float))
        shares = np.array([weights[s[1:] == letter].sum() for letter in letters])
        rows = [
            row.locator("td").all_text_contents()
            for row in figure.locator("tbody").nth(1).locator("tr").all()
        ]
        assert rows[0] == letters
        answers = np.array([float(cell.rstrip("%")) for cell in rows[-1]])
        np.testing.assert_allclose(answers, 100 * shares, atol=0.51)
        for row, before in enumerate(letters, 1):
            pairs = [
                sum(word[j : j + 2] == before + after for j in range(len(word) - 1))
                for after in letters
            ]
            assert rows[row] == [str(n) if n else "\u00b7" for n in pairs]
        best = letters[int(np.argmax(shares))]
        assert said(figure).endswith(f"goes to \u201c{best}\u201d.")
    text.fill("q")
    assert said(figure) == "Type two letters or more."


@each_word
def test_any_text_may_be_typed(piece, name, page):
    figure = piece(name, page)
    figure.locator("input[type=text]").fill("<b> &a<b>")
    assert figure.locator("tbody b").count() == 0
    figure.locator("input[type=text]").fill("abc")
    assert "has not been followed by anything yet" in said(figure)


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
    with visit(browser, address + page, size, formulas=False) as tab:
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
    """On an example that one model gets right the other looks elsewhere and is wrong."""
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
    other = view.locator("[data-models] input").first
    other.check()
    assert said.text_content().count(f"{other.get_attribute('value')}, the model says") == 1
    assert looks() != there and says()[0] != says()[1]


@each_view
def test_attention_view_is_a_picture_without_scripts(browser, address, page):
    """What stands there before any script runs is what the script shows first."""
    pictures = []
    for scripts in (False, True):
        tab = browser.new_context(viewport=PHONE, java_script_enabled=scripts).new_page()
        without_formulas(tab)
        tab.goto(address + page)
        view = tab.locator("[aria-label='Attention view']")
        styles = [t.get_attribute("style") for t in view.locator("button[data-t]").all()]
        shares = [float(re.search(r"--a: ?([\d.e-]+)", style)[1]) for style in styles]
        texts = [view.locator(part).all_text_contents() for part in ("output", "p", "code")]
        pictures.append((shares, texts))
        tab.context.close()
    assert pictures[0] == pictures[1]
    assert sum(pictures[0][0]) == pytest.approx(1, abs=0.03)
