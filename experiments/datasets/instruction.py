"""Instruction sets, as conversations of one form, and mixtures of them.

The commits, and which columns hold what, are those of the reference project. A set is fetched, its rows are made
messages (`marin.processing.conversations`), and those are tokenized with a chat template and a mask.
"""

from dataclasses import dataclass, field

from experiments.chat_templates import LLAMA3
from experiments.datasets.catalog import by_name
from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep
from marin.processing.conversations.adapter import SHAREGPT_ROLES, ConversationAdapter
from marin.processing.conversations.api import conversations
from marin.processing.tokenize.api import default_tokenize
from marin.processing.tokenize.config import ChatFormat


@dataclass(frozen=True, kw_only=True)
class InstructionSet:
    """A set of conversations on the Hugging Face hub, or a part of one."""

    name: str
    """What it is called here; its steps are `raw/sft/...`, `documents/sft/NAME`, `tokenized/sft/NAME`."""
    repository: str
    """Name on the hub."""
    revision: str
    """Commit, at least 7 hex digits."""
    licence: str
    """SPDX name where there is one."""
    adapter: ConversationAdapter
    """How its rows become messages."""
    licence_is_checked: bool = False
    """Whether the licence was read off the set's card, or off its card that there is none."""
    files: tuple[str, ...] = field(default=())
    """Patterns of the files with this part; none: all data files."""

    def download(self) -> ExecutorStep:
        """The step that fetches it."""
        return hub_repository(f"raw/sft/{self.name}", self.repository, revision=self.revision, files=self.files)

    def conversations(self) -> ExecutorStep:
        """The step that makes its rows messages."""
        return conversations(f"sft/{self.name}", self.download(), adapter=self.adapter)

    def tokenized(self, tokenizer: ExecutorStep = llama3_tokenizer, template: str = LLAMA3) -> ExecutorStep:
        """The step that makes its token store, with a mask."""
        return default_tokenize(
            f"sft/{self.name}",
            dataset=self.conversations(),
            tokenizer=tokenizer,
            chat=ChatFormat(template=template, stop_token="<|eot_id|>"),
        )


def _messages(*metadata: str) -> ConversationAdapter:
    return ConversationAdapter(messages_column="messages", metadata_columns=metadata)


def _sharegpt(*metadata: str, system_column: str | None = None) -> ConversationAdapter:
    return ConversationAdapter(
        messages_column="conversations",
        role_key="from",
        content_key="value",
        roles=SHAREGPT_ROLES,
        system_column=system_column,
        metadata_columns=metadata,
    )


def _pair(
    question: str, answer: str, *metadata: str, answer_key: str | None = None, best_by: str | None = None
) -> ConversationAdapter:
    return ConversationAdapter(
        question_column=question,
        answer_column=answer,
        answer_key=answer_key,
        best_by=best_by,
        metadata_columns=metadata,
    )


