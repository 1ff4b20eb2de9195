"""Tasks in a chat template: the words of lm-evaluation-harness, in special tokens, on record."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[evaluation]'")

from harness_tasks import harness_requests, harness_task

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.models import ModelChat, model_chat
from marin.evaluation.results import read_samples
from marin.evaluation.run_tasks import evaluate_tasks
from marin.evaluation.scoring import ScoredModel
from marin.evaluation.tasks import TASKS, EvalTaskConfig
from marin.evaluation.tasks.data import LocatedRow, TaskData, TaskRows
from marin.evaluation.tasks.shots import FEWSHOT_SEED, prompted
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.testing.tiny import TINY_CHAT_TOKENS, write_byte_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message.role }}: {{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return load_tokenizer(write_byte_tokenizer(folder, extra_special_tokens=TINY_CHAT_TOKENS))


def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """As transformers renders TEMPLATE for the harness."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE).render(messages=history, add_generation_prompt=add_generation_prompt)


def arc(number: int) -> dict:
    labels = ["A", "B", "C", "D"]
    texts = [f"answer {number}{label}" for label in labels]
    return {
        "question": f"Why is {number}?",
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[number % 4],
    }


def hellaswag(number: int) -> dict:
    return {
        "activity_label": "Cutting",
        "ctx_a": f"A man holds {number} knives. [title] He",
        "ctx_b": "the cuts",
        "ctx": "",
        "endings": [f" stops [step] {number}.", "sings.", "sits.", "waits."],
        "label": str(number % 4),
    }


def gsm8k(number: int) -> dict:
    return {"question": f"What is {number} + 1?", "answer": f"It is {number + 1}.\n#### {number + 1}"}


def mmlu(number: int) -> dict:
    return {
        "question": f" Which bone is {number}? ",
        "subject": "anatomy",
        "choices": ["w", "x", "y", f"z{number}"],
        "answer": number % 4,
    }


def winogrande(number: int) -> dict:
    return {
        "sentence": f"Ann met Bea {number} times and _ waved.",
        "option1": "Ann",
        "option2": "Bea",
        "answer": str(1 + number % 2),
    }


def copa(number: int) -> dict:
    return {
        "premise": f"It rained {number} times.",
        "question": "effect",
        "choice1": "I got wet.",
        "choice2": "It shone.",
        "label": number % 2,
        "idx": number,
    }


def nq_open(number: int) -> dict:
    return {"question": f"who wrote {number}", "answer": [f"Ann {number}", "Bea"]}


CASES: dict[str, tuple[str, Any, str, str]] = {
    # task -> (the harness's file, rows, split that is asked, split of examples)
    "arc_easy": ("arc/arc_easy.yaml", arc, "test", "train"),
    "hellaswag": ("hellaswag/hellaswag.yaml", hellaswag, "validation", "train"),
    "gsm8k": ("gsm8k/gsm8k.yaml", gsm8k, "test", "train"),
    "mmlu_anatomy": ("mmlu/default/mmlu_anatomy.yaml", mmlu, "test", "dev"),
    "winogrande": ("winogrande/default.yaml", winogrande, "validation", "train"),
    "copa": ("super_glue/copa/default.yaml", copa, "validation", "train"),
    "nq_open": ("nq_open/nq_open.yaml", nq_open, "validation", "train"),
}


def located(rows: list[dict], name: str) -> list[LocatedRow]:
    return [LocatedRow(row=row, where=f"{name} {number}") for number, row in enumerate(rows)]


