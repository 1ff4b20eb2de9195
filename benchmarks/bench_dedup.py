"""Deduplication and decontamination: MB of text a CPU second, beside what others use for the same.

Text is that of files (--text; by default the PEPs and WikiText of the public data that $MARIN_SHARED_DATA names, or
that stand beside the checkout, and the standard library's sources), in pieces of at most 20,000 characters. Methods
take turns, so that whatever else the machine does falls on all alike; of all rounds the quickest counts. Those that
read less than a few MB a second get less text. What is measured:

    MinHash        signatures of word 5-grams, 112 hashes; ours from Arrow text, normalising; rensa and datasketch get
                   their tokens made by their users' usual line: lower case, split at white space, 5 words joined
    Bloom          lines, hashed whole, seen before or not; and DCLM's rule on 13-grams
    contamination  every 13-gram looked up among those of evaluation items
    whole          documents on disk to documents on disk with near-duplicates removed; CPU time of all processes

datatrove is given white space as its word splitter, in place of a much slower one.

    python benchmarks/bench_dedup.py                writes benchmarks/results/dedup.md
    python benchmarks/bench_dedup.py --no_write
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import resource
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from benchmarks.whole import datatrove_dedup, prepare_datatrove

from marin.processing.dedup.bloom import look_up, units_of
from marin.processing.dedup.config import BloomConfig, DedupConfig, MinHashConfig
from marin.processing.dedup.minhash import words_in
from marin.processing.dedup.run import dedup
from marin.processing.kernels import minhash
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.bloom import BloomFilter
from marin.processing.kernels.ngrams import HashSet, find_ngrams
from marin.processing.kernels.normalized_words import words_of
from marin.processing.paragraphs import paragraph_offsets

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "dedup.md"
DATA = Path(os.environ.get("MARIN_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
PIECE_CHARACTERS = 20_000
BATCH_ROWS = 400
EVALUATION_NGRAMS = 500_000
SEED = 1
# MB of text for methods by how fast they are
FAST, MIDDLE, SLOW = 1.0, 0.1, 0.02

Work = Callable[[list[str]], Any]


class Method(NamedTuple):
    """One way to do a thing."""

    subject: str
    name: str
    share: float  # of the text that it gets
    work: Work


_WHOLE = (
    "Ours in this process, which has run it once before; datatrove in two processes, whose start counts. With their "
    "start on both sides, and at other sizes, it is in data.md."
)


def read_texts(paths: list[Path], num_bytes: int) -> list[str]:
    """Pieces of the files' texts, about so many bytes in all."""
    texts, size = [], 0
    for path in paths:
        with contextlib.suppress(UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            pieces = [text[i : i + PIECE_CHARACTERS] for i in range(0, len(text), PIECE_CHARACTERS)]
            texts += pieces
            size += sum(len(piece.encode()) for piece in pieces)
        if size >= num_bytes:
            return texts
    return texts


def default_paths() -> list[Path]:
    texts = [*sorted((DATA / "text").glob("*.txt")), *sorted((DATA / "text" / "peps").glob("*.rst"))]
    return texts + sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))


def batches(texts: list[str]) -> list[pa.RecordBatch]:
    return [
        pa.RecordBatch.from_pydict({"text": pa.array(texts[i : i + BATCH_ROWS], pa.string())})
        for i in range(0, len(texts), BATCH_ROWS)
    ]


# --- ours


def our_signatures(texts: list[str]) -> None:
    config = MinHashConfig()
    family = minhash.hash_family(config.num_hashes, SEED)
    for batch in batches(texts):
        words = words_in(batch, config)
        minhash.band_hashes(minhash.signatures(words.hashes, words.offsets, config.ngram, family), config.num_bands)


def reference_signatures(texts: list[str]) -> None:
    config = MinHashConfig()
    family = minhash.hash_family(config.num_hashes, SEED)
    for batch in batches(texts):
        words = words_in(batch, config)
        for first, end in zip(words.offsets, words.offsets[1:], strict=False):
            minhash.signature_of(minhash.shingles(words.hashes[first:end], config.ngram), family)


def our_bloom(config: BloomConfig) -> Work:
    def work(texts: list[str]) -> None:
        parts = batches(texts)
        num_units = config.num_units or sum(len(units_of(*text_buffer(p.column("text")), config).hashes) for p in parts)
        seen = BloomFilter.sized(num_units, config.false_positive_rate)
        for batch in parts:
            look_up(batch, seen, config)

    return work


