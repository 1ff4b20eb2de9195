"""The law: killed at any moment and started again, a run ends with the same bits as one that was left alone."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_train_lm import damage, final_bits

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import WRITING, list_checkpoints
from marin.checkpoint.policy import KeepPolicy
from marin.config import dump_yaml
from marin.data.batch_schedule import ScheduleStep
from marin.data.config import LmDataConfig, MixtureStage
from marin.data.units import Sequences, Steps
from marin.training.config import RuntimeConfig
from marin.training.preemption import PREEMPTED_EXIT_CODE
from marin.training.train_lm import train_lm

RUN = (
    "import sys; from marin.config import load_yaml; from marin.training.config import TrainLmConfig; "
    "from marin.training.train_lm import train_lm; train_lm(load_yaml(TrainLmConfig, sys.argv[1]))"
)


def start(config, tmp_path, before=""):
    path = tmp_path / "given.yaml"
    path.write_text(dump_yaml(config))
    return subprocess.Popen([sys.executable, "-c", before + RUN, str(path)], stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, timeout_s=120):
    """Poll until `condition()`; False if the process ended first."""
    end = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.0005)
    return True


def num_bytes(path):
    return path.stat().st_size if path.exists() else 0


def is_saving(output):
    """Whether a thread of the run writes a checkpoint now, while the run goes on."""
    folder = output / "checkpoints"
    return folder.is_dir() and any(path.name.startswith(WRITING) for path in folder.iterdir())


def kill_again_and_again(config, tmp_path, num_kills, seed):
    """Start, kill, start, ...; then let it finish. How many kills hit, and how many of them a save."""
    rng = random.Random(seed)
    output = Path(config.output_path)
    hits = during_save = 0
    for number in range(num_kills):
        process = start(config, tmp_path)
        size = num_bytes(output / "metrics.jsonl")
        if number % 2:  # in the middle of a save
            moment = lambda: is_saving(output)  # noqa: E731
            delay_s = rng.choice([0, 0.001, 0.004])
        else:  # some rows after it got going, or even before
            growth = rng.randint(0, 500)
            moment = lambda: num_bytes(output / "metrics.jsonl") > size + growth  # noqa: B023, E731
            delay_s = rng.random() * 0.02
        alive = wait_for(moment, process)
        time.sleep(delay_s)
        during_save += is_saving(output)
        process.kill()
        process.communicate()
        hits += alive
    process = start(config, tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return hits, during_save


def check_kills(tiny_config, tmp_path, num_kills, num_train_steps, **changes):
    shape = {"num_train_steps": num_train_steps, "steps_per_checkpoint": 2, "steps_per_eval": 3, **changes}
    quiet, disturbed = tiny_config("quiet", **shape), tiny_config("disturbed", **shape)
    train_lm(quiet)
    hits, during_save = kill_again_and_again(disturbed, tmp_path, num_kills, seed=num_kills)
    assert hits > num_kills / 2 and during_save > 0
    assert final_bits(disturbed.output_path) == final_bits(quiet.output_path)


def test_six_kills_some_of_them_during_a_save_change_no_bit(tiny_config, tmp_path):
    check_kills(tiny_config, tmp_path, num_kills=6, num_train_steps=60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_change_no_bit_of_a_run_whose_mixture_and_batch_change_and_that_averages(
    tiny_config, tmp_path, stores
):
    data = LmDataConfig(
        train={"text": str(stores / "train"), "more": str(stores / "other")},
        validation={"held_out": str(stores / "validation")},
        weights=(
            MixtureStage(start=0, weights={"text": 3.0, "more": 1.0}),
            MixtureStage(start=Steps(90), weights={"text": 1.0, "more": 3.0}),
            MixtureStage(start=Sequences(1001), weights={"text": 0.5, "more": 0.5}),
        ),
        mixture_block_size=16,
        packing="best_fit",
    )
    sizes = (ScheduleStep(0, 4), ScheduleStep(120, 8), ScheduleStep(240, 2))
    changes = {"data": data, "train_batch_size": sizes, "ema_beta": 0.9}
    check_kills(tiny_config, tmp_path, num_kills=60, num_train_steps=300, **changes)


def test_asked_to_leave_a_run_saves_says_so_by_its_exit_code_and_goes_on_later(tiny_config, tmp_path):
    quiet = tiny_config("quiet", num_train_steps=300, steps_per_checkpoint=1000, steps_per_eval=None)
    asked = replace(quiet, output_path=str(tmp_path / "asked"))
    process = start(asked, tmp_path)
    metrics = Path(asked.output_path) / "metrics.jsonl"
    assert wait_for(lambda: num_bytes(metrics) > 200, process)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == PREEMPTED_EXIT_CODE, errors
    (saved,) = list_checkpoints(Path(asked.output_path) / "checkpoints")
    assert 0 < saved.step < 300
    train_lm(quiet)
    train_lm(asked)
    assert final_bits(asked.output_path) == final_bits(quiet.output_path)


def test_asked_to_leave_while_a_checkpoint_is_being_written_a_run_completes_it_and_saves_the_next(
    tiny_config, tmp_path
):
    shape = {"num_train_steps": 300, "steps_per_checkpoint": 3, "steps_per_eval": None}
    quiet, asked = tiny_config("quiet", **shape), tiny_config("asked", **shape)
    process = start(asked, tmp_path)
    output = Path(asked.output_path)
    assert wait_for(lambda: is_saving(output), process)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == PREEMPTED_EXIT_CODE, errors
    assert not is_saving(output)
    saved = list_checkpoints(output / "checkpoints")
    assert saved and saved[-1].step < 300
    for folder in saved:
        checkpoint.verify(folder.path)
    train_lm(quiet)
    train_lm(asked)
    assert final_bits(asked.output_path) == final_bits(quiet.output_path)


@pytest.mark.slow
def test_what_time_has_saved_is_not_lost_and_leaves_no_trace(tiny_config, tmp_path):
    shape = {"num_train_steps": 3000, "steps_per_checkpoint": 1400, "steps_per_eval": None}
    quiet = tiny_config("quiet", **shape, runtime=RuntimeConfig(show_progress=False, seconds_per_checkpoint=None))
    timed = tiny_config("timed", **shape, runtime=RuntimeConfig(show_progress=False, seconds_per_checkpoint=0.05))

    def saved(config):
        return [folder.step for folder in list_checkpoints(Path(config.output_path) / "checkpoints")]

    train_lm(quiet)
    process = start(timed, tmp_path)
    assert wait_for(lambda: saved(timed), process)
    process.kill()
    process.communicate()
    (step,) = saved(timed)
    assert 1 < step < 1400
    train_lm(timed)
    assert final_bits(timed.output_path) == final_bits(quiet.output_path)
    assert saved(timed) == saved(quiet) == [2800, 3000]


SCRIPT = """
import sys
from marin.cluster.resources import ResourceConfig
from marin.execution.executor import executor_main
from marin.models.llama import LlamaConfig
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

model = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
config = SimpleTrainConfig(
    resources=RESOURCES,
    train_batch_size=4, num_train_steps=100_000, learning_rate=1e-2, warmup=3, steps_per_checkpoint=50_000,
)
if __name__ == "__main__":
    executor_main(steps=[default_train("tiny", STORE, model, config)])
"""


@pytest.mark.parametrize(
    ("resources", "number"),
    [("ResourceConfig.with_cpu()", signal.SIGINT)]
    + [pytest.param("ResourceConfig.with_cpu()", signal.SIGTERM, marks=pytest.mark.slow)]
    + [("None", signal.SIGTERM)],  # in the process of the run, where the signal comes to training itself
)
def test_a_stopped_step_of_a_run_saves_and_says_so_in_one_line(stores, tmp_path, resources, number):
    script = SCRIPT.replace("RESOURCES", resources).replace("STORE", repr(str(stores / "train")))
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "script.py", "--prefix", "store"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert wait_for(lambda: any(num_bytes(p) > 2000 for p in tmp_path.glob("store/*/*/metrics.jsonl")), process)
    os.kill(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "✗ checkpoints/tiny  cancelled after" in errors
    (log,) = tmp_path.glob("store/*/*/.exec/logs/*/stdout.log")
    assert re.search(r"asked to leave at step [\d,]+ of 100,?000; saved, and ready to resume", log.read_text())
    assert "Traceback" not in log.read_text()
    (saved,) = tmp_path.glob("store/*/*/checkpoints/step-*")
    assert saved.is_dir()


def test_with_later_checkpoints_damaged_a_run_gets_on_and_what_it_saves_stays(tiny_config, tmp_path):
    shape = {"num_train_steps": 900, "steps_per_checkpoint": 300, "steps_per_eval": None}
    whole, damaged = tiny_config("whole", **shape), tiny_config("damaged", **shape)
    damaged = replace(damaged, trainer=replace(damaged.trainer, keep_checkpoints=KeepPolicy(keep_last=3)))
    train_lm(whole)
    train_lm(damaged)
    checkpoints = Path(damaged.output_path) / "checkpoints"
    for step in (600, 900):
        damage(damaged.output_path, step)
    process = start(damaged, tmp_path)
    aside = [checkpoints / "corrupt-step-00000600", checkpoints / "corrupt-step-00000900"]
    metrics = Path(damaged.output_path) / "metrics.jsonl"
    rows = metrics.read_bytes()
    assert wait_for(lambda: all(path.exists() for path in aside), process)
    assert wait_for(lambda: rows.index(b'{"step": 302,') < num_bytes(metrics) < len(rows), process)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == PREEMPTED_EXIT_CODE, errors
    assert "step-00000900 is corrupt and was renamed to corrupt-step-00000900" in errors
    kept = [folder.step for folder in list_checkpoints(checkpoints)]
    assert kept[0] == 300 and 300 < kept[-1] < 900
    train_lm(damaged)
    assert final_bits(damaged.output_path) == final_bits(whole.output_path)


def test_asked_to_leave_during_validation_a_run_saves_when_that_is_done(tiny_config, tmp_path, stores):
    shape = {"num_train_steps": 8, "steps_per_checkpoint": 1000, "steps_per_eval": 5}
    shape |= {"max_eval_batches": None, "eval_batch_size": 1, "validation": {"long": str(stores / "train")}}
    quiet, asked = tiny_config("quiet", **shape), tiny_config("asked", **shape)
    process = start(asked, tmp_path)
    metrics = Path(asked.output_path) / "metrics.jsonl"
    # the row of step 5 is written before its validation begins
    assert wait_for(lambda: metrics.exists() and b'{"step": 5, ' in metrics.read_bytes(), process)
    os.kill(process.pid, signal.SIGTERM)
    assert b"validation" not in metrics.read_bytes()
    _, errors = process.communicate()
    assert process.returncode == PREEMPTED_EXIT_CODE, errors
    assert [folder.step for folder in list_checkpoints(Path(asked.output_path) / "checkpoints")] == [5]
    train_lm(quiet)
    train_lm(asked)
    assert final_bits(asked.output_path) == final_bits(quiet.output_path)


SLOW_TO_SAVE = (
    "import time; from marin.checkpoint import format; publish = format._Write._publish; "
    "format._Write._publish = lambda self: (time.sleep(2), publish(self)); "
)


def test_asked_to_leave_while_the_last_checkpoint_is_being_written_a_run_completes_it(tiny_config, tmp_path):
    config = tiny_config("asked", num_train_steps=6, steps_per_checkpoint=1000, steps_per_eval=None)
    process = start(config, tmp_path, before=SLOW_TO_SAVE)
    output = Path(config.output_path)
    assert wait_for(lambda: is_saving(output), process)
    time.sleep(0.5)  # the loop is over, and the run waits for its last checkpoint
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert [folder.step for folder in list_checkpoints(output / "checkpoints")] == [6]
    assert (output / "summary.json").exists()


@pytest.mark.slow
def test_a_program_from_the_cache_gives_the_bits_of_one_just_compiled(tiny_config, tmp_path):
    cache = tmp_path / "cache"
    runs = []
    for output, folder in (("fills", str(cache)), ("finds", str(cache)), ("without", "off")):
        config = tiny_config(output, num_train_steps=3)
        runtime = replace(config.trainer.runtime, compilation_cache=folder)
        runs.append(replace(config, trainer=replace(config.trainer, runtime=runtime)))
    for config in runs:
        process = start(config, tmp_path)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert any(cache.iterdir())
    assert final_bits(runs[0].output_path) == final_bits(runs[1].output_path) == final_bits(runs[2].output_path)
