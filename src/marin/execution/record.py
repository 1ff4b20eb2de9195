"""What is written down about a step and about a run, as JSON that can be read without this package.

A step's record sits in its register and never changes once committed. A run's record (`.exec/runs/<run_id>/`) says
what was asked, planned and done, failures too; it decides nothing and nobody waits for it, so its writes are not
flushed to the disk one by one.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from marin.execution.canonical_text import input_entries
from marin.io.hashing import sha256_file

if TYPE_CHECKING:
    from marin.execution.store import Store

_LOCK_FILES = ("uv.lock", "requirements.lock", "pylock.toml")
# An untracked file above this size enters the hash of a dirty tree by its size only: it is data, not code.
_MAX_UNTRACKED_BYTES = 1 << 20


def utc(seconds: float | None = None) -> str:
    """A moment (seconds since the epoch; None: now) as 2026-01-31T23:59:59Z."""
    return _utc(int(time.time() if seconds is None else seconds))


@functools.lru_cache(maxsize=64)
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def new_run_id() -> str:
    """A name for a run that sorts by time and that no other run has."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"


def script_directory() -> str:
    """The folder of the running script; the working directory if there is none, or if it is a command of marin's."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    # `marin adopt` lies where marin was installed, which tells nothing about the project that it is typed in
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.getcwd() if _is_installed(path, folder) or f"{folder}/".startswith(f"{package}/") else folder


def _is_installed(path: str | None, folder: str) -> bool:
    if path is None or path.endswith(".py"):  # an experiment
        return False
    import sysconfig

    return folder in (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))


def _git(folder: str, *args: str) -> bytes | None:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", folder, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def git_state(folder: str) -> dict[str, str | None] | None:
    """{commit, dirty_sha256, root} of the git checkout that holds `folder`, or None if none does.

    `dirty_sha256` is None for a clean checkout, else the SHA-256 over the difference to the commit and over the
    untracked files that git does not ignore: equal digests mean equal code.
    """
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--no-renames", "-z")
    entries = (status or b"").split(b"\0")
    commit = next((e.removeprefix(_COMMIT).decode() for e in entries if e.startswith(_COMMIT)), "(initial)")
    root = _checkout_around(folder)
    if commit == "(initial)" or root is None:
        return None
    untracked = [entry[2:] for entry in entries if entry.startswith(b"? ")]
    is_changed = any(entry[:2] in (b"1 ", b"u ") for entry in entries)
    difference = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color") if is_changed else None
    digest = hashlib.sha256(difference or b"")
    for name in sorted(untracked):
        path = os.path.join(root, os.fsdecode(name))
        try:
            size = os.lstat(path).st_size
            content = sha256_file(path)[1] if size <= _MAX_UNTRACKED_BYTES and os.path.isfile(path) else str(size)
        except OSError:
            continue
        digest.update(b"\0" + name + b"\0" + content.encode())
    dirty = bool(difference or untracked)
    return {"commit": commit, "dirty_sha256": digest.hexdigest() if dirty else None, "root": root}


_COMMIT = b"# branch.oid "


def _checkout_around(folder: str) -> str | None:
    """The checkout that holds a folder; git is asked only where it lies elsewhere than its files."""
    above = os.path.realpath(folder)
    while not os.path.exists(f"{above}/.git"):
        if above == os.path.dirname(above):
            told = _git(folder, "rev-parse", "--show-toplevel")
            return os.fsdecode(told).rstrip("\n") if told else None
        above = os.path.dirname(above)
    return above


def surroundings() -> dict[str, Any]:
    """Interpreter, platform, code and lock file of this process, as records keep them."""
    folder, system = script_directory(), os.uname()
    git = git_state(folder)
    root = git["root"] if git and git["root"] else folder
    lock = next((p for p in (os.path.join(root, name) for name in _LOCK_FILES) if os.path.isfile(p)), None)
    return {
        "python": sys.version.split()[0],
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "cpu_count": os.cpu_count(),
        "argv": list(sys.argv),
        "git": {"commit": git["commit"], "dirty_sha256": git["dirty_sha256"]} if git else None,
        "lock_file": os.path.basename(lock) if lock else None,
        "lock_sha256": sha256_file(lock)[1] if lock else None,
        "packages_sha256": hashlib.sha256(json.dumps(installed_packages()).encode()).hexdigest(),
    }


@functools.cache
def installed_packages() -> dict[str, str]:
    """Version by name of the packages that this process can import, in order of their names.

    Told by the names of their `.dist-info` folders: reading what is in them takes hundreds of times as long.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                stem, end = os.path.splitext(name)
                if end == ".dist-info" and "-" in stem:
                    package, _, version = stem.partition("-")
                    found.setdefault(package, version)  # the first on the path is the one that is imported
    return dict(sorted(found.items()))


