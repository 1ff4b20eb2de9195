"""What a language model is trained and validated on, and the checks before the first batch.

`LmDataConfig` is plain values, so it is part of a run's identity as it stands. `open_data` turns it into rows for a
model's sequence length and refuses what could not be meant: stores of two tokenizers, another vocabulary than the
model's, a store too small for one row. Damaged stores are found here, before hours of training on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from marin.data.dataset import RowDataset, row_dataset
from marin.data.mixture import Mixture
from marin.data.packing import PACKING_MODES, PackingMode
from marin.data.store import TokenStore


@dataclass(frozen=True, kw_only=True)
class LmDataConfig:
    """Sources of training rows and validation sets, by name. Paths are token stores."""

    # Source name -> token store. In a step's config a path may be a step or an input name.
    train: dict[str, str]
    # Source name -> share of the rows; None: in proportion to the sources' sizes.
    weights: dict[str, float] | None = None
    # Validation set (a tag in the metrics) -> token store.
    validation: dict[str, str] = field(default_factory=dict)
    # How documents become rows: see marin.data.packing.
    packing: PackingMode = "concatenate"
    # Chooses the order of everything. The same seed gives the same batches.
    shuffle_seed: int = 0
    # Rows over which the weights are met exactly.
    mixture_block_size: int = 2048
    # Folder of the tokenizer that the model will be exported with; its digest must be the stores'.
    tokenizer: str | None = None
    # Read every byte of the stores once before training and compare digests (about 1 GB/s).
    verify_stores: bool = True

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("LmDataConfig.train names no source; give at least one token store")
        if self.packing not in PACKING_MODES:
            modes = ", ".join(map(repr, PACKING_MODES))
            raise ValueError(f"LmDataConfig.packing is {self.packing!r}; expected one of {modes}")
        if self.weights is not None and set(self.weights) != set(self.train):
            raise ValueError(
                f"LmDataConfig.weights names {sorted(self.weights)}, train has {sorted(self.train)}; "
                "give every source a weight (0 leaves it out)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LmData:
    """Opened and checked data: what a trainer needs to know of it."""

    train: Mixture  # the training rows; give it to a DataLoader
    validation: dict[str, RowDataset]  # for sequential_batches
    seq_len: int
    vocab_size: int
    eos_id: int
    bos_id: int | None
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
