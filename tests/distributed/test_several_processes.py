"""Several real processes that train as one are one run: same losses, one folder, and they end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_sharded_training import ONE, assert_same_curves, job, numbers, run

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import list_checkpoints
from marin.config import dump_yaml, encode
from marin.distributed.config import MeshConfig, ProcessesConfig
from marin.evaluation.tasks import EvalTaskConfig
from marin.training.callback_config import (
    EarlyStoppingConfig,
    EvalsConfig,
    ExportHfConfig,
    MemorizationConfig,
    SamplesConfig,
    WatchConfig,
)
from marin.training.config import RuntimeConfig, TrainLmConfig
from marin.training.initialize_config import InitializeFrom
from marin.training.preemption import PREEMPTED_EXIT_CODE

LOST_AFTER_S = 10


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start(
    folder: Path,
    jobs: list[TrainLmConfig],
    *,
    num_processes: int,
    num_devices: int = 1,
    variables_of_last: Mapping[str, str] = MappingProxyType({}),
) -> list[subprocess.Popen]:
    """Processes with so many devices each, that train the jobs one after the other."""
    file = folder / f"jobs-{len(list(folder.glob('jobs-*')))}.json"
    file.write_text(json.dumps([encode(one) for one in jobs]))
    address = free_address()
    return [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("in_processes.py")), str(file)],
            env={
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
                "JAX_PLATFORMS": "cpu",
                "MARIN_COORDINATOR_ADDRESS": address,
                "MARIN_NUM_PROCESSES": str(num_processes),
                "MARIN_PROCESS_ID": str(rank),
                **(variables_of_last if rank == num_processes - 1 else {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]


def ends(processes: list[subprocess.Popen], timeout_s: float = 250) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each; all are killed when the time is over."""
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def losses_in(output: str) -> list[float]:
    return [float(line.removeprefix("loss ")) for line in output.splitlines() if line.startswith("loss ")]


def several(store: Path, name: str, mesh: MeshConfig = MeshConfig(), **trainer: Any) -> TrainLmConfig:  # noqa: B008
    runtime = {"processes": ProcessesConfig(lost_after_s=LOST_AFTER_S), **trainer.pop("runtime", {})}
    return job(store, name, mesh, runtime=RuntimeConfig(**runtime), **trainer)


@pytest.fixture(scope="module")
def runs(store):
    """One run of one process, and the same in two processes of two devices each."""
    assert run(store, [job(store, "one", ONE)], num_devices=1) == [None]
    jobs = [several(store, "two")]
    results = ends(start(store, jobs, num_processes=2, num_devices=2))
    for code, _, errors in results:
        assert code == 0, errors
    first, second = (losses_in(output) for _, output, _ in results)
    assert len(first) == len(jobs) and first == second, "all processes know the result"
    (store / "said.log").write_text(results[0][2])
    assert "devices of 2 processes" not in results[1][2], "the first process alone speaks"
    return store


@pytest.mark.slow
def test_losses_of_two_processes_are_those_of_one_device(runs):
    assert_same_curves(runs / "two", runs / "one")
    assert "4 devices of 2 processes: replica 1 x data 4 x model 1" in (runs / "said.log").read_text()


def test_each_process_writes_its_part_of_a_checkpoint(runs):
    folder = runs / "two" / "checkpoints" / "step-00000006"
    files = [folder / f"process-0000{process}.safetensors" for process in range(2)]
    assert sorted(folder.iterdir()) == [folder / "manifest.json", *files]
    sizes = [file.stat().st_size for file in files]
    assert 0.8 < sizes[1] / sizes[0] < 1.25, "FSDP spreads the state over both"
    checkpoint.verify(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("num_processes", "num_devices"), [(4, 1), (2, 2)])
