"""The one text that stands for a config: canonical encoder, format 1.

The identity of a step is a hash of this text, so it is the same in every process, on every machine and Python version,
and two different configs never share it. It is frozen: golden vectors in tests/golden/canonical_v1.json hold it still,
and a change of it would be a format 2 beside it. What cannot be written exactly is refused with the path of the field;
there is no fallback to `repr` or pickle, whose text changes from run to run or hides a difference. The cost: configs
hold plain values, and a value of a new type needs `register_canonical`.

    value                                   canonical form
    None, bool, int, str                    itself; an int of more than 2048 bits {"$i": hexadecimal}
    float                                   shortest repr; -0.0 is 0.0; {"$f": "nan" | "inf" | "-inf"}
    int where the annotation says float     the float, when it is exact
    list; tuple                             [...]; {"$t": [...]} ([...] too where the annotation says Sequence)
    dict                                    {"$m": {...}}; keys that are not all str: {"$mi": [[key, value], ...]}
    defaultdict                             {"$dd": [default_factory, dict]}
    set, frozenset                          {"$s": [...]}
    dataclass, NamedTuple, pydantic model   {"$c": qualname or __version_tag__, field: value, ...}
    Enum member                             {"$e": "Class.NAME"}
    function, class, builtin                {"$fn": "module:qualname"}
    functools.partial, method of a value    {"$partial": [function, args, kwargs]}, {"$method": [value, name]}
    path, bytes, UUID, Decimal              {"$path": ...}, {"$b": hex}, {"$uuid": ...}, {"$dec": ...}
    date, datetime, timedelta               {"$date": ISO}, {"$datetime": ISO}, {"$td": [days, seconds, microseconds]}
    numpy / jax dtype, scalar, array        {"$dtype": name}, {"$n": [dtype, value]}, {"$nd": [dtype, shape, sha256]}
    ExecutorStep, InputName                 {"$dep": i, "sub": path}, i counts in order of appearance; "pseudo": true
    InputName.hardcoded; this_output_path   {"$in": path}; {"$out": path}
    registered type                         {"$x": [tag, value]}
    versioned(x)                            as x
    unversioned(x), excluded field          absent, {"$u": null} in a list or tuple, where the place counts;
                                            what is versioned(...) within: {"$marked": {path: value}}

Objects are JSON with sorted keys, no spaces, UTF-8.
"""

import builtins
import collections
import collections.abc
import dataclasses
import enum
import functools
import hashlib
import json
import posixpath
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from marin.execution.annotations import Hint, hint_of, useful
from marin.execution.references import function_reference
from marin.execution.step import (
    MISSING,
    ExecutorStep,
    InputName,
    OutputName,
    UnversionedValue,
    VersionedValue,
    is_dataclass_value,
)

MAX_DEPTH = 200  # levels of nesting in one config
MAX_ARRAY_BYTES = 1 << 20  # larger arrays belong in a file that a step makes
_MAX_PLAIN_INT = 1 << 2048  # Python refuses to print longer decimals by default

_JSON = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)
# What `_JSON.encode` makes anew for each text, an eighth of the time that it takes; None where json has no C half.
_c_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
quoted: Any = json.encoder.encode_basestring  # type: ignore[attr-defined]
_WRITE = _c_encoder and _c_encoder(None, _JSON.default, quoted, None, ":", ",", True, False, False)
_ABSENT: Any = object()


class UnversionableError(TypeError):
    """A config holds a value whose identity cannot be written down. The message names the field."""


def canonical_json(value: Any) -> str:
    """The canonical text of a value that refers to no step. Raises UnversionableError, naming the path.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"$m":{"a":null,"b":{"$t":[1,2.0]}}}'
    """
    encoding = Encoding(value, root="value")
    if encoding.uses:
        raise UnversionableError("cannot version a value that refers to steps by itself: build a graph of the steps")
    return to_json(encoding.tree)


