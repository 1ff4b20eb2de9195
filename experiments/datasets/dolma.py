"""Parts of Dolma 1.7 (Soldaini et al. 2024, arXiv:2402.00159).

The hub holds the list of files, the files are elsewhere: so the list is pinned, and the files go by their names in it.
"""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import http_files
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize

_INDEX = "https://huggingface.co/datasets/allenai/dolma/resolve/7f48140/urls/v1_7.txt"

DOLMA_PARTS = ("algebraic-stack", "arxiv", "megawika", "open-web-math", "pes2o", "stackexchange", "wiki")

download = http_files(
    "raw/dolma",
    "https://olmo-data.org/dolma-v1_7",
    index=_INDEX,
    files=tuple(f"{part}/*" for part in DOLMA_PARTS),
)


def tokenize_dolma(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the parts, by `dolma/PART`."""
    return {
        f"dolma/{part}": default_tokenize(f"dolma/{part}", dataset=download / part, tokenizer=tokenizer)
        for part in DOLMA_PARTS
    }