def test_so_are_those_of_more_processes_and_other_meshes(runs, num_processes, num_devices):
    meshes = {
        "fsdp": MeshConfig(),
        "copies": MeshConfig(fsdp=False),
        "replicas": MeshConfig(replica=2),
        "tensor_parallel_across": MeshConfig(data=1, model=4),
    }
    jobs = [several(runs, f"{name}_{num_processes}", mesh, per_device_parallelism=1) for name, mesh in meshes.items()]
    for code, _, errors in ends(start(runs, jobs, num_processes=num_processes, num_devices=num_devices), timeout_s=500):
        assert code == 0, errors
    for one in jobs:
        assert_same_curves(Path(one.output_path), runs / "one")


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_in_one_and_back(runs):
    moved = runs / "moved"
    shutil.copytree(runs / "two", moved)
    shutil.rmtree(moved / "checkpoints" / "step-00000006")
    assert run(runs, [job(runs, "moved", ONE)], num_devices=1) == [None]
    assert_same_curves(moved, runs / "one")
    assert list((moved / "checkpoints" / "step-00000006").glob("process-*")) == [
        moved / "checkpoints" / "step-00000006" / "process-00000.safetensors"
    ]

    back = runs / "back"
    shutil.copytree(runs / "one", back)
    shutil.rmtree(back / "checkpoints" / "step-00000006")
    for code, _, errors in ends(start(runs, [several(runs, "back")], num_processes=2)):
        assert code == 0, errors
    assert_same_curves(back, runs / "one")


@pytest.mark.slow
def test_what_is_damaged_for_one_process_is_passed_over_by_all(runs):
    """The last byte of the second file is of an array that the first process does not read."""
    damaged = runs / "damaged"
    shutil.copytree(runs / "two", damaged)
    file = damaged / "checkpoints" / "step-00000006" / "process-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for code, _, errors in ends(start(runs, [several(runs, "damaged")], num_processes=2, num_devices=2)):
        assert code == 0, errors
        assert "step-00000006 is corrupt" in errors and "of step 3 before it" in errors
    assert (damaged / "checkpoints" / "corrupt-step-00000006").is_dir()
    for file in ("metrics.jsonl", "summary.json", "checkpoints/step-00000006/manifest.json"):
        assert (damaged / file).read_bytes() == (runs / "two" / file).read_bytes(), file


LONG = {"num_train_steps": 200, "steps_per_eval": None, "steps_per_checkpoint": 20, "runtime": {"show_progress": False}}


def saved_steps(run: Path) -> list[int]:
    return [folder.step for folder in list_checkpoints(run / "checkpoints")]


def wait_until(condition, processes, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the run does not get on"
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.002)


@pytest.fixture(scope="module")
def long_run(store) -> Path:
    for code, _, errors in ends(start(store, [several(store, "whole", **LONG)], num_processes=2)):
        assert code == 0, errors
    return store / "whole"


def assert_same_end(run: Path, other: Path) -> None:
    for file in ("metrics.jsonl", "summary.json", "checkpoints/step-00000200/manifest.json"):
        assert (run / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_end_soon_and_the_same_command_goes_on_to_the_same_bits(long_run, victim):
    name = f"killed_{victim}"
    jobs = [several(long_run.parent, name, **LONG)]
    processes = start(long_run.parent, jobs, num_processes=2)
    wait_until(lambda: saved_steps(long_run.parent / name), processes)
    processes[victim].kill()
    began = time.monotonic()
    results = ends(processes)
    assert time.monotonic() - began < 4 * LOST_AFTER_S
    assert results[1 - victim][0] not in (0, PREEMPTED_EXIT_CODE), "the other process ended with an error"
    assert not (long_run.parent / name / "summary.json").exists()
    for code, _, errors in ends(start(long_run.parent, jobs, num_processes=2)):
        assert code == 0, errors
    assert_same_end(long_run.parent / name, long_run)


@pytest.mark.slow
def test_asked_to_leave_one_process_takes_all_others_along_at_the_same_step(long_run):
    jobs = [several(long_run.parent, "asked", **{**LONG, "steps_per_checkpoint": 1000})]
    processes = start(long_run.parent, jobs, num_processes=2)
    metrics = long_run.parent / "asked" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 200, processes)
    processes[1].send_signal(signal.SIGTERM)
    results = ends(processes)
    assert [code for code, _, _ in results] == [PREEMPTED_EXIT_CODE] * 2, results
    (step,) = saved_steps(long_run.parent / "asked")
    assert 0 < step < 200
    for code, _, errors in ends(start(long_run.parent, jobs, num_processes=2)):
        assert code == 0, errors
    assert_same_end(long_run.parent / "asked", long_run)


