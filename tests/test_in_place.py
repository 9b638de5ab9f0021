"""What a reader who goes back in a page would find changed is found while it runs."""

import contextlib
import io

import in_place
import jax
import numpy as np
import pytest

# How something is made; a cell that changes it; where needed, how it is shown.
CHANGED = {
    "append": ("a = [1]", "a.append(2)"),
    "sort": ("a = [2, 1]", "a.sort()"),
    "pop within an expression": ("a = [1, 2]", "b = 1 + a.pop()"),
    "update": ("a = {}", "a.update(x=1)"),
    "setdefault": ("a = {}", "b = a.setdefault(1, 2)"),
    "item": ("a = {}", "a[1] = 2"),
    "item of an item": ("a = {1: {}}", "a[1][1] = 2"),
    "item of two names": ("a = [1]", "b, a[0] = 1, 2"),
    "within another that is made beside it": ("a = [1]\nb = {1: a}", "a.append(2)", "b"),
    "item in a loop": ("a = [0, 0]", "for a[0] in range(3):\n    pass"),
    "slice": ("a = [1, 2]", "a[:] = []"),
    "item counted up": ("a = [1]", "a[0] += 1"),
    "attribute": ("from types import SimpleNamespace\na = SimpleNamespace(x=1)", "a.x = 2"),
    "setattr": ("from types import SimpleNamespace\na = SimpleNamespace(x=1)",
                "setattr(a, 'x', 2)"),
    "deletion": ("a = [1]", "del a[0]"),
    "augmented": ("a = [1]", "a += [2]"),
    "of numpy": ("import numpy as np\na = np.zeros(2)", "np.add.at(a, [0], 1)"),
    "fill": ("import numpy as np\na = np.zeros(2)", "a.fill(1)"),
    "copyto": ("import numpy as np\na = np.zeros(2)", "np.copyto(a, 1)"),
    "another name": ("a = [1]", "b = a\nb.append(2)"),
    "two other names": ("a = [1]", "b = a\nc = b\nc.append(2)"),
    "a view": ("import numpy as np\na = np.zeros(2)", "b = np.asarray(a)\nb[0] = 1"),
    "a part": ("a = [[1]]", "b = a[0]\nb.append(2)"),
    "held": ("a = [1]", "b = {'x': a}\nb['x'].append(2)"),
    "in a loop": ("a = [[1]]", "for row in a:\n    row.append(2)"),
    "in a comprehension": ("a = [[1, 2]]", "[row.pop() for row in a]"),
    "in an argument": ("a = [[1, 2]]", "b = sorted(a, key=lambda row: row.pop())"),
    "by a function": ("a = [1]", "def f():\n    a.append(2)\nf()"),
    "given to a function": ("a = [1]", "def f(b):\n    b.append(2)\nf(a)"),
    "given on": ("a = [1]", "def f(b):\n    b.append(2)\ndef g(b):\n    f(b)\ng(a)"),
    "by a lambda": ("a = [1]", "f = lambda b: b.append(2)\nf(a)"),
    "renamed within": ("a = [1]", "def f(b):\n    c = b\n    c += [2]\nf(a)"),
    "as a method": ("a = [1]", "list.append(a, 2)"),
    "global": ("a = 1", "def f():\n    global a\n    a = 2\nf()"),
    "iterator": ("a = iter([1, 2, 3])", "", "next(a)"),
    "zip": ("a = zip([1, 2], [3, 4])", "", "list(a)"),
    "generator": ("a = (x for x in [1, 2])", "", "sum(a)"),
    "generator in part": ("a = (x for x in [1, 2, 3])", "", "next(a)"),
    "generator by a function": ("def f():\n    yield 1\na = f()", "", "sum(a)"),
    "random numbers": ("import numpy as np\na = np.random.default_rng(0)", "", "a.normal()"),
    "seed": ("import numpy as np\nsetup = 1\nnp.random.seed(0)\na = 1", "np.random.seed(1)",
             "np.random.get_state()[1][0] + a"),
    "object": ("class A:\n    n = 0\n    def up(self):\n        self.n += 1\n"
               "        return self.n\na = A()", "", "a.up()"),
    "counter": ("def count():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n"
                "        return n\n    return up\na = count()", "", "a()"),
    "exec": ("a = 1", "exec('a = 2')"),
    "globals": ("a = 1", "globals()['a'] = 2"),
    "bound again": ("a = 1", "a = 2"),
    "bound in a loop": ("a = 1", "for a in range(3):\n    pass"),
    "bound by an import": ("a = 1", "import math as a"),
    "setting": ("import numpy as np\nsetup = 1\na = np.array(1 / 3)",
                "np.set_printoptions(precision=2)", "repr(a)"),
    "setting of jax": ("import jax\nsetup = 1",
                       "jax.config.update('jax_default_matmul_precision', 'high')",
                       "jax.config.jax_default_matmul_precision"),
}  # fmt: skip


