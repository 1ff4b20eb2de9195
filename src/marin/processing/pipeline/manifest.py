"""What is written down of a finished shard, and when a shard counts as done.

A shard is done when its manifest has the key of the plan (operations, inputs with size and time, format of the output)
and its output is there with the size that the manifest says, in a store also with the version; `verify` hashes it too.
Nothing else counts: no marker file, no count of tasks. So a deleted output, a changed input and a changed operation are
all noticed.

    <output>/part-00000-of-00010.parquet
    <output>/_done/<stage>/part-00000-of-00010.json
    <output>/_bad/<stage>/part-00000-of-00010.jsonl      where there are bad rows
"""

import bisect
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from marin.io.files import FileInfo, each, is_remote, make_folder, read_bytes, tree, write_text
from marin.io.objects import RemoteError
from marin.processing.formats.finished import BAD_FOLDER, DONE_FOLDER
from marin.processing.pipeline import counts as counting
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.sinks import Written, files_of_output, sha256_of_output

FORMAT_VERSION = 1
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


def described_output(root: str, path: str, written: Written) -> dict[str, Any]:
    """What a manifest says of the output at `path` below the root, which has just been written."""
    described = {"path": path, **asdict(written)}
    if is_remote(root):
        described["version"] = _version_of(files_of_output(os.path.join(root, path)))
    return described


def _version_of(files: Mapping[str, FileInfo]) -> str:
    """What a store calls the content of an output."""
    return " ".join(f"{name}{info.version}" for name, info in sorted(files.items()))


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
        return parse_manifest(json.loads(read_bytes(manifest_path(root, stage, shard))))
    except RemoteError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, damaged or of another version: the shard is made again


def parse_manifest(value: Mapping[str, Any]) -> Manifest:
    """What `write_manifest` wrote. ValueError for another version of it."""
    fields = dict(value)
    if fields.pop("format_version") != FORMAT_VERSION:
        raise ValueError(f"a manifest of format {value['format_version']}, not {FORMAT_VERSION}")
    fields["operations"] = [counting.from_json(one) for one in fields["operations"]]
    return Manifest(**fields)


class Survey:
    """What is in an output folder, looked at once: its files, and the manifests, which are read unless they are given.

    A lock keeps other runs from a folder of a disk. In a store there is none, so a manifest has the version that the
    store gave the output: what another run, of another machine, has put in its place is noticed.
    """

    def __init__(self, root: str, manifests: Iterable[Manifest] | None = None):
        self.root = root
        self.files = dict(tree(root))
        # by (stage, shard); None: cannot be read
        self.manifests: dict[tuple[str, str], Manifest | None]
        if manifests is not None:
            self.manifests = {(one.stage, one.shard): one for one in manifests}
            return
        inside = DONE_FOLDER + os.sep
        paths = [name[len(inside) :] for name in self.files if name.startswith(inside) and name.endswith(".json")]
        names = [(stage, shard.removesuffix(".json")) for stage, _, shard in (path.partition(os.sep) for path in paths)]
        found = each(lambda name: read_manifest(root, *name), names, where=root)
        self.manifests = dict(zip(names, found, strict=True))

    def is_done(self, stage: str, shard: str, key: str, *, verify: bool = False) -> bool:
        """Whether a shard need not be made again: it has the key, and its output is what the manifest says."""
        manifest = self.manifests.get((stage, shard))
        if manifest is None or manifest.key != key:
            return False
        output = manifest.output
        if not (files := self._files_of(output["path"])):
            return False
        if sum(info.size for info in files.values()) != output["bytes"]:
            return False
        if is_remote(self.root) and _version_of(files) != output.get("version"):
            return False
        return not verify or sha256_of_output(os.path.join(self.root, output["path"])) == output["sha256"]

    def _files_of(self, path: str) -> dict[str, FileInfo]:
        if path in self.files:
            return {"": self.files[path]}
        inside = path + os.sep
        return {name[len(inside) :]: info for name, info in self._below(inside)}

    def _below(self, folder: str) -> Iterator[tuple[str, FileInfo]]:
        start = bisect.bisect_left(self._names, folder)
        for name in itertools.takewhile(lambda name: name.startswith(folder), self._names[start:]):
            yield name, self.files[name]

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self.files)
