"""A run that is checked and ready to begin, or to go on: nothing is written yet.

What contradicts itself, the data, this machine or an earlier run in the folder is refused here, so that a refused run
leaves the folder as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from marin.checkpoint import format as checkpoint
from marin.data.batch_schedule import BatchSchedule
from marin.data.lm_data import LmData, open_data
from marin.data.loader import DataLoader
from marin.distributed.mesh import make_mesh, num_batch_shards, state_shardings, with_shardings
from marin.models.config import LmConfig, embedding_multiplier
from marin.optim.mup import mup_scales
from marin.optim.schedules import Schedule
from marin.training.callbacks import check_set_names
from marin.training.config import TrainLmConfig
from marin.training.initialize import InitialState, RunStart, find_start, initial_state, run_batches
from marin.training.resume import check_same_config, find_checkpoint, store_digests
from marin.training.run import trained_model
from marin.training.state import TrainState, state_shapes
from marin.training.train_step import CompiledStep, make_train_step


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a run is made of, before its first update."""

    config: TrainLmConfig
    """As given."""
    data: LmData
    """Opened and checked."""
    loader: DataLoader
    """The batch of any update."""
    schedule: Schedule
    """Learning rate of each update."""
    stores: dict[str, str]
    """What each token store is for -> hash of its ledger."""
    model: LmConfig
    """What is trained: the model of the config, with its adapter where it has one."""
    transformation: optax.GradientTransformation
    """The optimizer."""
    mesh: Mesh | None
    """The devices; None for one."""
    start: RunStart
    """Where the run begins, or began."""
    sizes: Sequence[int]
    """Rows of its batches, each size once."""
    wanted: TrainState
    """Shapes of the state, with shardings where there is a mesh."""
    shardings: TrainState | None
    """Where on the mesh each array of the state lies."""
    state: TrainState
    """What the first update takes, and uses up."""
    found: checkpoint.Loaded | None
    """The run's own checkpoint that it goes on from."""
    initial: InitialState | None
    """What it begins with, where it has none."""

    @property
    def resume_step(self) -> int | None:
        """Updates done by this run before it was stopped; None: it begins."""
        return None if self.found is None else self.found.step

    @property
    def start_step(self) -> int:
        """Updates done before the next one."""
        return self.start.step if self.found is None else self.found.step

    def train_steps(self, *, is_watched: bool = False) -> dict[int, CompiledStep]:
        """Batch size -> the step for it; each is compiled when it first comes."""
        trainer, chat = self.config.trainer, self.data.chat
        return {
            size: make_train_step(
                self.model,
                self.transformation,
                max_grad_norm=self.config.optimizer.max_grad_norm,
                num_microbatches=trainer.num_microbatches(size, num_batch_shards(self.mesh)),
                compute_dtype=trainer.compute_dtype,
                z_loss_weight=trainer.z_loss_weight,
                remat=trainer.remat,
                attention=trainer.attention,
                ema_beta=trainer.ema_beta,
                skip=trainer.skip_bad_steps,
                stop_id=None if chat is None else chat.stop_id,
                is_watched=is_watched,
                shardings=self.shardings,
            )
            for size in self.sizes
        }


def prepare(config: TrainLmConfig) -> Prepared:
    """The run that `config` describes.

    Raises:
        ValueError: settings contradict each other, the data, or an earlier run in that folder.
        CorruptCheckpointError: there are checkpoints in that folder, and each of them is damaged.
    """
    output, trainer = Path(config.output_path), config.trainer
    seq_len = _seq_len(config)
    check_same_config(config, output)
    start = find_start(config, output)
    batches = run_batches(config, start)
    data = _open_data(config, seq_len, batches)
    loader = DataLoader(data.train, batches)
    loader.check_num_steps(trainer.num_train_steps)
    schedule = config.optimizer.schedule(trainer.num_train_steps)
    model = trained_model(config)
    shapes = _parameter_shapes(model, data.vocab_size)
    if trainer.attention is not None:
        _check_attention(config, model, shapes, seq_len)
    mup = None
    if config.mup_base_model is not None:
        mup = mup_scales(
            shapes,
            _parameter_shapes(config.mup_base_model, data.vocab_size),
            embedding_ratio=embedding_multiplier(config.model) / embedding_multiplier(config.mup_base_model),
        )
    transformation = config.optimizer.transformation(
        model.weight_decay_mask(shapes), None if mup is None else mup.learning_rate
    )
    state_options: dict[str, Any] = {
        "has_average": trainer.ema_beta is not None,
        "skip": trainer.skip_bad_steps,
        "init_scale": None if mup is None else mup.init,
    }

    mesh = make_mesh(trainer.mesh)
    sizes = batches.sizes_between(start.step, trainer.num_train_steps)
    for size in sizes:
        trainer.num_microbatches(size, num_batch_shards(mesh))  # refuses what cannot be divided
    wanted, shardings = state_shapes(model, transformation, data.vocab_size, **state_options), None
    if mesh is not None:
        shardings = state_shardings(wanted, shapes, mesh, fsdp=trainer.mesh.fsdp)
        wanted = with_shardings(wanted, shardings)

    stores = store_digests(data)
    found, initial = find_checkpoint(output / "checkpoints", wanted, data, stores), None
    if found is None:
        initial = initial_state(config, start, wanted, transformation, data, shardings=shardings, **state_options)
        state = initial.state
    else:
        state = found.state
    return Prepared(
        config=config,
        data=data,
        loader=loader,
        schedule=schedule,
        stores=stores,
        model=model,
        transformation=transformation,
        mesh=mesh,
        start=start,
        sizes=sizes,
        wanted=wanted,
        shardings=shardings,
        state=state,
        found=found,
        initial=initial,
    )


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


def _check_attention(config: TrainLmConfig, model: LmConfig, shapes: Any, seq_len: int) -> None:
    """Raise ValueError where the asked implementation of attention cannot run this model here."""
    trainer = config.trainer
    options = {"compute_dtype": trainer.compute_dtype, "attention": trainer.attention}
    tokens = jax.ShapeDtypeStruct((1, seq_len), "int32")
    jax.eval_shape(lambda params, tokens: model.hidden_states(params, tokens, **options), shapes, tokens)


def _parameter_shapes(model: LmConfig, vocab_size: int) -> Any:
    return jax.eval_shape(lambda: model.init(vocab_size, key=jax.random.key(0)))