@pytest.mark.slow
def test_what_time_has_saved_is_saved_by_all_at_the_same_step(long_run):
    runtime = {**LONG["runtime"], "seconds_per_checkpoint": 0.05}
    jobs = [several(long_run.parent, "timed", **{**LONG, "steps_per_checkpoint": 1000, "runtime": runtime})]
    processes = start(long_run.parent, jobs, num_processes=2)
    wait_until(lambda: saved_steps(long_run.parent / "timed"), processes)
    for process in processes:
        process.kill()
    ends(processes)
    (step,) = saved_steps(long_run.parent / "timed")
    assert 0 < step < 200
    checkpoint.verify(long_run.parent / "timed" / "checkpoints" / f"step-{step:08d}")


@pytest.mark.slow
def test_every_callback_gives_two_processes_what_it_gives_one(store):
    questions = store / "questions.jsonl"
    questions.write_text(json.dumps({"query": "one two", "choices": ["three four", "stone"], "gold": 0}) + "\n")
    callbacks = (
        WatchConfig(every=3),
        SamplesConfig(prompts=("the ", "a big"), every=3, max_new_tokens=5),
        MemorizationConfig(source="text", prefix_lengths=(0, 5), continuation_length=4, num_sequences=7),
        EvalsConfig(tasks=(EvalTaskConfig("toy", 0, file=str(questions)),)),
        ExportHfConfig(),
        EarlyStoppingConfig(metric="validation/held_out/loss", patience=50),
    )

    def with_callbacks(config: TrainLmConfig) -> TrainLmConfig:
        data = replace(config.data, tokenizer=str(store / "train-tokenizer"))
        return replace(config, data=data, callbacks=callbacks)

    assert run(store, [with_callbacks(job(store, "alone", ONE))], num_devices=1) == [None]
    for code, _, errors in ends(start(store, [with_callbacks(several(store, "together"))], num_processes=2)):
        assert code == 0, errors
    alone, together = store / "alone", store / "together"
    assert_same_curves(together, alone, num_rows=None)
    assert (together / "samples.jsonl").read_bytes() == (alone / "samples.jsonl").read_bytes()
    exports = [load_file(run / "hf" / "step-00000006" / "model.safetensors") for run in (together, alone)]
    for name, array in exports[0].items():
        np.testing.assert_allclose(array, exports[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_begin_with_another_runs_checkpoint(runs):
    config = several(runs, "initialized", num_train_steps=6)
    source = InitializeFrom(path=str(runs / "one" / "checkpoints" / "step-00000003"), content="state")
    config = replace(config, initialize_from=replace(source, reset_data_loader_on_init=False))
    for code, _, errors in ends(start(runs, [config], num_processes=2)):
        assert code == 0, errors
    expected = [row for row in numbers(runs / "one") if row["step"] > 3]
    for row, other in zip(numbers(runs / "initialized"), expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_a_process_that_cannot_write_its_part_ends_the_run_and_leaves_no_checkpoint(runs):
    full = {"LARGEST_FILE_BYTES": "20000"}
    began = time.monotonic()
    results = ends(start(runs, [several(runs, "full")], num_processes=2, num_devices=2, variables_of_last=full))
    assert time.monotonic() - began < 40 + 4 * LOST_AFTER_S
    assert all(code != 0 for code, _, _ in results)
    assert "File too large" in results[1][2] or "could not write its part" in results[0][2], results
    assert not list((runs / "full" / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_the_same_command_on_each_host_trains_and_the_first_one_reports(runs):
    (runs / "command.yaml").write_text(dump_yaml(job(runs, "command", MeshConfig())))
    place = "--trainer.runtime.processes"
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "marin.cli.main", "train", str(runs / "command.yaml")]
            + [f"{place}.coordinator", address, f"{place}.num_processes", "2", f"{place}.process_id", str(rank)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    (first, said, errors), (second, nothing, _) = ends(processes)
    assert (first, second) == (0, 0), errors
    assert "6 updates, loss" in said and "updates" not in nothing
    assert_same_curves(runs / "command", runs / "one")
