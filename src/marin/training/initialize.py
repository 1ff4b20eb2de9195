"""What a run begins with: random parameters, what another run has saved, or a model in the Hugging Face format.

One integer says how a run that goes on with another's state stands to its data: the update whose batch begins with row
0 (`RunStart.first_row_step`). It is found once, before the data is opened, and everything that asks which rows an
update takes (loader, token counts, stages, reports, `marin data at-step`) asks the batch schedule that was shifted by
it. The checkpoint that a run began with is written into its folder by the hash of its manifest, so a resumed run counts
as it did before, whatever has become of the other run since.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import MANIFEST, list_checkpoints
from marin.data.batch_schedule import BatchSchedule
from marin.data.lm_data import LmData
from marin.export.hf_folder import CONFIG_FILE, hf_folder
from marin.io.atomic import write_text
from marin.io.hashing import sha256_file
from marin.models.config import LmConfig
from marin.models.lora import LoraParams
from marin.training.config import TrainLmConfig
from marin.training.initialize_config import InitializeFrom, InitializeFromHf
from marin.training.run import trained_model
from marin.training.state import TrainState, init_params, init_state, state_of

SOURCE_FILE = "initialized_from.json"  # in the run's folder

_NAMED = 4  # arrays in an error


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that a run began with; also in initialized_from.json."""

    path: str
    """As the config named it."""
    checkpoint: str
    """Its folder, relative to path; a model in the Hugging Face format is path itself."""
    step: int
    """Updates done when it was saved."""
    sha256: str
    """Hash of all that it holds: of a checkpoint's manifest, or of the files of a model."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return hf_folder(self.path) / self.checkpoint


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
    given = _given(config)
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
    elif recorded is not None and recorded.path == given.path and _digest_now(recorded) == recorded.sha256:
        source = recorded
    elif isinstance(given, InitializeFromHf):
        source = _hf_source(given.path)
    else:
        source = _find_source(given.path)
    if isinstance(given, InitializeFrom) and given.content == "state" and source.step >= config.trainer.num_train_steps:
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
    given, source = _given(config), _read_source(output)
    return None if given is None or source is None else _start(given, source)


def _given(config: TrainLmConfig) -> InitializeFrom | InitializeFromHf | None:
    return config.initialize_from or config.initialize_from_hf


def _start(given: InitializeFrom | InitializeFromHf, source: Source) -> RunStart:
    if isinstance(given, InitializeFromHf) or given.content == "weights":
        return RunStart(source=source)
    first_row_step = source.step if given.reset_data_loader_on_init else 0
    return RunStart(source=source, step=source.step, first_row_step=first_row_step)


def run_batches(config: TrainLmConfig, start: RunStart) -> BatchSchedule:
    """Rows of each update of the run, and which they are."""
    return BatchSchedule(config.trainer.train_batch_size, first_step=start.first_row_step)


def base_model(config: TrainLmConfig) -> str | None:
    """The name under which other libraries find what the run begins with, where that is a model in their format."""
    source = config.initialize_from_hf
    return None if source is None else source.path.removeprefix("hf://").partition("@")[0]


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
    model, vocab_size, seed = trained_model(config), data.vocab_size, config.trainer.seed
    given = _given(config)
    if given is None or start.source is None:
        state = init_state(
            model, transformation, vocab_size, seed=seed, shardings=shardings, init_scale=init_scale, **options
        )
        return InitialState(state=state)
    if isinstance(given, InitializeFromHf):
        loaded = _load_hf(given, start.source, wanted, config.model, data)
    else:
        loaded = _load_checkpoint(given, start.source, wanted, data)
    redrawn = _token_ids(given.reinit_tokens, config.data.tokenizer, vocab_size)

    def complete(loaded: TrainState, key: jax.Array) -> TrainState:
        params = _filled(loaded.params, init_params(model, vocab_size, key=key, init_scale=init_scale))
        if redrawn:
            params = redraw_tokens(params, redrawn, jax.random.fold_in(key, 1))
        return _filled(replace(loaded, params=params), state_of(model, params, transformation, **options))

    state = jax.jit(complete, donate_argnums=0, out_shardings=shardings)(loaded.state, jax.random.key(seed))
    return replace(loaded, state=state)


def redraw_tokens(params: Any, token_ids: Sequence[int], key: jax.Array) -> Any:
    """Parameters whose embedding (and unembedding) of these tokens is drawn anew.

    Each element is normal with the mean and the standard deviation that the other tokens have in its dimension.
    """
    ids = jnp.array(token_ids)

    def redrawn(table: jax.Array, key: jax.Array) -> jax.Array:  # (vocab, hidden)
        others = jnp.ones(len(table), bool).at[ids].set(False)[:, None]
        mean, std = jnp.mean(table, axis=0, where=others), jnp.std(table, axis=0, where=others)
        return table.at[ids].set(mean + std * jax.random.normal(key, (len(token_ids), table.shape[1])))

    first, second = jax.random.split(key)
    tables = {"embedding": redrawn(params.embedding, first)}
    if getattr(params, "unembedding", None) is not None:
        tables["unembedding"] = redrawn(params.unembedding.T, second).T
    return replace(params, **tables)


def _load_checkpoint(given: InitializeFrom, source: Source, wanted: TrainState, data: LmData) -> InitialState:
    """What the checkpoint has of `wanted`, with None in place of what it has not."""
    folder = source.folder
    digest = checkpoint.read_metadata(folder).get("tokenizer_digest")
    if digest is not None and not given.allow_other_tokenizer:
        _check_tokenizer(folder, digest, data.tokenizer_digest)
    part = wanted if given.content == "state" else TrainState(params=wanted.params, optimizer=None)
    saved = checkpoint.saved_arrays(folder)
    has_adapter = any(name.startswith("params.adapter.") for name in saved)
    if given.content == "state" and isinstance(wanted.params, LoraParams) and not has_adapter:
        raise ValueError(
            f"initialize_from: {folder} holds no LoRA adapter to train further. To adapt its model, set content to "
            "'weights'."
        )
    if given.content == "weights" and not has_adapter:
        part = replace(part, params=_own(wanted.params))
    if has_adapter and not isinstance(wanted.params, LoraParams):
        raise ValueError(
            f"initialize_from: {folder} holds a model with a LoRA adapter. Export it, which merges the two, and begin "
            "with the export (initialize_from_hf); or give this run the same lora to train the adapter further."
        )
    names = checkpoint.named_leaves(part)
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
    if isinstance(wanted.params, LoraParams) and not isinstance(loaded.params, LoraParams):
        loaded = replace(loaded, params=LoraParams(base=loaded.params, adapter={}))
    return InitialState(state=loaded, fresh=missing, left_out=left_out, source=source)


def _load_hf(
    given: InitializeFromHf, source: Source, wanted: TrainState, model: LmConfig, data: LmData
) -> InitialState:
    """The weights of the folder; its rows beyond the stores' vocabulary, which pad the table, are left out."""
    from marin.export.hf import check_same_architecture, cut_vocabulary, load_hf
    from marin.processing.tokenize.tokenizer import load_tokenizer

    folder = source.folder
    if not given.allow_other_tokenizer:
        _check_tokenizer(folder, load_tokenizer(folder).digest, data.tokenizer_digest)
    with _on_host():  # on the devices only in parts
        loaded = load_hf(folder)
        check_same_architecture(model, loaded.config, folder)
        if loaded.vocab_size < data.vocab_size:
            raise ValueError(
                f"initialize_from_hf: {folder} has a vocabulary of {loaded.vocab_size} tokens, the stores one of "
                f"{data.vocab_size}. Tokenize the text with its tokenizer."
            )
        params = cut_vocabulary(loaded.params, data.vocab_size)
    own = _own(wanted.params)
    names, found = checkpoint.named_leaves(own, "params"), checkpoint.named_leaves(params, "params")
    _check_shapes(folder, names, found)
    placed = [_on_devices(np.asarray(found[name]), leaf) for name, leaf in names.items()]
    params = jax.tree.unflatten(jax.tree.structure(own), placed)
    if isinstance(wanted.params, LoraParams):
        params = LoraParams(base=params, adapter={})
    cut = (f"{loaded.vocab_size - data.vocab_size} tokens beyond the vocabulary",)
    left_out = cut if loaded.vocab_size > data.vocab_size else ()
    return InitialState(state=TrainState(params=params, optimizer=None), left_out=left_out, source=source)


