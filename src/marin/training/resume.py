"""Whether a run may go on with what lies in its folder: the same config, the same tokens, in the same order.

All is checked before anything is written. Where things lie and how they run (paths, mesh, trackers) may change between
the kill and the next start; that the stores behind the paths are the same is known by their hashes.
"""

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import list_checkpoints, set_aside
from marin.config import encode, load_yaml
from marin.data.lm_data import DATA_FILE, LmData
from marin.data.store import LEDGER
from marin.distributed.config import MeshConfig
from marin.tracking.jsonl import end_of_step
from marin.training.config import RuntimeConfig, TrainLmConfig
from marin.training.export_hf import exports_in


def find_checkpoint(checkpoints: Path, shapes: Any, data: LmData, stores: dict[str, str]) -> checkpoint.Loaded | None:
    """The checkpoint to go on from, if it is of this very run; None where there is none. Writes nothing."""
    if not list_checkpoints(checkpoints):
        return None
    output = checkpoints.parent
    found = checkpoint.load_latest(checkpoints, shapes)
    assert found is not None, "there are checkpoints"
    _check_same_data(found, stores)
    _check_same_order(output / DATA_FILE, data)
    _check_same_rows(found, output / "metrics.jsonl")
    return found


def check_same_config(config: TrainLmConfig, output: Path) -> None:
    """That what a run has left in the output folder, if it got as far as to leave anything, is of this config."""
    path = output / "config.yaml"
    left = list_checkpoints(output / "checkpoints") or (output / "summary.json").exists() or exports_in(output)
    if path.exists() and left:
        changes = _differences(encode(identity(load_yaml(TrainLmConfig, path))), encode(identity(config)))
        if changes:
            raise ValueError(
                f"{output} holds a run of another config: {'; '.join(changes[:5])}. "
                "Give this run another output_path, or delete that folder to train anew."
            )


def put_aside(found: checkpoint.Loaded) -> None:
    """Damaged later checkpoints would count as the newest, and win over those that this run saves now."""
    for rejected in found.rejected:
        warnings.warn(
            f"checkpoint {rejected} is corrupt and was renamed to {set_aside(rejected).name}; training goes on from "
            f"step {found.step}. Delete the renamed folder when you need it no more.",
            checkpoint.CorruptCheckpointWarning,
            stacklevel=3,
        )


def store_digests(data: LmData) -> dict[str, str]:
    """What each store is for -> sha256 of its ledger, which holds the hash of each of its files."""
    sources = zip(data.train.names, data.train.sources, strict=True)
    rows = {f"training source '{name}'": source for name, source in sources}
    rows |= {f"validation set '{name}'": dataset for name, dataset in data.validation.items()}
    return {
        label: hashlib.sha256((Path(dataset.store.path) / LEDGER).read_bytes()).hexdigest()
        for label, dataset in rows.items()
    }


def identity(config: TrainLmConfig) -> TrainLmConfig:
    """The config without where things lie and how they run. That the stores are the same is checked by their bytes."""
    paths = {"train": dict.fromkeys(config.data.train, ""), "validation": dict.fromkeys(config.data.validation, "")}
    data = replace(config.data, verify_stores=True, tokenizer=None, **paths)
    trainer = replace(config.trainer, runtime=RuntimeConfig(), mesh=MeshConfig())
    parts: dict[str, Any] = {"data": data, "trainer": trainer}
    for name in ("initialize_from", "initialize_from_hf"):
        if getattr(config, name) is not None:
            parts[name] = replace(getattr(config, name), path="")
    return replace(config, output_path="", trackers=(), origins={}, **parts)


def _check_same_order(path: Path, data: LmData) -> None:
    """That config and stores are the same is checked elsewhere; here, that this program makes the same of them."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    changes = [] if before is None else _differences(before, data.describe())
    if changes:
        raise ValueError(
            f"{path.parent} holds a run that saw its rows in another order: {'; '.join(changes[:5])}. Go on with the "
            "version of marin that began it, or delete the output folder to train anew."
        )


def _check_same_data(found: checkpoint.Loaded, now: dict[str, str]) -> None:
    before = found.metadata["token_stores"]
    for label in {**before, **now}:
        old, new = before.get(label, "none"), now.get(label, "none")
        if old != new:
            raise ValueError(
                f"checkpoint {found.path} is of a run on other tokens: the store of {label} has changed since (sha256 "
                f"of its ledger was {old[:12]}, is {new[:12]}). Restore that store, or delete the output folder to "
                "train anew."
            )


def _check_same_rows(found: checkpoint.Loaded, path: Path) -> None:
    before, num_bytes = found.metadata["metrics_bytes"], end_of_step(path, found.step)
    if num_bytes != before:
        raise ValueError(
            f"{path} has {num_bytes} bytes of rows up to step {found.step}, but had {before} when checkpoint "
            f"{found.path} was saved. Restore the file, or delete the output folder to train anew."
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`optimizer.learning_rate was 0.001, is 0.002` for each leaf of two encoded configs that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in {**old, **new}
            for change in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path} was {old!r}, is {new!r}"]
