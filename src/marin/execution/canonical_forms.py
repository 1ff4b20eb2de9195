"""How a value of each type is written: handlers, and how the one for a type that was not met before is found."""

import builtins
import collections
import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from marin.execution.annotations import Hint, hint_of, useful
from marin.execution.canonical_encoder import (
    ABSENT,
    HANDLERS,
    MAX_DEPTH,
    Encoder,
    Handler,
    is_pydantic,
    normal,
)
from marin.execution.canonical_text import to_json
from marin.execution.class_fields import ClassPlan, Field, by_key, class_plan, tag_of
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

_MAX_PLAIN_INT = 1 << 2048  # Python refuses to print longer decimals by default


# -- plain values -----------------------------------------------------------------------------------------------------


def _itself(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    return value


def _int(encoder: Encoder, value: int, hint: Hint | None) -> Any:
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


def _float(encoder: Encoder, value: float, hint: Hint | None) -> Any:
    if value - value == 0:
        return value + 0.0  # -0.0 becomes 0.0
    if value != value:
        return {"$f": "nan"}
    return {"$f": "inf" if value > 0 else "-inf"}


def _str(encoder: Encoder, value: str, hint: Hint | None) -> Any:
    if not value.isascii():
        _check_unicode(encoder, value)
    if encoder.prefix is not None and value.startswith(encoder.prefix):
        raise encoder.fail(value, _under_prefix(encoder, value))
    return value


def _check_unicode(encoder: Encoder, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise encoder.fail(text, f"{text!r} is not valid Unicode (it holds half of a surrogate pair)") from None


def _under_prefix(encoder: Encoder, text: str) -> str:
    inside = text[len(encoder.prefix or "") :]
    return (
        f"{text!r} is a path under the prefix, which is not part of any identity; use output_path_of(step) if a step "
        f"makes it, or InputName.hardcoded({inside!r}) if none does"
    )


def _list(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    element = hint.element if hint is not None else None
    elements = hint.elements if hint is not None else None
    result, path = [], encoder.path
    if not value:
        return result
    encoder.push(0, value)
    for i, item in enumerate(value):
        path[-1] = i
        inside = elements[i] if elements is not None and i < len(elements) else element
        tree = (HANDLERS.get(type(item)) or encoder.handler_of(item))(encoder, item, inside)
        result.append({"$u": None} if tree is ABSENT else tree)
    path.pop()
    return result


def _tuple(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    result = _list(encoder, value, hint)
    return result if hint is not None and hint.is_sequence else {"$t": result}


def _set(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    element = hint.element if hint is not None else None
    trees, bounds = [], []
    for item in value:
        bounds.append(len(encoder.uses))
        encoder.push("{}", value)
        tree = encoder.encode(item, element)
        encoder.path.pop()
        if tree is not ABSENT:
            trees.append(tree)
        else:
            bounds.pop()
    return {"$s": encoder.sort(trees, bounds)}


def _dict(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    inside = hint.value if hint is not None else None
    if set(map(type, value)) <= {str}:
        result = {}
        for key in sorted(value):
            encoder.push((key,), value)
            if not key.isascii():
                _check_unicode(encoder, key)
            tree = encoder.encode(value[key], inside)
            encoder.path.pop()
            if tree is not ABSENT:
                result[key] = tree
        return {"$m": result}
    pairs, bounds = [], []
    for key, item in value.items():
        bounds.append(len(encoder.uses))
        encoder.push((key,), value)
        tree = encoder.encode(item, inside)
        if tree is not ABSENT:
            key_tree = encoder.encode(key)
            if key_tree is ABSENT:
                raise encoder.fail(key, "a key of a dict cannot be unversioned")
            pairs.append([key_tree, tree])
        else:
            bounds.pop()
        encoder.path.pop()
    return {"$mi": encoder.sort(pairs, bounds)}


def _defaultdict(encoder: Encoder, value: collections.defaultdict, hint: Hint | None) -> Any:
    encoder.push(".default_factory", value)
    factory = encoder.encode(value.default_factory)
    encoder.path.pop()
    return {"$dd": [factory, _dict(encoder, value, hint)]}


def _tagged(name: str, form: Callable[[Any], Any]) -> Handler:
    return lambda encoder, value, hint: {name: form(value)}


def _datetime(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    text = value.isoformat()
    return {"$datetime": f"{text}[fold]" if value.fold and value.tzinfo is None else text}


def _path(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    text = value.as_posix()
    _check_unicode(encoder, text)
    if encoder.prefix is not None and text.startswith(encoder.prefix):
        raise encoder.fail(value, _under_prefix(encoder, text))
    return {"$path": text}


def _function(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, type | types.ModuleType):
        before = encoder.placeholders
        encoder.push(".__self__", value)
        tree = encoder.encode(owner)
        encoder.path.pop()
        encoder.check_rigid(value, before)
        return {"$method": [{"$u": None} if tree is ABSENT else tree, value.__name__]}
    if isinstance(value, type) and "numpy" in sys.modules:
        from marin.execution.canonical_arrays import dtype_form, dtype_of_class

        dtype = dtype_of_class(value)
        if dtype is not None:
            return dtype_form(encoder, dtype, hint)
    try:
        return {"$fn": function_reference(value)}
    except ValueError as error:
        raise encoder.fail(value, str(error)) from None


def _partial(encoder: Encoder, value: functools.partial, hint: Hint | None) -> Any:
    parts = []
    for name, part in (("func", value.func), ("args", value.args), ("keywords", value.keywords)):
        encoder.push("." + name, value)
        tree = encoder.encode(part)
        encoder.path.pop()
        parts.append({"$u": None} if tree is ABSENT else tree)
    return {"$partial": parts}


# -- placeholders -----------------------------------------------------------------------------------------------------


def _step(encoder: Encoder, value: ExecutorStep, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return encoder.use(value, None, False)


def _output_name(encoder: Encoder, value: OutputName, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return {"$out": normal(value.name)}


def _input_name(encoder: Encoder, value: InputName, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    if value.step is None:
        _str(encoder, value.name or "", None)
        return {"$in": value.name}
    return encoder.use(value.step, value.name, not value.block_on_step)


def _versioned(encoder: Encoder, value: VersionedValue, hint: Hint | None) -> Any:
    inner = value.value
    encoder.placeholders += 1
    encoder.push("", value)
    if getattr(type(inner), "__unversioned__", False) and is_dataclass_value(inner):
        tree = _fields_handler(class_plan(type(inner)))(encoder, inner, hint)  # the nearer mark wins
    else:
        tree = encoder.encode(inner, hint)
    encoder.path.pop()
    return tree


def _unversioned(encoder: Encoder, value: UnversionedValue, hint: Hint | None) -> Any:
    encoder.placeholders += 1
    return encoder.excluded(value.value)


# -- classes -----------------------------------------------------------------------------------------------------------


def _fields_handler(plan: ClassPlan) -> Handler:
    """Encoder of the classes whose fields say everything. Subtrees of frozen values without steps are kept."""
    attributes = plan.attributes
    rows = []
    for f in plan.fields:
        omit = _omit_text(plan, f)
        rows.append((f.attribute, "." + f.attribute, f.key, f.hint, f.exclude or omit is not None, f.exclude, omit))

    def handler(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
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
        for attribute, part, key, field_hint, has_rules, is_excluded, omit in rows:
            try:
                item = getattr(value, attribute)
            except AttributeError:
                path.append(part)
                raise encoder.fail(value, f"the field is not set on this {plan.tag}") from None
            kind = type(item)
            if has_rules:
                encoder.push(part, value)
                tree = encoder.excluded(item) if is_excluded else encoder.encode(item, field_hint)
                path.pop()
                if tree is not ABSENT and (omit is None or to_json(tree) != omit):
                    result[key] = tree
            elif kind in _NEVER_REFUSED:
                result[key] = HANDLERS[kind](encoder, item, field_hint)
            elif kind is str and item.isascii() and (prefix is None or not item.startswith(prefix)):
                result[key] = item
            else:
                path.append(part)
                if len(path) > MAX_DEPTH:
                    raise encoder.too_deep(value)
                tree = (HANDLERS.get(kind) or encoder.handler_of(item))(encoder, item, field_hint)
                path.pop()
                if tree is not ABSENT:
                    result[key] = tree
        if plan.has_init_only:
            encoder.check_rigid(value, held_before)
        if plan.frozen and len(encoder.uses) + len(encoder.runtime) == before:
            # the value too, lest its id is given to another
            encoder.memo[id(value)] = (value, result, encoder.placeholders - held_before)
        return result

    return handler


def _omit_text(plan: ClassPlan, field: Field) -> str | None:
    """The canonical text with which a field is left out; None: it never is."""
    if field.omit_when is MISSING:
        return None
    where = f"{plan.tag}.{field.attribute}: version metadata: omit_when"
    tree = Encoder(where, {}, None, None).encode(field.omit_when, field.hint)
    return None if tree is ABSENT else to_json(tree)


def _enum(encoder: Encoder, value: enum.Enum, hint: Hint | None) -> Any:
    if isinstance(value, enum.Flag):
        members = list(value)
        names = [str(m.name) for m in members]
        rest = value.value & ~functools.reduce(lambda bits, m: bits | m.value, members, 0)
        names += [hex(rest)] if rest or not names else []
        return {"$e": f"{tag_of(type(value))}.{'|'.join(names)}"}
    return {"$e": f"{tag_of(type(value))}.{value.name}"}


def _excluded(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    return encoder.excluded(value)


def find_handler(encoder: Encoder, value: Any) -> Handler:
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
        return _fields_handler(class_plan(cls))
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        scope = vars(sys.modules.get(cls.__module__, builtins))
        notes = {k: v for c in reversed(cls.__mro__) for k, v in c.__dict__.get("__annotations__", {}).items()}
        names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
        fields = [Field(name, name, useful(hint_of(notes.get(name), scope)), False, MISSING) for name in names]
        return _fields_handler(ClassPlan(tag_of(cls), False, by_key(cls, fields)))
    named = BY_NAME.get(f"{cls.__module__}.{cls.__qualname__}")
    if named is not None:
        return named
    if "pathlib" in sys.modules and isinstance(value, sys.modules["pathlib"].PurePath):
        return _path
    if is_pydantic(value):
        scope = vars(sys.modules.get(cls.__module__, builtins))
        fields = [
            Field(k, k, useful(hint_of(f.annotation, scope)), False, MISSING) for k, f in cls.model_fields.items()
        ]
        if cls.model_config.get("extra") == "allow":
            raise encoder.fail(value, f"{cls.__qualname__} allows extra fields; use one that does not")
        return _fields_handler(ClassPlan(tag_of(cls), False, by_key(cls, fields)))
    if "numpy" in sys.modules:
        from marin.execution.canonical_arrays import array_form, dtype_form, scalar_form

        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.dtype):
            return dtype_form
        if isinstance(value, numpy.generic):
            return scalar_form
        if cls is numpy.ndarray or ("jax" in sys.modules and isinstance(value, sys.modules["jax"].Array)):
            return array_form
    raise encoder.fail(value)


# -- tables ------------------------------------------------------------------------------------------------------------

_NEVER_REFUSED = frozenset({type(None), bool, int, float, OutputName})  # so no path is needed for a message
HANDLERS |= {
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
BUILT_IN = frozenset(HANDLERS)
# Known by name, so that these modules are not imported for a config that does not use them.
BY_NAME: dict[str, Handler] = {
    "uuid.UUID": _tagged("$uuid", str),
    "decimal.Decimal": _tagged("$dec", str),
    "datetime.date": _tagged("$date", lambda v: v.isoformat()),
    "datetime.timedelta": _tagged("$td", lambda v: [v.days, v.seconds, v.microseconds]),
    "datetime.datetime": _datetime,
}