def our_requests(name: str, rows: list[dict], pool: list[dict], shots: int, chat: ChatPrompts) -> list[list[tuple]]:
    """(context, continuation) of each request of each row; of a task that writes, the prompt."""
    given = TaskRows(
        asked=located(rows, "row"),
        pool=located(pool, "pool"),
        pool_is_asked=False,
        files=(),
        notes=(),
        core_baseline=None,
    )
    questions = prompted(TASKS[name], given, num_fewshot=shots, seed=FEWSHOT_SEED, write_prompt=chat.prompt)
    return [
        list(zip(question.prompts, question.example.continuations, strict=True))
        if question.example.continuations
        else [question.prompts]
        for question in questions
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_conversation_has_the_words_of_the_harness(tokenizer: Tokenizer, name: str):
    file, make, split, pool_split = CASES[name]
    rows, pool = [make(number) for number in range(3)], [make(number) for number in range(10, 16)]
    theirs = harness_task(file, rows, pool, split=split, pool_split=pool_split)
    for shots, multiturn, system in ((0, True, None), (2, True, "Be brief."), (2, False, None), (2, False, "Be.\n")):
        chat = ChatPrompts(tokenizer, TEMPLATE, fewshot_as_multiturn=multiturn, system_instruction=system)
        found = harness_requests(theirs, shots, render, fewshot_as_multiturn=multiturn, system_instruction=system)
        expected = [[args[:1] if TASKS[name].kind == "generation" else args for args in row] for row in found]
        assert our_requests(name, rows, pool, shots, chat) == expected


def test_a_template_without_a_system_turn_leaves_descriptions_out_and_says_so(tokenizer: Tokenizer):
    chat, task = ChatPrompts(tokenizer, NO_SYSTEM), TASKS["mmlu_anatomy"]
    assert chat.prompt(task, [], "Which?") == "<|user|>user: Which?<|end|>\n<|assistant|>\n"
    assert chat.notes(task) == ("the chat template takes no system message, so the task's description was left out",)
    assert not chat.notes(TASKS["arc_easy"]) and not ChatPrompts(tokenizer, TEMPLATE).notes(task)
    with pytest.raises(ValueError, match="system_instruction 'Be brief.': the chat template refuses it: no system"):
        ChatPrompts(tokenizer, NO_SYSTEM, system_instruction="Be brief.")


def test_an_answer_ends_with_the_models_own_ends_of_turns(tokenizer: Tokenizer):
    user, assistant, end = (tokenizer.special_tokens[name] for name in TINY_CHAT_TOKENS)
    chat = ChatPrompts(tokenizer, TEMPLATE, end_ids=[end])
    assert chat.stop_ids == tuple(sorted((tokenizer.eos_id, end)))
    [ids] = chat.encoder.encode_batch([chat.prompt(TASKS["arc_easy"], [], "?")])
    assert ids.tolist() == [user, *b"user: ?", end, *b"\n", assistant, *b"\n"]


def test_texts_are_written_in_the_template(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(gsm8k(1)), encoding="utf-8")
    asked: dict[str, Any] = {}

    def generate(model: Any, encoder: Any, prompts: list[str], **settings: Any) -> list[SimpleNamespace]:
        asked.update(prompts=prompts, ids=encoder.encode_batch(prompts)[0].tolist(), **settings)
        return [SimpleNamespace(text="#### 2", finish_reason="stop", num_prompt_tokens_cut=0) for _ in prompts]

    monkeypatch.setattr("marin.inference.text.generate_text", generate)
    scored = ScoredModel(token_log_probs=lambda tokens, targets: np.zeros(targets.shape), seq_len=64, vocab_size=300)
    model = SimpleNamespace(scored=scored, loaded=None, tokenizer=tokenizer, document_prefix=None, description={})
    chat = ChatPrompts(tokenizer, TEMPLATE, end_ids=[tokenizer.special_tokens["<|end|>"]])
    scores = evaluate_tasks(
        model,
        [EvalTaskConfig("gsm8k", 0)],
        data=TaskData(tmp_path),
        chat=chat,
        output_path=tmp_path / "out",
        quiet=True,
    )
    assert scores.value("gsm8k", "exact_match,strict-match") == 1
    assert asked["prompts"] == ["<|user|>user: Question: What is 1 + 1?\nAnswer:<|end|>\n<|assistant|>\n"]
    assert asked["ids"][0] == tokenizer.special_tokens["<|user|>"] and asked["stop_ids"] == chat.stop_ids
    assert read_samples(tmp_path / "out")[0]["prompt"] == "Question: What is 1 + 1?\nAnswer:"


def test_a_run_and_an_export_within_it_say_how_they_are_talked_with(tokenizer: Tokenizer, tmp_path: Path):
    checkpoint, export = tmp_path / "checkpoints" / "step-00000003", tmp_path / "exports" / "hf"
    for folder in (checkpoint, export):
        folder.mkdir(parents=True)
    (tmp_path / "model.json").write_text(json.dumps({"chat": {"template": TEMPLATE, "stop_id": 7}}))
    (export / "config.json").write_text("{}")
    (export / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    for place in (tmp_path, checkpoint):
        assert model_chat(place, tokenizer) == ModelChat(template=TEMPLATE, end_ids=(7,))
    assert model_chat(export, tokenizer) == ModelChat(template=None, end_ids=(3, 5))
