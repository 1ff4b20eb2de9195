"""Training on a mesh of eight simulated devices is training on one, but for the order in which sums are made."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marin.config import encode
from marin.data.config import LmDataConfig
from marin.distributed.config import MeshConfig
from marin.models.config import LmConfig
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.models.lora_config import LoraConfig
from marin.models.mixtral import MixtralConfig
from marin.optim.adamw import AdamWConfig
from marin.optim.muon import MuonConfig
from marin.tracking.jsonl import read_rows
from marin.training.config import RuntimeConfig, TrainerConfig, TrainLmConfig
from marin.training.initialize_config import InitializeFrom

SHAPE: dict[str, Any] = {"seq_len": 32, "hidden_dim": 32, "num_heads": 4, "num_layers": 2}
LLAMA = LlamaConfig(**SHAPE, intermediate_dim=48, num_kv_heads=2)
MIXTRAL = MixtralConfig(**SHAPE, intermediate_dim=48, num_kv_heads=2, num_experts=4, experts_per_token=2)
GPT2 = Gpt2Config(**SHAPE)
ONE = MeshConfig(data=1)
MESHES = {
    "fsdp": MeshConfig(),
    "tensor_parallel": MeshConfig(model=2),
    "replicas": MeshConfig(replica=2, data=2, model=2),
}


def job(store: Path, name: str, mesh: MeshConfig, model: LmConfig = LLAMA, **trainer: Any) -> TrainLmConfig:
    optimizer = trainer.pop("optimizer", AdamWConfig(learning_rate=1e-2, warmup=2))
    return TrainLmConfig(
        data=LmDataConfig(
            train={"text": str(store / "train")},
            validation={"held_out": str(store / "validation")},
            packing="best_fit",
        ),
        model=model,
        optimizer=optimizer,
        trainer=TrainerConfig(
            **{
                "num_train_steps": 6,
                "train_batch_size": 8,
                "seed": 0,
                "z_loss_weight": 1e-4,
                "steps_per_eval": 3,
                "eval_batch_size": 6,
                "steps_per_checkpoint": 3,
                "mesh": mesh,
                "runtime": RuntimeConfig(keep_program=False),
                **trainer,
            }
        ),
        output_path=str(store / name),
    )


def run(folder: Path, jobs: list[TrainLmConfig], *, num_devices: int = 8) -> list[str | None]:
    """Train each job in one process; the errors."""
    file = folder / f"jobs-{len(list(folder.glob('jobs-*')))}.json"
    file.write_text(json.dumps([encode(one) for one in jobs]))
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("on_devices.py")), str(file)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    file.with_suffix(".log").write_text(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def both(store: Path, name: str, **options: Any) -> list[TrainLmConfig]:
    """A run on one device, and the same on all of them."""
    meshes = {"one": ONE, "mesh": MESHES["replicas"]}
    return [job(store, f"{name}_{which}", mesh, **options) for which, mesh in meshes.items()]


@pytest.fixture(scope="module")
def runs(store) -> Path:
    """What most tests of this file compare with, in one process."""
    jobs = [job(store, "one", ONE), *(job(store, name, MESHES[name]) for name in ("fsdp", "replicas"))]
    assert run(store, jobs) == [None] * len(jobs)
    return store


def numbers(run: Path) -> list[dict[str, float]]:
    return [dict(row) for row in read_rows(run / "metrics.jsonl")]


def assert_same_curves(run: Path, other: Path, *, tolerance: float = 1e-5, num_rows: int | None = 8) -> None:
    """By default of six updates and two validations."""
    first, second = numbers(run), numbers(other)
    assert len(first) == len(second) == (num_rows or len(first))
    for row, expected in zip(first, second, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance), (run.name, row["step"])


@pytest.mark.parametrize("name", ["fsdp", "replicas"])
def test_losses_on_a_mesh_are_those_of_one_device(runs, name):
    assert_same_curves(runs / name, runs / "one")


def test_a_run_says_over_which_devices_it_is_spread_and_how_much_each_holds(runs):
    said = [line for line in (runs / "jobs-0.log").read_text().splitlines() if " devices: " in line]
    sizes = [float(line.split(", ")[1].split()[0]) for line in said]
    one = 3 * LLAMA.num_params(259) * 4 / 2**20  # parameters and two moments
    assert "8 devices: replica 1 x data 8 x model 1, " in said[0] and sizes[0] == pytest.approx(one / 8, abs=0.06)
    assert "8 devices: replica 2 x data 2 x model 2, " in said[1] and sizes[1] < one / 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_are_those_of_other_models_optimizers_and_ways_to_use_the_mesh(runs):
    copies = job(runs, "copies", MeshConfig(fsdp=False), remat="attention")
    tensor_parallel = job(runs, "tensor_parallel", MESHES["tensor_parallel"])
    microbatches = job(runs, "microbatches", MeshConfig(data=2), per_device_parallelism=1)
    pairs = [
        *both(runs, "gpt2", model=GPT2),
        *both(runs, "muon", optimizer=MuonConfig(learning_rate=1e-2), ema_beta=0.9),
        *both(runs, "mixtral", model=MIXTRAL),  # whose balance is of the whole batch
    ]
    assert run(runs, [copies, tensor_parallel, microbatches, *pairs]) == [None] * 9
    for name in ("copies", "tensor_parallel", "microbatches"):
        assert_same_curves(runs / name, runs / "one")
    for name in ("gpt2", "muon", "mixtral"):
        assert_same_curves(runs / f"{name}_mesh", runs / f"{name}_one")


def test_a_run_goes_on_from_its_checkpoint_on_another_mesh(runs):
    moved = runs / "moved"
    shutil.copytree(runs / "fsdp", moved)
    shutil.rmtree(moved / "checkpoints" / "step-00000006")
    jobs = [job(runs, "moved", MESHES["replicas"])]
    assert run(runs, jobs) == [None]
    assert_same_curves(moved, runs / "one")
    shutil.rmtree(moved / "checkpoints" / "step-00000006")
    assert run(runs, [replace(jobs[0], trainer=replace(jobs[0].trainer, mesh=MeshConfig()))], num_devices=1) == [None]
    assert_same_curves(moved, runs / "one")


@pytest.mark.slow
def test_a_run_begins_with_a_checkpoint_from_another_mesh(runs):
    given = InitializeFrom(
        path=str(runs / "fsdp/checkpoints/step-00000003"), content="state", reset_data_loader_on_init=False
    )
    begun = replace(job(runs, "begun", MESHES["replicas"]), initialize_from=given)
    with_average = replace(given, allow_partial=True)
    averaged = replace(job(runs, "averaged", MeshConfig(), ema_beta=0.9), initialize_from=with_average)
    assert run(runs, [begun, averaged]) == [None, None]
    whole = {row["step"]: row for row in numbers(runs / "one") if "train/loss" in row}
    for name in ("begun", "averaged"):
        rows = [row for row in numbers(runs / name) if "train/loss" in row]
        assert [row["step"] for row in rows] == [4, 5, 6]
        for row in rows:
            assert row == pytest.approx(whole[row["step"]], rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_an_adapter_is_trained_on_a_mesh_as_on_one_device(runs):
    given = InitializeFrom(path=str(runs / "fsdp"), content="weights")
    jobs = [replace(one, initialize_from=given, lora=LoraConfig(r=4, alpha=8.0)) for one in both(runs, "lora")]
    assert run(runs, jobs) == [None, None]
    assert_same_curves(runs / "lora_mesh", runs / "lora_one")


def test_on_the_same_mesh_a_run_that_lost_its_last_checkpoint_ends_with_the_same_bits(runs):
    whole, again = runs / "replicas", runs / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-00000006")
    assert run(runs, [job(runs, "again", MESHES["replicas"])]) == [None]
    for file in ("metrics.jsonl", "summary.json", "checkpoints/step-00000006/manifest.json"):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file


def test_what_the_devices_cannot_share_is_refused_with_the_arithmetic(store):
    errors = run(
        store,
        [
            job(store, "a", MeshConfig(), train_batch_size=10),
            job(store, "b", MeshConfig(data=4), train_batch_size=12, per_device_parallelism=2),
            job(store, "c", MeshConfig(replica=3)),
            job(store, "d", MeshConfig(data=8, model=2)),
            job(store, "e", MeshConfig(model=8), LlamaConfig(**SHAPE, intermediate_dim=44, num_kv_heads=2)),
        ],
    )
    assert [str(error) for error in errors] == [
        "train_batch_size 10 is not a multiple of the 8 devices that share it: 1 * 8 = 8 leaves 2 rows. "
        "Nearest batch sizes: 8 and 16.",
        "train_batch_size 12 is not a multiple of per_device_parallelism 2 x 4 devices = 8: 1 * 8 = 8 leaves 4 rows. "
        "Nearest batch sizes: 8 and 16.",
        "mesh: replica 3 x model 1 = 3 does not divide the 8 devices here: 2 * 3 = 6. Choose replica and model so that "
        "it does.",
        "mesh: replica 1 x data 8 x model 2 needs 16 devices, but there are 8. Make the mesh smaller, or leave data "
        "out to take what there is.",
        "mesh.model is 8, which divides neither heads, MLP width nor vocabulary of this model. Choose one that does.",
    ]
    assert not any((store / name).exists() for name in "abcde"), "nothing was written"
