"""Whether a reader can go back to any cell of a page: watched while the page runs.

A cell that is run again does what it did, if all that it reads is what it was. So in a page

- a name that a cell takes from others is bound in one cell only, and
- what has been made is not changed in place by a later cell, and no setting of a module is.

Of an object is watched what can be looked into: containers, arrays, iterators, generators of
random numbers, functions with what they hold, objects of the page's own classes. What a library
makes counts as constant.
"""

import dis
import functools
import hashlib
import random
import types
from collections import deque
from collections.abc import Iterator

import numpy as np

AT_ONCE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
SHELLS = {"backend", "interactive"}  # which the shell sets as it likes
JAX = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"


def reads(code, own=()):
    """The names that code takes from outside: not those that it has itself bound before.

    A function reads when it is called, perhaps from another cell: there all names count.
    """
    found, own = set(), set(own)
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            found |= {step.argval} - own
        elif step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            own.add(step.argval)
        elif isinstance(step.argval, types.CodeType):
            found |= reads(step.argval, own if step.argval.co_name in AT_ONCE else ())
    return found


def fingerprint(value, within=()):
    """All of a value that can be changed in place, as something to compare."""
    if id(value) in within:
        return "itself"
    parts = functools.partial(fingerprint, within=(*within, id(value)))
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | np.generic():
            return value
        case np.ndarray():
            if value.dtype.hasobject:
                return value.shape, [*map(parts, value.flat)]
            return value.shape, hashlib.sha256(np.ascontiguousarray(value)).digest()
        case dict():
            return [(key, parts(item)) for key, item in value.items()]
        case list() | tuple() | set() | frozenset() | deque():
            return [*map(parts, value)]
        case np.random.Generator():
            return parts(value.bit_generator.state)
        case np.random.RandomState():
            return parts(value.get_state())
        case random.Random():
            return value.getstate()
        case functools.partial():
            return parts((value.func, value.args, value.keywords))
        case types.FunctionType():
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            return parts((value.__defaults__, value.__kwdefaults__, value.__dict__, held))
        case types.MethodType():
            return parts(value.__self__)
        case types.GeneratorType():
            return parts(value.gi_frame and dict(value.gi_frame.f_locals))
        case Iterator():
            return parts(value.__reduce__())
        case types.SimpleNamespace():
            return parts(vars(value))
    if hasattr(value, "__wrapped__"):  # a jitted function
        return parts(value.__wrapped__)
    its_own = value if isinstance(value, type) else type(value)
    if its_own.__module__ == "__main__" and hasattr(value, "__dict__"):
        fields = {name: item for name, item in vars(value).items() if not name.startswith("__")}
        return parts(fields)
    return id(value)


def settings():
    """The state of the modules that a page's results depend on."""
    import jax
    from matplotlib import rcParams

    return {
        "numpy.random": fingerprint(np.random.get_state()),
        "numpy.get_printoptions": repr(np.get_printoptions()),
        **{name: repr(getattr(jax.config, name)) for name in JAX},
        **{f"rcParams {name}": repr(rcParams[name]) for name in set(rcParams) - SHELLS},
    }


class Watch:
    """Follows the names of a namespace while cells are run in it."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.made = {}  # a name: each object that it has meant, and its fingerprint then
        self.read = set()
        self.settings = None

    def after(self, source):
        """To be called after each cell that has run."""
        self.read |= reads(compile(source, "cell", "exec"))
        for name, value in list(self.namespace.items()):
            meant = self.made.setdefault(name, [])
            if not (meant and meant[-1][0] is value) and not name.startswith("_"):
                meant.append((value, fingerprint(value)))
        if not self.settings and "setup" in self.namespace:  # the page has begun
            self.settings = settings()

    def complaints(self):
        """What a reader who goes back would find changed."""
        for name in sorted(self.read & {*self.made}):
            meant = self.made[name]
            if len(meant) > 1:
                yield f"{name} is bound in {len(meant)} cells, and read in others"
            if any(fingerprint(value) != then for value, then in meant):
                yield f"what {name} means is changed in place by a later cell"
        now = settings() if self.settings else {}
        yield from (f"{name} is changed" for name in now if now[name] != self.settings[name])

    def end(self):
        """Raises AssertionError with all complaints, if there is one."""
        if found := [*self.complaints()]:
            raise AssertionError("; ".join(found))


def begin(shell):
    """Watches the cells that an IPython shell runs from now on."""
    watch = Watch(shell.user_ns)
    shell.events.register(
        "post_run_cell", lambda result: watch.after(shell.transform_cell(result.info.raw_cell))
    )
    return watch
