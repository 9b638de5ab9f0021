"""The files in which llama.cpp keeps models (GGUF, version 3): fields and tensors.

A file may come from anywhere, so nothing is made of a number in it before the number is
compared with the bytes that are there. The format is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

# Types of fields by their codes: numbers, strings, arrays of one of these.
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
STRING, ARRAY = 8, 9
MOST_AXES, LARGEST_ALIGNMENT = 4, 2**20


class Kind(NamedTuple):
    """How weights are stored: so many of them in each block of bytes."""

    name: str
    weights: int
    block: np.dtype


KINDS = {
    0: Kind("F32", 1, np.dtype("<f4")),
    3: Kind("Q4_1", 32, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])),
    8: Kind("Q8_0", 32, np.dtype([("d", "<f2"), ("q", "i1", 32)])),
}


class Tensor(NamedTuple):
    """A tensor as it is stored, blocks along the last axis of its shape."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    data: UInt8[np.ndarray, " bytes"]


class _Reader:
    """Takes one thing after another from a file's bytes, and none beyond them."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, what, count, size=1):
        """The bytes of ``count`` things of ``size`` bytes."""
        left = len(self.data) - self.at
        if count * size > left:
            raise ValueError(
                f"{what} must lie within the file, which has {left} bytes left, "
                f"got {count} times {size} bytes"
            )
        self.at += count * size
        return self.data[self.at - count * size : self.at]

    def number(self, what, code="<u8"):
        return self.take(what, np.dtype(code).itemsize).view(code)[0].item()

    def string(self, what):
        text = self.take(what, self.number(f"the length of {what}")).tobytes()
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} must be UTF-8, got {text[:40]}") from None

    def value(self, what):
        """A field: a number, a string, an array of numbers or a list of strings."""
        code = self.number(f"the type of {what}", "<u4")
        if code == STRING:
            return self.string(what)
        if code != ARRAY:
            return self.number(what, _known(f"the type of {what}", code, NUMBERS))
        code = self.number(f"the type of {what}", "<u4")
        count = self.number(f"the length of {what}")
        if code == STRING:  # each takes bytes of the file, so a false count ends there
            return [self.string(what) for _ in range(count)]
        kind = np.dtype(_known(f"the type within {what}", code, NUMBERS))
        return self.take(what, count, kind.itemsize).view(kind)

    def place(self, what):
        """Name, shape, kind of a tensor, and how far from the first one it begins."""
        name = self.string(f"the name of {what}")
        axes = self.number(f"the number of axes of {name}", "<u4")
        if not 1 <= axes <= MOST_AXES:
            raise ValueError(f"{name} must have 1 to {MOST_AXES} axes, got {axes}")
        shape = self.take(f"the shape of {name}", axes, 8).view("<u8")[::-1].tolist()
        kind = self.number(f"the kind of {name}", "<u4")
        offset = self.number(f"the offset of {name}")
        return name, tuple(shape), _known(f"the kind of {name}", kind, KINDS), offset


def _known(what, code, table):
    if code not in table:
        known = ", ".join(f"{c} ({getattr(k, 'name', k)})" for c, k in table.items())
        raise ValueError(f"{what} must be one of {known}, got {code}")
    return table[code]


def _unique(what, pairs):
    """A dict of pairs of name and value, read one by one."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{what} must have different names, got {name!r} twice")
        found[name] = value
    return found


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a file, which stays on the disk until they are dequantised.

    A field is a number, a string, an array of numbers or a list of strings. Raises
    ValueError that names what of the file is not as it must be: its first bytes, a
    length or an offset that leads beyond its end, a type or a kind of weights that is
    not known here, tensors that overlap.
    """
    size = Path(path).stat().st_size
    data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    file = _Reader(np.asarray(data))
    magic = file.take("the first bytes", 4).tobytes()
    version = file.number("the version", "<u4")
    if (magic, version) != (b"GGUF", 3):
        raise ValueError(
            f"{path} must be a GGUF file of version 3, it begins with {magic} and "
            f"version {version}"
        )
    tensors, fields = (
        file.number("the number of tensors"),
        file.number("that of fields"),
    )
    meta = _unique("fields", (_field(file, n) for n in range(fields)))
    places = [file.place(f"tensor {n}") for n in range(tensors)]
    return meta, _unique("tensors", _placed(file, places, _alignment(meta)))


def _field(file, n):
    name = file.string(f"the name of field {n}")
    return name, file.value(name)


def _alignment(meta):
    """Tensors begin at multiples of it."""
    step = meta.get("general.alignment", 32)
    powers = [2**n for n in range(3, LARGEST_ALIGNMENT.bit_length())]
    if type(step) is not int or step not in powers:
        raise ValueError(f"general.alignment must be a power of 2 from 8, got {step}")
    return step


def _placed(file, places, step):
    """Each tensor with its bytes. None share any: weights are at most so many."""
    start = -(-file.at // step) * step
    spans = []
    for name, shape, kind, offset in places:
        blocks = math.prod(shape) // kind.weights
        if not blocks or shape[-1] % kind.weights or offset % step:
            raise ValueError(
                f"{name} must have rows of blocks of {kind.weights} weights "
                f"({kind.name}), at a multiple of {step}, got {shape} at {offset}"
            )
        file.at = min(start + offset, len(file.data))
        data = file.take(name, blocks, kind.block.itemsize)
        spans.append((start + offset, file.at, name))
        yield name, Tensor(name, shape, kind, data)
    for (_, end, one), (begin, _, other) in pairwise(sorted(spans)):
        if begin < end:
            raise ValueError(f"{one} and {other} must not share bytes of the file")


def dequantised(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    """The weights of a tensor in single precision.

    F32: as they are. Q8_0: blocks of 32 are d q with whole q from -128 to 127. Q4_1:
    they are d q + m with q from 0 to 15, two in a byte: the first 16 in the low halves.
    Raises ValueError where one is not finite.
    """
    blocks = tensor.data.view(tensor.kind.block)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = _weights(tensor.kind, blocks).reshape(tensor.shape)
    if not np.isfinite(weights).all():
        raise ValueError(f"{tensor.name} must be finite, got {weights}")
    return weights


def _weights(kind, blocks):
    if kind.name == "F32":
        return blocks.astype(np.float32)
    scale = blocks["d"][:, None].astype(np.float32)
    if kind.name == "Q8_0":
        return scale * blocks["q"]
    q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1)
    return scale * q + blocks["m"][:, None].astype(np.float32)
