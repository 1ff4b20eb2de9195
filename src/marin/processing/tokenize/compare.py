"""What several tokenizers make of the same documents, source by source, with error bars.

A tokenizer is chosen for few tokens on the text one cares about, a vocabulary that is used, and text that comes back.
So documents are drawn from each source (by a hash of their ids: the same ones on every machine and whatever the order),
every tokenizer encodes all of them, and documents, not tokens, are the units that the bootstrap draws again: tokens of
one document are not independent. Tokenizers meet the same resamples, so that their ratio has a much smaller error than
their difference would suggest.

Speed depends on the machine and stands in a file of its own; the results do not change from run to run. The price of
comparing round trips is that every document is decoded by the reference library.
"""

import hashlib
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marin.io.atomic import write_text
from marin.processing.tokenize.config import CompareTokenizersConfig
from marin.processing.tokenize.encoder import TokenRows, Utf8Texts, utf8_texts
from marin.processing.tokenize.inputs import plan_inputs
from marin.processing.tokenize.tokenizer import NoEndOfTextError, Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from marin.processing.formats.record import BadRecord

ALL = "all"  # the sources together
COVERED = 0.9  # of the tokens, by the most frequent ids
_RESAMPLES_AT_ONCE = 64
RESULTS, TIMING, REPORT = "results.json", "timing.json", "report.md"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio over documents with its 95 % interval: quantiles of the ratio over documents drawn with replacement."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SourceResult:
    """One tokenizer on the documents of one source."""

    tokenizer: str
    source: str
    documents: int
    text_bytes: int
    words: int  # what stands between white space
    tokens: int
    bytes_per_token: Interval
    tokens_per_word: Interval  # fertility
    tokens_relative: Interval  # to those of the first tokenizer, on the same resamples
    round_trip_failures: int  # documents that are not given back


@dataclass(frozen=True, kw_only=True)
class VocabularyResult:
    """How much of a tokenizer's vocabulary the documents use."""

    tokenizer: str
    vocab_size: int
    ids_seen: int
    share_seen: float  # of the ids that stand for text
    ids_for_most: int  # the most frequent ids that make up COVERED of the tokens