def _on_host() -> AbstractContextManager[Any]:
    """Inside, new arrays are in the host's memory, unless JAX was started without its CPU (JAX_PLATFORMS=cuda)."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()


def _on_devices(array: np.ndarray, like: Any) -> jax.Array:
    """The array where `like` has its sharding, or on the default device."""
    # copied, since a jax array that borrows numpy's memory could not be donated to a training step
    if like.sharding is None:
        return jnp.array(array)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda part: jnp.array(array[part]))


def _own(params: Any) -> Any:
    """A model's own parameters, without an adapter."""
    return params.base if isinstance(params, LoraParams) else params


def _token_ids(tokens: Sequence[str | int], tokenizer: str | None, vocab_size: int) -> list[int]:
    """Ids of tokens given by text or id, each once."""
    ids = []
    for token in tokens:
        if isinstance(token, str):
            if tokenizer is None:
                raise ValueError(
                    f"reinit_tokens names {token!r} by its text, which needs the tokenizer of the token stores: set "
                    "data.tokenizer to its folder, or give the id"
                )
            from marin.processing.tokenize.tokenizer import load_tokenizer

            token = load_tokenizer(tokenizer).token_id(token)
        if not 0 <= token < vocab_size:
            raise ValueError(f"reinit_tokens names the id {token}; the vocabulary has 0 to {vocab_size - 1}")
        ids.append(token)
    return list(dict.fromkeys(ids))


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
        sha256=checkpoint.manifest_digest(folder),
    )


