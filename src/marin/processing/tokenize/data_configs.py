"""Data configs of training runs from tokenizing steps.

The same dataclass is the step's config and what the trainer gets: here its paths are steps, and the executor puts the
folders in when the training step runs. So this file needs nothing of the executor: whatever is given as a store (a
step, an input name, a path) is passed on as it is.
"""

from collections.abc import Mapping
from typing import Any

from marin.data.config import LmDataConfig, PackingMode

TRAIN_NAME = "train"


def lm_data_config(
    training_set: Any,
    validation_sets: Mapping[str, Any] | None = None,
    *,
    packing: PackingMode = "concatenate",
    shuffle_seed: int = 0,
    tokenizer: Any = None,
) -> LmDataConfig:
    """Train on one token store.

    `training_set` and the values of `validation_sets` (by tag) are tokenizing steps, input names or paths of stores;
    `tokenizer` is the tokenizer the stores must have been made with (a step, an input name or a path), if that is to
    be checked.
    """
    return LmDataConfig(
        train={TRAIN_NAME: training_set},
        validation=dict(validation_sets or {}),
        packing=packing,
        shuffle_seed=shuffle_seed,
        tokenizer=tokenizer,
    )


def lm_mixture_data_config(
    components: Mapping[str, Any],
    weights: Mapping[str, float],
    validation_sets: Mapping[str, Any] | None = None,
    *,
    packing: PackingMode = "concatenate",
    shuffle_seed: int = 0,
    mixture_block_size: int = 2048,
    tokenizer: Any = None,
) -> LmDataConfig:
    """Train on several token stores with fixed weights.

    `components` are tokenizing steps, input names or paths by name. `weights` are shares of rows, in any unit; a
    component without one gets weight 0, which leaves it out. Raises ValueError for a weight without a component.
    """
    unknown = sorted(set(weights) - set(components))
    if unknown:
        raise ValueError(f"weights for {', '.join(unknown)}, which are no components; those are {sorted(components)}")
    return LmDataConfig(
        train=dict(components),
        weights={name: float(weights.get(name, 0.0)) for name in components},
        validation=dict(validation_sets or {}),
        packing=packing,
        shuffle_seed=shuffle_seed,
        mixture_block_size=mixture_block_size,
        tokenizer=tokenizer,
    )
