"""Train a language model: token stores in, checkpoints and metrics out.

The output folder is all a run leaves, and all it needs to go on after being killed:

    config.yaml      the resolved TrainLmConfig, with the origin of each value as a comment
    schedules.svg    learning rate, batch size and mixture by step, drawn before the first
    train_step.bN.stablehlo.gz   the lowered step for batches of N rows
    model.json       model config, vocabulary size, tokenizer digest, the token before each document (document_prefix),
                     and how the model is spoken to (chat): what export and evaluation need
    data.json        what decides which row comes when: stores by checksum, counts of the mixture's blocks, seed
    checkpoints/     step-00000500/, ...: see marin.checkpoint.format
    metrics.jsonl    numbers that each repetition of the run gives again, bit for bit
    timing.jsonl     what the clock said: step time, tokens a second, loader stall, memory
    initialized_from.json   the checkpoint that the run began with, where it is not random parameters
    summary.json     last step, loss, validation and checkpoint; written when all is done
    and what the callbacks and trackers of the config write: samples.jsonl, histograms.jsonl, hf/, tensorboard/, ...

The law: kill the process at any moment, run the same config again, and parameters, optimizer state, metrics.jsonl and
summary.json end up with the same bits as without the kill (same machine, same number of cores, same jaxlib).

Several processes are started with the same config (`marin.distributed.processes`) and all do the same, each with its
rows of the batch and its part of the state. Only the first writes into the folder, save for each one's part of a
checkpoint; all of them must see it.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from marin.checkpoint.discover import checkpoint_name, remove_leftovers
from marin.checkpoint.format import CheckpointWriter
from marin.config import decode, encode
from marin.data.at_step import name_documents, rows_at_update
from marin.data.lm_data import DATA_FILE, LmData
from marin.data.loader import DataLoader
from marin.data.mixture_report import mixture_report, report_lines
from marin.distributed.compilation_cache import use_compilation_cache
from marin.distributed.mesh import (
    bytes_per_device,
    rows_here,
    use_mesh,
)
from marin.distributed.processes import Vote, connect, is_first, said_by_first, wait_for_all
from marin.io.atomic import write_text
from marin.tracking.config import MAX_WANDB_NAME, TrackedRun
from marin.tracking.console import ConsoleTracker
from marin.tracking.expendable import check_installed, open_trackers
from marin.tracking.jsonl import JsonlTracker, read_rows
from marin.tracking.progress import ProgressTracker
from marin.tracking.tracker import NoTracker
from marin.training.callback_config import WatchConfig
from marin.training.callbacks import LogMetrics, SaveCheckpoint, Validate, device_batch
from marin.training.claim import FolderClaim
from marin.training.config import TrainLmConfig
from marin.training.flops import peak_flops_per_second
from marin.training.initialize import (
    RunStart,
    base_model,
    record_source,
    run_batches,
)
from marin.training.prepare import Prepared, prepare
from marin.training.preview import SCHEDULES_FILE, Preview
from marin.training.profile import Profile
from marin.training.program import write_programs
from marin.training.resume import identity, put_aside
from marin.training.run import Run
from marin.training.train_step import METRICS, SKIPPED, TRAINED, CompiledStep
from marin.training.trainer import train

_NAMED_DOCUMENTS = 8  # in the error about a loss that is no number


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run reports; also in summary.json."""

    final_step: int
    """Updates done."""
    final_loss: float
    """Loss of the last step, in nats a token."""
    final_validation: dict[str, dict[str, float | int]]
    """Validation set -> {"loss": nats a token, "bits_per_byte": ..., "tokens" and "bytes": measured} at the end."""
    checkpoint: str
    """The last checkpoint, relative to the output folder."""
    num_params: int
    """Parameters of the model."""
    num_tokens: int
    """Tokens of the stream of training rows up to here, padding included: what the run was trained on, and before it
    the run whose place in the stream it took over."""
    epochs: dict[str, float]
    """Training source -> how often its rows were passed through, counted likewise."""
    start_step: int = 0
    """Updates that another run had done before the first of this one (TrainLmConfig.initialize_from)."""


def train_lm(config: TrainLmConfig) -> TrainResult:
    """Train as `config` says, from the newest undamaged checkpoint in its output folder if there is one.

    Whatever is refused is refused before anything in that folder is written or deleted.

    Raises:
        ValueError: settings contradict each other, the data, or an earlier run in that folder; or another process
            trains there.
        CorruptCheckpointError: there are checkpoints in that folder, and each of them is damaged.
        NonFiniteLossError: the loss is no longer a number.
        Preempted: SIGTERM came, and the state is saved; it ends the process with exit code 75.
    """
    use_compilation_cache(config.trainer.runtime.compilation_cache)
    connect(config.trainer.runtime.processes)
    check_installed(config.trackers)
    with FolderClaim(Path(config.output_path)) as claim:
        if is_first():
            claim.take()
        return _train(prepare(config), claim)


