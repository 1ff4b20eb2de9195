"""Devices as named axes, and the one table that says which axis of an array lies along which of them.

The axes of the mesh are `replica`, `data` and `model` (`MeshConfig`). An array's own axes have names too: those that
stand beside each parameter's definition in its jaxtyping annotation, `Float[Array, "layers hidden mlp"]`. `MESH_AXES`
maps the one to the other, and everything else follows: where parameters, gradients and optimizer state lie, and by
XLA's propagation (GSPMD, Xu et al. 2021, arXiv:2105.04663) what is communicated. Rows of a batch lie along `replica`
and `data`.

An axis that its devices do not divide stays whole on each of them, as JAX has no uneven shards: three key-value heads
on two devices are copied, which costs memory and no correctness. With one device there is no mesh at all, and every
function here leaves its argument as it is.
"""

import dataclasses
import inspect
import math
import typing
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from marin.distributed.config import MeshConfig

T = TypeVar("T")

Region = tuple[tuple[int, int], ...]
"""A part of an array: (first, after the last) along each axis."""

BATCH = ("replica", "data")
"""Mesh axes along which the rows of a batch lie."""

MESH_AXES = {
    "hidden": "data",
    "positions": None,
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
    "experts": "model",
}
"""Axis of a parameter -> axis of the mesh; the others are whole on each device. Where two axes of one parameter would
take the same, the first has it."""

_SMALL = 2**14  # elements; what has fewer and no place in the table is copied


def make_mesh(config: MeshConfig) -> Mesh | None:
    """The mesh over the devices of all processes; None where it is a single device.

    The devices of a process follow each other, so that `model`, the axis with the most to say, stays within a process
    where it can. Raises ValueError where the devices do not give this mesh.
    """
    devices = jax.devices()
    shape = config.shape(len(devices))
    count = math.prod(shape)
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh: replica x data x model = {' x '.join(map(str, shape))} uses {count} of {len(devices)} devices, but "
            f"each of the {jax.process_count()} processes must have its part. Leave mesh.data out to take them all."
        )
    if count == 1:
        return None
    names = ("replica", "data", "model")
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 3, devices=devices[:count])


def num_batch_shards(mesh: Mesh | None) -> int:
    """Parts into which the rows of a batch are cut; 1 without a mesh."""
    return 1 if mesh is None else _parts(mesh.shape)


def num_batch_shards_here() -> int:
    """Inside a compiled function: the same of the mesh in use."""
    return _parts(_mesh_shape())


def _parts(mesh_shape: Mapping[str, int]) -> int:
    return math.prod(mesh_shape.get(axis, 1) for axis in BATCH)


def by_rows(tree: T) -> T:
    """Inside a compiled function: arrays `(batch, ...)` of the pytree lie along the batch axes and are whole otherwise.

    Scalars stay as they are.
    """
    return _constrained(tree, lambda array: PartitionSpec(BATCH) if array.ndim else PartitionSpec())


def by_microbatch_rows(tree: T) -> T:
    """The same for arrays `(microbatch, batch, ...)`: each microbatch is spread over all devices."""
    return _constrained(tree, lambda array: PartitionSpec(None, BATCH))


def everywhere(tree: T) -> T:
    """Arrays of the pytree are whole on each device, so that every process can read them."""
    return _constrained(tree, lambda array: PartitionSpec())


def whole_but_vocabulary(unembedding: T) -> T:
    """A matrix `(hidden, vocab)`, gathered but for the vocabulary."""
    return _constrained(
        unembedding, lambda array: PartitionSpec(None, _divided("vocab", array.shape[1], _mesh_shape()))
    )


def _constrained(tree: T, spec: Any) -> T:
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, spec(array)), tree)


def _mesh_shape() -> Mapping[str, int]:
    return jax.sharding.get_abstract_mesh().shape


def _divided(axis: str, size: int, mesh_shape: Mapping[str, int]) -> str | None:
    """The mesh axis that an array's axis of this size lies along; None: it is whole."""
    mesh_axis = MESH_AXES.get(axis)
    if mesh_axis is None or mesh_shape.get(mesh_axis, 1) == 1 or size % mesh_shape[mesh_axis]:
        return None
    return mesh_axis


# -- where the state lies ---------------------------------------------------------------------------------------------


def axis_names(params: Any) -> Any:
    """The pytree of parameters with the names of each array's axes, as a tuple, in place of the array.

    Read from the annotations of the dataclasses. TypeError for an array whose annotation names other axes than it has.
    """
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        raise TypeError(f"parameters are dataclasses with annotated arrays, got {type(params).__name__}")
    annotations = inspect.get_annotations(type(params))
    return dataclasses.replace(
        params,
        **{
            field.name: _field_axes(f"{type(params).__name__}.{field.name}", getattr(params, field.name), annotations)
            for field in dataclasses.fields(params)
        },
    )


def _field_axes(place: str, value: Any, annotations: Mapping[str, Any]) -> Any:
    if value is None:
        return None
    if dataclasses.is_dataclass(value):
        return axis_names(value)
    if isinstance(value, Mapping):
        return {key: axis_names(item) for key, item in value.items()}
    annotation = annotations[place.rpartition(".")[2]]
    options = typing.get_args(annotation) or (annotation,)
    names = next((tuple(option.dim_str.split()) for option in options if hasattr(option, "dim_str")), None)
    if names is None or len(names) != len(value.shape):
        raise TypeError(f"{place} has shape {tuple(value.shape)}, but its annotation {annotation} names other axes")
    return names


