"""The walk over a config that makes its canonical tree, and what it notices on the way.

The encoder knows where it is, which steps and placeholders it met, and what must not be there; how a value of a type
is written is the business of that type's handler (`marin.execution.canonical_forms`).
"""

import functools
import json
import posixpath
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

from marin.execution.annotations import Hint
from marin.execution.canonical_text import to_json
from marin.execution.class_fields import class_plan
from marin.execution.step import (
    ExecutorStep,
    InputName,
    OutputName,
    UnversionedValue,
    VersionedValue,
    is_dataclass_value,
)

MAX_DEPTH = 200  # levels of nesting in one config
ABSENT: Any = object()  # in place of a tree: the value is not identity


class UnversionableError(TypeError):
    """A config holds a value whose identity cannot be written down. The message names the field."""


Memo: TypeAlias = dict[int, tuple[Any, Any, int]]  # id of a value: (the value, its tree, placeholders in it)
Handler = Callable[["Encoder", Any, Hint | None], Any]

HANDLERS: dict[type, Handler] = {}  # filled by `canonical_forms`, and with each type that is met
REGISTERED: dict[type, tuple[str, Callable[[Any], Any]]] = {}  # by register_canonical: (tag, to_plain)
SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class Encoder:
    """Makes the canonical tree of one config."""

    __slots__ = ("digest_of", "memo", "needs_digests", "path", "placeholders", "prefix", "root", "runtime", "uses")

    def __init__(self, root: str, memo: Memo, prefix: str | None, digest_of: Any):
        self.root = root
        self.path: list[Any] = []  # ".field", 3 (index), ("key",): joined only for messages
        self.memo = memo
        self.prefix = prefix
        self.digest_of = digest_of
        self.uses: list[tuple[dict[str, Any], ExecutorStep, bool]] = []
        self.runtime: list[tuple[ExecutorStep, bool]] = []
        self.needs_digests = False
        self.placeholders = 0  # steps, paths and marks met so far: what has to be replaced before the step runs

    def encode(self, value: Any, hint: Hint | None = None) -> Any:
        return (HANDLERS.get(type(value)) or self.handler_of(value))(self, value, hint)

    def handler_of(self, value: Any) -> Handler:
        """The handler of a value whose type was not met before."""
        from marin.execution.canonical_forms import find_handler

        handler = HANDLERS[type(value)] = find_handler(self, value)
        return handler

    def where(self) -> str:
        return self.root + self.below(0)

    def below(self, depth: int) -> str:
        """The path from the value at `depth` to here: '' for that value itself, else '.field', '[0].field', ..."""
        return "".join(_path_part(part) for part in self.path[depth:])

    def push(self, part: Any, container: Any) -> None:
        self.path.append(part)
        if len(self.path) > MAX_DEPTH:
            raise self.too_deep(container)

    def too_deep(self, container: Any) -> UnversionableError:
        path = self.where()
        self.path.clear()
        return UnversionableError(
            f"cannot version {path[:60]}...: nested deeper than {MAX_DEPTH} levels at a "
            f"{type(container).__qualname__}; does it contain itself?"
        )

    def fail(self, value: Any, reason: str = "") -> UnversionableError:
        if not reason:
            base = next(
                (b.__name__ for b in (bool, int, float, str, bytes, list, dict, set) if isinstance(value, b)), ""
            )
            base = f", a subclass of {base} that may hold more than one;" if base else ";"
            reason = (
                f"{base} use plain values, a frozen dataclass, or register_canonical({type(value).__qualname__}, ...), "
                "or mark it unversioned(...) if it does not change the result"
            )
            return UnversionableError(f"cannot version {self.where()}: {type_name(value)}{reason}")
        return UnversionableError(f"cannot version {self.where()}: {reason}")

    def use(self, step: ExecutorStep, sub: str | None, pseudo: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "$dep": None if self.digest_of is None else self.digest_of(step),
            "sub": None if sub is None else normal(sub),
        }
        if pseudo:
            entry["pseudo"] = True
        self.uses.append((entry, step, pseudo))
        return entry

    def sort(self, trees: list[Any], bounds: list[int]) -> list[Any]:
        """Trees in order of their text. bounds[i] is len(self.uses) before tree i: the uses move with their tree."""
        first, end = bounds[0] if bounds else len(self.uses), len(self.uses)
        if end > first and self.digest_of is None:
            self.needs_digests = True
            return trees
        order = sorted(range(len(trees)), key=lambda i: to_json(trees[i]).encode())
        if end > first:
            ends = [*bounds[1:], end]
            self.uses[first:] = [use for i in order for use in self.uses[bounds[i] : ends[i]]]
        return [trees[i] for i in order]

    def check_rigid(self, value: Any, before: int) -> None:
        """Refuse `value`, which cannot be made again with other parts, if a placeholder was met in it since."""
        if self.placeholders > before:
            raise self.fail(
                value,
                f"a step, a path placeholder or a mark inside {_rigid_name(value)} could not be replaced when the step "
                "runs; put it into a field of its own, outside of it",
            )

    def excluded(self, value: Any) -> Any:
        """A place that is not identity: only what is versioned(...) in it counts; its steps still run before."""
        found: dict[str, Any] = {}
        self.collect(value, found, len(self.path), steps_count=False)
        return {"$marked": found} if found else ABSENT

    def collect(self, value: Any, found: dict[str, Any], base: int, steps_count: bool) -> None:
        """Put what is versioned(...) in `value` into `found`, and, if steps_count, the steps referred to.

        The keys are paths below the value at depth `base`, so that the same value reads the same wherever it stands.
        """
        kind = type(value)
        if kind in SCALARS:
            return
        if kind is VersionedValue or (steps_count and isinstance(value, ExecutorStep | InputName)):
            tree = self.encode(value)
            if tree is not ABSENT:
                found[self.below(base)] = tree
            return
        if isinstance(value, ExecutorStep | InputName):
            self.placeholders += 1
            step, pseudo = (value, False) if isinstance(value, ExecutorStep) else (value.step, not value.block_on_step)
            if step is not None:
                self.runtime.append((step, pseudo))
        elif isinstance(value, OutputName):
            self.placeholders += 1
        elif kind is UnversionedValue:
            self.placeholders += 1
            self.collect(value.value, found, base, False)
        elif isinstance(value, set | frozenset):
            trees, bounds = [], []
            for item in value:
                bounds.append(len(self.uses))
                inside: dict[str, Any] = {}
                self.push("{}", value)
                self.collect(item, inside, len(self.path), steps_count)
                self.path.pop()
                if inside:
                    trees.append(inside)
                else:
                    bounds.pop()
            if trees:
                found[self.below(base)] = {"$s": self.sort(trees, bounds)}
        else:
            counts = steps_count and not getattr(kind, "__unversioned__", False)
            before = self.placeholders
            for part, item, is_identity in _children(value):
                self.push(part, value)
                self.collect(item, found, base, counts and is_identity)
                self.path.pop()
            if self.placeholders > before and _is_rigid(value):
                self.check_rigid(value, before)
            if isinstance(value, dict | types.MappingProxyType):
                before = self.placeholders
                for key in value:
                    self.collect(key, {}, base, steps_count)
                if self.placeholders > before:
                    raise self.fail(value, "a step, a path placeholder or a mark cannot be a key of a dict here")


