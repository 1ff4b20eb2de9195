"""What an operation is, as plain JSON values: equal operations are done once, changed ones again.

A frozen dataclass is its name, its class attribute `version` and its fields. A function is its name and its code:
bytecode, constants, defaults, values it closes over, and the functions and constants of its own module that it names.
So a changed lambda in a script is another operation. The price: what a function calls in other modules is not seen, and
another Python has another bytecode. A function with an attribute `version` is its name and that version alone.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from marin.processing.pipeline.expressions import Expression


def identity_of(value: Any) -> Any:
    """`value` as JSON values that say what it is. TypeError for what cannot be told."""
    return _identity(value, frozenset())


def digest_of(value: Any) -> str:
    """32 hex digits of what a value is."""
    text = json.dumps(identity_of(value), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identity(value: Any, seen: frozenset[int]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Expression):
        return {"expression": value.to_json()}
    if isinstance(value, PurePath):
        return {"path": str(value)}
    if isinstance(value, re.Pattern):
        return {
            "pattern": value.pattern if isinstance(value.pattern, str) else repr(value.pattern),
            "flags": value.flags,
        }
    if isinstance(value, list | tuple):
        return [_identity(item, seen) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted((_identity(item, seen) for item in value), key=json.dumps)}
    if isinstance(value, Mapping):
        return {"mapping": [[_identity(key, seen), _identity(value[key], seen)] for key in sorted(value, key=repr)]}
    if id(value) in seen:
        return {"again": name_of(value)}
    return _identity_of_object(value, seen | {id(value)})


def _identity_of_object(value: Any, seen: frozenset[int]) -> Any:
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": _identity(value.__self__, seen)}
    if isinstance(value, functools.partial):
        return {"partial": [_identity(part, seen) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.FunctionType):
        return _identity_of_function(value, seen)
    if isinstance(value, type):
        return {"class": name_of(value), "version": getattr(value, "version", None)}
    if isinstance(value, types.BuiltinFunctionType):
        return {"builtin": name_of(value)}
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _identity(getattr(value, field.name), seen)
            for field in dataclasses.fields(value)
            if field.compare  # as for equality: what only says how it runs is left out
        }
        said: dict[str, Any] = {"operation": name_of(type(value)), "fields": fields}
        version = getattr(type(value), "version", None)
        if version is not None:
            said["version"] = version
        elif inspect.isfunction(getattr(type(value), "__call__", None)):  # noqa: B004
            said["code"] = _identity(type(value).__call__, seen)
        return said
    raise TypeError(
        f"cannot tell what {value!r} ({name_of(type(value))}) is, so whether work with it was done before: make it a "
        "module-level function or a frozen dataclass with __call__ and plain fields"
    )


def _identity_of_function(function: types.FunctionType, seen: frozenset[int]) -> Any:
    version = getattr(function, "version", None)
    if version is not None:
        return {"function": name_of(function), "version": version}
    closed_over = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": name_of(function),
        "code": _identity_of_code(function.__code__, function, seen),
        "defaults": _identity(function.__defaults__, seen),
        "keyword_defaults": _identity(function.__kwdefaults__, seen),
        "closure": [_identity(value, seen) for value in closed_over],
    }


def _identity_of_code(code: types.CodeType, function: types.FunctionType, seen: frozenset[int]) -> Any:
    constants = list(code.co_consts)
    if code is function.__code__ and constants and function.__doc__ is not None and constants[0] == function.__doc__:
        constants.pop(0)
    told = [
        _identity_of_code(constant, function, seen)
        if isinstance(constant, types.CodeType)
        else _constant(constant, seen)
        for constant in constants
    ]
    used = {}
    for name in code.co_names:
        value = function.__globals__.get(name)
        of_the_module = getattr(value, "__module__", None) == function.__module__
        if isinstance(value, types.FunctionType) and of_the_module:
            used[name] = _identity(value, seen)
        elif isinstance(value, bool | int | float | str | tuple | frozenset) and not name.startswith("__"):
            used[name] = _constant(value, seen)
    return [hashlib.sha256(code.co_code).hexdigest()[:32], told, list(code.co_names), used]


def _constant(value: Any, seen: frozenset[int]) -> Any:
    try:
        return _identity(value, seen)
    except TypeError:  # complex numbers, the ellipsis
        return repr(value) if isinstance(value, complex) else repr(type(value))


def name_of(value: Any) -> str:
    """module:qualname."""
    return f"{getattr(value, '__module__', None) or 'builtins'}:{getattr(value, '__qualname__', type(value).__name__)}"
