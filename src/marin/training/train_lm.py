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
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import checkpoint_name, list_checkpoints, remove_leftovers, set_aside
from marin.checkpoint.format import CheckpointWriter
from marin.config import decode, encode, load_yaml
from marin.data.at_step import name_documents, rows_at_update
from marin.data.batch_schedule import BatchSchedule
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
    rows_here,
    state_shardings,
    use_mesh,
    with_shardings,
)
from marin.distributed.processes import Vote, connect, is_first, said_by_first, wait_for_all
from marin.io.atomic import write_text
from marin.models.config import LmConfig
from marin.optim.mup import mup_scales
from marin.tracking.config import MAX_WANDB_NAME, TrackedRun
from marin.tracking.console import ConsoleTracker
from marin.tracking.expendable import check_installed, open_trackers
from marin.tracking.jsonl import JsonlTracker, end_of_step, read_rows
from marin.tracking.progress import ProgressTracker
from marin.tracking.tracker import NoTracker
from marin.training.callback_config import WatchConfig
from marin.training.callbacks import LogMetrics, SaveCheckpoint, Validate, check_set_names, device_batch
from marin.training.config import RuntimeConfig, TrainLmConfig
from marin.training.export_hf import exports_in
from marin.training.flops import peak_flops_per_second
from marin.training.initialize import (
    InitialState,
    RunStart,
    base_model,
    find_start,
    initial_state,
    record_source,
    run_batches,
)
from marin.training.preview import SCHEDULES_FILE, Preview
from marin.training.profile import Profile
from marin.training.program import write_programs
from marin.training.run import Run, trained_model
from marin.training.state import TrainState, state_shapes
from marin.training.train_step import METRICS, SKIPPED, TRAINED, CompiledStep, make_train_step
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
        ValueError: settings contradict each other, the data, or an earlier run in that folder.
        CorruptCheckpointError: there are checkpoints in that folder, and each of them is damaged.
        NonFiniteLossError: the loss is no longer a number.
        Preempted: SIGTERM came, and the state is saved; it ends the process with exit code 75.
    """
    output = Path(config.output_path)
    trainer = config.trainer
    use_compilation_cache(trainer.runtime.compilation_cache)
    connect(trainer.runtime.processes)

    seq_len = _seq_len(config)
    check_installed(config.trackers)
    _check_same_config(config, output)
    start = find_start(config, output)
    row_schedule = run_batches(config, start)
    data = _open_data(config, seq_len, row_schedule)
    loader = DataLoader(data.train, row_schedule)
    loader.check_num_steps(trainer.num_train_steps)
    schedule = config.optimizer.schedule(trainer.num_train_steps)
    model = trained_model(config)
    shapes = _parameter_shapes(model, data.vocab_size)
    if trainer.attention is not None:
        _check_attention(config, model, shapes, seq_len)
    mup = None
    if config.mup_base_model is not None:
        mup = mup_scales(shapes, _parameter_shapes(config.mup_base_model, data.vocab_size))
    transformation = config.optimizer.transformation(
        model.weight_decay_mask(shapes), None if mup is None else mup.learning_rate
    )
    state_options: dict[str, Any] = {
        "has_average": trainer.ema_beta is not None,
        "skip": trainer.skip_bad_steps,
        "init_scale": None if mup is None else mup.init,
    }

    mesh = make_mesh(trainer.mesh)
    sizes = row_schedule.sizes_between(start.step, trainer.num_train_steps)
    for size in sizes:
        trainer.num_microbatches(size, num_batch_shards(mesh))  # refuses what cannot be divided
    wanted = state_shapes(model, transformation, data.vocab_size, **state_options)
    shardings = None
    if mesh is not None:
        shardings = state_shardings(wanted, shapes, mesh, fsdp=trainer.mesh.fsdp)
        wanted = with_shardings(wanted, shardings)

    checkpoints = output / "checkpoints"
    stores = _store_digests(data)
    found = _find_checkpoint(checkpoints, wanted, data, stores)
    initial = None
    if found is None:
        start_step, resume_step = start.step, None
        initial = initial_state(config, start, wanted, transformation, data, shardings=shardings, **state_options)
        state = initial.state
    else:
        start_step = resume_step = found.step
        state = found.state
    run = Run(config=config, data=data, resume_step=resume_step)
    extra = [callback.build(run) for callback in config.callbacks]
    wait_for_all("the run is checked")  # from here on the folder is this run's

    preview = preview_of(config, data, start)
    if is_first():
        _prepare_folder(output, config, data, start, found, preview)
    metrics, timing = (_open_rows(output / name, resume_step) for name in ("metrics.jsonl", "timing.jsonl"))
    progress = ConsoleTracker(trainer.num_train_steps) if trainer.runtime.show_progress and is_first() else None
    if progress is not None:
        progress.say(_opening_line(config, data, start_step, initial))
        for line in report_lines(mixture_report(loader, trainer.num_train_steps, start_step=start.step)):
            progress.say(line)
        if found is None:
            progress.say(preview.text())
        if mesh is not None:
            progress.say(f"{_mesh_line(mesh)}, {bytes_per_device(wanted) / 2**20:,.1f} MiB of state on each device")
    is_done = start_step == trainer.num_train_steps or run.stop.is_requested
    watch = next((callback for callback in config.callbacks if isinstance(callback, WatchConfig)), None)
    make_steps = partial(_train_steps, config, sizes, transformation, shardings, num_batch_shards(mesh), data)
    steps = make_steps()
    if trainer.runtime.keep_program and found is None and is_first():
        with use_mesh(mesh):
            write_programs(output, steps, state, seq_len, mesh)

    num_steps = trainer.num_train_steps - start_step
    with (
        use_mesh(mesh),
        loader.iterate(
            start_step,
            num_steps=num_steps,
            prefetch=trainer.runtime.prefetch,
            rows_here=partial(rows_here, mesh=mesh),
        ) as batches,
        CheckpointWriter(checkpoints) as writer,
    ):
        log = LogMetrics(
            metrics=metrics,
            timing=timing,
            others=(ProgressTracker(trainer.num_train_steps), *(() if progress is None else (progress,))),
            num_tokens=lambda num_steps: row_schedule.offset(num_steps) * seq_len,
            names=(
                *METRICS,
                *(() if trainer.skip_bad_steps is None else (SKIPPED,)),
                *(() if data.chat is None else TRAINED),
            ),
            steps_per_log=trainer.steps_per_log,
            flops_per_token=config.model.flops_per_token(data.vocab_size, seq_len),
            peak_flops_per_second=peak_flops_per_second(jax.devices()[:1] if mesh is None else mesh.devices.flat),
            loader_stall_s=lambda: batches.stall_s,
            num_loader_stalls=lambda: batches.num_stalls,
            newest_checkpoint=writer.newest,
            documents=lambda step: _documents(loader, step, config),
        )
        validate = Validate(
            log,
            model,
            data.validation,
            batch_size=trainer.eval_batch_size or max(sizes),
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
            checkpoints,
            is_late=Vote(mesh),
            every=trainer.steps_per_checkpoint,
            every_s=trainer.runtime.seconds_per_checkpoint,
            keep=trainer.keep_checkpoints,
            metadata=lambda: {
                "tokenizer_digest": data.tokenizer_digest,
                "token_stores": stores,
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
                state,
                _by_batch_size(steps),
                batches,
                schedule=schedule,
                start_step=start_step,
                num_train_steps=trainer.num_train_steps,
                callbacks=(log, validate, *extra, save, *(() if profile is None else (profile,))),
                save=save.save_now,
                finish=save.finish,
                place=lambda step, batch: device_batch(batch, mesh, row_schedule.size(step)),
                must_leave=Vote(mesh),
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
    result = _summarize(config, output, data, loader, start, final_step) if is_first() else None
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
    digest = hashlib.sha256(json.dumps(encode(_identity(config)), sort_keys=True).encode()).hexdigest()[:8]
    name = output.resolve().name
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[: MAX_WANDB_NAME - len(digest) - 1]
    plain = {key: value for key, value in encode(config).items() if key != "origins"}
    return TrackedRun(output=output, name=name, run_id=f"{slug}-{digest}", resume_step=resume_step, config=plain)


def _is_watched(watch: WatchConfig, step: int, num_train_steps: int) -> bool:
    return step % watch.every == 0 or step == num_train_steps


def open_run_data(config: TrainLmConfig, start: RunStart) -> LmData:
    """The data of a run, opened and checked as training does."""
    return _open_data(config, _seq_len(config), run_batches(config, start))


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


def _open_data(config: TrainLmConfig, seq_len: int, batches: BatchSchedule) -> LmData:
    digest = None
    if config.data.tokenizer is not None:
        from marin.processing.tokenize.tokenizer import load_tokenizer

        digest = load_tokenizer(config.data.tokenizer).digest
    data = open_data(
        config.data,
        seq_len,
        batches=batches,
        vocab_size=config.vocab_size,
        tokenizer_digest=digest,
    )
    check_set_names(data.validation, has_average=config.trainer.ema_beta is not None)
    return data


def _documents(loader: DataLoader, step: int, config: TrainLmConfig) -> str:
    """The first documents of the batch of an update (counted from 1), and how to see them all."""
    named = name_documents(rows_at_update(loader, step), at_most=_NAMED_DOCUMENTS)
    command = f"marin data at-step {config.output_path} {step}"
    if config.data.tokenizer is None:
        return f"Its batch held {named} (all of them: {command})"
    return f"Its batch held {named} (all of them, with their text: {command} --text)"


def _check_attention(config: TrainLmConfig, model: LmConfig, shapes: Any, seq_len: int) -> None:
    """Raise ValueError where the asked implementation of attention cannot run this model here."""
    trainer = config.trainer
    options = {"compute_dtype": trainer.compute_dtype, "attention": trainer.attention}
    tokens = jax.ShapeDtypeStruct((1, seq_len), "int32")
    jax.eval_shape(lambda params, tokens: model.hidden_states(params, tokens, **options), shapes, tokens)


def _parameter_shapes(model: LmConfig, vocab_size: int) -> Any:
    return jax.eval_shape(lambda: model.init(vocab_size, key=jax.random.key(0)))


def _train_steps(
    config: TrainLmConfig,
    sizes: Sequence[int],
    transformation: optax.GradientTransformation,
    shardings: TrainState | None,
    num_shards: int,
    data: LmData,
    is_watched: bool = False,
) -> dict[int, CompiledStep]:
    """Batch size -> the step for it; each is compiled when it first comes."""
    trainer = config.trainer
    return {
        size: make_train_step(
            trained_model(config),
            transformation,
            max_grad_norm=config.optimizer.max_grad_norm,
            num_microbatches=trainer.num_microbatches(size, num_shards),
            compute_dtype=trainer.compute_dtype,
            z_loss_weight=trainer.z_loss_weight,
            remat=trainer.remat,
            attention=trainer.attention,
            ema_beta=trainer.ema_beta,
            skip=trainer.skip_bad_steps,
            stop_id=None if data.chat is None else data.chat.stop_id,
            is_watched=is_watched,
            shardings=shardings,
        )
        for size in sizes
    }


def _by_batch_size(steps: dict[int, CompiledStep]) -> Any:
    return lambda state, batch, learning_rate: steps[batch.tokens.shape[0]](state, batch, learning_rate)


def _find_checkpoint(checkpoints: Path, shapes: Any, data: LmData, stores: dict[str, str]) -> checkpoint.Loaded | None:
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


def _check_same_config(config: TrainLmConfig, output: Path) -> None:
    """That what a run has left in the output folder, if it got as far as to leave anything, is of this config."""
    path = output / "config.yaml"
    left = list_checkpoints(output / "checkpoints") or (output / "summary.json").exists() or exports_in(output)
    if path.exists() and left:
        changes = _differences(encode(_identity(load_yaml(TrainLmConfig, path))), encode(_identity(config)))
        if changes:
            raise ValueError(
                f"{output} holds a run of another config: {'; '.join(changes[:5])}. "
                "Give this run another output_path, or delete that folder to train anew."
            )


def _prepare_folder(
    output: Path,
    config: TrainLmConfig,
    data: LmData,
    start: RunStart,
    found: checkpoint.Loaded | None,
    preview: Preview,
) -> None:
    """Clear away what a kill left behind, and write down what the run is."""
    if found is not None:
        _put_aside(found)
    output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output / "checkpoints")
    for leftover in output.glob("*.tmp"):  # a file that a kill left half written
        leftover.unlink()
    _record_config(config, output, data)
    record_source(start, output)
    write_text(output / SCHEDULES_FILE, preview.svg())


def _open_rows(path: Path, resume_step: int | None) -> JsonlTracker | NoTracker:
    return JsonlTracker(path, resume_step=resume_step) if is_first() else NoTracker()


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
    if data.chat is not None:
        description["chat"] = encode(data.chat)
    if config.lora is not None:
        description |= {"lora": encode(config.lora), "base_model": base_model(config)}
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
    parts: dict[str, Any] = {"data": data, "trainer": trainer}
    for name in ("initialize_from", "initialize_from_hf"):
        if getattr(config, name) is not None:
            parts[name] = replace(getattr(config, name), path="")
    return replace(config, output_path="", trackers=(), origins={}, **parts)


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
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} devices{processes}: " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _opening_line(config: TrainLmConfig, data: LmData, start_step: int, initial: InitialState | None) -> str:
    num_params = config.model.num_params(data.vocab_size)
    trained = num_params if config.lora is None else trained_model(config).num_params(data.vocab_size) - num_params
    where = f"resuming at step {start_step:,}" if initial is None else initial.opening(start_step)
    return f"training {trained:,} parameters for {config.trainer.num_train_steps:,} steps, {where}"


def _summarize(
    config: TrainLmConfig, output: Path, data: LmData, loader: DataLoader, start: RunStart, final_step: int
) -> TrainResult:
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
    position = loader.batches.offset(final_step)
    result = TrainResult(
        final_step=final_step,
        final_loss=losses[-1],
        final_validation=validation,
        checkpoint=f"checkpoints/{checkpoint_name(final_step)}",
        num_params=config.model.num_params(data.vocab_size),
        num_tokens=position * data.seq_len,
        epochs=data.train.epochs(position),
        start_step=start.step,
    )
    write_text(output / "summary.json", json.dumps(encode(result), indent=1) + "\n")
    return result
