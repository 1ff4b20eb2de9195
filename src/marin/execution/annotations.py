"""What a field's annotation says about the canonical form of its value.

An int in a field annotated float is that float, and a tuple in one annotated Sequence is written as a list. Annotations
may be types or their text, which is parsed and never evaluated; what is not understood changes nothing.
"""

import ast
import builtins
import collections
import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from marin.execution.step import UnversionedValue, VersionedValue


@dataclasses.dataclass(slots=True)
class Hint:
    """What a field's annotation says: float coerces exact ints, Sequence writes tuples as lists; nested likewise."""

    is_float: bool = False
    has_int: bool = False
    is_sequence: bool = False
    element: "Hint | None" = None  # of list, tuple, Sequence, set
    elements: "tuple[Hint | None, ...] | None" = None  # of tuple[A, B]
    value: "Hint | None" = None  # of dict and Mapping

    def useful(self) -> "Hint | None":
        return self if self.is_float or self.is_sequence or self.element or self.elements or self.value else None


_SEQUENCES = (list, tuple, set, frozenset, collections.abc.Set, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping, collections.OrderedDict, collections.defaultdict)


def hint_of(annotation: Any, scope: Mapping[str, Any], depth: int = 0) -> Hint | None:
    """Hint of an annotation, which may be a type or the text of one; what is not understood gives none."""
    if depth > 20:
        return None
    if isinstance(annotation, str):
        try:
            annotation = _parse_annotation(ast.parse(annotation.strip(), mode="eval").body, scope)
        except SyntaxError:
            return None
    if annotation is float:
        return Hint(is_float=True)
    if annotation is int:
        return Hint(has_int=True)
    if annotation is collections.abc.Sequence:
        return Hint(is_sequence=True)
    if isinstance(annotation, typing.NewType):
        return hint_of(annotation.__supertype__, scope, depth + 1)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, _Generic):
        origin, args = annotation.origin, annotation.args
    if origin is typing.Annotated:
        return hint_of(args[0], scope, depth + 1)
    if origin in (typing.Union, types.UnionType, VersionedValue, UnversionedValue):
        return _merged([hint_of(a, scope, depth + 1) for a in args])
    if origin in _SEQUENCES:
        hint = Hint(is_sequence=origin is collections.abc.Sequence)
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            found = tuple(useful(hint_of(a, scope, depth + 1)) for a in args)
            hint.elements = found if any(found) else None
        elif args:
            hint.element = useful(hint_of(args[0], scope, depth + 1))
        return hint
    if origin in _MAPPINGS and len(args) == 2:
        return Hint(value=useful(hint_of(args[1], scope, depth + 1)))
    return None


def useful(hint: Hint | None) -> Hint | None:
    return hint.useful() if hint else None


def _merged(hints: list[Hint | None]) -> Hint:
    """Of a union: where int and float are both allowed, an int stays an int."""
    merged = Hint()
    for hint in filter(None, hints):
        merged.is_float |= hint.is_float
        merged.has_int |= hint.has_int
        merged.is_sequence |= hint.is_sequence
        merged.element = merged.element or hint.element
        merged.elements = merged.elements or hint.elements
        merged.value = merged.value or hint.value
    if merged.has_int:
        merged.is_float = False
    return merged


@dataclasses.dataclass(slots=True)
class _Generic:
    """A subscripted annotation read from text, which is never evaluated."""

    origin: Any
    args: tuple[Any, ...]


_TYPING_NAMES: dict[str, Any] = {
    "Sequence": collections.abc.Sequence,
    "Mapping": collections.abc.Mapping,
    "List": list,
    "Tuple": tuple,
    "Set": set,
    "FrozenSet": frozenset,
    "Dict": dict,
    "Union": typing.Union,
    "Annotated": typing.Annotated,
    "VersionedValue": VersionedValue,
    "UnversionedValue": UnversionedValue,
}


def _parse_annotation(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        known = scope.get(name) if isinstance(node, ast.Name) else None
        if known is not None and not isinstance(known, str):
            return typing.get_origin(known) if known in (typing.List, typing.Tuple, typing.Dict) else known  # noqa: UP006
        return _TYPING_NAMES.get(name, getattr(builtins, name, None) if isinstance(node, ast.Name) else None)
    if isinstance(node, ast.Constant):
        if node.value is Ellipsis:
            return Ellipsis
        return node.value if isinstance(node.value, str) else None  # a forward reference, read by hint_of
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _Generic(typing.Union, (_parse_annotation(node.left, scope), _parse_annotation(node.right, scope)))
    if isinstance(node, ast.Subscript):
        origin = _parse_annotation(node.value, scope)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        is_optional = isinstance(node.value, ast.Name | ast.Attribute) and ast.unparse(node.value).endswith("Optional")
        args = tuple(_parse_annotation(item, scope) for item in items)
        return _Generic(typing.Union if is_optional else typing.get_origin(origin) or origin, args)
    return None
