"""DCLM Baseline with code and mathematics: "the DCLM mix" (Li et al. 2024, arXiv:2406.11794).

The shares are the sizes of the sets in trillions of tokens, which is how the reference project weighted them.
"""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize
from marin.processing.tokenize.data_configs import lm_mixture_data_config

DCLM_MIXTURE_WEIGHTS = {"dclm_baseline": 3.8, "starcoderdata": 0.25, "proofpile_2": 0.055}

downloads = {
    "dclm_baseline": hub_repository("raw/dclm_baseline", "mlfoundations/dclm-baseline-1.0", revision="a3b142c"),
    "starcoderdata": hub_repository("raw/starcoderdata", "bigcode/starcoderdata", revision="9fc30b5"),
    "proofpile_2": hub_repository("raw/proofpile_2", "EleutherAI/proof-pile-2", revision="901a927"),
}


def dclm_components(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the mix, by name."""
    return {name: default_tokenize(name, dataset=raw, tokenizer=tokenizer) for name, raw in downloads.items()}


dclm_components_llama3 = dclm_components()
dclm_mixture_config_llama3 = lm_mixture_data_config(dclm_components_llama3, DCLM_MIXTURE_WEIGHTS)
