"""Where each value of a config comes from: a line of a file, the command line, whoever built it, or a default.

A run's settings are decided in several places, and the one that decided is what a reader asks for when a number looks
odd. Origins are kept beside the config, as a mapping from the place of a value (`optimizer.learning_rate`) to words,
and never in its identity: two configs with equal values are equal, wherever the values came from. What is in no such
mapping and equals the default of its field is called a default, so nothing has to be noted for the many values that
nobody set. The price: a builder that sets a field to its default, without saying so, is not told apart from one that
left it alone.

`annotated_yaml` writes the config as YAML with the origin of every value as a comment, so that it can be read back.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from marin.config import ConfigError, _join, _parse_yaml, decode, dump_yaml, encode, yaml_loader

T = TypeVar("T")

Origins = Mapping[str, str]
"""Place of a value, like `optimizer.learning_rate` or `data.train`, -> where it comes from."""

COMMAND_LINE = "command line"


def load_with_origins(
    cls: type[T],
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    fill_in: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], str] | None] = lambda content: None,
) -> tuple[T, dict[str, str]]:
    """The config in a YAML file with every `a.b=value` put into it, and the origin of each value that either names.

    Overrides are put in before anything is decoded, so they may also give what the file leaves out. `fill_in` is then
    asked for more fields: (values by name, where they come from), or None. Errors name the file, or the override they
    are about, or the file and the overrides that are part of what they are about.
    """
    path = Path(path)
    text, overrides = path.read_text(encoding="utf-8"), tuple(overrides)
    try:
        content = _parse_yaml(text, "config")
        if not isinstance(content, dict):
            raise ConfigError(f"expected a mapping with the fields of {cls.__name__}, got {content!r}")
        origins = {place: f"{path.name}:{line}" for place, line in _lines(text)}
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        place, equals, value = override.partition("=")
        if not equals or not place:
            raise ConfigError(f"override '{override}': expected path=value, like optimizer.learning_rate=1e-3")
        parsed = _parse_yaml(value, place)
        content = _put(content, place.split("."), parsed, place)
        origins = {known: origin for known, origin in origins.items() if not _is_within(known, place)}
        origins |= {leaf: COMMAND_LINE for leaf, _ in _leaves(parsed, place)}
    filled = fill_in(content)
    if filled is not None:
        content = {**content, **filled[0]}
        origins |= dict.fromkeys(filled[0], filled[1])
    try:
        return decode(cls, content), origins
    except ConfigError as error:
        place = str(error).partition(":")[0]
        is_given = any(_is_within(place, known) for known, origin in origins.items() if origin == COMMAND_LINE)
        if is_given:
            raise ConfigError(f"--{error}") from error
        is_whole = place in ("config", cls.__name__)
        parts = [f"--{override}" for override in overrides if is_whole or _is_within(override.partition("=")[0], place)]
        raise ConfigError(f"{' '.join([str(path), *parts])}: {error}") from error


def annotated_yaml(config: Any, origins: Origins, *, leave_out: Collection[str] = ()) -> str:
    """The config as YAML, with the origin of each value as a comment; `load_yaml` gives an equal config back.

    `leave_out` names fields of `config` itself that are not written.
    """
    text = dump_yaml({name: value for name, value in encode(config).items() if name not in leave_out})
    defaults = dict(_defaults(config, ""))
    lines = text.splitlines()
    comments: dict[int, str] = {}
    for place, line in _lines(text, last=True):
        comments[line - 1] = origin_of(place, origins, defaults)
    width = min(72, max((len(lines[at]) for at in comments), default=0))
    for at, comment in comments.items():
        lines[at] = f"{lines[at]:<{width}}  # {comment}"
    return "\n".join(lines) + "\n"


def origin_of(place: str, origins: Origins, defaults: Mapping[str, str]) -> str:
    """Words for one value: what `origins` says of exactly it, else that it is a default, else what it is part of."""
    if place in origins:
        return origins[place]
    parts = place.split(".")
    around = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    default = next((defaults[part] for part in around if part in defaults), None)
    if default is not None:
        return default
    return next((origins[part] for part in around if part in origins), "given")


def _defaults(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, words) of every field that holds its default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            current, where = getattr(value, field.name), _join(place, field.name)
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            # 1 == True == 1.0
            if default is not dataclasses.MISSING and type(default) is type(current) and default == current:
                yield where, f"default of {type(value).__name__}"
            else:
                yield from _defaults(current, where)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _defaults(item, _join(place, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _defaults(item, _join(place, str(index)))


def _lines(text: str, *, last: bool = False) -> Iterator[tuple[str, int]]:
    """(place, line counted from 1) of every scalar and every empty collection; with `last`, the line it ends on."""
    import yaml

    def walk(node: Any, place: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, yaml.MappingNode) and node.value:
            for key, item in node.value:
                yield from walk(item, _join(place, str(key.value)))
        elif isinstance(node, yaml.SequenceNode) and node.value:
            for index, item in enumerate(node.value):
                yield from walk(item, _join(place, str(index)))
        else:
            yield place, (node.end_mark.line if last else node.start_mark.line) + 1

    root = yaml.compose(text, Loader=yaml_loader())
    if root is not None:
        yield from walk(root, "")


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    found = False
    for key, item in items:
        found = True
        yield from _leaves(item, _join(place, str(key)))
    if not found:
        yield place, value


def _put(content: Any, names: Sequence[str], value: Any, place: str) -> Any:
    """A copy of plain `content` with the value at a place, mappings made on the way where there is nothing."""
    if not names:
        return value
    name, *rest = names
    if isinstance(content, list):
        if not name.isdigit() or int(name) >= len(content):
            raise ConfigError(f"--{place}: expected an index below {len(content)}, got '{name}'")
        items = list(content)
        items[int(name)] = _put(items[int(name)], rest, value, place)
        return items
    if isinstance(content, str):
        content = {"type": content}  # a choice that stands there by its name alone
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"--{place}: what holds '{name}' is {content!r}, which has no fields to set")
    known = dict(content or {})
    # keys that are numbers in YAML are written as digits in a place
    key = next((key for key in known if str(key) == name), name)
    return known | {key: _put(known.get(key), rest, value, place)}


def _is_within(place: str, outer: str) -> bool:
    return place == outer or place.startswith(outer + ".")
