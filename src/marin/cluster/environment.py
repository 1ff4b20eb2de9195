"""An environment of its own for a step: packages installed once, beside those of the runner, and kept.

A step may need packages that the runner must not have, or other versions of those it has. `prepare_environment` makes a
virtual environment for the requirements and returns its interpreter, for `JobRequest.python`. What is installed there
comes first on the path and is complete, dependencies included; behind it come the packages of the running environment,
so that marin and everything else a step needs is there without being installed again.

An environment is identified by what it is made from, is built in a folder that nobody else uses, and exists when a
small file names that folder: half of one is never used, however its builder ended. What this costs: requirements
without a version are resolved once and then stay, packages that the runner has are installed a second time if a
requirement depends on them, and a package of the environment may not go with one of the runner that was built against
another version.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marin.cluster.job import Entrypoint, JobRequest, JobResult
from marin.cluster.local import LocalCluster
from marin.io.atomic import write_text

if TYPE_CHECKING:
    import threading

_FORMAT = "environment-v1"  # raise it when an environment is made in another way
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LAST_LINES = 20
_LOOK_AGAIN_S = 0.1
_STOP_GRACE_S = 5.0


class InstallError(RuntimeError):
    """The installer failed; the message has its command, its last lines and where the rest is."""


def prepare_environment(
    groups: Sequence[str],
    *,
    project: str | os.PathLike[str] | None,
    on_output: Callable[[bytes], None] | None = None,
    stop: "threading.Event | None" = None,
) -> str:
    """The interpreter of an environment with `groups` installed; built if it is not there.

    Each of `groups` names an extra or a dependency group (PEP 735) of the pyproject.toml in the folder `project` (see
    `find_project`), or is a requirement with a version, like "lm-eval==0.4.13". Pins of the project's requirements.lock
    hold, except for packages that a requirement in `groups` names itself.

    It is installed by uv if the running environment or the path has it, else by pip (MARIN_INSTALLER=pip or uv
    chooses), with the settings that the user gave the installer: index, offline, cache. `on_output` gets what it
    prints. Blocks for as long as that takes, or while another process builds the same; `stop` ends it.

    Raises ValueError for a name that the project does not have, InstallError if the installer fails, and
    concurrent.futures.CancelledError after `stop`.
    """
    recipe = _recipe(groups, None if project is None else os.path.abspath(project))
    home = _home()
    if python := _ready(home, recipe.digest):
        return python
    os.makedirs(home, exist_ok=True)
    say = on_output or (lambda _: None)
    with _only_builder(f"{home}/{recipe.digest}.lock", say, stop):
        # the one that was waited for has built it
        return _ready(home, recipe.digest) or _build(home, recipe, say, stop)


def find_project(start: str | os.PathLike[str] | None = None) -> str | None:
    """The nearest folder with a pyproject.toml at or above `start`: by default the folder of the running script."""
    if start is None:
        script = getattr(sys.modules["__main__"], "__file__", None)
        start = os.path.dirname(os.path.abspath(script)) if script else os.getcwd()
    here = os.path.abspath(start)
    while not os.path.isfile(os.path.join(here, "pyproject.toml")):
        above = os.path.dirname(here)
        if above == here:
            return None
        here = above
    return here


def requirements_of(groups: Sequence[str], *, project: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """The requirements that `groups` stand for, each once, in order.

    Quick, and ValueError says what is unknown and what there is: for a plan, to find mistakes before anything runs.
    """
    if isinstance(groups, str):
        raise TypeError(f"pip_dependency_groups: expected a list, got {groups!r}; write [{groups!r}]")
    project = None if project is None else os.path.abspath(project)
    named = _Groups.of(project)
    found: list[str] = []
    for group in groups:
        if not isinstance(group, str):
            raise TypeError(f"pip_dependency_groups: expected names and requirements as text, got {group!r}")
        text = group.strip()
        if text.startswith("-"):
            raise ValueError(
                f"pip_dependency_groups: {text!r} is an option of an installer; an index or a proxy is set where the "
                "installer looks for its settings (UV_DEFAULT_INDEX, PIP_INDEX_URL, or their files)"
            )
        if _NAME.fullmatch(text):
            found += named.requirements(text)
        elif (name := _NAME.match(text)) and re.match(r"\s*(\[|[<>=!~]=?|@|;|\()", text[name.end() :]):
            found.append(text)
        else:
            raise ValueError(f"pip_dependency_groups: {text!r} is neither a name nor a requirement like 'numpy==2.2.0'")
    return tuple(dict.fromkeys(found))


def installed_packages(python: str) -> dict[str, str]:
    """Versions by name of what an interpreter from `prepare_environment` has of its own, for a record."""
    folder = os.path.dirname(os.path.dirname(python))
    digest, _, _ = os.path.basename(folder).partition("-")
    with open(os.path.join(os.path.dirname(folder), f"{digest}.json"), encoding="utf-8") as file:
        return json.load(file)["installed"]


# -- what is asked for ------------------------------------------------------------------------------------------------


def _normal(name: str) -> str:
    """A package's or group's name in the one form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """The extras and dependency groups of one pyproject.toml."""

    where: str  # that file, for messages; or why there is none
    project_name: str = ""  # its [project] name, normalized
    extras: Mapping[str, list[str]] = field(default_factory=dict)  # [project.optional-dependencies]
    groups: Mapping[str, list[Any]] = field(default_factory=dict)  # [dependency-groups]

    @staticmethod
    def of(project: str | None) -> "_Groups":
        import tomllib

        if project is None:
            return _Groups(where="no pyproject.toml: there is none in the script's folder or above")
        path = os.path.join(project, "pyproject.toml")
        try:
            with open(path, "rb") as file:
                content = tomllib.load(file)
        except FileNotFoundError:
            return _Groups(where=f"no pyproject.toml in {project}")
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
        about = content.get("project", {})
        return _Groups(
            where=path,
            project_name=_normal(about.get("name", "")),
            extras={_normal(name): items for name, items in about.get("optional-dependencies", {}).items()},
            groups={_normal(name): items for name, items in content.get("dependency-groups", {}).items()},
        )

    def requirements(self, name: str, inside: tuple[str, ...] = ()) -> list[str]:
        """Those of the extra and of the group of this name."""
        key = _normal(name)
        if key in inside:
            raise ValueError(f"{self.where}: groups include each other: {' -> '.join((*inside, key))}")
        if key not in self.extras and key not in self.groups:
            raise ValueError(self._unknown(name, inside))
        found = []
        for item in (*self.extras.get(key, ()), *self.groups.get(key, ())):
            if isinstance(item, dict) and list(item) == ["include-group"]:
                found += self.requirements(item["include-group"], (*inside, key))
            elif not isinstance(item, str):
                raise ValueError(f"{self.where}: group '{name}' has {item!r}; expected a requirement or include-group")
            elif own := self._own_extras(item):  # "marin[train]" inside marin: those extras, not marin itself
                for extra in own:
                    found += self.requirements(extra, (*inside, key))
            else:
                found.append(item.strip())
        return found

    def _own_extras(self, requirement: str) -> list[str]:
        match = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*\[([^\]]*)\]\s*", requirement)
        if match is None or _normal(match[1]) != self.project_name:
            return []
        return [extra.strip() for extra in match[2].split(",") if extra.strip()]

    def _unknown(self, name: str, inside: tuple[str, ...]) -> str:
        import difflib

        known = sorted({*self.extras, *self.groups})
        where = f"{self.where}: group '{inside[-1]}' includes" if inside else "pip_dependency_groups:"
        near = difflib.get_close_matches(_normal(name), known, n=3)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        there = f"{self.where} has {', '.join(known)}" if known else f"{self.where}"
        return (
            f"{where} '{name}' is no extra and no dependency group{hint} {there}. A package is given with its version, "
            f"like '{name}==1.0'"
        )


