"""Questions are answered by likelihood, and questions made from text are fair and the same everywhere."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.baselines import NgramByteModel
from marin.evaluation.multiple_choice import (
    answer_questions,
    answer_with_bytes,
    continuation_choice,
    correct,
    groups_of,
    judge,
)
from marin.evaluation.scoring import ScoredModel
from marin.evaluation.tasks import MultipleChoiceTask, Question
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.testing.tiny import write_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def model_that_likes(favourites: str, seq_len: int = 128) -> ScoredModel:
    """Each byte among the favourites has log-probability -1, every other token -3."""
    table = np.full(257, -3.0)
    table[list(favourites.encode())] = -1.0
    return ScoredModel(token_log_probs=lambda x, y: table[y].astype(np.float32), seq_len=seq_len, vocab_size=257)


def question(*choices: str, gold: int = 0, query: str = "Q:") -> Question:
    return Question(id="q", query=query, choices=choices, gold=gold)


def test_the_answer_is_the_likeliest_choice_and_lengths_count_as_each_metric_says(tokenizer: Tokenizer):
    task = MultipleChoiceTask(
        name="toy", version=1, delimiter=" ", questions=(question("zz", "aaaaa", gold=1), question("zz", "éé", gold=1))
    )
    first, second = answer_questions(model_that_likes("a"), tokenizer, task)
    # the space is part of what is scored and not of the length: -3 -6 against -3 -5
    assert first.log_probs == pytest.approx((-9, -8))
    assert first.right == {"acc": True, "acc_norm": True, "acc_bytes": True, "acc_mutual_info": False}
    # two characters of two bytes: likelier a byte, not likelier a character
    assert second.log_probs == pytest.approx((-9, -15))
    assert second.right == {"acc": False, "acc_norm": False, "acc_bytes": True, "acc_mutual_info": False}


def test_indentation_is_scored_and_counted(tokenizer: Tokenizer):
    task = MultipleChoiceTask(name="toy", version=1, questions=(question("  aa", "aaa", query="if:\n"),))
    [answer] = answer_questions(model_that_likes("a "), tokenizer, task)
    # the end of the query's line is scored with both and counted for neither: -3 -4 over 4 against -3 -3 over 3
    assert answer.log_probs == pytest.approx((-7, -6))
    assert answer.right == {"acc": False, "acc_norm": True, "acc_bytes": True, "acc_mutual_info": True}


def test_mutual_information_asks_how_much_the_query_helps(tokenizer: Tokenizer):
    # a byte that stands anywhere before is likely again; "e" is likely everywhere
    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        seen = np.array(
            [[t in row[: i + 1] for i, t in enumerate(to)] for row, to in zip(tokens, targets, strict=True)]
        )
        return np.where(targets == ord("e"), -0.5, np.where(seen, -1.0, -4.0)).astype(np.float32)

    model = ScoredModel(token_log_probs=token_log_probs, seq_len=32, vocab_size=257)
    task = MultipleChoiceTask(name="toy", version=1, questions=(question("e", "k", query="k \n", gold=1),))
    [answer] = answer_questions(model, tokenizer, task)
    # the white space that ends the query is scored with the choice, after the query and after nothing alike
    assert answer.log_probs == pytest.approx((-8.5, -9))
    assert answer.log_probs_alone == pytest.approx((-8.5, -12))
    assert answer.right["acc_mutual_info"] and not answer.right["acc"]


def test_the_first_of_equally_likely_choices_counts():
    assert judge(question("ab", "cd", gold=0), [-2.0, -2.0], [0.0, 0.0]).right["acc"]
    assert not judge(question("ab", "cd", gold=1), [-2.0, -2.0], [0.0, 0.0]).right["acc"]


def test_a_byte_model_answers_the_same_questions():
    model = NgramByteModel.train([b"the cat sat on the mat. " * 50])
    task = MultipleChoiceTask(name="toy", version=1, questions=(question("sat", "xqz", query="the cat ", gold=0),))
    [answer] = answer_with_bytes(model.byte_bits, task)
    assert all(answer.right.values())
    # the space moves, as for a model of tokens
    assert answer.log_probs[0] == pytest.approx(-model.byte_bits(b"the cat sat")[-4:].sum() * math.log(2))
    assert answer.log_probs_alone[0] == pytest.approx(-model.byte_bits(b" sat").sum() * math.log(2))


def test_truncated_questions_are_counted(tokenizer: Tokenizer):
    task = MultipleChoiceTask(
        name="toy", version=1, questions=(question("a", "b", query="x" * 50), question("a", "b", query="x"))
    )
    long, short = answer_questions(model_that_likes("a", seq_len=16), tokenizer, task)
    assert (long.num_cut_tokens, short.num_cut_tokens) == (34, 0)


def test_a_task_is_identified_by_the_text_of_its_prompts():
    task = MultipleChoiceTask(name="toy", version=1, questions=(question("a", "b"),))
    same = MultipleChoiceTask(name="other name", version=1, questions=(question("a", "b"),), notes=("a note",))
    assert task.prompt_hash == same.prompt_hash
    for other in (question("a", "c"), question("a", "b", gold=1), question("a", "b", query="Q: ")):
        assert MultipleChoiceTask(name="toy", version=1, questions=(other,)).prompt_hash != task.prompt_hash
    assert task.chance == 0.5


def test_questions_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="gold is 2 of 2 choices"):
        question("a", "b", gold=2)
    with pytest.raises(ValueError, match="blank choice"):
        question("a", " ")
    with pytest.raises(ValueError, match="'empty' has no questions"):
        MultipleChoiceTask(name="empty", version=1, questions=())


def test_public_multiple_choice_files_can_be_scored(shared_data: Path, tokenizer: Tokenizer):
    for path in ("world_knowledge/arc_easy.jsonl", "commonsense_reasoning/piqa.jsonl"):
        lines = (shared_data / "eval" / "mosaic" / path).read_text(encoding="utf-8").split("\n")[:5]
        questions = tuple(
            question(*row["choices"], gold=row["gold"], query=row["query"]) for row in map(json.loads, lines)
        )
        task = MultipleChoiceTask(name="public", version=1, questions=questions, delimiter=" ")
        answers = answer_questions(model_that_likes("e", seq_len=512), tokenizer, task)
        assert len(answers) == 5
        assert all(len(a.log_probs) == len(q.choices) for a, q in zip(answers, questions, strict=True))


def made_up_documents(num_documents: int, num_lines: int = 60) -> list[tuple[str, str]]:
    """Lines of one to eleven words, by a recurrence that is the same on every platform."""
    words = ["alpha", "beta", "gamma", "delta", "épsilon", "zeta", "eta", "theta"]
    state, documents = 1, []
    for number in range(num_documents):
        text = ""
        for _ in range(num_lines):
            state = (6364136223846793005 * state + 1442695040888963407) % 2**64
            text += " ".join(words[(state >> 3 * place + 8) % 8] for place in range((state >> 48) % 11 + 1)) + "\n"
        documents.append((f"doc{number}", text))
    return documents


DOCUMENTS = made_up_documents(12)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(40, 300), st.integers(10, 80), st.integers(2, 5))
def test_a_made_question_holds_the_true_next_lines_and_others_from_elsewhere(
    seed: int, context_bytes: int, choice_bytes: int, num_choices: int
):
    task = continuation_choice(
        DOCUMENTS,
        num_questions=15,
        seed=seed,
        context_bytes=context_bytes,
        choice_bytes=choice_bytes,
        num_choices=num_choices,
    )
    texts = dict(DOCUMENTS)
    assert len(task.questions) == 15
    assert task.chance == pytest.approx(1 / num_choices)
    for made in task.questions:
        assert len(made.choices) == num_choices
        assert len({choice.strip() for choice in made.choices}) == num_choices
        text = texts[made.group]
        assert text.startswith(made.query) or "\n" + made.query in text
        assert made.query.endswith("\n")
        assert context_bytes / 2 <= len(made.query.encode()) <= context_bytes
        right = made.choices[made.gold]
        assert made.query + right in text
        for choice in made.choices:
            assert choice_bytes / 2 <= len(choice.encode()) <= 4 * choice_bytes
            assert any(choice in other for name, other in texts.items() if name != made.group) or choice == right


def test_the_same_arguments_make_the_same_questions_and_another_seed_others():
    def make(seed):
        return continuation_choice(DOCUMENTS, num_questions=20, seed=seed).prompt_hash

    assert make(0) == make(0) != make(1)
    # a golden value: no library, platform or version may change the task
    assert make(0) == "bc6c9a83fa1d20bd389b6feb55a771d51f3755c6920073485d33a20418181bdd"


def test_right_answers_stand_everywhere_equally_often():
    questions = [
        made for seed in range(20) for made in continuation_choice(DOCUMENTS, num_questions=40, seed=seed).questions
    ]
    counts = Counter(made.gold for made in questions)
    expected = len(questions) / 4
    # chi-square with three degrees of freedom: 16.3 is exceeded once in a thousand
    assert sum((counts[gold] - expected) ** 2 / expected for gold in range(4)) < 16.3


def test_wrong_choices_are_about_as_long_as_the_right_one():
    task = continuation_choice(DOCUMENTS, num_questions=60, seed=0)
    right = np.array([len(made.choices[made.gold]) for made in task.questions])
    others = np.array([[len(c) for i, c in enumerate(m.choices) if i != m.gold] for m in task.questions])
    assert np.abs(others - right[:, None]).mean() < 3
    assert abs(others.mean() - right.mean()) < 3


def test_documents_take_turns_and_are_the_clusters():
    task = continuation_choice(DOCUMENTS, num_questions=24, seed=0)
    assert set(Counter(made.group for made in task.questions).values()) == {2}
    answers = [judge(made, [0.0, -1.0, -1.0, -1.0], [0.0] * 4) for made in task.questions]
    assert len(set(groups_of(answers))) == 12
    assert correct(answers, "acc").tolist() == [made.gold == 0 for made in task.questions]


def test_fewer_places_than_questions_asked_for_are_said():
    task = continuation_choice(made_up_documents(3, num_lines=12), num_questions=1000, seed=0, context_bytes=64)
    assert 0 < len(task.questions) < 1000
    assert f"{len(task.questions)} of the 1000 questions asked for" in task.notes[-1]


def test_documents_too_short_for_any_question_are_an_error_that_says_what_to_change():
    with pytest.raises(ValueError, match="0 of 2 documents have 256 bytes.*shorter context_bytes"):
        continuation_choice([("a", "short\n"), ("b", "short\n")], num_questions=5, seed=0)
