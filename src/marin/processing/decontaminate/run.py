"""Look documents up in evaluation items, report which items they have, and remove them.

    attributes/   a file beside each file of documents
    report.json   of every evaluation set the share of its items that was found, and where
    hits.jsonl    every item and document that belong together
    documents/    what is left, unless only attributes are asked for

With `remove="attributes"` it is a report on how two data sets overlap: the items may be the rows of any files.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from marin.config import encode
from marin.io.atomic import open_atomic, write_text
from marin.io.files import local_folder
from marin.processing.decontaminate.config import RECIPE_VERSION, DecontaminateConfig
from marin.processing.decontaminate.ngram_index import NgramIndex, index_items
from marin.processing.decontaminate.overlap import (
    CountTask,
    FileOverlap,
    Finding,
    Hit,
    OverlapTask,
    count_documents,
    overlap_of_file,
)
from marin.processing.formats.splits import Split
from marin.processing.kernels import ngrams, normalized_words
from marin.processing.pipeline.pool import kept_workers
from marin.processing.remove import remove_marked
from marin.processing.shards import (
    begin_work,
    bytes_of,
    check_apart,
    document_shards,
    end_work,
    enough_workers,
    files_of,
    run_tasks,
    total_bad,
)
from marin.processing.text_column import documents_of

REPORT_FILE, HITS_FILE = "report.json", "hits.jsonl"
_ATTRIBUTES, _DOCUMENTS = "attributes", "documents"

Task = TypeVar("Task")
Result = TypeVar("Result")
_SHOWN_DOCUMENTS = 5  # of each item, in the report; hits.jsonl has all


@kept_workers()
def decontaminate(config: DecontaminateConfig) -> dict[str, Any]:
    """Find and remove evaluation items; returns what report.json has."""
    output = local_folder(config.output_path)
    shards = document_shards(config.input_path, config.text_column)
    config = replace(config, num_workers=enough_workers(bytes_of(shards), config.num_workers))
    index = index_items(config.against, config.ngram, config.min_words)
    sets = [config.ngram, config.min_words, index.digest(), ngrams.VERSION, normalized_words.VERSION]
    owned = (_ATTRIBUTES, _DOCUMENTS)
    check_apart(output, shards, owned=owned)
    work = begin_work(output, [RECIPE_VERSION, encode(shards), sets, encode(_finding(config))], owned=owned)
    index_file = index.save(work)
    common: list[dict[str, Any]] = []
    if config.max_document_share is not None:
        index, common = _without_common(config, config.max_document_share, index, index_file, shards)
        index_file = index.save(work)

    tasks = [
        OverlapTask(
            config=_finding(config),
            index=str(index_file),
            documents=tuple(shards[number] for number in numbers),
            attributes=str(output / _ATTRIBUTES / name),
        )
        for name, numbers in files_of(shards)
    ]
    found = _run(config, work, overlap_of_file, tasks, FileOverlap)
    bad = total_bad(shard.bad for shard in found)
    bad.check(sum(sum(shard.documents.values()) for shard in found), config.max_bad)
    report = _report(index, found) | {"bad_rows": dict(sorted(bad.kinds.items()))} | {"common_ngrams": common}
    if config.remove != "attributes":
        report["written"] = _remove(config, output)
    _write_hits(output / HITS_FILE, index, [hit for shard in found for hit in shard.hits])
    write_text(output / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    end_work(output)
    return report


def _finding(config: DecontaminateConfig) -> Finding:
    return Finding(
        ngram=config.ngram,
        min_words=config.min_words,
        min_paragraph_overlap=config.min_paragraph_overlap,
        min_item_coverage=config.min_item_coverage,
    )


def _run(
    config: DecontaminateConfig,
    work: Path,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    result_type: type[Result],
) -> list[Result]:
    folder = work / "tasks" / function.__name__
    return run_tasks(function, tasks, result_type, folder=folder, recipe=RECIPE_VERSION, num_workers=config.num_workers)


def _without_common(
    config: DecontaminateConfig, max_share: float, index: NgramIndex, index_file: Path, shards: Sequence[Split]
) -> tuple[NgramIndex, list[dict[str, Any]]]:
    """The index without the n-grams that more than this share of the documents has, and what those are in."""
    tasks = [
        CountTask(
            ngram=config.ngram,
            min_words=config.min_words,
            index=str(index_file),
            documents=split,
            counts=str(index_file.parent / f"counts-{shard:05d}.npy"),
        )
        for shard, split in enumerate(shards)
    ]
    num_documents = sum(_run(config, index_file.parent, count_documents, tasks, int))
    counts = np.zeros(len(index.hashes), np.int64)
    for task in tasks:
        counts += np.load(task.counts)
    common = counts > max_share * num_documents
    described = []
    for ngram in np.flatnonzero(common):
        items = np.unique(index.text_items[index.texts_with(int(ngram))])
        names = [index.name(int(item)) for item in items[:3]]
        described.append({"documents": int(counts[ngram]), "items": len(items), "such_as": names})
    return index.without(common), described


def _report(index: NgramIndex, found: Sequence[FileOverlap]) -> dict[str, Any]:
    documents: Counter[str] = Counter()
    contaminated: Counter[str] = Counter()
    of_item: dict[int, list[Hit]] = defaultdict(list)
    for shard in found:
        documents.update(shard.documents)
        contaminated.update(shard.contaminated)
        for hit in shard.hits:
            of_item[hit.item].append(hit)
    sets = {}
    with_ngrams = np.zeros(len(index.item_ids), np.bool_)
    with_ngrams[index.text_items[index.text_sizes > 0]] = True
    for number, name in enumerate(index.set_names):
        items = np.flatnonzero(index.item_sets == number)
        hit_items = [int(item) for item in items if int(item) in of_item]
        sets[name] = {
            "items": len(items),
            "items_without_ngrams": int((~with_ngrams[items]).sum()),
            "items_hit": len(hit_items),
            "share_hit": round(len(hit_items) / len(items), 6),
            "hit": [_described(index.item_ids[item], of_item[item]) for item in hit_items],
        }
    return {
        "documents": sum(documents.values()),
        "contaminated": sum(contaminated.values()),
        "contaminated_paragraphs": sum(shard.paragraphs for shard in found),
        "contaminated_bytes": sum(shard.text_bytes for shard in found),
        "sources": {
            source: {"documents": documents[source], "contaminated": contaminated[source]}
            for source in sorted(documents, key=lambda source: (-contaminated[source], source))
        },
        "evaluation_sets": sets,
    }


def _described(item_id: str, hits: list[Hit]) -> dict[str, Any]:
    hits = sorted(hits, key=lambda hit: (-hit.coverage, hit.document))
    return {
        "item": item_id,
        "coverage": round(hits[0].coverage, 4),
        "num_documents": len(hits),
        "documents": [hit.document for hit in hits[:_SHOWN_DOCUMENTS]],
    }


def _write_hits(path: Path, index: NgramIndex, hits: Sequence[Hit]) -> None:
    with open_atomic(path) as file:
        for hit in hits:
            row = {
                "set": index.set_names[index.item_sets[hit.item]],
                "item": index.item_ids[hit.item],
                "document": hit.document,
                "coverage": round(hit.coverage, 4),
            }
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _remove(config: DecontaminateConfig, output: Path) -> dict[str, int]:
    by_paragraph = config.remove == "paragraph"
    return remove_marked(
        documents_of(config.input_path, config.text_column),
        output / _ATTRIBUTES,
        output / _DOCUMENTS,
        rule="contaminated",
        drop_column=None if by_paragraph else "decontamination.contaminated",
        spans_column="decontamination.remove_spans" if by_paragraph else None,
        shown_columns=("decontamination.max_overlap",),
        max_bad=config.max_bad,
        num_workers=config.num_workers,
    )
