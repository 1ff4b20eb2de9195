"""A pytree of arrays on disk, complete or absent, and provably undamaged.

A checkpoint is a folder:

    step-00000500/
      manifest.json                    step, metadata; per array: path in the tree, shape, dtype, and its shards: where
                                       each lies in which file, with the sha256 of its bytes, piece by piece
      process-00000.safetensors        the shards that process 0 wrote; one file a process

It is filled under another name. Each process writes its file, flushes it, and then says by a small file of its own that
it has; when all have, process 0 writes the manifest and gives the folder its name by one rename: whoever sees the name
sees all of it. Loading verifies the hash of every piece before trusting a byte of it, and a process reads just those
pieces that its devices need, whatever mesh and however many processes wrote them. `CheckpointWriter` does the writing
in a thread, from a copy of the state.

The price: all bytes are hashed once when they are written and once when they are read; arrays are stored uncompressed
(trained weights hardly compress); and with several processes the folder must be on a disk that all of them see. Why
this and not zarr arrays or another library's checkpoints: docs/decisions/0006-checkpoint-format.md.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from marin.checkpoint.discover import (
    DELETING,
    MANIFEST,
    WRITING,
    CheckpointFolder,
    checkpoint_name,
    list_checkpoints,
)
from marin.checkpoint.shards import (
    ShardReader,
    Snapshot,
    WrongBytes,
    overlap,
    take_snapshot,
    within,
    write_shards,
)
from marin.distributed.mesh import Region, regions_here
from marin.distributed.processes import said_by_first, true_everywhere
from marin.io.atomic import fsync_directory, write_text

FORMAT = "marin-checkpoint"
VERSION = 2
_PART = re.compile(r"[A-Za-z0-9_\-]+")
_LONGEST_POLL_S = 0.5  # between two looks at whether the other processes are done


class CorruptCheckpointError(ValueError):
    """A checkpoint on disk is not what was written. The message names the file and what to do."""

    def __init__(self, message: str, *, checkpoint: str | Path, file: str) -> None:
        super().__init__(message)
        self.checkpoint = Path(checkpoint)
        self.file = file


class CorruptCheckpointWarning(UserWarning):
    """A corrupt checkpoint was passed over for one before it."""


class Loaded(NamedTuple):
    """What `load_latest` found."""

    path: Path
    """The checkpoint's folder."""
    step: int
    """Updates done when it was saved."""
    state: Any
    """The pytree asked for."""
    metadata: dict[str, Any]
    """What the writer put beside it."""
    rejected: tuple[Path, ...] = ()
    """Folders of later checkpoints that are corrupt, newest first. Who goes on writing here puts them aside first."""


# -- writing ----------------------------------------------------------------------------------------------------------


