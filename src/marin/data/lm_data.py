"""From a data config to rows, with every check that can be made before the first batch.

Refused here: stores of two tokenizers, another vocabulary than the model's, a store too small for one row, a damaged
store. Reading every byte of the stores for the last one costs a second a gigabyte; training on damaged tokens for a
week costs more. `LmDataConfig.verify_stores` turns it off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from marin.data.config import LmDataConfig
from marin.data.dataset import RowDataset, row_dataset
from marin.data.mixture import Mixture
from marin.data.store import TokenStore


@dataclass(frozen=True, kw_only=True, eq=False)
class LmData:
    """Opened and checked data: what a trainer needs to know of it."""

    train: Mixture  # the training rows; give it to a DataLoader
    validation: dict[str, RowDataset]  # for sequential_batches
    seq_len: int
    vocab_size: int
    eos_id: int
    bos_id: int | None
    document_prefix: str  # what the model sees before each document: "eos"
    tokenizer_digest: str
    token_byte_lengths: np.ndarray  # int32 (vocab_size,)


def open_data(
    config: LmDataConfig, seq_len: int, *, vocab_size: int | None = None, tokenizer_digest: str | None = None
) -> LmData:
    """Open what `config` names as rows of `seq_len` slots.

    `vocab_size` is the model's where it is fixed already (initialised from a checkpoint), `tokenizer_digest` that of
    the tokenizer in `config.tokenizer`, which the caller loads; each is compared with the stores' where given.

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
    sources = {name: row_dataset(store, seq_len, config.packing) for name, store in train.items()}
    return LmData(
        train=Mixture(sources, seed=config.shuffle_seed, weights=config.weights, block_size=config.mixture_block_size),
        validation={name: row_dataset(store, seq_len, config.packing) for name, store in validation.items()},
        seq_len=seq_len,
        vocab_size=first.vocab_size,
        eos_id=first.eos_id,
        bos_id=first.bos_id,
        document_prefix=first.document_prefix,
        tokenizer_digest=first.tokenizer_digest,
        token_byte_lengths=first.token_byte_lengths,
    )


def _open(paths: Mapping[str, str], kind: str, config: LmDataConfig) -> dict[str, TokenStore]:
    stores = {}
    for name, path in paths.items():
        try:
            stores[name] = TokenStore.open(path, verify=config.verify_stores)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{kind} {name!r}: {error}. Run its tokenizing step first.") from error
        if stores[name].num_tokens == 0:
            raise ValueError(f"{kind} {name!r}: the store at {path} is empty")
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
