"""DCLM Baseline with code and mathematics: "the DCLM mix" (Li et al. 2024, arXiv:2406.11794).

The shares are the sizes of the sets in trillions of tokens, which is how the reference project weighted them.
"""

from experiments.datasets.simple import tokenize_simple
from experiments.shared_tokenizers import llama3_tokenizer
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.data_configs import lm_mixture_data_config

DCLM_MIXTURE_WEIGHTS = {"dclm_baseline": 3.8, "starcoderdata": 0.25, "proofpile_2": 0.055}


def dclm_components(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of the mix, by name."""
    return {name: tokenize_simple(name, tokenizer) for name in DCLM_MIXTURE_WEIGHTS}


dclm_components_llama3 = dclm_components()
dclm_mixture_config_llama3 = lm_mixture_data_config(dclm_components_llama3, DCLM_MIXTURE_WEIGHTS)
