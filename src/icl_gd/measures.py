"""Numbers from models: losses, how close two models are, what heads do.

A model is a function from a task to the label of its query, or a ``Transformer``.
What is measured does not depend on the card: the given model is evaluated with
float32-exact products, whatever ``jax_default_matmul_precision`` the caller has set.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from icl_gd import _require, induction
from icl_gd._precision import exact
from icl_gd.induction import Ablation, Transformer
from icl_gd.tasks import Task
from icl_gd.tokens import Prompt

Model = Callable[[Task], Float[Array, " outputs"]]


class Alignment(NamedTuple):
    """How close two models are, averaged over tasks."""

    cosine: Float[Array, ""]
    model_difference: Float[Array, ""]
    prediction_difference: Float[Array, ""]


@exact
def mean_loss(model: Model, tasks: Annotated[Task, "tasks"]) -> Float[Array, ""]:
    """The mean over a batch of tasks of 1/2 ||prediction - label||^2 at the query."""

    def loss(prediction: Float[Array, " outputs"], label: Float[Array, " outputs"]):
        return 0.5 * jnp.sum((prediction - label) ** 2)  # mutant: squared

    return jnp.mean(jax.vmap(lambda task: loss(model(task), task.y_query))(tasks))


@exact
def sensitivity(model: Model, task: Task) -> Float[Array, "outputs dim"]:
    """d prediction / d x_query: for a model linear in its query, the W it learned."""
    return jax.jacrev(lambda x: model(task._replace(x_query=x)))(task.x_query)


@exact
def alignment(model: Model, other: Model, tasks: Annotated[Task, "tasks"]) -> Alignment:
    """Compares two models on a batch of tasks, as in von Oswald et al. (2022), Fig. 2.

    The mean cosine between their sensitivities, the mean norm of the difference of the
    sensitivities, and the mean norm of the difference of the predictions. The mean
    cosine is not a number if a sensitivity is zero, be it for one of the tasks.
    """

    def compare(task):
        a, b = sensitivity(model, task), sensitivity(other, task)
        cosine = jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        return Alignment(
            cosine,
            jnp.linalg.norm(a - b),
            jnp.linalg.norm(model(task) - other(task)),  # 2 mutants: norms
        )

    return jax.tree.map(jnp.mean, jax.vmap(compare)(tasks))


def sequence_errors(
    x: Inexact[Array, "length dim"], predictions: Inexact[Array, "length-1 dim"]
) -> Float[Array, " length-2"]:
    """1/2 ||prediction - x_{t+1}||^2 at the positions t = 2..T-1 of a sequence.

    ``predictions`` are those at t = 2..T, as the causal forms of ``attention`` make
    them; x_{T+1}, which the last one is for, is not given. The loss of Zheng et al.
    (2024) is the sum.
    """
    gaps = jnp.abs(predictions[:-1] - x[2:])  # mutant: a size
    return 0.5 * jnp.sum(gaps**2, axis=1)


@exact
def token_losses(
    model: Transformer, sequence: Int[Array, " context"]
) -> Float[Array, " context-1"]:
    """The loss in nats of predicting each token but the first from those before it.

    Tokens as for ``induction.forward``.
    """
    return _losses(induction.forward(model, sequence).logits, sequence)


@exact
def mean_token_losses(
    model: Transformer, sequences: Int[Array, "sequences context"]
) -> Float[Array, " context-1"]:
    """The mean over sequences of ``token_losses``, token by token."""
    return jnp.mean(jax.vmap(token_losses, (None, 0))(model, sequences), axis=0)


def _losses(logits, sequence):
    chances = jax.nn.log_softmax(logits[:-1])
    told = jnp.take_along_axis(chances, sequence[1:, None], axis=1)
    return -told[:, 0]  # 2 mutants: there is one


def prefix_matching(
    patterns: Float[Array, "*heads context context"], sequence: Int[Array, " context"]
) -> Float[Array, "*heads"]:
    """How much heads attend from a token to those after its earlier occurrences.

    For each position whose token has occurred before, the attention on all positions
    that follow such an occurrence, summed; the mean of it over these positions. Olsson
    et al. (2022) take it on ``tasks.repeated``. An induction head scores 1, a uniform
    one r / (i + 1) at position i after r occurrences. Raises ValueError if no token
    occurs twice.
    """
    matches = jnp.tri(len(sequence), k=-1) * (sequence[:, None] == sequence)
    after = jnp.roll(matches, 1, axis=1)
    again = jnp.sum(jnp.any(matches, axis=1))  # mutant: as many come again as came
    _require.positive(**{"the number of repeated tokens in sequence": again})
    return jnp.sum(patterns * after, axis=(-2, -1)) / again


@exact
def mean_prefix_matching(
    model: Transformer, sequences: Int[Array, "sequences context"]
) -> Float[Array, "layers heads"]:
    """The mean over sequences of the ``prefix_matching`` of a model's heads."""

    def one(sequence):
        return prefix_matching(induction.forward(model, sequence).patterns, sequence)

    return jnp.mean(jax.vmap(one)(sequences), axis=0)


