"""Train a language model: token stores in, checkpoints and metrics out.

The output folder is all a run leaves, and all it needs to go on after being killed:

    config.yaml      the resolved TrainLmConfig, with the origin of each value as a comment
    schedules.svg    learning rate, batch size and mixture by step, drawn before the first
    train_step.bN.stablehlo.gz   the lowered step for batches of N rows
    model.json       model config, vocabulary size, tokenizer digest, and the token before each document
                     (document_prefix): what export and evaluation need
    data.json        what decides which row comes when: stores by checksum, counts of the mixture's blocks, seed
    checkpoints/     step-00000500/, ...: see marin.checkpoint.format
    metrics.jsonl    numbers that each repetition of the run gives again, bit for bit
    timing.jsonl     what the clock said: step time, tokens a second, loader stall, memory
    summary.json     last step, loss, validation and checkpoint; written when all is done
    and what the callbacks and trackers of the config write: samples.jsonl, histograms.jsonl, hf/, tensorboard/, ...

The law: kill the process at any moment, run the same config again, and parameters, optimizer state, metrics.jsonl and
summary.json end up with the same bits as without the kill (same machine, same number of cores, same jaxlib).
"""

import hashlib
import json
import re
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import checkpoint_name, list_checkpoints, remove_leftovers, set_aside
from marin.config import encode, load_yaml
from marin.data.at_step import name_documents, rows_at_update
from marin.data.lm_data import DATA_FILE, LmData, open_data
from marin.data.loader import DataLoader
from marin.data.mixture_report import mixture_report, report_lines
from marin.data.store import LEDGER
from marin.distributed.compilation_cache import use_compilation_cache
from marin.distributed.config import MeshConfig
from marin.distributed.mesh import (
    bytes_per_device,
    make_mesh,
    num_batch_shards,
    state_shardings,
    use_mesh,
    with_shardings,
)
from marin.io.atomic import write_text
from marin.models.config import LmConfig
from marin.optim.mup import mup_scales
from marin.tracking.config import MAX_WANDB_NAME, TrackedRun
from marin.tracking.console import ConsoleTracker
from marin.tracking.expendable import check_installed, open_trackers
from marin.tracking.jsonl import JsonlTracker, end_of_step, read_rows
from marin.tracking.progress import ProgressTracker
from marin.training.callback_config import WatchConfig
from marin.training.callbacks import LogMetrics, SaveCheckpoint, Validate, check_set_names, device_batch
from marin.training.config import RuntimeConfig, TrainLmConfig
from marin.training.flops import peak_flops_per_second
from marin.training.preview import SCHEDULES_FILE, Preview
from marin.training.profile import Profile
from marin.training.program import write_programs
from marin.training.run import Run
from marin.training.state import TrainState, init_state, state_shapes
from marin.training.train_step import METRICS, SKIPPED, CompiledStep, make_train_step
from marin.training.trainer import train

