"""BIG-Bench Hard with reasoning (Suzgun et al., "Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve
Them", 2022): 27 tasks, each with a line on what to do and three worked examples.

Prompts and scores are those of `bbh_cot_fewshot` in lm-evaluation-harness 0.4.13 (MIT). The worked examples, 90 KB of
them, are read from the installed lm-eval, so that asking with examples needs the extra `evaluation`.
"""

from collections.abc import Callable

from marin.evaluation.tasks.definition import Example, Row, Shots, Source, TaskDefinition, Writing
from marin.evaluation.tasks.filters import Find
from marin.evaluation.tasks.packages import lm_eval_folder, require_lm_eval

GROUP = "bbh_cot_fewshot"

_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_SHUFFLED = (
    "A task requiring determining the final positions of a set of objects given their initial positions and a "
    "description of a sequence of swaps."
)
_SARCASM = (
    "Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University Dictionary, sarcasm is "
    "\"the use of remarks that clearly mean the opposite of what they say, made in order to hurt someone's feelings or "
    'to criticize something in a humorous way." Sarcastic sentences often contain satirical or ironic utterances, '
    "hyperboles, ambivalent or witty remarks."
)
DESCRIPTIONS = {
    "boolean_expressions": "Evaluate the result of a random Boolean expression.",
    "causal_judgement": "Answer questions about causal attribution.",
    "date_understanding": "Infer the date from context.",
    "disambiguation_qa": "Clarify the meaning of sentences with ambiguous pronouns.",
    "dyck_languages": "Correctly close a Dyck-n word.",
    "formal_fallacies": "Distinguish deductively valid arguments from formal fallacies.",
    "geometric_shapes": "Name geometric shapes from their SVG paths.",
    "hyperbaton": "Order adjectives correctly in English sentences.",
    "logical_deduction_five_objects": _DEDUCTION,
    "logical_deduction_seven_objects": _DEDUCTION,
    "logical_deduction_three_objects": _DEDUCTION,
    "movie_recommendation": "Recommend movies similar to the given list of movies.",
    "multistep_arithmetic_two": "Solve multi-step arithmetic problems.",
    "navigate": "Given a series of navigation instructions, determine whether one would end up back at the starting "
    "point.",
    "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "reasoning_about_colored_objects": "Answer extremely simple questions about the colors of objects on a surface.",
    "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    "salient_translation_error_detection": "Detect the type of error in an English translation of a German source "
    "sentence.",
    "snarks": _SARCASM,
    "sports_understanding": "Determine whether an artificially constructed sentence relating to sports is plausible or "
    "not.",
    "temporal_sequences": "Task description: Answer questions about which times certain events could have occurred.",
    "tracking_shuffled_objects_five_objects": _SHUFFLED,
    "tracking_shuffled_objects_seven_objects": _SHUFFLED,
    "tracking_shuffled_objects_three_objects": _SHUFFLED,
    "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
    "word_sorting": "Sort a list of words.",
}
"""Task -> what stands before everything."""

_NUM_ROWS = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}


def read(row: Row) -> Example:
    question = f"Q: {row['input']}\nA: Let's think step by step.\n"
    return Example(question=question, answer=row["target"], contexts=(question,), targets=(row["target"],))


def worked_examples(name: str) -> Callable[[], tuple[Row, ...]]:
    """What reads a task's three examples. It raises MissingPackageError where lm-eval is not installed."""

    def examples() -> tuple[Row, ...]:
        import yaml

        require_lm_eval(f"{GROUP}_{name}")
        file = lm_eval_folder() / "tasks" / "bbh" / "cot_fewshot" / f"{name}.yaml"
        return tuple(yaml.safe_load(file.read_text(encoding="utf-8"))["fewshot_config"]["samples"])

    return examples


def _task(name: str) -> TaskDefinition:
    return TaskDefinition(
        name=f"{GROUP}_{name}",
        kind="generation",
        about=name.replace("_", " "),
        version=4,
        source=Source(
            repository="SaylorTwift/bbh",
            revision="b5306be6f827cfafbb545ff5a51f96916029b0fd",
            licence="MIT",
            files={"test": f"{name}/test-*.parquet"},
            fetched=("*/test-*.parquet",),
        ),
        read=read,
        description=f"{DESCRIPTIONS[name]}\n\n",
        delimiter="",
        shots=Shots(sampler="first", fixed=worked_examples(name)),
        default_shots=3,
        metrics=("exact_match,get-answer",),
        writing=Writing(
            stop=("</s>", "Q", "\n\n"),
            max_new_tokens=1024,
            # up to the last character of the line, which is the full stop of "So the answer is (A)."
            filters={"get-answer": (Find(r"(?<=the answer is )(.*)(?=.)"),)},
        ),
        num_rows=_NUM_ROWS.get(name, 250),
        needs="for its worked examples lm-eval 0.4.13, of the extra `evaluation`",
    )


BBH_TASKS = tuple(_task(name) for name in DESCRIPTIONS)
BBH_GROUPS = {GROUP: tuple(task.name for task in BBH_TASKS)}
"""Group -> its members."""