def _hf_source(path: str) -> Source:
    folder = hf_folder(path)
    digest = _digest(folder)
    if digest is None:
        raise FileNotFoundError(f"initialize_from_hf: no model at {path}: expected a folder with {CONFIG_FILE}")
    return Source(path=path, checkpoint=".", step=0, sha256=digest)


def _digest_now(source: Source) -> str | None:
    """Hash of what lies at the source's place now; None where it is gone."""
    try:
        return _digest(source.folder)
    except FileNotFoundError:  # of a model that was in the cache
        return None


def _digest(folder: Path) -> str | None:
    """Hash of what is in a checkpoint, or of every byte of a model; None where there is neither."""
    if (folder / MANIFEST).is_file():
        return checkpoint.manifest_digest(folder)
    if not (folder / CONFIG_FILE).is_file():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    hashes = "".join(f"{path.name} {sha256_file(path)[1]}\n" for path in files)
    return hashlib.sha256(hashes.encode()).hexdigest()


def _read_source(output: Path) -> Source | None:
    path = output / SOURCE_FILE
    return Source(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _check_unchanged(given: InitializeFrom | InitializeFromHf, recorded: Source, output: Path) -> None:
    """ValueError where something else lies at that place now. (A run that has begun needs it no more.)"""
    now = _digest_now(replace(recorded, path=given.path))
    if now is not None and now != recorded.sha256:
        raise ValueError(
            f"{output} holds a run that was initialized from something else than there is now at "
            f"{Path(given.path) / recorded.checkpoint} (its sha256 "
            f"was {recorded.sha256[:12]}, is {now[:12]}). Restore that, give this run another output_path, or delete "
            "that folder to train anew."
        )


# -- whether it fits --------------------------------------------------------------------------------------------------


def _check_tokenizer(folder: Path, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise ValueError(
            f"initialize from {folder}: it was trained on tokens of another tokenizer (digest {theirs[:12]}) than the "
            f"stores of this run (digest {ours[:12]}). Tokenize the text with its tokenizer; or, where the ids mean "
            "the same and only special tokens differ, set allow_other_tokenizer."
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
            f"initialize from {folder}: it is of another model: {'; '.join(differing[:_NAMED])}"
            f"{f'; and {len(differing) - _NAMED} more' if len(differing) > _NAMED else ''}. Give this run the "
            "same model."
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
