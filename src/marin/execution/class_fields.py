"""What the class of a config says of its fields: which are identity, under which names, left out when they are what.

`version_meta` on a field (`marin.execution.step`) is where an author says so; contradictions are refused when a class
is met first.
"""

import builtins
import dataclasses
import functools
import sys
from typing import Any

from marin.execution.annotations import Hint, hint_of, useful
from marin.execution.step import MISSING


@dataclasses.dataclass(slots=True)
class Field:
    """One field of a class of configs."""

    attribute: str
    key: str  # name in the canonical form
    hint: Hint | None
    exclude: bool
    omit_when: Any  # the value that is left out; MISSING: none


@dataclasses.dataclass(slots=True)
class ClassPlan:
    """How the values of a class are written."""

    tag: str
    frozen: bool
    fields: list[Field]  # by key: the order of definition does not matter
    has_init_only: bool = False  # it has an InitVar: it cannot be made again from its fields
    attributes: frozenset[str] | None = None  # what may be set on an instance; None: not checked


def tag_of(cls: type) -> str:
    """The name of a class in the canonical form."""
    return cls.__dict__.get("__version_tag__", cls.__qualname__)


@functools.cache
def class_plan(cls: type) -> ClassPlan:
    """How the fields of a dataclass are written. Raises ValueError for contradicting version metadata."""
    found = []
    for field in dataclasses.fields(cls):
        rules = dict(field.metadata.get("version", {}))
        exclude, alias = rules.pop("exclude", False), rules.pop("alias", None)
        omit_when = rules.pop("omit_when", MISSING)
        what = f"{cls.__qualname__}.{field.name}: version metadata"
        if rules:
            raise ValueError(f"{what} has unknown entries {sorted(rules)}; known are exclude, omit_when, alias")
        if alias is not None and not (isinstance(alias, str) and alias.isidentifier()):
            raise ValueError(f"{what}: alias={alias!r} is not a field name")
        owner = next((c for c in cls.__mro__ if field.name in c.__dict__.get("__annotations__", {})), cls)
        hint = useful(hint_of(field.type, vars(sys.modules.get(owner.__module__, builtins))))
        found.append(Field(field.name, alias or field.name, hint, exclude, omit_when))
    known = {name for c in cls.__mro__ for name, v in c.__dict__.items() if isinstance(v, functools.cached_property)}
    return ClassPlan(
        tag_of(cls),
        cls.__dataclass_params__.frozen,  # type: ignore[attr-defined]
        by_key(cls, found),
        len(cls.__dataclass_fields__) > len(found) and _has_init_only(cls),  # type: ignore[attr-defined]
        frozenset({*known, *(f.attribute for f in found), "__orig_class__"}),
    )


def _has_init_only(cls: type) -> bool:
    kinds = (field._field_type for field in cls.__dataclass_fields__.values())  # type: ignore[attr-defined]
    return any(kind is dataclasses._FIELD_INITVAR for kind in kinds)  # type: ignore[attr-defined]


def by_key(cls: type, fields: list[Field]) -> list[Field]:
    """The fields in the order of their keys. ValueError if two have the same."""
    fields = sorted(fields, key=lambda f: f.key)
    for a, b in zip(fields, fields[1:], strict=False):
        if a.key == b.key:
            raise ValueError(
                f"{cls.__qualname__}: fields {a.attribute} and {b.attribute} are both recorded as '{a.key}'"
            )
    return fields
