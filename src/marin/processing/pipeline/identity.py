"""What an operation is, as plain JSON values: equal operations are done once, changed ones again.

A frozen dataclass is its name, its class attribute `version` and its fields. A function is its name and its code:
signature, bytecode, constants, defaults, values it closes over, and all that it reaches by name in its own module, and
those by theirs: functions, classes with their methods, values such as dicts (their order counts), Arrow and numpy
arrays, compiled patterns, and objects by the parts that pickle would take them apart into. A dataclass without a
version of its own is the code of its class as well. So a changed lambda in a script is another operation. A function or
class with an attribute `version` is its name and that version alone.

The price: of what is called in other modules only the name is seen; an object that cannot be pickled (an open model, a
lock) counts by its type, which a warning says; values are those at the time of planning, so a dict that a function
fills as a cache makes it another one (one that it sets with `global` does not); and another Python has another
bytecode.
"""

import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import inspect
import json
import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from marin.processing.pipeline.expressions import Expression

_SAID_BY_REPR = (
    complex,
    range,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    types.EllipsisType,
)
_OPERATES = ("__call__", "write")  # a dataclass with one of them is an operation or a sink, not only values
# Of a code object: of what kind it is, not whether it has a docstring or where it stands.
_FLAGS_THAT_COUNT = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
# Where the methods come from that dataclasses and named tuples are given; what they do is in the fields.
_GENERATED_IN = ("<string>", dataclasses.dataclass.__code__.co_filename)


def identity_of(value: Any) -> Any:
    """`value` as JSON values that say what it is. TypeError for what cannot be told."""
    teller = _Teller()
    told = teller.tell(value, _Place())
    return {"value": told, "reaches": dict(sorted(teller.reached.items()))} if teller.reached else told


def digest_of(value: Any) -> str:
    """32 hex digits of what a value is."""
    return _digest(identity_of(value))


def name_of(value: Any) -> str:
    """module:qualname."""
    return f"{getattr(value, '__module__', None) or 'builtins'}:{getattr(value, '__qualname__', type(value).__name__)}"


