"""Which tokenizer? Vocabularies of several sizes on the text that every machine has, and published ones beside them.

    marin run experiments/howto/compare_tokenizers.py
    marin run experiments/howto/compare_tokenizers.py --set published=gpt2/
    marin run experiments/howto/compare_tokenizers.py --set documents=my_documents/

The step's report.md says, source by source and with intervals, how many tokens each makes of the same held-out
documents. A tokenizer trained on the kind of text it is compared on has an advantage over one that was not; that is
what the comparison is to show.
"""

from dataclasses import dataclass

from marin.config import from_command_line
from marin.download.api import standard_library
from marin.execution.executor import ExecutorStep, InputName, executor_main
from marin.processing.tokenize.api import PathLike, compare_tokenizers, train_tokenizer

VOCAB_SIZES = (1024, 4096, 8192)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What may be set from the command line."""

    published: str | None = None
    """Folder or tokenizer.json of a published tokenizer to compare with."""
    documents: str | None = None
    """Folder of documents to compare on, beside the standard library's held-out ones."""
    max_documents: int | None = None
    """Take only the first so many documents of the library, for a quick look."""
    vocab_sizes: tuple[int, ...] = VOCAB_SIZES
    """Of the tokenizers to train; the first is what the others are measured by."""


def compare(config: Compare) -> ExecutorStep:
    """The comparison; the steps that make its tokenizers hang on it."""
    library = standard_library("documents/standard_library", max_documents=config.max_documents)
    tokenizers: dict[str, PathLike] = {
        f"bpe_{size}": train_tokenizer(f"standard_library_{size}", library / "train", size)
        for size in config.vocab_sizes
    }
    if config.published is not None:
        tokenizers["published"] = InputName.hardcoded(config.published)
    inputs: dict[str, PathLike] = {"standard_library": library / "validation"}
    if config.documents is not None:
        inputs["documents"] = InputName.hardcoded(config.documents)
    return compare_tokenizers("tokenizers", tokenizers, inputs, tags=frozenset({"HOWTOS"}))


if __name__ == "__main__":
    executor_main(steps=[compare(from_command_line(Compare()))], description="Tokenizers on the standard library")
