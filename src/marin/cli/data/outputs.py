"""Where a command may write: apart from what it reads, for what stands beside documents is read as documents.

And what it says of rows that it could not use.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from marin.cli.output import UsageError, note

if TYPE_CHECKING:
    from marin.processing.pipeline.result import Result


def check_output(output: str, inputs: Iterable[str]) -> None:
    """UsageError where the output is an input, lies in one, or has one in it; to be called before anything is written.

    Args:
        output: A file or folder that is written.
        inputs: Files, folders and globs that are read.
    """
    from marin.io.files import address, real_path

    out = real_path(address(output))
    for given in inputs:
        for path in _meant(given):
            place = real_path(address(path))
            if place == out:
                how = "is also what is read"
            elif out.startswith(place.rstrip(os.sep) + os.sep):
                how = f"lies in {path}, which is read: what is written would be read the next time"
            elif place.startswith(out.rstrip(os.sep) + os.sep):
                how = f"has {path} in it, which is read: what is written would stand beside it"
            else:
                continue
            raise UsageError(f"OUTPUT {output} {how}. Write to another place")


def note_bad(result: "Result") -> None:
    """Say how many rows were bad, why, and where they are now; nothing if none was."""
    from marin.processing.pipeline.manifest import BAD_FOLDER

    kinds: Counter[str] = Counter()
    for operation in result.funnel:
        kinds.update(operation.bad)
    if kinds:
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        note(f"bad rows: {told}; they are in {os.path.join(result.path, BAD_FOLDER)}, each with its reason")


def _meant(given: str) -> list[str]:
    if os.path.exists(given) or not glob.has_magic(given):
        return [given]
    return glob.glob(given, recursive=True)
