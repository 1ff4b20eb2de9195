"""How many megabytes of text do the filters see in a second, and do they decide as datatrove does?

The text is public: enhancement proposals, articles, plays, and web pages with their tags taken out and the menus left
in (a folder of public data is named by $MARIN_SHARED_DATA or stands beside the checkout). Ours and the peer take turns,
round by round, so that whatever else the machine does falls on both; CPU seconds of one process count, of all rounds
the least. The peer is datatrove with words split at whitespace, as ours are by default, instead of by spaCy, and with
no sentences counted. It sees a part of the texts, since it is slow; neither has a start-up in its time. "All of
fineweb" is the whole preset, from record batches to what stays.

Decisions are compared rule by rule, each rule alone. What C4 makes of a text is compared as text. Its count of
sentences has no one definition, so it is compared where it decides: on whole texts, and on pieces near the threshold.

    python benchmarks/bench_filters.py                writes benchmarks/results/filters.md
    python benchmarks/bench_filters.py --no_write

It needs datatrove==0.10.1 and spacy beside this package.
"""

import argparse
import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from benchmarks import filter_peers
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter

from marin.processing.filter.c4 import C4, C4Paragraphs
from marin.processing.filter.compression import CompressionRatio
from marin.processing.filter.dclm import DclmLines
from marin.processing.filter.filters import Filter
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.pii import MaskPii
from marin.processing.filter.presets import PRESETS
from marin.processing.filter.run import steps
from marin.processing.kernels.line_edits_reference import c4_lines_reference
from marin.processing.kernels.text_signals_reference import text_signals_reference
from marin.processing.pipeline import BatchResult, parse
from marin.processing.pipeline.evaluate import evaluate

RESULT = Path(__file__).resolve().parent / "results" / "filters.md"
SHARED = Path(os.environ.get("MARIN_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PIECE_CHARS = 700
BATCH_BYTES = 4 << 20


class Case(NamedTuple):
    """Something that is timed: ours on batches, the plain Python beside it, the peer, both on texts."""

    name: str
    ours: Callable[[pa.RecordBatch], Any]
    plain: Callable[[str], Any] | None
    peer: Callable[[str], Any] | None


def read_texts(max_bytes: int) -> list[str]:
    """The texts, each with a word, mixed in a fixed order."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((SHARED / "text/peps").glob("*.rst"))]
    for name in ("valid", "test"):
        texts += re.split(r"\n = (?!=)", (SHARED / f"text/wikitext2_{name}.txt").read_text(encoding="utf-8"))
    play = (SHARED / "text/tinyshakespeare.txt").read_text(encoding="utf-8")
    texts += [play[start : start + 5000] for start in range(0, len(play), 5000)]
    for path in sorted((SHARED / "html/trafilatura/eval").glob("*.html")):
        page = path.read_text(encoding="utf-8", errors="replace")
        texts.append(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", "", page))
    texts = sorted((text for text in texts if text.strip()), key=hash_of)
    total = 0
    for number, text in enumerate(texts):
        total += len(text.encode())
        if total > max_bytes:
            return texts[:number]
    return texts


def hash_of(text: str) -> bytes:
    import hashlib

    return hashlib.sha256(text.encode()).digest()


def batches_of(texts: list[str]) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = []
    part: list[str] = []
    for text in [*texts, None]:
        if part and (text is None or sum(map(len, part)) + len(text) > BATCH_BYTES):
            ids = [f"{len(batches)}-{row}" for row in range(len(part))]
            batches.append(pa.record_batch({"id": ids, "text": part, "metadata": ["{}"] * len(part)}))
            part = []
        if text is not None:
            part.append(text)
    return batches


def operations(*filters: Filter, decide: bool = False) -> Callable[[pa.RecordBatch], Any]:
    """All measures and edits of a chain, and with `decide` its rules."""
    chain = [step.operation for step in steps(filters) if decide or hasattr(step.operation, "adds")]

    def apply(batch: pa.RecordBatch) -> pa.RecordBatch:
        for operation in chain:
            result = operation(batch)
            batch = result.batch if isinstance(result, BatchResult) else result
        return batch

    return apply


def peer_chain() -> Callable[[str], Any]:
    """FineWeb's filters as datatrove has them, sentences not counted."""
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=-1),
        FineWebQualityFilter(),
    ]
    mask = PIIFormatter()

    def apply(text: str) -> Any:
        document = Document(text=text, id="")
        if all(each.filter(document) is True for each in filters):
            document.text = mask.format(document.text)

    return apply


