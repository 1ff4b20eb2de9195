"""Look documents up in evaluation items, report which items they have, and remove them.

    attributes/   a file beside each shard of the documents
    report.json   of every evaluation set the share of its items that was found, and where
    hits.jsonl    every item and document that belong together
    documents/    what is left, unless only attributes are asked for

With `remove="attributes"` it is a report on how two data sets overlap: the items may be the rows of any files.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from marin.io.atomic import open_atomic, write_text
from marin.processing.decontaminate.config import DecontaminateConfig
from marin.processing.decontaminate.ngram_index import NgramIndex, index_items
from marin.processing.decontaminate.overlap import (
    CountTask,
    Hit,
    OverlapTask,
    ShardOverlap,
    count_documents,
    overlap_of_shard,
)
from marin.processing.formats.splits import Split
from marin.processing.remove import RemoveTask, remove_shard
from marin.processing.shards import document_shards, part_name, run_tasks, total_bad

REPORT_FILE, HITS_FILE = "report.json", "hits.jsonl"
_SHOWN_DOCUMENTS = 5  # of each item, in the report; hits.jsonl has all


def decontaminate(config: DecontaminateConfig) -> dict[str, Any]:
    """Find and remove evaluation items; returns what report.json has."""
    shards = document_shards(config.input_path)
    output = Path(config.output_path)
    index = index_items(config.against, config.ngram, config.min_words)
    index_file = output / "work" / "ngrams.npz"
    index.save(index_file)
    common: list[dict[str, Any]] = []
    if config.max_document_share is not None:
        index, common = _without_common(config, config.max_document_share, index, index_file, shards)
        index_file = output / "work" / "ngrams_that_count.npz"
        index.save(index_file)

    attributes = [output / "attributes" / part_name(shard, len(shards)) for shard in range(len(shards))]
    tasks = [
        OverlapTask(config=config, index=str(index_file), documents=split, attributes=str(attributes[shard]))
        for shard, split in enumerate(shards)
    ]
    found = run_tasks(overlap_of_shard, tasks, config.num_workers)
    bad = total_bad(shard.bad for shard in found)
    bad.check(sum(sum(shard.documents.values()) for shard in found), config.max_bad)
    report = _report(index, found) | {"bad_rows": dict(sorted(bad.kinds.items()))} | {"common_ngrams": common}
    if config.remove != "attributes":
        report["written"] = _remove(config, shards, attributes, output)
    _write_hits(output / HITS_FILE, index, [hit for shard in found for hit in shard.hits])
    write_text(output / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for file in (output / "work").iterdir():
        file.unlink()
    (output / "work").rmdir()
    return report


def _without_common(
    config: DecontaminateConfig, max_share: float, index: NgramIndex, index_file: Path, shards: Sequence[Split]
) -> tuple[NgramIndex, list[dict[str, Any]]]:
    """The index without the n-grams that more than this share of the documents has, and what those are in."""
    tasks = [
        CountTask(ngram=config.ngram, min_words=config.min_words, index=str(index_file), documents=split)
        for split in shards
    ]
    counted = run_tasks(count_documents, tasks, config.num_workers)
    num_documents, counts = sum(n for n, _ in counted), np.sum([c for _, c in counted], axis=0)
    common = counts > max_share * num_documents
    described = []
    for ngram in np.flatnonzero(common):
        items = np.unique(index.text_items[index.texts_with(int(ngram))])
        names = [index.name(int(item)) for item in items[:3]]
        described.append({"documents": int(counts[ngram]), "items": len(items), "such_as": names})
    return index.without(common), described


def _report(index: NgramIndex, found: Sequence[ShardOverlap]) -> dict[str, Any]:
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


def _remove(
    config: DecontaminateConfig, shards: Sequence[Split], attributes: Sequence[Path], output: Path
) -> dict[str, int]:
    by_paragraph = config.remove == "paragraph"
    tasks = [
        RemoveTask(
            documents=split,
            attributes=str(attributes[shard]),
            output=str(output / "documents" / part_name(shard, len(shards))),
            drop_column=None if by_paragraph else "decontamination.contaminated",
            spans_column="decontamination.remove_spans" if by_paragraph else None,
        )
        for shard, split in enumerate(shards)
    ]
    done = run_tasks(remove_shard, tasks, config.num_workers)
    return {name: sum(asdict(part)[name] for part in done) for name in ("rows_in", "rows_out", "dropped", "emptied")}