def evaluation_ngrams() -> np.ndarray:
    return np.unique(np.random.default_rng(0).integers(1, 2**63, EVALUATION_NGRAMS, dtype=np.uint64))


def our_contamination(texts: list[str]) -> None:
    for batch in batches(texts):
        data, text_offsets = text_buffer(batch.column("text"))
        words = words_of(data, paragraph_offsets(data, text_offsets))
        find_ngrams(words.hashes, words.offsets, 13, 3, _EVALUATION)


_EVALUATION = HashSet.of(evaluation_ngrams())


# --- others, where they are installed


def others() -> Iterator[Method]:
    with contextlib.suppress(ImportError):
        from rensa import RMinHash  # type: ignore[import-not-found]

        def rensa_signatures(texts: list[str]) -> None:
            for text in texts:
                signature = RMinHash(112, SEED)
                signature.update(spaced_shingles(text))
                signature.digest()

        yield Method("MinHash", f"rensa {version('rensa')}", MIDDLE, rensa_signatures)
    with contextlib.suppress(ImportError):
        from datasketch import MinHash  # type: ignore[import-not-found]

        def datasketch_signatures(texts: list[str]) -> None:
            for text in texts:
                signature = MinHash(num_perm=112, seed=SEED)
                signature.update_batch([shingle.encode() for shingle in spaced_shingles(text)])

        yield Method("MinHash", f"datasketch {version('datasketch')}", MIDDLE, datasketch_signatures)
    with contextlib.suppress(ImportError):
        yield from datatrove_methods()


def spaced_shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + 5]) for i in range(len(words) - 4)]


def datatrove_methods() -> Iterator[Method]:
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.pipeline.decont.n_grams import (  # type: ignore[import-not-found]
        NGramsDecontConfig,
        NGramsDecontFilter,
    )
    from datatrove.pipeline.dedup.bloom_filter import (  # type: ignore[import-not-found]
        BloomFilterConfig,
        SingleBloomFilter,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature  # type: ignore[import-not-found]

    prepare_datatrove()
    name = f"datatrove {version('datatrove')}"
    folder = tempfile.mkdtemp()

    def signatures(texts: list[str]) -> None:
        step = MinhashDedupSignature(folder, MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))
        for text in texts:
            shingles = step.get_shingles(text)
            if shingles.size:
                step.get_signature(shingles)

    def bloom(texts: list[str]) -> None:
        step = SingleBloomFilter(folder, BloomFilterConfig(m_bytes=1 << 20, k=7, n_grams=13))
        for i, text in enumerate(texts):
            step.step(Document(text=text, id=str(i)))

    def contamination(texts: list[str]) -> None:
        step = NGramsDecontFilter(folder, NGramsDecontConfig(n_grams=13))
        step._index_hashes = dict.fromkeys(evaluation_ngrams()[:EVALUATION_NGRAMS].tolist(), "task")
        for i, text in enumerate(texts):
            step.filter(Document(text=text, id=str(i)))

    yield Method("MinHash", name, SLOW, signatures)
    yield Method("Bloom, 13-grams", name, SLOW, bloom)
    yield Method("contamination, 13-grams", name, SLOW, contamination)


OURS = [
    Method("MinHash", "marin", FAST, our_signatures),
    Method("MinHash", "marin, numpy reference", MIDDLE, reference_signatures),
    Method("Bloom, whole lines", "marin", FAST, our_bloom(BloomConfig(ngram=None, num_units=1_000_000))),
    Method("Bloom, 13-grams", "marin", FAST, our_bloom(BloomConfig(num_units=4_000_000))),
    Method("contamination, 13-grams", "marin", FAST, our_contamination),
]


def race(methods: list[Method], texts: list[str], rounds: int) -> dict[Method, float]:
    """MB a CPU second of every method, its best round."""
    given = {method: texts[:: max(1, round(1 / method.share))] for method in methods}
    sizes = {method: sum(len(text.encode()) for text in mine) / 1e6 for method, mine in given.items()}
    best: dict[Method, float] = {}
    for method in methods:  # what is compiled or loaded the first time
        method.work(given[method][:2])
    for _ in range(rounds):
        for method in methods:
            start = time.process_time()
            method.work(given[method])
            took = time.process_time() - start
            best[method] = min(took, best.get(method, took))
    return {method: sizes[method] / took for method, took in best.items()}


