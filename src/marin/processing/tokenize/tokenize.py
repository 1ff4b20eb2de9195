"""Documents to a token store: shard by shard, in parallel, resumable, the same bytes whoever does it.

A part of a file becomes one shard of the store (`marin.processing.tokenize.shard`); small files are one part, what can
be cut is several. After `kill -9` the same call redoes only the shards that were in flight, and the result is byte for
byte that of an undisturbed run, with any number of workers and whichever library encodes. The price: somebody else's
huge .gz, which cannot be cut, is one worker's.

Nothing is dropped in silence. Rows = documents + empty + bad, checked for every shard; bad rows are kept in
`_bad/<shard>.jsonl` with where they are and why; too many of them fail the run.
"""

import contextlib
import json
import pickle
import re
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from marin.config import encode
from marin.data.store import BYTE_LENGTHS, CHAT_SHARD_FILES, LEDGER, ChatInfo, ShardInfo
from marin.data.store_writer import write_ledger
from marin.io.atomic import write_text
from marin.io.files import local_folder
from marin.io.hashing import sha256_file
from marin.processing.document import SHOWN_ROWS, BadInputError
from marin.processing.tokenize.config import CHAT_RECIPE_VERSION, RECIPE_VERSION, ChatFormat, TokenizeConfig
from marin.processing.tokenize.inputs import identity_of_split, plan_inputs, stored_bytes
from marin.processing.tokenize.shard import (
    BAD_FOLDER,
    MANIFEST,
    TEMPORARY,
    ShardCounts,
    ShardJob,
    ShardMaker,
    tell_of_slow_encoder,
    tokenize_shard,
)
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.tracking.progress import report_progress

SUMMARY = "tokenize.json"
PROGRESS_INTERVAL_S = 10.0
WORKER_RETRIES = 2  # of a shard whose worker died


def tokenize(config: TokenizeConfig) -> ShardCounts:
    """Tokenize all documents of `config.input_path` into a store; returns what became of the rows.

    The same counts, and those of each shard with its input, are in tokenize.json beside the store.

    Call it again after an interruption: complete shards are kept. Raises ValueError for an empty corpus, for more bad
    rows than `max_bad`, and for a tokenizer that does not give the text back; RuntimeError naming the shards that
    failed, once all others are done.
    """
    output = local_folder(config.output_path)
    tokenizer = load_tokenizer(config.tokenizer)
    chat = None if config.chat is None else _chat_info(config.chat, tokenizer)
    jobs = _plan(config, tokenizer, chat)
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


def shards_to_make(config: TokenizeConfig) -> tuple[int, int]:
    """(shards that `tokenize` would make, all of them): 0 where the output is complete. Changes nothing."""
    tokenizer = load_tokenizer(config.tokenizer)
    jobs = _plan(config, tokenizer, None if config.chat is None else _chat_info(config.chat, tokenizer))
    return sum(not _is_complete(job) for job in jobs), len(jobs)


def _plan(config: TokenizeConfig, tokenizer: Tokenizer, chat: ChatInfo | None) -> list[ShardJob]:
    """One job a part of a file, in the order of the files' names."""
    splits = plan_inputs(config.input_path, format=config.format)
    recipe: dict[str, Any] = {
        "version": RECIPE_VERSION,
        "tokenizer_digest": tokenizer.digest,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
    }
    if config.text_column != "text":
        recipe["text_column"] = config.text_column
    if config.chat is not None and chat is not None:
        format = replace(config.chat, template=chat.template)  # also where it is the tokenizer's own
        recipe["chat"] = {"version": CHAT_RECIPE_VERSION, "format": encode(format)}
    return [
        ShardJob(
            name=f"shard-{number:05d}",
            split=split,
            output_path=config.output_path,
            recipe=recipe,
            check_round_trip=config.check_round_trip,
            encoder=config.encoder,
        )
        for number, split in enumerate(splits)
    ]


def _chat_info(chat: ChatFormat, tokenizer: Tokenizer) -> ChatInfo:
    """What the ledger says of conversations; raises for a template that cannot be used with this tokenizer."""
    from marin.processing.tokenize.chat import ChatTemplate

    return ChatTemplate(chat, tokenizer).info


def _read_manifest(job: ShardJob) -> dict[str, Any]:
    return json.loads((Path(job.output_path) / job.name / MANIFEST).read_text(encoding="utf-8"))