def canonical_digest(value: Any) -> str:
    """sha256 of the UTF-8 canonical text of a value that refers to no step: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def to_json(tree: Any) -> str:
    """Canonical tree to text: sorted keys, no spaces."""
    return "".join(_WRITE(tree, 0)) if _WRITE is not None else _JSON.encode(tree)


def input_entries(tree: Any) -> Iterator[dict[str, Any]]:
    """The entries of a canonical tree that stand for steps, {"$dep": ...}, in the order of the text.

    Keys of dicts are data: a key that looks like one of the format's own is none.
    """
    todo = [tree]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += reversed(value)
        elif isinstance(value, dict):
            if "$dep" in value:
                yield value
            else:
                inner = value.get("$m", value.get("$marked", value))
                todo += reversed(inner.values())


def register_canonical(cls: type, to_plain: Callable[[Any], Any], *, tag: str | None = None) -> None:
    """Make values of exactly `cls` versionable: `to_plain(value)` is everything that identifies one.

    They are written {"$x": [tag, to_plain(value)]}, with tag the class's qualified name unless given. Registering a
    class twice replaces the first; built-in types and placeholders cannot be replaced (ValueError). A value whose
    plain form holds a step, a path placeholder or a mark is refused when it is planned: nothing could replace it.

    >>> register_canonical(complex, lambda z: (z.real, z.imag))
    >>> canonical_json(1 + 2j)
    '{"$x":["complex",{"$t":[1.0,2.0]}]}'
    """
    if cls in _BUILT_IN or f"{cls.__module__}.{cls.__qualname__}" in _BY_NAME:
        raise ValueError(f"register_canonical: the form of {cls.__qualname__} is part of the format and cannot change")
    name = tag if tag is not None else cls.__qualname__

    def handler(encoder: "_Encoder", value: Any, hint: "Hint | None") -> Any:
        before = encoder.placeholders
        encoder.push(f"<{name}>", value)
        tree = encoder.encode(to_plain(value))
        encoder.check_rigid(value, before)
        encoder.path.pop()
        return {"$x": [name, tree]}

    _HANDLERS[cls] = handler
    _REGISTERED[cls] = (name, to_plain)


# -- the encoder ------------------------------------------------------------------------------------------------------

Memo: TypeAlias = "dict[int, tuple[Any, Any, int]]"  # id of a value: (the value, its tree, placeholders in it)
Handler = Callable[["_Encoder", Any, Hint | None], Any]


class Encoding:
    """The canonical tree of one config before the digests of the steps it refers to are known.

    Steps appear in the tree as {"$dep": ...} entries that `finish` fills in. Text that begins with `prefix` is refused.
    """

    __slots__ = ("needs_digests", "runtime", "tree", "uses")

    def __init__(
        self,
        config: Any,
        *,
        marked: bool = False,
        root: str = "config",
        memo: "Memo | None" = None,
        prefix: str | None = None,
        digest_of: Callable[[ExecutorStep], str] | None = None,
    ):
        encoder = _Encoder(root, {} if memo is None else memo, prefix, digest_of)
        if marked:
            found: dict[str, Any] = {}
            encoder.collect(config, found, 0, steps_count=True)
            self.tree: Any = {"$marked": found}
        else:
            tree = encoder.encode(config)
            self.tree = None if tree is _ABSENT else tree
        self.uses = encoder.uses  # (entry of the tree, step, is pseudo), in order of appearance
        self.runtime = encoder.runtime  # (step, is pseudo) in places that are not identity
        self.needs_digests = encoder.needs_digests  # a set of steps: encode again once their digests are known

    def references(self) -> list[ExecutorStep]:
        """The steps referred to, in order of appearance, as often as they appear."""
        used = [step for _, step, _ in self.uses]
        return used + [step for step, _ in self.runtime] if self.runtime else used

    def finish(self, digest_of: Callable[[ExecutorStep], str]) -> tuple[list[str], list[str], list[str], list[str]]:
        """Number the steps in the tree; returns digests (deps, pseudo) of identity, then those needed only to run."""
        blocking: dict[str, int] = {}
        following: dict[str, int] = {}
        for entry, step, pseudo in self.uses:
            table = following if pseudo else blocking
            entry["$dep"] = table.setdefault(digest_of(step), len(table))
        deps, pseudo_deps = list(blocking), list(following)
        if not self.runtime:
            return deps, pseudo_deps, [], []
        extra = sorted({digest_of(step) for step, pseudo in self.runtime if not pseudo} - set(deps))
        extra_pseudo = sorted({digest_of(step) for step, pseudo in self.runtime if pseudo} - set(pseudo_deps))
        return deps, pseudo_deps, extra, extra_pseudo


class _Encoder:
    __slots__ = ("digest_of", "memo", "needs_digests", "path", "placeholders", "prefix", "root", "runtime", "uses")

    def __init__(self, root: str, memo: "Memo", prefix: str | None, digest_of: Any):
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
        return (_HANDLERS.get(type(value)) or self.handler_of(value))(self, value, hint)

    def handler_of(self, value: Any) -> Handler:
        """The handler of a value whose type was not met before."""
        handler = _HANDLERS[type(value)] = _find_handler(self, value)
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
            return UnversionableError(f"cannot version {self.where()}: {_type_name(value)}{reason}")
        return UnversionableError(f"cannot version {self.where()}: {reason}")

    def use(self, step: ExecutorStep, sub: str | None, pseudo: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "$dep": None if self.digest_of is None else self.digest_of(step),
            "sub": None if sub is None else _normal(sub),
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
        return {"$marked": found} if found else _ABSENT

    def collect(self, value: Any, found: dict[str, Any], base: int, steps_count: bool) -> None:
        """Put what is versioned(...) in `value` into `found`, and, if steps_count, the steps referred to.

        The keys are paths below the value at depth `base`, so that the same value reads the same wherever it stands.
        """
        kind = type(value)
        if kind in _SCALARS:
            return
        if kind is VersionedValue or (steps_count and isinstance(value, ExecutorStep | InputName)):
            tree = self.encode(value)
            if tree is not _ABSENT:
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


def _is_pydantic(value: Any) -> bool:
    return "pydantic" in sys.modules and isinstance(value, sys.modules["pydantic"].BaseModel)


def _is_rigid(value: Any) -> bool:
    """Whether nothing inside `value` can be replaced by making another one with other parts."""
    if type(value) in _REGISTERED or isinstance(value, types.MethodType | types.BuiltinFunctionType):
        return True
    return is_dataclass_value(value) and _class_plan(type(value)).has_init_only


def _rigid_name(value: Any) -> str:
    if is_dataclass_value(value) and type(value) not in _REGISTERED:
        return f"{type(value).__qualname__}, which has an InitVar,"
    return f"{type(value).__qualname__} '{value.__qualname__}'" if callable(value) else type(value).__qualname__


def _children(value: Any) -> list[tuple[Any, Any, bool]]:
    """(path part, item, whether its place counts as identity) of whatever holds other values, in a fixed order."""
    kind = type(value)
    if kind in _REGISTERED:
        name, to_plain = _REGISTERED[kind]
        return [(f"<{name}>", to_plain(value), True)]
    if isinstance(value, list | tuple):
        return [(i, item, True) for i, item in enumerate(value)]
    if isinstance(value, dict | types.MappingProxyType):
        items = list(value.items())
        if all(type(k) is str for k, _ in items):
            items.sort(key=lambda item: item[0])
        return [((k,), item, True) for k, item in items]
    if is_dataclass_value(value):
        plan = _class_plan(kind)
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
    if _is_pydantic(value):
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


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _normal(sub: str | None) -> str | None:
    if sub is None:
        return None
    sub = posixpath.normpath(sub)
    return None if sub == "." else sub


# -- plain values -----------------------------------------------------------------------------------------------------


def _itself(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    return value


def _int(encoder: _Encoder, value: int, hint: Hint | None) -> Any:
    if hint is not None and hint.is_float:
        try:
            as_float = float(value)
        except OverflowError:
            as_float = 0.5
        if as_float == value:
            return as_float + 0.0
    if -_MAX_PLAIN_INT < value < _MAX_PLAIN_INT:
        return value
    return {"$i": hex(value)}


def _float(encoder: _Encoder, value: float, hint: Hint | None) -> Any:
    if value - value == 0:
        return value + 0.0  # -0.0 becomes 0.0
    if value != value:
        return {"$f": "nan"}
    return {"$f": "inf" if value > 0 else "-inf"}


def _str(encoder: _Encoder, value: str, hint: Hint | None) -> Any:
    if not value.isascii():
        _check_unicode(encoder, value)
    if encoder.prefix is not None and value.startswith(encoder.prefix):
        raise encoder.fail(value, _under_prefix(encoder, value))
    return value


def _check_unicode(encoder: _Encoder, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise encoder.fail(text, f"{text!r} is not valid Unicode (it holds half of a surrogate pair)") from None


def _under_prefix(encoder: _Encoder, text: str) -> str:
    inside = text[len(encoder.prefix or "") :]
    return (
        f"{text!r} is a path under the prefix, which is not part of any identity; use output_path_of(step) if a step "
        f"makes it, or InputName.hardcoded({inside!r}) if none does"
    )


def _list(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    element = hint.element if hint is not None else None
    elements = hint.elements if hint is not None else None
    result, path = [], encoder.path
    if not value:
        return result
    encoder.push(0, value)
    for i, item in enumerate(value):
        path[-1] = i
        inside = elements[i] if elements is not None and i < len(elements) else element
        tree = (_HANDLERS.get(type(item)) or encoder.handler_of(item))(encoder, item, inside)
        result.append({"$u": None} if tree is _ABSENT else tree)
    path.pop()
    return result


def _tuple(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    result = _list(encoder, value, hint)
    return result if hint is not None and hint.is_sequence else {"$t": result}


def _set(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    element = hint.element if hint is not None else None
    trees, bounds = [], []
    for item in value:
        bounds.append(len(encoder.uses))
        encoder.push("{}", value)
        tree = encoder.encode(item, element)
        encoder.path.pop()
        if tree is not _ABSENT:
            trees.append(tree)
        else:
            bounds.pop()
    return {"$s": encoder.sort(trees, bounds)}


def _dict(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    inside = hint.value if hint is not None else None
    if set(map(type, value)) <= {str}:
        result = {}
        for key in sorted(value):
            encoder.push((key,), value)
            if not key.isascii():
                _check_unicode(encoder, key)
            tree = encoder.encode(value[key], inside)
            encoder.path.pop()
            if tree is not _ABSENT:
                result[key] = tree
        return {"$m": result}
    pairs, bounds = [], []
    for key, item in value.items():
        bounds.append(len(encoder.uses))
        encoder.push((key,), value)
        tree = encoder.encode(item, inside)
        if tree is not _ABSENT:
            key_tree = encoder.encode(key)
            if key_tree is _ABSENT:
                raise encoder.fail(key, "a key of a dict cannot be unversioned")
            pairs.append([key_tree, tree])
        else:
            bounds.pop()
        encoder.path.pop()
    return {"$mi": encoder.sort(pairs, bounds)}


def _defaultdict(encoder: _Encoder, value: collections.defaultdict, hint: Hint | None) -> Any:
    encoder.push(".default_factory", value)
    factory = encoder.encode(value.default_factory)
    encoder.path.pop()
    return {"$dd": [factory, _dict(encoder, value, hint)]}


def _tagged(name: str, form: Callable[[Any], Any]) -> Handler:
    return lambda encoder, value, hint: {name: form(value)}


def _datetime(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    text = value.isoformat()
    return {"$datetime": f"{text}[fold]" if value.fold and value.tzinfo is None else text}


def _path(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    text = value.as_posix()
    _check_unicode(encoder, text)
    if encoder.prefix is not None and text.startswith(encoder.prefix):
        raise encoder.fail(value, _under_prefix(encoder, text))
    return {"$path": text}


def _function(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, type | types.ModuleType):
        before = encoder.placeholders
        encoder.push(".__self__", value)
        tree = encoder.encode(owner)
        encoder.path.pop()
        encoder.check_rigid(value, before)
        return {"$method": [{"$u": None} if tree is _ABSENT else tree, value.__name__]}
    if isinstance(value, type) and "numpy" in sys.modules:
        dtype = _dtype_of_class(value)
        if dtype is not None:
            return {"$dtype": _dtype_name(encoder, dtype)}
    try:
        return {"$fn": function_reference(value)}
    except ValueError as error:
        raise encoder.fail(value, str(error)) from None


def _partial(encoder: _Encoder, value: functools.partial, hint: Hint | None) -> Any:
    parts = []
    for name, part in (("func", value.func), ("args", value.args), ("keywords", value.keywords)):
        encoder.push("." + name, value)
        tree = encoder.encode(part)
        encoder.path.pop()
        parts.append({"$u": None} if tree is _ABSENT else tree)
    return {"$partial": parts}


# -- placeholders -----------------------------------------------------------------------------------------------------


def _step(encoder: _Encoder, value: ExecutorStep, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return encoder.use(value, None, False)


def _output_name(encoder: _Encoder, value: OutputName, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return {"$out": _normal(value.name)}


def _input_name(encoder: _Encoder, value: InputName, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    if value.step is None:
        _str(encoder, value.name or "", None)
        return {"$in": value.name}
    return encoder.use(value.step, value.name, not value.block_on_step)


def _versioned(encoder: _Encoder, value: VersionedValue, hint: Hint | None) -> Any:
    inner = value.value
    encoder.placeholders += 1
    encoder.push("", value)
    if getattr(type(inner), "__unversioned__", False) and is_dataclass_value(inner):
        tree = _fields_handler(_class_plan(type(inner)))(encoder, inner, hint)  # the nearer mark wins
    else:
        tree = encoder.encode(inner, hint)
    encoder.path.pop()
    return tree


def _unversioned(encoder: _Encoder, value: UnversionedValue, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return encoder.excluded(value.value)


# -- classes ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Field:
    attribute: str
    key: str  # name in the canonical form
    hint: Hint | None
    exclude: bool
    omit: str | None  # canonical text of omit_when


@dataclasses.dataclass(slots=True)
class _ClassPlan:
    tag: str
    frozen: bool
    fields: list[_Field]  # by key: the order of definition does not matter
    has_init_only: bool = False  # it has an InitVar: it cannot be made again from its fields
    attributes: frozenset[str] | None = None  # what may be set on an instance; None: not checked


def _tag(cls: type) -> str:
    return cls.__dict__.get("__version_tag__", cls.__qualname__)


@functools.cache
def _class_plan(cls: type) -> _ClassPlan:
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
        omit = None
        if omit_when is not MISSING:
            tree = _Encoder(f"{what}: omit_when", {}, None, None).encode(omit_when, hint)
            omit = None if tree is _ABSENT else to_json(tree)
        found.append(_Field(field.name, alias or field.name, hint, exclude, omit))
    known = {name for c in cls.__mro__ for name, v in c.__dict__.items() if isinstance(v, functools.cached_property)}
    return _ClassPlan(
        _tag(cls),
        cls.__dataclass_params__.frozen,  # type: ignore[attr-defined]
        _checked(cls, found),
        len(cls.__dataclass_fields__) > len(found) and _has_init_only(cls),  # type: ignore[attr-defined]
        frozenset({*known, *(f.attribute for f in found), "__orig_class__"}),
    )


def _has_init_only(cls: type) -> bool:
    kinds = (field._field_type for field in cls.__dataclass_fields__.values())  # type: ignore[attr-defined]
    return any(kind is dataclasses._FIELD_INITVAR for kind in kinds)  # type: ignore[attr-defined]


def _checked(cls: type, fields: list[_Field]) -> list[_Field]:
    fields = sorted(fields, key=lambda f: f.key)
    for a, b in zip(fields, fields[1:], strict=False):
        if a.key == b.key:
            raise ValueError(
                f"{cls.__qualname__}: fields {a.attribute} and {b.attribute} are both recorded as '{a.key}'"
            )
    return fields


def _fields_handler(plan: _ClassPlan) -> Handler:
    """Encoder of the classes whose fields say everything. Subtrees of frozen values without steps are kept."""
    attributes = plan.attributes
    rows = [(f.attribute, "." + f.attribute, f.key, f.hint, f.exclude or f.omit is not None, f) for f in plan.fields]

    def handler(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
        known = encoder.memo.get(id(value))
        if known is not None:
            encoder.placeholders += known[2]
            return known[1]
        if attributes is not None and not attributes.issuperset(getattr(value, "__dict__", ())):
            extra = sorted(set(vars(value)) - attributes)[0]
            raise encoder.fail(
                value, f"the attribute {extra!r} of this {plan.tag} is no field of its class, so nothing would count it"
            )
        before, held_before = len(encoder.uses) + len(encoder.runtime), encoder.placeholders
        result = {"$c": plan.tag}
        path, prefix = encoder.path, encoder.prefix
        for attribute, part, key, field_hint, has_rules, field in rows:
            try:
                item = getattr(value, attribute)
            except AttributeError:
                path.append(part)
                raise encoder.fail(value, f"the field is not set on this {plan.tag}") from None
            kind = type(item)
            if has_rules:
                encoder.push(part, value)
                tree = encoder.excluded(item) if field.exclude else encoder.encode(item, field_hint)
                path.pop()
                if tree is not _ABSENT and (field.omit is None or to_json(tree) != field.omit):
                    result[key] = tree
            elif kind in _NEVER_REFUSED:
                result[key] = _HANDLERS[kind](encoder, item, field_hint)
            elif kind is str and item.isascii() and (prefix is None or not item.startswith(prefix)):
                result[key] = item
            else:
                path.append(part)
                if len(path) > MAX_DEPTH:
                    raise encoder.too_deep(value)
                tree = (_HANDLERS.get(kind) or encoder.handler_of(item))(encoder, item, field_hint)
                path.pop()
                if tree is not _ABSENT:
                    result[key] = tree
        if plan.has_init_only:
            encoder.check_rigid(value, held_before)
        if plan.frozen and len(encoder.uses) + len(encoder.runtime) == before:
            # the value too, lest its id is given to another
            encoder.memo[id(value)] = (value, result, encoder.placeholders - held_before)
        return result

    return handler


def _enum(encoder: _Encoder, value: enum.Enum, hint: Hint | None) -> Any:
    if isinstance(value, enum.Flag):
        members = list(value)
        names = [str(m.name) for m in members]
        rest = value.value & ~functools.reduce(lambda bits, m: bits | m.value, members, 0)
        names += [hex(rest)] if rest or not names else []
        return {"$e": f"{_tag(type(value))}.{'|'.join(names)}"}
    return {"$e": f"{_tag(type(value))}.{value.name}"}


def _excluded(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    return encoder.excluded(value)


def _find_handler(encoder: _Encoder, value: Any) -> Handler:
    """The handler of a type met for the first time."""
    cls = type(value)
    if getattr(cls, "__unversioned__", False):
        return _excluded
    if isinstance(value, type):
        return _function
    for base, handler in ((ExecutorStep, _step), (InputName, _input_name), (OutputName, _output_name)):
        if isinstance(value, base):
            return handler
    if isinstance(value, enum.Enum):
        return _enum
    if dataclasses.is_dataclass(value):
        return _fields_handler(_class_plan(cls))
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        scope = vars(sys.modules.get(cls.__module__, builtins))
        notes = {k: v for c in reversed(cls.__mro__) for k, v in c.__dict__.get("__annotations__", {}).items()}
        fields = [_Field(name, name, useful(hint_of(notes.get(name), scope)), False, None) for name in cls._fields]  # type: ignore[attr-defined]
        return _fields_handler(_ClassPlan(_tag(cls), False, _checked(cls, fields)))
    named = _BY_NAME.get(f"{cls.__module__}.{cls.__qualname__}")
    if named is not None:
        return named
    if "pathlib" in sys.modules and isinstance(value, sys.modules["pathlib"].PurePath):
        return _path
    if _is_pydantic(value):
        scope = vars(sys.modules.get(cls.__module__, builtins))
        fields = [_Field(k, k, useful(hint_of(f.annotation, scope)), False, None) for k, f in cls.model_fields.items()]
        if cls.model_config.get("extra") == "allow":
            raise encoder.fail(value, f"{cls.__qualname__} allows extra fields; use one that does not")
        return _fields_handler(_ClassPlan(_tag(cls), False, _checked(cls, fields)))
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.dtype):
            return lambda encoder, value, hint: {"$dtype": _dtype_name(encoder, value)}
        if isinstance(value, numpy.generic):
            return _numpy_scalar
        if cls is numpy.ndarray or ("jax" in sys.modules and isinstance(value, sys.modules["jax"].Array)):
            return _array
    raise encoder.fail(value)


# -- numpy and jax, which are never imported here ---------------------------------------------------------------------


def _dtype_of_class(cls: type) -> Any:
    """The dtype a scalar class stands for (numpy.float32, jax.numpy.float32), or None."""
    numpy = sys.modules["numpy"]
    dtype = getattr(cls, "dtype", None)
    if type(cls).__module__.startswith("jax") and isinstance(dtype, numpy.dtype):
        return dtype
    if issubclass(cls, numpy.generic) and not cls.__subclasses__():
        return numpy.dtype(cls)
    return None


def _dtype_name(encoder: _Encoder, dtype: Any) -> str:
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise encoder.fail(dtype, f"numpy dtype {dtype} has parts; use a plain one")
    return dtype.name if dtype.isnative else dtype.str


def _numpy_scalar(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    plain = value.item()
    if type(plain) in (bool, int, float, str):
        tree = encoder.encode(plain)
    elif type(plain) is bytes or value.dtype.kind in "cmM" or value.dtype.name.startswith("longdouble"):
        tree = encoder.encode(sys.modules["numpy"].asarray(value).astype(value.dtype.newbyteorder("<")).tobytes())
    else:
        raise encoder.fail(value)
    return {"$n": [_dtype_name(encoder, value.dtype), tree]}


def _array(encoder: _Encoder, value: Any, hint: Hint | None) -> Any:
    numpy = sys.modules["numpy"]
    try:
        array = numpy.asarray(value)
    except TypeError as error:
        raise encoder.fail(value, f"{_type_name(value)} does not convert to a numpy array ({error})") from None
    if array.nbytes > MAX_ARRAY_BYTES:
        raise encoder.fail(
            value, f"an array of {array.nbytes} bytes is more than {MAX_ARRAY_BYTES}; let a step write it to a file"
        )
    name = _dtype_name(encoder, array.dtype)
    raw = numpy.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"$nd": [name, list(array.shape), hashlib.sha256(raw).hexdigest()]}


# -- tables -----------------------------------------------------------------------------------------------------------

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_NEVER_REFUSED = frozenset({type(None), bool, int, float, OutputName})  # so no path is needed for a message
_HANDLERS: dict[type, Handler] = {
    type(None): _itself,
    bool: _itself,
    int: _int,
    float: _float,
    str: _str,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    dict: _dict,
    collections.OrderedDict: _dict,
    collections.defaultdict: _defaultdict,
    types.MappingProxyType: _dict,
    bytes: _tagged("$b", lambda v: v.hex()),
    types.FunctionType: _function,
    types.BuiltinFunctionType: _function,
    types.MethodType: _function,
    types.MethodDescriptorType: _function,
    types.WrapperDescriptorType: _function,
    functools.partial: _partial,
    type: _function,
    ExecutorStep: _step,
    InputName: _input_name,
    OutputName: _output_name,
    VersionedValue: _versioned,
    UnversionedValue: _unversioned,
}
_BUILT_IN = frozenset(_HANDLERS)
_REGISTERED: dict[type, tuple[str, Callable[[Any], Any]]] = {}  # by register_canonical: (tag, to_plain)
# Known by name, so that these modules are not imported for a config that does not use them.
_BY_NAME: dict[str, Handler] = {
    "uuid.UUID": _tagged("$uuid", str),
    "decimal.Decimal": _tagged("$dec", str),
    "datetime.date": _tagged("$date", lambda v: v.isoformat()),
    "datetime.timedelta": _tagged("$td", lambda v: [v.days, v.seconds, v.microseconds]),
    "datetime.datetime": _datetime,
}
