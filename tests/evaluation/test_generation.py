"""Completions begin where the document was cut and end where the model says so."""

from pathlib import Path

from marin.evaluation.generation import complete, held_out_prompts
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import write_byte_tokenizer


def test_prompts_end_at_a_line_end_and_know_what_follows():
    documents = [
        ("one line", "no line end within the limit, so there is nothing to cut"),
        ("long", "first line\nsecond line\nthird line\n"),
        ("short", "all of it\n"),
        ("other", "a\nb\n" * 10),
    ]
    first, second = held_out_prompts(documents, 5, prompt_characters=25, reference_characters=8)
    assert (first.document, first.text, first.reference) == ("long", "first line\nsecond line\n", "third li")
    assert (second.text + second.reference) == ("a\nb\n" * 10)[:32]
    assert held_out_prompts(documents, 1, prompt_characters=25) == held_out_prompts(documents[:2], 1, 25)


def test_completions_are_asked_for_as_documents_begin_and_stop_at_their_end(tmp_path: Path):
    tokenizer = load_tokenizer(write_byte_tokenizer(tmp_path))
    asked = []

    def generate(prompts, *, max_new_tokens, stop_ids, temperature, seed):
        asked.append((prompts, max_new_tokens, stop_ids, temperature, seed))
        return [[*b"yes", 256] for _ in prompts]

    prompts = held_out_prompts([("d", "ab\ncd\n")], 1, prompt_characters=4)
    samplings = {"greedy": {"temperature": 0.0, "seed": 1}, "warm": {"temperature": 0.8, "seed": 1}}
    rows = complete(
        generate,
        tokenizer,
        prompts,
        max_new_tokens=9,
        samplings=samplings,
        max_prompt_tokens=100,
        document_prefix="eos",
    )
    assert asked[0] == ([[256, *b"ab\n"]], 9, [256], 0.0, 1)
    assert [row["sampling"] for row in rows] == ["greedy", "warm"]
    assert rows[1] == {
        "document": "d",
        "prompt": "ab\n",
        "completion": "yes",
        "reference": "cd\n",
        "sampling": "warm",
        "temperature": 0.8,
        "seed": 1,
        "num_tokens": 3,
        "stopped": True,
    }


def test_a_long_prompt_keeps_its_end(tmp_path: Path):
    tokenizer = load_tokenizer(write_byte_tokenizer(tmp_path))
    asked = []

    def generate(prompts, **settings):
        asked.extend(prompts)
        return [[] for _ in prompts]

    prompts = held_out_prompts([("d", "abcdefgh\nrest")], 1, prompt_characters=20)
    complete(
        generate,
        tokenizer,
        prompts,
        max_new_tokens=4,
        samplings={"greedy": {}},
        max_prompt_tokens=3,
        document_prefix="eos",
    )
    assert asked == [[*b"gh\n"]]
