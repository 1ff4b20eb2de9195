"""One shard of a store: a part of a file read, encoded, written and published, whole or not at all.

A shard is made in a temporary folder and renamed when complete, with a manifest that says from what and how it was
made. Rows = documents + empty + bad is checked; bad rows are kept beside the store with where they are and why.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marin.config import decode
from marin.data.store import ShardInfo
from marin.data.store_writer import ShardWriter
from marin.io.atomic import fsync_directory
from marin.io.records import write_records
from marin.processing.document import RecipeError
from marin.processing.formats.splits import Split, column_names
from marin.processing.tokenize.config import ChatFormat
from marin.processing.tokenize.encoder import Encoder, Utf8Texts
from marin.processing.tokenize.inputs import identity_of_split
from marin.processing.tokenize.rows import EncodedBatch, RowBatch, Rows, TextRows
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.formats.record import BadRecord
    from marin.processing.pipeline.stage import Watchers

MANIFEST = "manifest.json"
BAD_FOLDER = "_bad"
TEMPORARY = ".tmp-"
BATCH_BYTES = 4 << 20  # text that is encoded in one call
BATCH_DOCUMENTS = 2048
ROUND_TRIP_DOCUMENTS = 8  # of each shard that are decoded again
ROUND_TRIP_TOKENS = 100_000  # of each of them
SHOWN_CHARACTERS = 200  # of a bad row

Report = Callable[[int], None]  # bytes of text encoded since the last report


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """What became of the rows of a shard or of all of them."""

    rows: int = 0  # lines that are not blank
    documents: int = 0  # in the store
    empty: int = 0  # documents without text, left out
    bad: int = 0  # rows that are no documents, quarantined
    tokens: int = 0  # end-of-text tokens included
    text_bytes: int = 0  # UTF-8 bytes of the documents
    bad_by_kind: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.rows == self.documents + self.empty + self.bad, self
        assert self.bad == sum(self.bad_by_kind.values()), self

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        kinds = Counter(self.bad_by_kind) + Counter(other.bad_by_kind)
        return ShardCounts(
            rows=self.rows + other.rows,
            documents=self.documents + other.documents,
            empty=self.empty + other.empty,
            bad=self.bad + other.bad,
            tokens=self.tokens + other.tokens,
            text_bytes=self.text_bytes + other.text_bytes,
            bad_by_kind=dict(sorted(kinds.items())),
        )


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A part of a file to tokenize: plain values, so that it can be handed to another process as JSON."""

    name: str  # of the shard: shard-00000
    split: Split
    output_path: str
    recipe: dict[str, Any]  # everything beside the input that decides the shard's bytes
    check_round_trip: bool
    encoder: str  # one of ENCODERS

    @property
    def label(self) -> str:
        """The part of the file, for people."""
        part = "" if self.split.end is None and self.split.start == 0 else f"[{self.split.start}:{self.split.end}]"
        return f"{self.split.label}{part}"

    @property
    def chat(self) -> ChatFormat | None:
        chat = self.recipe.get("chat")
        return None if chat is None else decode(ChatFormat, chat["format"])


@dataclass(frozen=True)
class ShardMaker:
    """What a worker process does with a job; it loads its tokenizer once."""

    tokenizer_path: str

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def _told(self) -> set[str]:
        return set()

    def make(self, job: ShardJob, *, too_slow: Any, watchers: "Watchers") -> None:
        del too_slow  # no row has a time limit
        try:
            reason = tokenize_shard(job, self._tokenizer, lambda num_bytes: watchers.progress(num_bytes, 0))
        except RecipeError as error:
            raise ValueError(str(error)) from error
        tell_of_slow_encoder(reason, self._told)


def tell_of_slow_encoder(reason: str | None, told: set[str]) -> None:
    """Say on stderr why the slower library encodes, if it does and that is not told yet."""
    if reason is None or reason in told:
        return
    told.add(reason)
    print(f"tokenize: encoded by the slower library, tokenizers: {reason}", file=sys.stderr, flush=True)


def tokenize_shard(job: ShardJob, tokenizer: Tokenizer, report: Report) -> str | None:
    """Make one shard and publish it. An interruption leaves a temporary folder, never half a shard.

    Returns why it was encoded by the slow library, None where it was not or that was asked for.

    Raises OSError with the shard's path where the disk is full.
    """
    output = Path(job.output_path)
    with publishing(output / job.name) as folder:
        return _write_shard(job, tokenizer, report, folder)


