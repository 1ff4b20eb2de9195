"""Deduplicate a folder of documents: find, report, hold to the limit, remove.

attributes/   a file beside each shard of the documents: what goes, and for what
report.json   what goes of each source
index/        what a later run compares its documents with
documents/    what is left
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from marin.config import encode
from marin.io.files import local_folder
from marin.io.hashing import sha256_file
from marin.processing.dedup import bloom, exact, minhash
from marin.processing.dedup.attributes import (
    SPAN_ATTRIBUTES,
    AttributesTask,
    SourceCounts,
    cluster_sizes,
    largest_clusters,
    source_counts,
    write_document_attributes,
    write_paragraph_attributes,
)
from marin.processing.dedup.config import (
    RECIPE_VERSION,
    BloomConfig,
    DedupConfig,
    ExactConfig,
    MinHashConfig,
    SubstringConfig,
)
from marin.processing.dedup.index import INDEX_FILE, Generation, Index, continue_index, open_index
from marin.processing.dedup.report import Report, TooMuchRemovedError
from marin.processing.dedup.sorted_records import count_records, write_array
from marin.processing.formats.splits import Split
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.bloom import BloomFilter
from marin.processing.pipeline.pool import kept_workers
from marin.processing.remove import remove_marked
from marin.processing.shards import (
    BadRows,
    begin_work,
    bytes_of,
    check_apart,
    document_shards,
    end_work,
    enough_workers,
    files_of,
    read_shard,
    run_tasks,
    total_bad,
    write_shard,
)
from marin.processing.text_column import documents_of

Task = TypeVar("Task")
Result = TypeVar("Result")

_ATTRIBUTES, _DOCUMENTS, _INDEX = "attributes", "documents", "index"
_METHODS: dict[type, Any] = {ExactConfig: exact, MinHashConfig: minhash, BloomConfig: bloom}


@kept_workers()
def dedup(config: DedupConfig) -> Report:
    """Find duplicates among documents, and write what is left.

    Raises TooMuchRemovedError, with attributes and report written and nothing removed, where a source would lose more
    of its documents than its limit.
    """
    output = local_folder(config.output_path)
    shards = document_shards(config.input_path, config.text_column)
    config = replace(config, num_workers=enough_workers(bytes_of(shards), config.num_workers))
    method = config.method
    if config.index_path is not None and output.resolve() in Path(config.index_path).resolve().parents:
        raise ValueError(f"the index at {config.index_path} is in the folder that is written to; choose another one")
    owned = (_ATTRIBUTES, _INDEX, _DOCUMENTS)
    check_apart(output, shards, owned=owned)
    if isinstance(method, SubstringConfig):
        raise NotImplementedError(
            "removing repeated substrings is not implemented here: it needs a suffix array of the whole corpus. Use "
            "ExactConfig(on='paragraph') or BloomConfig() for repeated passages, or run "
            "google-research/deduplicate-text-datasets over the documents and give the byte ranges that it reports as "
            "dedup.remove_spans."
        )
    how = _METHODS[type(method)].identity_of(method)
    identity = [RECIPE_VERSION, encode(shards), how, config.priority, _read_index(config)]
    had_documents = (output / _DOCUMENTS).exists()
    work = begin_work(output, identity, owned=owned)
    if isinstance(method, BloomConfig):
        report = _with_bloom(config, method, shards)
    elif isinstance(method, MinHashConfig):
        report = _with_minhash(config, method, shards, work)
    else:
        report = _exact(config, method, shards, work)
    report.write(output)
    try:
        report.check_limits(config)
    except TooMuchRemovedError as error:
        if had_documents and not (output / _DOCUMENTS).exists():
            raise TooMuchRemovedError(
                f"{error} {output / _DOCUMENTS} of the run before this one is gone: it is another run's result"
            ) from None
        raise
    if config.write_documents:
        report = replace(report, details=report.details | {"written": _remove(config, output)})
        report.write(output)
    end_work(output)
    return report


def _read_index(config: DedupConfig) -> dict[str, str]:
    """The index that the run begins with, by the SHA-256 of each of its files; empty where there is none."""
    if config.index_path is None:
        return {}
    path = Path(config.index_path) / INDEX_FILE
    if not path.is_file():
        raise ValueError(f"no {INDEX_FILE} in {path.parent}: give the index/ folder of an earlier run with this method")
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    return {file.relative_to(path.parent).as_posix(): sha256_file(file)[1] for file in files}


def _run(
    config: DedupConfig,
    work: Path,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    result_type: type[Result],
) -> list[Result]:
    folder = work / "tasks" / function.__name__
    return run_tasks(function, tasks, result_type, folder=folder, recipe=RECIPE_VERSION, num_workers=config.num_workers)


def _with_minhash(config: DedupConfig, method: MinHashConfig, shards: Sequence[Split], work: Path) -> Report:
    index = continue_index(Path(config.output_path) / _INDEX, minhash.identity_of(method), config.index_path)
    generation = len(index.generations)
    bands = [work / "bands" / f"shard-{shard:05d}.npy" for shard in range(len(shards))]
    sign_tasks = [
        minhash.SignTask(
            config=method,
            split=split,
            generation=generation,
            shard=shard,
            priority=config.priority,
            index_shard=str(index.shard(generation, shard)),
            bands=str(bands[shard]),
        )
        for shard, split in enumerate(shards)
    ]
    signed = _run(config, work, minhash.sign_shard, sign_tasks, minhash.Signed)
    num_documents = tuple(of_shard.num_documents for of_shard in signed)
    bad = _checked(config, num_documents, [of_shard.bad for of_shard in signed])

    earlier = [path for number in range(generation) for path in index.leaders(number)]
    num_records = count_records([*bands, *earlier])
    link_tasks = minhash.link_tasks(method, index, generation, bands, num_records, work)
    linked = _run(config, work, minhash.link_range, link_tasks, minhash.Linked)
    minhash.resolve_links([Path(t.links) for t in link_tasks], index, num_documents, len(config.priority) + 1)
    details = {
        "bad_rows": bad,
        "documents_too_short": sum(of_shard.num_too_short for of_shard in signed),
        "documents_sampled": sum(of_shard.num_sampled for of_shard in signed),
        "buckets_shared": sum(of_range.num_buckets for of_range in linked),
        "largest_bucket": max(of_range.largest for of_range in linked),
        "entries_without_room_to_lead": sum(of_range.num_without_room for of_range in linked),
    }
    return _document_report(config, index, shards, num_documents, work, details)


def _exact(config: DedupConfig, method: ExactConfig, shards: Sequence[Split], work: Path) -> Report:
    index = continue_index(Path(config.output_path) / _INDEX, exact.identity_of(method), config.index_path)
    generation = len(index.generations)
    hashes = [work / "hashes" / f"shard-{shard:05d}.npy" for shard in range(len(shards))]
    hash_tasks = [
        exact.HashTask(
            config=method,
            split=split,
            generation=generation,
            shard=shard,
            priority=config.priority,
            index_shard=str(index.shard(generation, shard)),
            hashes=str(hashes[shard]),
        )
        for shard, split in enumerate(shards)
    ]
    hashed = _run(config, work, exact.hash_shard, hash_tasks, exact.Hashed)
    num_documents = tuple(of_shard.num_documents for of_shard in hashed)
    details = {"bad_rows": _checked(config, num_documents, [of_shard.bad for of_shard in hashed])}
    earlier = [path for number in range(generation) for path in index.leaders(number)]
    merge_tasks = exact.merge_tasks(index, generation, hashes, count_records([*hashes, *earlier]), work)
    _run(config, work, exact.merge_range, merge_tasks, int)
    duplicates = tuple(task.duplicates for task in merge_tasks)
    num_priorities = len(config.priority) + 1
    if method.on == "document":
        for shard in range(len(shards)):
            found = exact.duplicates_of_shard([Path(path) for path in duplicates], generation, num_priorities, shard)
            write_array(index.removed(generation, shard), exact.removed_documents(found))
        return _document_report(config, index, shards, num_documents, work, details)
    tasks = [
        replace(task, duplicates=duplicates, num_priorities=num_priorities)
        for task in _attribute_tasks(config, index, shards, num_documents, "")
    ]
    counts = SourceCounts.total(_run(config, work, write_paragraph_attributes, tasks, SourceCounts))
    _finished(index, num_documents)
    return Report(counts=counts, largest_clusters=[], details=details)


def _document_report(
    config: DedupConfig,
    index: Index,
    shards: Sequence[Split],
    num_documents: tuple[int, ...],
    work: Path,
    details: dict[str, Any],
) -> Report:
    """Attributes of what `removed/` of the newest generation says, and the index finished."""
    generation = len(index.generations)
    numbering, sizes = cluster_sizes(index, generation, num_documents)
    sizes_file = work / "cluster_sizes.npy"
    write_array(sizes_file, sizes)
    tasks = _attribute_tasks(config, index, shards, num_documents, str(sizes_file))
    counts = SourceCounts.total(_run(config, work, write_document_attributes, tasks, SourceCounts))
    _finished(index, num_documents)
    return Report(counts=counts, largest_clusters=largest_clusters(index, numbering, sizes), details=details)


def _attribute_tasks(
    config: DedupConfig, index: Index, shards: Sequence[Split], num_documents: tuple[int, ...], sizes: str
) -> list[AttributesTask]:
    return [
        AttributesTask(
            index=index,
            generation=len(index.generations),
            shards=tuple(numbers),
            num_documents=num_documents,
            path=str(Path(config.output_path) / _ATTRIBUTES / name),
            sizes=sizes,
        )
        for name, numbers in files_of(shards)
    ]


def _checked(config: DedupConfig, num_documents: Sequence[int], parts: Sequence[BadRows]) -> dict[str, int]:
    bad = total_bad(parts)
    bad.check(sum(num_documents), config.max_bad)
    return dict(sorted(bad.kinds.items()))


def _finished(index: Index, num_documents: tuple[int, ...]) -> None:
    replace(index, generations=(*index.generations, Generation(num_documents=num_documents))).write()


def _with_bloom(config: DedupConfig, method: BloomConfig, shards: Sequence[Split]) -> Report:
    output = Path(config.output_path)
    identity = bloom.identity_of(method)
    if config.priority:
        raise ValueError("bloom keeps what comes first, and knows no priority: put the shards in the order you want")
    num_units = method.num_units
    if config.index_path is not None:
        seen = bloom.load_filter(Path(open_index(config.index_path, identity).root))
    else:
        num_units = bloom.count_units(shards, method) if num_units is None else num_units
        seen = BloomFilter.sized(max(num_units, 1), method.false_positive_rate)
    counts, bad = [], BadRows()
    for name, numbers in files_of(shards):
        batches = []
        for batch in (batch for number in numbers for batch in read_shard(shards[number], bad)):
            found = bloom.look_up(batch, seen, method)
            _, offsets = text_buffer(batch.column("text"))
            sources, num_bytes = batch.column("source").to_pylist(), np.diff(offsets).tolist()
            counts.append(source_counts(sources, num_bytes, found.removed.tolist(), found.spans))
            spans = [[{"start": start, "end": end} for start, end in of_text] for of_text in found.spans]
            columns = [batch.column("id"), found.removed, found.contained, spans]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SPAN_ATTRIBUTES, strict=True)]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=SPAN_ATTRIBUTES))
        write_shard(output / _ATTRIBUTES / name, batches, SPAN_ATTRIBUTES)
    total = SourceCounts.total(counts)
    bloom.save_filter(output / _INDEX, seen)
    Index(root=str(output / _INDEX), method=identity, generations=()).write()
    share = seen.share_of_bits_set()
    details = {
        "bad_rows": _checked(config, [sum(total.documents.values())], [bad]),
        "num_units": num_units,
        "filter_bytes": seen.bits.nbytes,
        "false_positive_rate_at_end": float(np.round(share**seen.num_probes, 6)),
    }
    return Report(counts=total, largest_clusters=[], details=details)


def _remove(config: DedupConfig, output: Path) -> dict[str, int]:
    has_spans = isinstance(config.method, BloomConfig) or getattr(config.method, "on", None) == "paragraph"
    return remove_marked(
        documents_of(config.input_path, config.text_column),
        output / _ATTRIBUTES,
        output / _DOCUMENTS,
        rule="duplicate",
        drop_column="dedup.duplicate",
        spans_column="dedup.remove_spans" if has_spans else None,
        shown_columns=("dedup.contained",) if has_spans else ("dedup.duplicate_of", "dedup.similarity"),
        max_bad=config.max_bad,
        num_workers=config.num_workers,
    )
