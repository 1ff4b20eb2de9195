"""How likely is a model to write a document out again? P(z) over windows that slide along it.

A window z is k + m tokens of the document that follow one another. With the first k for a prompt, one draw from the
model as it is (temperature 1, nothing cut off) gives the other m with probability

    p_z = prod_{i = k+1 .. k+m} p(z_i | z_1, ..., z_{i-1})

and n draws give them at least once with probability 1 - (1 - p_z)^n: the window is (n, p)-discoverable where that is p
or more (Hayes et al., "Measuring memorization through probabilistic discoverable extraction", 2024; over a whole book,
and with windows of 50 + 50 tokens, Cooper et al., "Extracting memorized pieces of (copyrighted) books from open-weight
language models", 2025). The m tokens of text without surprise are likely too, so a high p_z alone does not prove that a
text was seen in training; a text that was certainly not is the measure.

Each window is read alone, as a stranger would prompt with it: only a BOS stands in front, where training had one before
its documents. So nothing is shared between windows that overlap, and the price of a stride s is (k + m) / s times the
tokens of the document. `marin.training.memorization` asks the same of document beginnings while a model is trained.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marin.evaluation.config import DocumentMemorizationConfig
from marin.evaluation.exported import open_export
from marin.evaluation.memorization_plot import document_svg
from marin.evaluation.results import TaskResult, format_score, metric_entry, write_results
from marin.evaluation.scoring import NotFiniteError, Progress, ScoredModel, check_vocabulary, resolve_prefix, score_rows
from marin.evaluation.statistics import mean_estimate
from marin.evaluation.tasks import prompt_hash
from marin.io.atomic import write_bytes
from marin.io.records import LineReader, find_record_files, write_records
from marin.processing.document import BadRow, Document, parse_documents
from marin.processing.tokenize.tokenizer import Tokenizer

TASK = "memorization"
TASK_VERSION = 1
WINDOWS_FILE, TABLE_FILE, PLOTS_FOLDER = "windows.jsonl.gz", "memorization.md", "plots"


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """The windows of one document, and how likely the model is to complete each."""

    doc_id: str
    num_tokens: int
    """Tokens of the document."""
    num_characters: int
    """Characters of the document."""
    starts: np.ndarray
    """int64 (w,): index of each window's first token."""
    suffix_characters: np.ndarray
    """int64 (w, 2): the characters begin..end of the document that lie wholly in the suffix of each window."""
    log_probabilities: np.ndarray
    """float64 (w,): ln p_z, which does not vanish where p_z does."""

    def best_by_character(self) -> np.ndarray:
        """float64 (num_characters,): the largest ln p_z of all suffixes that a character lies in; -inf in none."""
        best = np.full(self.num_characters, -np.inf)
        for (begin, end), value in zip(self.suffix_characters, self.log_probabilities, strict=True):
            np.maximum(best[begin:end], value, out=best[begin:end])
        return best

    def share_over(self, threshold: float) -> float:
        """Share of windows with p_z >= threshold."""
        return float(np.mean(self.log_probabilities >= math.log(threshold)))

    def characters_over(self, threshold: float) -> float:
        """Share of the document's characters that lie in the suffix of a window with p_z >= threshold."""
        return float(np.mean(self.best_by_character() >= math.log(threshold)))