# -- what it is made from ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """All that an environment is made from."""

    digest: str  # of everything else here, and of this Python
    requirements: tuple[str, ...]  # what to install, in order
    pins: tuple[str, ...]  # entries of the lock that hold, each in one line with its hashes
    parents: tuple[str, ...]  # folders of the running environment's packages


def _recipe(groups: Sequence[str], project: str | None) -> _Recipe:
    requirements = requirements_of(groups, project=project)
    if not requirements:
        raise ValueError(f"pip_dependency_groups: {list(groups)!r} names nothing to install")
    free = {_normal(match[0]) for group in groups if not _NAME.fullmatch(group) and (match := _NAME.match(group))}
    pins = tuple(entry for name, entry in _lock_entries(project) if name not in free)
    parents = _site_folders()
    made_from = {
        "format": _FORMAT,
        "python": [sys.implementation.name, sys.version, sysconfig.get_platform(), _base_python()],
        "requirements": sorted(requirements),
        "pins": pins,
        "parents": parents,
    }
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return _Recipe(digest=digest, requirements=requirements, pins=pins, parents=parents)


def _base_python() -> str:
    # a link to it is what a virtual environment is
    return getattr(sys, "_base_executable", None) or sys.executable


def _site_folders() -> tuple[str, ...]:
    """Where the running environment keeps its packages."""
    import site

    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return tuple(folder for folder in folders if os.path.isdir(folder))


