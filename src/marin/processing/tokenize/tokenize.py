"""Documents to a token store: shard by shard, in parallel, resumable, the same bytes whoever does it.

One file of documents becomes one shard of the store. A shard is made in a temporary folder and renamed when complete,
with a manifest that says from what and how it was made. After `kill -9` the same call redoes only the shards that were
in flight, and the result is byte for byte that of an undisturbed run, with any number of workers. The price: a single
huge file is one worker's, so split it.

Nothing is dropped in silence. Rows = documents + empty + bad, checked for every shard; bad rows are kept in
`_bad/<shard>.jsonl` with line number and reason; too many of them fail the run.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from marin.config import decode, encode
from marin.data.store import (
    BYTE_LENGTHS,
    CHAT_SHARD_FILES,
    LEDGER,
    ChatInfo,
    ShardInfo,
    ShardWriter,
    write_ledger,
)
from marin.io.atomic import fsync_directory, write_text
from marin.io.hashing import sha256_file
from marin.io.records import LineReader, find_record_files, write_records
from marin.processing.document import SHOWN_ROWS, BadRow
from marin.processing.tokenize.config import CHAT_RECIPE_VERSION, RECIPE_VERSION, ChatFormat, TokenizeConfig
from marin.processing.tokenize.rows import Encoded, Row, Rows, TextRows
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.tracking.progress import report_progress

MANIFEST = "manifest.json"
SUMMARY = "tokenize.json"
BAD_FOLDER = "_bad"
TEMPORARY = ".tmp-"
BATCH_BYTES = 1 << 19  # text that is encoded in one call
BATCH_DOCUMENTS = 512
ROUND_TRIP_DOCUMENTS = 8  # of each shard that are decoded again
PROGRESS_INTERVAL_S = 10.0

Report = Callable[[int, int], None]  # (bytes of the file read, bytes of text encoded) since the last report


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
    """One file to tokenize: plain values, so that it can be handed to another process as JSON."""

    name: str  # of the shard: shard-00000
    file: str  # the documents, as a path
    label: str  # the same, as it is called in manifests and ids: relative to the input folder
    output_path: str
    recipe: dict[str, Any]  # everything beside the input that decides the shard's bytes
    check_round_trip: bool

    @property
    def chat(self) -> ChatFormat | None:
        chat = self.recipe.get("chat")
        return None if chat is None else decode(ChatFormat, chat["format"])


def tokenize(config: TokenizeConfig) -> ShardCounts:
    """Tokenize all documents of `config.input_path` into a store; returns what became of the rows.

    The same counts, and those of each shard with its input, are in tokenize.json beside the store.

    Call it again after an interruption: complete shards are kept. Raises ValueError for an empty corpus, for more bad
    rows than `max_bad`, and for a tokenizer that does not give the text back; RuntimeError naming the shards that
    failed, once all others are done.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    chat = None if config.chat is None else _chat_info(config.chat, tokenizer)
    jobs = _plan(config, tokenizer, chat)
    output = Path(config.output_path)
    output.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(output, jobs)
    pending = [job for job in jobs if not _is_complete(job)]
    if pending:
        (output / LEDGER).unlink(missing_ok=True)  # not a store while a shard is missing
    progress = _Progress(jobs, pending)
    failures = _run(pending, config, tokenizer, progress)
    _remove_if_empty(output / BAD_FOLDER)
    if failures:
        listed = "\n".join(f"  {job.label}: {reason}" for job, reason in failures)
        others = "" if len(failures) == len(jobs) else "\nThe others are complete; the same call redoes only these."
        raise RuntimeError(f"{len(failures)} of {len(jobs)} shards were not tokenized:\n{listed}{others}")
    manifests = [_read_manifest(job) for job in jobs]
    total = sum((ShardCounts(**manifest["counts"]) for manifest in manifests), ShardCounts())
    _check_totals(total, config, jobs)
    summary = {
        "format_version": "1.0",
        "recipe": jobs[0].recipe,
        "counts": asdict(total),
        "shards": manifests,
    }
    write_text(output / SUMMARY, json.dumps(summary, indent=1, sort_keys=True) + "\n")
    write_ledger(
        output,
        [ShardInfo(**manifest["shard"]) for manifest in manifests],
        vocab_size=tokenizer.vocab_size,
        tokenizer_digest=tokenizer.digest,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        token_byte_lengths=tokenizer.token_byte_lengths(),
        chat=chat,
    )
    progress.finish(total)
    return total


