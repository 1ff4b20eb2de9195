"""Configs of the tokenizing stage: plain values, importable without a tokenizer library.

In a step's config a value may still be wrapped (`versioned(8192)`), so the checks here pass over what is not yet a
number; they run again when the step does.
"""

from dataclasses import dataclass, field

NUM_BYTES = 256
ENCODERS = ("auto", "tokenizers", "gigatoken")
BACKENDS = ("local", "ray")
# Part of the identity of a tokenizing step and of every shard's manifest: raised when the same input would give another
# store, so that old ones are made anew. 2: the tokenizer's digest covers eos_id and bos_id, the ledger has the document
# prefix, and an id or source of null is an absent one. 3: the digest leaves out settings that decide no id. 4: a big
# file is several shards, and rows are read as all other stages read them.
RECIPE_VERSION = 4
# Likewise, of what is done to conversations beside that.
CHAT_RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrainBpeConfig:
    """On which text, and how large."""

    # Folder with documents (*.jsonl, *.jsonl.gz, *.jsonl.zst, *.parquet, *.arrow, at any depth), one such file, or a
    # glob.
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
    # Of the files, where their endings do not tell it, and for files of text ("text", "text-paragraphs", "text-lines").
    format: str | None = field(default=None, metadata={"version": {"omit_when": None}})
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        _check_share("max_bad", self.max_bad)
        least = NUM_BYTES + 1 + len(self.extra_special_tokens)
        if isinstance(self.vocab_size, int) and self.vocab_size < least:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; at least {least} are needed: 256 bytes and the special tokens"
            )


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a row becomes a conversation, a conversation text, and which of that text is trained on.

    Trained on is what the template writes inside `{% generation %}` blocks. A template without them is asked twice for
    each turn of `output_role`, without the turn and with it, and what the turn adds is trained on.
    """

    # Jinja text, which sees messages, add_generation_prompt, bos_token, eos_token and raise_exception(text). None: the
    # template that the tokenizer's folder brings.
    template: str | None
    # Token that ends each turn that is trained on; None: the tokenizer's end-of-text token.
    stop_token: str | None = None
    # Column with the messages: a list of {"role", "content"}, whose other fields the template may use too.
    messages_column: str = "messages"
    # For rows of two columns instead: the text that asks, and the text that answers. Both or neither.
    prompt_column: str | None = None
    completion_column: str | None = None
    # The role that the prompt column gets.
    input_role: str = "user"
    # The role of the completion column, and of the turns that are trained on.
    output_role: str = "assistant"
    # What else a role may be. A message of any other is a bad row: a misspelt one would not be trained on, unsaid.
    other_roles: tuple[str, ...] = ("system", "tool")

    def __post_init__(self) -> None:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError(
                f"ChatFormat.prompt_column is {self.prompt_column!r} and completion_column {self.completion_column!r}; "
                "give both, for rows that have these columns instead of messages, or neither"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in which a row has its conversation."""
        if self.prompt_column is not None and self.completion_column is not None:
            return (self.prompt_column, self.completion_column)
        return (self.messages_column,)


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """Which text, which tokenizer, and where the store goes."""

    # Folder with documents (*.jsonl, *.jsonl.gz, *.jsonl.zst, *.parquet, *.arrow, at any depth), one such file, or a
    # glob.
    input_path: str
    # Folder of the token store.
    output_path: str
    # Folder of the tokenizer, or its tokenizer.json.
    tokenizer: str
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    # Whether a sample of every shard is decoded and compared with its text. A tokenizer that normalizes fails this.
    check_round_trip: bool = True
    # Processes; None: one a CPU, at most one a file. The store does not depend on it, so it is no part of its identity.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})
    # "local": processes of this machine; "ray": tasks of the cluster at RAY_ADDRESS, whose machines share the folders;
    # None: what MARIN_DATA_BACKEND says, or "local". The store does not depend on it either.
    backend: str | None = field(default=None, metadata={"version": {"exclude": True}})
    # Of the files, where their endings do not tell it, and for files of text: "text" makes a document of each,
    # "text-paragraphs" and "text-lines" of each paragraph or line.
    format: str | None = field(default=None, metadata={"version": {"omit_when": None}})
    # The library that encodes: "tokenizers", "gigatoken" (refused where it is not exact), or "auto", the faster one of
    # those that are. No id depends on it.
    encoder: str = field(default="auto", metadata={"version": {"exclude": True}})
    # Column with the text, of rows that are texts.
    text_column: str = field(default="text", metadata={"version": {"omit_when": "text"}})
    # For rows that are conversations; None: each is a text.
    chat: ChatFormat | None = field(default=None, metadata={"version": {"omit_when": None}})

    def __post_init__(self) -> None:
        _check_share("max_bad", self.max_bad)
        if self.chat is not None and self.text_column != "text":
            raise ValueError(
                f"text_column is {self.text_column!r} and chat is given: rows are texts or conversations. The columns "
                "of conversations are named in ChatFormat."
            )
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}; it is one of {', '.join(ENCODERS)}")
        if self.backend not in (None, "local", "ray"):
            raise ValueError(
                f"backend is {self.backend!r}; it is 'local', 'ray' or None (what MARIN_DATA_BACKEND says)"
            )
        if isinstance(self.num_workers, int) and self.num_workers < 1:
            raise ValueError(f"num_workers is {self.num_workers}; at least one is needed, None means one a CPU")


@dataclass(frozen=True, kw_only=True)
class CompareTokenizersConfig:
    """Which tokenizers, on which text."""

    # Name -> folder of a tokenizer, or its tokenizer.json.
    tokenizers: dict[str, str]
    # Name -> file, folder or glob of documents. The name is the source of rows that have none.
    inputs: dict[str, str]
    # Folder of results.json and report.md; None: nothing is written.
    output_path: str | None
    # Name of the tokenizer of whose numbers of tokens the others' are fractions; None: the first. A step has its name,
    # for the identity of a mapping knows no order.
    relative_to: str | None = None
    # Of the files, where their endings do not tell it.
    format: str | None = field(default=None, metadata={"version": {"omit_when": None}})
    # Of each source.
    max_documents: int = 2000
    # Times that documents are drawn again for an interval.
    num_resamples: int = 1000
    # Of the draws.
    seed: int = 0
    # Whether encoding is timed, for timing.json; the results do not depend on it.
    measure_speed: bool = field(default=True, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        for name in ("tokenizers", "inputs"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; at least one is needed")
        if self.relative_to is not None and self.relative_to not in self.tokenizers:
            raise ValueError(f"relative_to is {self.relative_to!r}; it is one of {', '.join(self.tokenizers)}")
        for name in ("max_documents", "num_resamples"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 2:
                raise ValueError(f"{name} is {value}; an interval takes two at least")


def _check_share(name: str, value: float) -> None:
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it is a share of the rows, between 0 and 1")
