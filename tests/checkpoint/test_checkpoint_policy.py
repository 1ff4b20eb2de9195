"""Which checkpoints are kept."""

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.checkpoint.discover import checkpoint_name, list_checkpoints, remove_leftovers
from marin.checkpoint.format import save
from marin.checkpoint.policy import KeepPolicy, apply_policy


def test_the_newest_and_every_nth_stay(tmp_path):
    for step in range(10, 80, 10):
        save(tmp_path, step, {"x": jnp.ones(1)})
    assert apply_policy(tmp_path, KeepPolicy(keep_last=2, keep_every=30), saved=70) == [10, 20, 40, 50]
    assert [folder.step for folder in list_checkpoints(tmp_path)] == [30, 60, 70]


def test_the_checkpoint_just_saved_stays_whatever_else_is_there(tmp_path):
    for step in (30, 40, 50, 20):
        save(tmp_path, step, {"x": jnp.ones(1)})
    assert apply_policy(tmp_path, KeepPolicy(keep_last=1), saved=20) == [30, 40]
    assert [folder.step for folder in list_checkpoints(tmp_path)] == [20, 50]


def test_of_those_between_the_regular_ones_only_the_newest_stays_until_a_newer_one_comes(tmp_path):
    policy, left = KeepPolicy(keep_last=2, keep_every=30), []
    for step in (7, 10, 15, 20, 30, 33, 36, 40, 50, 60):
        save(tmp_path, step, {"x": jnp.ones(1)})
        apply_policy(tmp_path, policy, saved=step, is_regular=lambda step: step % 10 == 0)
        left.append([folder.step for folder in list_checkpoints(tmp_path)])
    assert left[:4] == [[7], [10], [10, 15], [10, 20]]
    assert left[4:7] == [[20, 30], [20, 30, 33], [20, 30, 36]]
    assert left[7:] == [[30, 40], [30, 40, 50], [30, 50, 60]]


@given(steps=st.sets(st.integers(1, 500)), keep_last=st.integers(1, 5), keep_every=st.none() | st.integers(1, 50))
def test_removing_again_removes_nothing_and_the_newest_always_stay(steps, keep_last, keep_every):
    policy = KeepPolicy(keep_last=keep_last, keep_every=keep_every)
    kept = steps - set(policy.removable(steps))
    assert kept >= set(sorted(steps)[-keep_last:])
    assert policy.removable(kept) == []
    if keep_every is not None:
        assert kept >= {step for step in steps if step % keep_every == 0}


def test_a_policy_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="keep_last must be 1 or more"):
        KeepPolicy(keep_last=0)
    with pytest.raises(ValueError, match="keep_every counts steps"):
        KeepPolicy(keep_every=0)


def test_what_a_killed_writer_left_is_neither_listed_nor_kept(tmp_path):
    save(tmp_path, 4, {"x": jnp.ones(1)})
    (tmp_path / ".writing-step-00000005-ab").mkdir()
    (tmp_path / "step-6").mkdir()
    assert [folder.step for folder in list_checkpoints(tmp_path)] == [4]
    assert remove_leftovers(tmp_path) == [".writing-step-00000005-ab"]
    assert remove_leftovers(tmp_path / "nowhere") == []


def test_a_negative_step_has_no_name():
    assert checkpoint_name(123456789) == "step-123456789"
    with pytest.raises(ValueError, match="0 or more"):
        checkpoint_name(-1)
