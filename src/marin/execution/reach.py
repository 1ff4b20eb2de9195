"""Which definitions of a project some functions and classes reach, through all its modules.

A name leads to a definition, a definition to the names it uses, an import to another module, and so on. First-party
are the files of the project that the start is in: the nearest folder with a pyproject.toml or .git, or, for what is
installed, its own package; everything else is another's, and only its name counts. Source is read and parsed, never
imported: planning must not load what the steps need.

An attribute of a module leads to that attribute alone, and a module that is handed around to all of it. A class is
taken whole. Where it cannot be told what a name will be, more is reached rather than less.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from marin.execution.source import Chain, Definition, Import, Source
from marin.execution.step import ExecutorStep, InputName, OutputName
from marin.execution.summaries import Stamp, stamp_of, summary_of

Fn = Callable[[Any], Any] | str
"""A step's function, or "module:function"."""

_DOMAIN = b"code-v2\0"
_INSTALLED = ("site-packages", "dist-packages")
_MAX_REMEMBERED = 256


# -- where to begin ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Start:
    """A function or class to begin with."""

    path: str  # of a Python file
    module: str  # its dotted name
    name: Chain  # what is asked of it


def starts_of(fn: Fn, code: Iterable[Any]) -> tuple[Start, ...]:
    """The function, then the code in its config, each once; () if the function has no Python file."""
    if isinstance(fn, str):
        module, _, name = fn.partition(":")
        file = _file_of_module(module)
        first = Start(file, module, tuple(name.split("."))) if file is not None else None
    else:
        first = _start_of(fn)
    if first is None:
        return ()
    home = project_of(first.path, first.module)
    found = {start for value in code if (start := _start_of(value)) is not None and _counts(home, start)}
    return (first, *sorted(found - {first}))


@functools.lru_cache(maxsize=4096)
def _counts(home: "Project", start: Start) -> bool:
    """Whether the class or function in a config is the function's project's, or another project's, not installed."""
    return home.name_of(start.path) is not None or not _is_installed(start.path)


@functools.lru_cache(maxsize=1024)
def _start_of(value: Any) -> Start | None:
    """Where a function or class is defined, or None if that is no Python file."""
    while (inner := getattr(value, "__wrapped__", None)) is not None:
        value = inner
    owner = getattr(value, "__self__", None)
    home = owner if isinstance(owner, type) else value
    module = getattr(home, "__module__", None) or ""
    scope = getattr(value, "__globals__", None) or getattr(sys.modules.get(module), "__dict__", {})
    path, name = scope.get("__file__"), getattr(home, "__qualname__", "")
    if path is None or not path.endswith(".py") or not name or "<" in name:
        return None
    spec = scope.get("__spec__")
    return Start(os.path.abspath(path), spec.name if spec is not None else module, tuple(name.split(".")))


def code_in(config: Any) -> frozenset[Any]:
    """Classes of the values in a config, and the functions and classes that are values."""
    found: set[Any] = set()
    todo, seen = [config], set()
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind in _WITHOUT_CODE or id(value) in seen:
            continue
        seen.add(id(value))
        fields = _fields_of(kind)
        if fields is not None:
            todo += [getattr(value, name, None) for name in fields]
        elif isinstance(value, Mapping):
            todo += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif kind is functools.partial:
            todo += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, type) or callable(value) and hasattr(value, "__qualname__"):
            found.add(value)
            continue
        elif hasattr(kind, "model_fields"):  # pydantic
            todo += [getattr(value, name, None) for name in kind.model_fields]
        if kind.__module__ != "builtins":
            found.add(kind)
    return frozenset(found)


@functools.cache
def _fields_of(kind: type) -> tuple[str, ...] | None:
    """The names of a dataclass's fields; None for other classes, and for those that hold their items otherwise."""
    if not dataclasses.is_dataclass(kind) or issubclass(kind, Mapping | list | tuple | set | frozenset):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


_WITHOUT_CODE = frozenset({type(None), bool, int, float, complex, str, bytes, ExecutorStep, InputName, OutputName})


# -- projects and modules ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """The files that are first-party to one start."""

    folder: str  # files below it, that are not installed packages inside it
    package: str | None  # of these only this top-level package or module; None: all

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - projects are few, and small
    def name_of(self, path: str) -> str | None:
        """How records call a file, or None if it is not of this project."""
        if not path.startswith(self.folder + os.sep):
            return None
        name = path[len(self.folder) + 1 :]
        if self.package is not None:
            inside = name.startswith(self.package + os.sep) or name == f"{self.package}.py"
            return name.replace(os.sep, "/") if inside else None
        if _is_installed(path):
            return None
        short = name.removeprefix("src" + os.sep)
        is_taken = short != name and os.path.exists(os.path.join(self.folder, short))
        return (name if is_taken else short).replace(os.sep, "/")

    def places_of(self, name: str) -> tuple[str, ...]:
        """The files that `name` may stand for."""
        return f"{self.folder}/src/{name}", f"{self.folder}/{name}"


