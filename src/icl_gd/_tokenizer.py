"""Texts as tokens of a pretrained model: bytes, merged in a file's own order."""

import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any
from unicodedata import category

from jaxtyping import Array, Int

from icl_gd import _require

# White space as Unicode has it; what stands between is not a number (``_words``).
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORD = re.compile(
    rf"'(?:s|t|re|ve|m|ll|d)| ?[^\W_]+| ?(?:[^\w{SPACE}]|_)+"
    rf"|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
)


def _words(text):
    """A text in pieces that no token crosses: every digit, then words with a space."""
    for number, part in groupby(text, lambda letter: category(letter)[0] == "N"):
        piece = "".join(part)
        yield from piece if number else WORD.findall(piece)


def _letters():
    """A visible letter for every byte, as in the vocabularies of GPT-2 and after."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(256 + n) for n, byte in enumerate(others)}
    return letters | {byte: chr(byte) for byte in visible}


class Tokenizer:
    """Cuts texts into tokens by a file's own merges (Sennrich et al., 2016).

    ``tokenizer(text)`` is a list of tokens. ``names`` are the tokens as the file spells
    them: a letter for a byte, of which ``Ġ`` is a space. Names of control tokens in a
    text are text like any other.
    """

    def __init__(self, meta: dict[str, Any]):
        """From a file's fields; ValueError names one that does not fit."""
        for field, kind in [("model", "gpt2"), ("pre", "smollm")]:
            if (given := meta.get(f"tokenizer.ggml.{field}")) != kind:
                raise ValueError(
                    f"tokenizer.ggml.{field} must be {kind}, got {given!r}"
                )
        self.names = _strings(meta, "tokenizer.ggml.tokens")
        merges = [tuple(m.split(" ")) for m in _strings(meta, "tokenizer.ggml.merges")]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.letters, self.known = _letters(), {}
        self.bytes = {letter: byte for byte, letter in self.letters.items()}
        for pair in merges:
            if len(pair) != 2 or not {*pair, "".join(pair)} <= self.numbers.keys():
                raise ValueError(f"merges must be of two tokens into one, got {pair}")
        if (
            len(self.numbers) < len(self.names)
            or not set("".join(self.names)) <= self.bytes.keys()
        ):
            raise ValueError("tokens must be different and of a letter for each byte")

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text; ValueError for bytes that are no tokens."""
        return [token for word in _words(text) for token in self._of(word)]

    def _of(self, word):
        if word not in self.known:
            parts = [self.letters[byte] for byte in word.encode()]
            if not self.numbers.keys() >= set(parts):
                raise ValueError(f"text must be of bytes that are tokens, got {word!r}")
            self.known[word] = [self.numbers[part] for part in self._merged(parts)]
        return self.known[word]

    def _merged(self, parts):
        """Merges the pair of lowest rank, wherever it stands, until none is left."""
        rank = lambda pair: self.ranks.get(pair, len(self.ranks))
        best = lambda: min(pairwise(parts), key=rank, default=None)
        while (pair := best()) in self.ranks:
            merged = []
            for part in parts:
                if merged and (merged[-1], part) == pair:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return parts

    def text(
        self, tokens: Int[Array, " context"] | Sequence[Int[Array, ""] | int]
    ) -> str:
        """What tokens spell; bytes that are no UTF-8 become replacement characters."""
        tokens = [int(token) for token in tokens]
        _require.between(0, len(self.names) - 1, tokens=tokens)
        letters = "".join(self.names[token] for token in tokens)
        return bytes(self.bytes[letter] for letter in letters).decode(errors="replace")


def _strings(meta, field):
    strings = meta.get(field)
    if not isinstance(strings, list):
        raise ValueError(f"{field} must be a list of strings, got {strings!r:.40}")
    return strings
