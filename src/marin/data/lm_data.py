"""From a data config to rows, with every check that can be made before the first batch.

Refused here: stores of two tokenizers, another vocabulary than the model's, a store too small for one row, a damaged
store. Reading every byte of the stores for the last one costs a second a gigabyte; training on damaged tokens for a
week costs more. `LmDataConfig.verify_stores` turns it off.

A source may be used in part: so many rows held out for validation, and of the rest so many at most trained on. Both are
drawn by one permutation of the source's rows, held-out rows first, whose key is the store's contents: neither the seed
nor the source's name moves a row from one side to the other, and more held-out rows include the fewer. The price is
that the part is drawn by rows: where packing cuts a document, one piece may be trained on and the next held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.data.batch_schedule import BatchSchedule
from marin.data.config import LmDataConfig
from marin.data.dataset import RowDataset, SomeRows, row_dataset
from marin.data.mixture import Mixture
from marin.data.permutation import derive_key
from marin.data.store import ChatInfo, TokenStore
from marin.data.units import to_row

DATA_FILE = "data.json"  # in a run's folder: what LmData.describe() said


@dataclass(frozen=True, kw_only=True, eq=False)
class LmData:
    """Opened and checked data: what a trainer needs to know of it."""

    mixture: Mixture | None  # None where the config names no training source
    validation: dict[str, RowDataset]  # for sequential_batches; in the order of the names
    seq_len: int
    vocab_size: int
    eos_id: int
    bos_id: int | None
    document_prefix: str  # what the model sees before each document: "eos"
    tokenizer_digest: str
    token_byte_lengths: np.ndarray  # int32 (vocab_size,)
    chat: ChatInfo | None  # of the conversations that are trained on, where there are any

    @property
    def train(self) -> Mixture:
        """The training rows; give it to a DataLoader."""
        if self.mixture is None:
            raise ValueError("LmDataConfig.train names no source, so there is nothing to train on: name a token store")
        return self.mixture

    def describe(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back, that decide which row comes when: equal values, equal batches.

        The stores by the checksums of their ledgers, and the order that the mixture makes of their rows.
        """
        sources = zip(self.train.names, self.train.sources, strict=True)
        stores = {name: source.store.checksum for name, source in sources}
        return {"stores": stores, "order": self.train.describe()}


def open_data(
    config: LmDataConfig,
    seq_len: int,
    *,
    batches: BatchSchedule | None = None,
    vocab_size: int | None = None,
    tokenizer_digest: str | None = None,
) -> LmData:
    """Open what `config` names as rows of `seq_len` slots.

    `batches` says how many rows each update takes; it is needed where the config counts updates or batches (a stage of
    the weights, `max_train_batches`). `vocab_size` is the model's where it is fixed already (initialised from a
    checkpoint), `tokenizer_digest` that of the tokenizer in `config.tokenizer`, which the caller loads; each is
    compared with the stores' where given.

    Raises ValueError naming both sides where two things differ, CorruptStoreError for a damaged store.
    """
    train = _open(config.train, "training source", config)
    validation = _open(config.validation, "validation set", config)
    labelled = {f"training source {name!r}": store for name, store in train.items()}
    labelled |= {f"validation set {name!r}": store for name, store in validation.items()}
    _check_one_tokenizer(labelled)
    label, first = next(iter(labelled.items()))
    if tokenizer_digest is not None and first.tokenizer_digest != tokenizer_digest:
        raise ValueError(
            f"the tokenizer {str(config.tokenizer)!r} (digest {tokenizer_digest[:12]}) is not the one that {label} at "
            f"{first.path} was tokenized with (digest {first.tokenizer_digest[:12]}). Tokenize the text with it, or "
            "name the tokenizer that the store was made with."
        )
    if vocab_size is not None and first.vocab_size != vocab_size:
        raise ValueError(
            f"the model has a vocabulary of {vocab_size} tokens, {label} at {first.path} has {first.vocab_size}. "
            "Use the tokenizer of the model, or start a model of the store's vocabulary."
        )
    for name, store in train.items():
        if store.num_tokens < seq_len:
            raise ValueError(
                f"training source {name!r} at {store.path} has {store.num_tokens} tokens, one row needs {seq_len} "
                "(the model's seq_len). Use a shorter seq_len or more text."
            )
    sources, held_out = _sources(train, config, seq_len, batches)
    mixture = None
    if sources:
        mixture = Mixture(
            sources,
            seed=config.shuffle_seed,
            weights=_weights(config, seq_len, batches),
            block_size=config.mixture_block_size,
            stop_strategy=config.stop_strategy,
        )
    whole = {name: _rows(store, f"validation set {name!r}", seq_len, config) for name, store in validation.items()}
    return LmData(
        mixture=mixture,
        validation=dict(sorted((whole | held_out).items())),
        seq_len=seq_len,
        vocab_size=first.vocab_size,
        eos_id=first.eos_id,
        bos_id=first.bos_id,
        document_prefix=first.document_prefix,
        tokenizer_digest=first.tokenizer_digest,
        token_byte_lengths=first.token_byte_lengths,
        chat=_one_chat(train),
    )


def _rows(store: TokenStore, label: str, seq_len: int, config: LmDataConfig) -> RowDataset:
    try:
        return row_dataset(store, seq_len, config.packing, config.long_conversations)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _one_chat(train: Mapping[str, TokenStore]) -> ChatInfo | None:
    """How the conversations among the sources were written: all in one way, since the model is spoken to in one."""
    chats = {name: store.chat for name, store in train.items() if store.chat is not None}
    if not chats:
        return None
    (first_name, first), *others = chats.items()
    for name, chat in others:
        if chat != first:
            raise ValueError(
                f"training sources {first_name!r} and {name!r} are conversations written in two ways: the ledgers of "
                f"{train[first_name].path} and {train[name].path} differ in 'chat'. Tokenize both with one chat "
                "template and one stop token."
            )
    return first


