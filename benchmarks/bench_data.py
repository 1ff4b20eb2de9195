"""Every stage of data processing beside its peers, in one table, with the speed that its prototype reached.

What is measured of a single stage is what the benchmark of that stage measures (`bench_extract.py`, `bench_filters.py`,
`bench_dedup.py`, `bench_classify.py`, `bench_tokenize.py`, `bench_formats.py`), on less text; look there for how, and
for more. Added here:

    end to end     documents on disk to documents, or tokens, on disk: filters, MinHash deduplication, tokenizing; each
                   a command (`whole.py`), with all that its interpreter imports, beside datatrove's pipelines on the
                   same documents, in turns; kernels are compiled and kept before
    workers        what the same filtering costs on one worker and on two, of the engine's pool and of Ray

Numbers are MB of text (or pages) a CPU second, of all processes together; wall time is nowhere, so that a busy machine
falsifies little: shared caches and memory are all that others take from it. datatrove splits words at white space here,
as ours do, in place of a much slower splitter. Two targets have verdicts: at least three quarters of what a prototype
of the stage reached on one core, and at least ten times datatrove. Of a prototype's end to end the slower of its two
figures stands, a second of wall time counted as two CPU seconds. Where a library alone, as gzip, is less than ten times
as fast as datatrove, the verdict says how much it is: no reader that uses it can be faster.

    python -m benchmarks.bench_data                       writes benchmarks/results/data.md
    python -m benchmarks.bench_data --only dedup filters --no_write
    python -m benchmarks.bench_data --mb 30 --whole_mb 4 32 127 --fasttext PROGRAM --ray PYTHON
    python -m benchmarks.bench_data --only whole --whole_mb 4 32 127 --no_write      end to end, of a prototype's size

It reads public data (a folder is named by $MARIN_SHARED_DATA or stands beside the checkout). Peers that are not
installed are left out, and said to be. PYTHON is an interpreter with Ray, if this one has none.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from benchmarks import bench_dedup
from benchmarks.bench_dedup import all_cpu_seconds, processor, ten_million_additions
from benchmarks.whole import filter_whole

from marin.processing.tokenize.tokenizer import load_tokenizer

RESULT = Path(__file__).resolve().parent / "results" / "data.md"
DATA = bench_dedup.DATA
GPT2 = DATA / "tokenizers" / "gpt2"
NUM_PAGES = 80
NUM_SHARDS = 4
PEER_SHARE = 0.1  # of the text, that datatrove's filters and the reference tokenizer get
NUM_BUCKETS = 200_000
# What the prototypes reached, in the unit of the table; the share of it and the ratio to datatrove that are asked for.
PROTOTYPE_SHARE = 0.75
DATATROVE_RATIO = 10
PROTOTYPES = {
    "HTML to Markdown, pages": 603.0,
    "31 signals of Gopher, repetition, FineWeb, mC4": 43.0,
    "C4's line edits": 35.0,
    "MinHash": 110.0,
    "Bloom, whole lines": 582.0,
    "contamination, 13-grams": 103.0,
    "score, two labels, bigrams": 96.0,
    "tokenize": 96.0,
    "read parquet": 711.0,
    "write parquet": 235.0,
    "write jsonl.gz": 27.0,
}
# Of 32 MB.
PROTOTYPES_END_TO_END = {"filters": 32 / (2 * 3.9), "MinHash": 32 / (2 * 8.1), "tokenizing": 19 / 2}


class Row(NamedTuple):
    """One stage beside one peer, both in units a CPU second; None: no such peer here."""

    stage: str
    peer: str
    theirs: float | None
    ours: float


class Whole(NamedTuple):
    """One subject end to end, in MB and CPU seconds; None: datatrove is not installed."""

    subject: str
    megabytes: float
    ours: float
    theirs: float | None


class Size(NamedTuple):
    """How much is measured."""

    mb: float
    whole_mb: tuple[float, ...]
    rounds: int
    fasttext: str | None


Measure = Callable[[Size], list[Row]]


# --- single stages


def extraction(size: Size) -> list[Row]:
    from benchmarks import bench_extract

    peers = ("trafilatura", "resiliparse", "readability-lxml")
    speed, _ = bench_extract.race(["ours, Markdown", *peers], NUM_PAGES, size.rounds)
    return [Row("HTML to Markdown, pages", peer, speed[peer], speed["ours, Markdown"]) for peer in peers]


def filters(size: Size) -> list[Row]:
    from benchmarks import bench_filters

    texts, part = (bench_filters.read_texts(int(share * size.mb * 1e6)) for share in (1, PEER_SHARE))
    rows = []
    for case in bench_filters.cases():
        if case.peer:
            name, ours, _, theirs, _ = bench_filters.measure(case._replace(plain=None), texts, part, size.rounds)
            rows.append(Row(name, f"datatrove {version('datatrove')}", float(theirs), float(ours)))
    return rows


def dedup(size: Size) -> list[Row]:
    texts = bench_dedup.read_texts(bench_dedup.default_paths(), int(size.mb * 1e6))
    methods = [one for one in bench_dedup.OURS if one.name == "marin"]
    with np.errstate(over="ignore"):  # datatrove's hash family overflows
        speeds = bench_dedup.race([*methods, *bench_dedup.others()], texts, size.rounds)
    rows = []
    for ours in methods:
        peers = [one for one in speeds if one.subject == ours.subject and one != ours]
        rows += [Row(ours.subject, peer.name, speeds[peer], speeds[ours]) for peer in peers]
        rows += [] if peers else [Row(ours.subject, "-", None, speeds[ours])]
    return rows


def classify(size: Size) -> list[Row]:
    from benchmarks import bench_classify

    from marin.processing.classify.config import LinearModelConfig
    from marin.processing.classify.fasttext_format import write_fasttext
    from marin.processing.classify.linear import text_buffers

    pieces = bench_dedup.read_texts(bench_dedup.default_paths(), int(size.mb * 1e6))
    texts = [text.replace("\n", " ").replace("\r", " ").encode() for text in pieces]
    labels = np.arange(len(texts)) % 2
    config = LinearModelConfig(dim=100, word_ngrams=2, min_chars=0, max_chars=0, num_buckets=NUM_BUCKETS, min_count=1)
    some = max(2, len(texts) // 10)  # training is not what is measured
    arguments = argparse.Namespace(rounds=size.rounds, fasttext=size.fasttext)
    with tempfile.TemporaryDirectory() as folder:
        model, lines = Path(folder, "bigram.bin"), Path(folder, "texts.txt")
        write_fasttext(bench_classify.train(texts[:some], labels[:some], config)[0], model)
        lines.write_bytes(b"".join(text + b"\n" for text in texts))
        name = "score, two labels, bigrams"
        row = bench_classify.score_row(name, str(model), *text_buffers(texts), lines, arguments)
    _, ours, theirs, *_ = (cell.strip() for cell in row.strip("| ").split("|"))
    return [Row(name, "fastText's program", float(theirs) if size.fasttext else None, float(ours))]


def encode(size: Size) -> list[Row]:
    from benchmarks import bench_tokenize as bench

    texts = bench_dedup.read_texts(bench_dedup.default_paths(), int(size.mb * 1e6))
    documents = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts, "source": ["text"] * len(texts)})
    part = bench._first(documents, PEER_SHARE * size.mb * 1e6)
    megabytes = float(bench._texts(part).num_bytes.sum()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        place = bench._write_inputs(documents, part, Path(folder))["slow"]
        tokenizer = load_tokenizer(GPT2)
        tokenizer.save(Path(folder, "gpt2"))
        oracle, given = tokenizer.encoders.oracle, bench._texts(part)
        num_tokens = sum(len(row) for row in oracle.encode(given))
        turns = {
            "marin": lambda: bench._encode_first(str(GPT2), bench._texts(documents)),
            f"tokenizers {version('tokenizers')}": lambda: bench._seconds(lambda: oracle.encode(given)),
        }
        for peer in ("tiktoken", "datatrove"):
            with contextlib.suppress(PackageNotFoundError):
                command = [sys.executable, str(bench.PEERS), peer, str(place), str(GPT2)]
                command.append(str(Path(folder, "gpt2", "tokenizer.json")))
                turns[f"{peer} {version(peer)}"] = lambda command=command: bench._peer(command, num_tokens)
        best = dict.fromkeys(turns, float("inf"))
        for _ in range(size.rounds):
            best = {name: min(best[name], turn()) for name, turn in turns.items()}
    ours = sum(len(text.encode()) for text in texts) / 1e6 / best.pop("marin")
    return [Row("tokenize", peer, megabytes / seconds, ours) for peer, seconds in best.items()]


def formats(size: Size) -> list[Row]:
    from benchmarks import bench_formats

    with tempfile.TemporaryDirectory() as folder:
        batches = bench_formats.documents(DATA / "text", int(size.mb * 1e6))
        num_bytes = sum(len(text.as_py().encode()) for batch in batches for text in batch.column("text"))
        found = bench_formats.turns(batches, Path(folder))
        told = ("parquet", "jsonl.gz", "jsonl.zst")
        seconds = bench_formats.race({name: turn for name, turn in found.items() if name[1] in told})
    speed = {name: num_bytes / 1e6 / took for name, took in seconds.items()}
    return [
        Row(f"{direction} {format}", who, speed[direction, format, who], speed[direction, format, "marin"])
        for direction, format, who in speed
        if who != "marin"
    ]


# --- end to end


def end_to_end(size: Size) -> Iterator[Whole]:
    for whole_mb in size.whole_mb:
        texts = bench_dedup.read_texts(bench_dedup.default_paths(), int(whole_mb * 1e6))
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            documents = write_shards(texts, folder)
            load_tokenizer(GPT2).save(folder / "gpt2")
            for subject in PROTOTYPES_END_TO_END:
                sides = ["marin", *(["datatrove"] if _installed("datatrove") else [])]
                cost(f"marin-{subject}", documents, folder)  # compiles
                best = dict.fromkeys(sides, float("inf"))
                for _ in range(size.rounds):
                    best = {side: min(best[side], cost(f"{side}-{subject}", documents, folder)) for side in sides}
                found = Whole(subject, megabytes, best["marin"], best.get("datatrove"))
                print(f"{found} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
                yield found


def _installed(package: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(package))
    return False


def write_shards(texts: list[str], folder: Path) -> Path:
    """The texts as documents in files of JSON lines, in a folder of that folder."""
    documents = folder / "documents"
    documents.mkdir()
    rows = [{"id": str(i), "text": text, "source": "text", "metadata": {}} for i, text in enumerate(texts)]
    for shard in range(NUM_SHARDS):
        (documents / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[shard::NUM_SHARDS]))
    return documents


def cost(way: str, documents: Path, folder: Path) -> float:
    """CPU seconds of the way's process and all that it starts."""
    output = folder / way
    began = all_cpu_seconds()
    command = [sys.executable, "-m", "benchmarks.whole", way, str(documents), str(output)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    took = all_cpu_seconds() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    shutil.rmtree(output)
    return took


# --- workers


def scaling(size: Size, ray: str | None) -> list[str]:
    """A table of what filtering costs on one worker and on two."""
    texts = bench_dedup.read_texts(bench_dedup.default_paths(), int(size.whole_mb[0] * 1e6))
    lines = ["| by | workers | CPU seconds of the shards' work | of all processes |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        documents = write_shards(texts, Path(folder))
        for backend in ("local", "ray") if ray else ("local",):
            for num_workers in (1, 2):
                command = [
                    ray or sys.executable,
                    "-m",
                    "benchmarks.bench_data",
                    "--workers_of",
                    str(documents),
                    str(num_workers),
                ]
                environment = {**os.environ, "MARIN_DATA_BACKEND": backend}
                began = all_cpu_seconds()
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:  # told, so that what was measured before is not lost
                    print(done.stderr[-2000:], file=sys.stderr)
                who = "the pool" if backend == "local" else "Ray"
                work = "failed" if done.returncode else f"{float(done.stdout.split()[-1]):.2f}"
                whole = f"{all_cpu_seconds() - began:.1f}" if backend == "local" else "not counted"
                lines.append(f"| {who} | {num_workers} | {work} | {whole} |")
    return lines


def work_of_shards(documents: Path, num_workers: int) -> float:
    """CPU seconds that the shards report of themselves, wherever they ran; Ray is a cluster of this machine alone."""
    if os.environ.get("MARIN_DATA_BACKEND") == "ray":
        import ray

        ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False)
    output = Path(tempfile.mkdtemp(dir=documents.parent), "filtered")
    filter_whole(documents, output, num_workers)
    return sum(stage["cpu_s"] for stage in json.loads((output / "_timing.json").read_text()))


# --- the page


STAGES: dict[str, Measure] = {
    "extraction": extraction,
    "filters": filters,
    "dedup": dedup,
    "classify": classify,
    "tokenize": encode,
    "formats": formats,
}


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| stage | peer | peer, MB a CPU second | ours | ratio | ten times datatrove | prototype | within 25% of it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    alone = {row.stage: row for row in rows if row.peer.endswith(" alone")}
    for row in rows:
        ratio = None if row.theirs is None else row.ours / row.theirs
        prototype = PROTOTYPES.get(row.stage)
        numbers = f"{_number(row.theirs)} | {_number(row.ours)} | {_number(ratio)}"
        verdicts = f"{_ten_times(row, alone)} | {_number(prototype)} | {_within(row.ours, prototype)}"
        lines.append(f"| {row.stage} | {row.peer} | {numbers} | {verdicts} |")
    return lines


def end_to_end_table(rows: list[Whole]) -> list[str]:
    lines = [
        "| to | MB | ours, CPU s | datatrove, CPU s | ratio | ten times datatrove | ours, MB a CPU second | prototype |"
        " within 25% of it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = None if row.theirs is None else row.theirs / row.ours
        speed, prototype = row.megabytes / row.ours, PROTOTYPES_END_TO_END[row.subject]
        seconds = f"{_number(row.ours)} | {_number(row.theirs)} | {_number(ratio)} | {_asked(ratio, DATATROVE_RATIO)}"
        speeds = f"{_number(speed)} | {_number(prototype)} | {_within(speed, prototype)}"
        lines.append(f"| {row.subject} | {row.megabytes:.0f} | {seconds} | {speeds} |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _within(ours: float, prototype: float | None) -> str:
    """The verdict on three quarters of the prototype's figure, with the share that was reached."""
    share = None if prototype is None else ours / prototype
    verdict = _asked(share, PROTOTYPE_SHARE)
    return verdict if share is None else f"{verdict}, {share:.0%}"


def _ten_times(row: Row, alone: dict[str, Row]) -> str:
    if not row.peer.startswith("datatrove") or row.theirs is None:
        return "-"
    verdict = _asked(row.ours / row.theirs, DATATROVE_RATIO)
    limit = alone.get(row.stage)
    if verdict == "yes" or limit is None or limit.theirs is None:
        return verdict
    return f"{verdict}; {limit.peer} is {limit.theirs / row.theirs:.2g} times"


def _asked(value: float | None, at_least: float) -> str:
    return "-" if value is None else "yes" if value >= at_least else "no"


def measured(names: list[str], size: Size) -> Iterator[Row | str]:
    """Rows, and sentences on what could not be measured."""
    for name in names:
        load = os.getloadavg()[0]
        print(f"{name} (load {load:.1f})", file=sys.stderr, flush=True)
        try:
            yield from STAGES[name](size)
        except (ImportError, FileNotFoundError) as error:
            yield f"Not measured: {name} ({error})."


_END_TO_END = (
    "From documents on disk. CPU seconds of all processes of a command, with the interpreter's start and imports; ours "
    "takes the number of processes by itself, datatrove has two."
)


def page(found: list[Row | str], wholes: list[Whole], workers: list[str], size: Size) -> str:
    installed = []
    for package in ("numpy", "numba", "pyarrow", "datatrove", "tokenizers", "gigatoken"):
        with contextlib.suppress(PackageNotFoundError):
            installed.append(f"{package} {version(package)}")
    lines = ["# Data processing", "", "What is measured and how: the first lines of `benchmarks/bench_data.py`.", ""]
    rows = [row for row in found if isinstance(row, Row)]
    lines += table(rows) if rows else []
    lines += [line for note in found if isinstance(note, str) for line in ("", note)]
    if wholes:
        lines += ["", "## End to end", "", _END_TO_END, "", *end_to_end_table(wholes)]
    if workers:
        lines += [
            "",
            "## Workers",
            "",
            f"FineWeb's filters over {size.whole_mb[0]:g} MB in {NUM_SHARDS} shards.",
            "",
            *workers,
        ]
    lines += [
        "",
        f"{size.mb:g} MB of text for single stages, best of {size.rounds} rounds. "
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} shared cores, CPython "
        f"{platform.python_version()}, ten million additions {ten_million_additions():.2f} s; load average "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())} at the end. {', '.join(installed)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*STAGES, "whole", "workers"]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--mb", type=float, default=6.0, help="MB of text for single stages (6)")
    parser.add_argument("--whole_mb", type=float, nargs="+", default=[4.0], help="sizes end to end, in MB of text (4)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fasttext", metavar="PROGRAM", help="fastText's program")
    parser.add_argument("--ray", metavar="PYTHON", nargs="?", const=sys.executable, help="measure Ray too")
    parser.add_argument("--no_write", action="store_true", help="print the page alone")
    parser.add_argument("--workers_of", nargs=2, metavar=("DOCUMENTS", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.workers_of:
        documents, num_workers = arguments.workers_of
        print(work_of_shards(Path(documents), int(num_workers)))
        return
    if not DATA.is_dir():
        parser.error(f"no data at {DATA}: name its folder with MARIN_SHARED_DATA")
    with contextlib.suppress(ImportError):
        from datatrove.utils.logging import logger  # type: ignore[import-not-found]

        logger.remove()
    size = Size(arguments.mb, tuple(arguments.whole_mb), arguments.rounds, arguments.fasttext)
    found = list(measured([name for name in STAGES if name in arguments.only], size))
    wholes = list(end_to_end(size)) if "whole" in arguments.only else []
    workers = scaling(size, arguments.ray) if "workers" in arguments.only else []
    written = page(found, wholes, workers, size)
    print(written)
    if not arguments.no_write:
        RESULT.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
