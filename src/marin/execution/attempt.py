"""One attempt of a step, from a lease that was taken to a register that says how it ended.

Everything an attempt needs is in `Attempt`, plain values that can be sent to another machine: whoever holds the lease
can carry it out and commit it without the plan that it came from. Order of a commit: data, manifest, forward edges,
register. Only the last one makes the output exist.

On a disk the function writes straight into the attempt's folder. For a store that is not a disk it works in a scratch
folder of its machine: committed inputs are fetched there first and checked against their manifests, and what it wrote
is uploaded before the manifest. So every function runs on every store unchanged; the price is a copy, and room for it.
The copies lie as in the store, `<step>/attempts/<attempt>/`, with the registers of their steps and of all that these
read: whoever looks from an output to its record and upstream finds on scratch what it would find in a store on disk.
"""

import contextlib
import errno
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from marin.cluster.job import JobError, JobResult, error_of
from marin.cluster.retry import INTERRUPTIONS, Retry
from marin.execution.artifact import OutputError, check_output
from marin.execution.lease import Lease, LeaseLost, RegisterGone
from marin.execution.manifest import Manifest, ManifestEntry, build_manifest
from marin.execution.record import utc
from marin.execution.results import link_data
from marin.execution.scratch import hold, mirror_of
from marin.execution.status import (
    ABANDONED,
    CANCELLED,
    EXEC,
    FAILED,
    NOT_DATA,
    RUNNING,
    SUCCEEDED,
    Owner,
    State,
    StepPaths,
)
from marin.execution.store import Store
from marin.io.atomic import fsync_directory, make_folder, write_bytes
from marin.io.hashing import sha256_file

_TRANSFERS = 6  # files on their way at once
_LOOK_S = 0.25  # between two looks at whether a transfer is to stop
_STOPPED = "stopped while its inputs were fetched"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """A committed input that an attempt needs on its machine."""

    root: str  # its step's folder in the store
    data_root: str  # where it is in the store
    manifest: str  # its manifest in the store
    folder: str  # where it goes on the machine: a folder of this attempt alone, so it is fetched once


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """What to do, and what is known of it before it is done."""

    name: str  # the step's name
    digest: str  # its identity
    fn: Callable[[Any], Any] | str  # what to call
    config: Any  # with what: no placeholders in it any more
    publish: str  # "attempt" or "inplace"
    work_dir: str  # folder of this machine into which the function writes
    log_dir: str  # folder of this machine for stdout.log
    fetches: tuple[Fetch, ...]  # inputs to bring to this machine first
    edges: tuple[str, ...]  # digests of the steps whose outputs are used
    output_type: type  # what the output must be
    record: Mapping[str, Any]  # of the record: all that is known before
    started: float  # seconds since the epoch
    timeout_s: float | None = None  # the function is stopped after so long
    retry: Retry = Retry()  # whether a failure is followed by another attempt
    num_failures: int = 0  # how often the step failed in this run before
    num_preemptions: int = 0  # how often it was interrupted in this run before

    def retry_delay(self, error: JobError) -> float | None:
        """Seconds until the step is tried again after this failure; None if it is not."""
        if is_disk_full(error) or error.type in _BY_TYPE:
            return None
        is_interruption = error.kind in INTERRUPTIONS
        return self.retry.next_delay(
            error.kind, self.num_failures + (not is_interruption), self.num_preemptions + is_interruption
        )

    @property
    def log_path(self) -> str:
        """File for what the function prints."""
        return f"{self.log_dir}/stdout.log"

    @property
    def progress_path(self) -> str:
        """File in which the function says how far it is (marin.tracking.progress)."""
        return f"{self.log_dir}/progress.json"


def with_packages(attempt: Attempt, python: str) -> Attempt:
    """The attempt with a record that says which packages the environment of this interpreter has, made for it alone."""
    from marin.cluster.environment import installed_packages

    return replace(attempt, record={**attempt.record, "packages": installed_packages(python)})


def fetch_of(store: Store, paths: StepPaths, state: State) -> Fetch:
    """How the committed output of a register comes to a machine."""
    assert state.record is not None
    step = paths.root.removeprefix(f"{store.prefix}/")
    return Fetch(
        root=paths.root,
        data_root=paths.data_root(state),
        manifest=f"{paths.root}/{state.record['manifest_ref']}",
        folder=f"{mirror_of(store)}/{step}/attempts/{state.attempt}",
    )


