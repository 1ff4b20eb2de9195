"""Dolmino, the mix of OLMo 2's second stage (OLMo team 2024, arXiv:2501.00656; ODC-By-1.0), by part."""

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep
from marin.processing.tokenize.api import default_tokenize

DOLMINO_MATH_PARTS = (
    "math/codesearchnet-owmfilter",
    "math/dolmino_math_synth",
    "math/gsm8k",
    "math/mathcoder2-synthmath",
    "math/metamath-owmfilter",
    "math/tinyGSM-MIND",
    "math/tulu_math",
)
DOLMINO_PARTS = ("dclm", "flan", "pes2o", "stackexchange", "wiki", *DOLMINO_MATH_PARTS)

download = hub_repository("raw/dolmino", "allenai/dolmino-mix-1124", revision="bb54cab", files=("data/*",))


def tokenize_dolmino_subset(part: str, tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of one part."""
    if part not in DOLMINO_PARTS:
        raise ValueError(f"Dolmino has no part {part!r}; expected one of {', '.join(DOLMINO_PARTS)}")
    return default_tokenize(f"dolmino/{part}", dataset=download / "data" / part, tokenizer=tokenizer)


def tokenize_dolmino(tokenizer: ExecutorStep = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores of all parts, by `dolmino/PART`."""
    return {f"dolmino/{part}": tokenize_dolmino_subset(part, tokenizer) for part in DOLMINO_PARTS}


def tokenize_dolmino_math(tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """One token store of all mathematics in it: each set alone is too small for a share of its own."""
    return default_tokenize("dolmino/all_math", dataset=download / "data" / "math", tokenizer=tokenizer)
