"""Configs of the tokenizing stage: plain values, importable without a tokenizer library."""

from dataclasses import dataclass

NUM_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class TrainBpeConfig:
    """On which text, and how large."""

    # Folder with documents (*.jsonl, *.jsonl.gz, *.jsonl.zst, at any depth), or one such file.
    input_path: str
    # Folder of the tokenizer: tokenizer.json, tokenizer_config.json, training.json.
    output_path: str
    # Tokens in all: the 256 bytes, the special tokens, and merges for the rest.
    vocab_size: int
    # The token that ends a text; it gets id 0.
    eos_token: str = "<|endoftext|>"
    # Special tokens beside it; they get the ids that follow.
    extra_special_tokens: tuple[str, ...] = ()
    # A pair is merged only if it occurs this often.
    min_frequency: int = 2
    # UTF-8 bytes of text, from the first documents on, that are trained on; None: all.
    max_bytes: int | None = None
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        least = NUM_BYTES + 1 + len(self.extra_special_tokens)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; at least {least} are needed: 256 bytes and the special tokens"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """Which text, which tokenizer, and where the store goes."""

    # Folder with documents (*.jsonl, *.jsonl.gz, *.jsonl.zst, at any depth), or one such file.
    input_path: str
    # Folder of the token store.
    output_path: str
    # Folder of the tokenizer, or its tokenizer.json.
    tokenizer: str
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    # Whether a sample of every shard is decoded and compared with its text. A tokenizer that normalizes fails this.
    check_round_trip: bool = True
    # Processes; None: one a CPU, at most one a file. Says how, not what: the store does not depend on it.
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is {self.max_bad}; it is a share of the rows, between 0 and 1")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers is {self.num_workers}; at least one is needed, None means one a CPU")
