"""Steps that train models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from marin.cluster import ResourceConfig
from marin.data.config import LmDataConfig
from marin.execution.executor import ExecutorStep, InputName, output_path_of, this_output_path
from marin.models.config import LmConfig
from marin.processing.tokenize.data_configs import lm_data_config
from marin.training.config import SimpleTrainConfig, TrainLmConfig
from marin.training.initialize_config import InitializeFromHf
from marin.training.sft_config import SimpleSFTConfig, TrainEpochsConfig

TokenStore = ExecutorStep | InputName | str
"""What names a token store: the step that makes it, a place in a step's output, or a path."""


def train_lm(
    name: str,
    config: TrainLmConfig,
    *,
    resources: ResourceConfig | None = None,
    tags: Sequence[str] = (),
    description: str | None = None,
    override_output_path: str | None = None,
) -> ExecutorStep:
    """A step that trains what `config` says. `config.output_path` is `this_output_path()`."""
    return ExecutorStep(
        name=name,
        fn="marin.training.train_lm:train_lm",
        config=config,
        description=description,
        resources=resources,
        override_output_path=override_output_path,
        publish="inplace",  # a killed run goes on from its own checkpoints
        tags=frozenset(tags),
    )


def default_train(
    name: str,
    tokenized: LmDataConfig | TokenStore,
    model_config: LmConfig,
    train_config: SimpleTrainConfig,
    *,
    validation: Mapping[str, TokenStore] | None = None,
    tags: Sequence[str] = (),
    description: str | None = None,
    override_output_path: str | None = None,
) -> ExecutorStep:
    """A step that trains `model_config` on `tokenized`.

    Args:
        name: name of the run; its folder is below `checkpoints/` unless the name says where.
        tokenized: one token store, or a data config (`lm_data_config`, `lm_mixture_data_config`) of several.
        model_config: shape of the model.
        train_config: batch, length, learning rate and so on.
        validation: validation sets by tag, beside those of the data config.
        tags: words to find the run by.
        description: a sentence for people.
        override_output_path: a folder of your own instead of the one the step's identity gives.
    """
    # what training would refuse only when it starts is refused now
    train_config.optimizer().schedule(train_config.num_train_steps)
    data = tokenized if isinstance(tokenized, LmDataConfig) else lm_data_config(tokenized)
    if not data.train:
        raise ValueError(
            f"step '{name}': the data config names no training source (mixture_for_evaluation names none); use "
            "lm_data_config or lm_mixture_data_config"
        )
    twice = sorted(set(validation or {}) & set(data.validation))
    if twice:
        raise ValueError(
            f"step '{name}': validation set '{twice[0]}' is named both in the data config and in validation=; "
            "give one of them another name"
        )
    data = replace(
        data,
        train={source: _place(store) for source, store in data.train.items()},
        validation={tag: _place(store) for tag, store in {**data.validation, **(validation or {})}.items()},
        tokenizer=_place(data.tokenizer),
        shuffle_seed=data.shuffle_seed if train_config.data_seed is None else train_config.data_seed,
    )
    initialize_from = train_config.initialize_from()
    if initialize_from is not None:
        initialize_from = replace(initialize_from, path=_place(initialize_from.path))
    initialize_from_hf = None
    if train_config.initialize_from_hf is not None:
        initialize_from_hf = InitializeFromHf(path=_place(train_config.initialize_from_hf))  # type: ignore[arg-type]
    resources = train_config.resources
    if train_config.accelerator_type is not None:
        resources = ResourceConfig.with_tpu(train_config.accelerator_type)
    return train_lm(
        name if "/" in name else f"checkpoints/{name}",
        TrainLmConfig(
            data=data,
            model=model_config,
            optimizer=train_config.optimizer(),
            trainer=train_config.trainer(),
            initialize_from=initialize_from,
            initialize_from_hf=initialize_from_hf,
            lora=train_config.lora,
            callbacks=train_config.all_callbacks(),
            trackers=train_config.trackers,
            output_path=this_output_path(),
            origins={
                "data": "tokenized of default_train",
                "model": "model_config of default_train",
                **{f"data.validation.{tag}": "validation of default_train" for tag in validation or {}},
                "output_path": "the step",
                **train_config.origins(),
            },
        ),
        resources=resources,
        tags=tags,
        description=description,
        override_output_path=override_output_path,
    )


def default_sft(
    name: str,
    tokenized: LmDataConfig | TokenStore,
    model_config: LmConfig,
    sft_config: SimpleSFTConfig,
    *,
    validation: Mapping[str, TokenStore] | None = None,
    tags: Sequence[str] = (),
    description: str | None = None,
    override_output_path: str | None = None,
) -> ExecutorStep:
    """A step that fine-tunes a trained model on conversations.

    Args:
        name: name of the run; its folder is below `checkpoints/` unless the name says where.
        tokenized: one token store of conversations (`default_tokenize(..., chat=...)`), or a data config of several,
            which may be of conversations and of text.
        model_config: shape of the model, that of the run it begins with.
        sft_config: what it begins with, batch, length, learning rate and so on.
        validation: validation sets by tag, beside those of the data config.
        tags: words to find the run by.
        description: a sentence for people.
        override_output_path: a folder of your own instead of the one the step's identity gives.
    """
    data = tokenized if isinstance(tokenized, LmDataConfig) else lm_data_config(tokenized, packing="best_fit")
    step = default_train(
        name,
        sft_config.data(data),
        model_config,
        sft_config.train_config(),
        validation=validation,
        tags=tags,
        description=description,
        override_output_path=override_output_path,
    )
    checkpoint, model = sft_config.initialize_from(), sft_config.initialize_from_hf()
    config = replace(
        step.config,
        initialize_from=None if checkpoint is None else replace(checkpoint, path=_place(checkpoint.path)),
        initialize_from_hf=None if model is None else replace(model, path=_place(model.path)),
        lora=sft_config.lora,
        origins=sft_config.origins(step.config.origins),
    )
    if sft_config.num_epochs is None:
        return replace(step, config=config)
    return replace(
        step,
        fn="marin.training.train_epochs:train_epochs",
        config=TrainEpochsConfig(run=config, num_epochs=sft_config.num_epochs),
    )


def _place(store: TokenStore | None) -> InputName | str | None:
    return output_path_of(store) if isinstance(store, ExecutorStep) else store
