"""MMLU: 57 subjects of four-choice questions, in four areas (Hendrycks et al., "Measuring Massive Multitask Language
Understanding", 2021). Prompts are those of lm-evaluation-harness 0.4.13; shots are the first rows of the dev split."""

from marin.evaluation.tasks.choice_tasks import LETTERS, choice_example
from marin.evaluation.tasks.definition import Example, LocalFiles, Row, Shots, Source, TaskDefinition

MMLU_AREAS = {
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "other": (
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
    "social_sciences": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "stem": (
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
}
"""Area -> subjects, as lm-evaluation-harness groups them."""


def _read(row: Row) -> Example:
    texts = list(row["choices"])
    if len(texts) != 4:
        raise ValueError(f"{len(texts)} choices; expected four")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS[:4], texts, strict=True))
    return choice_example(f"{row['question'].strip()}\n{listed}\nAnswer:", list(LETTERS[:4]), row["answer"])


def _subject(name: str) -> TaskDefinition:
    spoken = name.replace("_", " ")
    return TaskDefinition(
        name=f"mmlu_{name}",
        kind="multiple_choice",
        about=spoken,
        source=Source(
            repository="cais/mmlu",
            revision="c30699e8356da336a370243923dbaf21066bb9fe",
            licence="MIT",
            files={"test": f"{name}/test-*.parquet", "dev": f"{name}/dev-*.parquet"},
        ),
        local=(
            LocalFiles(
                files={"test": f"mmlu/{name}/test/*.arrow", "dev": f"mmlu/{name}/dev/*.arrow"}, adapt=lambda row: row
            ),
        ),
        read=_read,
        description=f"The following are multiple choice questions (with answers) about {spoken}.\n\n",
        shots=Shots(split="dev", sampler="first"),
        metrics=("acc",),
    )


MMLU_TASKS = tuple(_subject(name) for subjects in MMLU_AREAS.values() for name in subjects)
MMLU_GROUPS = {
    "mmlu": tuple(f"mmlu_{area}" for area in ("stem", "other", "social_sciences", "humanities")),
    **{f"mmlu_{area}": tuple(f"mmlu_{name}" for name in sorted(subjects)) for area, subjects in MMLU_AREAS.items()},
}
"""Group -> its members, which are tasks or groups."""
