"""What a training step turns into its successor.

Only arrays: the number of updates done is a Python int that the loop keeps and the checkpoint's manifest records, and
the position in the data is that same number. So the step is never waited for just to know where one is.
"""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from marin.models.config import LmConfig, trained_part
from marin.optim.skip import SkipBadSteps


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything on the device that a checkpoint must hold."""

    params: Any
    """The model's parameters, float32, the frozen ones too: a run needs nothing else to go on."""
    optimizer: Any
    """The optimizer's state, of what is trained."""
    average: Any = None
    """Running average of the parameters; None where none is kept."""
    skip_window: Any = None
    """What the rule for skipping updates has seen; None where there is none."""


def init_state(
    model: LmConfig,
    transformation: optax.GradientTransformation,
    vocab_size: int,
    *,
    seed: int,
    has_average: bool = False,
    skip: SkipBadSteps | None = None,
    init_scale: Any = None,
    shardings: "TrainState | None" = None,
) -> TrainState:
    """Parameters drawn from `seed`, and a fresh optimizer. One compiled program, so equal on each start.

    `init_scale` is a tree of numbers that multiply the parameters (`marin.optim.mup`); None is 1. The average begins
    as the parameters. `shardings` says where on a mesh each array goes; the numbers are the same on any mesh.
    """

    def init(key: jax.Array) -> TrainState:
        params = init_params(model, vocab_size, key=key, init_scale=init_scale)
        return state_of(model, params, transformation, has_average=has_average, skip=skip)

    return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def init_params(model: LmConfig, vocab_size: int, *, key: jax.Array, init_scale: Any = None) -> Any:
    """Parameters drawn with `key`, times `init_scale`."""
    params = model.init(vocab_size, key=key)
    return params if init_scale is None else jax.tree.map(lambda p, s: p * s, params, init_scale)


def state_of(
    model: LmConfig,
    params: Any,
    transformation: optax.GradientTransformation,
    *,
    has_average: bool = False,
    skip: SkipBadSteps | None = None,
) -> TrainState:
    """The state before the first update of these parameters: a fresh optimizer, an average that begins as they are."""
    return TrainState(
        params=params,
        optimizer=transformation.init(trained_part(model, params)),
        average=jax.tree.map(jax.numpy.copy, params) if has_average else None,
        skip_window=None if skip is None else skip.init(),
    )


def state_shapes(
    model: LmConfig, transformation: optax.GradientTransformation, vocab_size: int, **options: Any
) -> TrainState:
    """Shapes and dtypes of `init_state` with these options, without computing anything: what a checkpoint is loaded
    into.
    """
    return jax.eval_shape(lambda: init_state(model, transformation, vocab_size, seed=0, **options))
