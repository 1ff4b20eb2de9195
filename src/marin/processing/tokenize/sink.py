"""The rows of a plan of the data engine as a token store: the end of `Dataset.write_tokens`.

Shards are made by the function that the tokenizing step uses, so both give the same bytes. What differs is what stands
beside them: the engine knows a shard by its inputs' names, sizes and times, and tells what became of rows in
`_funnel.json`; the step hashes its inputs, and tells it in `tokenize.json`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from marin.processing.pipeline.batch import BadRow, BatchResult
from marin.processing.pipeline.sinks import Written, sha256_of_files, size_of_output
from marin.processing.tokenize.config import ENCODERS, RECIPE_VERSION

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.tokenize.tokenizer import Tokenizer

_told: set[str] = set()  # why the slower library encodes, said once a process


@dataclass(frozen=True, kw_only=True)
class TokenSink:
    """Writes documents as the shards of a token store. Make it with `token_sink`."""

    version: ClassVar[int] = RECIPE_VERSION
    digest: str  # of the tokenizer: what decides the ids
    vocab_size: int
    tokenizer: str = field(compare=False)  # its folder
    encoder: str = field(compare=False)
    check_round_trip: bool = field(compare=False)

    @property
    def ending(self) -> str:
        return ""

    def write(self, path: str, batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema | None" = None) -> Written:
        from marin.processing.formats.reading import bounded
        from marin.processing.tokenize.rows import TextRows
        from marin.processing.tokenize.shard import (
            BATCH_BYTES,
            BATCH_DOCUMENTS,
            publishing,
            tell_of_slow_encoder,
            write_rows,
        )

        del schema  # it is always that of OnlyDocuments
        final = Path(path)
        with publishing(final) as folder:
            shard, rows, empty, reason = write_rows(
                (one for batch in batches if batch.num_rows for one in bounded(batch, BATCH_DOCUMENTS, BATCH_BYTES)),
                TextRows(),
                self._tokenizer(),
                folder,
                name=final.name,
                encoder=self.encoder,
                check_round_trip=self.check_round_trip,
                on_bad=_none_is_bad,
            )
        assert empty == 0, "OnlyDocuments drops rows without text"
        tell_of_slow_encoder(reason, _told)
        digests = {name: shard.sha256[kind] for kind, name in shard.files.items()}
        return Written(
            rows=rows,
            bytes=size_of_output(path),
            sha256=sha256_of_files(digests),
            columns={},
            details=shard.to_json(),
        )

    def begin(self, root: str) -> None:
        """Not a store while a shard is missing."""
        from marin.data.store import LEDGER

        (Path(root) / LEDGER).unlink(missing_ok=True)

    def finish(self, root: str, details: Sequence[Mapping[str, Any]]) -> None:
        """Write the ledger. ValueError where there is no document in any shard."""
        from marin.data.store import ShardInfo, write_ledger

        shards = [ShardInfo(**{**one, "sha256": dict(sorted(one["sha256"].items()))}) for one in details]
        if not sum(shard.num_documents for shard in shards):
            raise ValueError(f"{root}: no documents: all rows of the plan are dropped, bad or without text")
        tokenizer = self._tokenizer()
        write_ledger(
            root,
            shards,
            vocab_size=tokenizer.vocab_size,
            tokenizer_digest=tokenizer.digest,
            eos_id=tokenizer.eos_id,
            bos_id=tokenizer.bos_id,
            token_byte_lengths=tokenizer.token_byte_lengths(),
        )

    def _tokenizer(self) -> "Tokenizer":
        return _loaded(self.tokenizer, self.digest)


def token_sink(tokenizer: str, *, encoder: str, check_round_trip: bool) -> TokenSink:
    """The sink for the tokenizer of a folder, which is loaded for its digest."""
    from marin.processing.tokenize.tokenizer import load_tokenizer

    if encoder not in ENCODERS:
        raise ValueError(f"encoder is {encoder!r}; expected one of {', '.join(ENCODERS)}")
    loaded = load_tokenizer(tokenizer)
    return TokenSink(
        digest=loaded.digest,
        vocab_size=loaded.vocab_size,
        tokenizer=tokenizer,
        encoder=encoder,
        check_round_trip=check_round_trip,
    )


@lru_cache(maxsize=1)
def _loaded(folder: str, digest: str) -> "Tokenizer":
    """A tokenizer, kept for all shards that a process makes. ValueError where it is not the one of the plan."""
    from marin.processing.tokenize.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if tokenizer.digest != digest:
        raise ValueError(f"{folder}: the tokenizer has changed since the plan was made; make the plan again")
    return tokenizer


def _none_is_bad(line: int, reason: str, beginning: str) -> None:
    raise AssertionError(f"OnlyDocuments lets no row through that is no document: {reason}")


@dataclass(frozen=True)
class OnlyDocuments:
    """The columns that tokenizing needs; rows without text are dropped, those where it is null are bad."""

    version: ClassVar[int] = 1
    columns_read: ClassVar[tuple[str, ...]] = ("id", "text", "source")

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        names = batch.schema.names
        if absent := [name for name in ("id", "text") if name not in names]:
            raise TypeError(f"no column {absent[0]!r}; documents have id and text, and these have {', '.join(names)}")
        ids, texts = _strings("id", batch.column("id")), _strings("text", batch.column("text"))
        sources = _strings("source", batch.column("source")) if "source" in names else pa.nulls(len(ids), pa.string())
        documents = pa.record_batch({"id": ids, "text": texts, "source": sources.fill_null("")})
        bad: dict[int, BadRow] = {}
        for name, values in (("id", ids), ("text", texts)):
            for row in np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist():
                bad[row] = BadRow(id=str(ids[row].as_py() or ""), reason=f"no {name}: it is null")
        documents = documents.filter(pa.array([row not in bad for row in range(batch.num_rows)], pa.bool_()))
        full = documents.filter(pc.greater(pc.binary_length(documents.column("text")), 0))  # pyright: ignore
        num_empty = documents.num_rows - full.num_rows
        dropped = {"empty": num_empty} if num_empty else {}
        return BatchResult(full, dropped=dropped, bad=[bad[row] for row in sorted(bad)])


def _strings(name: str, values: "pa.Array") -> "pa.Array":
    """A column as strings; ids may be integers. TypeError where it holds something else."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return values.cast(pa.string())
    if name == "id" and pa.types.is_integer(kind):
        return values.cast(pa.string())
    raise TypeError(f"column {name!r} holds {kind}; expected strings")
