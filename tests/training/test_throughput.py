"""Throughput is over an interval in which the steps it counts were computed."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.tracking.jsonl import JsonlTracker, read_rows
from marin.training.callbacks import LogMetrics, StepDone
from marin.training.train_step import METRICS

STEP_S = 0.03


def slow_on_the_host() -> jax.Array:
    """Small programs are computed before the call returns: the numbers are there at once."""
    time.sleep(STEP_S)
    return jax.block_until_ready(jnp.ones(len(METRICS)))


def _wait() -> np.ndarray:
    time.sleep(STEP_S)
    return np.ones((), np.float32)


@jax.jit
def slow_on_the_device() -> jax.Array:
    """The call returns at once, and the numbers come later."""
    return jnp.ones(len(METRICS)) * jax.pure_callback(_wait, jax.ShapeDtypeStruct((), jnp.float32))


@pytest.mark.parametrize("slow_step", [slow_on_the_host, slow_on_the_device])
@pytest.mark.parametrize("steps_per_log", [1, 2])
def test_no_row_is_faster_than_its_steps(tmp_path: Path, slow_step, steps_per_log: int):
    jax.block_until_ready(slow_step())
    log = LogMetrics(
        metrics=JsonlTracker(tmp_path / "metrics.jsonl"),
        timing=JsonlTracker(tmp_path / "timing.jsonl"),
        num_tokens=lambda steps: 64 * steps,
        steps_per_log=steps_per_log,
        flops_per_token=1.0,
        peak_flops_per_second=None,
        loader_stall_s=lambda: 0.0,
        newest_checkpoint=lambda: None,
    )
    pauses = (2, 4, 5, 8)  # two, one, three and two steps between validations
    for step in range(1, 11):
        log(StepDone(step=step, is_last=step == 10, state=None, metrics=slow_step(), learning_rate=0.1))
        if step in pauses:
            with log.paused():
                time.sleep(3 * STEP_S)
    log.drain()
    rows = read_rows(tmp_path / "timing.jsonl")
    assert [row["step"] for row in rows] == list(range(steps_per_log, 11, steps_per_log))
    measured = [row for row in rows if row["step"] > 2]
    assert all(row["step_seconds"] > 0.9 * STEP_S for row in measured), rows
    assert all(row["tokens_per_second"] == pytest.approx(64 / row["step_seconds"]) for row in measured)