def tokenize_shard(job: ShardJob, tokenizer: Tokenizer, report: Report) -> None:
    """Make one shard and publish it. An interruption leaves a temporary folder, never half a shard.

    Raises OSError with the shard's path where the disk is full.
    """
    output = Path(job.output_path)
    temporary = output / f"{TEMPORARY}{job.name}-{os.urandom(4).hex()}"
    temporary.mkdir()
    try:
        shard = _write_shard(job, tokenizer, report, temporary)
        for name in (*shard.files.values(), MANIFEST):
            _fsync(temporary / name)
        fsync_directory(temporary)
        _publish(temporary, output / job.name)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        # a failed write does not know its file
        raise OSError(error.errno, os.strerror(error.errno), str(output / job.name)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_directory(output)


def _plan(config: TokenizeConfig, tokenizer: Tokenizer, chat: ChatInfo | None) -> list[ShardJob]:
    """One job a file, in the order of the files' names."""
    root = Path(config.input_path)
    files = find_record_files(root)
    if not files:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
        raise ValueError(f"no documents: {root} holds no *.jsonl, *.jsonl.gz or *.jsonl.zst file (it holds {found})")
    recipe: dict[str, Any] = {
        "version": RECIPE_VERSION,
        "tokenizer_digest": tokenizer.digest,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
    }
    if config.chat is not None and chat is not None:
        format = replace(config.chat, template=chat.template)  # also where it is the tokenizer's own
        recipe["chat"] = {"version": CHAT_RECIPE_VERSION, "format": encode(format)}
    return [
        ShardJob(
            name=f"shard-{number:05d}",
            file=str(file),
            label=file.relative_to(root).as_posix() if root.is_dir() else file.name,
            output_path=config.output_path,
            recipe=recipe,
            check_round_trip=config.check_round_trip,
        )
        for number, file in enumerate(files)
    ]


def _chat_info(chat: ChatFormat, tokenizer: Tokenizer) -> ChatInfo:
    """What the ledger says of conversations; raises for a template that cannot be used with this tokenizer."""
    from marin.processing.tokenize.chat import ChatTemplate

    template = ChatTemplate(chat, tokenizer)
    return ChatInfo(template=template.text, stop_id=template.stop_id)


def _kind_of_rows(job: ShardJob, tokenizer: Tokenizer) -> Rows:
    if job.chat is None:
        return TextRows(tokenizer)
    from marin.processing.tokenize.chat import ChatRows, ChatTemplate

    return ChatRows(ChatTemplate(job.chat, tokenizer))


def _write_shard(job: ShardJob, tokenizer: Tokenizer, report: Report, folder: Path) -> ShardInfo:
    """Write the shard's files and its manifest into `folder`, and its bad rows into the quarantine."""
    kind = _kind_of_rows(job, tokenizer)
    bad: list[BadRow] = []
    rows = empty = 0
    byte_lengths = tokenizer.token_byte_lengths()
    with (
        LineReader(job.file) as lines,
        ShardWriter(
            folder,
            name=job.name,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            has_loss_mask=job.chat is not None,
        ) as writer,
    ):

        def documents() -> Iterator[Row]:
            nonlocal rows, empty
            for row in kind.parse(lines, file=job.label):
                rows += 1
                if isinstance(row, BadRow):
                    bad.append(row)
                elif not row.text:
                    empty += 1
                else:
                    yield row

        unchecked = ROUND_TRIP_DOCUMENTS if job.check_round_trip else 0
        reported = 0
        for batch in _batches(documents()):
            text_bytes = 0
            for document, encoded in zip(batch, kind.encode(batch), strict=True):
                if unchecked > 0:
                    unchecked -= 1
                    _check_round_trip(document.id, encoded, tokenizer, byte_lengths)
                writer.add(
                    encoded.ids,
                    document_id=document.id,
                    source=document.source,
                    num_bytes=encoded.num_bytes,
                    loss_mask=encoded.loss_mask,
                )
                text_bytes += encoded.num_bytes
            report(lines.bytes_read - reported, text_bytes)
            reported = lines.bytes_read
        shard = writer.close()
        report(lines.bytes_read - reported, 0)
        counts = ShardCounts(
            rows=rows,
            documents=shard.num_documents,
            empty=empty,
            bad=len(bad),
            tokens=shard.num_tokens,
            text_bytes=shard.num_bytes,
            bad_by_kind=dict(sorted(Counter(row.kind for row in bad).items())),
        )
        source = {"path": job.label, "size": lines.bytes_read, "sha256": lines.sha256()}
    manifest = {"recipe": job.recipe, "input": source, "counts": asdict(counts), "shard": shard.to_json()}
    _quarantine(job, bad)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return shard


def _batches(documents: Iterator[Row]) -> Iterator[list[Row]]:
    """Runs of documents with bounded text, so that memory is bounded by the longest document."""
    batch: list[Row] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_round_trip(document_id: str, encoded: Encoded, tokenizer: Tokenizer, byte_lengths: np.ndarray) -> None:
    decoded = tokenizer.decode(encoded.ids)
    if decoded != encoded.text:
        pairs = enumerate(itertools.zip_longest(encoded.text, decoded))
        at = next(i for i, (ours, theirs) in pairs if ours != theirs)
        raise ValueError(
            f"the tokenizer does not give document {document_id!r} back: from character {at} on, "
            f"{encoded.text[at : at + 20]!r} became {decoded[at : at + 20]!r}. Use a tokenizer without normalization, "
            "or set check_round_trip=False and know that bits per byte is then of other text."
        )
    counted = int(byte_lengths[encoded.ids].sum())
    if counted != encoded.num_bytes:
        raise ValueError(
            f"document {document_id!r} has {encoded.num_bytes} bytes, its tokens stand for {counted}; the tokenizer's "
            "byte lengths are wrong"
        )


def _quarantine(job: ShardJob, bad: list[BadRow]) -> None:
    """Keep the bad rows of one shard beside the store. Written before the shard is published, so never lost."""
    path = Path(job.output_path) / BAD_FOLDER / f"{job.name}.jsonl"
    if not bad:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    write_records(path, ({"file": job.label, "line": row.line, "reason": row.reason, "text": row.text} for row in bad))


def _publish(temporary: Path, final: Path) -> None:
    """Give a complete shard its name, in place of an outdated one."""
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(job: ShardJob) -> dict[str, Any]:
    return json.loads((Path(job.output_path) / job.name / MANIFEST).read_text(encoding="utf-8"))


def _is_complete(job: ShardJob) -> bool:
    """Whether the shard stands there, made from this input by this recipe, and with the bytes it was made with."""
    folder = Path(job.output_path) / job.name
    try:
        manifest = _read_manifest(job)
        if manifest["recipe"] != job.recipe or manifest["input"]["path"] != job.label:
            return False
        if manifest["input"]["size"] != os.path.getsize(job.file):
            return False
        outputs = manifest["shard"]["sha256"]
        return sha256_file(job.file)[1] == manifest["input"]["sha256"] and all(
            sha256_file(folder / CHAT_SHARD_FILES[kind])[1] == digest for kind, digest in outputs.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _clear_leftovers(output: Path, jobs: list[ShardJob]) -> None:
    """Remove what an interrupted call left, and shards (known by their manifest) of files that are no more."""
    names = {job.name for job in jobs}
    for entry in sorted(output.iterdir()):
        outdated = re.fullmatch(r"shard-\d{5,}", entry.name) and entry.name not in names
        if entry.name.startswith(TEMPORARY) or (outdated and (entry / MANIFEST).is_file()):
            shutil.rmtree(entry)
        elif entry.name.startswith((LEDGER, BYTE_LENGTHS, SUMMARY)) and entry.name.endswith(".tmp"):
            entry.unlink()  # an atomic write that was cut short
    quarantine = output / BAD_FOLDER
    if quarantine.is_dir():
        for file in quarantine.iterdir():
            if file.suffix == ".tmp" or (file.suffix == ".jsonl" and file.stem not in names):
                file.unlink()
        _remove_if_empty(quarantine)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def _check_totals(total: ShardCounts, config: TokenizeConfig, jobs: list[ShardJob]) -> None:
    if total.bad > config.max_bad * total.rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in total.bad_by_kind.items())
        raise ValueError(
            f"{total.bad:,} of {total.rows:,} rows under {config.input_path} ({total.bad / total.rows:.2%}) are no "
            f"documents, more than max_bad={config.max_bad:.2%}: {kinds}. The first: {_first_bad(config, jobs)}. All "
            f"are in {Path(config.output_path) / BAD_FOLDER}. Mend the input, or raise max_bad."
        )
    if total.documents == 0:
        raise ValueError(
            f"no documents: {len(jobs)} files under {config.input_path} hold {total.rows:,} rows, of them "
            f"{total.empty:,} without text and {total.bad:,} bad"
        )


def _first_bad(config: TokenizeConfig, jobs: list[ShardJob]) -> str:
    found: list[str] = []
    for job in jobs:
        path = Path(config.output_path) / BAD_FOLDER / f"{job.name}.jsonl"
        if path.is_file():
            for line in path.read_bytes().splitlines()[: SHOWN_ROWS - len(found)]:  # of bytes: U+2028 splits no line
                row = json.loads(line)
                found.append(f"{row['file']} line {row['line']} ({row['reason']})")
        if len(found) == SHOWN_ROWS:
            break
    return "; ".join(found)


def _run(
    jobs: list[ShardJob], config: TokenizeConfig, tokenizer: Tokenizer, progress: "_Progress"
) -> list[tuple[ShardJob, str]]:
    """Do the jobs here or in worker processes; returns those that failed, with the reason."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = min(config.num_workers or available, len(jobs))
    if num_workers > 1:
        from marin.processing.tokenize.workers import run_in_processes

        return run_in_processes(jobs, config.tokenizer, num_workers, progress.advance, progress.shard_done)
    failures = []
    for job in jobs:
        try:
            tokenize_shard(job, tokenizer, progress.advance)
            progress.shard_done()
        except (ValueError, OSError) as error:
            failures.append((job, f"{type(error).__name__}: {error}"))
    return failures


class _Progress:
    """Lines on stderr: how far, how fast, how long still; at most one every PROGRESS_INTERVAL_S."""

    def __init__(self, jobs: list[ShardJob], pending: list[ShardJob]):
        self._num_shards = len(jobs)
        self._done = len(jobs) - len(pending)
        self._to_read = sum(os.path.getsize(job.file) for job in pending)
        self._read = self._text = 0
        self._began = self._shown = time.monotonic()
        if self._done:
            kept = f"{self._done} of {self._num_shards} shards are complete already"
            self._print(kept + ("; nothing to do" if not pending else f", {len(pending)} to do"))

    def advance(self, read: int, text: int) -> None:
        self._read += read
        self._text += text
        report_progress(self._read, self._to_read, "bytes")
        now = time.monotonic()
        if now - self._shown >= PROGRESS_INTERVAL_S:
            self._shown = now
            elapsed = now - self._began
            eta = elapsed * (self._to_read - self._read) / max(1, self._read)
            self._print(
                f"{self._done}/{self._num_shards} shards, {self._read / max(1, self._to_read):.0%} read, "
                f"{self._text / 1e6 / elapsed:.2f} MB/s of text, ETA {eta:.0f} s"
            )

    def shard_done(self) -> None:
        self._done += 1

    def finish(self, total: ShardCounts) -> None:
        elapsed = time.monotonic() - self._began
        speed = f" in {elapsed:.1f} s, {self._text / 1e6 / elapsed:.2f} MB/s" if self._text else ""
        left_out = f"; left out: {total.empty:,} empty, {total.bad:,} bad" if total.empty or total.bad else ""
        self._print(
            f"{total.documents:,} documents, {total.text_bytes / 1e6:.1f} MB of text, {total.tokens:,} tokens "
            f"({total.text_bytes / total.tokens:.2f} bytes a token){speed}{left_out}"
        )

    @staticmethod
    def _print(text: str) -> None:
        print(f"tokenize: {text}", file=sys.stderr, flush=True)
