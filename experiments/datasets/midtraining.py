"""Smaller sets for the end of training: mathematics, Markdown, questions, instructions.

Three Markdown corpora and a set of science questions were made by the reference project, which published them without
naming a commit. So they are read from folders of the store that no step makes (`raw/...`), where a copy of one's own
belongs; `marin adopt` puts it there with a record.
"""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep, InputName
from marin.processing.tokenize.api import default_tokenize

finemath = hub_repository(
    "raw/finemath", "HuggingFaceTB/finemath", revision="8f233cf", files=("finemath-3plus/*",)
)  # Liu et al. 2024, FineMath-3+: about 34 billion tokens
tulu_3 = hub_repository("raw/tulu_3", "allenai/tulu-3-sft-mixture", revision="55e9fd6")  # Lambert et al. 2024

_OWN_COPIES = {
    "arxiv_markdownified": "raw/arxiv-markdown",
    "stackexchange_custom": "raw/stackexchange-markdown",
    "wikipedia_markdown": "raw/wikipedia-markdown",
    "medu_science_qa": "raw/datashop-science-qa",
}


def tokenize_finemath(tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of FineMath-3+."""
    return default_tokenize("finemath_3_plus", dataset=finemath / "finemath-3plus", tokenizer=tokenizer)


def tokenize_tulu(tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of the Tulu 3 conversations, as plain text."""
    return default_tokenize("tulu_3", dataset=tulu_3, tokenizer=tokenizer)


def tokenize_own_copies(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the Markdown corpora and the science questions, by name."""
    return {
        name: default_tokenize(name, dataset=InputName.hardcoded(folder), tokenizer=tokenizer)
        for name, folder in _OWN_COPIES.items()
    }
