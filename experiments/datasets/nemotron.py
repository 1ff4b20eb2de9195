"""Nemotron-CC (Su et al. 2024, arXiv:2412.02595), by quality and kind, from Common Crawl's server.

The shares are the compressed sizes of the parts in TiB, about proportional to their tokens, as the reference project
weighted them.
"""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import http_files
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize

NEMOTRON_WEIGHTS = {
    "nemotron_cc/hq_actual": 0.91351,
    "nemotron_cc/hq_synth": 2.72,
    "nemotron_cc/medium_high": 0.82471,
    "nemotron_cc/medium": 3.38,
    "nemotron_cc/medium_low": 1.54,
    "nemotron_cc/low_actual": 0.70123,
    "nemotron_cc/low_synth": 0.62771,
}

_FOLDERS = {
    "nemotron_cc/hq_actual": "quality=high/kind=actual",
    "nemotron_cc/hq_synth": "quality=high/kind=synthetic",
    "nemotron_cc/medium_high": "quality=medium-high",
    "nemotron_cc/medium": "quality=medium",
    "nemotron_cc/medium_low": "quality=medium-low",
    "nemotron_cc/low_actual": "quality=low/kind=actual",
    "nemotron_cc/low_synth": "quality=low/kind=synthetic",
}
_DATA = "contrib/Nemotron/Nemotron-CC/data-jsonl"

download = http_files("raw/nemotron_cc", "https://data.commoncrawl.org", index=f"{_DATA}.paths.gz")


def tokenize_nemotron(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the parts, by name."""
    return {
        name: default_tokenize(name, dataset=download / _DATA / folder, tokenizer=tokenizer)
        for name, folder in _FOLDERS.items()
    }
