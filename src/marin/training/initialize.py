"""What a run begins with: random parameters, or what another run has saved.

One integer says how a run that goes on with another's state stands to its data: the update whose batch begins with row
0 (`RunStart.first_row_step`). It is found once, before the data is opened, and everything that asks which rows an
update takes (loader, token counts, stages, reports, `marin data at-step`) asks the batch schedule that was shifted by
it. The checkpoint that a run began with is written into its folder by the hash of its manifest, so a resumed run counts
as it did before, whatever has become of the other run since.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import MANIFEST, list_checkpoints
from marin.data.batch_schedule import BatchSchedule
from marin.data.lm_data import LmData
from marin.io.atomic import write_text
from marin.training.config import TrainLmConfig
from marin.training.initialize_config import InitializeFrom
from marin.training.state import TrainState, init_params, init_state, state_of

SOURCE_FILE = "initialized_from.json"  # in the run's folder

_NAMED = 4  # arrays in an error


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that a run began with; also in initialized_from.json."""

    path: str
    """As the config named it."""
    checkpoint: str
    """Its folder, relative to path."""
    step: int
    """Updates done when it was saved."""
    manifest_sha256: str
    """Hash of its manifest, and so of all that it holds."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return Path(self.path) / self.checkpoint


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """Where a run begins, when it has no checkpoint of its own yet."""

    source: Source | None = None
    """What it begins with; None: random parameters."""
    step: int = 0
    """Updates done before its first."""
    first_row_step: int = 0
    """The update, counted from 0, whose batch begins with row 0 of the training data."""


@dataclass(frozen=True, kw_only=True)
class InitialState:
    """The state a run begins with."""

    state: TrainState
    fresh: tuple[str, ...] = ()
    """Arrays that the source lacked."""
    left_out: tuple[str, ...] = ()
    """Arrays of the source that this run has no use for."""
    source: Source | None = None
    """What it was made from."""

    def opening(self, start_step: int) -> str:
        """Where the run begins, in words."""
        if self.source is None:
            return "from the start"
        words = f"from step {start_step:,}, initialized from {self.source.folder}"
        if self.fresh:
            words += f"; fresh: {named(self.fresh)}"
        if self.left_out:
            words += f"; left out: {named(self.left_out)}"
        return words


def find_start(config: TrainLmConfig, output: Path) -> RunStart:
    """Where the run in folder `output` begins, or began.

    Raises:
        ValueError: the checkpoint named in the config is not the one that the run in `output` began with, or is at the
            end of this run already.
        FileNotFoundError: there is no checkpoint at that place.
        CorruptCheckpointError: all that there are are damaged.
    """
    given = config.initialize_from
    if given is None:
        return RunStart()
    recorded = _read_source(output)
    if list_checkpoints(output / "checkpoints"):
        if recorded is None:
            raise ValueError(
                f"{output} holds a run that was initialized from a checkpoint, but not the {SOURCE_FILE} that says "
                "from which. Restore that file, or delete the folder to train anew."
            )
        _check_unchanged(given, recorded, output)
        source = recorded
    elif recorded is not None and recorded.path == given.path and _is_there(recorded):
        source = recorded
    else:
        source = _find_source(given.path)
    if given.content == "state" and source.step >= config.trainer.num_train_steps:
        raise ValueError(
            f"initialize_from: {source.folder} has done {source.step} updates, and trainer.num_train_steps is "
            f"{config.trainer.num_train_steps}. With content 'state' the count goes on, so give the step at which this "
            "run ends, or set content to 'weights' to count from 0."
        )
    return _start(given, source)


def recorded_start(config: TrainLmConfig, output: Path) -> RunStart | None:
    """Where the run in folder `output` began, by what it wrote down; None where it has written nothing yet.

    Nothing is asked of the checkpoint that it began with, which may be long gone.
    """
    source = _read_source(output)
    return None if config.initialize_from is None or source is None else _start(config.initialize_from, source)


def _start(given: InitializeFrom, source: Source) -> RunStart:
    if given.content == "weights":
        return RunStart(source=source)
    first_row_step = source.step if given.reset_data_loader_on_init else 0
    return RunStart(source=source, step=source.step, first_row_step=first_row_step)


def run_batches(config: TrainLmConfig, start: RunStart) -> BatchSchedule:
    """Rows of each update of the run, and which they are."""
    return BatchSchedule(config.trainer.train_batch_size, first_step=start.first_row_step)


def record_source(start: RunStart, output: Path) -> None:
    """Write initialized_from.json into the run's folder, or remove one that is not of this run."""
    path = output / SOURCE_FILE
    if start.source is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, json.dumps(asdict(start.source), indent=1) + "\n")


def initial_state(
    config: TrainLmConfig,
    start: RunStart,
    wanted: TrainState,
    transformation: optax.GradientTransformation,
    data: LmData,
    *,
    shardings: TrainState | None = None,
    init_scale: Any = None,
    **options: Any,
) -> InitialState:
    """The state before the first update of this run, in the shape of `wanted` (see `state_shapes`).

    What the source lacks is as `init_state` makes it, whose options these are.

    Raises:
        ValueError: the source is of another tokenizer or another model, or lacks something that it must not.
        CorruptCheckpointError: it is damaged.
    """
    model, vocab_size, seed = config.model, data.vocab_size, config.trainer.seed
    given, source = config.initialize_from, start.source
    if given is None or source is None:
        state = init_state(
            model, transformation, vocab_size, seed=seed, shardings=shardings, init_scale=init_scale, **options
        )
        return InitialState(state=state)
    folder = source.folder
    _check_tokenizer(folder, data.tokenizer_digest)
    part = wanted if given.content == "state" else TrainState(params=wanted.params, optimizer=None)
    saved, names = checkpoint.saved_arrays(folder), checkpoint.named_leaves(part)
    _check_shapes(folder, names, saved)
    missing = tuple(name for name in names if name not in saved)
    left_out = tuple(
        name for name in saved if name not in names and (given.content == "state" or name.startswith("params."))
    )
    _check_complete(given, folder, missing, left_out)
    present = jax.tree.unflatten(
        jax.tree.structure(part), [None if name in missing else leaf for name, leaf in names.items()]
    )
    loaded = checkpoint.load(folder, present, prefix="", ignore_others=True)

    def complete(loaded: TrainState, key: jax.Array) -> TrainState:
        params = _filled(loaded.params, init_params(model, vocab_size, key=key, init_scale=init_scale))
        return _filled(loaded, state_of(params, transformation, **options))

    state = jax.jit(complete, donate_argnums=0, out_shardings=shardings)(loaded, jax.random.key(seed))
    return InitialState(state=state, fresh=missing, left_out=left_out, source=source)


