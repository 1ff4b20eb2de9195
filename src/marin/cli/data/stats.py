"""Counts what is in files: rows, bytes, text, sources, lengths, ids that occur twice, columns that are missing.

Everything is read through once. Lengths are bytes of UTF-8 text. Of each id 64 bits are kept, so a hundred million rows
take a gigabyte, and of 10^9 different ids about 0.03 would be told equal by chance.

PATH is a file, a folder of shards, a glob in quotes, or the address of a step (name, name@digits, ref, digest), whose
output is meant. Formats: JSON lines (.jsonl, also .gz and .zst), parquet, Arrow, WARC, HTML, plain text; token stores.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.data.inputs import BadCount, Input, Reading, add_path_arguments, find_input, planned
from marin.cli.errors import told
from marin.cli.output import print_json, size, table

EXAMPLES = """\
  marin data stats documents/
  marin data stats documents/ --files                     each file too
  marin data stats documents/python --json
"""

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser)
    parser.add_argument("--files", action="store_true", help="a line for each file too")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    found = find_input(arguments)
    stats = _store_stats(found.path) if found.is_token_store else _file_stats(found)
    if arguments.json:
        print_json({"path": found.path, **stats})
    else:
        print("\n".join(_lines(stats, with_files=arguments.files)))
    return 0


def _file_stats(found: Input) -> dict[str, Any]:
    import numpy as np

    from marin.processing.formats.reading import read_split

    splits, bad = planned(found), BadCount()
    reading = Reading(splits)
    files: dict[str, dict[str, Any]] = {}
    sources: dict[str, list[int]] = {}
    hashes, lengths = [], []
    try:
        with told():
            for split in splits:
                file = files.setdefault(split.label, {"rows": 0, "bytes": split.size, "text_bytes": 0, "columns": {}})
                for batch in read_split(split, on_bad=bad):
                    sizes = _text_sizes(batch)
                    hashes.append(_hashes(batch.column("id")))
                    lengths.append(sizes)
                    _add_sources(sources, batch, sizes)
                    file["rows"] += batch.num_rows
                    file["text_bytes"] += int(sizes.sum())
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        present = batch.num_rows - column.null_count
                        file["columns"][name] = file["columns"].get(name, 0) + present
                    reading.tell()
                reading.split_done()
    finally:
        reading.close()
    ids = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
    all_lengths = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    return {
        "rows": int(all_lengths.size),
        "bytes": sum(file["bytes"] for file in files.values()),
        "text_bytes": int(all_lengths.sum()),
        "bad": dict(sorted(bad.kinds.items())),
        "duplicate_ids": int(ids.size - np.unique(ids).size),
        "text_length_quantiles": _quantiles(all_lengths),
        "missing": _missing(files),
        "sources": {name: {"rows": rows, "text_bytes": text} for name, (rows, text) in sorted(sources.items())},
        "files": files,
    }


def _text_sizes(batch: Any) -> Any:
    """Bytes of each row's text, or page; 0 where it has none."""
    import numpy as np
    import pyarrow.compute as pc

    name = next((name for name in ("text", "html") if name in batch.schema.names), None)
    if name is None:
        return np.zeros(batch.num_rows, np.int64)
    sizes = pc.call_function("binary_length", [batch.column(name)]).fill_null(0)
    return sizes.to_numpy(zero_copy_only=False).astype(np.int64)


def _hashes(ids: Any) -> Any:
    import numpy as np
    import xxhash

    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in ids.to_pylist()), np.uint64, len(ids))


def _add_sources(sources: dict[str, list[int]], batch: Any, sizes: Any) -> None:
    import numpy as np

    if "source" not in batch.schema.names:
        return
    column = batch.column("source").dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(column.dictionary.to_pylist()):
        rows, text = sources.setdefault(name, [0, 0])
        sources[name] = [rows + int(np.sum(codes == code)), text + int(sizes[codes == code].sum())]


def _missing(files: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Column -> rows that have no value there, of the columns that any file has."""
    names = dict.fromkeys(name for file in files.values() for name in file["columns"])
    rows = sum(file["rows"] for file in files.values())
    counts = {name: rows - sum(file["columns"].get(name, 0) for file in files.values()) for name in names}
    return {name: count for name, count in counts.items() if count}


def _quantiles(lengths: Any) -> dict[str, int]:
    import numpy as np

    if not lengths.size:
        return {}
    values = np.quantile(lengths, QUANTILES, method="inverted_cdf")
    return {f"{100 * share:g}%": int(value) for share, value in zip(QUANTILES, values, strict=True)}


def _store_stats(path: str) -> dict[str, Any]:
    import json

    import numpy as np

    from marin.data.store import TokenStore

    with told():
        store = TokenStore.open(path)
    sources: dict[str, list[int]] = {}
    for shard in store.shards:
        with open(store.path / shard.name / "documents.jsonl", encoding="utf-8") as file:
            for line in file:
                document = json.loads(line)
                rows, text = sources.setdefault(document["source"], [0, 0])
                sources[document["source"]] = [rows + 1, text + document["num_bytes"]]
    files = {
        shard.name: {"rows": shard.num_documents, "text_bytes": shard.num_bytes, "tokens": shard.num_tokens}
        for shard in store.shards
    }
    return {
        "rows": store.num_documents,
        "text_bytes": store.num_bytes,
        "tokens": store.num_tokens,
        "vocab_size": store.vocab_size,
        "token_length_quantiles": _quantiles(np.diff(store.document_offsets)),
        "sources": {name: {"rows": rows, "text_bytes": text} for name, (rows, text) in sorted(sources.items())},
        "files": files,
    }


def _lines(stats: dict[str, Any], *, with_files: bool) -> list[str]:
    facts = [("rows", f"{stats['rows']:,}"), ("text", size(stats["text_bytes"]))]
    if "tokens" in stats:
        facts += [("tokens", f"{stats['tokens']:,}"), ("vocabulary", f"{stats['vocab_size']:,}")]
    else:
        facts += [
            ("files", f"{len(stats['files']):,}, {size(stats['bytes'])}"),
            ("duplicate ids", f"{stats['duplicate_ids']:,}"),
            ("no records", ", ".join(f"{count:,} {kind}" for kind, count in stats["bad"].items()) or "0"),
            ("missing", ", ".join(f"{name} in {count:,}" for name, count in stats["missing"].items()) or "nothing"),
        ]
    for unit, key in (
        ("bytes of text a row", "text_length_quantiles"),
        ("tokens a document", "token_length_quantiles"),
    ):
        if stats.get(key):
            facts.append((unit, ", ".join(f"{share} {value:,}" for share, value in stats[key].items())))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    groups = [("source", stats["sources"])] + ([("file", stats["files"])] if with_files else [])
    for title, group in groups:
        rows = [(name or "(none)", f"{part['rows']:,}", size(part["text_bytes"])) for name, part in group.items()]
        if rows:
            lines += ["", table(rows, (title, "rows", "text"), right=(1, 2))]
    return lines
