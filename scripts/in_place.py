"""Which cells of a page a second run could find different, read from their code alone.

Different is what depends on a name with two meanings: bound in two cells, or bound in one and its
object changed in place in another. It is rather found too often than too seldom: what an object
may share with others counts as changed with it, and a function that may change what it is given
changes all that stands beside it. What is not seen is a function of a library that changes its
arguments; tests/test_in_place.py holds the package's own to this.
"""

import ast
import re
from collections import Counter

# Methods that change what they belong to; so named, a module's function changes its state.
STATE = {"seed", "begin", "update"}
METHODS = STATE | {
    *("append", "extend", "insert", "remove", "pop", "popitem", "clear", "sort", "reverse"),
    *("setdefault", "add", "discard", "difference_update", "intersection_update", "put", "fill"),
    *("symmetric_difference_update", "appendleft", "extendleft", "popleft", "rotate", "subtract"),
    *("resize", "itemset", "setflags", "setfield", "partition", "byteswap", "shuffle"),
    *("send", "throw", "close", "read", "readline", "readlines", "write", "writelines", "seek"),
    *("__next__", "__setitem__", "__delitem__", "__setattr__", "__delattr__", "__iadd__"),
}
# Functions that change what they are given first.
BUILT_IN = {"next", "setattr", "delattr"}
FILLING = BUILT_IN | {"copyto", "fill_diagonal", "place", "putmask", "put", "put_along_axis", "at"}
FILLING |= {"shuffle", "heappush", "heappop", "heapify"}
ANYTHING = {"exec", "eval", "globals", "locals", "vars", "get_ipython"}
# What is another after each use.
CONSUMED = {"iter", "zip", "map", "filter", "enumerate", "reversed", "open", "count", "cycle"}
CONSUMED |= {"chain", "islice", "accumulate", "product", "permutations", "combinations"}
GENERATORS = {"default_rng", "RandomState", "Random", "Generator"}
# Calls that make a new object.
NEW = {"list", "dict", "set", "sorted", "defaultdict", "Counter", "deque", "bytearray", "array"}
NEW |= {"zeros", "ones", "full", "empty", "eye", "arange", "linspace", "concatenate", "stack"}
NEW |= {"zeros_like", "ones_like", "full_like", "empty_like", "fromkeys", "deepcopy"}

IMPORTS = ast.Import, ast.ImportFrom
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
ASSIGNMENTS = ast.Assign, ast.AnnAssign, ast.NamedExpr
FRESH = ast.List, ast.Dict, ast.Set, ast.Constant, ast.BinOp, ast.Compare, *COMPREHENSIONS


def parse(source):
    return ast.parse(re.sub(r"^( *)[%!].*", r"\1pass", source, flags=re.M))


def union(sets):
    return set().union(*sets)