@contextlib.contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`, which takes its name once all its files are on the disk; or leaves nothing.

    Raises OSError with the path `final` where the disk is full.
    """
    temporary = final.parent / f"{TEMPORARY}{final.name}.{os.urandom(6).hex()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.iterdir()):
            _fsync(file)
        fsync_directory(temporary)
        if final.exists():  # an outdated one
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(final)) from error  # a failed write knows no file
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_directory(final.parent)


def _kind_of_rows(job: ShardJob, tokenizer: Tokenizer) -> Rows:
    if job.chat is None:
        return TextRows(job.recipe.get("text_column", "text"))
    from marin.processing.tokenize.chat import ChatRows, ChatTemplate

    return ChatRows(ChatTemplate(job.chat, tokenizer))


def _write_shard(job: ShardJob, tokenizer: Tokenizer, report: Report, folder: Path) -> str | None:
    """Write the shard's files and its manifest into `folder`, and its bad rows into the quarantine."""
    from marin.processing.formats.reading import read_split

    kind = _kind_of_rows(job, tokenizer)
    bad = _BadRows(job.split.label)
    source = identity_of_split(job.split)
    batches = read_split(
        job.split,
        columns=kind.columns(column_names(job.split)),
        batch_rows=BATCH_DOCUMENTS,
        batch_bytes=BATCH_BYTES,
        on_bad=bad.of_file,
    )
    shard, rows, empty, reason = write_rows(
        batches,
        kind,
        tokenizer,
        folder,
        name=job.name,
        encoder=job.encoder,
        check_round_trip=job.check_round_trip,
        report=report,
        on_bad=bad.of_kind,
        has_loss_mask=job.chat is not None,
    )
    counts = ShardCounts(
        rows=rows + bad.num_of_file,
        documents=shard.num_documents,
        empty=empty,
        bad=len(bad.rows),
        tokens=shard.num_tokens,
        text_bytes=shard.num_bytes,
        bad_by_kind=bad.by_kind(),
    )
    manifest = {"recipe": job.recipe, "input": source, "counts": asdict(counts), "shard": shard.to_json()}
    bad.write(Path(job.output_path) / BAD_FOLDER / f"{job.name}.jsonl")
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return reason


def write_rows(
    batches: "Iterable[pa.RecordBatch]",
    kind: Rows,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    name: str,
    encoder: str,
    check_round_trip: bool,
    report: Report = lambda num_bytes: None,
    on_bad: Callable[[int, str, str], None],
    has_loss_mask: bool = False,
) -> tuple[ShardInfo, int, int, str | None]:
    """Encode rows and write them as the files of a shard into `folder`.

    Returns the shard, the rows that came, those of them without text, and why the slow library encoded, None where it
    did not or was asked for. `on_bad` is told of rows that are not of this kind: (line from 1, reason, beginning).
    """
    rows = empty = 0
    chosen: Encoder | None = None
    reason: str | None = None
    check = _RoundTripCheck(tokenizer, ROUND_TRIP_DOCUMENTS if check_round_trip else 0)
    with ShardWriter(
        folder, name=name, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, has_loss_mask=has_loss_mask
    ) as writer:
        for batch in batches:
            rows += batch.num_rows
            picked = kind.pick(batch, on_bad)
            empty += picked.num_empty
            if not picked.document_ids:
                continue
            if chosen is None:
                chosen, reason = _encoder(encoder, tokenizer, picked.sample())
            encoded = picked.encode(chosen)
            check(picked, encoded)
            writer.add_batch(
                encoded.ids,
                encoded.offsets,
                document_ids=picked.document_ids,
                sources=picked.sources,
                num_bytes=encoded.num_bytes,
                loss_masks=encoded.loss_masks,
            )
            report(sum(encoded.num_bytes))
        return writer.close(), rows, empty, reason


def _encoder(asked: str, tokenizer: Tokenizer, sample: Utf8Texts) -> tuple[Encoder, str | None]:
    """What encodes a shard, and why it is the slow library where that was not asked for."""
    if asked == "tokenizers":
        return tokenizer.encoders.oracle, None
    choice = tokenizer.encoders.best(sample)
    if asked == "gigatoken" and choice.reason is not None:
        raise ValueError(f"encoder is 'gigatoken', and that cannot be: {choice.reason}. Use encoder='auto'.")
    return choice.encoder, choice.reason


class _BadRows:
    """The rows of one file that are no documents, kept beside the store. Written before the shard is published, so
    never lost."""

    def __init__(self, label: str):
        self._label = label
        self.rows: list[dict[str, Any]] = []
        self.num_of_file = 0  # those that the reader has left out

    def of_file(self, record: "BadRecord") -> None:
        self.num_of_file += 1
        line = int(record.position.removeprefix(self._label).removeprefix(":") or 1)  # a whole file is its only row
        self.rows.append({"file": self._label, "line": line, "reason": record.reason, "text": record.text})

    def of_kind(self, line: int, reason: str, beginning: str) -> None:
        text = beginning[:SHOWN_CHARACTERS]
        self.rows.append({"file": self._label, "line": line, "reason": reason, "text": text})

    def by_kind(self) -> dict[str, int]:
        return dict(sorted(Counter(row["reason"].partition(":")[0] for row in self.rows).items()))

    def write(self, path: Path) -> None:
        if not self.rows:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(exist_ok=True)
        write_records(path, sorted(self.rows, key=lambda row: row["line"]))


class _RoundTripCheck:
    """Whether the first documents' ids give their text back, and stand for as many bytes."""

    def __init__(self, tokenizer: Tokenizer, num_documents: int):
        self._tokenizer = tokenizer
        self._left = num_documents

    def __call__(self, picked: RowBatch, encoded: EncodedBatch) -> None:
        for index, document_id in enumerate(picked.document_ids[: self._left]):
            ids = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            self._check(document_id, encoded.text(index), ids, encoded.num_bytes[index])
            self._left -= 1

    def _check(self, document_id: str, text: str, ids: np.ndarray, num_bytes: int) -> None:
        decoded = self._tokenizer.decode(ids[:ROUND_TRIP_TOKENS])
        if len(ids) > ROUND_TRIP_TOKENS:  # of a character that is cut there, there is no more
            decoded = decoded.rstrip("\ufffd")
            text = text[: len(decoded)]
        if decoded != text:
            pairs = enumerate(itertools.zip_longest(text, decoded))
            at = next(i for i, (ours, theirs) in pairs if ours != theirs)
            raise ValueError(
                f"the tokenizer does not give document {document_id!r} back: from character {at} on, "
                f"{text[at : at + 20]!r} became {decoded[at : at + 20]!r}. Use a tokenizer without normalization, "
                "or set check_round_trip=False and know that bits per byte is then of other text."
            )
        counted = int(self._tokenizer.token_byte_lengths()[ids].sum())
        if counted != num_bytes:
            raise ValueError(
                f"document {document_id!r} has {num_bytes} bytes, its tokens stand for {counted}; the tokenizer's "
                "byte lengths are wrong"
            )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
