"""The corpus: which files it reads, its tokens beside a plain encoder, and its windows."""

import sysconfig
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_gd import corpus


@pytest.fixture(scope="module")
def library():
    """That of the running Python."""
    return corpus.standard_library()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A library of 25 modules, m00 to m24, and what is not to be read."""
    for number in range(25):
        (tmp_path / f"m{number:02}.py").write_bytes(b"x = %d\r\n" % number)
    for name in ("_private.py", "__future__.py", "notes.txt"):
        (tmp_path / name).write_text("not this")
    for package in ("test", "idlelib"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "inside.py").write_text("not this")
    (tmp_path / "sitecustomize.py").symlink_to(tmp_path / "missing.py")  # as Debian's may be
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": tmp_path}.get)


@pytest.mark.usefixtures("folder")
def test_files_order_and_split_are_as_stated():
    library = corpus.standard_library()
    held_out = ["m09", "m19"]
    assert list(library.held_out) == held_out
    assert list(library.training) == [f"m{n:02}" for n in range(25) if n not in (9, 19)]
    assert library.training["m07"] == b"x = 7\n"


def test_missing_sources_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": tmp_path}.get)
    for number in range(19):
        (tmp_path / f"m{number:02}.py").write_text("")
    with pytest.raises(
        ValueError, match=r"folder must hold .*\(at least 20 modules.*found 19 files"
    ):
        corpus.standard_library()
    (tmp_path / "m19.py").write_text("")
    assert len(corpus.standard_library().training) == 18


def test_the_running_python_has_a_corpus(library):
    assert sum(map(len, library.training.values())) > 2_000_000
    assert sum(map(len, library.held_out.values())) > 100_000
    assert not library.training.keys() & library.held_out.keys()
    assert {"argparse", "inspect"} <= library.training.keys() | library.held_out.keys()
    assert not any(b"\0" in text for part in library for text in part.values())


def plain_pairs(text, merges):
    """Byte-pair encoding as one would write it with lists."""
    tokens, pairs = list(text), []
    for m in range(merges):
        counts = {}
        for pair in pairwise(tokens):
            counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pairs.append(best)
        tokens = plain_merge(tokens, best, 256 + m)
    return pairs, tokens


def plain_merge(tokens, pair, new):
    merged, at = [], 0
    while at < len(tokens):
        found = tuple(tokens[at : at + 2]) == tuple(pair)
        merged.append(new if found else tokens[at])
        at += 2 if found else 1
    return merged


@pytest.mark.parametrize("text", [b"abracadabra abracadabra", b"aaaa bbb aaaaaaa aa", b"a" * 40])
def test_pairs_are_those_of_a_plain_encoder(text):
    pairs, tokens = plain_pairs(text, 4)
    found = corpus.byte_pairs(text, 4)
    np.testing.assert_array_equal(found, pairs)
    np.testing.assert_array_equal(corpus.encode(text, found), tokens)


def test_pairs_of_source_are_those_of_a_plain_encoder(library):
    text = library.held_out[next(iter(library.held_out))][:3000]
    pairs, tokens = plain_pairs(text, 30)
    np.testing.assert_array_equal(corpus.byte_pairs(text, 30), pairs)
    np.testing.assert_array_equal(corpus.encode(text, np.array(pairs)), tokens)


@given(st.text(alphabet="ab\n ", max_size=60).map(str.encode))
def test_encoding_is_undone_by_spelling(text):
    pairs = corpus.byte_pairs(b"aa ab ba\n aabb abab aaaa bbbb", 8)
    tokens, spell = corpus.encode(text, pairs), corpus.spellings(pairs)
    assert b"".join(spell[t] for t in tokens) == text
    merged = list(text)
    for m, pair in enumerate(pairs):
        merged = plain_merge(merged, pair, 256 + m)
    np.testing.assert_array_equal(tokens, merged)


def test_too_short_a_text_is_named():
    with pytest.raises(ValueError, match="text must have pairs for 3 merges, it had 2"):
        corpus.byte_pairs(b"abc", 3)
    with pytest.raises(ValueError, match="merges must be at least 1, got 0"):
        corpus.byte_pairs(b"abc", 0)


def test_windows_are_every_stretch_of_the_text():
    text = jnp.arange(100, 110)
    keys = jax.random.split(jax.random.key(0), 2000)
    windows = jax.vmap(lambda key: corpus.window(key, text, 4))(keys)
    np.testing.assert_array_equal(windows - windows[:, :1], np.tile(np.arange(4), (2000, 1)))
    starts, counts = np.unique(windows[:, 0], return_counts=True)
    np.testing.assert_array_equal(starts, np.arange(100, 107))
    assert abs(counts - 2000 / 7).max() < 5 * (2000 / 7) ** 0.5


def test_whole_text_is_one_window():
    text = jnp.arange(5)
    np.testing.assert_array_equal(corpus.window(jax.random.key(0), text, 5), text)


def test_tiled_repeats_the_beginning():
    n, text = 16, jnp.arange(16)
    keys = jax.random.split(jax.random.key(1), 2000)
    tiled = np.asarray(jax.vmap(lambda key: corpus.tiled(key, text))(keys))
    periods = tiled.max(axis=1) + 1
    np.testing.assert_array_equal(tiled, np.arange(n) % periods[:, None])
    found, counts = np.unique(periods, return_counts=True)
    np.testing.assert_array_equal(found, np.arange(4, 9))
    assert abs(counts - 400).max() < 5 * 20


def test_library_is_encoded_as_one_text_each():
    parts = {"a": b"abab", "b": b"ab" * 600_000}, {"c": b"xab", "d": b"ab"}
    found = corpus.encoded(corpus.Library(*parts), 2)
    np.testing.assert_array_equal(found.pairs, [[97, 98], [256, 256]])
    np.testing.assert_array_equal(found.held_out, [120, 256, 10, 256])
    np.testing.assert_array_equal(found.training, [257, 10, *[257] * 300_000])


def test_pairs_are_those_of_the_first_million_bytes():
    first = lambda text: corpus.encoded(corpus.Library({"a": text}, {}), 1).pairs.tolist()
    ahead, after = b"ab" * 249_999, b"cd" * 250_000
    assert first(ahead + b"12" + after) == [[99, 100]]  # one pair more, at their very end
    assert first(ahead + b"123" + after) == [[97, 98]]  # which one byte cuts off: a tie


def test_windows_lie_one_after_another():
    text = np.arange(100, 111)
    expected = [[0, 100, 101, 102, 103, 104], [0, 105, 106, 107, 108, 109]]
    np.testing.assert_array_equal(corpus.in_windows(text, 6), expected)
    np.testing.assert_array_equal(corpus.in_windows(text, 2)[:, 1], text)
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        corpus.in_windows(text, 1)


def periods(sequences):
    """What every sequence, less its first token, repeats with; its length if with nothing."""
    _, n = np.shape(sequences)
    for first, *rest in np.asarray(sequences):
        assert first == 0
        same = (p for p in range(1, n) if all(a == b for a, b in zip(rest, rest[p:], strict=False)))
        yield next(same)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_windows_is_tiled(share):
    text, keys = jnp.arange(100, 130), jax.random.split(jax.random.key(2), 500)
    drawn = np.asarray(jax.vmap(lambda key: corpus.mixed(key, text, 13, share))(keys))
    assert drawn.shape == (500, 13) and len(np.unique(drawn[:, 1])) == 19
    repeats = np.array([*periods(drawn)])
    np.testing.assert_array_equal(np.unique(repeats[repeats < 12]), [3, 4, 5, 6] if share else [])
    assert abs(np.mean(repeats < 12) - share) <= 4 * (share * (1 - share) / 500) ** 0.5
    steps = np.diff(drawn[:, 1:4], axis=1)
    np.testing.assert_array_equal(steps[repeats > 3], 1)


def test_no_window_is_tiled_at_no_share(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.zeros(()))
    drawn = corpus.mixed(jax.random.key(2), jnp.arange(100, 130), 13, 0.0)
    np.testing.assert_array_equal(np.diff(drawn[1:]), 1)


def test_random_repeats_are_uniform_and_repeat():
    keys = jax.random.split(jax.random.key(3), 1000)
    drawn = np.asarray(jax.vmap(lambda key: corpus.random_repeats(key, 50, 17))(keys))
    assert drawn.shape == (1000, 17)
    found, counts = np.unique(list(periods(drawn)), return_counts=True)
    np.testing.assert_array_equal(found, np.arange(4, 9))
    assert abs(counts - 200).max() < 5 * 200**0.5
    tokens, counts = np.unique(drawn[:, 1:5], return_counts=True)
    np.testing.assert_array_equal(tokens, np.arange(1, 50))
    assert abs(counts - 4000 / 49).max() < 5 * (4000 / 49) ** 0.5


def test_random_repeats_may_be_as_short_as_a_period():
    assert corpus.random_repeats(jax.random.key(0), 2, 5).tolist() == [0, 1, 1, 1, 1]


def test_repeated_pairs_stand_for_pairs():
    keys = jax.random.split(jax.random.key(4), 100)
    drawn = np.asarray(jax.vmap(lambda key: corpus.repeated_pairs(key, 3))(keys))
    np.testing.assert_array_equal(drawn[:, 0], 0)
    np.testing.assert_array_equal(np.unique(drawn[:, 1:]), [256, 257, 258])
    np.testing.assert_array_equal(drawn[:, 1:], np.tile(drawn[:, 1:26], 4))


def test_a_pair_may_hold_byte_zero():
    assert corpus.spellings(np.array([[0, 97], [256, 0]]))[256:] == [b"\x00a", b"\x00a\x00"]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_each_token_is_a_repeat_a_false_repeat_or_neither(tokens):
    kinds = []
    for i in range(1, len(tokens)):
        followers = [tokens[j + 1] for j in range(i - 1) if tokens[j] == tokens[i - 1]]
        kinds.append(2 if not followers else int(tokens[i] not in followers))
    found = np.asarray(corpus.repeat_kinds(jnp.array(tokens)))
    assert (found == np.eye(3, dtype=bool)[:, kinds]).all()


def test_classes_repeat_and_members_are_drawn_anew():
    draw = lambda key: corpus.class_repeats(key, 8, 4, 41)
    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
    assert (drawn[:, 0] == 0).all()
    shown, classes = (drawn[:, 1:] - 1) % 4, (drawn[:, 1:] - 1) // 4
    assert set(np.unique(classes)) == set(range(8))
    periods = []
    for row, which in zip(classes, shown, strict=True):
        period = next(p for p in range(10, 21) if (row[p:] == row[:-p]).all())
        periods.append((period, (which[period:] == which[:-period]).mean()))
    period, again = np.array(periods).T
    counts = np.bincount(period.astype(int), minlength=21)[10:]
    assert (abs(counts - 4000 / 11) < 5 * np.sqrt(4000 / 11)).all()
    assert abs(again.mean() - 1 / 4) < 0.01  # a member comes again by chance alone
    exact = np.asarray(corpus.class_repeats(jax.random.key(1), 8, 1, 41))
    assert any((exact[1 + p :] == exact[1:-p]).all() for p in range(10, 21))
