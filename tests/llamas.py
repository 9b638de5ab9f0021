"""Tiny Llamas, and the files that hold them: GGUF as llama.cpp writes it, by another route."""

import math
import struct

import numpy as np

from icl_gd import real

CODES = {"u4": 4, "i4": 5, "f4": 6, "?": 7, "u8": 10, "f8": 12}
F32, Q4_1, Q8_0 = 0, 3, 8
SIZES = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}  # weights of a block, its bytes


def text(string):
    data = string.encode() if isinstance(string, str) else string
    return struct.pack("<Q", len(data)) + data


def field(value):
    """A value with its type: whole numbers are of 32 bits, other ones single."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", 9, CODES[value.dtype.str[1:]], value.size) + value.tobytes()
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    return (
        struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    )


def gguf(meta, tensors, start=b"GGUF\3\0\0\0", step=32):
    """The bytes of a file: fields, and tensors as (shape, kind, bytes)."""
    head = start + struct.pack("<QQ", len(tensors), len(meta))
    head += b"".join(text(name) + field(value) for name, value in meta.items())
    body = b""
    for name, (shape, kind, data) in tensors.items():
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += text(name) + axes + struct.pack("<IQ", kind, len(body))
        body += data + bytes(-len(data) % step)
    return head + bytes(-len(head) % step) + body


def blocks(rng, shape, kind):
    """Random weights of about unit size in rows of blocks."""
    size, width = SIZES[kind]
    count = math.prod(shape) // size
    if kind == F32:
        return rng.normal(size=count).astype("<f4").tobytes()
    whole = rng.integers(0, 256, (count, width), np.uint8)
    half = lambda scale: (scale * rng.uniform(0.5, 1, count)).astype("<f2")[:, None].view(np.uint8)
    whole[:, :2] = half(1 / 64 if kind == Q8_0 else 1 / 4)
    if kind == Q4_1:
        whole[:, 2:4] = half(-2.0)
    return whole.tobytes()


TOKENS = ["a", "b", "c", "Ġ", "1", "ab", "Ġa", "abc"]
MERGES = ["a b", "Ġ a", "ab c"]


def a_llama(layers=1, heads=2, groups=1, size=4, width=32, hidden=32, positions=16):
    """Fields and tensors of a small model."""
    meta = {
        "general.architecture": "llama",
        "llama.block_count": layers,
        "llama.context_length": positions,
        "llama.embedding_length": width,
        "llama.feed_forward_length": hidden,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups,
        "llama.rope.dimension_count": size,
        "llama.vocab_size": len(TOKENS),
        "llama.rope.freq_base": 100.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": np.ones(len(TOKENS), "<i4"),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.add_bos_token": False,
    }
    inner, shared = heads * size, groups * size
    shapes = {"token_embd": ((len(TOKENS), width), Q8_0), "output_norm": ((width,), F32)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.{name}": (shape, kind)
            for name, shape, kind in [
                ("attn_norm", (width,), F32),
                ("attn_q", (inner, width), Q4_1),
                ("attn_k", (shared, width), Q4_1),
                ("attn_v", (shared, width), Q8_0),
                ("attn_output", (width, inner), F32 if inner % 32 else Q4_1),
                ("ffn_norm", (width,), F32),
                ("ffn_gate", (hidden, width), Q4_1),
                ("ffn_up", (hidden, width), Q4_1),
                ("ffn_down", (width, hidden), Q4_1),
            ]
        }
    rng = np.random.default_rng(0)
    tensors = {f"{n}.weight": (s, k, blocks(rng, s, k)) for n, (s, k) in shapes.items()}
    return meta, tensors


def a_file(folder, meta=None, tensors=None, **changed):
    """The path of a file of a tiny model, in a folder, with what is given in place of its own."""
    whole = a_llama(**changed)
    path = folder / "tiny.gguf"
    path.write_bytes(gguf(whole[0] | (meta or {}), whole[1] | (tensors or {})))
    return path


def a_model(layers=2, groups=1, heads=2, size=4, width=6, hidden=5, vocabulary=8, positions=16):
    """Random weights in double precision, without a file."""
    draw = np.random.default_rng(0).normal
    of_all = lambda *shape: draw(size=(layers, *shape))
    shared, own = (groups, size, width), (groups, heads, size, width)
    layer = real.Layer(
        of_all(width), of_all(*own), of_all(*shared), of_all(*shared),
        of_all(groups, heads, width, size), of_all(width), of_all(hidden, width),
        of_all(hidden, width), of_all(width, hidden),
    )  # fmt: skip
    turn = np.exp(1j * np.outer(np.arange(positions), 0.1 ** np.arange(size // 2)))
    embed = draw(size=(vocabulary, width))
    return real.Llama(embed, layer, draw(size=width), turn, np.array(1e-5))
