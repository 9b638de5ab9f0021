"""Text that every reader has: the source of the running Python's standard library.

The only module that reads it, cuts it into tokens, and draws windows from the tokens.
"""

import sysconfig
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from icl_gd import _require, tasks
from icl_gd._annotations import Scalar

HELD_OUT = 10  # every tenth module


class Library(NamedTuple):
    """Source by module name, split into modules to train on and modules held out."""

    training: dict[str, bytes]
    held_out: dict[str, bytes]


def standard_library() -> Library:
    """Reads the standard library's own modules, in alphabetical order.

    They lie where the running Python keeps them (``sysconfig``). Read are the files
    ``*.py`` in the folder itself, not its packages: so neither tests nor IDLE,
    encodings, or anything installed. Left out are names that begin with an underscore,
    which are generated or private. The tenth, twentieth, ... module is held out. Other
    versions of Python have other modules, so numbers that come from them differ a
    little. Raises ValueError if the folder holds fewer than 20 such files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    named = (p for p in folder.glob("*.py") if not p.name.startswith("_"))
    files = sorted(p for p in named if p.is_file())
    if len(files) < 2 * HELD_OUT:
        raise ValueError(
            f"folder must hold the source of the standard library (at least "
            f"{2 * HELD_OUT} modules), found {len(files)} files *.py in {folder}: this "
            "Python was installed without its sources"
        )
    texts = {p.stem: p.read_bytes().replace(b"\r\n", b"\n") for p in files}
    held_out = dict(list(texts.items())[HELD_OUT - 1 :: HELD_OUT])
    return Library({m: t for m, t in texts.items() if m not in held_out}, held_out)


def _merge(tokens, pair, new):
    """Writes ``new`` for every occurrence of a pair, from left to right."""
    at = np.flatnonzero((tokens[:-1] == pair[0]) & (tokens[1:] == pair[1]))
    # In a run such as aaaa every second occurrence overlaps with the one before.
    first = np.flatnonzero(np.diff(at, prepend=-2) > 1)  # mutant: any number below -1
    run = np.repeat(at[first], np.diff(np.append(first, len(at))))
    at = at[(at - run) % 2 == 0]  # 2 mutants: the same parity
    tokens = tokens.copy()
    tokens[at] = new
    return np.delete(tokens, at + 1)


def byte_pairs(text: bytes, merges: int) -> Int[np.ndarray, "{merges} 2"]:
    """Finds the pairs of tokens to be merged, in order: byte-pair encoding.

    Tokens 0 to 255 are bytes; merge m writes token 256 + m for the pair that is most
    frequent (of several the one with the smallest numbers) in the text as merged so
    far. Gage (1994); Sennrich et al. (2016). Raises ValueError when the text has no
    more pairs to merge.
    """
    _require.at_least(1, merges=merges)
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    pairs = []
    base = 256 + merges  # 2 mutants: any base above the tokens will do
    for m in range(merges):
        if len(tokens) < 2:
            raise ValueError(f"text must have pairs for {merges} merges, it had {m}")
        counts = np.bincount(tokens[:-1] * base + tokens[1:])
        pairs.append(divmod(counts.argmax(), base))
        tokens = _merge(tokens, pairs[m], 256 + m)
    return np.array(pairs, np.int32)


def encode(text: bytes, pairs: Int[np.ndarray, "merges 2"]) -> Int[np.ndarray, " n"]:
    """Cuts a text into tokens: its bytes, with all merges made in order.

    Raises ValueError for a pair of tokens that no earlier merge has made.
    """
    _require_pairs(pairs)
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    for m, pair in enumerate(pairs):
        tokens = _merge(tokens, pair, 256 + m)
    return tokens


def _require_pairs(pairs):
    for m, pair in enumerate(pairs):
        if not ((pair >= 0) & (pair < 256 + m)).all():
            raise ValueError(
                f"pairs[{m}] must be tokens from 0 to {255 + m}, got {pair}"
            )


class Encoded(NamedTuple):
    """A library as tokens, and the pairs that were merged into them."""

    training: Int[np.ndarray, " n"]
    held_out: Int[np.ndarray, " m"]
    pairs: Int[np.ndarray, "merges 2"]


def encoded(library: Library, merges: int) -> Encoded:
    """Cuts both parts of a library into tokens, its modules joined by line breaks.

    The pairs are those of the first million bytes that are to train on.
    """
    training, held_out = (b"\n".join(part.values()) for part in library)
    pairs = byte_pairs(training[:1_000_000], merges)
    return Encoded(encode(training, pairs), encode(held_out, pairs), pairs)


def spellings(pairs: Int[np.ndarray, "merges 2"]) -> list[bytes]:
    """What each token stands for; their spellings joined are the text.

    Raises ValueError for a pair of tokens that no earlier merge has made.
    """
    _require_pairs(pairs)
    words = [bytes([byte]) for byte in range(256)]
    for left, right in pairs:
        words.append(words[left] + words[right])
    return words


def window(
    key: Key[Array, ""], tokens: Int[Array, " n"], length: int
) -> Int[Array, " {length}"]:
    """Draws ``length`` tokens in a row from a text, every place equally likely.

    Tokens are not looked at.
    """
    _require.between(1, len(tokens), length=length)
    start = jax.random.randint(key, (), 0, len(tokens) - length + 1)
    return jax.lax.dynamic_slice(tokens, (start,), (length,))


def tiled(key: Key[Array, ""], tokens: Int[Array, " n"]) -> Int[Array, " n"]:
    """Repeats the beginning of a window until the window is full.

    The period is drawn from n/4 to n/2, each equally likely, so that the place of an
    earlier occurrence cannot be learned as a distance. n >= 4.
    """
    n = len(tokens)
    _require.at_least(4, n=n)
    period = jax.random.randint(key, (), n // 4, n // 2 + 1)
    return tokens[jnp.arange(n) % period]


def begun(tokens: Int[Array, " n"]) -> Int[Array, " 1+n"]:
    """Token 0, with which every sequence begins, and after it the tokens."""
    return jnp.pad(tokens, (1, 0))


def mixed(
    key: Key[Array, ""], tokens: Int[Array, " n"], length: int, share: Scalar
) -> Int[Array, " {length}"]:
    """Token 0, and a window of a text, which with chance ``share`` is ``tiled``."""
    key_window, key_tiled, key_share = jax.random.split(key, 3)
    natural = window(key_window, tokens, length - 1)
    repeats = tiled(key_tiled, natural)
    return begun(jnp.where(jax.random.uniform(key_share) < share, repeats, natural))


def in_windows(tokens: Int[Array, " n"], length: int) -> Int[Array, "windows {length}"]:
    """A text in windows, one after another, each with token 0 before it.

    What is left over at the end is dropped.
    """
    _require.at_least(2, length=length)
    room = length - 1
    count = len(tokens) // room
    rows = jnp.reshape(tokens[: count * room], (count, room))
    return jax.vmap(begun)(rows)


def repeat_kinds(
    sequence: Int[Array, " context"],
) -> Bool[Array, "3 context-1"]:
    """Which tokens complete a repeat, which break one, and all others.

    A token completes a repeat if the one before it has occurred earlier, followed by
    the same token; it breaks one if each time something else followed. Every token but
    the first is of one kind.
    """
    same = (sequence[:, None] == sequence) & jnp.tri(len(sequence), k=-1, dtype=bool)
    seen = jnp.any(same[:-1], axis=1)
    right = jnp.any(same[1:, 1:] & same[:-1, :-1], axis=1)
    return jnp.stack([right, seen & ~right, ~seen])


def random_repeats(
    key: Key[Array, ""], vocabulary: int, length: int
) -> Int[Array, " {length}"]:
    """Token 0, and random tokens, ``tiled``: no text, and nothing to learn but copying.

    The tokens are independent and uniform on 1, ..., vocabulary - 1; length >= 5.
    """
    _require.at_least(2, vocabulary=vocabulary)
    _require.at_least(5, length=length)
    key_fresh, key_period = jax.random.split(key)
    fresh = jax.random.randint(key_fresh, (length - 1,), 1, vocabulary)
    return begun(tiled(key_period, fresh))


def class_repeats(
    key: Key[Array, ""], classes: int, members: int, length: int
) -> Int[Array, " {length}"]:
    """Token 0, and classes that are ``tiled``, each shown by a member drawn anew.

    Class c has the tokens 1 + c * members, ..., (c + 1) * members. Classes are
    independent and uniform, and so are members, also where a class comes again. So a
    repeat tells the class of the next token, and nothing of which member it is.
    length >= 5.
    """
    _require.at_least(2, classes=classes)
    _require.at_least(1, members=members)
    _require.at_least(5, length=length)
    key_fresh, key_period, key_members = jax.random.split(key, 3)
    fresh = jax.random.randint(key_fresh, (length - 1,), 0, classes)
    shown = jax.random.randint(key_members, (length - 1,), 1, members + 1)
    return begun(tiled(key_period, fresh) * members + shown)


def repeated_pairs(key: Key[Array, ""], merges: int) -> Int[Array, " 101"]:
    """``tasks.repeated`` on the tokens that stand for pairs, 256 to 255 + merges.

    Each of these occurs in the text, as not every byte does.
    """
    _require.at_least(1, merges=merges)
    sequence = tasks.repeated(key, merges + 1)
    return jnp.where(sequence > 0, sequence + 255, 0)
