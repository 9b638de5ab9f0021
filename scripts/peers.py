"""Our layers against published code in Torch, on random inputs: values and gradients.

    make peers                                        fails where one of them differs
    .venv-peers/bin/python scripts/peers.py --record  and writes what tests/test_peers.py reads
    .venv-peers/bin/python scripts/peers.py --bench   times chunks and recurrence beside Torch's

The published code is `naive.py` of fla-core (the reference that its kernels are tested with,
loaded by path, as the package itself asks for Triton) and the Torch functions of Qwen3-Next in
transformers; scripts/peers.txt pins both. A case is one published function, ours for one head, and
the conventions between them, which are all that the two adapters of a case hold. Almost all of
that code computes in float32 whatever it is given: it runs as published, and once more in float64
with its casts lifted (`doubled`), where no tolerance hides a small term.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from inspect import unwrap
from os import sched_getaffinity
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import online

PINS = Path(__file__).resolve().with_name("peers.txt")
RECORD = PINS.parent.parent / "tests/fixtures/peers.npz"
SHAPES = [  # batch, heads, length, size of keys, size of values
    (2, 3, 128, 8, 5),
    (1, 2, 64, 16, 24),
    (3, 1, 64, 4, 12),
]
SMALL = (1, 1, 64, 4, 3)  # what is recorded
BATCH = 16  # of a TTT layer
FAR = 1e6  # what is to be nothing beside it is of the size of 1
SINGLE, DOUBLE = 2e-5, 1e-10  # a few hundred roundings of float32; far above those of float64

ITERATED = 1e-4  # the derivative of iterations that have converged divides nothing by nothing


@cache
def fla(name):
    """`fla/ops/NAME/naive.py`, without what stands around it."""
    (folder,) = importlib.util.find_spec("fla").submodule_search_locations
    spec = importlib.util.spec_from_file_location(name, Path(folder) / "ops" / name / "naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def qwen(name):
    """A Torch function of Qwen3-Next, never the kernel that may stand for it."""
    from transformers.models.qwen3_next import modeling_qwen3_next

    return unwrap(getattr(modeling_qwen3_next, name))


@contextmanager
def doubled():
    """Torch in which whatever asks for float32 gets float64."""
    import torch

    with ExitStack() as stack:
        for owner, name, other in [
            (torch, "float32", torch.float64),
            (torch, "float", torch.float64),
            (torch.Tensor, "float", torch.Tensor.double),
        ]:
            stack.enter_context(mock.patch.object(owner, name, other))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        yield


class Case(NamedTuple):
    """A published function and ours.

    Both take a dict of what ``needs`` names: ``theirs`` with axes (batch, head, position, size),
    ``ours`` of one head. ``square``: it needs keys and values of one size.
    """

    theirs: Callable
    ours: Callable
    needs: str
    square: bool = False
    single: float | None = SINGLE  # tolerances, None where it is not run
    double: float | None = DOUBLE


def turned(x):
    """Head and position change places."""
    return x.transpose(1, 2)


def called(function, p, names, **named):
    """fla's and Qwen's order of axes, on the way in and out."""
    arguments = {to: turned(p[of]) for to, of in names.items()}
    if "start" in p:
        named["initial_state"] = p["start"].mT
    answer = function(**arguments, **named)
    return turned(answer[0] if isinstance(answer, tuple) else answer)


QKV = {"q": "q", "k": "k", "v": "v"}
GATED = QKV | {"g": "g", "beta": "beta"}
LONG = {"query": "q", "key": "k", "value": "v", "g": "g", "beta": "beta"}
scaled = lambda p: p["q"] * p["q"].shape[-1] ** -0.5
unit = lambda x: x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def ours(rule, p, beta, alpha=1.0):
    return online.outputs(rule, scaled(p), p["k"], p["v"], beta, alpha, p.get("start"))


def decay(p):
    return jnp.exp(p["g"]) if "g" in p else jnp.ones(p["q"].shape[:1], p["q"].dtype)


def summed(p):
    """fla goes on from a sum; our batch begins at a state, and takes what it gives off each v."""
    began = {name: a for name, a in p.items() if name != "start"}
    kept = jnp.cumprod(decay(p))[:, None] * (scaled(p) @ p["start"].T)
    return ours(online.SUM, began, 1.0, decay(p)) + kept


def delta(p):
    return ours(online.DELTA, p, p["beta"], decay(p))


def in_chunks(p, chunk=32):
    return online.chunkwise(scaled(p), p["k"], p["v"], p["beta"], decay(p), chunk)


def delta_product(p):
    """Two pairs to a position, of which the first one decays."""
    even = jnp.arange(len(p["k"])) % 2 == 0
    alpha = jnp.where(even, jnp.exp(jnp.repeat(p["g"][::2], 2)), 1.0)
    q = jnp.repeat(p["q"][1::2], 2, axis=0)
    return ours(online.DELTA, p | {"q": q}, p["beta"], alpha)[1::2]


def their_product(p):
    p = p | {"q": p["q"][:, :, 1::2], "g": p["g"][:, :, ::2]}
    function = fla("gated_delta_product").naive_recurrent_gated_delta_product
    scale = p["q"].shape[-1] ** -0.5
    return called(function, p, GATED, scale=scale, num_householder=2)


def their_longhorn(p):
    beta = p["beta"] / (1 + p["beta"] * (p["k"] ** 2).sum(-1))
    function = fla("gated_delta_rule").naive_recurrent_gated_delta_rule
    return called(function, p | {"beta": beta}, GATED)


def mesa(p):
    weigh, root = jnp.sqrt(p["beta"])[:, None], jnp.sqrt(p["ridge"])
    q, k, v = p["q"] / root, weigh * p["k"] / root, weigh * p["v"]
    return online.mesa(q, k, v, 1.0, jnp.exp(p["fade"]))


def their_gradients(p):
    """Its quotients have 1e-5 added to what they divide by: nothing beside queries this long."""
    return their_mesa(p | {"q": FAR * p["q"]}, "naive_mesa_net_CG", chunk_size=32) / FAR


def their_mesa(p, function, **named):
    g = p["fade"][:, :, None].expand(p["beta"].shape)
    named = {"lamb": p["ridge"], **named}
    return called(getattr(fla("mesa_net"), function), p | {"g": g}, GATED, **named)


def recursive(p):
    """Slowly decayed: with few pairs in sight least squares are ill-conditioned."""
    weigh = jnp.sqrt(p["beta"])[:, None]
    rates = p["prior"], jnp.exp(p["g"] / 10)
    k, v = weigh * p["k"], weigh * p["v"]
    return online.outputs(online.LEAST_SQUARES, p["q"], k, v, *rates, p["start"])


def their_recursive(p):
    import torch

    p = p | {"g": p["g"] / 10}
    dim, prior = p["k"].shape[-1], p["prior"][..., None, None]
    inits = {"h_kk_init": torch.eye(dim) / prior, "h_kv_init": p.pop("start").mT / prior}
    lamb = torch.zeros(p["k"].shape[1], dim)
    return called(fla("mesa_net").naive_mesa_net_exact, p, GATED, lamb=lamb, **inits)


def frame(dim):
    """A unit vector u of mean 0, and a basis of what is orthogonal to u and to (1, ..., 1)."""
    u = np.where(np.arange(dim) % 2, 1.0, -1.0) / dim**0.5
    basis = np.linalg.qr(np.column_stack([np.ones(dim), u, np.eye(dim)[:, : dim - 2]]))[0][:, 2:]
    return u, basis


def within(p):
    """What of v - k a LayerNorm lets through, beside u: as many entries as the basis has."""
    return p["v"][..., :-2], p["start"][..., :-2, :], p["bias"][..., :-2]


def ttt(p):
    """A bias is a key whose last entry is 1."""
    v, start, bias = within(p)
    one = jnp.ones((len(v), 1))
    q, k = jnp.hstack([scaled(p), one]), jnp.hstack([p["k"], one])
    start = jnp.hstack([start, bias[:, None]])
    beta = jnp.repeat(p["eta"], BATCH)
    return online.outputs(online.Rule(batch=BATCH), q, k, v, beta, start=start)


def their_ttt(p):
    """Outputs lie about FAR u, where LayerNorm, less FAR u, is a straight line up to 1 / FAR^2."""
    import torch

    dim, (v, start, bias) = p["k"].shape[-1], within(p)
    u, basis = map(torch.from_numpy, frame(dim))
    norm = torch.full((p["k"].shape[1], dim), FAR / dim**0.5), (-FAR * u).repeat(p["k"].shape[1], 1)
    state = (basis @ start).mT, (bias @ basis.T + FAR * u)[:, :, None]
    parts = [turned(x) for x in (p["q"].clone(), p["k"], p["k"] + v @ basis.T)]
    eta = turned(p["eta"].repeat_interleave(BATCH, -1)[..., None])
    function = fla("ttt").chunk_ttt_linear_ref
    o, *_ = function(*parts, *norm, eta, None, 0.0, BATCH, *state)
    return turned(o) @ basis / 2  # the read and its LayerNorm, added up


def layer_norm(x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def normed(p):
    """No layer of ours: jax.grad of TTT's own loss, a pair at a time."""
    norm = lambda x: layer_norm(x) * p["gain"] + p["shift"]
    loss = lambda s, k, v: 0.5 * jnp.sum((norm(s[0] @ k + s[1]) - (v - k)) ** 2)

    def read(state, pair):
        q, k, v, eta = pair
        state = jax.tree.map(lambda s, g: s - eta * g, state, jax.grad(loss)(state, k, v))
        o = state[0] @ q + state[1]
        return state, o + norm(o)

    return jax.lax.scan(read, (p["start"], p["bias"]), (scaled(p), p["k"], p["v"], p["beta"]))[1]


