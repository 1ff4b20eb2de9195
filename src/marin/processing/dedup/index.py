"""What later documents are compared with: a folder that a run writes and a later one goes on from.

    index.json                       the method and how many documents and shards each generation has
    generation-000/
        shard-00000/documents.arrow  id and source of every document, read at any row without the rest
        shard-00000/...              what the method keeps of them, such as signatures
        leaders/part-00000.npy       hash and place of the documents that later ones are compared with, sorted
        removed/shard-00000.npy      which of them a later one is not removed for

A run with an index writes one more generation beside those that it had, so an index is whole by itself. The files of
before are linked, not copied, where the disk allows.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from marin.io.atomic import write_text

INDEX_FILE = "index.json"
DOCUMENTS = pa.schema([("id", pa.large_string()), ("source", pa.large_string())])


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The documents of one run."""

    num_documents: tuple[int, ...]  # of each shard


@dataclass(frozen=True, kw_only=True)
class Index:
    """Generations of documents under one folder."""

    root: str
    method: dict[str, Any]  # what was done to them, as canonical values; equal or not comparable
    generations: tuple[Generation, ...]

    def folder(self, generation: int) -> Path:
        return Path(self.root) / f"generation-{generation:03d}"

    def shard(self, generation: int, shard: int) -> Path:
        return self.folder(generation) / f"shard-{shard:05d}"

    def leaders(self, generation: int) -> list[Path]:
        return sorted((self.folder(generation) / "leaders").glob("part-*.npy"))

    def removed(self, generation: int, shard: int) -> Path:
        return self.folder(generation) / "removed" / f"shard-{shard:05d}.npy"

    def documents(self, generation: int, shard: int) -> pa.Table:
        """id and source of a shard's documents, mapped into memory."""
        return read_documents(self.shard(generation, shard) / "documents.arrow")

    def write(self) -> None:
        """Write index.json: from now on the folder is an index."""
        value = {"method": self.method, "generations": [asdict(generation) for generation in self.generations]}
        write_text(Path(self.root) / INDEX_FILE, json.dumps(value, indent=2, sort_keys=True) + "\n")


def open_index(path: str | Path, method: dict[str, Any]) -> Index:
    """The index in a folder. ValueError where it was made by another method."""
    root = Path(path)
    value = json.loads((root / INDEX_FILE).read_text(encoding="utf-8"))
    if value["method"] != method:
        names = sorted(value["method"].keys() | method.keys())
        different = [
            f"{name}: {value['method'].get(name)!r} there, {method.get(name)!r} here"
            for name in names
            if value["method"].get(name) != method.get(name)
        ]
        raise ValueError(
            f"the index at {root} was made otherwise ({'; '.join(different)}). Use its settings, or make it anew."
        )
    generations = tuple(Generation(num_documents=tuple(g["num_documents"])) for g in value["generations"])
    return Index(root=str(root), method=method, generations=generations)


def continue_index(root: Path, method: dict[str, Any], earlier_path: str | None) -> Index:
    """An index in `root` that begins with the generations of the one at `earlier_path`, if any. Not yet written."""
    root.mkdir(parents=True, exist_ok=True)
    if earlier_path is None:
        return Index(root=str(root), method=method, generations=())
    earlier = open_index(earlier_path, method)
    for generation in range(len(earlier.generations)):
        target = root / earlier.folder(generation).name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(earlier.folder(generation), target, copy_function=_link_or_copy)
    return Index(root=str(root), method=method, generations=earlier.generations)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_documents(path: Path, ids: list[str], sources: list[str]) -> None:
    """Write id and source of a shard's documents, to be mapped into memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": ids, "source": sources}, schema=DOCUMENTS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, DOCUMENTS) as writer:
        writer.write_table(table.combine_chunks())


def read_documents(path: Path) -> pa.Table:
    """What `write_documents` wrote, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


REMOVED = np.dtype([("row", "<u4"), ("canonical", "<u8"), ("similarity", "<f4")])
