"""What measured the signals that stand beside documents: a file in their folder, so that none is taken for another's.

A column's name does not say by which list, codec or idea of a word it was measured. So `measure_signals` writes for
each column what its operation was, and filtering takes a column of a file instead of measuring it only where that is
what it would do itself.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marin.io.atomic import write_text
from marin.processing.formats.splits import find_files
from marin.processing.pipeline.identity import identity_of

if TYPE_CHECKING:
    from marin.processing.filter.filters import Operation

MEASURED_FILE = "_measured.json"


def made_by(operation: "Operation", column: str) -> Any:
    """What decides a column's values beside the documents, as JSON values.

    An operation of many columns has `of_column(name)`: the least of it that gives the same values of that one.
    """
    of_column = getattr(operation, "of_column", None)
    return identity_of(of_column(column) if of_column else operation)


def write_measured(folder: str, operations: Iterable[Any]) -> None:
    """Note in a folder of signals what measured each column; the operations are those that add some."""
    columns = {column: made_by(operation, column) for operation in operations for column in operation.adds()}
    write_text(Path(folder) / MEASURED_FILE, json.dumps(columns, indent=1, sort_keys=True) + "\n")


def forget_measured(folder: str) -> None:
    """Take the note away, for a while in which files of two measurements may lie there."""
    (Path(folder) / MEASURED_FILE).unlink(missing_ok=True)


def read_measured(attributes: str) -> dict[str, Any]:
    """Column -> what measured it, of a folder, glob or file of attributes; empty where nothing is noted.

    The note is that of the nearest folder above the first file.
    """
    _, first = find_files(attributes)[0]
    for folder in Path(os.path.abspath(first)).parents:
        if (folder / MEASURED_FILE).is_file():
            return json.loads((folder / MEASURED_FILE).read_text(encoding="utf-8"))
    return {}
