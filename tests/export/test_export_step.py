"""A checkpoint becomes a folder that others load, or nothing at all."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.checkpoint import format as checkpoint_format
from marin.checkpoint.format import CorruptCheckpointError
from marin.config import encode
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.export import gpt2, layout
from marin.export.api import export_step
from marin.export.config import ExportConfig
from marin.export.export import export_model
from marin.export.hf import check_exportable, load_hf, save_hf
from marin.export.verify import PROBE_TEXTS, ExportMismatch, verify_export
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import chat_template, load_tokenizer
from marin.testing.tiny import write_byte_tokenizer

# Heads that fill the width: query, key, value and output projection are square, and so is the whole MLP.
LLAMA = LlamaConfig(seq_len=32, hidden_dim=16, intermediate_dim=16, num_heads=2, num_kv_heads=2, num_layers=1)
GPT2 = Gpt2Config(seq_len=32, hidden_dim=16, num_heads=2, num_layers=1, intermediate_dim=16)
MODELS = {"llama": LLAMA, "gpt2": GPT2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write_training_folder(folder: Path, config, tokenizer: Path, steps=(3,)) -> Path:
    """What a training run leaves: model.json and checkpoints, the state of each holding more than the parameters."""
    encoder = load_tokenizer(tokenizer)
    for step in steps:
        random = np.random.default_rng(step)
        shapes = jax.eval_shape(lambda: config.init(encoder.vocab_size, key=jax.random.key(0)))
        params = jax.tree.map(lambda s, r=random: jnp.asarray(0.3 * r.standard_normal(s.shape, np.float32)), shapes)
        checkpoint_format.save(folder / "checkpoints", step, {"params": params, "other": jnp.zeros(3)}, {})
    description = {
        "model": encode(config),
        "vocab_size": encoder.vocab_size,
        "tokenizer_digest": encoder.digest,
        "eos_id": encoder.eos_id,
        "bos_id": encoder.bos_id,
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(params=MODELS, scope="module")
def trained(request, tokenizer, tmp_path_factory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("train"), MODELS[request.param], tokenizer, steps=(3, 12))


def export_config(trained, tokenizer, output, **more) -> ExportConfig:
    return ExportConfig(train_path=str(trained), tokenizer_path=str(tokenizer), output_path=str(output), **more)


def test_the_newest_checkpoint_is_exported_and_verified(trained, tokenizer, tmp_path):
    parity = export_model(export_config(trained, tokenizer, tmp_path))
    assert parity.passed and parity.max_abs_diff < 1e-5 and parity.num_argmax_differing == 0
    written = json.loads((tmp_path / "parity.json").read_text())
    assert written["checkpoint"] == "step-00000012" and written["step"] == 12
    assert written["num_positions"] == 3 * 32 and len(written["probe_sha256"]) == 64
    assert written["versions"].keys() == {"marin", "jax", "numpy", "safetensors", "tokenizers"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "parity.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    loaded = load_hf(tmp_path)
    assert written["num_params"] == sum(leaf.size for leaf in jax.tree.leaves(loaded.params))


def test_a_checkpoint_may_be_named(trained, tokenizer, tmp_path):
    export_model(export_config(trained, tokenizer, tmp_path, checkpoint="checkpoints/step-00000003"))
    assert json.loads((tmp_path / "parity.json").read_text())["step"] == 3


def damage(checkpoint: Path) -> None:
    """Flip a bit in the last byte of some array."""
    (file,) = checkpoint.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def remove_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("harm", [damage, remove_manifest])
def test_no_older_checkpoint_stands_in_for_a_damaged_one(harm, finished, tokenizer, tmp_path):
    trained = write_training_folder(tmp_path / "train", GPT2, tokenizer, steps=(3, 12))
    if finished:
        (trained / "summary.json").write_text(json.dumps({"checkpoint": "checkpoints/step-00000012"}))
    harm(trained / "checkpoints" / "step-00000012")
    with pytest.raises(CorruptCheckpointError, match="cannot export.*step-00000012.*corrupt.*or name another"):
        export_model(export_config(trained, tokenizer, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export_model(export_config(trained, tokenizer, tmp_path / "out", checkpoint="checkpoints/step-00000003"))
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["step"] == 3


def test_the_checkpoint_that_training_ended_with_is_exported(tokenizer, tmp_path):
    trained = write_training_folder(tmp_path / "train", GPT2, tokenizer, steps=(3, 12))
    (trained / "summary.json").write_text(json.dumps({"checkpoint": "checkpoints/step-00000003"}))
    export_model(export_config(trained, tokenizer, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["step"] == 3
    (trained / "summary.json").write_text(json.dumps({"checkpoint": "checkpoints/step-00000099"}))
    with pytest.raises(FileNotFoundError, match="ended with checkpoints/step-00000099, which is not there"):
        export_model(export_config(trained, tokenizer, tmp_path / "out"))


def transposing_squares(matrix):
    """The classic bug: a layout told from the shape, which a square matrix does not show."""
    return matrix if matrix.shape[0] == matrix.shape[1] else matrix.T


def transposed(matrix):
    return matrix.T


PLANTED = {
    "llama: square projections not transposed": (LLAMA, layout, "linear", transposing_squares),
    "llama: as before, untied and grouped": (replace(LLAMA, num_kv_heads=1), layout, "linear", transposing_squares),
    "gpt2: square projections transposed": (
        GPT2,
        gpt2,
        "_conv1d",
        lambda m: m.T if m.shape[0] == m.shape[1] else m,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_layout_bug_is_refused_and_nothing_published(name, tokenizer, tmp_path, monkeypatch):
    config, module, function, bug = PLANTED[name]
    trained = write_training_folder(tmp_path / "train", config, tokenizer)
    monkeypatch.setattr(module, function, bug)
    with pytest.raises(ExportMismatch, match="does not compute what its checkpoint does") as raised:
        export_model(export_config(trained, tokenizer, tmp_path / "out"))
    assert raised.value.figures["max_abs_diff"] > 0.1
    assert raised.value.figures["num_argmax_differing"] > 0
    assert not any((tmp_path / "out").iterdir())


def test_a_step_that_finds_a_mismatch_fails_and_commits_nothing(tokenizer, tmp_path, monkeypatch):
    trained = write_training_folder(tmp_path / "train", GPT2, tokenizer)
    step = export_step("exports/tiny", trained=str(trained), tokenizer=str(tokenizer))
    monkeypatch.setattr(gpt2, "_conv1d", lambda m: m.T if m.shape[0] == m.shape[1] else m)
    executor = Executor(prefix=str(tmp_path / "store"))
    executor.run([step])
    assert not list((tmp_path / "store").rglob("config.json"))
    assert not list((tmp_path / "store").rglob("model.safetensors"))
    monkeypatch.undo()
    Executor(prefix=str(tmp_path / "store")).run([step], force_run_failed=True)
    (exported,) = (path.parent for path in (tmp_path / "store").glob("exports/tiny-*/data/config.json"))
    assert load_hf(exported).config == GPT2


# Two bytes that no probe text holds.
UNSEEN = sorted(set(range(33, 127)) - set("".join(PROBE_TEXTS).encode()))[:2]


def edit_json(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def swap_unseen_ids(tokenizer_json: dict) -> None:
    ids = tokenizer_json["model"]["vocab"]
    one, other = map(chr, UNSEEN)
    ids[one], ids[other] = ids[other], ids[one]


def swap_merges(tokenizer_json: dict) -> None:
    merges = tokenizer_json["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


CHANGED = {
    "eos_token_id": ("config.json", {"eos_token_id": 5}, "eos_token_id is 5, expected 258"),
    "hidden_act": ("config.json", {"hidden_act": "gelu"}, 'hidden_act is "gelu", expected "silu"'),
    "attention_bias": ("config.json", {"attention_bias": True}, "attention_bias is true, expected false"),
    "seq_len": ("config.json", {"max_position_embeddings": 8}, "max_position_embeddings is 8, expected 32"),
    "vocab_size": ("config.json", {"vocab_size": 300}, "vocab_size is 300, expected 259"),
    "hidden_size": ("config.json", {"hidden_size": 32}, "hidden_size is 32, expected 16"),
    "a field more": ("config.json", {"rope_theta": 1.0}, "rope_theta is 1.0, expected absent"),
    "generation": ("generation_config.json", {"eos_token_id": 5}, "generation_config.json.*eos_token_id is 5"),
    "eos of the tokenizer": ("tokenizer_config.json", {"eos_token": "a"}, "its eos_id is 97, expected 258"),
    "bos of the tokenizer": ("tokenizer_config.json", {"bos_token": "a"}, "its bos_id is 97, expected None"),
    "what goes around a text": (
        "tokenizer_config.json",
        {"add_bos_token": True},
        "tokenizer_config.json of the export is not the file of that name in ",
    ),
    "no eos": (  # a folder is still read by the eos_token_id of its config.json
        "tokenizer_config.json",
        {"eos_token": None},
        "tokenizer_config.json of the export is not the file of that name in ",
    ),
    "ids": ("tokenizer.json", swap_unseen_ids, "its digest is"),
    "merges": ("tokenizer.json", swap_merges, "its digest is"),
}


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """A folder as it is before verification; its tokenizer, which has two merges; parameters."""
    root = tmp_path_factory.mktemp("written")
    merging = shutil.copytree(tokenizer, root / "tokenizer")

    def merge(description: dict) -> None:
        one, other = map(chr, UNSEEN)
        description["model"]["vocab"] |= {one + other: 256, other + one: 257}
        description["added_tokens"][0]["id"] = 258
        description["model"]["merges"] = [[one, other], [other, one]]

    edit_json(merging / "tokenizer.json", merge)
    params = LLAMA.init(259, key=jax.random.key(0))
    save_hf(LLAMA, params, 259, merging, root / "model")
    return root / "model", merging, params


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_that_says_something_else_is_seen(name, written, tmp_path):
    source, tokenizer, params = written
    file, change, message = CHANGED[name]
    folder = shutil.copytree(source, tmp_path / "model")
    edit_json(folder / file, change if callable(change) else lambda content: content.update(change))
    with pytest.raises(ExportMismatch, match=message):
        verify_export(folder, config=LLAMA, params=params, vocab_size=259, tokenizer_path=tokenizer)
    assert not (folder / "parity.json").exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_not_there_is_seen(name, written, tmp_path):
    source, tokenizer, params = written
    folder = shutil.copytree(source, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ExportMismatch, match="the export has no|the exported tokenizer cannot be read"):
        verify_export(folder, config=LLAMA, params=params, vocab_size=259, tokenizer_path=tokenizer)


def test_a_config_that_is_spelled_in_another_way_is_the_same_model(written, tmp_path):
    source, tokenizer, params = written
    folder = shutil.copytree(source, tmp_path / "model")
    config = replace(LLAMA, head_dim=8, use_flash_attention=False)
    assert verify_export(folder, config=config, params=params, vocab_size=259, tokenizer_path=tokenizer).passed
    with pytest.raises(ValueError, match="probe_length=15 must be at least 16"):
        verify_export(folder, config=LLAMA, params=params, vocab_size=259, tokenizer_path=tokenizer, probe_length=15)


def test_what_was_verified_is_on_record_by_hash(trained, tokenizer, tmp_path):
    export_model(export_config(trained, tokenizer, tmp_path))
    written = json.loads((tmp_path / "parity.json").read_text())
    files = {path.name for path in tmp_path.iterdir()} - {"parity.json"}
    assert written["sha256"] == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in files}
    assert (written["eos_id"], written["bos_id"], written["document_prefix"]) == (256, None, "eos")


def test_what_training_put_before_documents_is_handed_on(tokenizer, tmp_path):
    trained = write_training_folder(tmp_path / "train", GPT2, tokenizer)
    edit_json(trained / "model.json", lambda content: content.update(document_prefix="bos"))
    export_model(export_config(trained, tokenizer, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["document_prefix"] == "bos"


def test_a_tokenizer_whose_ids_moved_is_refused(trained, tokenizer, tmp_path, monkeypatch):
    from marin.processing.tokenize.tokenizer import Tokenizer

    save = Tokenizer.save

    def save_swapped(self, folder):
        save(self, folder)
        edit_json(Path(folder) / "tokenizer.json", swap_unseen_ids)

    monkeypatch.setattr(Tokenizer, "save", save_swapped)
    with pytest.raises(ExportMismatch, match="the exported tokenizer is not the one used in training: its digest is"):
        export_model(export_config(trained, tokenizer, tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_failed_export_leaves_no_older_one_half_replaced(trained, tokenizer, tmp_path, monkeypatch):
    export_model(export_config(trained, tokenizer, tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for module, function in ((layout, "linear"), (gpt2, "_conv1d")):
        monkeypatch.setattr(module, function, lambda matrix: np.zeros_like(matrix))
    with pytest.raises((ExportMismatch, ValueError)):
        export_model(export_config(trained, tokenizer, tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_wrong_inputs_say_what_to_give(trained, tokenizer, tmp_path):
    other = write_byte_tokenizer(tmp_path / "other")
    description = json.loads((other / "tokenizer.json").read_text())
    ids = description["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (other / "tokenizer.json").write_text(json.dumps(description))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="is not the one that .* was trained with"):
        export_model(export_config(trained, other, out))
    config_file = other / "tokenizer_config.json"
    special = json.loads((tokenizer / "tokenizer_config.json").read_text())
    shutil.copyfile(tokenizer / "tokenizer.json", other / "tokenizer.json")
    config_file.write_text(json.dumps(special | {"eos_token": "a", "bos_token": "b"}))
    with pytest.raises(ValueError, match="eos_id is 97, was 256; bos_id is 98, was None"):
        export_model(export_config(trained, other, out))
    with pytest.raises(FileNotFoundError, match="no training run at .*; give the folder of a training step"):
        export_model(export_config(tmp_path, tokenizer, out))
    with pytest.raises(FileNotFoundError, match="no checkpoint 'checkpoints/step-00000009'"):
        export_model(export_config(trained, tokenizer, out, checkpoint="checkpoints/step-00000009"))
    with pytest.raises(ValueError, match="probe_length=15 must be at least 16"):
        export_config(trained, tokenizer, out, probe_length=15)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "model.json").write_text((trained / "model.json").read_text())
    with pytest.raises(FileNotFoundError, match="has no checkpoint in checkpoints/"):
        export_model(export_config(empty, tokenizer, out))


def test_the_step_waits_for_training_and_tokenizer(tokenizer):
    train = ExecutorStep(name="train", fn="marin.training.train_lm:train_lm", config={"path": this_output_path()})
    words = ExecutorStep(name="words", fn="marin.processing.tokenize.train_bpe:train_bpe", config={})
    step = export_step("exports/a", trained=train, tokenizer=output_path_of(words))
    assert step.config.train_path is train
    assert step.config.tokenizer_path.step is words
    assert step.fn == "marin.export.export:export_model"


def test_many_weights_are_written_as_several_files_and_verified_as_one_is(trained, tokenizer, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    export_model(export_config(trained, tokenizer, whole))
    export_model(export_config(trained, tokenizer, cut, max_shard_bytes=6_000))
    shards = sorted(path.name for path in cut.glob("*.safetensors"))
    assert shards == [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    assert len(shards) > 2
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    one, several = load_hf(whole), load_hf(cut)
    assert index["metadata"]["total_size"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(one.params))
    jax.tree.map(np.testing.assert_array_equal, several.params, one.params)
    parity = json.loads((cut / "parity.json").read_text())
    assert parity["passed"] and set(parity["sha256"]) == {path.name for path in cut.iterdir()} - {"parity.json"}
    # written over one another, neither leaves a file that does not belong to the last
    export_model(export_config(trained, tokenizer, cut))
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
    export_model(export_config(trained, tokenizer, whole, max_shard_bytes=6_000))
    assert sorted(path.name for path in whole.glob("*.safetensors")) == shards
    (whole / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match="lacks model-00002-of-.*, which model.safetensors.index.json names"):
        load_hf(whole)
    with pytest.raises(ValueError, match="max_shard_bytes must be 1 or more, got 0"):
        export_config(trained, tokenizer, whole, max_shard_bytes=0)


def test_an_average_is_exported_instead_of_the_parameters(tokenizer, tmp_path):
    trained = write_training_folder(tmp_path / "train", GPT2, tokenizer)
    with pytest.raises(ValueError, match="step-00000003 holds no average of the parameters"):
        export_model(export_config(trained, tokenizer, tmp_path / "out", average=True))
    shapes = jax.eval_shape(lambda: GPT2.init(257, key=jax.random.key(0)))
    params = checkpoint_format.load(trained / "checkpoints/step-00000003", shapes)
    average = jax.tree.map(lambda leaf: leaf / 2, params)
    checkpoint_format.save(trained / "checkpoints", 3, {"params": params, "average": average}, {})
    for name, expected in (("params", params), ("average", average)):
        export_model(export_config(trained, tokenizer, tmp_path / name, average=name == "average"))
        jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / name).params, expected)
        assert json.loads((tmp_path / name / "parity.json").read_text())["average"] is (name == "average")


TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.mark.parametrize("place", ["file", "key"])
def test_the_chat_template_is_carried_along(trained, tokenizer, tmp_path, place):
    chatting = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    if place == "file":
        (chatting / "chat_template.jinja").write_text(TEMPLATE)
    else:
        edit_json(chatting / "tokenizer_config.json", lambda content: content.update(chat_template=TEMPLATE))
    export_model(export_config(trained, chatting, tmp_path / "out"))
    assert chat_template(tmp_path / "out") == TEMPLATE
    assert chat_template(tokenizer) is None
    # also by a tokenizer that was loaded with another end of text, whose files are written anew
    load_tokenizer(chatting, eos_token="a").save(tmp_path / "other")
    assert chat_template(tmp_path / "other") == TEMPLATE


def test_a_model_that_the_format_has_no_place_for_is_refused():
    shape = {"hidden_dim": 8, "intermediate_dim": 8, "num_heads": 2, "num_kv_heads": 2, "num_layers": 1}
    for name in ("hybrid_norm", "input_embedding_norm"):
        with pytest.raises(ValueError, match=f"LlamaConfig.{name} is true, .* no such norm"):
            check_exportable(LlamaConfig(seq_len=8, **shape, **{name: True}))