def _lock_entries(project: str | None) -> Iterator[tuple[str, str]]:
    """(normalized name, "name==version ; marker --hash=...") of each entry of the project's requirements.lock."""
    if project is None:
        return
    try:
        with open(os.path.join(project, "requirements.lock"), encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return
    for line in text.replace("\\\n", " ").splitlines():
        if name := _NAME.match(line):
            yield _normal(name[0]), " ".join(line.split())


def _home() -> str:
    """The folder of all environments."""
    cache = os.environ.get("MARIN_CACHE")
    if not cache:
        cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "marin")
    return os.path.join(os.path.abspath(cache), "environments")


# -- the folder -------------------------------------------------------------------------------------------------------
#
# environments/<digest>.json          which folder it is and what is in it: written last, and only this makes it exist
#              <digest>-<random>/     the virtual environment
#              <digest>.log           what the installer printed
#              <digest>.constraints   the pins that held
#              <digest>.lock          locked by its builder


def _ready(home: str, digest: str) -> str | None:
    """The environment's interpreter, or None if it has to be built."""
    try:
        with open(f"{home}/{digest}.json", encoding="utf-8") as file:
            python = f"{home}/{json.load(file)['folder']}/bin/python"
    except FileNotFoundError:
        return None
    return python if os.path.exists(python) else None  # somebody made room, or removed the Python it links to


@contextlib.contextmanager
def _only_builder(path: str, say: Callable[[bytes], None], stop: "threading.Event | None") -> Iterator[None]:
    """Inside, no other process and no other thread builds the same environment. A dead one holds nothing."""
    import fcntl

    with open(path, "a+b", buffering=0) as file:
        is_told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_told:
                    file.seek(0)
                    say(b"waiting for process %s, which builds the same environment\n" % (file.read() or b"?"))
                    is_told = True
                _check(stop)
                time.sleep(_LOOK_AGAIN_S)
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process forked by another thread may still have the file open


def _check(stop: "threading.Event | None") -> None:
    if stop is not None and stop.is_set():
        from concurrent.futures import CancelledError

        raise CancelledError("asked to stop before the environment was built")


