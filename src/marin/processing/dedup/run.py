"""Deduplicate a folder of documents: find, report, hold to the limit, remove.

attributes/   a file beside each shard of the documents: what goes, and for what
report.json   what goes of each source
index/        what a later run compares its documents with
documents/    what is left
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from marin.processing.dedup import bloom, exact, minhash
from marin.processing.dedup.attributes import (
    SPAN_ATTRIBUTES,
    AttributesTask,
    SourceCounts,
    cluster_sizes,
    largest_clusters,
    write_document_attributes,
    write_paragraph_attributes,
)
from marin.processing.dedup.config import BloomConfig, DedupConfig, ExactConfig, MinHashConfig, SubstringConfig
from marin.processing.dedup.index import Generation, Index, continue_index, open_index
from marin.processing.dedup.report import Report
from marin.processing.dedup.sorted_records import count_records, write_array
from marin.processing.formats.splits import Split
from marin.processing.kernels.bloom import BloomFilter
from marin.processing.remove import RemoveTask, remove_shard
from marin.processing.shards import BadRows, document_shards, part_name, read_shard, run_tasks, total_bad, write_shard

_WORK = "work"  # files of no use after the run


def dedup(config: DedupConfig) -> Report:
    """Find duplicates among documents, and write what is left.

    Raises TooMuchRemovedError, with attributes and report written and nothing removed, where a source would lose more
    of its documents than its limit.
    """
    shards = document_shards(config.input_path)
    output = Path(config.output_path)
    method = config.method
    if isinstance(method, SubstringConfig):
        raise NotImplementedError(
            "removing repeated substrings is not implemented here: it needs a suffix array of the whole corpus. Use "
            "ExactConfig(on='paragraph') or BloomConfig() for repeated passages, or run "
            "google-research/deduplicate-text-datasets over the documents and give the byte ranges that it reports as "
            "dedup.remove_spans."
        )
    if isinstance(method, BloomConfig):
        report = _with_bloom(config, method, shards, output)
    elif isinstance(method, MinHashConfig):
        report = _with_minhash(config, method, shards, output)
    else:
        report = _exact(config, method, shards, output)
    shutil.rmtree(output / _WORK, ignore_errors=True)
    report.write(output)
    report.check_limits(config)
    if config.write_documents:
        report = replace(report, details=report.details | {"written": _remove(config, shards, output)})
        report.write(output)
    return report


def _with_minhash(config: DedupConfig, method: MinHashConfig, shards: Sequence[Split], output: Path) -> Report:
    index = continue_index(output / "index", minhash.identity_of(method), config.index_path)
    generation = len(index.generations)
    work = output / _WORK
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
    signed = run_tasks(minhash.sign_shard, sign_tasks, config.num_workers)
    num_documents = tuple(of_shard.num_documents for of_shard in signed)
    bad = _checked(config, num_documents, [of_shard.bad for of_shard in signed])

    earlier = [path for number in range(generation) for path in index.leaders(number)]
    num_records = count_records([*bands, *earlier])
    link_tasks = minhash.link_tasks(method, index, generation, bands, num_records, work)
    linked = run_tasks(minhash.link_range, link_tasks, config.num_workers)
    minhash.resolve_links([Path(t.links) for t in link_tasks], index, num_documents, len(config.priority) + 1)
    details = {
        "bad_rows": bad,
        "documents_too_short": sum(of_shard.num_too_short for of_shard in signed),
        "documents_sampled": sum(of_shard.num_sampled for of_shard in signed),
        "buckets_shared": sum(of_range.num_buckets for of_range in linked),
        "largest_bucket": max(of_range.largest for of_range in linked),
        "entries_without_room_to_lead": sum(of_range.num_without_room for of_range in linked),
    }
    return _document_report(config, index, num_documents, output, details)


def _exact(config: DedupConfig, method: ExactConfig, shards: Sequence[Split], output: Path) -> Report:
    index = continue_index(output / "index", exact.identity_of(method), config.index_path)
    generation = len(index.generations)
    work = output / _WORK
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
    hashed = run_tasks(exact.hash_shard, hash_tasks, config.num_workers)
    num_documents = tuple(count for count, _ in hashed)
    details = {"bad_rows": _checked(config, num_documents, [bad for _, bad in hashed])}
    earlier = [path for number in range(generation) for path in index.leaders(number)]
    merge_tasks = exact.merge_tasks(index, generation, hashes, count_records([*hashes, *earlier]), work)
    run_tasks(exact.merge_range, merge_tasks, config.num_workers)
    duplicates = tuple(task.duplicates for task in merge_tasks)
    num_priorities = len(config.priority) + 1
    if method.on == "document":
        for shard in range(len(shards)):
            found = exact.duplicates_of_shard([Path(path) for path in duplicates], generation, num_priorities, shard)
            write_array(index.removed(generation, shard), exact.removed_documents(found))
        return _document_report(config, index, num_documents, output, details)
    tasks = [
        replace(task, duplicates=duplicates, num_priorities=num_priorities)
        for task in _attribute_tasks(index, num_documents, output, "")
    ]
    counts = _sum(run_tasks(write_paragraph_attributes, tasks, config.num_workers))
    _finished(index, num_documents)
    return Report(counts=counts, largest_clusters=[], details=details)


def _document_report(
    config: DedupConfig, index: Index, num_documents: tuple[int, ...], output: Path, details: dict[str, Any]
) -> Report:
    """Attributes of what `removed/` of the newest generation says, and the index finished."""
    generation = len(index.generations)
    numbering, sizes = cluster_sizes(index, generation, num_documents)
    sizes_file = output / _WORK / "cluster_sizes.npy"
    write_array(sizes_file, sizes)
    tasks = _attribute_tasks(index, num_documents, output, str(sizes_file))
    counts = _sum(run_tasks(write_document_attributes, tasks, config.num_workers))
    _finished(index, num_documents)
    return Report(counts=counts, largest_clusters=largest_clusters(index, numbering, sizes), details=details)


def _attribute_tasks(index: Index, num_documents: tuple[int, ...], output: Path, sizes: str) -> list[AttributesTask]:
    return [
        AttributesTask(
            index=index,
            generation=len(index.generations),
            shard=shard,
            num_documents=num_documents,
            path=str(_attributes(output, shard, len(num_documents))),
            sizes=sizes,
        )
        for shard in range(len(num_documents))
    ]


def _attributes(output: Path, shard: int, num_shards: int) -> Path:
    return output / "attributes" / part_name(shard, num_shards)


def _sum(parts: Sequence[SourceCounts]) -> SourceCounts:
    total = SourceCounts()
    for part in parts:
        total.add(part)
    return total


def _checked(config: DedupConfig, num_documents: Sequence[int], parts: Sequence[BadRows]) -> dict[str, int]:
    bad = total_bad(parts)
    bad.check(sum(num_documents), config.max_bad)
    return dict(sorted(bad.kinds.items()))


def _finished(index: Index, num_documents: tuple[int, ...]) -> None:
    replace(index, generations=(*index.generations, Generation(num_documents=num_documents))).write()


def _with_bloom(config: DedupConfig, method: BloomConfig, shards: Sequence[Split], output: Path) -> Report:
    identity = bloom.identity_of(method)
    if config.priority:
        raise ValueError("bloom keeps what comes first, and knows no priority: put the shards in the order you want")
    num_units = method.num_units
    if config.index_path is not None:
        seen = bloom.load_filter(open_index(config.index_path, identity).root)
    else:
        num_units = bloom.count_units(shards, method) if num_units is None else num_units
        seen = BloomFilter.sized(max(num_units, 1), method.false_positive_rate)
    counts, bad = SourceCounts(), BadRows()
    for shard, split in enumerate(shards):
        tables = []
        for batch in read_shard(split, bad):
            found = bloom.look_up(batch, seen, method)
            sources = batch.column("source").to_pylist()
            counts.documents.update(sources)
            for source, gone, spans in zip(sources, found.removed.tolist(), found.spans, strict=True):
                counts.removed[source] += gone
                if not gone:
                    counts.spans[source] += len(spans)
                    counts.span_bytes[source] += sum(span["end"] - span["start"] for span in spans)
            columns = [batch.column("id"), found.removed, found.contained, found.spans]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SPAN_ATTRIBUTES, strict=True)]
            tables.append(pa.RecordBatch.from_arrays(arrays, schema=SPAN_ATTRIBUTES))
        write_shard(_attributes(output, shard, len(shards)), iter(tables), SPAN_ATTRIBUTES)
    bloom.save_filter(output / "index", seen)
    Index(root=output / "index", method=identity, generations=()).write()
    share = seen.share_of_bits_set()
    details = {
        "bad_rows": _checked(config, [sum(counts.documents.values())], [bad]),
        "num_units": num_units,
        "filter_bytes": seen.bits.nbytes,
        "false_positive_rate_at_end": float(np.round(share**seen.num_probes, 6)),
    }
    return Report(counts=counts, largest_clusters=[], details=details)


def _remove(config: DedupConfig, shards: Sequence[Split], output: Path) -> dict[str, int]:
    has_spans = isinstance(config.method, BloomConfig) or getattr(config.method, "on", None) == "paragraph"
    tasks = [
        RemoveTask(
            documents=split,
            attributes=str(_attributes(output, shard, len(shards))),
            output=str(output / "documents" / part_name(shard, len(shards))),
            drop_column="dedup.duplicate",
            spans_column="dedup.remove_spans" if has_spans else None,
        )
        for shard, split in enumerate(shards)
    ]
    done = run_tasks(remove_shard, tasks, config.num_workers)
    names = ("rows_in", "rows_out", "dropped", "emptied")
    return {name: sum(asdict(of_shard)[name] for of_shard in done) for name in names}
