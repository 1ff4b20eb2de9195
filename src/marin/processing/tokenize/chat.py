"""Conversations to tokens, with a mask that says which of them a model is trained on.

A Jinja template makes messages one text, as everywhere in the field, and the template decides what is trained on (see
`ChatFormat`). Three decisions:

- A text is encoded in pieces, cut where training begins and ends. So no token lies across the border, and what stands
  before an answer has the very tokens that it has when the answer is to be generated; that the template writes the same
  there for `add_generation_prompt` is checked. The price: at a border the ids may differ from those of the whole text
  encoded at once.
- Special tokens come from the template alone. A message that spells one could end its own turn or begin another's, so
  its row is a bad row. A template that makes one of parts of messages, as `<|{{ role }}|>` does, is trusted with it.
- A model learns to stop from the token that ends its turns. A trained turn that does not end with it is an error and
  no bad row: the fault is the template's, and every row has it.

The template runs in Jinja's sandbox. It gets no clock: the tokens of a row do not depend on the day.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from marin.data.store import ChatInfo
from marin.processing.document import RecipeError, check_unicode, identity_of
from marin.processing.tokenize.config import ChatFormat
from marin.processing.tokenize.encoder import Encoder, Utf8Texts, utf8_texts
from marin.processing.tokenize.rows import Encoded, EncodedBatch
from marin.processing.tokenize.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow as pa

# Around what a generation block writes, while a text is in the making: code points that are no characters.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_SHOWN = 80  # characters of a rendered text in an error


class Span(NamedTuple):
    """A part of a conversation's text."""

    text: str
    is_trained: bool


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The messages of a row as one text."""

    id: str
    source: str
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


class ChatTemplate:
    """A template with the tokenizer that its special tokens are of.

    Raises RecipeError for a template that is no Jinja, for a stop token or a token in the template that the tokenizer
    does not have as a special token.
    """

    chat: ChatFormat
    text: str  # of the template
    stop_id: int  # the token that ends a turn

    def __init__(self, chat: ChatFormat, tokenizer: Tokenizer):
        self.chat = chat
        self._tokenizer = tokenizer
        self._special = tokenizer.special_tokens
        self._any_special = re.compile("|".join(map(re.escape, sorted(self._special, key=len, reverse=True))))
        self._roles = tuple(dict.fromkeys((chat.input_role, chat.output_role, *chat.other_roles)))
        self._stop_token = chat.stop_token or tokenizer.eos_token
        self.stop_id = self._special_id(self._stop_token, "the stop token")
        self.text = _template_text(chat, tokenizer)
        for name in dict.fromkeys(re.findall(r"<\|\w+\|>", self.text)):
            self._special_id(name, "the chat template writes")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(self.text)
        except TemplateSyntaxError as error:
            raise RecipeError(f"the chat template is no Jinja: line {error.lineno}: {error.message}") from error
        generation = environment.extensions[_Generation.identifier]
        assert isinstance(generation, _Generation)
        self._has_blocks = generation.is_used

    def conversation(self, row: dict[str, Any], default_id: str) -> Conversation:
        """A row of a file as a conversation.

        Raises ValueError for a row that is none, or has nothing to train on; RecipeError where the fault is
        the template's.
        """
        row_id, source = identity_of(row, default_id)
        messages = self._messages(row)
        self._check(messages)
        spans = self.spans(messages)
        self._check_prompt(messages, spans, row_id)
        return Conversation(id=row_id, source=source, spans=tuple(self._ended(spans, row_id)))

    def spans(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False) -> list[Span]:
        """The text of messages, cut where training begins and ends.

        Raises ValueError where the template refuses them, RecipeError where it does not say what is trained on.
        """
        if self._has_blocks:
            return list(_marked(self._render(messages, add_generation_prompt)))
        return list(self._by_difference(messages, add_generation_prompt))

    def rendered(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """The text of messages, whatever of it is trained on. Raises ValueError where the template refuses them."""
        return self._render(messages, add_generation_prompt).replace(_BEGIN, "").replace(_END, "")

    @property
    def info(self) -> ChatInfo:
        """What the ledger of a store says of its conversations."""
        return ChatInfo(template=self.text, stop_id=self.stop_id)

    def encode(self, conversations: Iterable[Sequence[Span]], encoder: Encoder | None = None) -> list[Encoded]:
        """Token ids and masks of texts that are cut into spans; by the reference encoder, if none is given."""
        return [
            _without_end(
                Encoded(
                    text="".join(piece.text for piece in pieces),
                    ids=np.concatenate([np.empty(0, np.int32), *ids]),
                    num_bytes=sum(len(piece.text.encode("utf-8")) for piece in pieces if piece.special_id is None),
                    loss_mask=np.repeat(np.array([p.is_trained for p in pieces], bool), [part.size for part in ids]),
                ),
                self._tokenizer,
            )
            for pieces, ids in self._ids(conversations, encoder)
        ]

    def encode_prompt(self, messages: Sequence[dict[str, Any]]) -> np.ndarray:
        """Ids of messages to which the model is to answer, int32 (n,): as they stand before an answer in training.

        Put first what training puts before a document (`document_prefix` of the model).
        """
        self._check(messages, needs_answer=False)
        [(_, ids)] = self._ids([self.spans(messages, add_generation_prompt=True)])
        return np.concatenate([np.empty(0, np.int32), *ids])

    def _ids(
        self, conversations: Iterable[Sequence[Span]], encoder: Encoder | None = None
    ) -> list[tuple[list["_Piece"], list[np.ndarray]]]:
        """(pieces, ids of each piece) of each text, all encoded in one call."""
        pieces = [list(self._pieces(spans)) for spans in conversations]
        texts = [piece.text for each in pieces for piece in each if piece.special_id is None]
        encoded = iter((encoder or self._tokenizer.encoders.oracle).encode(utf8_texts(texts)))
        return [
            (each, [next(encoded) if p.special_id is None else np.array([p.special_id], np.int32) for p in each])
            for each in pieces
        ]

    def _special_id(self, token: str, what: str) -> int:
        if token not in self._special:
            known = ", ".join(map(repr, self._special)) or "none"
            raise RecipeError(
                f"{what} {token!r}, which is no special token of the tokenizer: those are {known}. Use a tokenizer "
                "that has it (train_tokenizer(..., extra_special_tokens=...)), or a template of tokens that there are."
            )
        return self._special[token]

    def _messages(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        chat = self.chat
        if chat.prompt_column is not None and chat.completion_column is not None:
            columns = {chat.input_role: chat.prompt_column, chat.output_role: chat.completion_column}
            missing = [column for column in columns.values() if column not in row]
            if missing:
                raise ValueError(f"no {' and no '.join(missing)}")
            return [{"role": role, "content": row[column]} for role, column in columns.items()]
        if chat.messages_column not in row:
            raise ValueError(f"no {chat.messages_column}")
        messages = row[chat.messages_column]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError(f"{chat.messages_column} is no list of objects")
        return messages

    def _check(self, messages: Sequence[dict[str, Any]], *, needs_answer: bool = True) -> None:
        for number, message in enumerate(messages):
            for name in ("role", "content"):
                if not isinstance(message.get(name), str):
                    raise ValueError(f"message without {name}: number {number} has {message.get(name)!r}")
            if message["role"] not in self._roles:
                raise ValueError(
                    f"message of unknown role: number {number} has {message['role']!r}, known are "
                    f"{', '.join(map(repr, self._roles))} (ChatFormat.other_roles takes more)"
                )
            for text in _texts_in(message):
                check_unicode("a message", text)
                special = self._any_special.search(text)
                if special is not None:
                    raise ValueError(f"message spells a special token: number {number} holds {special[0]!r}")
                if _BEGIN in text or _END in text:
                    raise ValueError(f"message holds U+FDD0 or U+FDD1, which are no characters: number {number}")
        if needs_answer:
            answers = [message["content"] for message in messages if message["role"] == self.chat.output_role]
            if not answers:
                raise ValueError(f"no answer: no message has the role {self.chat.output_role!r}")
            if not all(answer.strip() for answer in answers):
                raise ValueError(f"empty answer: a message of the role {self.chat.output_role!r} says nothing")

    def _render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._tokenizer.bos_token or "",
                eos_token=self._tokenizer.eos_token,
            )
        except _RefusedError as error:
            raise ValueError(f"the chat template refuses it: {error}") from error
        except SecurityError as error:
            raise RecipeError(f"the chat template asks for what its sandbox forbids: {error}") from error
        except Exception as error:  # a template is a program of somebody else's
            raise ValueError(f"the chat template fails on it: {type(error).__name__}: {error}") from error

    def _by_difference(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> Iterator[Span]:
        whole = self._render(messages, add_generation_prompt)
        at = 0
        for index, message in enumerate(messages):
            if message["role"] != self.chat.output_role:
                continue
            before = self._render(messages[:index], add_generation_prompt=True)
            after = self._render(messages[: index + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise RecipeError(
                    "the chat template does not say what is trained on: it has no {% generation %} blocks, and "
                    f"messages up to an answer (number {index}) are no beginning of those with it. Without: "
                    f"...{before[-_SHOWN:]!r}; with: ...{after[-_SHOWN:]!r}; of all: "
                    f"{whole[: len(after)][-_SHOWN:]!r}. Write generation blocks around what the model is to say."
                )
            yield Span(whole[at : len(before)], False)
            yield Span(after[len(before) :], True)
            at = len(after)
        yield Span(whole[at:], False)

    def _check_prompt(self, messages: Sequence[dict[str, Any]], spans: Sequence[Span], row_id: str) -> None:
        """RecipeError where a model would be asked for the first answer in other words than it was trained with."""
        if not self._has_blocks:
            return  # `_by_difference` has compared each
        first = next(i for i, message in enumerate(messages) if message["role"] == self.chat.output_role)
        if first == 0:
            return  # nobody asks
        prompt = self.rendered(messages[:first], add_generation_prompt=True)
        whole = "".join(span.text for span in spans)
        if not whole.startswith(prompt):
            raise RecipeError(
                f"document {row_id!r}: the chat template asks for an answer with ...{prompt[-_SHOWN:]!r}, and trains "
                f"on one after ...{whole[: len(prompt)][-_SHOWN:]!r}: a model would be asked in words it was not "
                "trained with. Let add_generation_prompt write what stands before an answer."
            )

    def _ended(self, spans: Iterable[Span], row_id: str) -> Iterator[Span]:
        """The spans, each trained one up to its stop token. RecipeError where one does not end with it."""
        is_trained = False
        for span in spans:
            if not span.is_trained:
                yield span
                continue
            is_trained = True
            said, stop, rest = span.text.rpartition(self._stop_token)
            if not stop or rest.strip():
                raise RecipeError(
                    f"document {row_id!r}: the chat template ends a turn that is trained on with "
                    f"{span.text[-_SHOWN:]!r}, not with the stop token {self._stop_token!r}, so a model would not "
                    "learn to stop. Let the generation block hold that token, or name the token that ends a turn "
                    "(stop_token)."
                )
            yield Span(said + stop, True)
            yield Span(rest, False)
        if not is_trained:
            raise RecipeError(
                f"document {row_id!r} has a message of the role {self.chat.output_role!r}, and the chat template "
                "trains on nothing of it. Write a generation block around what that role says."
            )

    def _pieces(self, spans: Iterable[Span]) -> Iterator["_Piece"]:
        for span in _merged(spans):
            at = 0
            for special in self._any_special.finditer(span.text):
                if special.start() > at:
                    yield _Piece(span.text[at : special.start()], span.is_trained, None)
                yield _Piece(special[0], span.is_trained, self._special[special[0]])
                at = special.end()
            if at < len(span.text):
                yield _Piece(span.text[at:], span.is_trained, None)


class ChatRows:
    """Rows that are conversations."""

    def __init__(self, template: ChatTemplate):
        self._template = template

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        from marin.processing.formats.record import ROW

        return ("id", *(name for name in ("source", *self._template.chat.columns) if name in names), ROW)

    def pick(self, batch: "pa.RecordBatch", on_bad: Callable[[int, str, str], None]) -> "ChatBatch":
        from marin.processing.formats.record import ROW

        numbers = batch.column(ROW).to_pylist()
        found = self.conversations(
            batch.drop_columns([ROW]),
            lambda index, reason, beginning: on_bad(numbers[index] + 1, reason, beginning),
        )
        return ChatBatch(self._template, found)

    def conversations(self, batch: "pa.RecordBatch", on_bad: Callable[[int, str, str], None]) -> list[Conversation]:
        """The rows of a batch that are conversations; `on_bad(index, reason, beginning)` is told of the others."""
        from marin.processing.formats.record import JSON_COLUMN

        as_json = {field.name for field in batch.schema if dict(field.metadata or {}) == JSON_COLUMN}
        conversations = []
        for index, row in enumerate(batch.to_pylist()):
            row = {name: json.loads(value) if name in as_json else value for name, value in _given(row).items()}
            try:
                conversations.append(self._template.conversation(row, row["id"]))
            except RecipeError:
                raise
            except ValueError as error:
                on_bad(index, str(error), json.dumps(row, ensure_ascii=False, default=str))
        return conversations


class ChatBatch:
    """Conversations that are to be encoded."""

    def __init__(self, template: ChatTemplate, conversations: Sequence[Conversation]):
        self._template = template
        self._conversations = [each for each in conversations if each.text]
        self.num_empty = len(conversations) - len(self._conversations)
        self.document_ids = [each.id for each in self._conversations]
        self.sources = [each.source for each in self._conversations]

    def sample(self) -> Utf8Texts:
        return utf8_texts([each.text for each in self._conversations])

    def encode(self, encoder: Encoder) -> EncodedBatch:
        rows = self._template.encode([each.spans for each in self._conversations], encoder)
        masks = [row.loss_mask for row in rows if row.loss_mask is not None]
        assert len(masks) == len(rows)
        return EncodedBatch(
            ids=np.concatenate([np.empty(0, np.int32), *(row.ids for row in rows)]),
            offsets=[0, *np.cumsum([row.ids.size for row in rows]).tolist()],
            num_bytes=[row.num_bytes for row in rows],
            loss_masks=masks,
            text=lambda index: rows[index].text,
        )


def _given(value: Any) -> Any:
    """A value of an Arrow column without the fields that are null: those that its row does not have."""
    if isinstance(value, dict):
        return {name: _given(inner) for name, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list) else value


class _Piece(NamedTuple):
    """A special token, or text between two."""

    text: str
    is_trained: bool
    special_id: int | None


class _Generation(Extension):
    """The `{% generation %}` block: what it writes comes between two marks."""

    tags = {"generation"}
    is_used = False

    def parse(self, parser: Parser) -> list[nodes.Node]:
        self.is_used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def mark(text: str) -> nodes.Node:
            return nodes.Output([nodes.TemplateData(text)]).set_lineno(line)

        return [mark(_BEGIN), *body, mark(_END)]


class _RefusedError(Exception):
    """What raise_exception raises: the template says that the messages are wrong."""


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _template_text(chat: ChatFormat, tokenizer: Tokenizer) -> str:
    text = tokenizer.chat_template if chat.template is None else chat.template
    if text is None:
        raise RecipeError(f"no chat template: ChatFormat.template is None, and {tokenizer} brings none. Give one.")
    return text


def _marked(text: str) -> Iterator[Span]:
    """A rendered text with marks as spans."""
    outside, *blocks = text.split(_BEGIN)
    yield Span(outside, False)
    for block in blocks:
        inside, end, outside = block.partition(_END)
        if not end or _END in outside:
            raise RecipeError("the chat template has a generation block inside another one")
        yield Span(inside, True)
        yield Span(outside, False)


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours of one kind as one, empty ones gone."""
    text, is_trained = "", False
    for span in spans:
        if span.text and span.is_trained != is_trained:
            if text:
                yield Span(text, is_trained)
            text, is_trained = "", span.is_trained
        text += span.text
    if text:
        yield Span(text, is_trained)


def _without_end(encoded: Encoded, tokenizer: Tokenizer) -> Encoded:
    """The store adds the end-of-text token: one that the template wrote is left to it, one that it did not is not
    trained on."""
    assert encoded.loss_mask is not None
    if encoded.ids.size and encoded.ids[-1] == tokenizer.eos_id:
        return Encoded(
            text=encoded.text.removesuffix(tokenizer.eos_token),
            ids=encoded.ids[:-1],
            num_bytes=encoded.num_bytes,
            loss_mask=encoded.loss_mask,
        )
    return Encoded(
        text=encoded.text,
        ids=encoded.ids,
        num_bytes=encoded.num_bytes,
        loss_mask=np.append(encoded.loss_mask, False),
    )


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