_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def _is_installed(path: str) -> bool:
    return path.startswith(_STANDARD_LIBRARY) or any(part in _INSTALLED for part in path.split(os.sep))


@functools.lru_cache(maxsize=4096)
def project_of(path: str, module: str) -> Project:
    """The project of a module's file."""
    names = module.split(".")
    outside = os.path.dirname(path)  # of the package, where sys.path points
    for _ in names if os.path.basename(path) == "__init__.py" else names[1:]:
        outside = os.path.dirname(outside)
    if _is_installed(path):
        return Project(outside, names[0])
    folder = os.path.dirname(path)
    while not any(os.path.exists(os.path.join(folder, mark)) for mark in ("pyproject.toml", ".git")):
        folder, last = os.path.split(folder)
        if not last:
            return Project(outside, None)
    return Project(folder, None)


@dataclass(frozen=True)
class _Place:
    """Where a module is."""

    name: str  # dotted
    file: str | None  # its Python file; None for a namespace package and for what is compiled
    folders: tuple[str, ...]  # where its submodules are; () for a module that is no package

    @property
    def package(self) -> str:
        """What relative imports in it are relative to."""
        return self.name if self.folders else self.name.rpartition(".")[0]


def _file_of_module(name: str) -> str | None:
    """The Python file of a module; neither it nor the packages around it are imported."""
    file = _remembered_file(name, tuple(sys.path))
    return file if file is None or os.path.isfile(file) else _find_file(name)


@functools.lru_cache(maxsize=1024)
def _remembered_file(name: str, path: tuple[str, ...]) -> str | None:
    return _find_file(name)


def _find_file(name: str) -> str | None:
    first, *rest = name.split(".")
    place = _find_top(first)
    for part in rest:
        place = _find_below(place, part) if place is not None else None
    return place.file if place is not None else None


def _find_top(name: str) -> _Place | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        file, folders = getattr(loaded, "__file__", None), getattr(loaded, "__path__", ())
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        file, folders = spec.origin if spec.has_location else None, spec.submodule_search_locations or ()
    return _Place(name, _python(file), tuple(map(os.path.abspath, folders)))


def _find_below(place: _Place, part: str) -> _Place | None:
    """As Python's own finder looks, but with no memory of what a folder held a moment ago."""
    name, spaces = f"{place.name}.{part}", []
    for folder in place.folders:
        inner = os.path.join(folder, part)
        if os.path.isfile(file := os.path.join(inner, "__init__.py")):
            return _Place(name, file, (inner,))
        if os.path.isfile(file := f"{inner}.py"):
            return _Place(name, file, ())
        if os.path.isdir(inner):
            spaces.append(inner)
    return _Place(name, None, tuple(spaces)) if spaces else None


def _python(file: str | None) -> str | None:
    return os.path.abspath(file) if file is not None and file.endswith(".py") else None


# -- following the names ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reached:
    """All that the starts reach."""

    stamps: tuple[tuple[str, Stamp | None], ...]  # the files that were read, as they were then
    sources: Mapping[str, Source]  # by the name that records use
    definitions: Mapping[str, Mapping[str, str]]  # file -> name -> digits
    errors: tuple[str, ...]  # files that could not be read
    root: str

    @functools.cached_property
    def by_file(self) -> dict[str, Any]:
        """The files with their digests and definitions, as records keep them. Many records share it: read-only."""
        return {
            path: {"sha256": source.sha256, "definitions": dict(self.definitions.get(path, {}))}
            for path, source in sorted(self.sources.items())
        }


_remembered: dict[tuple[Start, ...], Reached] = {}


def reached(starts: tuple[Start, ...]) -> Reached:
    """What the starts reach; no definitions, if the first is not there. Remembered until one of the files changes."""
    known = _remembered.get(starts)
    if known is not None and all(stamp_of(path) == stamp for path, stamp in known.stamps):
        return known
    walk = _Walk(tuple({project_of(start.path, start.module): None for start in starts}))
    for start in starts:
        walk.follow(start)
        if not walk.definitions:
            break
    found = walk.result()
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    _remembered[starts] = found
    return found


