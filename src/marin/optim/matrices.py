"""Which of a model's parameters are matrices, and which of their axes are input and output.

Muon and SOAP treat a matrix as a map from inputs to outputs, but models store matrices stacked by layer, with heads as
axes of their own, and several in one array. What an axis is stands in the parameter's annotation beside its definition,
and is read from there:

- `layers` and `experts` in front, and a number anywhere, like the 2 of `layers hidden 2 mlp` (gate and up), count
  separate matrices (the router's `layers hidden experts` is one matrix a layer, whose outputs are the experts);
- `NAME_plus_2`, like `group_plus_2` (the queries of a group, then its key, then its value), is NAME slices of one
  matrix and then 2 matrices of one slice;
- `hidden` first of the others is the input and the rest output, `hidden` last is the output and the rest input;
- an array with a `vocab` axis is an embedding or unembedding and counts as no matrix.

An array without annotation (in a dict, say) is a stack of matrices of its last two axes. In every case only what the
decay mask names is a matrix, so that mask and matrices cannot disagree about norms and biases.
"""

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

_IN_FRONT = ("layers", "experts")
_FUSED = re.compile(r"\w+_plus_(\d+)")


@dataclass(frozen=True, kw_only=True)
class MatrixPart:
    """One kind of matrix: an array of the model, or a slice of it."""

    name: str
    """Where it is, with dashes: 'layers-qkv-0'."""
    leaf: int
    """Index of the array among the tree's leaves."""
    inputs: tuple[int, ...]
    """Axes that together are the input."""
    outputs: tuple[int, ...]
    """Axes that together are the output; all others count separate matrices."""
    fused: tuple[int, int, int] | None = None
    """(axis, start, stop) of the slice; None is the whole array."""

    def take(self, array: jax.Array) -> jax.Array:
        """This part of the array."""
        if self.fused is None:
            return array
        axis, start, stop = self.fused
        return jax.lax.slice_in_dim(array, start, stop, axis=axis)

    def to_stack(self, part: jax.Array) -> jax.Array:
        """The part as (matrices, inputs, outputs)."""
        order, shape = self._order(part.ndim), part.shape
        batch, inputs = math.prod(shape[i] for i in self._batch(part.ndim)), math.prod(shape[i] for i in self.inputs)
        return part.transpose(order).reshape(batch, inputs, -1)

    def from_stack(self, stack: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of `to_stack`, for a part of this shape."""
        order = self._order(len(shape))
        inverse = sorted(range(len(shape)), key=lambda axis: order[axis])
        return stack.reshape([shape[axis] for axis in order]).transpose(inverse)

    def _batch(self, ndim: int) -> tuple[int, ...]:
        return tuple(axis for axis in range(ndim) if axis not in (*self.inputs, *self.outputs))

    def _order(self, ndim: int) -> tuple[int, ...]:
        return (*self._batch(ndim), *self.inputs, *self.outputs)


@dataclass(frozen=True, kw_only=True)
class MatrixLayout:
    """Every array of a tree, as matrix parts or as one of the rest."""

    parts: tuple[MatrixPart, ...]
    """The matrices, in the order of the tree's leaves."""
    rest: Mapping[str, int]
    """Name -> index among the leaves of what is no matrix."""

    def split(self, tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The matrix parts by name, and the rest by name."""
        leaves = jax.tree.leaves(tree)
        matrices = {part.name: part.take(leaves[part.leaf]) for part in self.parts}
        return matrices, {name: leaves[index] for name, index in self.rest.items()}

    def join(self, matrices: Mapping[str, jax.Array], rest: Mapping[str, Any], like: Any) -> Any:
        """The inverse of `split`, in the structure of `like`."""
        leaves = dict(enumerate(jax.tree.leaves(like)))
        leaves |= {index: rest[name] for name, index in self.rest.items()}
        for index in dict.fromkeys(part.leaf for part in self.parts):
            parts = [part for part in self.parts if part.leaf == index]
            arrays = [matrices[part.name] for part in parts]
            axis = parts[0].fused[0] if parts[0].fused else 0
            leaves[index] = arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=axis)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[index] for index in range(len(leaves))])


def matrix_layout(params: Any, decay_mask: Any) -> MatrixLayout:
    """The matrices of `params` (arrays or shapes), by the rules of the module's docstring."""
    masks, axes = jax.tree.leaves(decay_mask), axis_names(params)
    parts: list[MatrixPart] = []
    rest: dict[str, int] = {}
    for index, (keys, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
        name = "-".join(_key_text(key) for key in keys)
        names = axes[index] or _unnamed(leaf.ndim)
        if not masks[index] or leaf.ndim < 2 or "vocab" in names:
            rest[name] = index
        else:
            parts += _parts(name, index, names, leaf.shape)
    return MatrixLayout(parts=tuple(parts), rest=rest)


def axis_names(tree: Any) -> list[tuple[str, ...] | None]:
    """The axes of each leaf as its dataclass annotates them; None for a leaf that has no such annotation."""
    return [_annotated_axes(tree, keys) for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def by_matrix(
    decay_mask: Any,
    matrices: Callable[[Mapping[str, MatrixPart]], optax.GradientTransformation],
    rest: optax.GradientTransformation,
    rest_scale: Any = None,
) -> optax.GradientTransformation:
    """One transformation for the matrices and another for all else.

    `matrices` gets the parts by name and makes a transformation of dicts of such parts. The directions of the rest are
    multiplied by `rest_scale`, a tree of numbers like the parameters; None is 1. State: {"matrices", "rest"}.
    """

    def of_matrices(layout: MatrixLayout) -> optax.GradientTransformation:
        return matrices({part.name: part for part in layout.parts})

    def init(params: Any) -> Any:
        layout = matrix_layout(params, decay_mask)
        parts, others = layout.split(params)
        return {"matrices": of_matrices(layout).init(parts), "rest": rest.init(others)}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        layout = matrix_layout(updates, decay_mask)
        parts, others = layout.split(updates)
        directions: Any  # dicts again, which optax' types do not say
        directions, matrices_state = of_matrices(layout).update(parts, state["matrices"])
        other_directions: Any
        other_directions, rest_state = rest.update(others, state["rest"])
        if rest_scale is not None:
            scales = jax.tree.leaves(rest_scale)
            other_directions = {name: u * scales[layout.rest[name]] for name, u in other_directions.items()}
        return layout.join(directions, other_directions, updates), {"matrices": matrices_state, "rest": rest_state}

    return optax.GradientTransformation(init, update)


def input_axes(names: tuple[str, ...]) -> tuple[int, ...]:
    """The axes that are summed over when a matrix with axes of these names is applied; () where it is none."""
    own = _own_axes(names)
    if len(own) < 2 or "hidden" not in (names[own[0]], names[own[-1]]):
        return ()
    return (own[0],) if names[own[0]] == "hidden" else tuple(own[:-1])


def _own_axes(names: tuple[str, ...]) -> list[int]:
    """The axes of each single matrix: those that do not count separate ones."""
    stacked = next((axis for axis, name in enumerate(names) if name not in _IN_FRONT), len(names))
    return [axis for axis in range(stacked, len(names)) if not names[axis].isdecimal()]


def _unnamed(ndim: int) -> tuple[str, ...]:
    return ("layers",) * (ndim - 2) + ("hidden", "outputs")


def _parts(name: str, leaf: int, names: tuple[str, ...], shape: tuple[int, ...]) -> list[MatrixPart]:
    if len(names) != len(shape):
        raise ValueError(f"parameter {name} has shape {shape}, but its annotation names {len(names)} axes: {names}")
    inputs = input_axes(names)
    if not inputs:
        raise ValueError(
            f"parameter {name} with axes {' '.join(names)} decays like a matrix, but neither the first nor the last "
            "axis behind layers and experts, numbers aside, is 'hidden': inputs and outputs cannot be told apart. "
            "Rename the axes in its annotation, or use an optimizer that needs no matrices, like adamw."
        )
    outputs = tuple(axis for axis in _own_axes(names) if axis not in inputs)
    fused = [(axis, int(match[1])) for axis, n in enumerate(names) if (match := _FUSED.fullmatch(n))]
    if not fused:
        return [MatrixPart(name=name, leaf=leaf, inputs=inputs, outputs=outputs)]
    ((axis, num_single),) = fused
    ends = [0, *range(shape[axis] - num_single, shape[axis] + 1)]
    return [
        MatrixPart(name=f"{name}-{index}", leaf=leaf, inputs=inputs, outputs=outputs, fused=(axis, start, stop))
        for index, (start, stop) in enumerate(zip(ends, ends[1:], strict=False))
    ]


def _annotated_axes(node: Any, keys: tuple[Any, ...]) -> tuple[str, ...] | None:
    annotation = None
    for key in keys:
        if not isinstance(key, jax.tree_util.GetAttrKey):
            annotation = None
            node = node[key.key if isinstance(key, jax.tree_util.DictKey) else key.idx]
            continue
        annotation = inspect.get_annotations(type(node), eval_str=True).get(key.name)
        node = getattr(node, key.name)
    for candidate in (annotation, *typing.get_args(annotation)):  # Float[...] | None
        names: str | None = getattr(candidate, "dim_str", None)
        if names is not None:
            return tuple(names.split())
    return None


def _key_text(key: Any) -> str:
    return str(next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name)))
