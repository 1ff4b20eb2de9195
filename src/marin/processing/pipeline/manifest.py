"""What is written down of a finished shard, and when a shard counts as done.

A shard is done when its manifest has the key of the plan (operations, inputs with size and time, format of the output)
and its output is there with the size that the manifest says; `verify` hashes it too. Nothing else counts: no marker
file, no count of tasks. So a deleted output, a changed input and a changed operation are all noticed.

    <output>/part-00000-of-00010.parquet
    <output>/_done/<stage>/part-00000-of-00010.json
    <output>/_bad/<stage>/part-00000-of-00010.jsonl      where there are bad rows
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from marin.io.atomic import make_folder, write_text
from marin.processing.formats.finished import DONE_FOLDER
from marin.processing.pipeline import counts as counting
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.sinks import sha256_of_output, size_of_output

FORMAT_VERSION = 1
BAD_FOLDER = "_bad"
WORK_FOLDER = "_work"  # what passes between stages


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished shard."""

    stage: str
    shard: str
    key: str
    inputs: list[dict[str, Any]]
    operations: list[Counts]  # the first is the reading
    output: dict[str, Any]  # path below the output folder, rows, bytes, sha256, columns, details
    timing: dict[str, Any]  # cpu_s, by operation too, and host: what depends on the machine

    @property
    def rows_read(self) -> int:
        return self.operations[0].rows_in

    @property
    def num_bad(self) -> int:
        return sum(operation.num_bad for operation in self.operations)


def manifest_path(root: str, stage: str, shard: str) -> str:
    """Where the manifest of a shard is."""
    return os.path.join(root, DONE_FOLDER, stage, f"{shard}.json")


def bad_path(root: str, stage: str, shard: str) -> str:
    """Where the bad rows of a shard are."""
    return os.path.join(root, BAD_FOLDER, stage, f"{shard}.jsonl")


def write_manifest(root: str, manifest: Manifest) -> None:
    """Publish it; with it the shard is done."""
    path = manifest_path(root, manifest.stage, manifest.shard)
    make_folder(os.path.dirname(path))
    value = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    value["operations"] = [counting.to_json(one) for one in manifest.operations]
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_manifest(root: str, stage: str, shard: str) -> Manifest | None:
    """The manifest of a shard, None where there is none that can be read."""
    try:
        with open(manifest_path(root, stage, shard), encoding="utf-8") as file:
            return parse_manifest(json.load(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, damaged or of another version: the shard is made again


def parse_manifest(value: Mapping[str, Any]) -> Manifest:
    """What `write_manifest` wrote. ValueError for another version of it."""
    fields = dict(value)
    if fields.pop("format_version") != FORMAT_VERSION:
        raise ValueError(f"a manifest of format {value['format_version']}, not {FORMAT_VERSION}")
    fields["operations"] = [counting.from_json(one) for one in fields["operations"]]
    return Manifest(**fields)


def is_done(root: str, manifest: Manifest | None, key: str, *, verify: bool = False) -> bool:
    """Whether the shard of a manifest need not be made again."""
    if manifest is None or manifest.key != key:
        return False
    path = os.path.join(root, manifest.output["path"])
    try:
        if size_of_output(path) != manifest.output["bytes"]:
            return False
        return not verify or sha256_of_output(path) == manifest.output["sha256"]
    except OSError:
        return False
