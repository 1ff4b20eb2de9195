"""What one source file defines, and what each of its definitions names: read from the text, nothing is imported.

A definition is whatever stands behind a name of the module's top level: a function, a class with all its methods, the
statements that give a constant its value. It becomes sixteen digits of the sha256 of its syntax, without comments,
docstrings and layout, and a list of the names that it takes from elsewhere. Python's own rules decide which those are:
a parameter or local variable that happens to be called like a function of the module is not a use of it.

The syntax tree is dropped at once (a tree takes twenty times its source), so a file is summarised whole though only a
part of it may be asked for. What a file does when it is imported, beyond giving its names their values, is not looked
at.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VERSION = "definition-v1"  # of what the digits are made of

_NUM_DIGITS = 16  # 64 bits: against accident, not against an adversary
_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # no meaning, or not in every Python version
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SCOPED = frozenset({*_NAMED, ast.Lambda})
_COMPREHENSIONS = frozenset({ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp})
_CATCHES = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_BINDING = frozenset({*_NAMED, *_CATCHES, ast.MatchMapping, ast.Import, ast.ImportFrom, ast.Global})

Chain = tuple[str, ...]  # a name and the attributes asked of it: `a.b.c` is ("a", "b", "c")


class Import(NamedTuple):
    """What an import statement binds one name to."""

    module: str  # as written, without the leading dots
    level: int  # leading dots
    name: str | None  # what is taken from the module; None: the module itself


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What stands behind one name of a module's top level."""

    digits: str  # of its syntax, and of the imports behind the names it uses
    uses: tuple[Chain, ...]  # names that it looks up in its module; what is asked of them, where that is imported
    imports: tuple[tuple[Import, Chain], ...]  # of import statements inside it: which, and the attributes asked of it
    targets: tuple[Import, ...]  # import statements at top level that bind this name
    is_import: bool  # nothing but import statements bind it


@dataclass(frozen=True, kw_only=True)
class Source:
    """The summary of one file."""

    sha256: str | None  # of its bytes; None if it could not be read
    definitions: Mapping[str, Definition] = field(default_factory=dict)  # by name
    stars: tuple[Import, ...] = ()  # `from m import *`
    error: str | None = None  # why it could not be read or parsed; it has no definitions then


def parse(content: bytes) -> Source:
    """The summary of a file with this content."""
    digest = hashlib.sha256(content).hexdigest()
    try:
        body = ast.parse(content).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested without end
        return Source(sha256=digest, error=str(error))
    return _summary(digest, body)


def _summary(digest: str, body: list[ast.stmt]) -> Source:
    nodes: dict[str, list[ast.AST]] = {}
    targets: dict[str, list[Import]] = {}
    stars: list[Import] = []
    for name, what in _bindings(body):
        if name == "*":
            assert isinstance(what, Import)
            stars.append(what)
        elif isinstance(what, Import):
            targets.setdefault(name, []).append(what)
        else:
            nodes.setdefault(name, []).append(what)
    for name, node in _additions(body):  # to what an import brought: not this module's own
        if name in nodes and all(node is not known for known in nodes[name]):
            nodes[name].append(node)
    definitions, bound = {}, {**nodes, **targets}
    for name in bound:
        tokens, uses, imports = _read(nodes.get(name, ()))
        wanted = {name, *(use[0] for use in uses)}
        meant = sorted(f"{n} is {found!r}" for n in wanted for found in targets.get(n, ()))
        definitions[name] = Definition(
            digits=_digits([*tokens, *meant]),
            uses=tuple(sorted({use if use[0] in targets else use[:1] for use in uses if stars or use[0] in bound})),
            imports=tuple(sorted(imports, key=repr)),
            targets=tuple(targets.get(name, ())),
            is_import=name not in nodes,
        )
    return Source(sha256=digest, definitions=definitions, stars=tuple(stars))


def _digits(tokens: Iterable[str]) -> str:
    text = "\n".join((VERSION, *tokens))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_NUM_DIGITS]


