"""Where parameters lie: the table of axes, for every model."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from marin.distributed.config import MeshConfig
from marin.distributed.mesh import MESH_AXES, axis_names, parameter_shardings, state_shardings
from marin.models.llama import LlamaConfig

LLAMA = LlamaConfig(seq_len=8, hidden_dim=16, intermediate_dim=24, num_heads=4, num_kv_heads=2, num_layers=2)
MESH = AbstractMesh((2, 4, 2), ("replica", "data", "model"))


def shapes(model: LlamaConfig, vocab_size: int = 64):
    return jax.eval_shape(lambda: model.init(vocab_size, key=jax.random.key(0)))


def test_the_axes_of_a_parameter_are_those_of_its_annotation():
    names = axis_names(shapes(LLAMA))
    assert names.layers.qkv == ("layers", "hidden", "kv_heads", "group_plus_2", "head_dim")
    assert names.embedding == ("vocab", "hidden") and names.final_norm == ("hidden",)
    assert MESH_AXES["hidden"] == "data" and MESH_AXES["vocab"] == "model"


def test_matrices_are_cut_along_both_axes_of_the_mesh_and_copied_over_replicas():
    specs = jax.tree.map(lambda s: s.spec, parameter_shardings(shapes(LLAMA), MESH))
    assert specs.layers.qkv == PartitionSpec(None, "data", "model", None, None)
    assert specs.layers.down == PartitionSpec(None, "model", "data")
    assert specs.embedding == PartitionSpec("model", "data")


def test_the_optimizer_lies_as_the_parameters_do_and_other_large_arrays_are_cut_somewhere():
    params = shapes(LLAMA)
    large, odd = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 256, 64), (3, 257, 63)))
    state = {"mean": params, "inner": {"second": params.layers}, "factors": large, "odd": odd, "count": odd}
    specs = jax.tree.map(lambda s: s.spec, state_shardings(state, params, MESH))
    down = PartitionSpec(None, "model", "data")
    assert specs["mean"].layers.down == down
    assert specs["inner"]["second"].down == PartitionSpec(), "the path of no parameter, and small"
    assert specs["factors"] == PartitionSpec(None, "data", None)
    assert specs["odd"] == PartitionSpec(), "nothing divides it"


def test_without_fsdp_nothing_is_cut_along_the_data_axis():
    specs = jax.tree.map(lambda s: s.spec, parameter_shardings(shapes(LLAMA), MESH, fsdp=False))
    assert specs.layers.down == PartitionSpec(None, "model", None)


def test_an_axis_that_the_devices_do_not_divide_stays_whole():
    specs = jax.tree.map(lambda s: s.spec, parameter_shardings(shapes(LLAMA, vocab_size=63), MESH))
    assert specs.embedding == PartitionSpec(None, "data")


def test_an_annotation_that_names_other_axes_is_an_error():
    params = LLAMA.init(8, key=jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 1)), params)
    with pytest.raises(TypeError, match="LlamaParams.embedding has shape"):
        axis_names(params)


@pytest.mark.parametrize("field", ["replica", "data", "model"])
def test_axes_count_devices(field):
    with pytest.raises(ValueError, match=f"mesh.{field} counts devices and must be 1 or more, got 0"):
        MeshConfig(**{field: 0})
