"""Data configs of training runs from tokenizing steps.

The same dataclass is the step's config and what the trainer gets: here its paths are steps, and the executor puts the
folders in when the training step runs. So this file needs nothing of the executor: whatever is given as a store (a
step, an input name, a path) is passed on as it is. That all stores were made with one tokenizer is checked where they
are opened, before training begins: `marin.data.lm_data`.

Settings of the data config that are not spelled out in a signature are given by their names:
`lm_mixture_data_config(..., shuffle_seed=3, max_train_batches={"web": 10})`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

from marin.data.config import LmDataConfig, MixtureStage
from marin.data.units import Place, number_of, unit_of

TRAIN_NAME = "train"

TokenizerStep: TypeAlias = Any
"""What stands for a token store: the step that makes it, a place in a step's output, or a path."""


def lm_data_config(
    training_set: TokenizerStep,
    validation_sets: Mapping[str, TokenizerStep] | None = None,
    **settings: Any,
) -> LmDataConfig:
    """Train on one token store.

    `training_set` and the values of `validation_sets` (by tag) are tokenizing steps, input names or paths of stores;
    the source is called "train". `settings` are fields of LmDataConfig, like `packing`, `shuffle_seed`, `tokenizer` or
    `num_validation_sequences={"train": 100}`.
    """
    return LmDataConfig(train={TRAIN_NAME: training_set}, validation=dict(validation_sets or {}), **settings)


def lm_mixture_data_config(
    components: Mapping[str, TokenizerStep],
    weights: Mapping[str, float],
    validation_sets: Mapping[str, TokenizerStep] | None = None,
    *,
    missing_weights_are_validation: bool = True,
    **settings: Any,
) -> LmDataConfig:
    """Train on several token stores with fixed weights.

    Args:
        components: tokenizing steps, input names or paths of stores, by name.
        weights: shares of rows, in any unit. 0 leaves a component out.
        validation_sets: stores to validate on, by tag.
        missing_weights_are_validation: components without a weight are validation sets; False refuses them.
        settings: other fields of LmDataConfig, like `mixture_block_size`, `shuffle_seed`, `max_train_batches`,
            `num_validation_sequences` or `tokenizer`.

    Raises:
        ValueError: a weight is for no component, or a component has none and may not.
    """
    train, validation = _split(components, [weights], validation_sets, missing_weights_are_validation)
    return LmDataConfig(
        train=train,
        weights={name: float(weights[name]) for name in train},
        validation=validation,
        **settings,
    )


def lm_varying_mixture_data_config(
    components: Mapping[str, TokenizerStep],
    weights_list: Sequence[tuple[Place, Mapping[str, float]]],
    validation_sets: Mapping[str, TokenizerStep] | None = None,
    *,
    missing_weights_are_validation: bool = True,
    **settings: Any,
) -> LmDataConfig:
    """Train on several token stores with weights that change on the way.

    Args:
        components: tokenizing steps, input names or paths of stores, by name.
        weights_list: (start, weights) of each stage, in order, the first from 0 on. A start is a number of updates, as
            a plain int or `Steps(n)`, or `Tokens(n)` or `Sequences(n)`. A component that a stage leaves out has weight
            0 in it.
        validation_sets: stores to validate on, by tag.
        missing_weights_are_validation: components that no stage gives a weight are validation sets; False refuses them.
        settings: other fields of LmDataConfig.

    Raises:
        ValueError: starts out of order, a weight for no component, or a component without one that may not be.
    """
    train, validation = _split(
        components, [weights for _, weights in weights_list], validation_sets, missing_weights_are_validation
    )
    stages = tuple(
        MixtureStage(start=start, weights={name: float(weight) for name, weight in weights.items()})
        for start, weights in weights_list
    )
    return LmDataConfig(train=train, weights=stages, validation=validation, **settings)


def add_validation_sets_to_mixture(config: LmDataConfig, validation_sets: Mapping[str, TokenizerStep]) -> LmDataConfig:
    """The config with more validation sets, by tag. ValueError where it has another set of one of the tags."""
    for tag, store in validation_sets.items():
        if tag in config.num_validation_sequences or config.validation.get(tag, store) != store:
            raise ValueError(
                f"validation set {tag!r} is there already; give the new one another tag, like '{tag}/held_out'"
            )
    return replace(config, validation={**config.validation, **validation_sets})


def mixture_for_evaluation(inputs: Mapping[str, TokenizerStep], **settings: Any) -> LmDataConfig:
    """Validate on these token stores (steps, input names or paths by tag), and train on none."""
    if not inputs:
        raise ValueError("mixture_for_evaluation was given no token store; name at least one")
    return LmDataConfig(train={}, validation=dict(inputs), **settings)


