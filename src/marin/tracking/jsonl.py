"""One JSON object a line beside the run's output: `{"step": 12, "train/loss": 3.4}`.

Each row is handed to the operating system as it comes, so that `tail -f` works and only a crash of the machine can lose
it; `flush` makes rows survive that too. A run that resumes says from which step: rows of later steps were written by
work that is now done again, and are cut off first. So if the writer flushes before each checkpoint, no row is ever
lost or doubled, and two runs with equal numbers leave equal bytes. The price is one write call a row.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marin.io.atomic import fsync_directory
from marin.tracking.tracker import Value


class JsonlTracker:
    """Appends rows to a file, beginning after the rows of `resume_step`."""

    def __init__(self, path: str | Path, *, resume_step: int | None = None) -> None:
        """Open `path`, made if absent.

        With `resume_step` rows of steps up to it stay and all after are removed, a half-written last one too. With
        None the file starts empty.
        """
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "ab")  # noqa: SIM115 - lives as long as the tracker
        self._num_bytes = 0 if resume_step is None else end_of_step(self._path, resume_step)
        self._file.truncate(self._num_bytes)
        fsync_directory(self._path.parent)  # a flush of rows must not be lost with the file's name

    @property
    def num_bytes(self) -> int:
        """Length of the file with all rows taken so far."""
        return self._num_bytes

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Append a row; ValueError for a number JSON cannot hold (nan, infinity)."""
        self.log_json(step, values)

    def log_json(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a row whose values may be lists and mappings, as no other tracker takes them."""
        try:
            row = json.dumps({"step": step, **values}, allow_nan=False)
        except ValueError as error:
            raise ValueError(
                f"{self._path}: row of step {step} has a number JSON cannot hold: {dict(values)}"
            ) from error
        self._num_bytes += self._file.write(row.encode() + b"\n")
        self._file.flush()

    def flush(self) -> None:
        """Return when all rows are on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush, and close the file."""
        self.flush()
        self._file.close()


def read_rows(path: str | Path) -> list[dict[str, Value]]:
    """All whole rows of a file that `JsonlTracker` wrote; a half-written last line is left out."""
    content = Path(path).read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def end_of_step(path: str | Path, step: int) -> int:
    """Bytes of `path` up to the last row whose step is at most `step`; rows are in order of steps. 0 for no file."""
    path = Path(path)
    end = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        if not line.endswith(b"\n"):
            break
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: the line at byte {end} is not a row with a step: {line[:80]!r}. Something else wrote into "
                "the file; repair that line or remove the output folder to train anew."
            ) from error
        end += len(line)
    return end