_NAMED_DOCUMENTS = 8  # in the error about a loss that is no number


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run reports; also in summary.json."""

    final_step: int
    """Updates done."""
    final_loss: float
    """Loss of the last logged step, in nats a token."""
    final_validation: dict[str, dict[str, float | int]]
    """Validation set -> {"loss": nats a token, "bits_per_byte": ..., "tokens" and "bytes": measured} at the end."""
    checkpoint: str
    """The last checkpoint, relative to the output folder."""
    num_params: int
    """Parameters of the model."""
    num_tokens: int
    """Tokens trained on, padding included."""
    epochs: dict[str, float]
    """Training source -> how often its rows were passed through."""


def train_lm(config: TrainLmConfig) -> TrainResult:
    """Train as `config` says, from the newest undamaged checkpoint in its output folder if there is one.

    Whatever is refused is refused before anything in that folder is written or deleted.

    Raises:
        ValueError: settings contradict each other, the data, or an earlier run in that folder.
        CorruptCheckpointError: there are checkpoints in that folder, and each of them is damaged.
        NonFiniteLossError: the loss is no longer a number.
        Preempted: SIGTERM came, and the state is saved; it ends the process with exit code 75.
    """
    output = Path(config.output_path)
    trainer = config.trainer
    use_compilation_cache(trainer.runtime.compilation_cache)

    seq_len = _seq_len(config)
    check_installed(config.trackers)
    data = _open_data(config, seq_len)
    loader = DataLoader(data.train, trainer.batches)
    loader.check_num_steps(trainer.num_train_steps)
    schedule = config.optimizer.schedule(trainer.num_train_steps)
    shapes = _parameter_shapes(config.model, data.vocab_size)
    if trainer.attention is not None:
        _check_attention(config, shapes, seq_len)
    mup = None
    if config.mup_base_model is not None:
        mup = mup_scales(shapes, _parameter_shapes(config.mup_base_model, data.vocab_size))
    transformation = config.optimizer.transformation(
        config.model.weight_decay_mask(shapes), None if mup is None else mup.learning_rate
    )
    state_options: dict[str, Any] = {
        "has_average": trainer.ema_beta is not None,
        "skip": trainer.skip_bad_steps,
        "init_scale": None if mup is None else mup.init,
    }

    mesh = make_mesh(trainer.mesh)
    for size in trainer.batches.sizes:
        trainer.num_microbatches(size, num_batch_shards(mesh))  # refuses what cannot be divided
    wanted = state_shapes(config.model, transformation, data.vocab_size, **state_options)
    shardings = None
    if mesh is not None:
        shardings = state_shardings(wanted, shapes, mesh, fsdp=trainer.mesh.fsdp)
        wanted = with_shardings(wanted, shardings)

    checkpoints = output / "checkpoints"
    stores = _store_digests(data)
    found = _find_checkpoint(config, checkpoints, wanted, data, stores)
    if found is None:
        start_step, resume_step = 0, None
        state = init_state(
            config.model,
            transformation,
            data.vocab_size,
            seed=trainer.seed,
            shardings=shardings,
            **state_options,
        )
    else:
        start_step = resume_step = found.step
        state = found.state
        _put_aside(found)
    run = Run(config=config, data=data, resume_step=resume_step)
    extra = [callback.build(run) for callback in config.callbacks]
    # all is checked: from here on the folder is this run's

    output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(checkpoints)
    for leftover in output.glob("*.tmp"):  # a file that a kill left half written
        leftover.unlink()
    _record_config(config, output, data)
    metrics = JsonlTracker(output / "metrics.jsonl", resume_step=resume_step)
    timing = JsonlTracker(output / "timing.jsonl", resume_step=resume_step)
    progress = ConsoleTracker(trainer.num_train_steps) if trainer.runtime.show_progress else None
    preview = preview_of(config, data)
    write_text(output / SCHEDULES_FILE, preview.svg())
    if progress is not None:
        progress.say(_opening_line(config, data, start_step))
        for line in report_lines(mixture_report(loader, trainer.num_train_steps)):
            progress.say(line)
        if found is None:
            progress.say(preview.text())
        if mesh is not None:
            progress.say(f"{_mesh_line(mesh)}, {bytes_per_device(wanted) / 2**20:,.1f} MiB of state on each device")
    is_done = start_step == trainer.num_train_steps or run.stop.is_requested
    watch = next((callback for callback in config.callbacks if isinstance(callback, WatchConfig)), None)
    make_steps = partial(_train_steps, config, transformation, shardings, num_batch_shards(mesh))
    steps = make_steps()
    if trainer.runtime.keep_program and found is None:
        with use_mesh(mesh):
            write_programs(output, steps, state, seq_len, mesh)

    num_steps = trainer.num_train_steps - start_step
    with use_mesh(mesh), loader.iterate(start_step, num_steps=num_steps, prefetch=trainer.runtime.prefetch) as batches:
        log = LogMetrics(
            metrics=metrics,
            timing=timing,
            others=(ProgressTracker(trainer.num_train_steps), *(() if progress is None else (progress,))),
            num_tokens=lambda num_steps: trainer.batches.offset(num_steps) * seq_len,
            names=METRICS if trainer.skip_bad_steps is None else (*METRICS, SKIPPED),
            steps_per_log=trainer.steps_per_log,
            flops_per_token=config.model.flops_per_token(data.vocab_size, seq_len),
            peak_flops_per_second=peak_flops_per_second(),
            loader_stall_s=lambda: batches.stall_s,
            num_loader_stalls=lambda: batches.num_stalls,
            checkpoints=checkpoints,
            documents=lambda step: _documents(loader, step, output),
        )
        validate = Validate(
            log,
            config.model,
            data.validation,
            batch_size=trainer.eval_batch_size or max(trainer.batches.sizes),
            max_batches=trainer.max_eval_batches,
            every=trainer.steps_per_eval,
            token_byte_lengths=data.token_byte_lengths,
            compute_dtype=trainer.compute_dtype,
            attention=trainer.attention,
            mesh=mesh,
        )
        save = SaveCheckpoint(
            log,
            checkpoints,
            every=trainer.steps_per_checkpoint,
            every_s=trainer.runtime.seconds_per_checkpoint,
            keep=trainer.keep_checkpoints,
            metadata=lambda: {
                "tokenizer_digest": data.tokenizer_digest,
                "token_stores": stores,
                "metrics_bytes": metrics.num_bytes,
            },
            already_saved=resume_step,
        )
        run.log = log
        trackers = [] if is_done else open_trackers(config.trackers, _tracked(config, start_step))
        for tracker in trackers:
            log.add_tracker(tracker)
        profile = None if trainer.runtime.profile is None else Profile(trainer.runtime.profile, output)
        try:
            final_step = train(
                state,
                _by_batch_size(steps),
                batches,
                schedule=schedule,
                start_step=start_step,
                num_train_steps=trainer.num_train_steps,
                callbacks=(log, validate, *extra, save, *(() if profile is None else (profile,))),
                save=save.save,
                place=lambda batch: device_batch(batch, mesh),
                watched_step=None if watch is None else _by_batch_size(make_steps(is_watched=True)),
                is_watched=lambda step: watch is not None and _is_watched(watch, step, trainer.num_train_steps),
                stop=run.stop,
            )
        finally:
            if profile is not None:
                profile.close()
            run.close()
            for tracker in (metrics, timing, *trackers, *(() if progress is None else (progress,))):
                tracker.close()
    if progress is not None and run.stop.reason is not None:
        progress.say(run.stop.reason)
    return _summarize(config, output, data, seq_len, final_step)


def preview_of(config: TrainLmConfig, data: LmData) -> Preview:
    """What the run will do, to be drawn."""
    return Preview(
        num_train_steps=config.trainer.num_train_steps,
        learning_rate=config.optimizer.schedule(config.trainer.num_train_steps),
        batches=config.trainer.batches,
        mixture=data.train,
    )


def _tracked(config: TrainLmConfig, resume_step: int) -> TrackedRun:
    """What trackers are told. The id is of what the run is and of its folder's name, which a resumed run has again."""
    output = Path(config.output_path)
    digest = hashlib.sha256(json.dumps(encode(_identity(config)), sort_keys=True).encode()).hexdigest()[:8]
    name = output.resolve().name
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[: MAX_WANDB_NAME - len(digest) - 1]
    plain = {key: value for key, value in encode(config).items() if key != "origins"}
    return TrackedRun(output=output, name=name, run_id=f"{slug}-{digest}", resume_step=resume_step, config=plain)


