"""The rows of a plan of the data engine as a token store: the end of `Dataset.write_tokens`.

Shards are made by the function that the tokenizing step uses, so both give the same bytes. What differs is what stands
beside them: the engine knows a shard by its inputs' names, sizes and times, and tells what became of rows in
`_funnel.json`; the step hashes its inputs, and tells it in `tokenize.json`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from marin.io.files import is_remote, remove, uploaded_folder
from marin.processing.pipeline.sinks import Written, files_of_output, sha256_of_files
from marin.processing.tokenize.config import ENCODERS, RECIPE_VERSION, ChatFormat
from marin.processing.tokenize.plan_rows import (
    OnlyConversations,
    OnlyDocuments,
    PlannedConversations,
    load_checked,
    template_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.tokenize.chat import ChatTemplate
    from marin.processing.tokenize.rows import Rows
    from marin.processing.tokenize.tokenizer import Tokenizer

_told: set[str] = set()  # why the slower library encodes, said once a process


@dataclass(frozen=True, kw_only=True)
class TokenSink:
    """Writes documents as the shards of a token store. Make it with `token_sink`."""

    version: ClassVar[int] = RECIPE_VERSION
    digest: str  # of the tokenizer: what decides the ids
    vocab_size: int
    chat: ChatFormat | None  # of rows that OnlyConversations has made, with its template; None: rows are texts
    tokenizer: str = field(compare=False)  # its folder
    encoder: str = field(compare=False)
    check_round_trip: bool = field(compare=False)

    @property
    def ending(self) -> str:
        return ""

    def write(self, path: str, batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema | None" = None) -> Written:
        from marin.processing.formats.reading import bounded
        from marin.processing.tokenize.shard import (
            BATCH_BYTES,
            BATCH_DOCUMENTS,
            publishing,
            tell_of_slow_encoder,
            write_rows,
        )

        del schema  # it is always that of OnlyDocuments or OnlyConversations
        with uploaded_folder(path) if is_remote(path) else publishing(Path(path)) as folder:
            shard, rows, empty, reason = write_rows(
                (one for batch in batches if batch.num_rows for one in bounded(batch, BATCH_DOCUMENTS, BATCH_BYTES)),
                self._kind(),
                self._tokenizer(),
                Path(folder),
                name=os.path.basename(path),
                encoder=self.encoder,
                check_round_trip=self.check_round_trip,
                on_bad=_none_is_bad,
                has_loss_mask=self.chat is not None,
            )
        assert empty == 0, "rows without text are dropped before"
        tell_of_slow_encoder(reason, _told)
        digests = {name: shard.sha256[kind] for kind, name in shard.files.items()}
        return Written(
            rows=rows,
            bytes=sum(info.size for info in files_of_output(path).values()),
            sha256=sha256_of_files(digests),
            columns={},
            details=shard.to_json(),
        )

    def begin(self, root: str) -> None:
        """Not a store while a shard is missing."""
        from marin.data.store import LEDGER

        remove(os.path.join(root, LEDGER))

    def finish(self, root: str, details: Sequence[Mapping[str, Any]]) -> None:
        """Write the ledger. ValueError where there is no document in any shard."""
        from marin.data.store import ShardInfo
        from marin.data.store_writer import write_ledger

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
            chat=None if self.chat is None else self._template(self.chat).info,
        )

    def _tokenizer(self) -> "Tokenizer":
        return load_checked(self.tokenizer, self.digest)

    def _template(self, chat: ChatFormat) -> "ChatTemplate":
        return template_of(chat, self.tokenizer, self.digest)

    def _kind(self) -> "Rows":
        from marin.processing.tokenize.rows import TextRows

        return TextRows() if self.chat is None else PlannedConversations(self._template(self.chat))


def token_sink(
    tokenizer: str, *, chat: ChatFormat | None, encoder: str, check_round_trip: bool
) -> tuple[OnlyDocuments | OnlyConversations, TokenSink]:
    """What picks the rows, and the sink behind it, for the tokenizer of a folder, which is loaded for its digest.

    Raises ValueError for an encoder that is unknown and for a template that cannot be used with this tokenizer.
    """
    from marin.processing.tokenize.tokenizer import load_tokenizer

    if encoder not in ENCODERS:
        raise ValueError(f"encoder is {encoder!r}; expected one of {', '.join(ENCODERS)}")
    loaded = load_tokenizer(tokenizer)
    picking: OnlyDocuments | OnlyConversations = OnlyDocuments()
    if chat is not None:
        from marin.processing.tokenize.chat import ChatTemplate

        chat = replace(chat, template=ChatTemplate(chat, loaded).text)  # also where it is the tokenizer's own
        picking = OnlyConversations(chat=chat, digest=loaded.digest, tokenizer=tokenizer)
    sink = TokenSink(
        digest=loaded.digest,
        vocab_size=loaded.vocab_size,
        chat=chat,
        tokenizer=tokenizer,
        encoder=encoder,
        check_round_trip=check_round_trip,
    )
    return picking, sink


def _none_is_bad(line: int, reason: str, beginning: str) -> None:
    raise AssertionError(f"what is no document was kept from here: {reason}")