def readable(value: Any) -> Any:
    """`value` as plain JSON values, for people to read: what has no such form is shown by its name or `repr`."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is tuple or kind is list:
        return [readable(v) for v in value]
    if isinstance(value, bool | int | str):
        return value.name if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)  # infinities and NaN have no place in JSON
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: readable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else repr(k): readable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [readable(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((readable(v) for v in value), key=repr)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value)


def inputs_of(canonical: str, digests: Sequence[str], pseudo: Sequence[str]) -> list[tuple[str, str | None, bool]]:
    """(digest, path inside the input or None, pseudo) for every way in which a recipe uses another step's output.

    `canonical` is the recipe's canonical JSON, `digests` and `pseudo` its blocking and non-blocking inputs.
    """
    if '"sub":"' not in canonical:  # each only as a whole, as most are
        whole: list[tuple[str, str | None, bool]] = [(digest, None, False) for digest in digests]
        return whole + [(digest, None, True) for digest in pseudo]
    found: dict[tuple[str, str | None, bool], None] = {}
    if '"$dep"' in canonical:
        for entry in input_entries(json.loads(canonical).get("config")):
            is_pseudo, index = bool(entry.get("pseudo")), int(entry["$dep"])
            found[(pseudo if is_pseudo else digests)[index], entry.get("sub") or None, is_pseudo] = None
    named = {(digest, is_pseudo) for digest, _, is_pseudo in found}
    for of, is_pseudo in ((digests, False), (pseudo, True)):
        for digest in of:
            if (digest, is_pseudo) not in named:
                found[digest, None, is_pseudo] = None
    order = {digest: i for i, digest in enumerate((*digests, *pseudo))}
    return sorted(found, key=lambda use: (use[2], order[use[0]], use[1] or ""))


def script_and_settings(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """(the experiment's file, its --set values) of a command line, so that the run can be planned again."""
    script = next((word for word in argv if word.endswith(".py")), None)
    settings = [word.partition("=")[2] for word in argv if word.startswith("--set=")]
    settings += [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--set"]
    return (os.path.abspath(script) if script else None), settings


class RunRecord:
    """The record of one run: `run.json`, replaced whole at start and end, and `events.jsonl`, a line per event."""

    def __init__(
        self,
        store: "Store",
        folder: str,
        header: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """`on_event` is called with every event, one at a time."""
        self.folder = folder
        self._store = store
        self._header = dict(header)
        self._on_event = on_event
        self._mutex = threading.Lock()
        self._started = time.monotonic()
        self._log = store.open_log(f"{folder}/events.jsonl")

    @property
    def run_id(self) -> str:
        return self._header["run_id"]

    def write(self, **fields: Any) -> None:
        """Add fields to the record and write it."""
        with self._mutex:
            self._header.update(fields)
            self._store.put(f"{self.folder}/run.json", json.dumps(self._header).encode() + b"\n", durable=False)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event. A disk that is full must not stop a run over its diary."""
        event = {"time": utc(), "elapsed_s": round(time.monotonic() - self._started, 3), "event": kind, **fields}
        with self._mutex:
            with contextlib.suppress(OSError, ValueError):
                self._log.write(json.dumps(event).encode() + b"\n")
            if self._on_event is not None:
                self._on_event(event)

    def asked_to_stop(self) -> int:
        """How urgently somebody asked this run to stop: 0 not at all, 1 in an orderly way, 2 at once."""
        data = self._store.get(cancellation_path(self.folder))
        if data is None:
            return 0
        with contextlib.suppress(ValueError):
            return 2 if json.loads(data).get("now") else 1
        return 1

    def close(self) -> None:
        with self._mutex, contextlib.suppress(OSError):
            self._log.close()


def cancellation_path(run_folder: str) -> str:
    """The file in a run's folder that asks the run to stop."""
    return f"{run_folder}/cancel.json"


def command_line() -> str:
    """This process's command, as one could type it."""
    return shlex.join([os.path.basename(sys.executable), *sys.argv])
