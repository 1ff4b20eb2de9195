"""Sets of one corpus each, for pretraining."""

from experiments.datasets.catalog import PublishedSet, by_name
from experiments.shared_tokenizers import llama3_tokenizer
from marin.execution.executor import ExecutorStep

SETS = by_name(
    [
        PublishedSet(
            name="fineweb",
            repository="HuggingFaceFW/fineweb",
            revision="cd85054",
            files=("data/*",),
            folder="data",
            licence="ODC-By-1.0",
            licence_is_checked=True,
            source="Penedo et al. 2024, arXiv:2406.17557",
        ),
        PublishedSet(
            name="fineweb_edu",
            repository="HuggingFaceFW/fineweb-edu",
            revision="3c452cb",
            files=("data/*",),
            folder="data",
            licence="ODC-By-1.0",
            licence_is_checked=True,
            source="Penedo et al. 2024, arXiv:2406.17557",
        ),
        PublishedSet(
            name="slimpajama",
            repository="cerebras/SlimPajama-627B",
            revision="2d0accd",
            files=("train/*",),
            folder="train",
            licence="of its parts",
            source="Soboleva et al. 2023, SlimPajama",
        ),
        PublishedSet(
            name="slimpajama_6b",
            repository="DKYoon/SlimPajama-6B",
            revision="b5f90f4",
            files=("data/train-*",),
            folder="data",
            licence="of its parts",
            source="a sample of SlimPajama-627B",
        ),
        PublishedSet(
            name="dclm_baseline",
            repository="mlfoundations/dclm-baseline-1.0",
            revision="a3b142c",
            licence="CC-BY-4.0",
            licence_is_checked=True,
            source="Li et al. 2024, arXiv:2406.11794",
        ),
        PublishedSet(
            name="the_stack_dedup",
            repository="bigcode/the-stack-dedup",
            revision="17cad72",
            files=("data/*",),
            folder="data",
            text_column="content",
            licence="of its parts",
            licence_is_checked=True,
            source="Kocetkov et al. 2022, arXiv:2211.15533",
        ),
        PublishedSet(
            name="starcoderdata",
            repository="bigcode/starcoderdata",
            revision="9fc30b5",
            text_column="content",
            licence="of its parts",
            source="Li et al. 2023, arXiv:2305.06161",
        ),
        PublishedSet(
            name="proofpile_2",
            repository="EleutherAI/proof-pile-2",
            revision="901a927",
            licence="of its parts",
            source="Azerbayev et al. 2023, arXiv:2310.10631",
        ),
        PublishedSet(
            name="openwebtext2",
            repository="vietgpt/the_pile_openwebtext2",
            revision="1de27c6",
            licence="none stated",
            source="Gao et al. 2020, The Pile, arXiv:2101.00027",
        ),
    ]
)


def tokenize_simple(name: str, tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
    """The token store of one of the sets."""
    if name not in SETS:
        raise ValueError(f"no set {name!r}; expected one of {', '.join(SETS)}")
    return SETS[name].tokenized(tokenizer)