class _Walk:
    """Everything that some names lead to. Each question is asked once, so that cycles end."""

    def __init__(self, projects: tuple[Project, ...]) -> None:
        self.projects = projects
        self.definitions: dict[str, dict[str, str]] = {}  # file, as records call it -> name -> digits
        self._todo: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._asked: set[tuple[Any, ...]] = set()
        self._places: dict[str, _Place | None] = {}
        self._files: dict[str, tuple[str, Stamp | None, Source] | None] = {}  # path -> name, stamp, summary
        self._names: set[str] = set()

    def follow(self, start: Start) -> None:
        """Reach all that one start leads to."""
        place = self._place(start.module)
        if place is None or place.file != start.path:  # another file of that name is not the one that was loaded
            place = _Place(start.module, start.path, ())
        self._ask(self._name, place, start.name, False)
        while self._todo:
            question, arguments = self._todo.pop()
            question(*arguments)

    def result(self) -> Reached:
        files = {path: file for path, file in self._files.items() if file is not None}
        digest = hashlib.sha256(_DOMAIN)
        for path, names in sorted(self.definitions.items()):
            for name, digits in sorted(names.items()):
                digest.update(f"{path}\0{name}\0{digits}\0".encode("utf-8", "backslashreplace"))
        return Reached(
            stamps=tuple((path, stamp) for path, (_, stamp, _) in files.items()),
            sources={name: source for name, _, source in files.values()},
            definitions={path: dict(sorted(names.items())) for path, names in self.definitions.items()},
            errors=tuple(f"{name}: {source.error}" for name, _, source in files.values() if source.error is not None),
            root=digest.hexdigest(),
        )

    def _ask(self, question: Callable[..., None], *arguments: Any) -> None:
        key = (question.__name__, *arguments)
        if key not in self._asked:
            self._asked.add(key)
            self._todo.append((question, arguments))

    def _name(self, place: _Place, chain: Chain, is_inside: bool) -> None:
        """A name that a module, or (not `is_inside`) somebody else, looks up in that module."""
        file = self._file(place)
        if file is None:
            return
        name, definitions = chain[0], file[2].definitions
        if name in definitions:
            if not (is_inside and definitions[name].is_import):  # else it is in the digits of what uses it
                self._reach(place, file[0], name, definitions[name])
            for target in definitions[name].targets:
                self._ask(self._import, place, target, chain[1:])
            return
        for star in file[2].stars:
            self._ask(self._import, place, star, chain)
        if not is_inside and place.folders:
            self._ask(self._module, f"{place.name}.{name}", chain[1:])
        if not is_inside and "__getattr__" in definitions:
            self._reach(place, file[0], "__getattr__", definitions["__getattr__"])

    def _reach(self, place: _Place, file: str, name: str, definition: Definition) -> None:
        known = self.definitions.setdefault(file, {})
        if name in known:
            return
        known[name] = definition.digits
        for chain in definition.uses:
            self._ask(self._name, place, chain, True)
        for target, chain in definition.imports:
            self._ask(self._import, place, target, chain)

    def _import(self, place: _Place, target: Import, chain: Chain) -> None:
        """What an import statement in a module brings, and the attributes asked of it."""
        module = target.module
        if target.level:
            around = place.package.split(".")
            around = around[: len(around) - target.level + 1]
            module = ".".join([*around, *([module] if module else [])])
        if target.name is None:
            self._ask(self._module, module, chain)
            return
        self._ask(self._module, module, (target.name, *chain))
        if module == place.name:  # `from . import sub` in a package binds the very name that it would be looked up by
            self._ask(self._module, f"{module}.{target.name}", chain)

    def _module(self, name: str, chain: Chain) -> None:
        """The attributes asked of a module; if none, it is handed around, and anything of it may be used."""
        place = self._place(name)
        if place is None:
            return
        if place.file is None:
            if chain:
                self._ask(self._module, f"{name}.{chain[0]}", chain[1:])
        elif chain:
            self._ask(self._name, place, chain, False)
        elif (file := self._file(place)) is not None:
            for inner, definition in file[2].definitions.items():
                if not definition.is_import or any(target.name is not None for target in definition.targets):
                    self._ask(self._name, place, (inner,), False)

    def _place(self, name: str) -> _Place | None:
        if name not in self._places:
            parent, _, last = name.rpartition(".")
            if not parent:
                self._places[name] = _find_top(name)
            else:
                around = self._place(parent)
                self._places[name] = _find_below(around, last) if around is not None else None
        return self._places[name]

    def _file(self, place: _Place) -> tuple[str, Stamp | None, Source] | None:
        """(what records call it, stamp, summary) of a module's file; None if it is not first-party."""
        path = place.file
        if path is None:
            return None
        if path not in self._files:
            self._files[path] = self._read(path)
        return self._files[path]

    def _read(self, path: str) -> tuple[str, Stamp | None, Source] | None:
        project = next((p for p in self.projects if p.name_of(path) is not None), None)
        if project is None:
            return None
        name = project.name_of(path) or ""
        if name in self._names:  # two projects with a file of one name
            name = f"{os.path.basename(project.folder)}/{name}"
        self._names.add(name)
        stamp = stamp_of(path)
        try:
            return name, stamp, summary_of(path, stamp or (0, 0))
        except OSError as error:
            return name, stamp, Source(sha256=None, error=error.strerror or str(error))