def extraction_probability(log_probabilities: np.ndarray | float, num_draws: int) -> np.ndarray:
    """1 - (1 - p_z)^n of ln p_z, exact for p_z near 0 and near 1; float64 of the shape given."""
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; expected 1 or more")
    values = np.asarray(log_probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return -np.expm1(num_draws * _log_of_rest(values))


def draws_needed(log_probabilities: np.ndarray | float, probability: float) -> np.ndarray:
    """The fewest draws n with 1 - (1 - p_z)^n >= probability, of ln p_z; float64, for it may be more than an integer
    holds, and inf where p_z is 0."""
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; expected more than 0 and less than 1")
    values = np.asarray(log_probabilities, np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        exact = math.log1p(-probability) / _log_of_rest(values)
    return np.maximum(1.0, np.ceil(exact * (1 - 1e-12)))


def _log_of_rest(log_probabilities: np.ndarray) -> np.ndarray:
    """ln(1 - p)."""
    return np.log1p(-np.exp(np.minimum(log_probabilities, 0.0)))


def window_starts(num_tokens: int, length: int, stride: int) -> np.ndarray:
    """int64 (w,): where windows of `length` tokens begin; the last ends with the document; a shorter one has none."""
    if length < 1 or stride < 1:
        raise ValueError(f"length {length} and stride {stride} must be at least one token each")
    last = num_tokens - length
    if last < 0:
        return np.zeros(0, np.int64)
    starts = np.arange(0, last + 1, stride, dtype=np.int64)
    return starts if starts[-1] == last else np.append(starts, last)


def score_documents(
    model: ScoredModel,
    tokenizer: Tokenizer,
    documents: Sequence[tuple[str, str]],
    *,
    prefix_length: int,
    suffix_length: int,
    stride: int,
    progress: Progress | None = None,
) -> list[Windows]:
    """The windows of each document (id, text), in their order; a document shorter than a window has none.

    Raises ValueError for windows longer than the model reads, and for a text that its tokens do not give back, since
    characters could not be told from tokens then; NotFiniteError, which is one, for a model that gives no number.
    """
    check_vocabulary(model, tokenizer)
    lead = [tokenizer.bos_id] if resolve_prefix(tokenizer, model.document_prefix) == "bos" else []
    length = prefix_length + suffix_length
    row_length = len(lead) + length - 1
    if row_length > model.seq_len:
        raise ValueError(
            f"a window of {prefix_length} + {suffix_length} tokens takes {row_length} and the model reads "
            f"{model.seq_len}: shorten prefix_length or suffix_length"
        )
    rows, found = [], []
    for (doc_id, text), tokens in zip(documents, tokenizer.encode_batch([text for _, text in documents]), strict=True):
        starts = window_starts(len(tokens), length, stride)
        ends_of_tokens = _characters_before(doc_id, text, tokens, tokenizer)
        for start in starts:
            whole = np.concatenate([np.array(lead, np.int32), tokens[start : start + length]]).astype(np.int32)
            rows.append((whole[:-1], whole[1:]))
        first_whole, last_whole = ends_of_tokens
        found.append(
            Windows(
                doc_id=doc_id,
                num_tokens=len(tokens),
                num_characters=len(text),
                starts=starts,
                suffix_characters=np.stack(
                    [
                        np.minimum(first_whole[starts + prefix_length], last_whole[starts + length]),
                        last_whole[starts + length],
                    ],
                    axis=1,
                ),
                log_probabilities=np.zeros(len(starts)),
            )
        )
    # all rows are of one length: one shape to compile, and no padding
    scored = score_rows(replace(model, seq_len=row_length), rows, progress)
    wrong = next((index for index, part in enumerate(scored) if not np.isfinite(part[-suffix_length:]).all()), None)
    if wrong is not None:
        raise NotFiniteError(wrong, tokenizer.decode(rows[wrong][1]), scored[wrong])
    sums = np.array([part[-suffix_length:].astype(np.float64).sum() for part in scored], np.float64)
    ends = np.cumsum([len(windows.starts) for windows in found])
    parts = np.split(sums, ends[:-1]) if found else []
    return [replace(windows, log_probabilities=part) for windows, part in zip(found, parts, strict=True)]


def _characters_before(
    doc_id: str, text: str, tokens: np.ndarray, tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Of each place between tokens, int64 (tokens + 1,) twice: characters begun before it, and characters ended."""
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    places = np.concatenate([[0], np.cumsum(tokenizer.token_byte_lengths()[tokens], dtype=np.int64)])
    if places[-1] != len(data) or tokenizer.decode(tokens) != text:
        raise ValueError(
            f"document {doc_id!r}: the tokenizer does not give the text back ({places[-1]} of {len(data)} bytes), so "
            "the characters of a window cannot be told. Use a tokenizer without normalization"
        )
    begins = (data & 0xC0) != 0x80  # the other bytes of UTF-8 go on with a character
    begun = np.concatenate([[0], np.cumsum(begins, dtype=np.int64)])
    is_border = np.concatenate([begins, [True]])
    return begun[places], begun[places] - ~is_border[places]


def run(config: DocumentMemorizationConfig) -> Path:
    """Measure and write results.json, samples.jsonl, windows, a table and a plot a document; returns the first's path.

    Raises ValueError for an export that was not verified, and where no document is as long as a window;
    FileNotFoundError where something is missing.
    """
    exported = open_export(config.model_path, config.tokens_per_batch, allow_unverified=config.allow_unverified)
    documents, num_bad = _documents(config)
    found: list[Windows] = []
    for document in documents:  # the windows of many books at once would take much memory
        found += score_documents(
            exported.scored,
            exported.tokenizer,
            [document],
            prefix_length=config.prefix_length,
            suffix_length=config.suffix_length,
            stride=config.stride,
        )
        logs = found[-1].log_probabilities
        largest = f"largest P(z) {np.exp(logs.max()):.3g}" if len(logs) else "too short"
        print(f"{len(found)} of {len(documents)} documents: {len(logs):,} windows, {largest}", flush=True)
    long_enough = [windows for windows in found if len(windows.starts)]
    length = config.prefix_length + config.suffix_length
    if not long_enough:
        raise ValueError(
            f"none of the {len(found)} documents in {config.documents_path} has the {length} tokens of a window: "
            "shorten prefix_length or suffix_length"
        )
    folder = Path(config.output_path)
    (folder / PLOTS_FOLDER).mkdir(parents=True, exist_ok=True)
    rows = [{"task": TASK, "doc_id": windows.doc_id, **measures(windows, config)} for windows in long_enough]
    for number, (windows, row) in enumerate(zip(long_enough, rows, strict=True)):
        row["plot"] = f"{PLOTS_FOLDER}/{number:05d}.svg"
        write_bytes(
            folder / row["plot"],
            document_svg(windows.doc_id, windows.best_by_character(), windows.log_probabilities).encode(),
        )
    write_records(folder / WINDOWS_FILE, _window_rows(long_enough))
    write_bytes(folder / TABLE_FILE, table(rows, config).encode("utf-8", "backslashreplace"))
    names = [name for name in rows[0] if name not in ("task", "doc_id", "plot") and not name.startswith("num_")]
    metrics = {
        name: metric_entry(mean_estimate([float(row[name]) for row in rows]), higher_is_better=False) for name in names
    }
    task = TaskResult(
        version=TASK_VERSION,
        n=len(rows),
        prompt_hash=prompt_hash(
            [config.prefix_length, config.suffix_length, config.stride, [text for _, text in documents]]
        ),
        metrics=metrics,
        counts={
            "num_windows": sum(row["num_windows"] for row in rows),
            "num_too_short": len(found) - len(long_enough),
            "num_bad": num_bad,
        },
        notes=[
            "means over documents; the error is of which documents were taken, for the windows of one are all of them",
            f"windows of {config.prefix_length} + {config.suffix_length} tokens, every {config.stride}",
        ],
    )
    path = write_results(
        folder,
        model=exported.description,
        tasks={TASK: task},
        samples=rows,
        policy={"document_prefix": resolve_prefix(exported.tokenizer, exported.document_prefix)},
        config={name: value for name, value in asdict(config).items() if not name.endswith("_path")},
    )
    for name in ("max_probability", f"characters_over_{config.thresholds[-1]:g}"):
        entry = metrics[name]
        print(f"{format_score(entry['value'], entry['stderr'], entry['n'])} {name}", flush=True)
    print(f"results: {path}", flush=True)
    return path


def measures(windows: Windows, config: DocumentMemorizationConfig) -> dict[str, Any]:
    """What is told of a document with at least one window, by name."""
    logs = windows.log_probabilities
    best = int(np.argmax(logs))
    found: dict[str, Any] = {
        "num_tokens": windows.num_tokens,
        "num_characters": windows.num_characters,
        "num_windows": len(logs),
        "num_best_character": int(windows.suffix_characters[best, 0]),
        "max_probability": float(np.exp(logs[best])),
        "max_log_probability": float(logs[best]),
        "mean_probability": float(np.mean(np.exp(logs))),
        "mean_log_probability": float(np.mean(logs)),
    }
    for threshold in config.thresholds:
        found[f"windows_over_{threshold:g}"] = windows.share_over(threshold)
    for threshold in config.thresholds:
        found[f"characters_over_{threshold:g}"] = windows.characters_over(threshold)
    for num_draws in config.num_draws:
        chances = extraction_probability(logs, num_draws)
        found[f"discoverable_{num_draws}_{config.discovery_probability:g}"] = float(
            np.mean(chances >= config.discovery_probability)
        )
    return found


def _window_rows(found: Sequence[Windows]) -> list[dict[str, Any]]:
    return [
        {
            "doc_id": windows.doc_id,
            "first_token": int(start),
            "suffix_begin": int(begin),
            "suffix_end": int(end),
            "log_probability": float(value),
        }
        for windows in found
        for start, (begin, end), value in zip(
            windows.starts, windows.suffix_characters, windows.log_probabilities, strict=True
        )
    ]


def table(rows: Sequence[dict[str, Any]], config: DocumentMemorizationConfig) -> str:
    """A page with a row a document, those with the largest P(z) first."""
    thresholds = [f"{threshold:g}" for threshold in config.thresholds]
    header = ["document", "windows", "largest P(z)", "at character", "draws for one in two"]
    header += [f"characters at P(z) >= {threshold}" for threshold in thresholds]
    lines = [
        f"# P(z), {config.prefix_length} tokens shown, {config.suffix_length} asked for, every {config.stride}",
        "",
        f"| {' | '.join(header)} |",
        "|---|" + "---:|" * (len(header) - 1),
    ]
    for row in sorted(rows, key=lambda row: -row["max_log_probability"]):
        draws = float(draws_needed(row["max_log_probability"], 0.5))
        cells = [
            f"[{_cell(row['doc_id'])}]({row['plot']})",
            f"{row['num_windows']:,}",
            f"{row['max_probability']:.3g}",
            f"{row['num_best_character']:,}",
            f"{draws:.3g}" if draws >= 1e6 else f"{draws:,.0f}",
            *(f"{row[f'characters_over_{threshold}']:.2%}" for threshold in thresholds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]").replace("\n", " ")


def _documents(config: DocumentMemorizationConfig) -> tuple[list[tuple[str, str]], int]:
    """(id, text) of the documents to measure, and how many lines were none."""
    files = find_record_files(config.documents_path)
    if not files:
        raise FileNotFoundError(
            f"no documents in {config.documents_path}: expected files that end in .jsonl, .jsonl.gz or .jsonl.zst"
        )
    documents: list[tuple[str, str]] = []
    num_bad = 0
    for file in files:
        with LineReader(file) as lines:
            for row in parse_documents(lines, file=file.name):
                num_bad += isinstance(row, BadRow)
                if isinstance(row, Document) and row.text.strip():
                    documents.append((row.id, row.text))
    seen = {doc_id for doc_id, _ in documents}
    if len(seen) < len(documents):
        raise ValueError(f"{config.documents_path}: {len(documents) - len(seen)} documents have the id of another")
    return documents[: config.max_documents], num_bad
