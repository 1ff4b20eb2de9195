"""Configs: frozen dataclasses to YAML, from YAML, and changed by dotted overrides.

A config is decoded strictly: every field is known, every value has its declared type, and an error gives the
path of the value and the nearest name that would have been right. Nothing is converted in silence, save an int
where a float is declared. The price of strictness is our own decoder of two hundred lines;
docs/decisions/0002-config-decoder.md says what the libraries let through.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, kw_only=True)
... class Optimizer:
...     learning_rate: float
...     betas: tuple[float, float] = (0.9, 0.95)
>>> decode(Optimizer, {"learning_rate": 1})
Optimizer(learning_rate=1.0, betas=(0.9, 0.95))
>>> apply_overrides(Optimizer(learning_rate=0.1), ["learning_rate=3e-4"])
Optimizer(learning_rate=0.0003, betas=(0.9, 0.95))
>>> decode(Optimizer, {"learning_rat": 1})
Traceback (most recent call last):
marin.config.ConfigError: learning_rat: Optimizer has no such field; did you mean 'learning_rate'?
"""

import collections.abc
import dataclasses
import difflib
import enum
import functools
import importlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be what it says; the message gives the path, what was given and what to write instead."""


# One table of alternatives: base (usually a Protocol) -> name written as `type:` -> "module:Class", imported when used.
_CHOICES: dict[type, dict[str, str]] = {}
_RETIRED_CHOICES: dict[tuple[type, str], str] = {}


def register_choice(base: type, name: str, target: str) -> None:
    """Let a field annotated `base` hold any of several config classes, told apart by `type: name`.

    `target` is "module:Class" and is imported only when a config names it, so that a list of models costs nothing.
    A class that is not registered goes by `type: module:Class` itself.
    """
    known = _CHOICES.setdefault(base, {})
    if known.get(name, target) != target:
        raise ConfigError(f"choice '{name}' of {base.__name__} is {known[name]} already; {target} needs another name")
    known[name] = target


def retire_choice(base: type, name: str, instead: str) -> None:
    """Let the error of a config that still says `type: name` tell what to write instead."""
    _RETIRED_CHOICES[base, name] = instead


def _choice_name(cls: type) -> str | None:
    target = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for names in _CHOICES.values() for name, known in names.items() if known == target), None)


def _import_choice(target: str) -> type:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _import_own_choice(target: str, path: str) -> type:
    """The config class that a `type: module:Class` names; ConfigError where there is none."""
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        raise ConfigError(
            f"{path}: no module {module!r}; it is looked for in the current folder and wherever `import` does "
            "(PYTHONPATH)"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{path}: the module {module!r} has no {name!r}") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{path}: {target} is no dataclass; the config of a choice is one")
    return cls


@functools.cache
def _fields_of_choices(cls: type) -> frozenset[str]:
    """Fields of a dataclass that hold one of several config classes, alone or in a collection."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a class that is only written, never read: what its annotations name is not there
        return frozenset()
    return frozenset(f.name for f in dataclasses.fields(cls) if _holds_choice(hints[f.name]))


def _holds_choice(hint: Any) -> bool:
    return hint in _CHOICES or any(_holds_choice(argument) for argument in typing.get_args(hint))


def encode(value: Any) -> Any:
    """Plain dicts, lists and scalars that `decode` turns back into an equal value.

    Raises ConfigError, with the path, for a value that YAML could not hold.
    """
    return _encode(value, "")


def _encode(value: Any, path: str, is_choice: bool = False) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        choices = _fields_of_choices(type(value))
        fields = {
            f.name: _encode(getattr(value, f.name), _join(path, f.name), f.name in choices)
            for f in dataclasses.fields(value)
        }
        name = _choice_name(type(value)) or (_own_choice_name(type(value), path) if is_choice else None)
        return {"type": name, **fields} if name else fields
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {_encode(k, path): _encode(v, _join(path, str(k)), is_choice) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v, _join(path, str(i)), is_choice) for i, v in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(_encode(v, path) for v in value)
    raise ConfigError(f"{path or 'config'}: a {type(value).__name__} cannot be written as YAML: {value!r}")


