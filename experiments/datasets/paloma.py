"""Paloma (Magnusson et al. 2023, arXiv:2312.10523): validation sets of many domains, by `paloma/DOMAIN`."""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize

PALOMA_DOMAINS = (
    *("4chan_meta_sep", "c4_100_domains", "c4_en", "dolma-v1_5", "dolma_100_programing_languages"),
    *("dolma_100_subreddits", "falcon-refinedweb", "gab", "m2d2_s2orc_unsplit", "m2d2_wikipedia_unsplit"),
    *("manosphere_meta_sep", "mc4", "ptb", "redpajama", "twitterAAE_HELM_fixed", "wikitext_103"),
)

download = hub_repository("raw/paloma", "allenai/paloma", revision="65cd6fc")


def tokenize_paloma(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the domains, by `paloma/DOMAIN`."""
    return {
        f"paloma/{domain}": default_tokenize(f"paloma/{domain}", dataset=download / domain / "val", tokenizer=tokenizer)
        for domain in PALOMA_DOMAINS
    }
