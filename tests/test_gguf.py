"""Files of weights are read as they are, or what is wrong with them is named."""

import tracemalloc

import jax
import llamas
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icl_gd import _gguf, real


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
