"""The arithmetic of SOAP on stacks of matrices; `marin.optim.soap` has the formula.

Apart from the config so that describing an experiment costs no import of jax.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from marin.optim.matrices import MatrixPart
from marin.optim.soap import SoapConfig


class Side(NamedTuple):
    """One side of a stack of matrices; both are None where the side is too long to be rotated."""

    moment: jax.Array | None  # L or R of the formula (matrices, side, side)
    basis: jax.Array | None  # P or Q


class SoapState(NamedTuple):
    """State of all matrices, by name; each array of a matrix is stacked as `MatrixPart.to_stack` has it."""

    count: jax.Array
    mean: dict[str, jax.Array]
    square: dict[str, jax.Array]
    left: dict[str, Side]
    right: dict[str, Side]


class _Matrix(NamedTuple):
    mean: jax.Array
    square: jax.Array
    left: Side
    right: Side


def scale_by_soap(config: SoapConfig, parts: Mapping[str, MatrixPart]) -> optax.GradientTransformation:
    """Dicts of gradients of matrix parts to dicts of directions."""

    def init(params: Any) -> Any:
        stacks = {name: parts[name].to_stack(param) for name, param in params.items()}
        zeros = {name: jnp.zeros_like(stack) for name, stack in stacks.items()}
        return SoapState(
            count=jnp.zeros([], jnp.int32),
            mean=zeros,
            square=jax.tree.map(jnp.copy, zeros),
            left={name: _empty_side(stack, 1, config.max_precondition_dim) for name, stack in stacks.items()},
            right={name: _empty_side(stack, 2, config.max_precondition_dim) for name, stack in stacks.items()},
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        directions, new = {}, {}
        for name, gradient in updates.items():
            stack = parts[name].to_stack(gradient)
            old = _Matrix(state.mean[name], state.square[name], state.left[name], state.right[name])
            direction, new[name] = jax.lax.cond(
                state.count == 0,
                lambda stack, old: (jnp.zeros_like(stack), _first(config, old, stack)),
                lambda stack, old: _later(config, old, stack, state.count),
                stack,
                old,
            )
            directions[name] = parts[name].from_stack(direction, gradient.shape)
        return directions, SoapState(
            state.count + 1,
            *({name: matrix[field] for name, matrix in new.items()} for field in range(len(_Matrix._fields))),
        )

    return optax.GradientTransformation(init, update)


def _empty_side(stack: jax.Array, axis: int, longest: int) -> Side:
    length = stack.shape[axis]
    if length > longest:
        return Side(None, None)
    zeros = jnp.zeros((stack.shape[0], length, length), stack.dtype)
    return Side(zeros, jnp.copy(zeros))


def _first(config: SoapConfig, matrix: _Matrix, gradient: jax.Array) -> _Matrix:
    """The basis of the first gradient."""

    def basis(side: Side) -> Side:
        if side.moment is None:
            return side
        return Side(side.moment, jnp.linalg.eigh(side.moment)[1][..., ::-1])

    left, right = _moments(config, matrix, gradient)
    return matrix._replace(left=basis(left), right=basis(right))


def _later(
    config: SoapConfig, matrix: _Matrix, gradient: jax.Array, num_moments: jax.Array
) -> tuple[jax.Array, _Matrix]:
    """Direction and state of an update that has a basis; `num_moments` gradients are in the mean after it."""
    left, right = matrix.left.basis, matrix.right.basis
    mean = config.beta1 * matrix.mean + (1 - config.beta1) * gradient
    square = config.beta2 * matrix.square + (1 - config.beta2) * _rotate(gradient, left, right) ** 2
    adam = _rotate(mean, left, right) / (1 - config.beta1**num_moments)
    adam = (adam / (jnp.sqrt(square / (1 - config.beta2**num_moments)) + config.epsilon)).astype(gradient.dtype)
    direction = _rotate_back(adam, left, right)
    left_side, right_side = _moments(config, matrix, gradient)
    new = _Matrix(mean, square, left_side, right_side)
    return direction, jax.lax.cond(num_moments % config.precondition_frequency == 0, _renewed, lambda m: m, new)


def _moments(config: SoapConfig, matrix: _Matrix, gradient: jax.Array) -> tuple[Side, Side]:
    def moved(side: Side, outer: str) -> Side:
        if side.moment is None:
            return side
        new = jnp.einsum(outer, gradient, gradient)
        return side._replace(moment=config.shampoo_beta * side.moment + (1 - config.shampoo_beta) * new)

    return moved(matrix.left, "bik,bjk->bij"), moved(matrix.right, "bki,bkj->bij")


def _renewed(matrix: _Matrix) -> _Matrix:
    """One step of orthogonal iteration for each basis."""
    square = matrix.square
    left, left_order = _renewed_side(matrix.left)
    if left_order is not None:
        square = jnp.take_along_axis(square, left_order[:, :, None], axis=1)
    right, right_order = _renewed_side(matrix.right)
    if right_order is not None:
        square = jnp.take_along_axis(square, right_order[:, None, :], axis=2)
    return _Matrix(matrix.mean, square, left, right)


def _renewed_side(side: Side) -> tuple[Side, jax.Array | None]:
    if side.moment is None or side.basis is None:
        return side, None
    moved = side.moment @ side.basis
    order = jnp.argsort(-jnp.einsum("bij,bij->bj", side.basis, moved), axis=-1)
    moved = jnp.take_along_axis(moved, order[:, None, :], axis=2)
    return Side(side.moment, jnp.linalg.qr(moved)[0]), order


def _rotate(stack: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    if left is not None:
        stack = jnp.einsum("bji,bjk->bik", left, stack)
    return stack if right is None else stack @ right


def _rotate_back(stack: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    if left is not None:
        stack = left @ stack
    return stack if right is None else jnp.einsum("bij,bkj->bik", stack, right)