def _sources(
    train: Mapping[str, TokenStore], config: LmDataConfig, seq_len: int, batches: BatchSchedule | None
) -> tuple[dict[str, RowDataset], dict[str, RowDataset]]:
    """(rows to train on, rows held out) of each source."""
    _check_held_out_alike(train, config)
    sources: dict[str, RowDataset] = {}
    held_out: dict[str, RowDataset] = {}
    for name, store in train.items():
        whole = _rows(store, f"training source {name!r}", seq_len, config)
        num_held_out = config.num_validation_sequences.get(name, 0)
        num_left = whole.num_rows - num_held_out
        if num_left < 1:
            raise ValueError(
                f"training source {name!r} at {store.path} has {whole.num_rows} rows of {seq_len} tokens, and "
                f"num_validation_sequences holds out {num_held_out} of them: none is left to train on. Hold out fewer."
            )
        num_used = _num_used(name, num_left, config, batches)
        key = derive_key("part", store.checksum)
        if num_held_out:
            held_out[name] = SomeRows(whole, key, first=0, num_rows=num_held_out)
        in_part = num_used < whole.num_rows
        sources[name] = SomeRows(whole, key, first=num_held_out, num_rows=num_used) if in_part else whole
    return sources, held_out


def _num_used(name: str, num_rows: int, config: LmDataConfig, batches: BatchSchedule | None) -> int:
    """How many of a source's `num_rows` training rows are used."""
    if name in config.max_train_batches:
        if batches is None:
            raise ValueError(
                f"LmDataConfig.max_train_batches limits source {name!r} to {config.max_train_batches[name]} batches, "
                "and how many rows those hold is not known here. Say how large the batches are (open_data's `batches`)."
            )
        return min(num_rows, config.max_train_batches[name] * batches.size(0))
    if config.target_budget is None or config.experiment_budget is None:
        return num_rows
    used = num_rows * config.experiment_budget // config.target_budget
    if used < 1:
        raise ValueError(
            f"training source {name!r} has {num_rows} rows, and experiment_budget / target_budget = "
            f"{config.experiment_budget} / {config.target_budget} of them is none. Use a larger experiment_budget, "
            "or a larger source."
        )
    return used


def _check_held_out_alike(train: Mapping[str, TokenStore], config: LmDataConfig) -> None:
    """Two sources of one store hold out the same rows, or one would train on what the other holds out."""
    first: dict[str, str] = {}
    for name, store in train.items():
        other = first.setdefault(store.checksum, name)
        one, two = (config.num_validation_sequences.get(each, 0) for each in (other, name))
        if one != two:
            raise ValueError(
                f"training sources {other!r} and {name!r} are one token store ({store.path}), and "
                f"num_validation_sequences holds out {one} rows of the one and {two} of the other, which would be "
                "trained on. Hold out the same number of both."
            )


def _weights(
    config: LmDataConfig, seq_len: int, batches: BatchSchedule | None
) -> Mapping[str, float] | list[tuple[int, Mapping[str, float]]] | None:
    """The config's weights, stages by their first row."""
    if config.weights is None or isinstance(config.weights, dict):
        return config.weights
    try:
        starts = [to_row(stage.start, batches=batches, seq_len=seq_len) for stage in config.weights]
    except ValueError as error:
        raise ValueError(f"LmDataConfig.weights, start of a stage: {error}") from error
    if sorted(set(starts)) != starts:
        rows = ", ".join(f"{s.start!r} is row {row}" for s, row in zip(config.weights, starts, strict=True))
        raise ValueError(f"LmDataConfig.weights: starts of stages must rise: {rows}. Put the stages in order.")
    # where the stream begins with a later update than 0, the stage in force there is its first
    first = max(index for index, row in enumerate(starts) if row <= 0)
    stages = zip([0, *starts[first + 1 :]], config.weights[first:], strict=True)
    return [(row, stage.weights) for row, stage in stages]


def _open(paths: Mapping[str, str], kind: str, config: LmDataConfig) -> dict[str, TokenStore]:
    stores = {}
    for name, path in paths.items():
        try:
            stores[name] = TokenStore.open(path, verify=config.verify_stores)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{kind} {name!r}: {error}. Run its tokenizing step first.") from error
        if stores[name].num_tokens == 0:
            raise ValueError(
                f"{kind} {name!r}: the store at {path} is empty: it has no token. Leave it out, or tokenize text."
            )
    return stores


def _check_one_tokenizer(stores: Mapping[str, TokenStore]) -> None:
    """All stores were made with one tokenizer; else name the first two that differ."""
    (first_label, first), *others = stores.items()
    for label, store in others:
        if store.tokenizer_digest != first.tokenizer_digest:
            raise ValueError(
                f"{first_label} at {first.path} and {label} at {store.path} were made with different tokenizers "
                f"(digests {first.tokenizer_digest[:12]} and {store.tokenizer_digest[:12]}). Tokenize both with one, "
                "or leave one of them out."
            )
        for what in ("vocab_size", "eos_id", "bos_id"):
            if getattr(store, what) != getattr(first, what):
                raise ValueError(
                    f"{first_label} at {first.path} and {label} at {store.path} differ in {what}: "
                    f"{getattr(first, what)} and {getattr(store, what)}. Tokenize both with one tokenizer."
                )