def _digest(told: Any) -> str:
    text = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value stands."""

    within: frozenset[int] = frozenset()  # ids of what it is in, which may be in itself
    module: str | None = None  # of the code that holds it, None where an operation's field does
    is_strict: bool = True  # refuse what cannot be told, instead of naming its type
    name: str = ""  # module:name of what code reaches and this is in
    is_part: bool = (
        False  # of an object taken apart: functions and classes of other modules count by name, as in pickle
    )


class _Teller:
    """Tells what values are. What code reaches by name is told apart, once, however many reach it."""

    def __init__(self) -> None:
        self.reached: dict[str, str] = {}  # module:name -> digest of what stands there
        self._objects: dict[str, Any] = {}  # the same
        self._taken_apart: dict[int, tuple[Any, str]] = {}  # id -> object, which keeps the id taken, and its digest

    def tell(self, value: Any, place: _Place) -> Any:
        """What a value is, as JSON."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, _SAID_BY_REPR):
            return {"repr": repr(value)}
        if isinstance(value, Expression):
            return {"expression": value.to_json()}
        if isinstance(value, PurePath):
            return {"path": str(value)}
        if isinstance(value, re.Pattern):
            pattern = value.pattern if isinstance(value.pattern, str) else repr(value.pattern)
            return {"pattern": pattern, "flags": value.flags}
        if id(value) in place.within:
            return {"again": name_of(value)}
        place = dataclasses.replace(place, within=place.within | {id(value)})
        if isinstance(value, list | tuple | set | frozenset | Mapping):
            return self._container(value, place)
        return self._object(value, place)

    def _container(self, value: Any, place: _Place) -> Any:
        told: Any
        if isinstance(value, Mapping):
            told = {"mapping": [[self.tell(key, place), self.tell(item, place)] for key, item in value.items()]}
        elif isinstance(value, set | frozenset):
            told = {"set": sorted((self.tell(item, place) for item in value), key=json.dumps)}
        else:
            items = [self.tell(item, place) for item in value]
            told = {"tuple": items} if isinstance(value, tuple) else items
        kind = type(value)
        if kind in (list, tuple, set, frozenset, dict):
            return told
        told = {"is": told, "type": name_of(kind), "state": self.tell(getattr(value, "__dict__", None), place)}
        if kind.__module__ == place.module:
            told["code"] = self.tell(kind, place)
        if (factory := getattr(value, "default_factory", None)) is not None:
            told["factory"] = self.tell(factory, place)
        return told

    def _object(self, value: Any, place: _Place) -> Any:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        is_code = isinstance(value, type | types.FunctionType)
        if place.is_part and is_code and _is_of_another_module(value, place.module):
            return {"named": name_of(value), "version": getattr(value, "version", None)}
        if isinstance(value, types.MethodType):
            told = {"method": value.__func__.__qualname__, "of": self.tell(value.__self__, place)}
            kind = type(value.__self__)
            return told if kind is type or _is_versioned(kind) else {**told, "code": self.tell(kind, place)}
        if isinstance(value, functools.partial):
            return {"partial": [self.tell(part, place) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, types.FunctionType):
            return self._function(value, place)
        if isinstance(value, type):
            return self._class(value, place)
        if isinstance(value, types.BuiltinFunctionType):
            of = value.__self__  # a module, or what the method is of
            told = {"builtin": name_of(value)}
            return told if of is None or isinstance(of, types.ModuleType) else {**told, "of": self.tell(of, place)}
        if isinstance(value, enum.Enum):
            return {"enum": name_of(type(value)), "name": value.name, "value": self.tell(value.value, place)}
        if dataclasses.is_dataclass(value):
            return self._dataclass(value, place)
        if isinstance(wrapped := getattr(value, "__wrapped__", None), types.FunctionType):  # cached, or compiled
            return {"wrapped": self.tell(wrapped, place), "by": name_of(type(value))}
        if (told := _of_array(value) or _of_arrow(value)) is not None:
            return told
        if not place.is_strict:
            return self._by_type(value, place)
        raise TypeError(
            f"cannot tell what {value!r} ({name_of(type(value))}) is, so whether work with it was done before: make it "
            "a module-level function or a frozen dataclass with __call__ and plain fields"
        )

    def _dataclass(self, value: Any, place: _Place) -> dict[str, Any]:
        kind = type(value)
        version = getattr(kind, "version", None)
        held = place if version is None else dataclasses.replace(place, module=None)
        fields = {
            field.name: self.tell(getattr(value, field.name), held)
            for field in dataclasses.fields(value)
            if field.compare  # as for equality: what only says how it runs is left out
        }
        told: dict[str, Any] = {"operation": name_of(kind), "fields": fields}
        if version is not None:
            told["version"] = version
        if _is_versioned(kind):
            return told
        if any(inspect.isfunction(getattr(kind, name, None)) for name in _OPERATES):
            told["code"] = self.tell(kind, place)
        elif place.module is not None:
            told["code"] = self._reach(kind.__qualname__, kind, place)
        return told

    def _by_type(self, value: Any, place: _Place) -> dict[str, Any]:
        """An object of a class that is no dataclass, by its parts; of a class of the module, with the class's code."""
        kind = type(value)
        if kind.__module__ != place.module:
            return self._apart(value, place)
        return {"object": self.tell(kind, place), "state": self._apart(value, place)}

    def _apart(self, value: Any, place: _Place) -> dict[str, Any]:
        """The parts that pickle would store; only the type, with a warning, where it would store none."""
        if id(value) in self._taken_apart:
            return {"parts": self._taken_apart[id(value)][1]}
        try:
            reduced = value.__reduce_ex__(4)
            if isinstance(reduced, str):  # the name of a global
                return {"named": f"{type(value).__module__}:{reduced}"}
            make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
            parts = [make, arguments, state, *(None if each is None else list(each) for each in (items, pairs))]
            digest = _digest(self.tell(parts, dataclasses.replace(place, is_part=True)))
        except Exception as error:
            warnings.warn(
                f"{place.name or 'an operation'} holds {value!r:.80} ({name_of(type(value))}), of which only the type "
                f"counts, since it cannot be taken apart ({type(error).__name__}: {error!s:.80}): work that was done "
                "before it changed will be taken for done. Give what uses it a `version`, or build it where it is used",
                stacklevel=2,
            )
            return {"type": name_of(type(value))}
        self._taken_apart[id(value)] = value, digest
        return {"parts": digest}

    # -- code

    def _function(self, function: types.FunctionType, place: _Place) -> dict[str, Any]:
        version = getattr(function, "version", None)
        if version is not None:
            return {"function": name_of(function), "version": version}
        place = dataclasses.replace(place, module=function.__globals__.get("__name__", ""))
        return {
            "function": name_of(function),
            "code": self._code(function.__code__, function, place),
            "defaults": self.tell(function.__defaults__, place),
            "keyword_defaults": self.tell(function.__kwdefaults__, place),
            "closure": [self.tell(value, place) for value in _closed_over(function)],
        }

    def _code(self, code: types.CodeType, function: types.FunctionType, place: _Place) -> list[Any]:
        constants = list(code.co_consts)
        if (
            code is function.__code__
            and constants
            and function.__doc__ is not None
            and constants[0] == function.__doc__
        ):
            constants.pop(0)
        told = [
            self._code(constant, function, place)
            if isinstance(constant, types.CodeType)
            else self.tell(constant, place)
            for constant in constants
        ]
        used = {
            name: self._reach(name, function.__globals__[name], place)
            for name in _globals_read(code)
            if name in function.__globals__
        }
        num_arguments = code.co_argcount + code.co_kwonlyargcount
        num_arguments += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        signature = [
            code.co_posonlyargcount,
            code.co_argcount,
            code.co_kwonlyargcount,
            code.co_flags & _FLAGS_THAT_COUNT,
            list(code.co_varnames[:num_arguments]),
        ]
        done = hashlib.sha256(code.co_code + code.co_exceptiontable).hexdigest()[:32]
        return [signature, done, told, list(code.co_names), used]

    def _class(self, kind: type, place: _Place) -> dict[str, Any]:
        """A class with all that it defines; of those it inherits from, those of its module likewise."""
        told: dict[str, Any] = {"class": name_of(kind), "version": getattr(kind, "version", None)}
        if _is_versioned(kind) or kind.__module__ == "builtins":
            return told
        place = dataclasses.replace(place, module=kind.__module__, is_strict=False)
        if issubclass(kind, enum.Enum):
            told["values"] = [[one.name, self.tell(one.value, place)] for one in kind]
        told["members"] = {name: self._member(member, place) for name, member in _members(kind)}
        told["bases"] = [self._reach(base.__qualname__, base, place) for base in kind.__bases__]
        return told

    def _member(self, member: Any, place: _Place) -> Any:
        if isinstance(member, staticmethod | classmethod):
            return self.tell(member.__func__, place)
        if isinstance(member, property):
            return [self.tell(part, place) for part in (member.fget, member.fset)]
        if isinstance(member, functools.cached_property):
            return self.tell(member.func, place)
        if isinstance(member, types.FunctionType) and _is_of_another_module(member, place.module):
            return {"named": name_of(member), "version": getattr(member, "version", None)}
        return self.tell(member, place)

    def _reach(self, name: str, value: Any, place: _Place) -> Any:
        """What code of `place.module` finds under a name; told in `reached` unless it is of another module."""
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if _is_of_another_module(value, place.module):
            return {"named": name_of(value), "version": getattr(value, "version", None)}
        key = f"{place.module}:{name}"
        while key in self._objects and self._objects[key] is not value:  # two modules of one name
            key += "'"
        if key not in self._objects:
            self._objects[key] = value
            self.reached[key] = ""  # it may reach itself
            self.reached[key] = _digest(self.tell(value, _Place(module=place.module, is_strict=False, name=key)))
        return {"reaches": key}


def _is_versioned(kind: type) -> bool:
    """Whether a class says itself which version it is. One that it inherits tells nothing of what it has changed."""
    return vars(kind).get("version") is not None


def _is_of_another_module(value: Any, module: str | None) -> bool:
    """Whether something was imported: it stands under its own name in a module other than this one."""
    home = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if not isinstance(home, str) or not isinstance(name, str) or home == module:
        return False
    found: Any = sys.modules.get(home)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _globals_read(code: types.CodeType) -> Iterator[str]:
    """Names of its module that code looks up, without those that it sets itself, which hold state."""
    instructions = list(dis.get_instructions(code))
    stored = {one.argval for one in instructions if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    read = dict.fromkeys(one.argval for one in instructions if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return (name for name in read if name not in stored and not name.startswith("__"))


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is given a value only later
            yield None


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """What the body of a class defines: methods, and attributes that are no defaults of fields."""
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    has_given_methods = bool(fields) or issubclass(kind, tuple)
    for name, member in vars(kind).items():
        is_special = name.startswith("__") and name.endswith("__")
        function = getattr(member, "__func__", member)
        if name in fields or name.startswith("_abc_"):
            continue
        if issubclass(kind, enum.Enum) and not isinstance(function, types.FunctionType | property):
            continue  # its values, told apart, and the tables that are made of them
        if is_special:
            if not isinstance(function, types.FunctionType):
                continue
            if has_given_methods and name != "__call__" and function.__code__.co_filename in _GENERATED_IN:
                continue
        yield name, member


def _of_array(value: Any) -> dict[str, Any] | None:
    """A plain numpy array or scalar; None for anything else, such as arrays of objects or with a mask."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)) or value.dtype.hasobject:
        return None
    digest = hashlib.sha256(value.tobytes()).hexdigest()
    return {"numpy": digest, "dtype": repr(value.dtype.descr), "shape": list(value.shape)}


def _of_arrow(value: Any) -> dict[str, Any] | None:
    """A schema, field, type, array, scalar or table of Arrow, whatever its chunks; None for anything else."""
    arrow = sys.modules.get("pyarrow")
    if arrow is None:
        return None
    kind = type(value).__name__
    if isinstance(value, arrow.Schema | arrow.Field | arrow.DataType):
        schema = value
        if not isinstance(value, arrow.Schema):
            schema = arrow.schema([arrow.field("", value) if isinstance(value, arrow.DataType) else value])
        return {"arrow": hashlib.sha256(schema.serialize()).hexdigest()}
    if isinstance(value, arrow.Scalar):
        value = arrow.repeat(value, 1)
    if isinstance(value, arrow.Array | arrow.ChunkedArray):
        value = arrow.table({"": value})
    elif isinstance(value, arrow.RecordBatch):
        value = arrow.Table.from_batches([value])
    if not isinstance(value, arrow.Table):
        return None
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value.combine_chunks())
    return {"arrow": hashlib.sha256(sink.getvalue()).hexdigest(), "kind": kind}
