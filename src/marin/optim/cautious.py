"""Cautious updates: the parts of an update that point against the gradient are dropped.

Source: Liang, Chen, Liu and Liu 2024, arXiv:2411.16085. For each parameter array, with gradient `g` and the direction
`u` of another optimizer (without weight decay; the update subtracts it):

    a = 1 where u * g > 0, else 0
    u = u * a / max(mean(a), 1/1000)

so what is kept is made longer, to the same mean length. The mean is over an array as the model stores it: all layers'
matrices of one kind together.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

_LEAST_PART_KEPT = 1e-3  # of the authors' code: a mask of nothing must not divide by zero


def cautious(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` with its directions masked as the module's docstring says. The state is that of `inner`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        directions, state = inner.update(updates, state, params)
        return jax.tree.map(_agreeing, directions, updates), state

    return optax.GradientTransformation(inner.init, update)


def _agreeing(direction: jax.Array, gradient: jax.Array) -> jax.Array:
    agrees = (direction * gradient > 0).astype(direction.dtype)
    return direction * agrees / jnp.maximum(jnp.mean(agrees), _LEAST_PART_KEPT)