def their_normed(p):
    parts = [turned(x) for x in (p["q"].clone(), p["k"], p["v"])]
    state = p["start"].mT, p["bias"][:, :, None]
    eta = turned(p["beta"][..., None])
    function = fla("ttt").chunk_ttt_linear_ref
    return turned(function(*parts, p["gain"], p["shift"], eta, None, 1e-6, 1, *state)[0])


def of(name, function, names=GATED, **named):
    """A function of fla's that takes positions before heads."""
    return lambda p: called(getattr(fla(name), function), p, names, **named)


def of_delta(function, **named):
    """One that takes heads before positions, as we do."""
    start = lambda p: {"initial_state": p["start"].mT} if "start" in p else {}
    call = lambda p: getattr(fla("delta_rule"), function)(
        p["q"], p["k"], p["v"], p["beta"], **start(p), **named
    )
    return lambda p: call(p)[0]


def of_qwen(function, **named):
    return lambda p: called(qwen(function), p, LONG, **named)


RECURRENT, CHUNK = "torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"
CASES = {
    "fla linear_attn recurrent": Case(
        of("linear_attn", "naive_recurrent_linear_attn", QKV),
        summed,
        "q k v start",
    ),
    "fla linear_attn chunk": Case(
        of("linear_attn", "naive_chunk_linear_attn", QKV),
        lambda p: ours(online.SUM, p, 1.0),
        "q k v",
    ),
    "fla simple_gla recurrent": Case(
        of("simple_gla", "naive_recurrent_simple_gla", QKV | {"g": "g"}),
        summed,
        "q k v g start",
    ),
    "fla delta_rule recurrence": Case(
        of_delta("delta_rule_recurrence"), delta, "q k v beta start"
    ),
    "fla delta_rule chunkwise": Case(of_delta("delta_rule_chunkwise"), in_chunks, "q k v beta"),
    "fla delta_rule parallel": Case(
        of_delta("delta_rule_parallel", BM=64), delta, "q k v beta"
    ),
    "fla gated_delta_rule recurrent": Case(
        of("gated_delta_rule", "naive_recurrent_gated_delta_rule"), delta, "q k v beta g start"
    ),
    "fla gated_delta_rule chunk": Case(
        of("gated_delta_rule", "naive_chunk_gated_delta_rule"), in_chunks, "q k v beta g"
    ),
    "fla gated_delta_product": Case(their_product, delta_product, "q k v beta g start"),
    "Qwen3-Next recurrent": Case(of_qwen(RECURRENT), delta, "q k v beta g start"),
    "Qwen3-Next recurrent, unit rows": Case(
        of_qwen(RECURRENT, use_qk_l2norm_in_kernel=True),
        lambda p: delta(p | {"q": unit(p["q"]), "k": unit(p["k"])}),
        "q k v beta g start",
    ),
    "Qwen3-Next chunk": Case(of_qwen(CHUNK), in_chunks, "q k v beta g"),
    "fla gated_delta_rule, Longhorn's step": Case(
        their_longhorn,
        lambda p: ours(online.PROXIMAL, p, p["beta"], jnp.exp(p["g"])),
        "q k v beta g start",
    ),
    "fla mesa_net exact": Case(
        lambda p: their_mesa(p, "naive_mesa_net_exact"), mesa, "q k v beta fade ridge", True
    ),
    "fla mesa_net conjugate gradients": Case(
        their_gradients, mesa, "q k v beta fade ridge", True, ITERATED, ITERATED
    ),
    "fla mesa_net exact, from a start": Case(
        their_recursive, recursive, "q k v beta g prior start", True
    ),
    "fla ttt, LayerNorm far from 0": Case(
        their_ttt, ttt, "q k v eta start bias", True, None, 1e-8
    ),
    "fla ttt, jax.grad of its loss": Case(
        their_normed, normed, "q k v beta start bias gain shift", True
    ),
}  # fmt: skip