def _is_complete(job: ShardJob) -> bool:
    """Whether the shard stands there, made from this input by this recipe, and with the bytes it was made with."""
    folder = Path(job.output_path) / job.name
    try:
        manifest = _read_manifest(job)
        if manifest["recipe"] != job.recipe or manifest["input"]["path"] != job.split.label:
            return False
        outputs = manifest["shard"]["sha256"]
        return manifest["input"] == identity_of_split(job.split) and all(
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
        raise BadInputError(
            f"{total.bad:,} of {total.rows:,} rows under {config.input_path} ({total.bad / total.rows:.2%}) are no "
            f"documents, more than max_bad={config.max_bad:.2%}: {kinds}. The first: {_first_bad(config, jobs)}. All "
            f"are in {Path(config.output_path) / BAD_FOLDER}. Mend the input, or raise max_bad."
        )
    if total.documents == 0:
        num_files = len({job.split.path for job in jobs})
        raise ValueError(
            f"no documents: {num_files} files under {config.input_path} hold {total.rows:,} rows, of them "
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
    """Do the jobs here, in worker processes or on a cluster; returns those that failed, with the reason."""
    from marin.processing.pipeline.backend import chosen_backend, num_cpus
    from marin.processing.shards import bytes_of, enough_workers

    enough = enough_workers(bytes_of([job.split for job in jobs]), config.num_workers)
    backend = chosen_backend(config.backend, enough)
    if not jobs:
        return []
    if backend == "ray" or min(num_cpus() if enough is None else enough, len(jobs)) > 1:
        return _run_elsewhere(jobs, config, backend, progress)
    failures = []
    told: set[str] = set()
    for job in jobs:
        try:
            reason = tokenize_shard(job, tokenizer, progress.advance)
            tell_of_slow_encoder(reason, told)
            progress.shard_done(job)
        except (ValueError, OSError) as error:
            failures.append((job, f"{type(error).__name__}: {error}"))
    return failures


def _run_elsewhere(
    jobs: list[ShardJob], config: TokenizeConfig, backend: str, progress: "_Progress"
) -> list[tuple[ShardJob, str]]:
    from marin.processing.pipeline.backend import make_shards
    from marin.processing.pipeline.pool import Events

    failures = make_shards(
        pickle.dumps(ShardMaker(config.tokenizer)),
        [(job.name, pickle.dumps(job)) for job in jobs],
        backend=backend,
        address=None,
        workers=config.num_workers,
        retries=WORKER_RETRIES,
        events=Events(
            progress=lambda num_bytes, num_rows: progress.advance(num_bytes),
            done=lambda index: progress.shard_done(jobs[index]),
        ),
    )
    return [(jobs[index], reason) for index, reason in sorted(failures.items())]


class _Progress:
    """Lines on stderr: how far, how fast, how long still; at most one every PROGRESS_INTERVAL_S."""

    def __init__(self, jobs: list[ShardJob], pending: list[ShardJob]):
        self._num_shards = len(jobs)
        self._done = len(jobs) - len(pending)
        self._sizes = dict(zip((job.name for job in jobs), stored_bytes([job.split for job in jobs]), strict=True))
        self._to_read = sum(self._sizes[job.name] for job in pending)
        self._read = self._text = 0  # bytes of the files of complete shards; of text
        self._began = self._shown = time.monotonic()
        if self._done:
            kept = f"{self._done} of {self._num_shards} shards are complete already"
            self._print(kept + ("; nothing to do" if not pending else f", {len(pending)} to do"))

    def advance(self, text: int) -> None:
        self._text += text
        report_progress(self._read, self._to_read, "bytes")
        now = time.monotonic()
        if now - self._shown >= PROGRESS_INTERVAL_S:
            self._shown = now
            elapsed = now - self._began
            left = f", ETA {elapsed * (self._to_read - self._read) / self._read:.0f} s" if self._read else ""
            self._print(
                f"{self._done}/{self._num_shards} shards, {self._read / max(1, self._to_read):.0%} read, "
                f"{self._text / 1e6 / elapsed:.2f} MB/s of text{left}"
            )

    def shard_done(self, job: ShardJob) -> None:
        self._done += 1
        self._read += self._sizes[job.name]
        self.advance(0)

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
