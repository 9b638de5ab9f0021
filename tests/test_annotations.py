"""Annotations hold at run time: what fits passes, what does not is named."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int, PyTree, jaxtyped

from icl_gd import _annotations
from icl_gd._annotations import Misfit, Numbers, Scalar
from icl_gd.attention import Products
from icl_gd.induction import Heads, Transformer
from icl_gd.tasks import Task


def checked(function):
    """As the import hook does it."""
    return jaxtyped(function, typechecker=_annotations.checked)


def a_task(*leading, n=3, d=2, outputs=1):
    shapes = (n, d), (n, outputs), (d,), (outputs,)
    return Task(*(jnp.zeros((*leading, *shape)) for shape in shapes))


@checked
def of_task(task: Task, w: Float[Array, "outputs dim"]) -> Float[Array, " dim"]:
    return w[0]


@checked
def of_tasks(tasks: Annotated[Task, "tasks"], weight: Float[Array, " tasks"]) -> int:
    return len(weight)


@checked
def of_layers(layers: Sequence[Products], start: Task | None = None):
    return len(layers)


W = jnp.zeros((1, 2))
LAYER = Products(jnp.eye(3), jnp.eye(3))


def test_what_fits_passes():
    assert of_task(a_task(), W).shape == (2,)
    assert of_tasks(a_task(4), jnp.zeros(4)) == 4
    assert of_task(Task(*map(np.array, a_task())), np.zeros((1, 2))).shape == (2,)
    assert of_layers([LAYER, LAYER], a_task()) == of_layers((LAYER, LAYER)) == 2
    assert jax.jit(of_task)(a_task(), W).shape == (2,)
    assert jax.vmap(of_task, (0, None))(a_task(4), W).shape == (4, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: of_task(a_task(4), W), "task.x must be Float[Array, 'context dim'], got float64[4, 3, 2]\n"),
        (lambda: of_task(a_task()._replace(y_query=W), W), "task.y_query must be Float[Array, 'outputs'], got float64[1, 2]"),
        (lambda: of_task(a_task(d=3), W), "w must be Float[Array, 'outputs dim'], got float64[1, 2]"),
        (lambda: of_task((1, 2), W), "task must be Task, got (1, 2)"),
        (lambda: of_task(a_task(), np.zeros((2, 1))), "w must be Float[Array, 'outputs dim'], got float64[2, 1]"),
        (lambda: of_task(a_task(), [[0.0, 0.0]]), "w must be Float[Array, 'outputs dim'], got [[0.0, 0.0]]"),
        (lambda: of_task(a_task(), None), "w must be Float[Array, 'outputs dim'], got None"),
        (lambda: of_tasks(a_task(4), jnp.zeros(3)), "weight must be Float[Array, 'tasks'], got float64[3]"),
        (lambda: of_tasks(a_task(), jnp.zeros(4)), "tasks.x must be Float[Array, 'tasks context dim'], got float64[3, 2]"),
        (lambda: of_layers([LAYER, 3]), "layers[1] must be Products, got 3"),
        (lambda: of_layers([LAYER._replace(pv=W)]), "layers[0].pv must be Inexact[Array, 'written token'], got float64[1, 2]"),
        (lambda: of_layers(LAYER.kq), "layers must be Sequence[Products], got float64[3, 3]"),
        (lambda: of_layers(LAYER), "layers must be Sequence[Products], got Products("),
        (lambda: of_layers([], a_task(n=3)._replace(y=W)), "start.y must be Float[Array, 'context outputs'], got float64[1, 2]; context is 3 in start.x but 1 in start.y"),
        (lambda: of_layers([], LAYER), "start must be Task | None, got Products(kq=float64[3, 3], pv=float64[3, 3])"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(Misfit) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_the_message_ends_with_the_call():
    with pytest.raises(TypeError) as caught:
        of_task(a_task(d=3), w=W)
    given = "Task(x=float64[3, 3], y=float64[3, 1], x_query=float64[3], y_query=float64[1])"
    first, where = str(caught.value).split("\n")
    assert first.endswith("got float64[1, 2]; dim is 3 in task.x but 2 in w")
    assert where == f"in {of_task.__module__}.of_task of {{task: {given}, w: float64[1, 2]}}"


def test_axes_that_clash_are_told_with_their_places():
    @checked
    def of(x: Float[Array, "rows dim"], trees: PyTree[Float[Array, "rows ..."]], _: Any = None):
        return True

    assert of(W, {"a": jnp.zeros(1), "b": (jnp.zeros((1, 3)), jnp.zeros((1, 5, 2)))})
    with pytest.raises(Misfit) as caught:
        of(W, {"a": jnp.zeros(1), "b": (jnp.zeros((2, 3)), jnp.zeros((2, 5, 2)))})
    expected = "trees['b'][0] must be Float[Array, 'rows ...'], got float64[2, 3]"
    assert str(caught.value).startswith(f"{expected}; rows is 1 in x but 2 in trees['b'][0]\n")
    with pytest.raises(Misfit) as caught:  # another number of axes is no clash of their sizes
        of(jnp.zeros((5, 4, 3)), jnp.zeros(2))
    assert "; " not in str(caught.value)

    @checked
    def alike(x: Float[Array, "_ dim"], y: Float[Array, "_ dim"]):
        return True

    with pytest.raises(Misfit, match=r"got float64\[2, 4\]; dim is 3 in x but 4 in y\n"):
        alike(jnp.zeros((1, 3)), jnp.zeros((2, 4)))  # sizes that have no name may differ


def test_what_is_returned_is_checked():
    @checked
    def first(x: Float[Array, "rows columns"]) -> Float[Array, " columns"]:
        return x[:, 0]

    assert first(jnp.zeros((2, 2))).shape == (2,)
    with pytest.raises(Misfit, match=r"^what it returns must be Float\[Array, 'columns'\], got fl"):
        first(jnp.zeros((3, 2)))

    @checked
    def again(task: Task) -> tuple[Task, Task]:
        return task, task._replace(x_query=task.y_query)

    with pytest.raises(Misfit, match=r"^what it returns must be tuple\[Task, Task\], got \(Task\("):
        again(a_task())


def test_axes_reach_into_every_part():
    """Leading axes stand before those of all arrays, in trees in trees and optional ones too."""
    heads = Heads(*(jnp.zeros((2, 1, *s)) for s in ((3, 5), (3, 5), (3, 5), (5, 3), (4,))))
    model = Transformer(jnp.zeros((5, 7)), heads, jnp.zeros((7, 5)))

    @checked
    def of_models(models: Annotated[Transformer, "seeds"]):
        return True

    @checked
    def of_model(model: Transformer):
        return True

    assert of_model(model)
    assert of_models(jax.tree.map(lambda w: w[None], model))
    smeared = model._replace(heads=heads._replace(smear=jnp.zeros((2, 1))))
    assert of_model(smeared) and of_models(jax.tree.map(lambda w: w[None], smeared))
    for wrong in (heads._replace(smear=jnp.zeros(1)), jax.tree.map(lambda w: w[0], heads)):
        with pytest.raises(Misfit, match=r"^model\.heads\.(smear|query) must be "):
            of_model(model._replace(heads=wrong))
    with pytest.raises(Misfit, match=r"^models\.embed must be Float\[Array, 'seeds width voc"):
        of_models(model)


def test_other_peoples_named_tuples_are_left_alone():
    class Theirs(NamedTuple):
        x: Float[Array, " n"]

    Theirs.__module__ = "theirs"

    @checked
    def of(them: Theirs, call: Callable[[Task], Any], table: Mapping[str, Int[Array, " n"]]):
        return True

    assert of(Theirs(jnp.zeros((2, 2))), of_task, {"a": jnp.arange(3)})
    with pytest.raises(Misfit, match=r"^table must be Mapping\[str, Int\[Array, 'n'\]\], got {a: "):
        of(Theirs(W), of_task, {"a": W})


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(2), np.array(3), jnp.array(1), jnp.float32(3)]
)
def test_scalars(value):
    assert checked(scale)(value) is value
    assert checked(shift)(value) is value


@pytest.mark.parametrize("value", [1j, "1", None, [1.0], jnp.ones(1), jnp.array(True)])
def test_what_is_no_scalar(value):
    with pytest.raises(Misfit, match=r"^x must be Real\[Array, ''\]( \| float \| int)?, got "):
        checked(scale)(value)


@pytest.mark.parametrize("value", [np.arange(3), jnp.ones((2, 2))])
def test_numbers_may_be_several(value):
    assert checked(shift)(value) is value


def scale(x: Scalar):
    return x


def shift(x: Numbers):
    return x


def test_compiled_calls_are_not_checked_again(monkeypatch):
    """The check is part of tracing: what is compiled runs as if there were none."""
    compiled = jax.jit(of_task)
    compiled(a_task(), W)
    monkeypatch.setattr(_annotations._Parts, "__instancecheck__", lambda *_: False)
    assert compiled(a_task(), W).shape == (2,)
    with pytest.raises(Misfit):
        compiled(a_task(n=4), W)