def _filled(tree: Any, whole: Any) -> Any:
    """`whole`, with the leaf of `tree` wherever that has one."""
    given = checkpoint.named_leaves(tree)
    leaves = [given.get(name, leaf) for name, leaf in checkpoint.named_leaves(whole).items()]
    return jax.tree.unflatten(jax.tree.structure(whole), leaves)


# -- which checkpoint -------------------------------------------------------------------------------------------------


def _find_source(path: str) -> Source:
    """The checkpoint that `path` means."""
    folder = Path(path)
    for root in (folder / "checkpoints", folder):
        if list_checkpoints(root):
            newest = checkpoint.latest(root)
            assert newest is not None, "there are checkpoints"
            return _source(path, newest)
    if (folder / MANIFEST).is_file():
        return _source(path, folder)
    there = list_checkpoints(folder.parent)
    others = f"; there are {', '.join(other.path.name for other in there)}" if there else ""
    raise FileNotFoundError(
        f"initialize_from: no checkpoint at {path}: expected the folder of a run, which holds checkpoints/step-N, or "
        f"of one checkpoint{others}"
    )


def _source(path: str, folder: Path) -> Source:
    return Source(
        path=path,
        checkpoint=folder.relative_to(path).as_posix(),
        step=checkpoint.read_metadata(folder)["step"],
        manifest_sha256=checkpoint.manifest_digest(folder),
    )


def _read_source(output: Path) -> Source | None:
    path = output / SOURCE_FILE
    return Source(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _is_there(source: Source) -> bool:
    """Whether the checkpoint is where it was, and the same."""
    return (source.folder / MANIFEST).is_file() and (
        checkpoint.manifest_digest(source.folder) == source.manifest_sha256
    )


def _check_unchanged(given: InitializeFrom, recorded: Source, output: Path) -> None:
    """ValueError where another checkpoint lies at that place now. (A run that has begun needs it no more.)"""
    folder = Path(given.path) / recorded.checkpoint
    if not (folder / MANIFEST).is_file():
        return
    now = checkpoint.manifest_digest(folder)
    if now != recorded.manifest_sha256:
        raise ValueError(
            f"{output} holds a run that was initialized from another checkpoint: the manifest of {folder} had sha256 "
            f"{recorded.manifest_sha256[:12]}, has {now[:12]}. Restore that checkpoint, give this run another "
            "output_path, or delete that folder to train anew."
        )


# -- whether it fits --------------------------------------------------------------------------------------------------


def _check_tokenizer(folder: Path, digest: str) -> None:
    theirs = checkpoint.read_metadata(folder).get("tokenizer_digest")
    if theirs is not None and theirs != digest:
        raise ValueError(
            f"initialize_from: {folder} was trained on tokens of another tokenizer (digest {theirs[:12]}) than the "
            f"stores of this run (digest {digest[:12]}). Tokenize the text with its tokenizer."
        )


def _check_shapes(folder: Path, wanted: dict[str, Any], saved: dict[str, jax.ShapeDtypeStruct]) -> None:
    differing = [
        f"'{name}' is {saved[name].dtype.name}{list(saved[name].shape)} there and {leaf.dtype.name}{list(leaf.shape)} "
        "here"
        for name, leaf in wanted.items()
        if name in saved and (saved[name].shape, saved[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if differing:
        raise ValueError(
            f"initialize_from: {folder} is a checkpoint of another model: {'; '.join(differing[:_NAMED])}"
            f"{f'; and {len(differing) - _NAMED} more' if len(differing) > _NAMED else ''}. Give this run the model in "
            "that run's model.json."
        )


def _check_complete(given: InitializeFrom, folder: Path, missing: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    unused = [name for name in left_out if name.startswith("params.")]
    if unused:
        raise ValueError(
            f"initialize_from: {folder} is a checkpoint of another model: it has {named(unused)}, which this run's "
            "model does not. Give this run the model in that run's model.json."
        )
    if (missing or left_out) and not given.allow_partial:
        raise ValueError(
            f"initialize_from: {folder} lacks {named(missing)} of this run's state, and has {named(left_out)} beyond "
            "it. Set allow_partial to begin all the same: what is lacking starts fresh (the average as the "
            "parameters), what is beyond is left out. With content 'weights' only the parameters are asked for."
        )


def named(names: tuple[str, ...] | list[str]) -> str:
    """The first of some arrays by name, those of one kind together: `'params.unembedding', 7 of 'average'`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        top = name.partition(".")[0]
        groups.setdefault(name if top == "params" else top, []).append(name)
    shown = [f"'{at[0]}'" if len(at) == 1 else f"{len(at)} of '{group}'" for group, at in groups.items()]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more if shown else "nothing"
