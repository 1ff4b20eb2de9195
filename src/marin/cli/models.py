"""The model that a command line names: a folder, `hf://organization/name`, or the address of a step."""

import os
import re
from argparse import Namespace
from pathlib import Path

from marin.cli.experiment import prefix_of
from marin.cli.output import UsageError, note_others


def find_model(arguments: Namespace) -> tuple[str, str]:
    """(folder, name to call it by) of MODEL. UsageError where there is none."""
    from marin.export.hf_folder import hf_folder

    given = arguments.model
    if given.startswith("hf://"):
        try:
            return str(hf_folder(given)), _slug(given.removeprefix("hf://"))
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
    if os.path.isdir(given):
        below = os.path.relpath(given)
        return given, _slug(Path(given).absolute().name if below.startswith(os.pardir) else below)
    from marin.execution.catalog import AddressError, NoStoreError, find_work

    try:
        entry = find_work(prefix_of(arguments), given)
    except (NoStoreError, AddressError) as error:
        raise UsageError(f"no folder {given!r}, and {error}") from error
    note_others(entry)
    if not entry.store.is_local:
        raise UsageError(f"{entry.name} lies in {entry.store.prefix}; copy its output here and give that folder")
    folder = entry.data_path or entry.paths.root  # a run in the making has its checkpoints already
    return folder, _slug(f"{entry.name}@{entry.digest[:6]}")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.@-]+", "-", text).strip("-.") or "model"