def cells(made, change="", shown="a"):
    return [made, f"print({shown})", change]


@pytest.fixture(autouse=True)
def settings():
    """As they were."""
    before = jax.config.jax_default_matmul_precision
    with np.printoptions():
        yield
    jax.config.update("jax_default_matmul_precision", before)


def watched(*sources):
    """What is complained of after these cells."""
    namespace = {"__name__": "__main__"}
    watch = in_place.Watch(namespace)
    with contextlib.redirect_stdout(io.StringIO()):
        for source in sources:
            exec(source, namespace)
            watch.after(source)
    return [*watch.complaints()]


@pytest.mark.parametrize("parts", CHANGED.values(), ids=CHANGED)
def test_what_is_changed_after_it_was_shown_is_named(parts):
    made, show, change = cells(*parts)
    assert watched(made, show) == [] or not change
    assert watched(made, show, change)


@pytest.mark.parametrize("parts", CHANGED.values(), ids=CHANGED)
def test_it_would_indeed_show_something_else(parts):
    """The examples are what they are meant to be: run as a page is, the second time differs."""
    made, show, change = cells(*parts)
    shown, namespace = [], {}
    for source in (made, show, change, show):
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(source, namespace)
        if source == show:
            shown.append(told.getvalue())
    assert shown[0] != shown[1]


UNCHANGED = {
    "values": ["a = 1", "b = a + 1", "print(a, b)"],
    "filled where it is made": ["a = []\nfor x in range(3):\n    a.append(x)", "print(a)"],
    "filled where several are made": ["a, b = {}, []\na[1] = 2", "print(a, b)"],
    "own list of a function": [
        "def f(x):\n    y = []\n    y.append(x)\n    return y",
        "print(f(1))",
    ],
    "new arrays": [
        "import numpy as np\na = np.zeros(2)",
        "b = np.append(a, 1)",
        "print(np.sort(a))",
    ],
    "of jax": ["import jax.numpy as jnp\na = jnp.zeros(2)", "b = a.at[0].set(1)", "print(a)"],
    "axes": [
        "import matplotlib.pyplot as plt\nfigure, ax = plt.subplots()\nax.plot([1])",
        "figure, ax = plt.subplots()\nax.plot([2])\nplt.close('all')",
    ],
    "loops": ["for x in range(2):\n    print(x)", "for x in range(3):\n    print(x)"],
    "names of a comprehension": ["a = [1]", "b = [a for a in a]", "print([b for b in b])"],
    "own name within a comprehension": [
        "k = 1\nprint(sum(k for _ in range(2)), [k for _ in range(2)])",
        "k = 2\nprint(sum(k for _ in range(2)), [k for _ in range(2)])",
    ],
    "generators within a loop": [
        "for a in [[1]]:\n    b = (x for x in a)\n    print(*b)",
        "print(a)",
        "print(a)",
    ],
    "generator that nobody asks": ["a = (x for x in [1])", "print(type(a))", "b = 1"],
    "unpacked": ["a, b = (x for x in range(2))", "print(a, b)"],
    "trees": ["import jax\na = jax.tree.map(abs, 1)", "print(a)"],
    "a function of other functions": [
        "from functools import partial\nf = partial(pow, 2)\ng = lambda x, f=f: f(x)",
        "print(g(2))",
    ],
    "used by itself": ["a = [1]\na.append(a)", "print(len(a))"],
}


@pytest.mark.parametrize("page", UNCHANGED.values(), ids=UNCHANGED)
def test_what_would_do_the_same_is_not(page):
    assert watched(*page) == []


def test_a_name_is_ambiguous_where_a_function_reads_it_late():
    assert watched("k = 1\nf = lambda: k", "k = 2\nprint(k)", "print(f())")


def test_a_complaint_says_what_and_why():
    (twice,) = watched("a = 1", "print(a)", "a = 2")
    assert twice == "a is bound in 2 cells, and read in others"
    (changed,) = watched("a = [1]", "b = a\nb.append(2)")
    assert changed.startswith("what a means is changed in place")