def _is_watched(watch: WatchConfig, step: int, num_train_steps: int) -> bool:
    return step % watch.every == 0 or step == num_train_steps


def open_run_data(config: TrainLmConfig) -> LmData:
    """The data of a run, opened and checked as training does."""
    return _open_data(config, _seq_len(config))


def _seq_len(config: TrainLmConfig) -> int:
    """Tokens in a row, checked against the model."""
    longest = config.model.seq_len
    seq_len = config.trainer.train_seq_len or longest
    if seq_len > longest:
        raise ValueError(
            f"trainer.train_seq_len is {seq_len} tokens, but the model takes {longest} at most (model.seq_len). "
            f"Set train_seq_len to {longest} or less, or give the model a longer seq_len."
        )
    return seq_len


def _open_data(config: TrainLmConfig, seq_len: int) -> LmData:
    digest = None
    if config.data.tokenizer is not None:
        from marin.processing.tokenize.tokenizer import load_tokenizer

        digest = load_tokenizer(config.data.tokenizer).digest
    check_set_names(config.data.validation)
    return open_data(
        config.data,
        seq_len,
        batches=config.trainer.batches,
        vocab_size=config.vocab_size,
        tokenizer_digest=digest,
    )


def _documents(loader: DataLoader, step: int, output: Path) -> str:
    """The first documents of the batch of an update (counted from 1), and how to see them all."""
    named = name_documents(rows_at_update(loader, step), at_most=_NAMED_DOCUMENTS)
    return f"Its batch held {named} (all of them, with their text: marin data at-step {output} {step} --text)"