def interpolate_mixture_configs(configs: Sequence[LmDataConfig], weights: Sequence[float]) -> LmDataConfig:
    """One mixture of several: at any time, config i has the share `weights[i] / sum(weights)` of the rows.

    In its share, each config's sources stand as its own weights say at that time, so a source that several configs
    name gets the sum. A stage begins wherever one of theirs does. Whatever else is set must be the same in all.

    Raises:
        ValueError: the numbers of configs and weights differ, a config gives no weights (then its shares are not known
            before its stores are there), starts of stages are in units that cannot be put in order, one name means two
            stores, or another setting differs.
    """
    if not configs or len(configs) != len(weights):
        raise ValueError(
            f"interpolate_mixture_configs: {len(configs)} configs and {len(weights)} weights; give as many"
        )
    if not (all(0 <= weight < float("inf") for weight in weights) and sum(weights) > 0):
        raise ValueError(f"interpolate_mixture_configs: weights {list(weights)}; expected 0 or more, not all 0")
    _check_same_settings(configs)
    train = _merged("training source", [config.train for config in configs])
    staged = [_stages(config, number) for number, config in enumerate(configs)]
    stages = []
    for start in _all_starts(staged):
        total = dict.fromkeys(train, 0.0)
        for share, own in zip(weights, staged, strict=True):
            current = next(stage for stage in reversed(own) if number_of(stage.start) <= number_of(start)).weights
            for name, weight in current.items():
                total[name] += share / sum(weights) * weight / sum(current.values())
        stages.append(MixtureStage(start=start, weights=total))
    return replace(
        configs[0],
        train=train,
        weights=stages[0].weights if len(stages) == 1 else tuple(stages),
        validation=_merged("validation set", [config.validation for config in configs]),
        num_validation_sequences=_merged("held-out set", [config.num_validation_sequences for config in configs]),
        max_train_batches=_merged("limit on source", [config.max_train_batches for config in configs]),
    )


def _split(
    components: Mapping[str, Any],
    weights: Sequence[Mapping[str, float]],
    validation_sets: Mapping[str, Any] | None,
    missing_are_validation: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training sources, validation sets) of components, by which have a weight."""
    weighted = {name for each in weights for name in each}
    unknown = sorted(weighted - set(components))
    if unknown:
        raise ValueError(f"weights for {', '.join(unknown)}, which are no components; those are {sorted(components)}")
    missing = [name for name in components if name not in weighted]
    if missing and not missing_are_validation:
        raise ValueError(
            f"components without a weight: {', '.join(missing)}. Give each its weight (0 leaves it out), or leave "
            "missing_weights_are_validation=True to validate on them."
        )
    given = dict(validation_sets or {})
    twice = sorted(set(given) & set(missing))
    if twice:
        raise ValueError(
            f"component {twice[0]!r} has no weight, so it is a validation set, and validation_sets names one too; give "
            "one of them another name"
        )
    train = {name: store for name, store in components.items() if name in weighted}
    return train, {**{name: components[name] for name in missing}, **given}


def _stages(config: LmDataConfig, number: int) -> tuple[MixtureStage, ...]:
    if config.weights is None:
        raise ValueError(
            f"interpolate_mixture_configs: config {number} (of {', '.join(config.train)}) gives no weights. Write them "
            "out: what its sources' sizes make of them is not known before the stores are there."
        )
    if isinstance(config.weights, dict):
        return (MixtureStage(start=0, weights=config.weights),)
    return config.weights


def _all_starts(staged: Sequence[Sequence[MixtureStage]]) -> list[Place]:
    """The starts of all stages, each once, in order: 0 first."""
    starts = [stage.start for stages in staged for stage in stages if number_of(stage.start) > 0]
    units = {unit_of(start) for start in starts}
    if len(units) > 1:
        names = ", ".join(sorted(unit.__name__ for unit in units))
        raise ValueError(
            f"interpolate_mixture_configs: stages start at places counted in {names}, which cannot be put in order "
            "before the batch sizes are known. Count them all in one unit."
        )
    by_number = {number_of(start): start for start in starts}
    return [0, *(by_number[number] for number in sorted(by_number))]


def _merged(what: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if merged.setdefault(name, value) != value:
                raise ValueError(
                    f"interpolate_mixture_configs: {what} {name!r} is {merged[name]!r} in one config and {value!r} in "
                    "another; give one of them another name"
                )
    return merged


_COMBINED = ("train", "weights", "validation", "num_validation_sequences", "max_train_batches")


def _check_same_settings(configs: Sequence[LmDataConfig]) -> None:
    for field in fields(LmDataConfig):
        values = [getattr(config, field.name) for config in configs]
        if field.name not in _COMBINED and any(value != values[0] for value in values):
            raise ValueError(
                f"interpolate_mixture_configs: the configs differ in {field.name}: {values}. One run has one; give all "
                "of them the same."
            )
