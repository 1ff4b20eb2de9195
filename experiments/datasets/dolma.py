"""Dolma 1.7 (Soldaini et al. 2024, arXiv:2402.00159; ODC-By-1.0), by part.

The hub holds the list of files, the files are elsewhere: so the list is pinned, and the files go by their names in it.
The shares are billions of tokens times the passes that OLMo 1.7 made of each (c4 and cc half, wiki two), as the set's
card gives them.
"""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import http_files
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize

DOLMA_OLMO_MIXTURE_WEIGHTS = {
    "dolma/algebraic-stack": 12.6,
    "dolma/arxiv": 28.0,
    "dolma/gutenberg": 5.3,
    "dolma/c4": 124.95,
    "dolma/cc": 597.75,
    "dolma/cc-news": 14.3,
    "dolma/falcon": 456.4,
    "dolma/megawika": 4.6,
    "dolma/open-web-math": 12.6,
    "dolma/pes2o": 57.2,
    "dolma/reddit": 79.9,
    "dolma/stackexchange": 19.6,
    "dolma/starcoder": 263.8,
    "dolma/flan": 16.5,
    "dolma/wiki": 7.4,
}

_INDEX = "https://huggingface.co/datasets/allenai/dolma/resolve/7f48140/urls/v1_7.txt"

_FILES = {
    "algebraic-stack": ("algebraic-stack-train-*",),
    "arxiv": ("arxiv-*",),
    "gutenberg": ("books-*",),
    "c4": ("c4-*",),
    "cc": ("cc_en_head-*", "cc_en_middle-*", "cc_en_tail-*"),
    "cc-news": ("cc_news_head-*", "cc_news_middle-*", "cc_news_tail-*"),
    "falcon": ("falcon-*",),
    "megawika": ("megawika-*",),
    "open-web-math": ("open-web-math-train-*",),
    "pes2o": ("pes2o-*",),
    "reddit": ("reddit-*",),
    "stackexchange": ("stackexchange-*",),
    "starcoder": ("starcoder-*",),
    "flan": ("tulu_flan-*",),
    "wiki": ("wiki-*",),
}
"""Part -> names of its files, whatever folder of the server they lie in."""

DOLMA_PARTS = tuple(_FILES)


def download_dolma(part: str) -> ExecutorStep:
    """The step that fetches one part."""
    if part not in _FILES:
        raise ValueError(f"Dolma has no part {part!r}; expected one of {', '.join(DOLMA_PARTS)}")
    return http_files(
        f"raw/dolma/{part}",
        "https://olmo-data.org/dolma-v1_7",
        index=_INDEX,
        files=tuple(f"*/{name}" for name in _FILES[part]),
    )


def tokenize_dolma(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the parts, by `dolma/PART`."""
    return {
        f"dolma/{part}": default_tokenize(f"dolma/{part}", dataset=download_dolma(part), tokenizer=tokenizer)
        for part in DOLMA_PARTS
    }
