"""Smaller sets for the end of training: mathematics, Markdown, questions, instructions.

Three Markdown corpora and a set of science questions were made by the reference project, which published them without
naming a commit. So they are read from folders of the store that no step makes (`raw/...`), where a copy of one's own
belongs; `marin adopt` puts it there with a record.
"""

from experiments.datasets import instruction
from experiments.datasets.catalog import PublishedSet, by_name
from experiments.shared_tokenizers import llama3_tokenizer
from marin.execution.executor import ExecutorStep, InputName
from marin.processing.conversations.api import conversations
from marin.processing.tokenize.api import default_tokenize

SETS = by_name(
    [
        PublishedSet(
            name="finemath_3_plus",
            repository="HuggingFaceTB/finemath",
            revision="8f233cf",
            files=("finemath-3plus/*",),
            folder="finemath-3plus",
            licence="ODC-By-1.0",
            licence_is_checked=True,
            source="Allal et al. 2025, SmolLM2, arXiv:2502.02737",
        ),
        *(
            PublishedSet(
                name=f"megamath/{part.replace('-', '_')}",
                repository="LLM360/MegaMath",
                revision="3cbc64616594d6bc8759abaa0b2a71858f880f0d",
                files=(f"megamath-{part}/*",),
                folder=f"megamath-{part}",
                licence="ODC-By-1.0",
                licence_is_checked=True,
                source="Zhou et al. 2025, arXiv:2504.02807",
            )
            for part in ("web", "web-pro", "text-code-block", "translated-code", "qa")
        ),
    ]
)


_OWN_COPIES = {
    "arxiv_markdownified": "raw/arxiv-markdown",
    "stackexchange_custom": "raw/stackexchange-markdown",
    "wikipedia_markdown": "raw/wikipedia-markdown",
    "medu_science_qa": "raw/datashop-science-qa",
}


def tokenize_finemath(tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of FineMath-3+."""
    return SETS["finemath_3_plus"].tokenized(tokenizer)


def tokenize_tulu(tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of the Tulu 3 conversations, as plain text."""
    tulu = instruction.SETS["tulu_3"]
    text = conversations("tulu_3", tulu.download(), adapter=tulu.adapter, as_text=True)
    return default_tokenize("tulu_3", dataset=text, tokenizer=tokenizer)


def tokenize_own_copies(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the Markdown corpora and the science questions, by name."""
    return {
        name: default_tokenize(name, dataset=InputName.hardcoded(folder), tokenizer=tokenizer)
        for name, folder in _OWN_COPIES.items()
    }
