"""Steps that train a tokenizer and tokenize documents.

The work functions are named, not imported, so that defining an experiment loads no tokenizer library. Tokenizing
publishes in place: an interrupted step finds its complete shards again.
"""

from collections.abc import Mapping
from typing import TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.tokenize.config import (
    CHAT_RECIPE_VERSION,
    RECIPE_VERSION,
    ChatFormat,
    CompareTokenizersConfig,
    TokenizeConfig,
    TrainBpeConfig,
)

PathLike: TypeAlias = ExecutorStep | InputName | str


def train_tokenizer(
    name: str,
    dataset: PathLike,
    vocab_size: int,
    *,
    eos_token: str = "<|endoftext|>",
    extra_special_tokens: tuple[str, ...] = (),
    max_bytes: int | None = None,
    max_bad: float = 0.01,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `tokenizers/<name>` that trains a byte-level BPE tokenizer of `vocab_size` tokens on documents.

    `dataset` is a step, a folder in one (`collected / "train"`), or a path; `max_bytes` bounds the text that is
    trained on. `extra_special_tokens` are those that a chat template will write. The step's output is a tokenizer
    folder in Hugging Face format.
    """
    return ExecutorStep(
        name=f"tokenizers/{name}",
        fn="marin.processing.tokenize.train_bpe:train_bpe",
        config=TrainBpeConfig(
            input_path=dataset,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            vocab_size=vocab_size,
            eos_token=eos_token,
            extra_special_tokens=extra_special_tokens,
            max_bytes=max_bytes,
            max_bad=max_bad,
        ),
        description=description or f"byte-level BPE, {vocab_size} tokens",
        tags=tags,
    )


def default_tokenize(
    name: str,
    dataset: PathLike,
    tokenizer: PathLike,
    *,
    text_column: str = "text",
    chat: ChatFormat | None = None,
    format: str | None = None,
    max_bad: float = 0.01,
    check_round_trip: bool = True,
    num_workers: int | None = None,
    backend: str | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `tokenized/<name>` that turns documents into a token store.

    `dataset` is a step, a folder in one (`collected / "train"`), or a path; `tokenizer` likewise. `text_column` has a
    row's text; with `chat` the rows are conversations, and the store says which of their tokens are trained on;
    `format` is needed for files of text. More bad rows than the share `max_bad` fail the step; `num_workers` processes
    share the work (None: one a CPU), those of this machine or of a Ray cluster (`backend`, "local" or "ray"; None: what
    MARIN_DATA_BACKEND says), and change nothing.
    """
    return ExecutorStep(
        name=f"tokenized/{name}",
        fn="marin.processing.tokenize.tokenize:tokenize",
        config=TokenizeConfig(
            input_path=dataset,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            tokenizer=tokenizer,  # type: ignore[arg-type]
            max_bad=max_bad,
            check_round_trip=check_round_trip,
            num_workers=num_workers,
            backend=backend,
            format=format,
            text_column=text_column,
            chat=chat,
        ),
        description=description or f"tokenize {name}",
        publish="inplace",
        code_version=str(RECIPE_VERSION) if chat is None else f"{RECIPE_VERSION}, chat {CHAT_RECIPE_VERSION}",
        tags=tags,
    )


def compare_tokenizers(
    name: str,
    tokenizers: Mapping[str, PathLike],
    inputs: Mapping[str, PathLike],
    *,
    format: str | None = None,
    max_documents: int = 2000,
    num_resamples: int = 1000,
    seed: int = 0,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `comparisons/<name>` that says what tokenizers make of the same documents: results.json and report.md.

    Both mappings go from names to steps, folders in them, or paths. At most `max_documents` are drawn from each source;
    `num_resamples` is for the intervals. Numbers of tokens are told as fractions of the first tokenizer's. Encoding
    speeds, which depend on the machine, go to timing.json.
    """
    return ExecutorStep(
        name=f"comparisons/{name}",
        fn="marin.processing.tokenize.compare:compare_tokenizers",
        config=CompareTokenizersConfig(
            tokenizers=dict(tokenizers),  # type: ignore[arg-type]  # paths when the step runs
            inputs=dict(inputs),  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            relative_to=next(iter(tokenizers), None),
            format=format,
            max_documents=max_documents,
            num_resamples=num_resamples,
            seed=seed,
        ),
        description=description or f"compare {', '.join(tokenizers)}",
        tags=tags,
    )
