"""Every field of a config, with its type, its default and what its documentation says: a page that cannot be stale.

The words are those that stand in the source, below the field as a string or above it as a comment, so there is nowhere
else to keep them up to date. The price is that the source must be there to be read, as it is in every installation.
"""

import ast
import dataclasses
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from marin.config import _CHOICES, _choice_name, _import_choice, encode


def reference_page(*roots: type, title: str, introduction: str) -> str:
    """Markdown: a section for each root, after it one for each config that a field of a section before can hold."""
    sections: dict[type, str] = {}
    for root in roots:
        waiting = [root]
        while waiting:
            cls = waiting.pop(0)
            if cls not in sections:
                sections[cls] = config_section(cls)
                waiting += _configs_in(cls)
    return "\n\n".join([f"# {title}", introduction.strip(), *sections.values()]) + "\n"


def field_docs(cls: type) -> dict[str, str]:
    """Field -> its documentation, of this class and the dataclasses that it extends."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _own_field_docs(base)
    return docs


@functools.cache
def _own_field_docs(cls: type) -> dict[str, str]:
    source = inspect.getsource(cls)
    indent = len(source) - len(source.lstrip())
    lines = [line[indent:] for line in source.splitlines()]
    body = next(node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef)).body
    docs = {}
    for position, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        following = body[position + 1] if position + 1 < len(body) else None
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = str(following.value.value)
        else:
            text = _comment_of(lines, node)
        docs[node.target.id] = " ".join(text.split())
    return docs


def _comment_of(lines: list[str], node: ast.stmt) -> str:
    """The comment that stands above a field, else the one behind it."""
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().removeprefix("#").strip())
    behind = re.search(r"#\s*(.*)$", lines[(node.end_lineno or node.lineno) - 1])
    return " ".join(above) or (behind[1] if behind else "")


def config_section(cls: type) -> str:
    """Markdown: heading, what the class says of itself, and a table of its fields."""
    name = _choice_name(cls)
    heading = f"## {cls.__name__}"
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    lines = [heading, "", " ".join(about.split())]
    if name is not None:
        lines += ["", f"`type: {name}`"]
    docs = field_docs(cls)
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    if fields:
        lines += ["", "| field | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        cells = (f"`{field.name}`", _type(hints[field.name]), _default(field), docs.get(field.name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if hint in _CHOICES:
        return "one of " + ", ".join(f"[{name}](#{_import_choice(t).__name__.lower()})" for name, t in _targets(hint))
    if dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"  # type: ignore[union-attr]
    if origin in (tuple, list) and arguments:
        items = [argument for argument in arguments if argument is not Ellipsis]
        return "list of " + ", ".join(map(_type, items))
    if arguments:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    return {str: "text", bool: "true or false", int: "int", float: "number"}.get(hint) or str(hint.__name__)


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "**needed**"
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if dataclasses.is_dataclass(value):
        return "its defaults"
    plain = encode(value)
    return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"


def _configs_in(cls: type) -> Iterator[type]:
    """Every config that a field can hold, in the order of the fields."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            yield from _configs_of(hints[field.name])


def _configs_of(hint: Any) -> Iterator[type]:
    if hint in _CHOICES:
        yield from (_import_choice(target) for _, target in _targets(hint))
    elif dataclasses.is_dataclass(hint):
        yield hint  # type: ignore[misc]
    for argument in typing.get_args(hint):
        yield from _configs_of(argument)


def _targets(base: type) -> list[tuple[str, str]]:
    return sorted(_CHOICES[base].items())