# -- the top level of a module ----------------------------------------------------------------------------------------


def _bindings(body: Iterable[Any]) -> Iterator[tuple[str, ast.AST | Import]]:
    """Each name that these statements bind, with the statement that says to what; ("*", ...) for `import *`."""
    for node in body:
        if isinstance(node, _NAMED):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in {part.id: None for target in targets for part in ast.walk(target) if type(part) is ast.Name}:
                yield name, node
        elif isinstance(node, ast.If):
            for name, bound in _bindings([*node.body, *node.orelse]):
                if not isinstance(bound, Import):
                    yield name, node.test
                yield name, bound
        elif isinstance(node, ast.Try | ast.TryStar):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _bindings([*node.body, *handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.stmt) and not isinstance(node, ast.Expr):  # with, for, while, match, del, type
            inner = list(ast.walk(node))
            for part in inner:
                if isinstance(part, ast.Import | ast.ImportFrom):
                    yield from _imports(part)
            stored = {p.id for p in inner if type(p) is ast.Name and not isinstance(p.ctx, ast.Load)}
            for name in sorted(stored | {p.name for p in inner if isinstance(p, _NAMED)}):
                yield name, node


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            bound = Import(node.module or "", node.level, None if alias.name == "*" else alias.name)
            yield alias.asname or alias.name, bound
        elif alias.asname:
            yield alias.asname, Import(alias.name, 0, None)
        else:  # binds the outermost package; what is asked of it says how far to go
            first = alias.name.partition(".")[0]
            yield first, Import(first, 0, None)


def _additions(body: Iterable[Any]) -> Iterator[tuple[str, ast.AST]]:
    """Statements that add to a name without binding it: `TABLE.update(...)`, `@convert.register`."""
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            callees = [node.value.func]
        elif isinstance(node, _NAMED):
            callees = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
        else:
            continue
        for callee in callees:
            chain = _chain(callee)
            if chain is not None and len(chain) > 1:
                yield chain[0], node


def _chain(node: ast.AST) -> Chain | None:
    """("a", "b", "c") for the expression `a.b.c`, None for any other."""
    attributes: list[str] = []
    while type(node) is ast.Attribute:
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if type(node) is ast.Name else None


# -- one definition ---------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Scope:
    """The names of a function, a comprehension or (functions inside cannot see those) a class."""

    parent: "_Scope | None"
    is_class: bool = False
    bound: set[str] = field(default_factory=set)
    imports: dict[str, list[Import]] = field(default_factory=dict)
    module_names: set[str] = field(default_factory=set)  # `global x`


def _read(nodes: Iterable[ast.AST]) -> tuple[list[str], set[Chain], set[tuple[Import, Chain]]]:
    """(tokens that say all of the nodes' meaning, what they use of the module, what of their own imports).

    With an explicit stack: a sum of a thousand terms is a thousand levels deep. On it are nodes, tokens, and a scope
    where the names from there on belong to it.
    """
    tokens: list[str] = []
    found: list[tuple[_Scope, Chain]] = []
    top = scope = _Scope(None, is_class=True)  # its names are those of the module, not of the definition
    for start in nodes:
        stack: list[Any] = [start]
        scope = top
        while stack:
            item = stack.pop()
            kind = type(item)
            if kind is str:
                tokens.append(item)
            elif kind is _Scope:
                scope = item
            elif kind is ast.Name:
                tokens.append(f"Name {item.id}")
                is_read = type(item.ctx) is ast.Load
                if not is_read:
                    scope.bound.add(item.id)
                if is_read or not scope.is_class:  # a field of a class is not the module's name that it is called like
                    found.append((scope, (item.id,)))
            elif kind is ast.Constant:
                tokens.append(_constant(item.value))
            elif kind is ast.Attribute and (chain := _chain(item)) is not None:
                tokens.append(f"Chain {'.'.join(chain)}")
                found.append((scope, chain))
            elif not kind._fields:  # an operator
                tokens.append(kind.__name__)
            else:
                if kind in _BINDING:
                    _bind(item, scope)
                stack += reversed(_parts(item, kind, scope))
    uses: set[Chain] = set()
    imports: set[tuple[Import, Chain]] = set()
    for scope, chain in found:
        home = _home(scope, chain[0])
        if home is None:
            uses.add(chain)
        else:
            imports.update((bound, chain[1:]) for bound in home.imports.get(chain[0], ()))
    return tokens, uses, imports


def _constant(value: Any) -> str:
    if type(value) is str:
        return ascii(value)  # which characters `repr` escapes depends on the version of Unicode
    return hex(value) if type(value) is int else repr(value)  # long decimals are refused by `repr`


def _bind(node: ast.AST, scope: _Scope) -> None:
    """Note the names that the node itself binds in its scope."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for name, bound in _imports(node):
            scope.imports.setdefault(name, []).append(bound)
    elif isinstance(node, ast.Global):
        scope.module_names.update(node.names)
    elif isinstance(node, (*_NAMED, *_CATCHES)) and node.name:
        scope.bound.add(node.name)
    elif isinstance(node, ast.MatchMapping) and node.rest:
        scope.bound.add(node.rest)


@functools.cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    return tuple(name for name in kind._fields if name not in _SKIPPED)


def _parts(node: Any, kind: type[ast.AST], scope: _Scope) -> list[Any]:
    """The node as tokens, nodes inside it, and the scopes that these belong to, in order.

    What is None or an empty list is left out, so that a field that a later Python added changes nothing.
    """
    if kind in _COMPREHENSIONS:
        return _comprehension_parts(node, scope)
    parts: list[Any] = [f"({kind.__name__}"]
    for name in _fields(kind):
        value = getattr(node, name, None)
        if value is None:
            continue
        is_inner = name == "body" and kind in _SCOPED
        if is_inner:
            parts.append(_inner_scope(node, scope))
        if type(value) is list:
            items = [i if isinstance(i, ast.AST) else f"={i!s}" for i in value if not _says_nothing(i, kind)]
            if items:
                parts += [name, *items, "]"]
        else:
            parts += [name, value if isinstance(value, ast.AST) else f"={value!s}"]
        if is_inner:
            parts.append(scope)
    parts.append(")")
    return parts


def _inner_scope(node: Any, scope: _Scope) -> _Scope:
    if isinstance(node, ast.ClassDef):
        return _Scope(scope, is_class=True)
    given = node.args
    arguments = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return _Scope(scope, bound={argument.arg for argument in arguments if argument is not None})


def _comprehension_parts(node: Any, scope: _Scope) -> list[Any]:
    """The first iterable is evaluated outside, all the rest inside."""
    inner = _Scope(scope)
    values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    parts: list[Any] = [f"({type(node).__name__}", inner, *values]
    for i, part in enumerate(node.generators):
        outside, inside = ([scope], [inner]) if i == 0 else ([], [])
        parts += ["async for" if part.is_async else "for", part.target, "in", *outside, part.iter, *inside]
        for condition in part.ifs:
            parts += ["if", condition]
    return [*parts, scope, ")"]


def _says_nothing(item: Any, inside: type[ast.AST]) -> bool:
    """A text alone on its line (docstrings, and those below the fields of a class), or, between the parts of an
    f-string, the empty text that Python 3.12 puts there and others do not.
    """
    if type(item) is ast.Expr:
        return type(item.value) is ast.Constant and type(item.value.value) is str
    return inside is ast.JoinedStr and type(item) is ast.Constant and item.value == ""


def _home(scope: _Scope, name: str) -> _Scope | None:
    """The scope inside the definition that a name belongs to, or None: the module, or Python itself.

    What a class binds is not counted: its body may read a name of the module before it binds its own.
    """
    at: _Scope | None = scope
    while at is not None:
        if name in at.module_names:
            return None
        if name in at.imports and (at is scope or not at.is_class):
            return at
        if name in at.bound and not at.is_class:
            return at
        at = at.parent
    return None
