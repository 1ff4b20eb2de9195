"""A digest of a step's code, to notice that it changed since an output was made.

Code is no part of a step's identity (a comment must not rerun a month of training), so an output outlives an edit of
the function that made it. Records therefore keep a fingerprint of that code, and `plan` and `run` say where it differs
from today's; the author decides whether the meaning changed, by raising `code_version`.

The source is read from its file and parsed, never imported: planning must not load what the steps need. What that
costs: the fingerprint reaches the function and whatever of its own module it names (functions, classes, constants,
imports by their names), and what those name in turn. It does not reach code of other modules, attributes set at run
time, names that are looked up by text, compiled code, or data files; packages are covered by the record's commit. It is
taken when a step starts: a file edited after this process imported it and before that is recorded as edited.
"""

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_DOMAIN = b"code-v1\0"
_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def code_of(fn: Callable[[Any], Any] | str) -> dict[str, str | None]:
    """What a record keeps of the code of a step's function, given as such or as "module:function".

    {"code_fingerprint": SHA-256 of the syntax of all it reaches in its module, without comments, docstrings and
    layout; "source_sha256": SHA-256 of the module's file}; both None where there is no Python source.
    """
    source = _source(fn)
    if source is None:
        return {"code_fingerprint": None, "source_sha256": None}
    path, stamp, name = source
    return {"code_fingerprint": _fingerprint(path, stamp, name), "source_sha256": _file_sha256(path, stamp)}


def code_changed(fn: Callable[[Any], Any] | str, record: Mapping[str, Any]) -> bool:
    """Whether the function's code is known to differ from that which made the output of `record`.

    A file that is the same byte for byte is not parsed. False where either side has no fingerprint.
    """
    before = record.get("code_fingerprint")
    source = _source(fn) if before is not None else None
    if source is None:
        return False
    path, stamp, name = source
    if _file_sha256(path, stamp) == record.get("source_sha256"):
        return False
    now = _fingerprint(path, stamp, name)
    return now is not None and now != before


def _source(fn: Any) -> tuple[str, tuple[int, int], str] | None:
    """(file, its modification time and size, qualified name), or None if no file is found."""
    if isinstance(fn, str):
        module, _, name = fn.partition(":")
        path = _file_of_module(module)
    else:
        while (inner := getattr(fn, "__wrapped__", None)) is not None:
            fn = inner
        owner = getattr(fn, "__self__", None)
        home = owner if isinstance(owner, type) else fn
        name = getattr(home, "__qualname__", "")
        module = sys.modules.get(getattr(home, "__module__", None) or "")
        path = (getattr(fn, "__globals__", None) or getattr(module, "__dict__", {})).get("__file__")
    if path is None or not path.endswith(".py"):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), (status.st_mtime_ns, status.st_size), name


def _file_of_module(name: str) -> str | None:
    """The file of a module by its dotted name; neither it nor the packages around it are imported."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    spec = _spec(name)
    return spec.origin if spec is not None else None


def _spec(name: str) -> Any:
    parent, _, _ = name.rpartition(".")
    if not parent:
        return importlib.util.find_spec(name)
    if parent in sys.modules:
        places = getattr(sys.modules[parent], "__path__", [])
    else:
        around = _spec(parent)
        places = around.submodule_search_locations or [] if around is not None else []
    return importlib.machinery.PathFinder.find_spec(name, list(places))


@functools.lru_cache(maxsize=1024)
def _file_sha256(path: str, stamp: tuple[int, int]) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _fingerprint(path: str, stamp: tuple[int, int], name: str) -> str | None:
    definitions = _definitions(path, stamp)
    first = name.partition(".")[0]
    if definitions is None or first not in definitions:
        return None
    reached, todo = {first}, [first]
    while todo:
        for node in definitions[todo.pop()]:
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            new = [n for n in names if n in definitions and n not in reached]
            reached.update(new)
            todo += new
    digest = hashlib.sha256(_DOMAIN + name.encode())
    for found in sorted(reached):
        for node in definitions[found]:
            digest.update(f"\0{found}\0{_plain(node)!r}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


@functools.lru_cache(maxsize=32)
def _definitions(path: str, stamp: tuple[int, int]) -> dict[str, list[ast.AST]] | None:
    """What each name of a module's top level stands for, in the order of the file."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None
    found: dict[str, list[ast.AST]] = {}
    for name, node in _bindings(tree.body):
        found.setdefault(name, []).append(node)
    return found


def _bindings(body: list[Any]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                only = ast.Import([alias])
                if isinstance(node, ast.ImportFrom):
                    only = ast.ImportFrom(node.module, [alias], node.level)
                yield alias.asname or alias.name.partition(".")[0], only
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        yield part.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for inner in ("body", "handlers", "orelse", "finalbody"):
                for item in getattr(node, inner, []):
                    yield from _bindings(item.body if isinstance(item, ast.ExceptHandler) else [item])


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples: the same for every Python version, without docstrings and places."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                value = _without_docstring(value)
            if name not in _SKIPPED and value is not None and value != []:
                fields.append((name, _plain(value)))
        return (type(node).__name__, *fields)
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_text else body