def _build(home: str, recipe: _Recipe, say: Callable[[bytes], None], stop: "threading.Event | None") -> str:
    """Make the environment and publish it; its interpreter. The caller holds the lock."""
    import venv

    started = time.monotonic()
    for folder in glob.glob(f"{glob.escape(home)}/{recipe.digest}-*"):  # of builders that died
        shutil.rmtree(folder, ignore_errors=True)
    folder = f"{home}/{recipe.digest}-{os.urandom(4).hex()}"
    python = f"{folder}/bin/python"
    packages = sysconfig.get_path("purelib", "venv", {"base": folder, "platbase": folder})
    say(f"building an environment with {', '.join(recipe.requirements)} in {folder}\n".encode())
    try:
        venv.EnvBuilder(symlinks=True).create(folder)
        command = _install_command(home, recipe, python)
        _install(command, recipe, log_path=f"{home}/{recipe.digest}.log", say=say, stop=stop)
        # After the installer: it must not take the runner's packages for this environment's. addsitedir, not the mere
        # folder: it minds the .pth files there, which editable installations are made of.
        lines = [f"import site; site.addsitedir({ascii(parent)})\n" for parent in recipe.parents]
        write_text(f"{packages}/marin_parent.pth", "".join(lines), fsync=False)
        os.sync()  # a power cut must not leave half of what the next file says is there
        record = {
            "format": 1,
            "folder": os.path.basename(folder),
            "requirements": recipe.requirements,
            "installed": _installed(packages),
            "parents": recipe.parents,
            "command": command,
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "wall_s": round(time.monotonic() - started, 3),
        }
        write_text(f"{home}/{recipe.digest}.json", json.dumps(record, indent=1) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def _installed(packages: str) -> dict[str, str]:
    from importlib.metadata import distributions

    return dict(sorted((d.metadata["Name"], d.version) for d in distributions(path=[packages])))


def _install_command(home: str, recipe: _Recipe, python: str) -> list[str]:
    installer = os.environ.get("MARIN_INSTALLER", "")
    if installer not in ("", "uv", "pip"):
        raise ValueError(f"MARIN_INSTALLER={installer!r}: expected 'uv' or 'pip'")
    uv = None
    if installer != "pip":
        beside = os.path.join(os.path.dirname(sys.executable), "uv")
        uv = beside if os.access(beside, os.X_OK) else shutil.which("uv")
        if uv is None and installer == "uv":
            raise InstallError("MARIN_INSTALLER=uv, and neither the running environment nor the path has uv")
    if uv is not None:
        command = [uv, "pip", "install", "--python", python]
        if sys.dont_write_bytecode:  # else the first job that imports a module compiles it, for all
            command.append("--compile-bytecode")
    else:
        import importlib.util

        if importlib.util.find_spec("pip") is None:
            raise InstallError(
                f"nothing to install with: {sys.executable} has neither uv nor pip, and the path has no uv. "
                "Install one of them"
            )
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-input"]
    if recipe.pins:
        # pip would ask for the hash of everything if one had one
        pins = recipe.pins if uv is not None else [pin.partition(" --hash=")[0] for pin in recipe.pins]
        constraints = f"{home}/{recipe.digest}.constraints"
        write_text(constraints, "".join(f"{pin}\n" for pin in pins), fsync=False)
        command += ["--constraint", constraints]
    return [*command, *recipe.requirements]


def _install(
    command: list[str],
    recipe: _Recipe,
    *,
    log_path: str,
    say: Callable[[bytes], None],
    stop: "threading.Event | None",
) -> None:
    """Run the installer as a job: it ends with this process, and leaves nothing running."""
    import shlex

    with contextlib.suppress(FileNotFoundError):
        os.unlink(log_path)
    # What PYTHONPATH shows is not installed here, and in a virtual environment there is no user's folder.
    env = {"PYTHONPATH": "", "PIP_USER": "0"}
    entrypoint = Entrypoint.from_binary(command[0], tuple(command[1:]))
    job = LocalCluster().launch(
        JobRequest(name="environment", entrypoint=entrypoint, env=env, log_path=log_path), on_output=say
    )
    result: JobResult | None = None
    try:
        while result is None:
            result = job.wait(None if stop is None else _LOOK_AGAIN_S)
            if result is None:
                _check(stop)
    except BaseException:
        job.cancel(_STOP_GRACE_S)
        job.wait()
        raise
    if result.error is None:
        return
    with open(log_path, encoding="utf-8", errors="replace") as file:
        last = file.read().rstrip().split("\n")[-_LAST_LINES:]
    pins = ""
    if recipe.pins:
        pins = (
            f"\nThe {len(recipe.pins)} pins of requirements.lock held. If one is in the way, give its package with the "
            "version you want among the pip_dependency_groups"
        )
    raise InstallError(
        f"cannot install {', '.join(recipe.requirements)}: {result.error.message}\n"
        + "".join(f"    {line}\n" for line in last)
        + f"command: {shlex.join(command)}\nlog: {log_path}{pins}"
    )