def save(root: str | Path, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write `state` as the checkpoint of `step` in `root`; returns its folder. Replaces one of the same step.

    `state` is a pytree of arrays (dataclasses, dicts, tuples; keys made of letters, digits, `_` and `-`).
    `metadata` is any JSON value object. When this returns, the checkpoint has reached the disk; killed at any moment
    before, it leaves no checkpoint of this step (or the former one) and at most a folder that
    `discover.remove_leftovers` deletes.

    Of several processes all call it, and it returns in each when its own part is written, in the first one when the
    checkpoint is complete.

    Raises OSError with the path where the disk is full or cannot be written; nothing is left then.
    """
    with CheckpointWriter(root) as writer:
        writer.save(step, state, metadata)
    return Path(root) / checkpoint_name(step)


class CheckpointWriter:
    """Writes checkpoints into a folder, one at a time, in a thread, while the caller goes on.

    A save that fails is raised by whatever is called next. Memory for one copy of the state is taken from `save` until
    it is written. Of several processes each has a writer, and all call `save` for the same steps.
    """

    blocked_s: float
    """Seconds that the last `save` kept the caller: for the one before to be written, and for the copy."""
    write_s: float | None
    """Seconds that the last written checkpoint took to be written; None before the first."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._token = said_by_first(secrets.token_hex(4))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_abandoned = threading.Event()
        self.blocked_s, self.write_s = 0.0, None

    def save(
        self,
        step: int,
        state: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        when_saved: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin to write the checkpoint of `step`; see the function `save`. Returns when the state may be changed.

        `when_saved` is called in the thread of the first process when the checkpoint is complete.
        """
        began = time.perf_counter()
        self.wait()
        snapshot = take_snapshot(named_leaves(state))
        self._thread = threading.Thread(
            target=self._write,
            args=(step, snapshot, dict(metadata or {}), when_saved),
            name="marin-checkpoint",
            daemon=True,  # whoever leaves without waiting leaves what the next start clears away
        )
        self._thread.start()
        self.blocked_s = time.perf_counter() - began

    @property
    def is_writing(self) -> bool:
        """Whether the last checkpoint is on its way still."""
        return self._thread is not None and self._thread.is_alive()

    def raise_failure(self) -> None:
        """Raise what went wrong with a save, if that is known already."""
        if not self.is_writing:
            self.wait()

    def newest(self) -> Path | None:
        """Folder of the newest checkpoint, when none is on its way any more; None where there is none.

        What went wrong with the last one is left to the other methods.
        """
        if self._thread is not None:
            self._thread.join()
        saved = list_checkpoints(self._root)
        return saved[-1].path if saved else None

    def wait(self) -> None:
        """Return when what was begun is written, by this process at least; raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Write what was begun, but wait for no other process: this one has failed, and the others will."""
        self._is_abandoned.set()
        self.wait()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Complete what was begun, unless a person wants to stop at once; an error that passes stays the one to see."""
        if error is None:
            self.wait()
            return
        if isinstance(error, KeyboardInterrupt):
            return
        try:
            self.close()
        except Exception as second:
            error.add_note(f"And the checkpoint that was being written failed: {second}")

    def _write(self, step: int, snapshot: Snapshot, metadata: dict[str, Any], when_saved: Callable[[], object]) -> None:
        try:
            began = time.perf_counter()
            write = _Write(self._root, step, self._token, self._is_abandoned)
            if write.run(snapshot, metadata):
                when_saved()
            self.write_s = time.perf_counter() - began
        except BaseException as error:  # whatever it is, it belongs to the caller
            self._error = error


class _Write:
    """One checkpoint on its way to the disk."""

    def __init__(self, root: Path, step: int, token: str, is_abandoned: threading.Event) -> None:
        self._root, self._step, self._is_abandoned = root, step, is_abandoned
        self._final = root / checkpoint_name(step)
        self._folder = root / f"{WRITING}{self._final.name}-{token}"
        self._process, self._num_processes = jax.process_index(), jax.process_count()

    def run(self, snapshot: Snapshot, metadata: Mapping[str, Any]) -> bool:
        """Whether this process has completed the checkpoint."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with _system_errors(self._final):
                file = f"process-{self._process:05d}.safetensors"
                described = write_shards(self._folder / file, snapshot.shards)
                if self._process:
                    fsync_directory(self._folder)
                    write_text(self._note(self._process), json.dumps({"file": file, **described}))
                    return False
                parts = {file: described}
                if self._num_processes > 1:
                    parts |= self._await_others()
                manifest = _manifest(self._step, metadata, snapshot.arrays, parts)
                write_text(self._folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False))
                self._publish()
        except BaseException as error:
            if self._process:
                with contextlib.suppress(OSError):
                    write_text(self._note(self._process), json.dumps({"error": f"{type(error).__name__}: {error}"}))
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return True

    def _note(self, process: int) -> Path:
        return self._folder / f"process-{process:05d}.json"

    def _await_others(self) -> dict[str, Any]:
        """What each other process wrote, by file, once it has; the notes are deleted."""
        parts = {}
        for process in range(1, self._num_processes):
            path, pause_s = self._note(process), 0.01
            while not path.exists():
                if self._is_abandoned.wait(pause_s):
                    raise RuntimeError(
                        f"{self._final.name} was given up: the run ended before process {process} had written its part"
                    )
                pause_s = min(2 * pause_s, _LONGEST_POLL_S)
            part = json.loads(path.read_bytes())
            if "error" in part:
                raise OSError(f"process {process} could not write its part of {self._final}: {part['error']}")
            parts[part.pop("file")] = part
            path.unlink()
        return parts

    def _publish(self) -> None:
        fsync_directory(self._folder)
        if self._final.exists():
            replaced = self._root / f"{DELETING}{self._final.name}-{secrets.token_hex(4)}"
            self._final.rename(replaced)
            self._folder.rename(self._final)
            shutil.rmtree(replaced)
        else:
            self._folder.rename(self._final)
        fsync_directory(self._root)


def _manifest(
    step: int, metadata: Mapping[str, Any], arrays: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    shards: dict[str, list[dict[str, Any]]] = {name: [] for name in arrays}
    for file, part in parts.items():
        for shard in part["shards"]:
            about = {key: value for key, value in shard.items() if key != "array"}
            shards[shard["array"]].append({"file": file, **about})
    for name, (shape, _) in arrays.items():
        written = sum(int(np.prod(shard["shape"])) for shard in shards[name])
        assert written == int(np.prod(shape)), f"{name}: {written} elements written of {shape}"
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "metadata": dict(metadata),
        "files": {file: {key: value for key, value in part.items() if key != "shards"} for file, part in parts.items()},
        "arrays": [
            {"path": name, "shape": list(shape), "dtype": dtype, "shards": shards[name]}
            for name, (shape, dtype) in arrays.items()
        ],
    }
    manifest["sha256"] = _manifest_digest(manifest)
    return manifest


# -- reading ----------------------------------------------------------------------------------------------------------


def load(path: str | Path, like: Any, prefix: str = "params", *, ignore_others: bool = False) -> Any:
    """Read the part of a checkpoint that lies under `prefix` into a pytree shaped like `like`.

    Args:
        path: folder of one checkpoint, as `latest` returns it.
        like: pytree whose leaves have `.shape` and `.dtype` (arrays, or `jax.eval_shape` of what makes them). Where a
            shape has a `.sharding`, the array is put there, whatever devices it was saved from, and only what the
            devices of this process need is read.
        prefix: dotted place in the saved tree; "" is the whole of it.
        ignore_others: take what `like` has and leave the rest of that part unread.

    Returns:
        A pytree with the structure of `like` and jax arrays as leaves, bit for bit what was saved.

    Raises:
        CorruptCheckpointError: a file of this part (or the manifest) is missing or its bytes changed.
        ValueError: the saved part has other leaves, shapes or dtypes than `like`.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    saved = {entry["path"]: entry for entry in manifest["arrays"]}
    if prefix:
        saved = {name: entry for name, entry in saved.items() if name == prefix or name.startswith(f"{prefix}.")}
    wanted = named_leaves(like, prefix)
    if ignore_others:
        saved = {name: entry for name, entry in saved.items() if name in wanted}
    _check_same_leaves(path, wanted, saved)
    with ShardReader(path) as reader:
        for file in _files(path, manifest, saved.values()):
            with _corruption(path, file):
                reader.check_file(file, manifest["files"][file])
        leaves = [_read_leaf(path, reader, saved[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def latest(root: str | Path) -> Path | None:
    """Folder of the newest checkpoint in `root` that is undamaged; None where there is no checkpoint at all.

    Reads every byte of it to know. Warns (`CorruptCheckpointWarning`) for each newer one that is damaged; raises
    CorruptCheckpointError where all are.
    """
    found = _newest(root, lambda path: verify(path))
    return None if found is None else found[0].path


def load_latest(root: str | Path, like: Any, prefix: str = "") -> Loaded | None:
    """`load` of the newest checkpoint in `root` that is undamaged; None where there is no checkpoint at all.

    Warns (`CorruptCheckpointWarning`) for each newer one that is damaged; raises CorruptCheckpointError where all are.
    Changes nothing on disk. Cheaper than `latest` and then `load`: bytes are hashed once. Of several processes all call
    it and get the same checkpoint: one that is damaged for any of them is damaged for all.
    """
    found = _newest(root, lambda path: (load(path, like, prefix), _read_manifest(path)["metadata"]))
    if found is None:
        return None
    folder, (state, metadata), rejected = found
    return Loaded(folder.path, folder.step, state, metadata, rejected)


_T = TypeVar("_T")


def _newest(root: str | Path, read: Callable[[Path], _T]) -> tuple[CheckpointFolder, _T, tuple[Path, ...]] | None:
    """The newest checkpoint that `read` finds corrupt in no process, what it gave, and the corrupt ones after it."""
    errors: list[CorruptCheckpointError] = []
    for step in said_by_first([folder.step for folder in reversed(list_checkpoints(root))]):
        folder = CheckpointFolder(step=step, path=Path(root) / checkpoint_name(step))
        content, error = None, None
        try:
            content = read(folder.path)
        except CorruptCheckpointError as corrupt:
            error = corrupt
        if not true_everywhere(error is None):
            errors.append(error or _corrupt(folder.path, "(one of them)", "is damaged where another process reads it"))
            continue
        for error in errors:
            message = f"{error} Passed over for the checkpoint of step {folder.step} before it."
            warnings.warn(message, CorruptCheckpointWarning, stacklevel=4)
        return folder, content, tuple(error.checkpoint for error in errors)  # type: ignore[return-value]
    if not errors:
        return None
    raise CorruptCheckpointError(
        f"no checkpoint in {root} can be loaded:\n"
        + "\n".join(f"  {error}" for error in errors)
        + f"\nRestore one of them from a copy, or delete the folder {root} to start anew.",
        checkpoint=errors[0].checkpoint,
        file=errors[0].file,
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """`{"step": updates done, **metadata}` of the checkpoint in folder `path`."""
    manifest = _read_manifest(Path(path))
    return {**manifest["metadata"], "step": manifest["step"]}


def verify(path: str | Path) -> None:
    """Read every byte of the checkpoint in folder `path`; raises CorruptCheckpointError at the first wrong file."""
    path = Path(path)
    manifest = _read_manifest(path)
    with ShardReader(path) as reader:
        for file, described in manifest["files"].items():
            with _corruption(path, file):
                reader.check_file(file, described)
        for entry in manifest["arrays"]:
            for shard in entry["shards"]:
                with _corruption(path, shard["file"], entry["path"]):
                    reader.read_rows(shard, np.dtype(entry["dtype"]), 0, _num_rows(shard))


def _read_leaf(path: Path, reader: ShardReader, entry: Mapping[str, Any], like: Any) -> jax.Array:
    """An array, on the devices that `like` names."""
    shape = tuple(entry["shape"])
    sharding = like.sharding if isinstance(like, jax.ShapeDtypeStruct) else None
    # copied, since a jax array that borrows numpy's memory could not be donated to a training step
    if sharding is None:
        whole = tuple((0, size) for size in shape)
        return jnp.array(_read_regions(path, reader, entry, {whole})[whole])
    regions = regions_here(sharding, shape)
    blocks = _read_regions(path, reader, entry, set(regions.values()))
    arrays = [jax.device_put(blocks[region], device, may_alias=False) for device, region in regions.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _read_regions(
    path: Path, reader: ShardReader, entry: Mapping[str, Any], regions: set[Region]
) -> dict[Region, np.ndarray]:
    """The elements of an array in each of these regions. Of each saved shard only the rows that these need are read."""
    dtype = np.dtype(entry["dtype"])
    blocks = {region: np.empty([end - first for first, end in region], dtype) for region in regions}
    for shard in entry["shards"]:
        offset = shard["offset"]
        whole = tuple((o, o + size) for o, size in zip(offset, shard["shape"], strict=True))
        common = {region: both for region in regions if (both := overlap(region, whole)) is not None}
        if not common:
            continue
        first, end = 0, 1
        if whole:
            first = min(both[0][0] for both in common.values()) - offset[0]
            end = max(both[0][1] for both in common.values()) - offset[0]
        with _corruption(path, shard["file"], entry["path"]):
            rows = reader.read_rows(shard, dtype, first, end)
        if regions == {whole}:
            return {whole: rows}  # spared a copy
        origin = [offset[0] + first, *offset[1:]] if whole else []
        for region, both in common.items():
            blocks[region][within(both, [first for first, _ in region])] = rows[within(both, origin)]
    return blocks


def _num_rows(shard: Mapping[str, Any]) -> int:
    return shard["shape"][0] if shard["shape"] else 1


def _files(path: Path, manifest: Mapping[str, Any], entries: Any) -> list[str]:
    """Those that hold any of these arrays."""
    needed = {shard["file"] for entry in entries for shard in entry["shards"]}
    return [file for file in manifest["files"] if file in needed]


def saved_arrays(path: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each array of the checkpoint in folder `path`, by its dotted place; no array is read."""
    manifest = _read_manifest(Path(path))
    return {
        entry["path"]: jax.ShapeDtypeStruct(tuple(entry["shape"]), np.dtype(entry["dtype"]))
        for entry in manifest["arrays"]
    }


def manifest_digest(path: str | Path) -> str:
    """The sha256 that the manifest of the checkpoint in folder `path` has of itself: equal digests, equal bytes."""
    return _manifest_digest(_read_manifest(Path(path)))


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a pytree by the dotted path under which a checkpoint holds them, in the tree's own order."""
    named = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [_key_text(key) for key in keys]
        bad = [part for part in parts if not _PART.fullmatch(part)]
        if bad:
            raise ValueError(
                f"cannot name leaf {jax.tree_util.keystr(keys)} on disk: key {bad[0]!r} has characters other than "
                "letters, digits, '_' and '-'. Rename the key."
            )
        name = ".".join(([prefix] if prefix else []) + parts)
        if not name:
            raise ValueError("a checkpoint's state needs named leaves: pass {'name': array} instead of a bare array")
        named[name] = leaf
    return named


def _key_text(key: Any) -> str:
    """`attr`, `key` or `3` of one step of a jax key path."""
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise ValueError(f"cannot name a leaf below pytree key {key!r}: register the node type with keys")


def _check_same_leaves(path: Path, wanted: Mapping[str, Any], saved: Mapping[str, Mapping[str, Any]]) -> None:
    missing = sorted(set(wanted) - set(saved))
    unexpected = sorted(set(saved) - set(wanted))
    if missing or unexpected:
        raise ValueError(
            f"checkpoint {path} holds another model or optimizer: "
            f"it lacks {_some(missing)} and has beyond what is asked for {_some(unexpected)}. "
            "Load it with the config it was trained with (config.yaml beside the checkpoints)."
        )
    for name, leaf in wanted.items():
        given = (tuple(saved[name]["shape"]), saved[name]["dtype"])
        expected = (tuple(leaf.shape), np.dtype(leaf.dtype).name)
        if given != expected:
            raise ValueError(
                f"checkpoint {path}: array '{name}' has shape {given[0]} and dtype {given[1]}, expected {expected[0]} "
                f"and {expected[1]}. Load it with the config it was trained with (config.yaml beside the checkpoints)."
            )


def _some(names: list[str]) -> str:
    """At most four names, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(f"'{name}'" for name in names[:4]) + more


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        digest = manifest.pop("sha256")
    except FileNotFoundError:
        raise _corrupt(path, MANIFEST, "is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _corrupt(path, MANIFEST, f"cannot be read ({error})") from error
    if _manifest_digest(manifest) != digest:
        raise _corrupt(path, MANIFEST, "does not match its own sha256")
    if manifest["format"] != FORMAT or manifest["version"] != VERSION:
        raise ValueError(
            f"checkpoint {path} has format {manifest['format']!r} version {manifest['version']!r}, this marin reads "
            f"{FORMAT!r} version {VERSION}. Use the marin version named in its record."
        )
    return manifest


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _corrupt(path: Path, file: str, problem: str) -> CorruptCheckpointError:
    message = f"checkpoint {path} is corrupt: file '{file}' {problem}."
    return CorruptCheckpointError(message, checkpoint=path, file=file)


@contextlib.contextmanager
def _corruption(path: Path, file: str, array: str | None = None) -> Iterator[None]:
    """What is wrong with a file, inside, is raised as CorruptCheckpointError; `array` is what is read of it."""
    try:
        yield
    except WrongBytes as error:
        raise _corrupt(path, file, f"{error}" if array is None else f"{error} (array '{array}')") from error
    except OSError as error:
        raise _corrupt(path, file, f"cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """An OSError of the system inside that names no file is raised with `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
