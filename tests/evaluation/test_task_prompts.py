"""A question is asked in the words, and with the examples, that its task says."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.evaluation.tasks import TASKS
from marin.evaluation.tasks.data import LocatedRow, TaskRows
from marin.evaluation.tasks.shots import FEWSHOT_SEED, PromptedQuestion, ShotSampler, prompted


def located(*values: int) -> list[LocatedRow]:
    return [LocatedRow(row={"x": value}, where=f"line {index}") for index, value in enumerate(values)]


def questions(
    name: str, *rows: dict, pool: Sequence[Mapping[str, Any]] | None = None, shots: int = 0
) -> list[PromptedQuestion]:
    """The questions of source rows, with examples from pool (None: the rows themselves)."""
    asked = [LocatedRow(row=row, where=f"line {number}") for number, row in enumerate(rows, 1)]
    others = asked if pool is None else [LocatedRow(row=row, where=f"pool {n}") for n, row in enumerate(pool, 1)]
    given = TaskRows(asked=asked, pool=others, pool_is_asked=pool is None, files=(), notes=(), core_baseline=None)
    return list(prompted(TASKS[name], given, num_fewshot=shots, seed=FEWSHOT_SEED))


def test_examples_are_drawn_by_one_generator_for_one_question_after_the_other():
    pool = located(*range(20))
    sampler, expected = ShotSampler(pool, 1234), random.Random(1234)
    for _ in range(3):
        assert sampler.sample(4, None) == expected.sample(pool, 4)


@given(values=st.lists(st.integers(0, 5), min_size=2, max_size=12), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_question_is_never_its_own_example(values: list[int], count: int, seed: int):
    pool = located(*values)
    others = sum(value != values[0] for value in values)
    if count + 1 > len(pool) or count > others:
        return
    drawn = ShotSampler(pool, seed).sample(count, pool[0])
    assert len(drawn) == count and all(row.row != pool[0].row for row in drawn)


def test_more_examples_than_rows_is_an_error_that_says_so():
    row = {"query": "Passage: p Q: q", "choices": ["A", "B"], "gold": [0]}
    with pytest.raises(ValueError, match=r"'agieval_lsat_ar' at 3 shots: 3 examples .* 2 rows .*; ask for fewer"):
        questions("agieval_lsat_ar", row, {**row, "query": "other"}, shots=3)


def test_a_question_with_examples_in_front():
    first, second = (
        {"question": word, "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "B"}
        for word in ("one", "two")
    )
    [asked] = questions("arc_easy", first, pool=(second,), shots=1)
    assert asked.prompts == ("Question: two\nAnswer: no\n\nQuestion: one\nAnswer:",) * 2
    assert asked.example.continuations == ("yes", "no")


def test_mmlu_begins_with_its_description_and_takes_the_first_examples():
    rows = [{"question": f" q{n}", "choices": ["w", "x", "y", "z"], "answer": n} for n in range(3)]
    [asked] = questions("mmlu_high_school_us_history", rows[0], pool=(rows[1], rows[2]), shots=1)
    assert asked.prompts[0] == (
        "The following are multiple choice questions (with answers) about high school us history.\n\n"
        "q1\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "q0\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    with pytest.raises(ValueError, match="3 examples were asked for and there are 2 rows"):
        questions("mmlu_anatomy", rows[0], pool=(rows[1], rows[2]), shots=3)


def test_schemas_have_one_ending_behind_several_contexts():
    [asked] = questions(
        "winogrande", {"sentence": "Ann met Bea and _ waved .", "option1": "Ann", "option2": "Bea", "answer": "2"}
    )
    assert asked.prompts == ("Ann met Bea and Ann", "Ann met Bea and Bea")
    assert asked.example.continuations == ("waved .",) * 2 and asked.example.gold == (1,)
    row = {"text": "The cat saw the  dog. It ran.", "pronoun": "It", "pronoun_loc": 21, "label": 0}
    [asked] = questions("wsc273", {**row, "options": ["The cat", "The dog"]})
    # a pronoun that begins a sentence keeps its option's capital; the ending brings its own blank
    assert asked.prompts == ("The cat saw the dog. The cat", "The cat saw the dog. The dog")
    assert asked.example.continuations[0] == " ran."


def test_hellaswag_text_is_cleaned_and_its_cut_sentence_capitalised():
    row = {"activity_label": "Cut", "ctx_a": "How to [step] cut. [title] Hold it .", "ctx_b": "the man"}
    [asked] = questions("hellaswag", {**row, "endings": [" a [x] b", "c", "d", "e"], "label": "3"})
    assert asked.prompts[0] == "Cut: How to cut.. Hold it . The man"
    assert asked.example.choices[0] == "a b" and asked.example.gold == (3,)


def test_copa_and_boolq_are_put_into_words():
    row = {"premise": "It rained.", "question": "effect", "choice1": "I got wet.", "choice2": "It shone.", "label": 0}
    [asked] = questions("copa", row)
    assert asked.prompts[0] == "It rained therefore"
    assert asked.example.continuations == (" i got wet.", " it shone.")
    [first, second] = questions(
        "boolq",
        {"passage": "A b.", "question": "is a b", "label": 1},
        {"passage": "A b.", "question": "is b a", "label": 0},
    )
    assert first.prompts[0] == "A b.\nQuestion: is a b?\nAnswer:"
    assert first.example.group == second.example.group != ""


STORY = (
    "Below is a story followed by a series of related questions. Please answer the final question by referring to the "
    "story and the previous questions.\nStory: A cat sat. \n\nIt slept.\n"
)
BEFORE = "Preceding questions:\nQuestion: Who sat?\nAnswer: a cat\n"


def test_rows_of_core_that_end_in_whitespace_have_one_blank_before_the_answer():
    """In the layouts of the published files."""
    squad = [
        {"context": f"Context: The {name} is old.\nQuestion: What is?\nAnswer: ", "continuation": name}
        for name in ("house", "tree")
    ]
    [asked] = questions("squad_completion", squad[0], pool=(squad[1],), shots=1)
    assert asked.prompts[0] == (
        "Context: The tree is old.\nQuestion: What is?\nAnswer: tree\n\n"
        "Context: The house is old.\nQuestion: What is?\nAnswer:"
    )
    assert asked.example.continuations == (" house",)
    first = {"context": f"{STORY}\nFinal question:\nQuestion: Who sat?\nAnswer: ", "continuation": "a cat"}
    second = {"context": f"{STORY}{BEFORE}\nFinal question:\nQuestion: Did it?\nAnswer: ", "continuation": "yes"}
    [one, two] = questions("coqa_completion", first, second)
    assert one.example.group == two.example.group != "" and two.prompts[0].endswith("Did it?\nAnswer:")
    jeopardy = {"context": "WORLD HISTORY: He ruled\n", "continuation": "Attila", "category": "world_history"}
    [asked] = questions("jeopardy", jeopardy, pool=(jeopardy,), shots=1)
    assert asked.prompts[0] == "WORLD HISTORY: He ruled\nAnswer: Attila\n\nWORLD HISTORY: He ruled\nAnswer:"
    sentence = {"query": "Sentence: Ja.\nA. German\nB. Thai\nAnswer: ", "choices": ["A", "B"], "gold": 0}
    [asked] = questions("bigbench_language_identification", sentence)
    assert asked.prompts[0].endswith("Answer:") and asked.example.continuations == ("A", "B")


def test_gsm8k_with_reasoning_has_its_own_eight_examples():
    row = {"question": "1 + 1?", "answer": "It is 2.\n#### 2"}
    [asked] = questions("gsm8k_cot", row, shots=8, pool=TASKS["gsm8k_cot"].shots.fixed)
    assert asked.example.targets == ("2",)
    assert asked.prompts[0].count("Q: ") == 9 and asked.prompts[0].endswith("The answer is 8.\n\nQ: 1 + 1?\nA:")
    with pytest.raises(ValueError, match="no row of this task"):
        questions("gsm8k", {"question": "1 + 1?", "answer": "2"})
