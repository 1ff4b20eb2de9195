"""Whether a BOS stands before the texts of a model from elsewhere: as its own tokenizer has it."""

import json
from pathlib import Path

import jax
import pytest

from marin.evaluation.models import open_model
from marin.evaluation.results import read_results
from marin.evaluation.run_tasks import evaluate_tasks
from marin.evaluation.tasks import EvalTaskConfig
from marin.evaluation.tasks.data import TaskData
from marin.export.hf import save_hf
from marin.inference.text import generate_text
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tasks import write_task_data
from marin.testing.tiny import write_byte_tokenizer

MODEL = LlamaConfig(seq_len=64, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
WITH_BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}},
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
IN_A_SEQUENCE = {"type": "Sequence", "processors": [BYTE_LEVEL, WITH_BOS]}  # as in Llama 3's


def write_tokenizer(folder: Path, post_processor: dict | None, add_bos_token: bool | None) -> Path:
    """The byte tokenizer with a BOS <s> that is named, and the two places that say whether it is added."""
    write_byte_tokenizer(folder, extra_special_tokens=["<s>"])
    description = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(description | {"post_processor": post_processor}))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<s>"}
    del settings["add_bos_token"]
    settings |= {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


CASES = [
    (None, None, False),
    (None, False, False),
    (BYTE_LEVEL, None, False),
    (None, True, True),
    (WITH_BOS, None, True),
    (IN_A_SEQUENCE, None, True),
    (WITH_BOS, False, True),
]


@pytest.mark.parametrize(("post_processor", "add_bos_token", "expected"), CASES)
def test_bos_is_added_where_the_tokenizer_of_a_model_adds_it_itself(
    tmp_path: Path, post_processor: dict | None, add_bos_token: bool | None, expected: bool
):
    folder = write_tokenizer(tmp_path, post_processor, add_bos_token)
    assert load_tokenizer(folder).adds_bos is expected
    assert load_tokenizer(folder).encode("a").tolist() == [97], "never by encoding"
    transformers = pytest.importorskip("transformers", reason="the extra that brings transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if not add_bos_token:  # which transformers 5 does not look at
        assert (theirs("a").input_ids[0] == 257) is expected


@pytest.mark.parametrize("adds", [False, True])
def test_scoring_and_writing_begin_alike_and_say_how(tmp_path: Path, adds: bool):
    tokenizer = write_tokenizer(tmp_path / "tokenizer", IN_A_SEQUENCE if adds else None, None)
    save_hf(MODEL, MODEL.init(258, key=jax.random.key(0)), 258, tokenizer, tmp_path / "model")
    model = open_model(tmp_path / "model")
    [written] = generate_text(model.loaded, model.tokenizer, ["ab"], max_new_tokens=1)
    assert written.num_prompt_tokens == 2 + adds
    data = TaskData(write_task_data(tmp_path / "data"))
    evaluate_tasks(model, [EvalTaskConfig("copa", 0)], data=data, output_path=tmp_path / "out", quiet=True)
    policy = read_results(tmp_path / "out")["policy"]
    assert policy["document_prefix"] == ("bos" if adds else "eos")
    assert ("the tokenizer adds one" if adds else "the tokenizer adds no BOS") in policy["prefix"]