SETS = by_name(
    [
        InstructionSet(
            name="tulu_2",
            repository="allenai/tulu-v2-sft-mixture",
            revision="6248b17",
            licence="ODC-By-1.0; of its parts, some non-commercial",
            licence_is_checked=True,
            adapter=_messages("dataset", "id"),
        ),
        InstructionSet(
            name="tulu_2_olmo",
            repository="allenai/tulu-v2-sft-mixture-olmo-4096",
            revision="7a7c388",
            licence="ODC-By-1.0; of its parts, some non-commercial",
            licence_is_checked=True,
            adapter=_messages("dataset", "id"),
        ),
        InstructionSet(
            name="tulu_3",
            repository="allenai/tulu-3-sft-mixture",
            revision="55e9fd6",
            licence="ODC-By-1.0; of its parts, some non-commercial",
            licence_is_checked=True,
            adapter=_messages("source", "id"),
        ),
        InstructionSet(
            name="metamath_qa",
            repository="meta-math/MetaMathQA",
            revision="aa4f34d",
            licence="MIT",
            licence_is_checked=True,
            adapter=_pair("query", "response", "type"),
        ),
        InstructionSet(
            name="ultra_interact",
            repository="openbmb/UltraInteract_sft",
            revision="2b102e4",
            licence="MIT",
            licence_is_checked=True,
            adapter=_pair("instruction", "response", "task", "dataset"),
        ),
        InstructionSet(
            name="openhermes_2_5",
            repository="teknium/OpenHermes-2.5",
            revision="b820378",
            licence="none stated",
            licence_is_checked=True,
            adapter=_sharegpt("category", "source"),
        ),
        InstructionSet(
            name="acecode_89k",
            repository="TIGER-Lab/AceCode-89K",
            revision="13216309a9f6cb40b60cb1a9750071efeac414ad",
            licence="MIT",
            licence_is_checked=True,
            adapter=_pair("question", "inferences", "source", answer_key="completion", best_by="pass_rate"),
        ),
        InstructionSet(
            name="dolphin_r1_nonreasoning",
            repository="cognitivecomputations/dolphin-r1",
            revision="f6ac651",
            files=("dolphin-r1-nonreasoning*",),
            licence="Apache-2.0",
            licence_is_checked=True,
            adapter=_messages("score", "overall_quality"),
        ),
        InstructionSet(
            name="dolphin_r1_reasoning",
            repository="cognitivecomputations/dolphin-r1",
            revision="f6ac651",
            files=("dolphin-r1-reasoning*",),
            licence="Apache-2.0",
            licence_is_checked=True,
            adapter=ConversationAdapter(
                messages_column="messages", answer_column="answer", metadata_columns=("score", "overall_quality")
            ),
        ),
        InstructionSet(
            name="openthoughts_114k_math",
            repository="open-r1/OpenThoughts-114k-math",
            revision="2db609d",
            licence="none stated",
            licence_is_checked=True,
            adapter=_messages("source", "correct"),
        ),
        InstructionSet(
            name="openthoughts_3",
            repository="open-thoughts/OpenThoughts3-1.2M",
            revision="61bcf9d",
            licence="Apache-2.0",
            adapter=_sharegpt("difficulty", "source", "domain"),
        ),
        InstructionSet(
            name="bespoke_stratos_17k",
            repository="bespokelabs/Bespoke-Stratos-17k",
            revision="9e9adba",
            licence="Apache-2.0",
            licence_is_checked=True,
            adapter=_sharegpt(system_column="system"),
        ),
        InstructionSet(
            name="smoltalk",
            repository="HuggingFaceTB/smoltalk",
            revision="2c849df",
            files=("data/all/train-*",),
            licence="Apache-2.0",
            adapter=_messages("source"),
        ),
        InstructionSet(
            name="no_robots",
            repository="HuggingFaceH4/no_robots",
            revision="e6f9a4a",
            files=("data/train-*",),
            licence="CC-BY-NC-4.0",
            licence_is_checked=True,
            adapter=_messages("category", "prompt_id"),
        ),
        InstructionSet(
            name="verifiable_math_problems",
            repository="PrimeIntellect/verifiable-math-problems",
            revision="2ad7c92",
            licence="none stated",
            licence_is_checked=True,
            adapter=_pair("prompt", "gold_standard_solution", "source", "task_type", "problem_id"),
        ),
        InstructionSet(
            name="natural_reasoning",
            repository="facebook/natural_reasoning",
            revision="99eea5d",
            licence="CC-BY-NC-4.0",
            licence_is_checked=True,
            adapter=_pair("question", "responses", "reference_answer", answer_key="response"),
        ),
        InstructionSet(
            name="general_thought_195k",
            repository="GeneralReasoning/GeneralThought-195K",
            revision="64f7cb8",
            licence="MIT",
            licence_is_checked=True,
            adapter=_pair("question", "model_answer", "question_source", "task"),
        ),
    ]
)

SFT_MIXTURE_WEIGHTS = {
    "tulu_3": 939_343,
    "openthoughts_114k_math": 89_120,
    "verifiable_math_problems": 777_457,
    "acecode_89k": 87_149,
    "smoltalk": 1_043_917,
    "natural_reasoning": 1_145_824,
    "dolphin_r1_nonreasoning": 214_318,
    "dolphin_r1_reasoning": 585_418,
    "bespoke_stratos_17k": 16_710,
}
"""The reference project's mixture of instruction and reasoning sets (its issue 808): a share is a count of rows."""


def tokenize_instruction_set(
    name: str, tokenizer: ExecutorStep = llama3_tokenizer, template: str = LLAMA3
) -> ExecutorStep:
    """The token store of one of the sets."""
    if name not in SETS:
        raise ValueError(f"no instruction set {name!r}; expected one of {', '.join(SETS)}")
    return SETS[name].tokenized(tokenizer, template)


def tokenize_sft_mixture(tokenizer: ExecutorStep = llama3_tokenizer, template: str = LLAMA3) -> dict[str, ExecutorStep]:
    """Token stores of `SFT_MIXTURE_WEIGHTS`, by name."""
    return {name: tokenize_instruction_set(name, tokenizer, template) for name in SFT_MIXTURE_WEIGHTS}
