"""Paloma (Magnusson et al. 2023, arXiv:2312.10523): validation sets of sixteen sources, by `paloma/NAME`.

Each source is a folder of the repository, and in it `val/` is what models are compared on while they are made; `test/`
is left for the end, and not fetched. Rows are {id, text, source, ...}. The repository is gated: its terms (AI2 ImpACT)
are accepted on its page on the hub, once, and HF_TOKEN says who did.
"""

from typing import Any

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep, InputName
from marin.processing.tokenize.api import default_tokenize

PALOMA_REVISION = "65cd6fc"
PALOMA_FOLDERS = {
    "4chan": "4chan_meta_sep",
    "c4_100_domains": "c4_100_domains",
    "c4_en": "c4_en",
    "dolma-v1_5": "dolma-v1_5",
    "dolma_100_programing_languages": "dolma_100_programing_languages",
    "dolma_100_subreddits": "dolma_100_subreddits",
    "falcon-refinedweb": "falcon-refinedweb",
    "gab": "gab",
    "m2d2_s2orc_unsplit": "m2d2_s2orc_unsplit",
    "m2d2_wikipedia_unsplit": "m2d2_wikipedia_unsplit",
    "manosphere_meta_sep": "manosphere_meta_sep",
    "mc4": "mc4",
    "ptb": "ptb",
    "redpajama": "redpajama",
    "twitterAAE_HELM_fixed": "twitterAAE_HELM_fixed",
    "wikitext_103": "wikitext_103",
}
"""Name of each source -> its folder in the repository."""

download = hub_repository("raw/paloma", "allenai/paloma", revision=PALOMA_REVISION, files=("*/val/*.jsonl.gz",))


def paloma_tokenized(
    *,
    tokenizer: ExecutorStep | InputName | str = llama3_tokenizer,
    paloma_raw: ExecutorStep | InputName | str = download,
) -> dict[str, ExecutorStep]:
    """Token stores of the sources, by `paloma/NAME`; `paloma_raw` is the repository's folder, if not as published."""
    return {
        f"paloma/{name}": default_tokenize(
            f"paloma/{name}", dataset=_inside(paloma_raw, f"{folder}/val"), tokenizer=tokenizer
        )
        for name, folder in PALOMA_FOLDERS.items()
    }


def _inside(folder: Any, place: str) -> Any:
    return f"{folder}/{place}" if isinstance(folder, str) else folder / place
