"""What a training step turns into its successor.

Only arrays: the number of updates done is a Python int that the loop keeps and the checkpoint's manifest records, and
the position in the data is that same number. So the step is never waited for just to know where one is.
"""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from marin.models.config import LmConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything on the device that a checkpoint must hold."""

    params: Any
    """The model's parameters, float32."""
    optimizer: Any
    """The optimizer's state."""


def init_state(
    model: LmConfig, transformation: optax.GradientTransformation, vocab_size: int, *, seed: int
) -> TrainState:
    """Parameters drawn from `seed`, and a fresh optimizer. One compiled program, so equal on each start."""

    def init(key: jax.Array) -> TrainState:
        params = model.init(vocab_size, key=key)
        return TrainState(params=params, optimizer=transformation.init(params))

    return jax.jit(init)(jax.random.key(seed))


def state_shapes(model: LmConfig, transformation: optax.GradientTransformation, vocab_size: int) -> TrainState:
    """Shapes and dtypes of `init_state`, without computing anything: what a checkpoint is loaded into."""

    def init() -> TrainState:
        params = model.init(vocab_size, key=jax.random.key(0))
        return TrainState(params=params, optimizer=transformation.init(params))

    return jax.eval_shape(init)
