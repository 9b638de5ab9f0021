"""HTML figures hold what they are given, escaped, and read before any script runs."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from icl_gd.book import views

TOKENS = ["\0", "if", " a", "<", "b", "&", '"', ":\n    ", "</script>", "\n", "\té"]
SIGNS = ["\ufffd", "if", " a", "<", "b", "&", '"', ":\u23ce", "</script>", "\u23ce", "\u21e5é"]
HEADS = ["0.0", "0.1", "1.0"]


def causal(seed=0, heads=3, n=11):
    patterns = np.tril(np.random.default_rng(seed).exponential(size=(heads, n, n)))
    return patterns / patterns.sum(-1, keepdims=True)


class Read(HTMLParser):
    """What a browser would find: tokens, choices, text; and whether all tags are closed."""

    VOID = ("input", "br")

    def __init__(self, html):
        super().__init__()
        self.open, self.found = [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        entry = {"tag": tag, "text": "", **dict(attrs)}
        self.found.append(entry)
        if tag not in self.VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry["text"] += data

    def all(self, **attributes):
        return [e for e in self.found if all(e.get(k, "-") == v for k, v in attributes.items())]


def data_of(html):
    (line,) = re.findall(r"const \[id, packed, says, first\] = (.*);", html)
    return json.loads(line)


SAYS = [f"word {t}" for t in range(11)]


def readings(before, after=None):
    both = before, before if after is None else after
    return {
        "Before": views.Reading(both[0], [f"no {word}" for word in SAYS]),
        "After": views.Reading(both[1], SAYS),
    }


def attention_view(patterns, at=7, name="a-view", **before):
    given = readings(before.get("before", patterns), patterns)
    return views.attention_view(name, TOKENS, given, HEADS, {"first": at, "<then>": 2})


def test_tokens_are_shown_as_they_are():
    read = Read(attention_view(causal()).html)
    buttons = [b for b in read.all(tag="button") if "data-t" in b]
    assert [b["text"] for b in buttons] == SIGNS
    assert all(b["type"] == "button" and b.get("data-t", 0) is None for b in buttons)
    (code,) = read.all(tag="code")
    assert code["text"] == "".join(s + ("    " if s == ":\u23ce" else "") for s in SIGNS)
    assert len(read.all(tag="br")) == 2


def test_still_picture_is_the_first_head_from_the_token():
    patterns, at = causal(), 7
    view = attention_view(patterns, at)
    read = Read(view.html)
    buttons = [b for b in read.all(tag="button") if "data-t" in b]
    shown = [float(b["style"].removeprefix("--a:")) for b in buttons]
    np.testing.assert_allclose(shown, patterns[0, at], atol=5e-4)
    assert [b["tabindex"] for b in buttons] == ["-1"] * 7 + ["0"] + ["-1"] * 3
    best = patterns[:, at].argmax(1)
    shares = [f"{100 * patterns[h, at, j]:.0f}%" for h, j in enumerate(best)]
    said = [f"{s} {j} \u201c{SIGNS[j]}\u201d" for s, j in zip(shares, best, strict=True)]
    assert [o["text"] for o in read.all(tag="output")] == said
    models, choices = read.all(tag="input")[:2], read.all(tag="input")[2:]
    assert [(m["value"], "checked" in m) for m in models] == [("Before", False), ("After", True)]
    goes = [b for b in read.all(tag="button") if "data-go" in b]
    assert [(b["data-go"], b["text"]) for b in goes] == [("7", "first"), ("2", "<then>")]
    assert [c["value"] for c in choices] == HEADS
    assert [("checked" in c) for c in choices] == [True, False, False]
    assert {c["name"] for c in choices} == {"a-view"}
    (line,) = read.all(**{"aria-live": "polite"})
    assert line["text"] == (
        f"Token 7 \u201c:\u23ce\u201d: head 0.0 looks most at token {best[0]} "
        f"\u201c{SIGNS[best[0]]}\u201d, with {shares[0]} of its attention. "
        f"After, the model says word 7; the text says \u201c{SIGNS[8]}\u201d."
    )


def test_script_has_every_weight_to_a_thousandth():
    patterns = causal(1)
    patterns[2, 5] = np.eye(len(TOKENS))[5]
    others = causal(3)
    name, packed, says, at = data_of(attention_view(patterns, 3, before=others).html)
    assert (name, at) == ("a-view", 3)
    assert says == [[f"no {word}" for word in SAYS], SAYS]
    rows, columns = np.tril_indices(len(TOKENS))
    for text, expected in zip(packed, (others, patterns), strict=True):
        values = [int(text[i : i + 2], 36) / 1000 for i in range(0, len(text), 2)]
        np.testing.assert_allclose(values, expected[:, rows, columns].ravel(), atol=5.001e-4)
    assert max(values) == 1


def test_view_is_small_its_own_and_the_same_every_time():
    n = 48
    reading = views.Reading(causal(2, 4, n), ["\u201ctoken\u201d, 50%"] * n)
    make = lambda name: views.attention_view(
        name, ["tok"] * n, {"Before": reading, "After": reading}, list("abcd"), {"here": 9}
    )
    view = make("one")
    assert len(view.html.encode()) < 35_000
    assert view == make("one") and view.html != make("two").html
    assert Read(view.html).all(id="one") and not Read(make("two").html).all(id="one")
    assert "http" not in view.html and "@import" not in view.html and "url(" not in view.html
    assert view._repr_html_() == view.html
    assert repr(view) == view.alt == "Attention of 4 heads over 48 tokens"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "a view"}, "name must be letters and hyphens, got 'a view'"),
        ({"name": ""}, "name must be letters and hyphens, got ''"),
        ({"tokens": TOKENS[1:]}, r"readings\['Before'\] must have patterns of shape \(3, 10, 10\)"),
        ({"heads": HEADS[1:]}, r"must have patterns of shape \(2, 11, 11\) and 11 words, got"),
        ({"readings": {"One": views.Reading(causal(), SAYS[1:])}}, "and 11 words, got .* and 10"),
        ({"readings": readings(2 * causal())}, "attention must be between 0 and 1"),
        ({"readings": readings(-causal())}, "attention must be between 0 and 1"),
        ({"readings": readings(np.nan * causal())}, "attention must be between 0 and 1"),
        ({"readings": readings(causal().swapaxes(1, 2))}, "patterns must be causal"),
        ({"readings": readings(causal() + 0.1 * np.eye(11, k=1))}, "patterns must be causal"),
        ({"examples": {"a": 11}}, r"examples\['a'\] must be between 0 and 10, got 11"),
        ({"examples": {"a": 0, "b": -1}}, r"examples\['b'\] must be between 0 and 10, got -1"),
    ],
)
def test_bad_views_are_named(change, message):
    good = {
        "name": "v",
        "tokens": TOKENS,
        "readings": readings(causal()),
        "heads": HEADS,
        "examples": {"a": 3},
    }
    with pytest.raises((TypeError, ValueError), match=message):
        views.attention_view(**{**good, **change})


WEIGHTS = np.array([0, 0.1, 0.4, 0.1, 0.3, 0.1])


def test_word_has_its_notes_weights_and_counts():
    view = views.typed_word("a-word", "banana", [0.0, 2.0, 8.0], 1, WEIGHTS)
    read = Read(view.html)
    heads = [th["text"] for th in read.all(tag="th", scope="row")]
    cells = [td["text"] for td in read.all(tag="td")]
    assert heads == ["token", "note", "weight", "after", "a", "b", "n", "answer"]
    assert cells[:18] == [*"banana", "\u2013", *"banan", "", "10", "40", "10", "30", "10"]
    assert cells[18:] == [
        *"abn",
        *"\u00b7\u00b72",
        *"1\u00b7\u00b7",
        *"2\u00b7\u00b7",
        "30%",
        "0%",
        "70%",
    ]
    shaded = [(td["text"], td["style"]) for td in read.all(tag="td") if "style" in td]
    assert shaded[1] == ("40", "--a:0.40") and shaded[-1] == ("70%", "--a:0.70")
    asks = [td["text"] for td in read.all(tag="td", **{"class": "asks"})]
    assert asks == ["a", *"\u00b7\u00b72"]
    (line,) = read.all(**{"aria-live": "polite"})
    assert line["text"] == (
        "\u201ca\u201d was followed 2 times, by \u201cn\u201d 2 of them. At \u03b2 = 2 the largest "
        "share, 70%, goes to \u201cn\u201d."
    )
    assert repr(view) == f"Type a word. {line['text']}"
    assert len(view.html.encode()) < 12_000 and "http" not in view.html


@pytest.mark.parametrize(
    "change, message",
    [
        ({"word": "banane"}, "word must end with a letter that it has before, got 'banane'"),
        ({"at": 3}, "at must be between 0 and 2, got 3"),
        ({"weights": -WEIGHTS}, "weights must be between 0 and 1"),
        ({"weights": WEIGHTS[1:]}, "weights must be Real"),
        ({"name": "1"}, "name must be letters and hyphens, got '1'"),
    ],
)
def test_bad_words_are_named(change, message):
    good = {"name": "w", "word": "banana", "betas": [0.0, 2.0, 8.0], "at": 1, "weights": WEIGHTS}
    with pytest.raises((TypeError, ValueError), match=message):
        views.typed_word(**{**good, **change})


def test_coloured_text_has_each_panel():
    values = np.linspace(-1, 10, len(TOKENS))
    view = views.coloured_text(TOKENS, {"<before>": values, "after": values[::-1]}, 8.0)
    read = Read(view.html)
    spans = [s for s in read.all(tag="span") if "data-t" in s]
    assert [s["text"] for s in spans] == 2 * SIGNS
    shown = [float(s["style"].removeprefix("--a:")) for s in spans]
    expected = np.clip(values / 8, 0, 1)
    np.testing.assert_allclose(shown, [*expected, *expected[::-1]], atol=5.001e-3)
    assert [s["title"] for s in spans[:2]] == ["-1.00", "0.10"]
    assert [p["text"] for p in read.all(tag="p")] == ["08", "<before>", "after"]
    assert unescape(repr(view)) == "11 tokens, coloured for: <before>, after"


@pytest.mark.parametrize(
    "values, limit, message",
    [
        (np.ones(3), 8.0, r"panels must be Mapping\[.*, got {a: float64\[3\]}"),
        (np.full(11, np.inf), 8.0, r"panels\['a'\] must be finite"),
        (np.ones(11), 0.0, "limit must be positive, got 0.0"),
    ],
)
def test_bad_colours_are_named(values, limit, message):
    with pytest.raises((TypeError, ValueError), match=message):
        views.coloured_text(TOKENS, {"a": values}, limit)
