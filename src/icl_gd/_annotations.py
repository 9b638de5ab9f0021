"""Annotations hold: of what the package's functions are given, and what they return.

jaxtyping's import hook (``icl_gd/__init__.py``) puts ``checked`` around every function.
Axes of one name have one size within a call. A NamedTuple stands for one example: its
parts have the shapes that its fields say; ``Annotated[Task, "tasks"]`` says that there
are several, along a leading axis. What is compiled is checked while it is traced.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce, wraps
from itertools import repeat, takewhile
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import jax
import jaxtyping
import numpy as np
from beartype import beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import AnnotationError, Array, PyTree, Real

Scalar = Real[Array, ""] | float | int
Numbers = Real[Array, "..."] | float | int


class Misfit(AnnotationError, TypeError):  # jaxtyping lets errors of its own pass
    """What a function is given, or what it returns, does not fit its annotation."""


class _Arrays(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, (jax.Array, np.ndarray, np.generic))


class _Array(metaclass=_Arrays):
    """What stands for an array: JAX's own, a tracer, or NumPy's."""


class _Parts(type):
    """The type of those values of type ``of`` whose parts fit ``hints``, one by one."""

    def __instancecheck__(cls, value: Any) -> bool:
        return cls.holds(value) and all(map(is_bearable, value, cls.hints))

    def holds(cls, value: Any) -> bool:
        """A value of the type ``of``; a NamedTuple is no sequence of what it holds."""
        same = hasattr(value, "_fields") == hasattr(cls.of, "_fields")
        return same and isinstance(value, cls.of)


def _deep(hint: Any, axes: str = "") -> Any:
    """A hint that looks into NamedTuples, with ``axes`` in front of all arrays' own."""
    if get_origin(hint) is Annotated:
        return _deep(hint.__origin__, " ".join([axes, *hint.__metadata__]))
    if hasattr(hint, "_fields") and hint.__module__.startswith("icl_gd"):
        hints = [_deep(hint.__annotations__[name], axes) for name in hint._fields]
        return _Parts(hint.__name__, (), {"of": hint, "hints": hints})
    if get_origin(hint) is Sequence:  # beartype looks at one item, drawn at random
        items = {"of": Sequence, "hints": repeat(_deep(*get_args(hint), axes))}
        return _Parts(_expected(hint), (), items)
    if hasattr(hint, "dim_str"):
        kind = getattr(jaxtyping, hint.__name__.partition("[")[0])
        return kind[_Array, f"{axes} {hint.dim_str}"]
    if hasattr(hint, "leaftype"):
        return PyTree[_deep(hint.leaftype, axes)]
    parts = tuple(_deep(part, axes) for part in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return reduce(or_, parts)
    return get_origin(hint)[parts] if get_origin(hint) in (tuple, Mapping) else hint


def _leaves(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts of an argument, each with its name and its own hint."""
    arrays = [h for h in get_args(hint) if hasattr(h, "dim_str")]
    parts = [h for h in get_args(hint) if isinstance(h, _Parts) and h.holds(value)]
    if isinstance(hint, _Parts) and hint.holds(value):
        fields = [f".{field}" for field in getattr(value, "_fields", ())]
        names = fields or [f"[{i}]" for i in range(len(value))]
        for part, inner, expected in zip(names, value, hint.hints, strict=False):
            yield from _leaves(name + part, inner, expected)
    elif parts:
        yield from _leaves(name, value, parts[0])  # mutant: no two kinds hold a value
    elif hasattr(hint, "leaftype"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            yield name + jax.tree_util.keystr(path), leaf, hint.leaftype
    else:
        one = len(arrays) == 1 and hasattr(value, "shape")
        yield name, value, arrays[0] if one else hint  # mutant: there is one


def _misfits(name: str, value: Any, hint: Any) -> Iterator[str]:
    """What does not fit, the part of it first: what was expected, what was given."""
    if not is_bearable(value, hint):
        for part in (*_leaves(name, value, hint), (name, value, hint)):
            if not is_bearable(*part[1:]):
                yield f"{part[0]} must be {_expected(part[2])}, got {_given(part[1])}"


def _clashes(given: dict[str, Any], hints: dict[str, Any]) -> Iterator[str]:
    """The axes that have several sizes, and where."""
    sizes = defaultdict(dict)
    for name in given:
        for part, value, hint in _leaves(name, given[name], hints.get(name)):
            axes, shape = (
                getattr(hint, "dim_str", "").split(),
                getattr(value, "shape", ()),
            )
            named = list(takewhile(str.isidentifier, axes))
            if len(named) < len(axes) or len(axes) == len(shape):
                for axis, size in zip(named, shape, strict=False):
                    sizes[axis].setdefault(size, part)
    for axis, found in sizes.items():
        if axis != "_" and len(found) > 1:
            where = " but ".join(f"{size} in {part}" for size, part in found.items())
            yield f"; {axis} is {where}"


def _expected(hint: Any) -> str:
    text = re.sub(r"[A-Za-z_][\w.]*\.(?=[A-Za-z_])", "", str(hint))
    text = text.replace("_Array", "Array")
    return re.sub(r"<class '(.*)'>", r"\1", text)


def _given(value: Any) -> str:
    """Of arrays, also in trees, type and shape; of anything else what Python shows."""

    short = lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else repr(a)
    tree = jax.tree.map(short, value, is_leaf=lambda a: a is None)
    return tree if isinstance(tree, str) else str(tree).replace("'", "")


def checked(function: Callable) -> Callable:
    """The function with its annotations checked; raises ``Misfit``, a TypeError."""
    hints = {name: _deep(hint) for name, hint in function.__annotations__.items()}
    function.__annotations__ = hints
    check, signature = beartype(function), inspect.signature(function)

    @wraps(function)
    def named(*args, **kwargs):
        try:
            return check(*args, **kwargs)
        except BeartypeCallHintViolation:
            given = signature.bind(*args, **kwargs).arguments
            wrong = [w for n in given for w in _misfits(n, given[n], hints.get(n, Any))]
            # jaxtyping gives the check what the function returned as one more argument.
            *_, returned = given.values()
            wrong += _misfits("what it returns", returned, hints.get("return", Any))
            why = "".join(_clashes(given, hints))
            where = f"{function.__module__}.{function.__qualname__}"
            raise Misfit(f"{wrong[0]}{why}\nin {where} of {_given(given)}") from None

    return named
