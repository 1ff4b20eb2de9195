"""A checkpoint is complete or absent, and a damaged one is never loaded."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from marin.checkpoint import format as checkpoint
from marin.checkpoint import shards
from marin.checkpoint.discover import list_checkpoints, remove_leftovers, set_aside
from marin.checkpoint.format import CheckpointWriter, CorruptCheckpointError, CorruptCheckpointWarning

FILE = "process-00000.safetensors"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    embedding: jax.Array
    scale: jax.Array


def state(value: float = 1.0):
    rng = np.random.default_rng(0)
    return {
        "params": Weights(
            embedding=jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) * value, scale=jnp.asarray(value, jnp.bfloat16)
        ),
        "optimizer": (jnp.zeros((2, 3)), {"count": jnp.asarray(7, jnp.int32)}),
    }


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def damage(path):
    """Flip a bit of the last array, params.scale."""
    content = bytearray((path / FILE).read_bytes())
    content[-1] ^= 1
    (path / FILE).write_bytes(content)


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_what_is_loaded_is_bit_for_bit_what_was_saved(tmp_path):
    saved = state(0.1)
    path = checkpoint.save(tmp_path, 500, saved, {"loader_position": 500})
    assert path == tmp_path / "step-00000500"
    assert_same_bits(checkpoint.load(path, saved, prefix=""), saved)
    assert checkpoint.read_metadata(path) == {"step": 500, "loader_position": 500}


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(["float32", "bfloat16", "int32", "uint32", "bool", "uint8"]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_dtype_survives(tmp_path_factory, shape, dtype, seed):
    bits = np.random.default_rng(seed).integers(0, 2, size=shape)
    tree = {"params": {"x": jnp.asarray(bits, dtype)}}
    path = checkpoint.save(tmp_path_factory.mktemp("any"), 1, tree)
    assert_same_bits(checkpoint.load(path, tree, prefix=""), tree)


def test_nan_infinity_and_signed_zero_survive(tmp_path):
    tree = {"x": jnp.asarray([np.nan, np.inf, -np.inf, -0.0, 0.0], jnp.float32)}
    assert_same_bits(checkpoint.load(checkpoint.save(tmp_path, 1, tree), tree, prefix=""), tree)


def test_an_array_larger_than_a_piece_survives_and_a_wrong_byte_in_any_piece_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE_BYTES", 64)
    tree = {"params": {"x": jnp.arange(7 * 6, dtype=jnp.float32).reshape(7, 6)}}
    path = checkpoint.save(tmp_path, 1, tree)
    (saved,) = json.loads((path / "manifest.json").read_text())["arrays"]
    assert len(saved["shards"][0]["sha256"]) == 3
    assert_same_bits(checkpoint.load(path, tree, prefix=""), tree)
    content = bytearray((path / FILE).read_bytes())
    for back in (1, 65, 129):
        damaged = content.copy()
        damaged[-back] ^= 1
        (path / FILE).write_bytes(damaged)
        with pytest.raises(CorruptCheckpointError, match="array 'params.x'"):
            checkpoint.load(path, tree, prefix="")


def test_any_reader_of_safetensors_opens_the_arrays(tmp_path):
    saved = state(0.3)
    read = load_file(checkpoint.save(tmp_path, 1, saved) / FILE)
    assert list(read) == ["optimizer.0", "optimizer.1.count", "params.embedding", "params.scale"]
    assert read["params.scale"].dtype == jnp.bfloat16
    assert_same_bits(list(read.values()), jax.tree.leaves(saved))


def test_a_dtype_that_no_reader_knows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="array 'x' has dtype complex64, which a checkpoint cannot hold"):
        checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2, jnp.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_is_the_state_of_that_moment_whatever_becomes_of_it_while_it_is_written(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    now = {f"a{i}": jnp.zeros((300, 300)) for i in range(8)}
    with CheckpointWriter(tmp_path) as writer:
        for number in range(6):
            writer.save(number, now)
            now = step(now)  # takes the memory of the state that is being written
    assert [folder.step for folder in list_checkpoints(tmp_path)] == list(range(6))
    for folder in list_checkpoints(tmp_path):
        loaded = checkpoint.load(folder.path, now, prefix="")
        assert {float(value) for leaf in loaded.values() for value in np.unique(leaf)} == {folder.step}


def test_a_save_that_fails_in_the_background_is_raised_by_the_next_one_or_at_the_end(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for name in ("save", "wait", "raise_failure"):
        writer = CheckpointWriter(tmp_path / "file")
        writer.save(1, state())
        while writer.is_writing:
            time.sleep(0.001)
        with pytest.raises(OSError, match="file"):
            writer.save(2, state()) if name == "save" else getattr(writer, name)()
        writer.wait()  # said once
    with pytest.raises(OSError), CheckpointWriter(tmp_path / "file") as writer:
        writer.save(1, state())


def test_an_error_is_not_hidden_by_that_of_the_save_in_progress(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(KeyError) as caught, CheckpointWriter(tmp_path / "file") as writer:
        writer.save(1, state())
        raise KeyError("mine")
    (note,) = caught.value.__notes__
    assert "the checkpoint that was being written failed" in note


def test_what_comes_after_a_save_is_done_when_the_checkpoint_is_there(tmp_path):
    seen = []
    with CheckpointWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.save(step, state(), when_saved=lambda: seen.append([f.step for f in list_checkpoints(tmp_path)]))
    assert seen == [[1], [1, 2]] and writer.write_s > 0


def test_the_parameters_alone_can_be_loaded_from_their_shapes(tmp_path):
    saved = state()
    path = checkpoint.save(tmp_path, 1, saved)
    shapes = jax.eval_shape(lambda: saved["params"])
    assert_same_bits(checkpoint.load(path, shapes), saved["params"])


def test_every_flipped_byte_is_found_and_its_file_named(tmp_path):
    saved = state()
    path = checkpoint.save(tmp_path, 3, saved)
    for file in files_of(path):
        content = file.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[position] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(CorruptCheckpointError) as caught:
                checkpoint.load(path, saved, prefix="")
            assert caught.value.file == file.relative_to(path).as_posix()
            assert caught.value.file in str(caught.value)
        file.write_bytes(content)
    checkpoint.verify(path)


def test_what_is_not_asked_for_is_not_read(tmp_path):
    path = checkpoint.save(tmp_path, 3, state())
    damage(path)
    optimizer = state()["optimizer"]
    assert_same_bits(checkpoint.load(path, optimizer, prefix="optimizer"), optimizer)
    with pytest.raises(CorruptCheckpointError):
        checkpoint.load(path, state()["params"])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_region_is_put_together_from_the_shards_of_any_other_cut(tmp_path_factory, data):
    """What a process of one mesh reads of what the processes of another have written."""
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 5)))
    whole = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    cuts = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    parts = [
        shards.Shard("x", (top, left), whole[top:bottom, left:right].copy())
        for top, bottom in itertools.pairwise(cuts[0])
        for left, right in itertools.pairwise(cuts[1])
    ]
    folder = tmp_path_factory.mktemp("cut")
    described = shards.write_shards(folder / FILE, parts)
    saved = [{"file": FILE, **shard} for shard in described["shards"]]
    regions = {
        tuple(tuple(sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))) for size in shape)
        for _ in range(3)
    }
    with shards.ShardReader(folder) as reader:
        blocks = checkpoint._read_regions(folder, reader, {"dtype": "float32", "path": "x", "shards": saved}, regions)
    for region, block in blocks.items():
        np.testing.assert_array_equal(block, whole[shards.within(region, (0, 0))])


def test_a_missing_file_is_found(tmp_path):
    path = checkpoint.save(tmp_path, 3, state())
    (path / FILE).unlink()
    for read in (checkpoint.verify, lambda path: checkpoint.load(path, state(), prefix="")):
        with pytest.raises(CorruptCheckpointError, match=f"{FILE}.*No such file"):
            read(path)


def test_a_file_that_was_cut_off_or_went_on_is_found(tmp_path):
    path = checkpoint.save(tmp_path, 3, state())
    content = (path / FILE).read_bytes()
    for wrong in (content[:-1], content + b"x", b""):
        (path / FILE).write_bytes(wrong)
        with pytest.raises(CorruptCheckpointError, match=f"has {len(wrong)} bytes, expected {len(content)}"):
            checkpoint.verify(path)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state(step), {"note": step})
    damage(tmp_path / "step-00000003")
    with pytest.warns(CorruptCheckpointWarning, match=r"step-00000003.*params\.scale.*of step 2 before it"):
        loaded = checkpoint.load_latest(tmp_path, state())
    assert (loaded.step, loaded.metadata) == (2, {"note": 2})
    assert loaded.rejected == (tmp_path / "step-00000003",)
    assert_same_bits(loaded.state, state(2))
    with pytest.warns(CorruptCheckpointWarning):
        assert checkpoint.latest(tmp_path) == tmp_path / "step-00000002"


def test_where_every_checkpoint_is_damaged_they_are_named_with_what_to_do(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state())
    damage(tmp_path / "step-00000001")
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    message = r"(?s)no checkpoint in .*step-00000002.*manifest\.json.*is missing.*step-00000001.*params\.scale.*"
    for read in (lambda: checkpoint.load_latest(tmp_path, state()), lambda: checkpoint.latest(tmp_path)):
        with pytest.raises(CorruptCheckpointError, match=message + "delete the folder .* to start anew"):
            read()


def test_a_damaged_checkpoint_put_aside_is_out_of_the_way_and_keeps_its_bytes(tmp_path):
    for _ in range(2):  # the second takes the place of the first
        path = checkpoint.save(tmp_path, 3, state())
        (path / "note").write_text("damaged")
        aside = set_aside(path)
        assert list_checkpoints(tmp_path) == [] and (aside / "note").read_text() == "damaged"
    assert [folder.name for folder in tmp_path.iterdir()] == ["corrupt-step-00000003"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None
    assert checkpoint.load_latest(tmp_path, state()) is None


def test_another_models_checkpoint_is_refused_with_the_names(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"params": {"wq": jnp.ones(2), "wk": jnp.ones(2)}})
    with pytest.raises(ValueError, match=r"lacks 'params\.wv' .* 'params\.wk'"):
        checkpoint.load(path, {"wq": jnp.ones(2), "wv": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"'params\.wk' has shape \(2,\) and dtype float32, expected \(3,\)"):
        checkpoint.load(path, {"wq": jnp.ones(2), "wk": jnp.ones(3)})


def test_a_checkpoint_of_a_later_format_is_refused_without_calling_it_corrupt(tmp_path):
    path = checkpoint.save(tmp_path, 1, state())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["version"] = 3
    del manifest["sha256"]
    manifest["sha256"] = checkpoint._manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="version 3.*reads.*version 2") as caught:
        checkpoint.verify(path)
    assert not isinstance(caught.value, CorruptCheckpointError)


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.save(tmp_path, 1, state(2))
    assert_same_bits(checkpoint.load(path, state(), prefix=""), state(2))
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="'a/b' has characters other than"):
        checkpoint.save(tmp_path, 1, {"a/b": jnp.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_os_error_with_the_path_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the full disk: the system refuses the write in the same place."""
    script = textwrap.dedent(
        """
        import errno, resource, sys
        import jax.numpy as jnp
        from marin.checkpoint import format as checkpoint
        large = {"x": jnp.zeros(10_000)}
        many = {f"x{i}": jnp.zeros(1) for i in range(100)}  # a long manifest
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
        for state in (large, many):
            try:
                checkpoint.save(sys.argv[1], 3, state)
            except OSError as error:
                assert error.errno == errno.EFBIG and error.filename == sys.argv[1] + "/step-00000003", repr(error)
            else:
                sys.exit("saved")
        """
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_at_any_moment_leaves_only_complete_checkpoints(tmp_path):
    script = textwrap.dedent(
        f"""
        import jax.numpy as jnp
        from marin.checkpoint import format as checkpoint
        step = 0
        while True:
            step += 1
            checkpoint.save({str(tmp_path)!r}, step % 3, {{f"a{{i}}": jnp.full((1000,), step) for i in range(20)}})
            print(step, flush=True)
        """
    )
    like = {f"a{i}": jnp.zeros((1000,), jnp.int32) for i in range(20)}
    for moment_s in (0.003, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        for _ in range(3):
            writer.stdout.readline()
        time.sleep(moment_s)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing that has its name is damaged
            found = list_checkpoints(tmp_path)
            assert found
            for folder in found:
                loaded = checkpoint.load(folder.path, like, prefix="")
                assert len({int(leaf[0]) for leaf in loaded.values()}) == 1
        remove_leftovers(tmp_path)
        assert all(path.name.startswith("step-") for path in tmp_path.iterdir())