def cases() -> list[Case]:
    """What is timed."""
    filter_peers.whitespace_words()
    quality, repetition, fineweb = GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()
    c4, mask = C4QualityFilter(min_num_sentences=-1), PIIFormatter()

    def three(text: str) -> None:
        document = Document(text=text, id="")
        for each in (quality, repetition, fineweb):
            each.filter(document)

    signals = operations(GopherQuality(), GopherRepetition(), FineWebQuality(), C4Paragraphs())
    unicode_signals = operations(
        GopherQuality(words="unicode"), GopherRepetition(words="unicode"), FineWebQuality(words="unicode")
    )
    return [
        Case("31 signals of Gopher, repetition, FineWeb, mC4", signals, text_signals_reference, three),
        Case("the same, words by Unicode's rules", unicode_signals, None, None),
        Case("C4's line edits", operations(C4()), c4_lines_reference, lambda text: c4.filter(Document(text, ""))),
        Case("DCLM's line edits", operations(DclmLines()), None, None),
        Case("LZ4 ratio", operations(CompressionRatio()), None, None),
        Case("zstd-1 ratio", operations(CompressionRatio(codec="zstd", level=1)), None, None),
        Case("masked addresses", operations(MaskPii()), None, mask.format),
        Case("all of fineweb", operations(*PRESETS["fineweb"], decide=True), None, peer_chain()),
    ]


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(case: Case, texts: list[str], part: list[str], rounds: int) -> list[str]:
    """A row: megabytes a CPU second of ours, of the plain form, of the peer, and the ratio to the peer."""
    batches = batches_of(texts)
    megabytes, part_megabytes = (sum(len(text.encode()) for text in some) / 1e6 for some in (texts, part))
    case.ours(batches[0])  # compiles
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, work, size in (
            ("ours", lambda: [case.ours(batch) for batch in batches], megabytes),
            ("plain", case.plain and (lambda: [case.plain(text) for text in part]), part_megabytes),
            ("peer", case.peer and (lambda: [case.peer(text) for text in part]), part_megabytes),
        ):
            if work:
                best[name] = max(best.get(name, 0.0), size / cpu_seconds(work))
    shown = [f"{best[name]:.3g}" if name in best else "-" for name in ("ours", "plain", "peer")]
    return [case.name, *shown, f"{best['ours'] / best['peer']:,.0f}" if "peer" in best else "-"]


def agreement(texts: list[str]) -> list[list[str]]:
    """A row for each rule: texts that both drop, that only we do, that only datatrove does."""
    peers = filter_peers.datatrove_rules()
    given: list[Filter] = [GopherQuality(), GopherRepetition(), FineWebQuality(), C4(), C4Paragraphs()]
    batch = pa.record_batch({"id": [str(row) for row in range(len(texts))], "text": texts})
    rows = []
    for each in given:
        measured = operations(each)(batch)
        for rule in each.rules():
            if rule.name not in peers:
                continue
            ours = evaluate(parse(rule.keep), measured).to_pylist()
            found = [filter_peers.decision(peers[rule.name], text) for text in texts]
            theirs = [kept is True or kept != filter_peers.REASONS.get(rule.name, kept) for kept in found]
            pairs = list(zip(ours, theirs, strict=True))
            rows.append(
                [rule.name, *(str(pairs.count(pair)) for pair in ((False, False), (False, True), (True, False)))]
            )
    edited = operations(C4())(batch).column("text").to_pylist()
    different = sum(filter_peers.c4_text(text) != kept for text, kept in zip(texts, edited, strict=True))
    rows.append([f"text after C4's edits: {different} of {len(texts)} differ", "", "", ""])
    return rows


def sentences(texts: list[str]) -> list[list[str]]:
    """Rows on C4's count of sentences: whole texts, and pieces with about as many sentences as are asked for."""
    min_sentences = C4().min_sentences
    assert min_sentences is not None
    pieces = [text[start : start + PIECE_CHARS] for text in texts for start in range(0, len(text), PIECE_CHARS)]
    rows = []
    for name, part in (("", texts), (f", of {len(pieces):,} pieces of {PIECE_CHARS} characters", pieces)):
        measured = operations(C4())(pa.record_batch({"id": [str(row) for row in range(len(part))], "text": part}))
        ours = measured.column("c4.num_sentences").to_pylist()
        theirs = [filter_peers.num_sentences(text) for text in measured.column("text").to_pylist()]
        pairs = [(one < min_sentences, other < min_sentences) for one, other in zip(ours, theirs, strict=True)]
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True))]
        rows.append([f"c4.few_sentences{name}", *(f"{count:,}" for count in counts)])
        if not name:
            rows.append([f"sentences counted: {sum(ours):,} by marin, {sum(theirs):,} by datatrove", "", "", ""])
    return rows


def machine() -> str:
    def count() -> int:
        x = 0
        for _ in range(10_000_000):
            x = x + 1
        return x

    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "CPU")
    best = min(cpu_seconds(count) for _ in range(5))
    return (
        f"{model}, {os.cpu_count()} shared cores, CPython {platform.python_version()}, "
        f"ten million additions {best:.2f} s; numba {version('numba')}, datatrove {version('datatrove')}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_mb", type=float, default=12.0, help="of text, for ours")
    parser.add_argument("--peer_mb", type=float, default=0.8, help="of it, for the peer and plain Python")
    parser.add_argument("--no_write", action="store_true")
    arguments = parser.parse_args()
    texts, part = read_texts(int(arguments.max_mb * 1e6)), read_texts(int(arguments.peer_mb * 1e6))
    speed = [measure(case, texts, part, arguments.rounds) for case in cases()]
    size = sum(len(text.encode()) for text in texts) / 1e6
    pages = [
        "# Filters",
        "What is measured and how: the first lines of `benchmarks/bench_filters.py`.",
        f"## Megabytes a CPU second, one core\n\n{len(texts):,} texts, {size:.1f} MB.",
        table(["", "marin", "plain Python", "datatrove", "ratio"], speed),
        "## Decisions\n\nTexts that a rule alone drops.",
        table(["rule", "both drop", "only marin", "only datatrove"], agreement(texts) + sentences(texts)),
        "Hash signs and ellipses share one setting in datatrove: where there are too many of both, it names the first. "
        "Sentences of English are counted there by the rules of spaCy's sentencizer, here by ours, which asks whether "
        "a capital letter follows.\n\n"
        f"Machine: {machine()}",
    ]
    text = "\n\n".join(pages) + "\n"
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