def is_pydantic(value: Any) -> bool:
    return "pydantic" in sys.modules and isinstance(value, sys.modules["pydantic"].BaseModel)


def _is_rigid(value: Any) -> bool:
    """Whether nothing inside `value` can be replaced by making another one with other parts."""
    if type(value) in REGISTERED or isinstance(value, types.MethodType | types.BuiltinFunctionType):
        return True
    return is_dataclass_value(value) and class_plan(type(value)).has_init_only


def _rigid_name(value: Any) -> str:
    if is_dataclass_value(value) and type(value) not in REGISTERED:
        return f"{type(value).__qualname__}, which has an InitVar,"
    return f"{type(value).__qualname__} '{value.__qualname__}'" if callable(value) else type(value).__qualname__


def _children(value: Any) -> list[tuple[Any, Any, bool]]:
    """(path part, item, whether its place counts as identity) of whatever holds other values, in a fixed order."""
    kind = type(value)
    if kind in REGISTERED:
        name, to_plain = REGISTERED[kind]
        return [(f"<{name}>", to_plain(value), True)]
    if isinstance(value, list | tuple):
        return [(i, item, True) for i, item in enumerate(value)]
    if isinstance(value, dict | types.MappingProxyType):
        items = list(value.items())
        if all(type(k) is str for k, _ in items):
            items.sort(key=lambda item: item[0])
        return [((k,), item, True) for k, item in items]
    if is_dataclass_value(value):
        plan = class_plan(kind)
        return [("." + f.attribute, getattr(value, f.attribute), not f.exclude) for f in plan.fields]
    if kind is functools.partial:
        return [
            (".func", value.func, True),
            *((i, item, True) for i, item in enumerate(value.args)),
            *(("." + k, value.keywords[k], True) for k in sorted(value.keywords)),
        ]
    if kind in (types.MethodType, types.BuiltinFunctionType):
        owner = value.__self__
        return [] if owner is None or isinstance(owner, type | types.ModuleType) else [(".__self__", owner, True)]
    if is_pydantic(value):
        return [("." + name, getattr(value, name), True) for name in sorted(kind.model_fields)]
    return []


def _path_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, int):
        return f"[{part}]"
    key = part[0]
    if isinstance(key, str):
        return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"
    return f"[{key!r}]"


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def normal(sub: str | None) -> str | None:
    if sub is None:
        return None
    sub = posixpath.normpath(sub)
    return None if sub == "." else sub