def _own_choice_name(cls: type, path: str) -> str:
    """`module:Class` of a class that is not registered. ConfigError for one of a script or a function."""
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise ConfigError(
            f"{path}: {cls.__qualname__} is defined in a script or a function, where no other process finds it again; "
            "move it into a module of its own and import it from there"
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def decode(cls: type[T], value: Any, path: str = "") -> T:
    """`value` (what YAML or JSON gave) as an instance of `cls`; else ConfigError with path and near miss."""
    return _decode(cls, value, path)


def _decode(cls: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(cls) or cls, typing.get_args(cls)
    if cls is Any or cls is object:
        return value
    if origin is typing.Annotated:
        return _decode(arguments[0], value, path)
    if origin is typing.Union or origin is types.UnionType:
        return _decode_union(arguments, value, path)
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _wrong(path, value, "one of " + ", ".join(map(repr, arguments)), _near(value, arguments))
        return value
    if cls is None or cls is type(None):
        if value is not None:
            raise _wrong(path, value, "null")
        return None
    if cls in _CHOICES:
        return _decode_choice(cls, value, path)
    if dataclasses.is_dataclass(origin):
        return _decode_dataclass(origin, value, path)
    if isinstance(origin, type):
        return _decode_plain(origin, arguments, value, path)
    raise ConfigError(f"{path or 'config'}: a config cannot declare a field of type {cls}")


def _decode_plain(origin: type, arguments: tuple, value: Any, path: str) -> Any:
    if issubclass(origin, enum.Enum):
        if value not in origin.__members__:
            raise _wrong(path, value, "one of " + ", ".join(origin.__members__), _near(value, origin.__members__))
        return origin[value]
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin in (bool, int, float, str):
        if type(value) is not origin:
            raise _wrong(path, value, _NAMES[origin])
        return value
    if issubclass(origin, PurePath):
        if not isinstance(value, (str, PurePath)):
            raise _wrong(path, value, "a path")
        return origin(value)
    if issubclass(origin, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a mapping")
        key_type, value_type = arguments or (Any, Any)
        return {_decode(key_type, k, path): _decode(value_type, v, _join(path, str(k))) for k, v in value.items()}
    if issubclass(origin, (collections.abc.Sequence, collections.abc.Set)):
        return _decode_items(origin, arguments, value, path)
    if isinstance(value, origin):
        return value
    raise _wrong(path, value, f"a {origin.__name__}")


_NAMES = {bool: "true or false", int: "an int", float: "a number", str: "a string"}


def _decode_items(origin: type, arguments: tuple, value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _wrong(path, value, "a list")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(path, value, f"{len(arguments)} items")
        item_types = arguments
    else:
        item_types = (arguments[0] if arguments else Any,) * len(value)
    items = [_decode(t, v, _join(path, str(i))) for i, (t, v) in enumerate(zip(item_types, value, strict=True))]
    if issubclass(origin, collections.abc.Set):
        return frozenset(items) if origin is not set else set(items)
    return items if origin is list else tuple(items)


def _decode_union(members: Sequence[Any], value: Any, path: str) -> Any:
    """The member that fits: the one named by `type`, else the exact type, else the first that converts."""
    if type(value) in members or (value is None and type(None) in members):
        return value
    if isinstance(value, Mapping) and "type" in value:
        for member in members:
            if isinstance(member, type) and _choice_name(member) == value["type"]:
                return _decode(member, {k: v for k, v in value.items() if k != "type"}, path)
    errors = []
    for member in members:
        try:
            return _decode(member, value, path)
        except ConfigError as error:
            errors.append((member, error))
    # The error of the one member that could have been meant says more than "none of them".
    meant = [error for member, error in errors if _could_hold(member, value)]
    if not meant and isinstance(value, Mapping):  # a name may be misspelt
        meant = [error for member, error in errors if dataclasses.is_dataclass(member)]
    if len(meant) == 1:
        raise meant[0]
    choices = [c for m in members if typing.get_origin(m) is typing.Literal for c in typing.get_args(m)]
    raise _wrong(path, value, " or ".join(map(_name_of, members)), _near(value, choices) if choices else "")


def _could_hold(member: Any, value: Any) -> bool:
    """Whether a mapping or list is of the shape of a type, whatever is wrong inside."""
    origin = typing.get_origin(member) or member
    if not isinstance(origin, type):
        return False
    if isinstance(value, Mapping):
        if dataclasses.is_dataclass(origin):
            return {str(name) for name in value} <= {field.name for field in dataclasses.fields(origin)}
        return issubclass(origin, collections.abc.Mapping)
    is_list = issubclass(origin, (collections.abc.Sequence, collections.abc.Set)) and not issubclass(origin, str)
    return isinstance(value, list) and is_list


def _name_of(member: Any) -> str:
    """A type in words, as errors say it."""
    if typing.get_origin(member) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(member)))
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if isinstance(origin, type) and issubclass(origin, (collections.abc.Sequence, collections.abc.Set)):
        if not dataclasses.is_dataclass(arguments[0]):
            return "a list"
        return f"a list of {{{', '.join(field.name for field in dataclasses.fields(arguments[0]))}}}"
    return "null" if member is type(None) else _NAMES.get(member, getattr(member, "__name__", str(member)))


def _decode_choice(base: type, value: Any, path: str) -> Any:
    choices = _CHOICES[base]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _checked_choice(base, value, path)
    if isinstance(value, str):  # a name alone: all else is default
        value = {"type": value}
    if not isinstance(value, Mapping) or "type" not in value:
        raise _wrong(path, value, f"a mapping with `type:` one of {', '.join(sorted(choices))}")
    name, where = value["type"], _join(path, "type")
    fields = {k: v for k, v in value.items() if k != "type"}
    if isinstance(name, str) and ":" in name:
        return _checked_choice(base, _decode_dataclass(_import_own_choice(name, where), fields, path), path)
    if (base, name) in _RETIRED_CHOICES:
        raise ConfigError(f"{where}: there is no {name!r} any more: {_RETIRED_CHOICES[base, name]}")
    if name not in choices:
        hint = f"{_near(name, choices)} (a class of your own is named module:Class)"
        raise _wrong(where, name, f"one of {', '.join(sorted(choices))}", hint)
    return _decode_dataclass(_import_choice(choices[name]), fields, path)


def _checked_choice(base: type, value: Any, path: str) -> Any:
    """`value`, which must offer whatever `base` asks of a config."""
    asked = [name for name in (*vars(base), *base.__dict__.get("__annotations__", {})) if not name.startswith("_")]
    missing = [name for name in asked if not hasattr(value, name)]
    if missing:
        raise ConfigError(
            f"{path or 'config'}: {type(value).__qualname__} lacks {', '.join(missing)}, so it is no {base.__name__}"
        )
    return value


def _decode_dataclass(cls: Any, value: Any, path: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(path, value, f"a mapping with the fields of {cls.__name__}")
    if "type" in value and value["type"] == _choice_name(cls):
        value = {k: v for k, v in value.items() if k != "type"}
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in value:
        if name not in fields:
            raise ConfigError(f"{_join(path, str(name))}: {cls.__name__} has no such field{_hint(name, fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{path or 'config'}: {cls.__name__} needs {', '.join(missing)}, which has no default")
    decoded = {name: _decode(hints[name], v, _join(path, name)) for name, v in value.items()}
    return _construct(cls, decoded, path)


def _construct(cls: Any, values: Mapping[str, Any], path: str) -> Any:
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # a __post_init__ that refused: keep its words, add the place
        raise ConfigError(f"{path or cls.__name__}: {error}") from error


def apply_overrides(config: T, overrides: Iterable[str]) -> T:
    """A copy of a dataclass with every `a.b=value` applied; values are YAML, decoded by the declared type.

    All are applied together, so that fields that must agree can be changed in any order; of two for one path the later
    wins. Objects that no override names are kept as they are: a config may hold what YAML could not, like a step.
    """
    root = _Change()
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"override '{override}': expected path=value, like train.learning_rate=1e-3")
        change = root
        for name in path.split("."):
            change = change.parts.setdefault(name, _Change())
        change.value = _parse_yaml(text, path)
        change.parts.clear()  # a whole value replaces what was said of its parts before
    return _changed(type(config), config, root, "")


_UNCHANGED = object()


@dataclasses.dataclass
class _Change:
    """A new value for one place of a config, or new values for its parts."""

    value: Any = _UNCHANGED
    parts: dict[str, "_Change"] = dataclasses.field(default_factory=dict)


def _changed(declared: Any, current: Any, change: _Change, path: str) -> Any:
    if change.value is not _UNCHANGED:
        current = _decode(declared, change.value, path)
    if not change.parts:
        return current
    if dataclasses.is_dataclass(current) and not isinstance(current, type):
        fields = [f.name for f in dataclasses.fields(current) if f.init]
        hints = typing.get_type_hints(type(current))
        values = {name: getattr(current, name) for name in fields}
        for name, part in change.parts.items():
            if name not in values:
                raise ConfigError(
                    f"{_join(path, name)}: {type(current).__name__} has no such field{_hint(name, fields)}"
                )
            values[name] = _changed(hints[name], values[name], part, _join(path, name))
        return _construct(type(current), values, path)
    if isinstance(current, Mapping):
        key_type, value_type = typing.get_args(declared) or (Any, Any)
        items = dict(current)
        for name, part in change.parts.items():
            place = _join(path, name)
            key = _decode(key_type, name if key_type in (str, Any) else _parse_yaml(name, place), place)
            if part.value is _UNCHANGED and key not in items:
                raise ConfigError(f"{place}: no such key{_hint(name, items)}")
            items[key] = _changed(value_type, items.get(key), part, place)
        return items
    if isinstance(current, (list, tuple)):
        item_type = (typing.get_args(declared) or (Any,))[0]
        sequence = list(current)
        for name, part in change.parts.items():
            if not name.isdigit() or int(name) >= len(sequence):
                raise ConfigError(f"{_join(path, name)}: expected an index below {len(sequence)}, got '{name}'")
            sequence[int(name)] = _changed(item_type, sequence[int(name)], part, _join(path, name))
        return type(current)(sequence)
    raise ConfigError(f"{_join(path, next(iter(change.parts)))}: {path} is {current!r}, which has no fields to set")


def from_command_line(default: T, argv: Sequence[str] | None = None) -> T:
    """An experiment's config with every `--set path=value` of the command line applied.

    Other arguments are left to `executor_main`. A wrong override ends the program with its message and exit code 2.
    """
    global _command_line_was_read
    _command_line_was_read = True
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return apply_overrides(default, overrides_in(arguments))
    except ConfigError as error:
        print(f"error: --set {error}", file=sys.stderr)
        raise SystemExit(2) from None


_command_line_was_read = False


def command_line_was_read() -> bool:
    """Whether this program has an experiment config that takes `--set`."""
    return _command_line_was_read


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """The values of `--set VALUE` and `--set=VALUE` among command-line arguments, in order.

    ConfigError if two are for one path: on one line that is a slip, and nobody can tell which was meant.
    """
    found, rest = [], iter(arguments)
    for argument in rest:
        if argument == "--set":
            value = next(rest, None)
            if value is None:
                raise ConfigError("expects path=value after it, like --set train.learning_rate=1e-3")
            found.append(value)
        elif argument.startswith("--set="):
            found.append(argument.removeprefix("--set="))
    given: dict[str, str] = {}
    for override in found:
        path = override.partition("=")[0]
        if path in given:
            raise ConfigError(f"{path} is given twice, as {given[path]} and as {override}: keep one")
        given[path] = override
    return found


def load_yaml(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """The config in a YAML file, overrides applied; errors name the file too."""
    try:
        return apply_overrides(decode(cls, _parse_yaml(Path(path).read_text(encoding="utf-8"), str(path))), overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def dump_yaml(config: Any) -> str:
    """The config as YAML, fields in their declared order; `load_yaml` gives an equal config back."""
    import yaml

    return yaml.dump(encode(config), Dumper=_yaml_dumper(), sort_keys=False, width=120)


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=yaml_loader())
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


# YAML 1.2's numbers and booleans. PyYAML follows 1.1, where 1e-3 is a string and `no` is false.
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_OLD = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


def _with_core_schema(base: Any) -> Any:
    """A subclass of a PyYAML loader or dumper that reads and quotes scalars by YAML 1.2's core schema."""
    cls = type(f"Core{base.__name__}", (base,), {})
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in _OLD]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    cls.yaml_implicit_resolvers = resolvers
    cls.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
    cls.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    cls.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return cls


@functools.cache
def yaml_loader() -> Any:
    """PyYAML's safe loader with the scalars of YAML 1.2, and without keys that stand twice."""
    import yaml

    cls = _with_core_schema(yaml.SafeLoader)

    def integer(loader: Any, node: Any) -> int:
        text = loader.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)  # 010 is ten, as in YAML 1.2

    def mapping(loader: Any, node: Any) -> dict:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return loader.construct_mapping(node, deep=True)

    cls.add_constructor("tag:yaml.org,2002:int", integer)
    cls.add_constructor("tag:yaml.org,2002:map", mapping)
    return cls


@functools.cache
def _yaml_dumper() -> Any:
    import yaml

    return _with_core_schema(yaml.SafeDumper)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, value: Any, expected: str, hint: str = "") -> ConfigError:
    return ConfigError(f"{path or 'config'}: expected {expected}, got {value!r}{hint}")


def _near(value: Any, known: Iterable[Any]) -> str:
    return _hint(value, [k for k in known if isinstance(k, str)])


def _hint(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(map(str, known))}" if known else ""
