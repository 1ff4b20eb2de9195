"""Training as a step: the guide's script, identity, and running through the executor."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from marin.config import apply_overrides
from marin.execution.executor import output_path_of, plan, run
from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.processing.tokenize.data_configs import lm_data_config, lm_mixture_data_config, mixture_for_evaluation
from marin.testing.tiny import make_token_store
from marin.tracking.config import TensorboardConfig, WandbConfig
from marin.training.api import default_train
from marin.training.callback_config import WatchConfig
from marin.training.config import SimpleTrainConfig

SHAPE = {
    "seq_len": 16,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "num_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 1,
}


def test_the_guides_script_describes_a_run(tmp_path):
    """The code of "How to train a language model", but for imports and the mixture."""
    dclm_mixture_config_llama3 = lm_mixture_data_config(
        {"dclm": "tokenized/dclm", "starcoder": "tokenized/starcoder"}, {"dclm": 3.8, "starcoder": 0.25}
    )
    model_config = LlamaConfig(
        seq_len=2048,
        hidden_dim=2048,
        intermediate_dim=8192,
        num_heads=16,
        num_kv_heads=16,
        num_layers=24,
        use_flash_attention=True,
    )
    num_train_steps = int(30e9) // (256 * 2048)
    training_config = SimpleTrainConfig(
        accelerator_type="v4-128",
        train_batch_size=256,
        num_train_steps=num_train_steps,
        learning_rate=3e-3,
        weight_decay=0.033,
        min_lr_ratio=0.1,
        warmup=5000,
        z_loss_weight=1e-4,
    )
    model = default_train(
        name="your_model_name",
        tokenized=dclm_mixture_config_llama3,
        model_config=model_config,
        train_config=training_config,
        tags=["YOUR_TAGS"],
    )
    assert model.name == "checkpoints/your_model_name"
    assert model.config.optimizer.weight_decay == 0.033
    assert model.config.trainer.num_train_steps == 57220
    assert model.resources.device_type == "v4-128"
    assert model.publish == "inplace"
    (item,) = plan([model], prefix=str(tmp_path)).items
    assert item.action == "RUN"


TRAIN = SimpleTrainConfig(
    train_batch_size=4, num_train_steps=4, learning_rate=1e-2, warmup=1, steps_per_eval=2, steps_per_checkpoint=2
)
MODEL = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


@pytest.fixture
def store(tmp_path):
    make_token_store(tmp_path / "store", 60, seed=1)
    return str(tmp_path / "store")


def path_of(step, prefix):
    (item,) = plan([step], prefix=prefix).items
    return item.node.path


def test_a_training_step_runs_once_and_again_when_a_setting_changes(tmp_path, store):
    prefix = str(tmp_path / "prefix")
    step = default_train("tiny", store, MODEL, TRAIN, validation={"held_out": store})
    (result,) = run([step], prefix=prefix).steps
    output = Path(result.output_path)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["final_step"] == 4 and "held_out" in summary["final_validation"]
    assert [item.action for item in plan([step], prefix=prefix).items] == ["HIT"]
    other = default_train(
        "tiny", store, MODEL, apply_overrides(TRAIN, ["learning_rate=2e-2"]), validation={"held_out": store}
    )
    (item,) = plan([other], prefix=prefix).items
    assert item.action == "RUN" and any("optimizer.learning_rate" in change.path for change in item.changes)


def test_a_step_begins_with_the_checkpoint_of_another_step(tmp_path, store):
    prefix = str(tmp_path / "prefix")
    first = default_train("first", store, MODEL, TRAIN)
    at_two = output_path_of(first, "checkpoints/step-00000002")

    def goes_on(name, source):
        return default_train(
            name, store, MODEL, replace(TRAIN, num_train_steps=6, initialize_from_checkpoint_path=source)
        )

    second, third = goes_on("second", first), goes_on("third", at_two)
    done = run([third, second], prefix=prefix)
    assert done.is_ok
    summaries = [json.loads((Path(done.output_path(step)) / "summary.json").read_text()) for step in (second, third)]
    assert [(summary["start_step"], summary["final_step"]) for summary in summaries] == [(4, 6), (2, 6)]
    other = default_train("first", store, MODEL, replace(TRAIN, seed=1))

    def place(step):
        return next(item.node.path for item in plan([step], prefix=prefix).items if item.node.name == step.name)

    assert place(goes_on("second", other)) != place(second), "what it begins with is part of what it is"


@pytest.mark.parametrize(
    "override",
    ["runtime.show_progress=false", "runtime.compilation_cache=off", "runtime.prefetch=5", "resources.cpu=4"],
)
def test_how_a_run_is_carried_out_is_no_part_of_what_it_is(tmp_path, store, override):
    from marin.cluster import ResourceConfig

    train = replace(TRAIN, resources=ResourceConfig.with_cpu())
    paths = [
        path_of(default_train("tiny", store, MODEL, config), str(tmp_path / "prefix"))
        for config in (train, apply_overrides(train, [override]))
    ]
    assert paths[0] == paths[1]


@pytest.mark.parametrize(
    "override",
    [
        "weight_decay=0.2",
        "seed=1",
        "data_seed=1",
        "z_loss_weight=0.1",
        "num_train_steps=5",
        "warmup=2",
        "precision='p=f32,c=bfloat16'",
    ],
)
def test_every_setting_of_the_science_is_part_of_what_a_run_is(tmp_path, store, override):
    paths = [
        path_of(default_train("tiny", store, MODEL, config), str(tmp_path / "prefix"))
        for config in (TRAIN, apply_overrides(TRAIN, [override]))
    ]
    assert paths[0] != paths[1]


def test_a_validation_set_named_twice_is_refused(store):
    data = lm_data_config(store, validation_sets={"held_out": store})
    with pytest.raises(ValueError, match="'held_out' is named both"):
        default_train("tiny", data, MODEL, TRAIN, validation={"held_out": store})


def test_data_to_evaluate_on_is_refused_for_training_when_the_step_is_defined():
    with pytest.raises(ValueError, match="step 'a': the data config names no training source"):
        default_train("a", mixture_for_evaluation({"books": "b"}), MODEL, TRAIN)


def test_a_training_step_says_where_each_of_its_values_comes_from(tmp_path):
    model = LlamaConfig(**SHAPE)
    simple = SimpleTrainConfig(
        train_batch_size=4,
        num_train_steps=9,
        learning_rate=1e-2,
        per_device_parallelism=2,
        steps_per_export=5,
        steps_per_hf_export=3,
        callbacks=(WatchConfig(every=7),),
        trackers=(TensorboardConfig(),),
    )
    step = default_train("tiny", "tokens", model, simple, validation={"v": "held"})
    text = replace(step.config, output_path="out").to_yaml()
    said = {line.split(" #")[0].strip(): line.partition("# ")[2] for line in text.splitlines() if "#" in line}
    assert said["train: tokens"] == "tokenized of default_train" and said["v: held"] == "validation of default_train"
    assert said["hidden_dim: 16"] == "model_config of default_train"
    assert said["tie_word_embeddings: false"] == "default of LlamaConfig"
    assert said["learning_rate: 0.01"] == "SimpleTrainConfig.learning_rate"
    assert said["type: adamw"] == "default of SimpleTrainConfig.optimizer_config"
    assert said["beta1: 0.9"] == "default of AdamWConfig"
    assert said["per_device_parallelism: 2"] == "SimpleTrainConfig.per_device_parallelism"
    assert said["keep_every: 5"] == "SimpleTrainConfig.steps_per_export"
    assert said["seed: 0"] == "default of SimpleTrainConfig.seed"
    assert (
        said["every: 7"] == "SimpleTrainConfig.callbacks"
        and said["every: 3"] == "SimpleTrainConfig.steps_per_hf_export"
    )
    assert said["- type: tensorboard"] == "SimpleTrainConfig.trackers"


def test_trackers_and_origins_are_no_part_of_a_steps_identity_and_callbacks_are(tmp_path):
    def digest(**changes) -> str:
        config = SimpleTrainConfig(**{"train_batch_size": 4, "num_train_steps": 9, "learning_rate": 1e-2} | changes)
        (item,) = plan([default_train("tiny", "tokens", LlamaConfig(**SHAPE), config)], prefix=str(tmp_path))
        return item.node.digest

    plain = digest()
    assert digest(trackers=(TensorboardConfig(), WandbConfig(project="x"))) == plain
    assert digest(weight_decay=AdamWConfig(learning_rate=1.0).weight_decay) == plain, "the same value, another origin"
    assert digest(callbacks=(WatchConfig(),)) != plain
