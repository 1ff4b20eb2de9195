"""One schema for all files of an output.

Each shard knows its own rows alone. Where a column was null in all of one shard, or had integers alone, or a shard has
no rows, its file has another schema than its neighbours. Such files are written again, once all are there; it is rare,
and every reader of the output is spared it. What cannot be put together is an error that names shards and columns.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from marin.processing.formats.arrow_files import arrow_source, schema_of
from marin.processing.pipeline.manifest import Manifest, described_output, write_manifest
from marin.processing.pipeline.rows import conform, unify
from marin.processing.pipeline.sinks import FileSink

if TYPE_CHECKING:
    from marin.processing.pipeline.planning import Planned


def agree_on_columns(planned: "Planned", manifests: Sequence[Manifest]) -> list[Manifest]:
    """The manifests of a stage whose files all have the same columns; those that had not are written again.

    ValueError where there is no type for all values of a column, or inputs that were put together have other columns.
    """
    sink = planned.stage.sink
    schemas = [list(one.output["columns"].items()) for one in manifests]
    if not isinstance(sink, FileSink) or sink.format not in ("parquet", "arrow") or schemas[1:] == schemas[:-1]:
        return list(manifests)
    paths = [os.path.join(planned.stage.root, one.output["path"]) for one in manifests]
    common = _common(planned, manifests, paths)
    agreed = []
    for manifest, path in zip(manifests, paths, strict=True):
        if not schema_of(path, sink.format).equals(common):
            written = sink.write(path, (conform(b, common, fill=True) for b in _batches(path, sink.format)), common)
            described = described_output(planned.stage.root, manifest.output["path"], written)
            manifest = replace(manifest, output=described)
            write_manifest(planned.stage.root, manifest)
        agreed.append(manifest)
    return agreed


def _common(planned: "Planned", manifests: Sequence[Manifest], paths: Sequence[str]) -> pa.Schema:
    """The schema that holds the rows of all files: of each input first, then of all inputs."""
    assert isinstance(planned.stage.sink, FileSink)
    of_chain: dict[int, tuple[str, pa.Schema]] = {}
    for task, manifest, path in zip(planned.tasks, manifests, paths, strict=True):
        schema = schema_of(path, planned.stage.sink.format)
        if not schema.names:
            continue
        first, known = of_chain.setdefault(task.chain, (manifest.shard, schema))
        of_chain[task.chain] = (first, unify(known, schema, (first, manifest.shard), fill=True))
    if not of_chain:
        return pa.schema([])
    (first, common), *others = of_chain.values()
    for shard, schema in others:
        try:
            common = unify(common, schema, (first, shard))
        except ValueError as error:
            raise ValueError(
                f"{planned.stage.root}: data sets that were put together do not go together: {error}; give them the "
                "same columns with select or with_columns"
            ) from error
    return common


def _batches(path: str, format: str) -> Iterator[pa.RecordBatch]:
    with arrow_source(path) as source:
        if format == "parquet":
            with pq.ParquetFile(source) as file:
                yield from file.iter_batches(use_threads=False)
        else:
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
