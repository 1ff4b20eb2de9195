"""Which checkpoints lie in a folder.

A checkpoint of step 500 is the folder `step-00000500`. It exists from the moment it has that name: writers fill a
folder with another name and rename it last. So a listing never has to open a file; the price is that a checkpoint
damaged later (its manifest deleted, say) still lists, and only `load` and `verify` (which read every byte) can tell.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
WRITING = ".writing-"  # folders being filled
DELETING = ".deleting-"  # folders being removed
CORRUPT = "corrupt-"  # damaged checkpoints that were put aside
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointFolder:
    """A checkpoint on disk: complete when it was written."""

    step: int
    """Updates done when it was saved."""
    path: Path
    """Its folder."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint of a step: `step-00000500`."""
    if step < 0:
        raise ValueError(f"a checkpoint's step counts the updates done, and is 0 or more; got {step}")
    return f"step-{step:08d}"


def list_checkpoints(root: str | Path) -> list[CheckpointFolder]:
    """Checkpoints in `root`, oldest step first; empty where there is no such folder."""
    root = Path(root)
    if not root.is_dir():
        return []
    found = []
    for path in root.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append(CheckpointFolder(step=int(match.group(1)), path=path))
    return sorted(found)


def remove_checkpoint(path: str | Path) -> None:
    """Delete a checkpoint so that no reader ever meets half of it: it loses its name first."""
    path = Path(path)
    doomed = path.with_name(DELETING + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def set_aside(path: str | Path) -> Path:
    """Rename a damaged checkpoint to `corrupt-step-...`, which nothing lists; returns where it is now.

    Its bytes stay for whoever wants to know what happened. One put aside before under that name is deleted.
    """
    path = Path(path)
    aside = path.with_name(CORRUPT + path.name)
    if aside.exists():
        remove_checkpoint(aside)
    return path.rename(aside)


def remove_leftovers(root: str | Path) -> list[str]:
    """Delete what a killed writer left in `root`; the names removed. Only the one writer of `root` may call it."""
    root = Path(root)
    if not root.is_dir():
        return []
    leftovers = sorted(path for path in root.iterdir() if path.name.startswith((WRITING, DELETING)))
    for path in leftovers:
        shutil.rmtree(path)
    return [path.name for path in leftovers]