def _check_attention(config: TrainLmConfig, shapes: Any, seq_len: int) -> None:
    """Raise ValueError where the asked implementation of attention cannot run this model here."""
    trainer = config.trainer
    options = {"compute_dtype": trainer.compute_dtype, "attention": trainer.attention}
    tokens = jax.ShapeDtypeStruct((1, seq_len), "int32")
    jax.eval_shape(lambda params, tokens: config.model.hidden_states(params, tokens, **options), shapes, tokens)


def _parameter_shapes(model: LmConfig, vocab_size: int) -> Any:
    return jax.eval_shape(lambda: model.init(vocab_size, key=jax.random.key(0)))


def _train_steps(
    config: TrainLmConfig,
    transformation: optax.GradientTransformation,
    shardings: TrainState | None,
    num_shards: int,
    is_watched: bool = False,
) -> dict[int, CompiledStep]:
    """Batch size -> the step for it, for every size that the schedule has; each is compiled when it first comes."""
    trainer = config.trainer
    return {
        size: make_train_step(
            config.model,
            transformation,
            max_grad_norm=config.optimizer.max_grad_norm,
            num_microbatches=trainer.num_microbatches(size, num_shards),
            compute_dtype=trainer.compute_dtype,
            z_loss_weight=trainer.z_loss_weight,
            remat=trainer.remat,
            attention=trainer.attention,
            ema_beta=trainer.ema_beta,
            skip=trainer.skip_bad_steps,
            is_watched=is_watched,
            shardings=shardings,
        )
        for size in dict.fromkeys(trainer.batches.sizes)
    }


def _by_batch_size(steps: dict[int, CompiledStep]) -> Any:
    return lambda state, batch, learning_rate: steps[batch.tokens.shape[0]](state, batch, learning_rate)


def _find_checkpoint(
    config: TrainLmConfig, checkpoints: Path, shapes: Any, data: LmData, stores: dict[str, str]
) -> checkpoint.Loaded | None:
    """The checkpoint to go on from, if it is of this very run; None where there is none. Writes nothing."""
    if not list_checkpoints(checkpoints):
        return None
    output = checkpoints.parent
    _check_same_config(config, output)
    found = checkpoint.load_latest(checkpoints, shapes)
    assert found is not None, "there are checkpoints"
    _check_same_data(found, stores)
    _check_same_order(output / DATA_FILE, data)
    _check_same_rows(found, output / "metrics.jsonl")
    return found


def _check_same_config(config: TrainLmConfig, output: Path) -> None:
    path = output / "config.yaml"
    if path.exists():
        changes = _differences(encode(_identity(load_yaml(TrainLmConfig, path))), encode(_identity(config)))
        if changes:
            raise ValueError(
                f"{output} holds a run of another config: {'; '.join(changes[:5])}. "
                "Give this run another output_path, or delete that folder to train anew."
            )


def _put_aside(found: checkpoint.Loaded) -> None:
    """Damaged later checkpoints would count as the newest, and win over those that this run saves now."""
    for rejected in found.rejected:
        warnings.warn(
            f"checkpoint {rejected} is corrupt and was renamed to {set_aside(rejected).name}; training goes on from "
            f"step {found.step}. Delete the renamed folder when you need it no more.",
            checkpoint.CorruptCheckpointWarning,
            stacklevel=3,
        )


