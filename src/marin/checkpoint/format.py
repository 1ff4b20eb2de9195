"""A pytree of arrays on disk, complete or absent, and provably undamaged.

A checkpoint is a folder:

    step-00000500/
      manifest.json                      step, metadata; per array: path in the tree, shape, dtype, sha256 of each file
      arrays/params.blocks.wqkv/...      one zarr v3 array per leaf (TensorStore), named by its place in the tree

It is filled under another name, each file is flushed to disk, the manifest is written last, and the folder then gets
its name by one rename: whoever sees the name sees all of it. Loading reads each file's hash before trusting a byte.
The price is that every save and load reads all bytes once more to hash them, and that arrays are stored uncompressed
(trained weights hardly compress). Arrays are split along their first axis into chunks, so that a later reader can
fetch a part.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from marin.checkpoint.discover import (
    DELETING,
    MANIFEST,
    WRITING,
    CheckpointFolder,
    checkpoint_name,
    list_checkpoints,
)
from marin.io.atomic import fsync_directory, write_text

FORMAT = "marin-checkpoint"
VERSION = 1
_ARRAYS = "arrays"
_CHUNK_BYTES = 64 * 2**20
_THREADS = 8  # flushing and hashing files
_PART = re.compile(r"[A-Za-z0-9_\-]+")


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


def save(root: str | Path, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write `state` as the checkpoint of `step` in `root`; returns its folder. Replaces one of the same step.

    `state` is a pytree of arrays (dataclasses, dicts, tuples; keys made of letters, digits, `_` and `-`).
    `metadata` is any JSON value object. When this returns, the checkpoint has reached the disk; killed at any moment
    before, it leaves no checkpoint of this step (or the former one) and at most a folder that
    `discover.remove_leftovers` deletes.

    Raises OSError with the path where the disk is full or cannot be written; nothing is left then.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    final = root / checkpoint_name(step)
    folder = root / f"{WRITING}{final.name}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
        with _system_errors(final):
            writes = [_write_array(folder / _ARRAYS / name, array) for name, array in arrays.items()]
            for write in writes:
                write.result()
        files = _hash_files(folder, fsync=True)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "metadata": dict(metadata or {}),
            "arrays": [
                {
                    "path": name,
                    "shape": list(array.shape),
                    "dtype": array.dtype.name,
                    "files": {file: digest for file, digest in files.items() if file.startswith(f"{_ARRAYS}/{name}/")},
                }
                for name, array in arrays.items()
            ],
        }
        manifest["sha256"] = _manifest_digest(manifest)
        with _system_errors(final):
            write_text(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False))
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(fsync_directory, [directory for directory, _, _ in os.walk(folder)]))
        if final.exists():
            replaced = root / f"{DELETING}{final.name}-{secrets.token_hex(4)}"
            final.rename(replaced)
            folder.rename(final)
            shutil.rmtree(replaced)
        else:
            folder.rename(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    fsync_directory(root)
    return final


def load(path: str | Path, like: Any, prefix: str = "params", *, ignore_others: bool = False) -> Any:
    """Read the part of a checkpoint that lies under `prefix` into a pytree shaped like `like`.

    Args:
        path: folder of one checkpoint, as `latest` returns it.
        like: pytree whose leaves have `.shape` and `.dtype` (arrays, or `jax.eval_shape` of what makes them). Where a
            shape has a `.sharding`, the array is put there, whatever devices it was saved from.
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
    _verify_files(path, saved.values())
    reads = [_read_array(path / _ARRAYS / name) for name in wanted]
    leaves = [on_devices(read.result(), leaf) for read, leaf in zip(reads, wanted.values(), strict=True)]
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
    Changes nothing on disk. Cheaper than `latest` and then `load`: bytes are hashed once.
    """
    found = _newest(root, lambda path: (load(path, like, prefix), _read_manifest(path)["metadata"]))
    if found is None:
        return None
    folder, (state, metadata), rejected = found
    return Loaded(folder.path, folder.step, state, metadata, rejected)


_T = TypeVar("_T")


def _newest(root: str | Path, read: Callable[[Path], _T]) -> tuple[CheckpointFolder, _T, tuple[Path, ...]] | None:
    """The newest checkpoint that `read` does not find corrupt, what it gave, and the corrupt ones after it."""
    errors: list[CorruptCheckpointError] = []
    for folder in reversed(list_checkpoints(root)):
        try:
            content = read(folder.path)
        except CorruptCheckpointError as error:
            errors.append(error)
            continue
        for error in errors:
            message = f"{error} Passed over for the checkpoint of step {folder.step} before it."
            warnings.warn(message, CorruptCheckpointWarning, stacklevel=4)
        return folder, content, tuple(error.checkpoint for error in errors)
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
    _verify_files(path, _read_manifest(path)["arrays"])


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


def _write_array(folder: Path, array: np.ndarray) -> ts.WriteFutures:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "context": {"file_io_sync": False},  # `_hash_files` flushes each file once, when it is whole
        # a chunk of zeros is written too: every file in the manifest exists
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": list(array.shape),
            "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": _chunk_shape(array)}},
            # files c.0.1 instead of folders c/0/1: each folder would be one more thing to flush
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        },
    }
    if array.dtype.itemsize == 1:
        spec["metadata"]["codecs"] = [{"name": "bytes"}]
    return ts.open(spec, create=True).result().write(array)


def _chunk_shape(array: np.ndarray) -> list[int]:
    """The whole array, or as many rows of its first axis as stay within the chunk size."""
    shape = [max(1, extent) for extent in array.shape]
    if shape:
        row_bytes = math.prod(shape[1:]) * array.dtype.itemsize
        shape[0] = max(1, min(shape[0], _CHUNK_BYTES // row_bytes))
    return shape


def _read_array(folder: Path) -> ts.Future:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return ts.open(spec, open=True).result().read()


def on_devices(array: np.ndarray, like: Any) -> jax.Array:
    """The array where `like` has its sharding, or on the default device."""
    # copied, since a jax array that borrows numpy's memory could not be donated to a training step
    copied = jnp.array(array)
    sharding = like.sharding if isinstance(like, jax.ShapeDtypeStruct) else None
    return copied if sharding is None else jax.device_put(copied, sharding)


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


def _verify_files(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    expected = {file: digest for entry in entries for file, digest in entry["files"].items()}

    def check(file: str) -> None:
        try:
            found = _sha256(path / file)
        except OSError as error:
            raise _corrupt(path, file, f"cannot be read ({error.strerror})") from error
        if found != expected[file]:
            raise _corrupt(path, file, f"has sha256 {found[:12]}..., expected {expected[file][:12]}...")

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(check, sorted(expected)))


def _hash_files(folder: Path, *, fsync: bool) -> dict[str, str]:
    """sha256 of each file below `folder` by relative path, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda path: _sha256(path, fsync=fsync), files))
    return {path.relative_to(folder).as_posix(): digest for path, digest in zip(files, digests, strict=True)}


def _sha256(path: Path, *, fsync: bool = False) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if fsync:
            os.fsync(file.fileno())
    return digest


def _corrupt(path: Path, file: str, problem: str) -> CorruptCheckpointError:
    message = f"checkpoint {path} is corrupt: file '{file}' {problem}."
    return CorruptCheckpointError(message, checkpoint=path, file=file)


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses inside is raised as an OSError with its number and `path`.

    TensorStore raises ValueError for everything, and only its text holds the number. Where a later TensorStore writes
    it another way, its own error passes.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except ValueError as error:
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