def prepare(store: Store, attempt: Attempt, stop: threading.Event | None = None) -> None:
    """Make the attempt's folders and fetch its inputs. KeyboardInterrupt after `stop`, at once."""
    if not store.is_local:
        hold(store)
    for folder in (attempt.work_dir, attempt.log_dir):
        make_folder(os.path.dirname(folder))
        make_folder(folder)
    if attempt.fetches:
        stop = stop or threading.Event()
        for fetch in attempt.fetches:
            fetch_output(store, fetch, stop)
        _fetch_registers(store, [fetch.root for fetch in attempt.fetches], stop)


def _fetch_registers(store: Store, roots: Sequence[str], stop: threading.Event) -> None:
    """Copy the registers of steps, and of all that they read, to the mirror; each is asked for once a machine."""
    mirror = mirror_of(store)
    os.makedirs(f"{mirror}/{EXEC}/runs", exist_ok=True)  # what shows that a folder is a store
    pending, known = list(roots), set(roots)
    while pending:
        if stop.is_set():
            raise KeyboardInterrupt(_STOPPED)
        root = pending.pop()
        place = f"{mirror}/{root.removeprefix(f'{store.prefix}/')}/{EXEC}/state.json"
        # Those of direct inputs may have changed since: such a step may have run again.
        state = None if root in roots or not os.path.exists(place) else _read_copy(place)
        if state is None:
            state = store.read(root)
            if state is None:
                continue
            os.makedirs(os.path.dirname(place), exist_ok=True)
            write_bytes(place, state.to_json(), fsync=False)
        above = {f"{store.prefix}/{used['path']}" for used in (state.record or {}).get("inputs", ())}
        pending += above - known
        known |= above


