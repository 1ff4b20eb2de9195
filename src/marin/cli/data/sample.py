"""Takes exactly so many rows by chance: those whose ids have the least hashes under the seed.

So the sample depends on the ids and the seed alone, not on order, shards or format; that of 50 rows is part of that of
100; and what is added to the data changes only as much of the sample as is its due. Rows that share an id are taken
together as far as there is room. They are printed as JSON lines, or written to --out, in the order of the input.

PATH is a file, a folder of shards, a glob in quotes, or the address of a step (name, name@digits, ref, digest), whose
output is meant. Formats: JSON lines (.jsonl, also .gz and .zst), parquet, Arrow, WARC, HTML, plain text.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.data.inputs import BadCount, Input, Reading, add_path_arguments, find_input, plain_row, planned
from marin.cli.data.outputs import check_output
from marin.cli.errors import told
from marin.cli.experiment import hint
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin data sample documents/ -n 100 --seed 0 --out sample.parquet
  marin data sample "raw/**/*.jsonl.gz" -n 20 | jq .text
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser)
    parser.add_argument("-n", type=int, default=100, metavar="ROWS", help="how many rows (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="another seed, another sample (0)")
    parser.add_argument(
        "--out", metavar="FILE", help="write them to FILE.parquet, .jsonl, .jsonl.gz, .jsonl.zst, .arrow"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of JSON lines")


def run(arguments: Namespace) -> int:
    if arguments.n < 1:
        raise UsageError("-n must be at least 1")
    format = _format_of(arguments.out)
    found = find_input(arguments)
    if found.is_token_store:
        raise UsageError(f"{found.path} is a token store: sample the documents that it was made from")
    _check_out(arguments.out, found)
    batches, num_rows = _sample(found, arguments.n, arguments.seed)
    taken = sum(batch.num_rows for batch in batches)
    if taken < arguments.n:
        note(f"{found.path} has only {taken} rows, and all are taken")
    if arguments.out:
        from marin.processing.formats.writing import open_writer

        try:
            with open_writer(arguments.out, format) as writer:
                for batch in batches:
                    writer.write(batch)
        except ValueError as error:  # files of unlike columns
            raise UsageError(str(error)) from error
    rows = [] if arguments.out else [plain_row(row) for batch in batches for row in batch.to_pylist()]
    if arguments.json:
        print_json({"path": found.path, "of": num_rows, "taken": taken, "out": arguments.out, "rows": rows})
    elif not arguments.out:
        import json

        for row in rows:
            print(json.dumps(row, ensure_ascii=False, default=str))
    note(f"{taken} of {num_rows:,} rows")
    if arguments.out:
        note(f"Next: {hint(['marin', 'data', 'head', arguments.out], arguments)}")
    return 0


def _check_out(out: str | None, found: Input) -> None:
    """UsageError where the sample cannot be written, or would be written to what is sampled."""
    import os

    if out is None:
        return
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise UsageError(f"--out {out}: there is no folder {folder}; make it first")
    check_output(out, [found.path])


def _format_of(out: str | None) -> str:
    if out is None:
        return ""
    from marin.processing.formats.writing import WRITERS

    fitting = [format for format in WRITERS if out.endswith("." + format)]
    if not fitting:
        raise UsageError(f"--out {out}: the ending must be one of {', '.join('.' + format for format in WRITERS)}")
    return fitting[0]


def _sample(found: Input, count: int, seed: int) -> tuple[list[Any], int]:
    """(batches of the rows with the `count` least hashes, in the order of the input; rows in all)."""
    import numpy as np
    import pyarrow as pa

    from marin.processing.formats.reading import read_split

    splits, bad = planned(found), BadCount()
    reading = Reading(splits)
    keys, parts, num_rows = np.empty(0, np.uint64), [], 0
    limit = np.uint64(np.iinfo(np.uint64).max)
    try:
        with told():
            for split in splits:
                for batch in read_split(split, on_bad=bad):
                    num_rows += batch.num_rows
                    hashes = _keys(batch.column("id"), seed)
                    chosen = np.flatnonzero(hashes <= limit)
                    if chosen.size:
                        keys = np.concatenate([keys, hashes[chosen]])
                        parts.append(batch.take(pa.array(chosen)))
                    if keys.size > 4 * count + 4096:
                        keys, parts, limit = _least(keys, parts, count)
                    reading.tell()
                reading.split_done()
    finally:
        reading.close()
        bad.tell()
    return _least(keys, parts, count)[1], num_rows


def _keys(ids: Any, seed: int) -> Any:
    import numpy as np
    import xxhash

    seed = seed & (1 << 64) - 1
    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode(), seed) for name in ids.to_pylist()), np.uint64, len(ids))


def _least(keys: Any, parts: list[Any], count: int) -> tuple[Any, list[Any], Any]:
    """Of rows with their keys the `count` least, and the greatest key among them; equal keys in their order."""
    import numpy as np
    import pyarrow as pa

    kept = np.sort(np.argsort(keys, kind="stable")[:count])
    ends = np.cumsum([part.num_rows for part in parts])
    left = []
    for part, end in zip(parts, ends, strict=True):
        mine = kept[(kept >= end - part.num_rows) & (kept < end)] - (end - part.num_rows)
        if mine.size:
            left.append(part.take(pa.array(mine)))
    keys = keys[kept]
    full = keys.size >= count
    return keys, left, keys.max() if full else np.uint64(np.iinfo(np.uint64).max)