def _train(ready: Prepared, claim: FolderClaim) -> TrainResult:
    """The run, from its folder to its summary."""
    config, trainer, output = ready.config, ready.config.trainer, Path(ready.config.output_path)
    data, mesh, start_step, resume_step = ready.data, ready.mesh, ready.start_step, ready.resume_step
    run = Run(config=config, data=data, resume_step=resume_step)
    extra = [callback.build(run) for callback in config.callbacks]
    wait_for_all("the run is checked")  # from here on the folder is this run's

    preview = preview_of(config, data, ready.start)
    if is_first():
        output.mkdir(parents=True, exist_ok=True)
        claim.take()
        _prepare_folder(output, ready, preview)
    metrics, timing = (_open_rows(output / name, resume_step) for name in ("metrics.jsonl", "timing.jsonl"))
    progress = ConsoleTracker(trainer.num_train_steps) if trainer.runtime.show_progress and is_first() else None
    if progress is not None:
        for line in _opening(ready, preview):
            progress.say(line)
    is_done = start_step == trainer.num_train_steps or run.stop.is_requested
    watch = next((callback for callback in config.callbacks if isinstance(callback, WatchConfig)), None)
    steps = ready.train_steps()
    if trainer.runtime.keep_program and ready.found is None and is_first():
        with use_mesh(mesh):
            write_programs(output, steps, ready.state, data.seq_len, mesh)

    with (
        use_mesh(mesh),
        ready.loader.iterate(
            start_step,
            num_steps=trainer.num_train_steps - start_step,
            prefetch=trainer.runtime.prefetch,
            rows_here=partial(rows_here, mesh=mesh),
        ) as batches,
        CheckpointWriter(output / "checkpoints") as writer,
    ):
        log = LogMetrics(
            metrics=metrics,
            timing=timing,
            others=(ProgressTracker(trainer.num_train_steps), *(() if progress is None else (progress,))),
            num_tokens=lambda num_steps: ready.loader.batches.offset(num_steps) * data.seq_len,
            names=(
                *METRICS,
                *(() if trainer.skip_bad_steps is None else (SKIPPED,)),
                *(() if data.chat is None else TRAINED),
            ),
            steps_per_log=trainer.steps_per_log,
            flops_per_token=config.model.flops_per_token(data.vocab_size, data.seq_len),
            peak_flops_per_second=peak_flops_per_second(jax.devices()[:1] if mesh is None else mesh.devices.flat),
            loader_stall_s=lambda: batches.stall_s,
            num_loader_stalls=lambda: batches.num_stalls,
            newest_checkpoint=writer.newest,
            documents=lambda step: _documents(ready.loader, step, config),
        )
        validate = Validate(
            log,
            ready.model,
            data.validation,
            batch_size=trainer.eval_batch_size or max(ready.sizes),
            max_batches=trainer.max_eval_batches,
            every=trainer.steps_per_eval,
            token_byte_lengths=data.token_byte_lengths,
            compute_dtype=trainer.compute_dtype,
            attention=trainer.attention,
            mesh=mesh,
        )
        save = SaveCheckpoint(
            log,
            writer,
            output / "checkpoints",
            is_late=Vote(mesh),
            every=trainer.steps_per_checkpoint,
            every_s=trainer.runtime.seconds_per_checkpoint,
            keep=trainer.keep_checkpoints,
            metadata=lambda: {
                "tokenizer_digest": data.tokenizer_digest,
                "token_stores": ready.stores,
                **({"metrics_bytes": metrics.num_bytes} if isinstance(metrics, JsonlTracker) else {}),
            },
            already_saved=resume_step,
        )
        run.log = log
        trackers = [] if is_done or not is_first() else open_trackers(config.trackers, _tracked(config, start_step))
        for tracker in trackers:
            log.add_tracker(tracker)
        profile = (
            Profile(trainer.runtime.profile, output) if trainer.runtime.profile is not None and is_first() else None
        )
        try:
            final_step = train(
                ready.state,
                _by_batch_size(steps),
                batches,
                schedule=ready.schedule,
                start_step=start_step,
                num_train_steps=trainer.num_train_steps,
                # validation again: a callback that looks at what others measure may have made this step the last
                callbacks=(log, validate, *extra, validate, save, *(() if profile is None else (profile,))),
                save=save.save_now,
                finish=save.finish,
                place=lambda step, batch: device_batch(batch, mesh, ready.loader.batches.size(step)),
                must_leave=Vote(mesh),
                watched_step=None if watch is None else _by_batch_size(ready.train_steps(is_watched=True)),
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
    result = _summarize(ready, final_step) if is_first() else None
    return decode(TrainResult, said_by_first(encode(result)))


def preview_of(config: TrainLmConfig, data: LmData, start: RunStart) -> Preview:
    """What the run will do, to be drawn."""
    return Preview(
        num_train_steps=config.trainer.num_train_steps,
        learning_rate=config.optimizer.schedule(config.trainer.num_train_steps),
        batches=run_batches(config, start),
        mixture=data.train,
        start_step=start.step,
    )


def _tracked(config: TrainLmConfig, resume_step: int) -> TrackedRun:
    """What trackers are told. The id is of what the run is and of its folder's name, which a resumed run has again."""
    output = Path(config.output_path)
    digest = hashlib.sha256(json.dumps(encode(identity(config)), sort_keys=True).encode()).hexdigest()[:8]
    name = output.resolve().name
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[: MAX_WANDB_NAME - len(digest) - 1]
    plain = {key: value for key, value in encode(config).items() if key != "origins"}
    return TrackedRun(output=output, name=name, run_id=f"{slug}-{digest}", resume_step=resume_step, config=plain)


def _is_watched(watch: WatchConfig, step: int, num_train_steps: int) -> bool:
    return step % watch.every == 0 or step == num_train_steps


def _documents(loader: DataLoader, step: int, config: TrainLmConfig) -> str:
    """The first documents of the batch of an update (counted from 1), and how to see them all."""
    named = name_documents(rows_at_update(loader, step), at_most=_NAMED_DOCUMENTS)
    command = f"marin data at-step {config.output_path} {step}"
    if config.data.tokenizer is None:
        return f"Its batch held {named} (all of them: {command})"
    return f"Its batch held {named} (all of them, with their text: {command} --text)"


def _by_batch_size(steps: dict[int, CompiledStep]) -> Any:
    return lambda state, batch, learning_rate: steps[batch.tokens.shape[0]](state, batch, learning_rate)


def _prepare_folder(output: Path, ready: Prepared, preview: Preview) -> None:
    """Clear away what a kill left behind, and write down what the run is."""
    if ready.found is not None:
        put_aside(ready.found)
    remove_leftovers(output / "checkpoints")
    for leftover in output.glob("*.tmp"):  # a file that a kill left half written
        leftover.unlink()
    _record_config(ready.config, output, ready.data)
    record_source(ready.start, output)
    write_text(output / SCHEDULES_FILE, preview.svg())


def _open_rows(path: Path, resume_step: int | None) -> JsonlTracker | NoTracker:
    return JsonlTracker(path, resume_step=resume_step) if is_first() else NoTracker()


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
    if data.chat is not None:
        description["chat"] = encode(data.chat)
    if config.lora is not None:
        description |= {"lora": encode(config.lora), "base_model": base_model(config)}
    write_text(output / "model.json", json.dumps(description, indent=1) + "\n")


def _mesh_line(mesh: Mesh) -> str:
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} devices{processes}: " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _opening(ready: Prepared, preview: Preview) -> Iterator[str]:
    """What the user is told before the first update."""
    config, data = ready.config, ready.data
    num_params = config.model.num_params(data.vocab_size)
    trained = num_params if config.lora is None else ready.model.num_params(data.vocab_size) - num_params
    where = (
        f"resuming at step {ready.start_step:,}" if ready.initial is None else ready.initial.opening(ready.start_step)
    )
    yield f"training {trained:,} parameters for {config.trainer.num_train_steps:,} steps, {where}"
    yield from report_lines(mixture_report(ready.loader, config.trainer.num_train_steps, start_step=ready.start.step))
    if ready.found is None:
        yield preview.text()
    if ready.mesh is not None:
        mebibytes = bytes_per_device(ready.wanted) / 2**20
        yield f"{_mesh_line(ready.mesh)}, {mebibytes:,.1f} MiB of state on each device"


def _summarize(ready: Prepared, final_step: int) -> TrainResult:
    """The result, from metrics.jsonl alone: the same whether or not this process did the last step."""
    config, data, output = ready.config, ready.data, Path(ready.config.output_path)
    losses = [float(row["train/loss"]) for row in read_rows(output / "metrics.jsonl") if "train/loss" in row]
    validation: dict[str, dict[str, float | int]] = {}
    for row in read_rows(output / "metrics.jsonl"):
        if row["step"] == final_step:
            for name, value in row.items():
                if name.startswith("validation/"):
                    tag, _, metric = name.removeprefix("validation/").rpartition("/")
                    assert not isinstance(value, str), name
                    validation.setdefault(tag, {})[metric] = value
    position = ready.loader.batches.offset(final_step)
    result = TrainResult(
        final_step=final_step,
        final_loss=losses[-1],
        final_validation=validation,
        checkpoint=f"checkpoints/{checkpoint_name(final_step)}",
        num_params=config.model.num_params(data.vocab_size),
        num_tokens=position * data.seq_len,
        epochs=data.train.epochs(position),
        start_step=ready.start.step,
    )
    write_text(output / "summary.json", json.dumps(encode(result), indent=1) + "\n")
    return result
