"""The rows that a plan of the data engine must have to end in a token store, made of those that it has.

What is no document or conversation is bad here, by its reason, so that the sink behind has nothing left to refuse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from marin.processing.pipeline.batch import BadRow, BatchResult
from marin.processing.tokenize.config import CHAT_RECIPE_VERSION, ChatFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.tokenize.chat import ChatBatch, ChatTemplate, Span
    from marin.processing.tokenize.tokenizer import Tokenizer

# Of a conversation: how many characters of its text are not trained on, then how many are, in turns.
TURNS = "turns"


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


@dataclass(frozen=True, kw_only=True)
class OnlyConversations:
    """The conversations as texts, with what of each is trained on; rows that are none are bad.

    `chat` has a template, also where that is the tokenizer's own.
    """

    version: ClassVar[int] = CHAT_RECIPE_VERSION
    chat: ChatFormat
    digest: str  # of the tokenizer, whose special tokens decide what a message may say
    tokenizer: str = field(compare=False)  # its folder

    @property
    def columns_read(self) -> tuple[str, ...]:
        return ("id", "source", *self.chat.columns)

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import pyarrow as pa

        from marin.processing.tokenize.chat import ChatRows

        names = batch.schema.names
        if "id" not in names:
            raise TypeError(f"no column 'id'; conversations have one, and these rows have {', '.join(names)}")
        batch = batch.select([name for name in self.columns_read if name in names])
        ids = batch.column("id").to_pylist()
        bad: list[BadRow] = []

        def on_bad(index: int, reason: str, beginning: str) -> None:
            bad.append(BadRow(id=str(ids[index] or ""), reason=reason, text=beginning))

        found = ChatRows(template_of(self.chat, self.tokenizer, self.digest)).conversations(batch, on_bad)
        columns = {
            "id": pa.array([each.id for each in found], pa.string()),
            "text": pa.array([each.text for each in found], pa.string()),
            "source": pa.array([each.source for each in found], pa.string()),
            TURNS: pa.array([_turns(each.spans) for each in found], pa.list_(pa.int64())),
        }
        return BatchResult(pa.record_batch(columns), bad=bad)


class PlannedConversations:
    """Rows that `OnlyConversations` has made, for encoding."""

    def __init__(self, template: "ChatTemplate"):
        self._template = template

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(names)

    def pick(self, batch: "pa.RecordBatch", on_bad: Callable[[int, str, str], None]) -> "ChatBatch":
        from marin.processing.tokenize.chat import ChatBatch, Conversation

        del on_bad  # there is none
        columns = (batch.column(name).to_pylist() for name in ("id", "text", "source", TURNS))
        return ChatBatch(
            self._template,
            [
                Conversation(id=row_id, source=source, spans=_spans(text, turns))
                for row_id, text, source, turns in zip(*columns, strict=True)
            ],
        )


def _turns(spans: "Sequence[Span]") -> list[int]:
    """The characters of spans: not trained on, trained on, and so on."""
    sizes = [0]
    for span in spans:
        if span.is_trained != (len(sizes) % 2 == 0):
            sizes.append(0)
        sizes[-1] += len(span.text)
    return sizes


def _spans(text: str, turns: Sequence[int]) -> "tuple[Span, ...]":
    from marin.processing.tokenize.chat import Span

    ends = list(accumulate(turns))
    bounds = zip([0, *ends], ends, strict=False)
    return tuple(Span(text[begin:end], number % 2 == 1) for number, (begin, end) in enumerate(bounds))


@lru_cache(maxsize=1)
def load_checked(folder: str, digest: str) -> "Tokenizer":
    """A tokenizer, kept for all shards that a process makes. ValueError where it is not the one of the plan."""
    from marin.processing.tokenize.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if tokenizer.digest != digest:
        raise ValueError(f"{folder}: the tokenizer has changed since the plan was made; make the plan again")
    return tokenizer


@lru_cache(maxsize=1)
def template_of(chat: ChatFormat, folder: str, digest: str) -> "ChatTemplate":
    """The template of a plan, compiled once a process; as `load_checked`."""
    from marin.processing.tokenize.chat import ChatTemplate

    return ChatTemplate(chat, load_checked(folder, digest))


def _strings(name: str, values: "pa.Array") -> "pa.Array":
    """A column as strings; ids may be integers. TypeError where it holds something else."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return values.cast(pa.string())
    if name == "id" and pa.types.is_integer(kind):
        return values.cast(pa.string())
    raise TypeError(f"column {name!r} holds {kind}; expected strings")