def loaded(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def bound(node):
    """The names that code binds where it stands; of a function or a class, its own."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name} if not isinstance(node, ast.Lambda) else set()
    if isinstance(node, IMPORTS):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.Name):
        return {node.id} if not isinstance(node.ctx, ast.Load) else set()
    if isinstance(node, COMPREHENSIONS):
        return set()
    return union(map(bound, ast.iter_child_nodes(node)))


def called(node):
    """The last part of what is called: default_rng of np.random.default_rng(0)."""
    return isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None))


def roots(node):
    """The names whose objects an expression may be, or be a part of."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        return roots(node.value)
    if isinstance(node, COMPREHENSIONS):
        return set()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return roots(node.func.value).union(*map(roots, node.args))
    return loaded(node)


def changes(node, imported):
    """The expressions whose objects this one node changes."""
    if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
        yield node.value
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target
    method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    if called(node) in FILLING and (method or called(node) in imported | BUILT_IN):
        yield from node.args[:1]
    if called(node) in METHODS and method:
        of_module = isinstance(node.func.value, ast.Name) and node.func.value.id in imported
        if not of_module or called(node) in STATE:  # np.append makes a new one
            yield node.func.value


def inside(statement, imported):
    """The expressions that a statement changes, each with the functions that it stands in."""

    def walk(node, functions):
        for expression in changes(node, imported):
            yield expression, functions
        for child in ast.iter_child_nodes(node):
            yield from walk(child, (*functions, node) if isinstance(node, FUNCTIONS) else functions)

    return walk(statement, ())


def makings(tree, name):
    """The values that code gives a name; None for one that is not simply assigned."""
    for node in ast.walk(tree):
        if isinstance(node, ASSIGNMENTS):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from parts(target, node.value, name)
        elif isinstance(node, ast.For | ast.comprehension | ast.withitem):
            yield from [None] if name in bound(getattr(node, "target", node)) else []


def parts(target, value, name):
    """What an assignment gives a name."""
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    elif name in bound(target):
        pairs = zip(getattr(target, "elts", ()), getattr(value, "elts", ()), strict=False)
        same = len(getattr(target, "elts", ())) == len(getattr(value, "elts", ()))
        yield from (v for pair in pairs for v in parts(*pair, name)) if same else [None]


def shares(tree, name):
    """Whether what the code calls by this name may be another's object."""
    values = [*makings(tree, name)]
    return not values or not all(isinstance(v, FRESH) or called(v) in NEW for v in values)


def outer(node):
    """The names that functions in here take from outside to bind them anew."""
    kinds = ast.Global | ast.Nonlocal
    return {name for n in ast.walk(node) if isinstance(n, kinds) for name in n.names}


def parameters(function):
    return {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}


def own(function):
    """The names that live in a function: what it is given, and what it assigns."""
    body = function.body if isinstance(function.body, list) else []
    return parameters(function).union(*map(bound, body)) - outer(function)


def consumed(node):
    """Whether this is an iterator, or a generator of numbers: another after each use."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        of_itertools = called(node) in CONSUMED and roots(node.func) == {"itertools"}
        return of_itertools or called(node) in GENERATORS
    return isinstance(node, ast.GeneratorExp) or called(node) in CONSUMED | GENERATORS


def at_once(node):
    """All nodes of a statement but those within functions."""
    yield node
    for child in ast.iter_child_nodes(node) if not isinstance(node, FUNCTIONS) else ():
        yield from at_once(child)


def yields(node):
    return any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(node))


class Page:
    """The code of a page's cells, and of what is run after them, in the order of a run."""

    def __init__(self, sources):
        self.trees = [parse(source) for source in sources]
        statements = [s for tree in self.trees for s in tree.body]
        self.imported = union(bound(s) for s in statements if isinstance(s, IMPORTS))
        self.functions = union(bound(s) for s in statements if isinstance(s, FUNCTIONS))
        self.classes = union(bound(s) for s in statements if isinstance(s, ast.ClassDef))
        self.yielding = union(bound(s) for s in statements if yields(s))
        self.makers = makers_of(step for s in statements for step in steps(s))
        self.lasting = union(map(self.with_state, statements)) & {*self.makers}
        for _ in statements:  # and what they make
            made_by = self.lasting & (self.functions | self.classes)
            self.lasting |= union(bound(s) for s in statements if free(s) & made_by)
        self.changers = self.find_changers()

    def effects(self, statement, tree):
        """The names of the page that a statement changes, and whether it changes what it is given.

        Of each name it says whether the object may be another's too.
        """
        changed, given = {}, False
        for expression, functions in inside(statement, self.imported):
            for name in roots(expression):
                homes = [function for function in functions if name in own(function)]
                alone = isinstance(expression, ast.Name)
                alone = alone and not shares(homes[-1] if homes else tree, name)
                if not homes:
                    changed[name] = changed.get(name, False) or not alone
                given |= bool(homes) and (name in parameters(homes[-1]) or not alone)
        return changed, given

    def find_changers(self):
        """The functions and classes that may change what they are given, or call one that may."""
        pairs = [(s, tree) for tree in self.trees for s in tree.body]
        found = union(bound(s) for s, tree in pairs if self.effects(s, tree)[1])
        functions = [s for s, _ in pairs if isinstance(s, FUNCTIONS)]
        for _ in functions:
            found |= union(bound(s) for s in functions if free(s) & found)
        return found

    def with_state(self, statement):
        """The names of what is another after each use: iterators, generators, objects."""
        found = outer(statement)
        for node in at_once(statement):
            if isinstance(node, ASSIGNMENTS) and node.value and self.holds_consumed(node):
                found |= bound(node)
        is_class = isinstance(statement, ast.ClassDef) and self.effects(statement, statement)[1]
        return found | bound(statement) if is_class or outer(statement) else found

    def holds_consumed(self, node):
        """Whether an assignment gives a name what is consumed, by itself or in a display."""
        consumed_here = lambda value: consumed(value) or called(value) in self.yielding
        value, targets = node.value, getattr(node, "targets", ())
        held = [*getattr(value, "elts", ()), *getattr(value, "values", ())]
        unpacked = any(isinstance(target, ast.Tuple | ast.List) for target in targets)
        return any(map(consumed_here, held)) or (consumed_here(value) and not unpacked)

    def changed(self, tree):
        """The names whose objects may be others after this cell."""
        objects = lambda names: closure(self.makers, names) - self.functions - self.imported
        found = closure(self.makers, reads(tree)) & self.lasting
        for statement in tree.body:
            changed, given = self.effects(statement, tree)
            for name, shared in changed.items():
                found.add(name)
                if shared:
                    found |= objects({name} if name in self.makers else free(statement))
            given |= bool(free(statement) & self.changers)
            if given and not isinstance(statement, FUNCTIONS):
                found |= objects(free(statement))
        return found

    def changes_anything(self, tree):
        """Whether a cell runs code that cannot be read, or changes a module that it only uses."""
        here = union(bound(s) for s in tree.body if isinstance(s, IMPORTS))
        unread = any(called(node) in ANYTHING for node in ast.walk(tree))
        return unread or self.changed(tree) & self.imported - here

    def again(self, count):
        """Which of the first cells a second run could find different."""
        if any(map(self.changes_anything, self.trees)):
            return list(range(count))
        made = [union(map(bound, tree.body)) for tree in self.trees]
        changed = [*map(self.changed, self.trees)]
        meanings = Counter(name for both in zip(made, changed, strict=True) for name in union(both))
        found = set()
        # An object that is changed is so for all that hold it; a name that is bound again is not.
        for names, taking in ((changed, free), (map(reads, self.trees), reads)):
            taken_in = [*map(taking, self.trees)]
            doubtful = {name for name in union(names) if meanings[name] > 1}
            makers = makers_of(zip(made, taken_in, strict=True))
            for index in range(count):
                if closure(makers, made[index] | taken_in[index]) & doubtful:
                    found.add(index)
        return sorted(found)


def steps(statement, needed=frozenset()):
    """The names that a statement binds one after another, and what goes into them."""
    if isinstance(statement, ast.For):
        needed = needed | free(statement.iter)
        yield bound(statement.target), needed
    elif isinstance(statement, ast.With):
        yield union(map(bound, statement.items)), needed.union(*map(free, statement.items))
        needed = needed.union(*map(free, statement.items))
    elif isinstance(statement, ast.If):
        needed = needed | free(statement.test)
    else:
        yield bound(statement), needed | free(statement)
        return
    for inner in [*statement.body, *getattr(statement, "orelse", ())]:
        yield from steps(inner, needed)


def makers_of(pairs):
    """For each name what went into it: pairs are of names that are made, and of what they take."""
    makers = {}
    for names, needed in pairs:
        for name in names:
            makers.setdefault(name, set()).update(needed)
    return makers


def closure(makers, names):
    """These names and all that went into them."""
    more = names.union(*(makers.get(name, ()) for name in names))
    return names if more == names else closure(makers, more)


def reads(tree):
    """The names that code takes from outside: not those that it has itself bound before.

    A function reads when it is called, perhaps from another cell: there all names count.
    """
    return taken(tree.body, frozenset())[0]


def taken(body, mine):
    """What statements take from outside, and the names that are their own after them."""
    found = set()
    for statement in body:
        if isinstance(statement, ast.For):
            inner = statement.body + statement.orelse
            found |= of_node(statement.iter, mine)
            found |= taken(inner, mine | bound(statement.target))[0]
        elif isinstance(statement, ast.With):
            found |= union(of_node(item, mine) for item in statement.items)
            more, mine = taken(statement.body, mine.union(*map(bound, statement.items)))
            found |= more
        else:
            found |= of_node(statement, mine)
            if isinstance(statement, (ast.Assign, ast.AnnAssign, *FUNCTIONS, *IMPORTS)):
                mine = mine | bound(statement)
    return found, mine


def free(node):
    """All names that code takes from outside its functions."""
    return of_node(node, frozenset())


def of_node(node, mine):
    """The names that one node takes from outside."""
    if isinstance(node, ast.Name):
        return {node.id} - mine if not isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, FUNCTIONS):
        body = node.body if isinstance(node.body, list) else [node.body]
        later = union(of_node(part, frozenset()) for part in body) - own(node)
        now = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        now += getattr(node, "decorator_list", [])
        return later.union(*(of_node(part, mine) for part in now))
    if isinstance(node, COMPREHENSIONS):
        mine = mine.union(*(bound(part.target) for part in node.generators))
    found = union(of_node(child, mine) for child in ast.iter_child_nodes(node))
    if isinstance(node, ast.AugAssign):
        found |= bound(node.target) - mine
    return found
