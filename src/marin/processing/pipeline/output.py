"""The folder that a run writes to: one run at a time, nothing of another plan in it, no files of others touched."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from marin.io.atomic import append, make_folder
from marin.processing.formats.finished import DONE_FOLDER, FUNNEL
from marin.processing.pipeline.manifest import BAD_FOLDER, bad_path, manifest_path, read_manifest
from marin.processing.pipeline.sinks import ENDINGS
from marin.processing.pipeline.stage import output_path

if TYPE_CHECKING:
    from marin.processing.pipeline.planning import Planned

TIMING = "_timing.json"
ATTEMPTS = "attempts.jsonl"
_LOCK = "lock"
_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.tmp$")
_SHOWN = 5


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
    """Inside, this run alone works on the folder. ValueError where another one does, on this machine."""
    make_folder(os.path.join(root, DONE_FOLDER))
    with open(os.path.join(root, DONE_FOLDER, _LOCK), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{root}: another run is writing there: wait for it, or end it") from error
        yield


def remove_leftovers(root: str) -> None:
    """Remove the temporary files and folders of workers that were killed. Nobody may be writing."""
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            if _LEFTOVER.search(name):
                _remove(os.path.join(folder, name))
        folders[:] = [name for name in folders if not _LEFTOVER.search(name)]


def prepare(root: str, stages: Sequence["Planned"]) -> None:
    """Remove what a killed run left half done, and what was made by another plan.

    ValueError where the folder has data files that no run has made: they would be read as part of the result.
    """
    expected = {(one.stage.name, task.name): (task, one.stage) for one in stages for task in one.tasks}
    outputs = {output_path(one.stage, task) for one in stages for task in one.tasks}
    removed = 0
    for stage, shard in list(_manifests(root)):
        manifest = read_manifest(root, stage, shard)
        if (stage, shard) in expected and manifest is not None:
            continue  # a changed key is seen when the shard is asked for
        path = None if manifest is None else manifest.output["path"]
        if path is not None and path not in outputs:
            _remove(os.path.join(root, path))
            removed += 1
        for file in (manifest_path(root, stage, shard), bad_path(root, stage, shard)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
    if removed:
        print(f"{root}: removed {removed} outputs of an earlier, different plan", file=sys.stderr)
    remove_leftovers(root)
    strangers = []
    for path in _files(root):
        name = os.path.relpath(path, root)
        is_data = name.endswith(tuple(ENDINGS.values()))
        if is_data and name not in outputs and os.path.dirname(name) not in outputs and not _is_ours(name):
            strangers.append(name)
    if strangers:
        shown = ", ".join(sorted(strangers)[:_SHOWN])
        raise ValueError(
            f"{root} holds {len(strangers)} data files that this engine has not made ({shown}); they would be taken "
            "for part of the result: write to another folder, or move them away"
        )


def unfinish(root: str) -> None:
    """Take away what says that the output is complete, for it will not be for a while."""
    for name in (FUNNEL, TIMING):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(root, name))


def _remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _is_ours(name: str) -> bool:
    return name.split(os.sep)[0][0] in "._"


def _manifests(root: str) -> Iterator[tuple[str, str]]:
    folder = os.path.join(root, DONE_FOLDER)
    for path in _files(folder):
        stage, _, shard = os.path.relpath(path, folder).partition(os.sep)
        if shard.endswith(".json"):
            yield stage, shard.removesuffix(".json")


def _files(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.join(folder, name)


def log_attempt(root: str, stage: str, shard: str) -> None:
    """Note that work on a shard begins; for people, and for tests that nothing is done twice."""
    line = json.dumps({"stage": stage, "shard": shard})
    append(os.path.join(root, DONE_FOLDER, ATTEMPTS), line.encode() + b"\n")


def remove_empty_folders(root: str) -> None:
    """Remove the folders of bad rows where there are none."""
    for folder, _, _ in os.walk(os.path.join(root, BAD_FOLDER), topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