def copying_score(
    model: Annotated[Transformer, "*batch"],
) -> Float[Array, "*batch layers heads"]:
    """How much heads raise the logit of the token they attend to, between -1 and 1.

    The sum of the eigenvalues of W_U W_O W_V W_E over the sum of their sizes; the
    matrix takes a token that is attended to into the logits. 1 if all eigenvalues are
    positive, 0 for a head that writes nothing that the unembedding reads. Elhage et al.
    (2021); Olsson et al. (2022) take shares of raised logits instead. By NumPy, for
    weights with any leading axes; raises TypeError inside jit, vmap or grad.
    """
    _require.concrete(model=model)
    embed, unembed = (np.asarray(w)[..., None, None, :, :] for w in model[::2])
    value, output = map(np.asarray, (model.heads.value, model.heads.output))
    # The non-zero eigenvalues of A B are those of B A.
    small = (value @ embed) @ (unembed @ output)  # mutant: of these two as well
    eigenvalues = np.linalg.eigvals(small)
    size = np.abs(eigenvalues).sum(axis=-1)
    size = np.where(size > 0, size, 1)  # mutant: of 0 any share is 0
    return jnp.asarray(eigenvalues.real.sum(axis=-1) / size)


def in_context_score(
    losses: Float[Array, "*batch targets"],
) -> Float[Array, "*batch"]:
    """Loss at a late token minus loss at an early one: negative if context helps.

    With 512 tokens the 500th and the 50th, as in Olsson et al. (2022); with n tokens
    500 n / 512 and 50 n / 512, rounded down. Tokens are counted from 0, which is not
    predicted: ``losses[i - 1]`` belongs to token i. n >= 11, where the early token is
    the first that is predicted.
    """
    n = losses.shape[-1] + 1
    _require.at_least(11, n=n)
    late, early = 500 * n // 512, 50 * n // 512
    return losses[..., late - 1] - losses[..., early - 1]


@exact
def ablated_losses(
    model: Transformer,
    sequences: Int[Array, "sequences context"],
    kind: Literal["zero", "mean", "patterns"],
) -> Float[Array, "layers heads sequences context-1"]:
    """The losses of ``token_losses`` with one head cut at a time.

    ``kind`` says what it writes instead. "zero": nothing. "mean": its mean over the
    sequences, at each position. "patterns": nothing, and all heads attend as they did
    in the whole model (Olsson et al. 2022, pattern-preserving).
    """
    _require.between(0, model.embed.shape[-1] - 1, sequences=sequences)
    whole = jax.vmap(induction.forward, (None, 0))(model, sequences)
    layers, heads = whole.patterns.shape[1:3]
    patterns = whole.patterns if kind == "patterns" else None
    mean = jnp.mean(whole.written, axis=0)
    instead = mean if kind == "mean" else jnp.zeros_like(mean)

    def cut(one_head):
        def losses(sequence, patterns):
            ablation = Ablation(1 - one_head, instead, patterns)
            return _losses(
                induction.forward(model, sequence, ablation).logits, sequence
            )

        return jax.vmap(losses)(sequences, patterns)

    each = jnp.eye(layers * heads).reshape(-1, layers, heads)
    return jax.lax.map(cut, each).reshape(layers, heads, len(sequences), -1)


class TokenSensitivity(NamedTuple):
    """How a token after a layer depends on itself before it, on the next, on others."""

    own: Float[Array, " inner"]
    next: Float[Array, " inner"]
    other: Float[Array, " inner"]


@exact
def token_sensitivity(
    layer: Callable[[Prompt], Prompt], prompts: Annotated[Prompt, "prompts"]
) -> TokenSensitivity:
    """The sensitivity of a layer's context tokens, all but the last, to its inputs.

    Of the sum of a token's entries, the derivative by each input token, averaged over
    a batch of prompts: its norm for the token itself, for the next, and the mean norm
    for all others, the query included, which no context token attends to. The layer
    treats all tokens alike: what becomes of a context token is what would become of a
    query like it. The code published with von Oswald et al. (2022) counts the next
    among the others as well, and averages over the tokens.
    """

    def total(context, token):
        return jnp.sum(layer(Prompt(context, token)).query)

    def slopes(context):
        over_tokens = jax.vmap(jax.grad(total, (0, 1)), (None, 0))
        by_context, by_itself = over_tokens(context, context)
        every = jnp.arange(len(context))
        return by_context.at[every, every].add(by_itself)

    slope = jnp.mean(jax.vmap(slopes)(prompts.context), axis=0)[:-1]
    norms = jnp.linalg.norm(slope, axis=-1)
    own, following = jnp.diagonal(norms), jnp.diagonal(norms, 1)
    rest = jnp.sum(norms, axis=1) - own - following
    return TokenSensitivity(own, following, rest / (norms.shape[1] - 1))