def _record_config(config: TrainLmConfig, output: Path, data: LmData) -> None:
    """Write config.yaml, data.json and model.json."""
    write_text(output / "config.yaml", config.to_yaml())
    write_text(output / DATA_FILE, json.dumps(data.describe(), indent=1) + "\n")
    description = {
        "model": encode(config.model),
        "vocab_size": data.vocab_size,
        "tokenizer_digest": data.tokenizer_digest,
        "eos_id": data.eos_id,
        "bos_id": data.bos_id,
        "document_prefix": data.document_prefix,
    }
    write_text(output / "model.json", json.dumps(description, indent=1) + "\n")


def _check_same_order(path: Path, data: LmData) -> None:
    """That config and stores are the same is checked elsewhere; here, that this program makes the same of them."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    changes = [] if before is None else _differences(before, data.describe())
    if changes:
        raise ValueError(
            f"{path.parent} holds a run that saw its rows in another order: {'; '.join(changes[:5])}. Go on with the "
            "version of marin that began it, or delete the output folder to train anew."
        )


def _store_digests(data: LmData) -> dict[str, str]:
    """What each store is for -> sha256 of its ledger, which holds the hash of each of its files."""
    sources = zip(data.train.names, data.train.sources, strict=True)
    rows = {f"training source '{name}'": source for name, source in sources}
    rows |= {f"validation set '{name}'": dataset for name, dataset in data.validation.items()}
    return {
        label: hashlib.sha256((Path(dataset.store.path) / LEDGER).read_bytes()).hexdigest()
        for label, dataset in rows.items()
    }


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


def _identity(config: TrainLmConfig) -> TrainLmConfig:
    """The config without where things lie and how they run. That the stores are the same is checked by their bytes."""
    paths = {"train": dict.fromkeys(config.data.train, ""), "validation": dict.fromkeys(config.data.validation, "")}
    data = replace(config.data, verify_stores=True, tokenizer=None, **paths)
    trainer = replace(config.trainer, runtime=RuntimeConfig(), mesh=MeshConfig())
    return replace(config, output_path="", data=data, trainer=trainer, trackers=(), origins={})


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`optimizer.learning_rate was 0.001, is 0.002` for each leaf of two encoded configs that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in {**old, **new}
            for change in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path} was {old!r}, is {new!r}"]


def _mesh_line(mesh: Mesh) -> str:
    return f"{mesh.size} devices: " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _opening_line(config: TrainLmConfig, data: LmData, start_step: int) -> str:
    num_params = config.model.num_params(data.vocab_size)
    where = f"resuming at step {start_step:,}" if start_step else "from the start"
    return f"training {num_params:,} parameters for {config.trainer.num_train_steps:,} steps, {where}"


def _summarize(config: TrainLmConfig, output: Path, data: LmData, seq_len: int, final_step: int) -> TrainResult:
    """The result, from metrics.jsonl alone: the same whether or not this process did the last step."""
    losses = [float(row["train/loss"]) for row in read_rows(output / "metrics.jsonl") if "train/loss" in row]
    validation: dict[str, dict[str, float | int]] = {}
    for row in read_rows(output / "metrics.jsonl"):
        if row["step"] == final_step:
            for name, value in row.items():
                if name.startswith("validation/"):
                    tag, _, metric = name.removeprefix("validation/").rpartition("/")
                    assert not isinstance(value, str), name
                    validation.setdefault(tag, {})[metric] = value
    result = TrainResult(
        final_step=final_step,
        final_loss=losses[-1],
        final_validation=validation,
        checkpoint=f"checkpoints/{checkpoint_name(final_step)}",
        num_params=config.model.num_params(data.vocab_size),
        num_tokens=config.trainer.batches.offset(final_step) * seq_len,
        epochs=data.train.epochs(config.trainer.batches.offset(final_step)),
    )
    write_text(output / "summary.json", json.dumps(encode(result), indent=1) + "\n")
    return result
