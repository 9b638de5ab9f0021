"""Texts as tokens: merges in their order, words that are known, and the way back."""

import llamas
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icl_gd import _tokenizer, real
from icl_gd._annotations import Misfit


@pytest.fixture(scope="module")
def tiny():
    return real.Tokenizer(llamas.a_llama()[0])


@pytest.mark.parametrize(
    "tokens, merges, message",
    [
        (["a", "a"], [], "tokens must be different"),
        (["a", "▁b"], [], "tokens must be different and of a letter for each byte"),
        (["a", "b"], ["a b"], r"merges must be of two tokens into one, got \('a', 'b'\)"),
        (["a", "ab"], ["a b"], r"merges must be of two tokens into one, got \('a', 'b'\)"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_named(tokens, merges, message):
    meta = llamas.a_llama()[0]
    meta |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    with pytest.raises(ValueError, match=message):
        real.Tokenizer(meta)


def test_merges_are_made_in_their_order(tiny):
    tokenizer = tiny
    assert tokenizer.names == llamas.TOKENS
    assert tokenizer("abcab a1 11") == [7, 5, 6, 4, 3, 4, 4]  # ab, then c; no pair over a word
    assert tokenizer("aabb") == [0, 5, 1]
    assert tokenizer("") == []
    assert tokenizer.text([7, 3, 6]) == "abc  a"
    with pytest.raises(ValueError, match="text must be of bytes that are tokens, got ' xa'"):
        tokenizer("ab xa")


@pytest.mark.parametrize("tokens", [[8], [-1], [0.5]])
def test_numbers_that_are_no_tokens_are_named(tiny, tokens):
    with pytest.raises((ValueError, Misfit), match=r"tokens(\[0\])? must be "):
        tiny.text(tokens)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x3FFF, exclude_categories=["C"])))
@example("def f(x):\n\treturn [x, 'it''s', 1234]  # größer, 数学, ½² Ⅷ \u00a0\u3000\n\n")
def test_text_comes_back(smollm, text):
    tokenizer = smollm[1]
    tokens = tokenizer(text)
    assert tokenizer.text(tokens) == text
    assert all(0 <= token < 49152 for token in tokens)


def test_words_that_are_known():
    """As the tokenizer of SmolLM2 cuts them: every digit, then GPT-2's words."""
    cut = {
        "Hello world": ["Hello", " world"],
        "x  12": ["x", "  ", "1", "2"],
        "a  b": ["a", " ", " b"],
        "it's we'll": ["it", "'s", " we", "'ll"],
        "f_1(x)\n\n  y": ["f", "_", "1", "(", "x", ")", "\n\n ", " y"],
        " !? ": [" !?", " "],
        "½x": ["½", "x"],
    }
    for text, words in cut.items():
        assert [*_tokenizer._words(text)] == words