# --- the whole thing


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, nothing is printed, by processes that are started neither."""
    kept = [os.dup(number) for number in (1, 2)]
    with open(os.devnull, "w") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
        try:
            yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def all_cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def whole(texts: list[str], folder: Path) -> list[tuple[str, float, float, int]]:
    """(name, MB, CPU seconds, documents left) of deduplicating files of documents."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    documents = folder / "documents"
    documents.mkdir()
    rows = [{"id": str(i), "text": text, "source": "text", "metadata": {}} for i, text in enumerate(texts)]
    for shard in range(4):
        lines = [json.dumps(row) + "\n" for row in rows[shard::4]]
        (documents / f"{shard}.jsonl").write_text("".join(lines))
    config = DedupConfig(
        input_path=str(documents),
        output_path=str(folder / "marin"),
        method=MinHashConfig(),
        max_removed_per_source=1.0,
    )
    (folder / "few").mkdir()
    (folder / "few" / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], *rows[:3]]))
    with silent():  # what is compiled the first time, and kept
        dedup(replace(config, input_path=str(folder / "few"), output_path=str(folder / "compiled")))
        start = all_cpu_seconds()
        report = dedup(config).as_dict()
    results = [("marin", size, all_cpu_seconds() - start, report["kept"])]
    with contextlib.suppress(ImportError):
        start = all_cpu_seconds()
        with silent():
            datatrove_dedup(documents, folder / "datatrove")
        left = (folder / "datatrove" / "left").glob("*.jsonl")
        kept = sum(len(file.read_text().splitlines()) for file in left)
        results.append((f"datatrove {version('datatrove')}", size, all_cpu_seconds() - start, kept))
    return results


# --- the page


def ten_million_additions() -> float:
    start, x = time.process_time(), 0
    for _ in range(10_000_000):
        x += 1  # noqa: SIM113
    return time.process_time() - start


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def page(speeds: dict[Method, float], wholes: list[tuple[str, float, float, int]], num_bytes: float) -> str:
    lines = ["# Deduplication and decontamination", ""]
    lines += ["What is measured and how: the first lines of `benchmarks/bench_dedup.py`.", ""]
    lines += ["| subject | by | MB a CPU second | marin is |", "|---|---|---|---|"]
    ours = {method.subject: speed for method, speed in speeds.items() if method.name == "marin"}
    for method, speed in sorted(speeds.items(), key=lambda item: (item[0].subject, -item[1])):
        ratio = "" if method.name == "marin" else f"{ours[method.subject] / speed:,.0f} times as fast"
        lines.append(f"| {method.subject} | {method.name} | {speed:,.{2 if speed < 10 else 0}f} | {ratio} |")
    if wholes:
        lines += ["", "## From documents to documents", "", _WHOLE, ""]
        lines += ["| by | MB | CPU seconds | documents left |", "|---|---|---|---|"]
        lines += [f"| {name} | {size:,.0f} | {took:,.1f} | {kept:,} |" for name, size, took, kept in wholes]
    installed = []
    for package in ("numpy", "numba", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            installed.append(f"{package} {version(package)}")
    lines += [
        "",
        f"{num_bytes / 1e6:,.0f} MB of text. Machine: {processor()}, {os.cpu_count()} shared cores, CPython "
        f"{platform.python_version()}, ten million additions {ten_million_additions():.2f} s. {', '.join(installed)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", help="text files, or folders of them")
    parser.add_argument("--mb", type=float, default=30.0, help="MB of text for the fast methods")
    parser.add_argument("--whole_mb", type=float, default=8.0, help="MB of text from documents to documents; 0: not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no_write", action="store_true", help="print the page alone")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with contextlib.suppress(ImportError):
        from loguru import logger  # type: ignore[import-not-found]

        logger.remove()

    given = arguments.text or default_paths()
    paths = [file for path in given for file in (sorted(path.rglob("*.*")) if path.is_dir() else [path])]
    texts = read_texts(paths, int(arguments.mb * 1e6))
    num_bytes = sum(len(text.encode()) for text in texts)
    if not num_bytes:
        sys.exit("no text was found: name files with --text")
    with np.errstate(over="ignore"):  # datatrove's hash family overflows
        speeds = race([*OURS, *others()], texts, arguments.rounds)
    wholes = []
    if arguments.whole_mb:
        with tempfile.TemporaryDirectory() as folder:
            some = texts[:: max(1, round(arguments.mb / arguments.whole_mb))]
            wholes = whole(some, Path(folder))
    written = page(speeds, wholes, num_bytes)
    print(written)
    if not arguments.no_write:
        RESULT.write_text(written)


if __name__ == "__main__":
    main()