def _read_copy(path: str) -> State | None:
    try:
        with open(path, "rb") as file:
            return State.from_json(file.read())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fetch_output(store: Store, fetch: Fetch, stop: threading.Event | None = None) -> str:
    """Bring a committed output to this machine, every file checked; the folder. Nothing is done if it is there.

    KeyboardInterrupt after `stop`, at once: no file that is on its way is waited for.
    """
    hold(store)
    if os.path.isdir(fetch.folder):
        return fetch.folder
    data = store.get(fetch.manifest)
    if data is None:
        raise FileNotFoundError(f"the manifest {fetch.manifest} of an input is missing")
    manifest = Manifest.from_json(data.decode())
    os.makedirs(os.path.dirname(fetch.folder), exist_ok=True)
    partial = tempfile.mkdtemp(dir=os.path.dirname(fetch.folder), prefix="partial-")
    try:
        # before all files: one that is still on its way when the folder is deleted does not bring it back
        for folder in {os.path.dirname(f"{partial}/{entry.path}") for entry in manifest.entries}:
            os.makedirs(folder, exist_ok=True)
        _transfer(
            lambda entry: _fetch_file(store, f"{fetch.data_root}/{entry.path}", f"{partial}/{entry.path}", entry),
            manifest.entries,
            stop or threading.Event(),
        )
        with contextlib.suppress(OSError):  # another step of this machine was faster
            os.rename(partial, fetch.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return fetch.folder


def _fetch_file(store: Store, path: str, local: str, entry: ManifestEntry) -> None:
    store.download(path, local)
    size, sha256 = sha256_file(local)
    if (size, sha256) != (entry.size, entry.sha256):
        raise OSError(
            f"{path} has {size:,} bytes and sha256 {sha256[:16]}..., its manifest says {entry.size:,} and "
            f"{entry.sha256[:16]}...: damaged; `marin verify --deep` tells what else is"
        )


def _transfer(
    copy: Callable[[ManifestEntry], None], entries: Sequence[ManifestEntry], stop: threading.Event | None = None
) -> None:
    """Copy files, several at a time: a small one is all waiting for the answer.

    With a `stop`, nothing waits for the files that are on their way when it is set, when Ctrl-C comes or when one
    fails: neither the caller nor, for the threads are daemons, the end of the process. Without one, no file is on its
    way any more afterwards, whatever happens: what is written into the store late could damage a later attempt's data.
    """
    waiting: queue.SimpleQueue[ManifestEntry] = queue.SimpleQueue()
    copied: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # a file each: what went wrong
    is_over = threading.Event()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not is_over.is_set():
                entry = waiting.get_nowait()
                try:
                    copy(entry)
                    copied.put(None)
                except BaseException as trouble:
                    copied.put(trouble)

    for entry in entries:
        waiting.put(entry)
    threads = [threading.Thread(target=work, name="marin-transfer", daemon=True) for _ in entries[:_TRANSFERS]]
    try:
        for thread in threads:
            thread.start()
        for _ in entries:
            if (trouble := _next(copied, stop)) is not None:
                raise trouble
    finally:
        is_over.set()
        if stop is None:
            for thread in threads:
                thread.join()


def _next(copied: "queue.SimpleQueue[BaseException | None]", stop: threading.Event | None) -> BaseException | None:
    while stop is None or not stop.is_set():
        with contextlib.suppress(queue.Empty):
            return copied.get(timeout=_LOOK_S)
    raise KeyboardInterrupt(_STOPPED)


def conclude(
    store: Store, lease: Lease, attempt: Attempt, result: JobResult, *, retry_owner: Owner | None = None
) -> tuple[State | None, JobError | None]:
    """Write down how an attempt ended: (the register's last state, why it failed).

    `retry_owner`: the run that will try it again after a failure, if that is not the holder of the lease.

    (None, None) if the step was taken over meanwhile: then nothing was written, and another attempt counts.
    """
    error = result.error
    try:
        if error is None:
            try:
                return _commit(store, lease, attempt, result), None
            except LeaseLost:
                raise
            except Exception as trouble:
                error = error_of(trouble)
        if is_disk_full(error) and attempt.publish == "attempt" and not lease.may_have_committed:
            shutil.rmtree(attempt.work_dir, ignore_errors=True)  # room for writing down that it failed
        cancelled = result.cancelled and result.error is not None
        recorded = {
            "class": error_class(error, cancelled),
            **asdict(error),
            "log": os.path.relpath(f"{lease.log_dir}/stdout.log", lease.paths.root),
            "exit": result.exit_code,
            "wall_s": round(result.wall_s, 6),
            "cpu_s": round(result.cpu_s, 6),
            "max_rss": result.max_rss,
            "ended": utc(),
        }
        delay_s = None if cancelled else attempt.retry_delay(error)
        if delay_s is not None:
            recorded |= retry_notice(delay_s, retry_owner or lease.state.owner)
        _upload_logs(store, lease, attempt)
        try:
            state = lease.end(CANCELLED if cancelled else FAILED, error=recorded)
            return state, None if state.status == SUCCEEDED else error  # its commit had taken effect after all
        except RegisterGone as trouble:
            if str(trouble) != error.message:
                error = replace(error, message=f"{error.message} (and {trouble})")
            return lease.end_without_register(error={**recorded, "class": error_class(error), **asdict(error)}), error
    except LeaseLost:
        return None, None
    except BaseException as trouble:
        # Not even the failure could be written down; the register keeps naming this run, which will be gone.
        error = error or error_of(trouble)
        return None, replace(
            error,
            message=f"{error.message} (and the register could not be changed: {trouble})",
            errno=error.errno or getattr(trouble, "errno", None),
        )


def _commit(store: Store, lease: Lease, attempt: Attempt, result: JobResult) -> State:
    paths, name = lease.paths, lease.state.attempt
    check_output(attempt.output_type, attempt.work_dir, result.value)
    manifest = build_manifest(attempt.work_dir, exclude=NOT_DATA[attempt.publish], fsync=store.fsync)
    if not store.is_local:
        if attempt.publish == "inplace":  # others' data lies in the same place
            lease.confirm()
            _delete_others(store, lease.data_root, manifest)
        _upload(store, attempt.work_dir, lease.data_root, manifest)
        _upload_logs(store, lease, attempt)
    store.put(paths.manifest(name), manifest.to_json().encode())
    if store.is_local and store.fsync:
        for folder in (os.path.dirname(lease.data_root), paths.root, os.path.dirname(paths.root)):
            fsync_directory(folder)
    for digest in attempt.edges:
        store.create(f"{store.prefix}/.exec/used_by/{digest}/{attempt.digest}", b"")
    record = {
        **attempt.record,
        "root_digest": manifest.root_digest,
        "manifest_ref": paths.manifest(name)[len(paths.root) + 1 :],
        "files": manifest.num_files,
        "bytes": manifest.num_bytes,
        "output_type": attempt.output_type.__qualname__,
        "result": result.value,
        "ended": utc(),
        "wall_s": round(result.wall_s, 6),
        "cpu_s": round(result.cpu_s, 6),
        "max_rss": result.max_rss,
        "max_rss_scope": result.max_rss_scope,
        "exit": result.exit_code,
        "attempts": earlier_attempts(store, paths) if lease.state.epoch > 1 else [],
    }
    state = lease.end(SUCCEEDED, record=record)
    if store.is_local:
        link_data(paths, state)
        if state.epoch > 1:
            with contextlib.suppress(OSError):  # it was about the output that the link showed before
                store.delete(paths.taint_script())
    else:
        shutil.rmtree(attempt.work_dir, ignore_errors=True)
    return state


def _upload(store: Store, folder: str, data_root: str, manifest: Manifest) -> None:
    for entry in manifest.entries:
        if os.path.islink(f"{folder}/{entry.path}"):
            raise OutputError(f"{entry.path} is a symbolic link, which an object store cannot hold; write a file")
    _transfer(lambda entry: store.upload(f"{folder}/{entry.path}", f"{data_root}/{entry.path}"), manifest.entries)


def _delete_others(store: Store, root: str, manifest: Manifest) -> None:
    """Delete what lies in the step's folder of the store and is not of this output: an earlier one, or a part of it."""
    own = {entry.path for entry in manifest.entries}
    for path in [path for path, _ in store.tree(root) if path not in own and path.partition("/")[0] != EXEC]:
        store.delete(f"{root}/{path}")


def _upload_logs(store: Store, lease: Lease, attempt: Attempt) -> None:
    if store.is_local or not os.path.exists(attempt.log_path):
        return
    with contextlib.suppress(OSError):  # a log that is lost must not change how the attempt ended
        store.upload(attempt.log_path, f"{lease.log_dir}/stdout.log")


def retry_notice(delay_s: float, owner: Owner) -> dict[str, Any]:
    """What the register of a failed attempt says of the next one: when it will be made, and by whom."""
    return {"retry_in_s": round(delay_s, 3), "retry_owner": asdict(owner)}


def earlier_states(store: Store, paths: StepPaths) -> list[State]:
    """The step's superseded states, oldest first."""
    found = []
    for item in store.items(paths.history_dir):
        data = store.get(f"{paths.history_dir}/{item.name}") if item.name.endswith(".json") else None
        if data is not None:
            found.append(State.from_json(data))
    return found


def earlier_attempts(store: Store, paths: StepPaths) -> list[dict[str, Any]]:
    """How earlier attempts of the step ended, for a record."""
    return [
        {
            "epoch": state.epoch,
            # a register that was superseded while it said RUNNING: its runner was gone
            "outcome": ABANDONED if state.status == RUNNING else state.status,
            "error_class": (state.error or {}).get("class"),
            "run_id": state.owner.run_id,
            "host": state.owner.host,
        }
        for state in earlier_states(store, paths)
    ]


# -- classes of failure -----------------------------------------------------------------------------------------------


def is_disk_full(error: JobError) -> bool:
    """Whether a failure is for want of room."""
    return error.errno in _DISK_FULL or "No space left on device" in error.message


def recorded_error(state: State) -> JobError:
    """The failure that a register tells of."""
    told = state.error or {}
    return JobError(
        type=told.get("type", "Error"),
        message=told.get("message", ""),
        traceback=told.get("traceback", ""),
        errno=told.get("errno"),
        kind=told.get("kind") or ("cancelled" if state.status == CANCELLED else "error"),
    )


_BY_TYPE = {"OutputError": "OUTPUT_INVALID", "Timeout": "TIMEOUT"}


def error_class(error: JobError, cancelled: bool = False) -> str:
    """The class under which a failure is recorded, and by which it is retried or not."""
    if cancelled:
        return "CANCELLED"
    if is_disk_full(error):
        return "DISK_FULL"
    if error.type in _BY_TYPE:
        return _BY_TYPE[error.type]
    return "USER_ERROR" if error.kind == "error" else error.kind.upper()
