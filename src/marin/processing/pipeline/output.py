"""The folder that a run writes to: one run at a time, nothing of another plan in it, no files of others touched."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from marin.io.atomic import append
from marin.io.files import is_remote, lock, make_folder, remove, remove_all
from marin.processing.formats.finished import DONE_FOLDER, FUNNEL
from marin.processing.pipeline.manifest import BAD_FOLDER, Manifest, Survey, bad_path, manifest_path
from marin.processing.pipeline.sinks import ENDINGS
from marin.processing.pipeline.stage import Stage, Task, output_path

if TYPE_CHECKING:
    from marin.processing.pipeline.planning import Planned

TIMING = "_timing.json"
ATTEMPTS = "attempts.jsonl"
_LOCK = "lock"
_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.tmp$")
_SHOWN = 5


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
    """Inside, this run alone works on the folder. ValueError where another one does, on this machine.

    What a run on another machine writes into a folder of a store at the same time is noticed at the end (`confirm`).
    """
    make_folder(os.path.join(root, DONE_FOLDER))
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock(os.path.join(root, DONE_FOLDER, _LOCK)))
        except BlockingIOError as error:
            raise ValueError(f"{root}: another run is writing there: wait for it, or end it") from error
        try:
            yield
        except ValueError:  # refused before anything was made: a folder of others is left as it was
            done = os.path.join(root, DONE_FOLDER)
            if not is_remote(root) and os.listdir(done) == [_LOCK]:
                remove_all(done)
            raise


def remove_leftovers(root: str) -> None:
    """Remove the temporary files and folders of workers that were killed. Nobody may be writing."""
    if is_remote(root):
        return  # an object is there or it is not
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            if _LEFTOVER.search(name):
                remove_all(os.path.join(folder, name))
        folders[:] = [name for name in folders if not _LEFTOVER.search(name)]


def prepare(survey: Survey, stages: Sequence["Planned"]) -> None:
    """Remove what a killed run left half done, and what was made by another plan; say what will be replaced.

    ValueError where the folder has data files that no run has made: they would be read as part of the result.
    """
    root = survey.root
    expected = {(one.stage.name, task.name): (task, one.stage) for one in stages for task in one.tasks}
    outputs = {output_path(one.stage, task) for one in stages for task in one.tasks}
    stale = []
    for place, manifest in survey.manifests.items():
        path = None if manifest is None else manifest.output["path"]
        if place not in expected or path not in outputs:  # a changed key is seen when the shard is asked for
            stale.append((place, path))
    removed = [path for _, path in stale if path is not None and path not in outputs]
    if strangers := _strangers(survey, outputs | set(removed)):
        shown = ", ".join(strangers[:_SHOWN])
        raise ValueError(
            f"{root} holds {len(strangers)} data files that this engine has not made ({shown}); they would be taken "
            "for part of the result: write to another folder, or move them away"
        )
    if removed:
        unfinish(root)  # first: who reads the folder meanwhile must not take what is left for all of it
        print(f"{root}: removed {len(removed)} outputs of an earlier, different plan", file=sys.stderr)
    for (stage, shard), path in stale:
        if path is not None and path not in outputs:
            remove_all(os.path.join(root, path))
        for file in (manifest_path(root, stage, shard), bad_path(root, stage, shard)):
            remove(file)
    if others := [_why_again(expected[place][0], made) for place, made in _outdated(survey, expected)]:
        why = " and ".join(sorted(set(others)))
        print(f"{root}: {len(others)} of {len(expected)} shards there are replaced: made {why}", file=sys.stderr)
    remove_leftovers(root)


def _outdated(
    survey: Survey, expected: Mapping[tuple[str, str], tuple[Task, Stage]]
) -> list[tuple[tuple[str, str], Manifest]]:
    """The finished shards that an earlier plan has made otherwise than this one would."""
    made = [(place, manifest) for place, manifest in survey.manifests.items() if manifest is not None]
    return [(place, one) for place, one in made if place in expected and one.key != expected[place][0].key]


def _why_again(task: Task, made: Manifest) -> str:
    return "with other settings or code" if made.inputs == task.inputs() else "of other inputs"


def _strangers(survey: Survey, outputs: Collection[str]) -> list[str]:
    """The data files of a folder that are none of these outputs, nor in one."""
    return sorted(
        name
        for name in survey.files
        if name.endswith(tuple(ENDINGS.values()))
        and name not in outputs
        and os.path.dirname(name) not in outputs
        and not _is_ours(name)
    )


def confirm(planned: "Planned", manifests: Sequence[Manifest]) -> None:
    """RuntimeError where what is in a folder of a store is not what this run has made: another one writes there."""
    stage = planned.stage
    if not is_remote(stage.root):
        return  # the lock has kept others out
    root, survey = stage.root, Survey(stage.root, manifests)
    others = [task.name for task in planned.tasks if not survey.is_done(stage.name, task.name, task.key)]
    others += _strangers(survey, {output_path(stage, task) for task in planned.tasks})
    if others:
        raise RuntimeError(
            f"{root}: another run has written there meanwhile, {', '.join(others[:_SHOWN])} among others: let one run "
            "at a time write to a folder, and run this one again"
        )


def unfinish(root: str) -> None:
    """Take away what says that the output is complete, for it will not be for a while."""
    for name in (FUNNEL, TIMING):
        remove(os.path.join(root, name))


def _is_ours(name: str) -> bool:
    return name.split(os.sep)[0][0] in "._"


def log_attempt(root: str, stage: str, shard: str) -> None:
    """Note that work on a shard begins; for people, and for tests that nothing is done twice. Not in a store, where no
    file can grow."""
    if is_remote(root):
        return
    line = json.dumps({"stage": stage, "shard": shard})
    append(os.path.join(root, DONE_FOLDER, ATTEMPTS), line.encode() + b"\n")


def remove_empty_folders(root: str) -> None:
    """Remove the folders of bad rows where there are none."""
    for folder, _, _ in os.walk(os.path.join(root, BAD_FOLDER), topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