def parameter_shardings(params: Any, mesh: Mesh, *, fsdp: bool = True) -> Any:
    """The pytree of parameters (arrays or shapes) with the sharding of each in its place.

    Raises ValueError where the mesh has a model axis and no axis of any parameter can be cut along it.
    """
    names = axis_names(params)
    specs = jax.tree.map(lambda array, axes: _spec(axes, array.shape, mesh.shape, fsdp), params, names)
    is_spec = {"is_leaf": lambda leaf: isinstance(leaf, PartitionSpec)}
    if mesh.shape["model"] > 1 and not any("model" in spec for spec in jax.tree.leaves(specs, **is_spec)):
        raise ValueError(
            f"mesh.model is {mesh.shape['model']}, which divides neither heads, MLP width nor vocabulary of this "
            "model. Choose one that does."
        )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, **is_spec)


def _spec(axes: tuple[str, ...], shape: tuple[int, ...], mesh_shape: Mapping[str, int], fsdp: bool) -> PartitionSpec:
    taken: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        mesh_axis = _divided(axis, size, mesh_shape)
        taken.append(None if mesh_axis in taken or (mesh_axis == "data" and not fsdp) else mesh_axis)
    return PartitionSpec(*taken)


def state_shardings(state: Any, params: Any, mesh: Mesh, *, fsdp: bool = True) -> Any:
    """The pytree `state` with the sharding of each array in its place.

    What has a parameter's path at the end of its own, and that parameter's shape, lies as the parameter does: the
    parameters themselves, their average, moments of the optimizer. Other large arrays are cut along their longest axis
    that `data` divides, and the rest is copied.
    """
    shapes = jax.tree_util.tree_leaves_with_path(params)
    shardings = jax.tree.leaves(parameter_shardings(params, mesh, fsdp=fsdp))
    by_path = {path: (leaf.shape, sharding) for (path, leaf), sharding in zip(shapes, shardings, strict=True)}

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = by_path.get(path[start:], (None, None))
            if shape == leaf.shape and sharding is not None:
                return sharding
        return NamedSharding(mesh, _longest_axis(leaf.shape, mesh.shape["data"] if fsdp else 1))

    return jax.tree_util.tree_map_with_path(place, state)


def _longest_axis(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0 and parts > 1]
    if not fitting or math.prod(shape) < _SMALL:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*("data" if axis == longest else None for axis in range(len(shape))))


def with_shardings(shapes: T, shardings: Any) -> T:
    """Shapes and dtypes that also say where each array is to lie."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def bytes_per_device(shapes: Any) -> int:
    """Bytes that the largest share of a device has of arrays, by the shardings of `with_shardings` (None: all)."""
    total = 0
    for leaf in jax.tree.leaves(shapes):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def regions_here(sharding: Sharding, shape: tuple[int, ...]) -> dict[Any, Region]:
    """Which part of an array of this shape each device of this process has."""
    regions: dict[Any, Region] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        parts = index or (slice(None),) * len(shape)
        regions[device] = tuple(part.indices(size)[:2] for part, size in zip(parts, shape, strict=True))
    return regions


# -- batches ----------------------------------------------------------------------------------------------------------


def row_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Of arrays `(batch, ...)`; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH))


def rows_here(num_rows: int, mesh: Mesh | None) -> np.ndarray:
    """Which rows of a batch of so many the devices of this process need: their numbers, rising, int64."""
    sharding = row_sharding(mesh)
    if sharding is None:
        return np.arange(num_rows)
    needed = regions_here(sharding, (num_rows,)).values()
    return np.unique(np.concatenate([np.arange(first, end) for ((first, end),) in needed]))


def place_rows(tree: T, mesh: Mesh | None, num_rows: int) -> T:
    """The numpy arrays `(rows here, ...)` of this process as arrays `(num_rows, ...)` on the devices of the mesh.

    Without a mesh they stay numpy arrays: the compiled step puts them on the device.
    """
    sharding = row_sharding(mesh)
    if sharding is None:
        return tree
    here = rows_here(num_rows, mesh)

    def place(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            first, end, _ = index[0].indices(num_rows)
            return array[slice(*np.searchsorted(here, (first, end)))]

        return jax.make_array_from_callback((num_rows, *array.shape[1:]), sharding, part)

    return jax.tree.map(place, tree)


def use_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Inside, `by_rows` and its like speak of this mesh."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def use_own_device() -> AbstractContextManager[Any]:
    """Inside, this process computes for itself, whatever mesh is in use around it."""
    if jax.process_count() == 1:
        return nullcontext()
    device = np.array(jax.local_devices()[:1]).reshape(1, 1, 1)
    return jax.set_mesh(Mesh(device, ("replica", "data", "model"), axis_types=(AxisType.Auto,) * 3))


def round_up_rows(num_rows: int, mesh: Mesh | None) -> int:
    """The next number of rows that can be spread evenly."""
    shards = num_batch_shards(mesh)
    return -(-num_rows // shards) * shards