def drawn(case, shape, seed=0):
    """Inputs of a case and the weights of the sum of outputs that is differentiated, in float64."""
    batch, heads, length, dim, outputs = shape
    outputs = dim if case.square else outputs
    rng = np.random.default_rng(seed)
    here = batch, heads
    every = {
        "q": rng.normal(size=(*here, length, dim)),
        "k": rng.normal(size=(*here, length, dim)) / dim**0.5,
        "v": rng.normal(size=(*here, length, outputs)),
        "beta": rng.uniform(0.05, 1, size=(*here, length)),
        "g": np.log(rng.uniform(0.6, 1, size=(*here, length))),
        "start": rng.normal(size=(*here, outputs, dim)),
        "fade": np.log(rng.uniform(0.6, 1, size=here)),
        "ridge": rng.uniform(0.5, 1.5, size=(heads, dim)),
        "prior": rng.uniform(0.5, 1.5, size=here),
        "eta": rng.uniform(0.02, 0.1, size=(*here, length // BATCH)),
        "bias": rng.normal(size=(*here, outputs)),
        "gain": rng.uniform(0.5, 1.5, size=(heads, dim)),
        "shift": rng.normal(size=(heads, dim)),
    }
    return {name: every[name] for name in case.needs.split()}


def weights_of(out):
    """Fixed weights, one for an output."""
    return np.cos(np.arange(np.prod(out.shape))).reshape(out.shape)


def theirs_of(case, inputs):
    """Value and gradients of the published function, in the type of the inputs."""
    import torch

    p = {name: torch.tensor(a, requires_grad=True) for name, a in inputs.items()}
    out = case.theirs(p)
    weights = torch.from_numpy(weights_of(out)).to(out)
    slopes = torch.autograd.grad((weights * out).sum(), list(p.values()))
    return out.detach().numpy(), {n: a.numpy() for n, a in zip(p, slopes, strict=True)}


SHARED = {"ridge", "gain", "shift"}  # by the batch


def ours_of(case, inputs):
    """The same of ours."""
    p = {name: jnp.asarray(a) for name, a in inputs.items()}
    axes = {name: None if name in SHARED else 0 for name in p}
    layer = jax.jit(jax.vmap(jax.vmap(case.ours), in_axes=(axes,)))
    out, back = jax.vjp(layer, p)
    return out, back(jnp.asarray(weights_of(out), out.dtype))[0]


def apart(ours, theirs):
    """The largest difference of two arrays, as a share of the largest entry."""
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def differences(ours, theirs):
    """Of values, and of gradients the largest."""
    slopes = [apart(ours[1][name], theirs[1][name]) for name in theirs[1]]
    return apart(ours[0], theirs[0]), max(slopes)


def compared():
    """Every case in both precisions: name, precision, differences of value and gradient, limit."""
    for name, case in CASES.items():
        for kind, limit, context in [
            (np.float32, case.single, nullcontext),
            (np.float64, case.double, doubled),
        ]:
            found = []
            for seed, shape in enumerate(SHAPES if limit else []):
                inputs = {of: a.astype(kind) for of, a in drawn(case, shape, seed).items()}
                with context():
                    theirs = theirs_of(case, inputs)
                found.append(differences(ours_of(case, inputs), theirs))
            if found:
                yield name, kind.__name__, *np.max(found, axis=0), limit


def versions():
    """Of what is compared; the local part of a version, as in 2.13.0+cpu, says how it was built."""
    names = "fla-core", "transformers", "torch", "einops", "jax", "numpy"
    return {name: version(name).partition("+")[0] for name in names}


def compare():
    """One line a comparison; whether all hold."""
    print("Largest difference of", len(SHAPES), "shapes, as a share of the largest entry")
    print(f"{'':41s}{'':8s} {'value':>8s} {'gradient':>9s} {'limit':>8s}")
    holds = True
    for name, kind, value, slope, limit in compared():
        fits = max(value, slope) <= limit
        holds &= fits
        verdict = "" if fits else "  DIFFERS"
        print(f"{name:41s}{kind:8s} {value:8.1e} {slope:9.1e} {limit:8.0e}{verdict}", flush=True)
    return holds


def record():
    """What the published functions give on small inputs, as data: float32 where they run in it."""
    made = {"command": "make peers ARGS=--record", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    data = {"about": json.dumps(made | versions())}
    for name, case in CASES.items():
        kind, context = (np.float32, nullcontext) if case.single else (np.float64, doubled)
        inputs = {of: a.astype(kind) for of, a in drawn(case, SMALL).items()}
        with context():
            value, slopes = theirs_of(case, inputs)
        data[f"{name}/value"] = value
        for of, a in inputs.items():
            data[f"{name}/input/{of}"], data[f"{name}/gradient/{of}"] = a, slopes[of]
    RECORD.parent.mkdir(exist_ok=True)
    np.savez_compressed(RECORD, **data)
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1000:.0f} kB")


def about():
    """How the record was made."""
    with np.load(RECORD) as data:
        return json.loads(str(data["about"]))


def recorded():
    """Of every case in the record: the inputs, and the published value and gradients."""
    found = {}
    with np.load(RECORD) as data:
        for key in data.files[1:]:
            name, what, *of = key.split("/")
            inputs, theirs = found.setdefault(name, ({}, [None, {}]))
            if what == "value":
                theirs[0] = data[key]
            else:
                (inputs if what == "input" else theirs[1])[of[0]] = data[key]
    return found


BENCH = 4096, 16, 64  # positions, heads, size of keys and of values
ROUNDS = 5


def bench():
    """The gated delta rule in float32: Torch's two forms and ours, in one process, in turn."""
    import torch

    threads = len(sched_getaffinity(0))  # XLA takes as many
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    length, heads, dim = BENCH
    inputs = {name: rng.normal(size=(length, heads, dim)) for name in "qkv"}
    inputs["k"] /= np.linalg.norm(inputs["k"], axis=-1, keepdims=True)
    inputs["g"] = np.log(rng.uniform(0.9, 1, size=(length, heads)))
    inputs["beta"] = rng.uniform(size=(length, heads))
    inputs = {name: a.astype(np.float32) for name, a in inputs.items()}
    there = {name: torch.tensor(a[None]) for name, a in inputs.items()}
    here = {name: jnp.asarray(a) for name, a in inputs.items()}

    def in_torch(function, slopes):
        function = qwen(function)

        def run():
            with torch.set_grad_enabled(slopes):
                p = {to: there[of].requires_grad_(slopes) for to, of in LONG.items()}
                out = function(**p)[0]
            return torch.autograd.grad(out.sum(), list(p.values())) if slopes else out

        return run

    def in_jax(layer, slopes):
        every = jax.vmap(layer, in_axes=1, out_axes=1)
        run = jax.grad(lambda p: jnp.sum(every(p))) if slopes else every
        run = jax.jit(run)
        return lambda: jax.block_until_ready(run(here))

    chunks = partial(in_chunks, chunk=64)
    for slopes in (False, True):
        runs = {
            "Torch chunk": in_torch(CHUNK, slopes),
            "chunkwise": in_jax(chunks, slopes),
            "outputs": in_jax(delta, slopes),
        }
        if not slopes:  # its graph would keep several copies of every state, 5 GB and more
            runs["Torch recurrent"] = in_torch(RECURRENT, slopes)
        times = dict.fromkeys(runs, np.inf)
        for turn in range(ROUNDS + 1):  # the first one compiles
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                if turn:
                    times[name] = min(times[name], time.perf_counter() - began)
        what = "forward and backward" if slopes else "forward"
        print(f"T = {length}, {heads} heads of {dim}, float32, {threads} threads, {what}:")
        for name, seconds in times.items():
            share = seconds / times["Torch chunk"]
            print(f"  {name:16s}{1e3 * seconds:8.0f} ms, {share:6.2f} of Torch chunk", flush=True)


def main():
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    print(*(f"{name} {number}" for name, number in versions().items()), sep=", ")
    if "--bench" in sys.argv[1:]:
        bench()
    elif not compare():
        sys.exit(1)
    elif "--record" in sys.argv[1:]:
        record()


if __name__ == "__main__":
    main()