@dataclass(frozen=True, kw_only=True)
class SpeedResult:
    """MB of text a processor second, on this machine; of the fast encoder after it has seen the text once, too."""

    tokenizer: str
    encoder: str
    first_mb_per_s: float
    again_mb_per_s: float
    reference_mb_per_s: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that was found."""

    sources: tuple[SourceResult, ...]
    vocabularies: tuple[VocabularyResult, ...]
    speeds: tuple[SpeedResult, ...]
    bad_rows: dict[str, int]  # by kind, left out

    def results(self) -> dict[str, Any]:
        """What results.json has: everything but the speeds."""
        return {
            "format_version": "1.0",
            "sources": [asdict(result) for result in self.sources],
            "vocabularies": [asdict(result) for result in self.vocabularies],
            "bad_rows": self.bad_rows,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """Documents of one source."""

    source: str
    texts: Utf8Texts
    words: np.ndarray  # int64, of each


def compare_tokenizers(config: CompareTokenizersConfig) -> Comparison:
    """Compare, and write results.json, timing.json and report.md into the output folder where there is one.

    Raises ValueError where an input has no documents or a tokenizer cannot be used.
    """
    names = sorted(config.tokenizers, key=lambda name: name != config.relative_to)  # that one first, others as they are
    tokenizers = {name: _load(config.tokenizers[name]) for name in names}
    samples, bad_rows = draw_documents(config)
    encoded = {
        name: [tokenizer.encoders.oracle.encode(sample.texts) for sample in samples]
        for name, tokenizer in tokenizers.items()
        if not config.measure_speed
    }
    speeds = []
    for name, tokenizer in tokenizers.items():
        if config.measure_speed:
            speed, encoded[name] = _measure(name, tokenizer, samples)
            speeds.append(speed)
    comparison = Comparison(
        sources=tuple(_compare_sources(tokenizers, samples, encoded, config)),
        vocabularies=tuple(_vocabulary(name, tokenizers[name], rows) for name, rows in encoded.items()),
        speeds=tuple(speeds),
        bad_rows=bad_rows,
    )
    if config.output_path is not None:
        _write(comparison, Path(config.output_path))
    return comparison


def draw_documents(config: CompareTokenizersConfig) -> tuple[list[_Sample], dict[str, int]]:
    """The documents to compare on, by source, and counts of the rows that are none.

    Of each source those `max_documents` with the smallest hashes of seed and id; a document belongs to the source that
    its row names, and where it names none to the input.
    """
    kept: dict[str, list[tuple[int, str, str]]] = {}  # source -> heap of (minus the hash, id, text)
    bad: Counter[str] = Counter()
    for name, path in config.inputs.items():
        for document_id, text, source in _documents(path, config.format, bad):
            heap = kept.setdefault(source or name, [])
            digest = hashlib.blake2b(f"{config.seed} {document_id}".encode(), digest_size=8).digest()
            entry = (-int.from_bytes(digest, "big"), document_id, text)
            if len(heap) < config.max_documents:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    if not kept:
        raise ValueError(f"no documents with text in {', '.join(config.inputs.values())}")
    samples = []
    for source in sorted(kept):
        texts = [text for _, _, text in sorted(kept[source], reverse=True)]
        words = np.array([len(text.split()) for text in texts], np.int64)
        samples.append(_Sample(source=source, texts=utf8_texts(texts), words=words))
    return samples, dict(sorted(bad.items()))


def _documents(path: str, format: str | None, bad: Counter[str]) -> Iterator[tuple[str, str, str]]:
    from marin.processing.formats.reading import read_split

    def on_bad(record: "BadRecord") -> None:
        bad[record.kind] += 1

    for split in plan_inputs(path, format=format):
        for batch in read_split(split, columns=("id", "text", "source"), on_bad=on_bad):
            columns = (batch.column(name).to_pylist() for name in ("id", "text", "source"))
            yield from (row for row in zip(*columns, strict=True) if row[1])


def _load(path: str) -> Tokenizer:
    """A tokenizer; one that does not say what ends a text will do, since no text is ended here."""
    try:
        return load_tokenizer(path)
    except NoEndOfTextError as error:
        if not error.special_tokens:
            raise
        return load_tokenizer(path, eos_token=error.special_tokens[0])


def _measure(name: str, tokenizer: Tokenizer, samples: list[_Sample]) -> tuple[SpeedResult, list[TokenRows]]:
    """Speeds, and the ids of the reference. AssertionError where the fast encoder gives others."""
    choice = tokenizer.encoders.best(samples[0].texts)
    if choice.reason is not None:
        print(f"compare: {name} is encoded by tokenizers: {choice.reason}", file=sys.stderr, flush=True)
    megabytes = sum(int(sample.texts.num_bytes.sum()) for sample in samples) / 1e6
    seconds, results = [], []
    for encoder in (choice.encoder, choice.encoder, tokenizer.encoders.oracle):
        began = time.process_time()
        results.append([encoder.encode(sample.texts) for sample in samples])
        seconds.append(max(time.process_time() - began, 1e-9))
    fast, _, reference = results
    assert all(one.equals(other) for one, other in zip(fast, reference, strict=True)), f"{name}: encoders differ"
    speed = SpeedResult(
        tokenizer=name,
        encoder=choice.encoder.name,
        first_mb_per_s=round(megabytes / seconds[0], 2),
        again_mb_per_s=round(megabytes / seconds[1], 2),
        reference_mb_per_s=round(megabytes / seconds[2], 2),
    )
    return speed, reference


def _compare_sources(
    tokenizers: dict[str, Tokenizer],
    samples: list[_Sample],
    encoded: dict[str, list[TokenRows]],
    config: CompareTokenizersConfig,
) -> Iterator[SourceResult]:
    failures = {
        name: [
            _failures(tokenizers[name], sample.texts, rows) for sample, rows in zip(samples, encoded[name], strict=True)
        ]
        for name in tokenizers
    }
    groups: list[tuple[str, list[int]]] = [(sample.source, [index]) for index, sample in enumerate(samples)]
    if len(groups) > 1:
        groups.append((ALL, list(range(len(samples)))))
    for source, indices in groups:
        text_bytes = np.concatenate([samples[i].texts.num_bytes for i in indices])
        words = np.concatenate([samples[i].words for i in indices])
        tokens = {name: np.concatenate([np.diff(rows[i].offsets) for i in indices]) for name, rows in encoded.items()}
        first = tokens[next(iter(tokens))]
        for name in tokenizers:
            sums = resampled_sums(
                np.stack([text_bytes, words, tokens[name], first]), config.num_resamples, seed=config.seed
            )
            yield SourceResult(
                tokenizer=name,
                source=source,
                documents=len(text_bytes),
                text_bytes=int(text_bytes.sum()),
                words=int(words.sum()),
                tokens=int(tokens[name].sum()),
                bytes_per_token=_interval(text_bytes.sum(), tokens[name].sum(), sums[0], sums[2]),
                tokens_per_word=_interval(tokens[name].sum(), words.sum(), sums[2], sums[1]),
                tokens_relative=_interval(tokens[name].sum(), first.sum(), sums[2], sums[3]),
                round_trip_failures=sum(failures[name][i] for i in indices),
            )


def resampled_sums(values: np.ndarray, num_resamples: int, *, seed: int) -> np.ndarray:
    """Sums of each row of `values` (num_rows, n) over n columns drawn with replacement: (num_rows, num_resamples).

    All rows are summed over the same columns, and equal seeds draw the same ones for equal n.
    """
    rng = np.random.default_rng(seed)
    n = values.shape[1]
    sums = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(_RESAMPLES_AT_ONCE, num_resamples - start))
        sums.append(values @ times.T)
    return np.concatenate(sums, axis=1)


def _interval(numerator: int, denominator: int, numerators: np.ndarray, denominators: np.ndarray) -> Interval:
    ratios = numerators / np.maximum(denominators, 1)
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return Interval(value=float(numerator / max(int(denominator), 1)), low=low, high=high)


def _failures(tokenizer: Tokenizer, texts: Utf8Texts, rows: TokenRows) -> int:
    return sum(tokenizer.decode(ids) != texts[index] for index, ids in enumerate(rows))


def _vocabulary(name: str, tokenizer: Tokenizer, rows: list[TokenRows]) -> VocabularyResult:
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for each in rows:
        counts += np.bincount(each.ids, minlength=tokenizer.vocab_size)
    falling = np.cumsum(np.sort(counts)[::-1])
    num_text_ids = int((tokenizer.token_byte_lengths() > 0).sum())
    return VocabularyResult(
        tokenizer=name,
        vocab_size=tokenizer.vocab_size,
        ids_seen=int((counts > 0).sum()),
        share_seen=float((counts > 0).sum() / num_text_ids),
        ids_for_most=int(np.searchsorted(falling, COVERED * falling[-1])) + 1,
    )


def report_lines(comparison: Comparison) -> list[str]:
    """The results as Markdown tables."""
    lines = [
        "# Tokenizers compared",
        "",
        "Intervals are 95 %, from documents drawn with replacement. Fewer tokens are better: more bytes a token, fewer "
        "tokens a word; *relative* is the number of tokens beside that of the first tokenizer, on the same documents.",
        "",
        "| source | tokenizer | documents | MB | bytes a token | tokens a word | relative | not given back |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {result.source} | {result.tokenizer} | {result.documents:,} | {result.text_bytes / 1e6:.2f} | "
        f"{shown(result.bytes_per_token)} | {shown(result.tokens_per_word)} | {shown(result.tokens_relative)} | "
        f"{result.round_trip_failures:,} |"
        for result in comparison.sources
    ]
    lines += [
        "",
        f"| tokenizer | vocabulary | ids seen | share of it | ids that make up {COVERED:.0%} of the tokens |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {result.tokenizer} | {result.vocab_size:,} | {result.ids_seen:,} | {result.share_seen:.1%} | "
        f"{result.ids_for_most:,} |"
        for result in comparison.vocabularies
    ]
    if comparison.bad_rows:
        told = ", ".join(f"{count:,} {kind}" for kind, count in comparison.bad_rows.items())
        lines += ["", f"Rows that are no documents, left out: {told}."]
    return lines


def shown(interval: Interval) -> str:
    """A value with its interval, for people."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _write(comparison: Comparison, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / RESULTS, json.dumps(comparison.results(), indent=1) + "\n")
    write_text(output / REPORT, "\n".join(report_lines(comparison)) + "\n")
    if comparison.speeds:
        timing = {"format_version": "1.0", "speeds": [asdict(speed) for speed in comparison.speeds]}
        write_text(output / TIMING, json.dumps(timing, indent=1) + "\n")
