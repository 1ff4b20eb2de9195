"""Everything a training run is, as plain frozen values.

`TrainLmConfig` is the whole truth: what is not in it does not influence the run. `SimpleTrainConfig` is a shorter front
for experiments; a field left None there takes the default of the full config, so that a default lives in one place.
Nothing here loads a tensor library: experiments are described and planned without one.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from marin.checkpoint.policy import KeepPolicy
from marin.cluster.resources import ResourceConfig
from marin.config.origins import annotated_yaml
from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.config import LmDataConfig
from marin.distributed.config import MeshConfig, ProcessesConfig
from marin.models.config import ATTENTION_IMPLEMENTATIONS, LmConfig, check_remat
from marin.models.lora_config import LoraConfig
from marin.optim.adamw import AdamWConfig
from marin.optim.optimizer import OptimizerConfig
from marin.optim.schedules import Duration, ScheduleShape, StableShape
from marin.optim.skip import SkipBadSteps
from marin.tracking.config import TrackerConfig
from marin.training.callback_config import CallbackConfig, ExportHfConfig, WatchConfig
from marin.training.initialize_config import InitializeFrom, InitializeFromHf

PRECISIONS = ("p=f32,c=f32", "p=f32,c=bfloat16")


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which updates to record with jax's profiler, into profile/ of the run's folder (for TensorBoard or Perfetto)."""

    start: int = 11
    """The first update recorded, counted from 1; 2 or more, since the first one compiles."""
    num_steps: int = 5
    """How many are. A run that is resumed within them records those that are left."""

    def __post_init__(self) -> None:
        if self.start < 2 or self.num_steps < 1:
            raise ValueError(
                f"profile: start must be 2 or more and num_steps 1 or more, got {self.start!r} and {self.num_steps!r}"
            )


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the run is carried out on this machine. No part of its identity: the results are the same bits."""

    __unversioned__: ClassVar[bool] = True

    compilation_cache: str | None = None
    """Folder of compiled programs; None is a folder of the user's cache, "off" compiles anew in each process."""
    show_progress: bool = True
    """Print progress to standard error."""
    prefetch: int = 8
    """Batches made ahead of the step."""
    keep_program: bool = True
    """Keep the lowered training step in the run's folder, StableHLO as compressed text; it costs one more lowering."""
    processes: ProcessesConfig = ProcessesConfig()
    """The processes that train together; by default what the environment says, or one."""
    profile: ProfileConfig | None = None
    """Record some updates with the profiler; None records none."""
    seconds_per_checkpoint: float | None = 60.0
    """Save also when so many seconds have passed since the last checkpoint, more where writing would take over a
    twentieth of the time. Such a checkpoint goes when a newer one comes. None saves by steps only."""

    def __post_init__(self) -> None:
        if self.prefetch < 1:
            raise ValueError(f"prefetch is {self.prefetch}; at least one batch is made ahead")
        if self.seconds_per_checkpoint is not None and not self.seconds_per_checkpoint > 0:
            raise ValueError(f"seconds_per_checkpoint must be above 0 or None, got {self.seconds_per_checkpoint}")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop around model, data and optimizer."""

    num_train_steps: int
    """Updates in the run."""
    train_batch_size: int | tuple[ScheduleStep, ...]
    """Rows of each update; or a list of {start: step, value: rows}, the first at step 0, where it changes."""
    seed: int
    """Draws the initial parameters. (The order of the data has its own: `LmDataConfig.shuffle_seed`.)"""
    train_seq_len: int | None = None
    """Tokens in a row; None is the longest the model takes."""
    per_device_parallelism: int | None = None
    """Rows on each device at one time, at most (microbatches); gradients are summed until the batch is full. None is
    all of the device's share."""
    precision: str = "p=f32,c=f32"
    """dtype of parameters (p) and of computation (c): 'p=f32,c=f32' or 'p=f32,c=bfloat16'."""
    z_loss_weight: float = 0.0
    """Factor of logsumexp(logits)^2 in the loss; 1e-4 is customary."""
    ema_beta: float | None = None
    """Keep a running average of the parameters, moved by 1 - ema_beta towards them after each update and validated
    beside them (as `ema/NAME`); None keeps none."""
    skip_bad_steps: SkipBadSteps | None = None
    """Skip updates whose loss or gradient norm is an outlier; None skips none. See `marin.optim.skip`."""
    remat: str = "none"
    """What the forward pass keeps of each layer for the backward pass: 'none' recomputes nothing, 'dots' and
    'attention' keep the large products or what attention gives, 'full' recomputes each layer: the least memory, a third
    more work; 'names:a,b' keeps the values of these names (`marin.models.config.REMAT_NAMES`)."""
    attention: str | None = None
    """How attention is computed: 'blocked', 'cudnn' (NVIDIA GPUs, with c=bfloat16), 'reference' or 'xla', see
    `marin.models.attention`; one that cannot run is an error. None is 'blocked', or 'reference' where the model has
    use_flash_attention false."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    steps_per_log: int = 1
    """Write a row of metrics each this many steps."""
    steps_per_eval: int | None = 1000
    """Validate each this many steps, and after the last; None validates after the last only."""
    eval_batch_size: int | None = None
    """Rows of a validation batch; None is train_batch_size (the largest of them)."""
    max_eval_batches: int | None = None
    """Validate on this many batches of rows spread evenly over each set, the same ones each time; None is all."""
    steps_per_checkpoint: int = 500
    """Save a checkpoint each this many steps, and after the last. (By time: `RuntimeConfig.seconds_per_checkpoint`.)"""
    keep_checkpoints: KeepPolicy = KeepPolicy()
    """Which of the older ones stay."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What has no influence on results."""

    def __post_init__(self) -> None:
        at_least_one = ("num_train_steps", "steps_per_log", "steps_per_checkpoint")
        or_none = ("train_seq_len", "per_device_parallelism", "steps_per_eval", "eval_batch_size", "max_eval_batches")
        for name in (*at_least_one, *or_none):
            value = getattr(self, name)
            if value is None and name in or_none:
                continue
            if value is None or value < 1:
                raise ValueError(f"{name} must be 1 or more{' or None' if name in or_none else ''}, got {value!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}: expected one of {', '.join(map(repr, PRECISIONS))}"
            )
        if self.attention not in (None, *ATTENTION_IMPLEMENTATIONS):
            names = ", ".join(map(repr, ATTENTION_IMPLEMENTATIONS))
            raise ValueError(f"unknown attention {self.attention!r}: expected one of {names}, or None")
        check_remat(self.remat)
        if not self.z_loss_weight >= 0:
            raise ValueError(f"z_loss_weight must be 0 or more, got {self.z_loss_weight!r}")
        if self.ema_beta is not None and not 0.0 <= self.ema_beta < 1.0:
            raise ValueError(f"ema_beta must be 0 or more and below 1, or None; got {self.ema_beta!r}")
        if isinstance(self.train_batch_size, int) and self.train_batch_size < 1:
            raise ValueError(f"train_batch_size must be 1 or more, got {self.train_batch_size!r}")
        for size in self.batches.sizes:
            self.num_microbatches(size)

    @property
    def batches(self) -> BatchSchedule:
        """Rows of the batch of each step."""
        return BatchSchedule(self.train_batch_size)

    def num_microbatches(self, batch_size: int, num_shards: int = 1) -> int:
        """Microbatches that make one batch of so many rows, cut over so many devices.

        Raises ValueError, with the arithmetic, for rows that cannot be divided evenly.
        """
        each = self.per_device_parallelism
        if each is None or each * num_shards >= batch_size:
            at_once, says = num_shards, f"the {num_shards} devices that share it"
        else:
            at_once = each * num_shards
            says = f"per_device_parallelism {each}" + (f" x {num_shards} devices = {at_once}" if num_shards > 1 else "")
        whole, left = divmod(batch_size, at_once)
        if left:
            nearest = " and ".join(str(n) for n in (batch_size - left, batch_size - left + at_once) if n)
            raise ValueError(
                f"train_batch_size {batch_size} is not a multiple of {says}: {whole} * {at_once} = "
                f"{batch_size - left} leaves {left} rows. Nearest batch sizes: {nearest}."
            )
        return 1 if each is None else max(1, batch_size // (each * num_shards))

    @property
    def compute_dtype(self) -> str:
        """Name of the dtype of computation."""
        return {"f32": "float32"}.get(self.precision.rpartition("=")[2], self.precision.rpartition("=")[2])


@dataclass(frozen=True, kw_only=True)
class TrainLmConfig:
    """A whole training run of a language model."""

    data: LmDataConfig
    """Token stores to train and validate on, and their order."""
    model: LmConfig
    """Shape of the model (`type: llama` and so on in YAML). Its vocabulary is the token stores'."""
    optimizer: OptimizerConfig
    """How gradients become updates."""
    trainer: TrainerConfig
    """The loop."""
    output_path: str
    """Folder for checkpoints, metrics and the resolved config. A run found there is resumed."""
    initialize_from: InitializeFrom | None = None
    """Another run's checkpoint to begin with; None begins with random parameters."""
    initialize_from_hf: InitializeFromHf | None = None
    """A model in the Hugging Face format to begin with; its architecture must be `model`'s."""
    lora: LoraConfig | None = None
    """Train a low-rank adapter of the model that the run begins with; None trains all parameters."""
    vocab_size: int | None = None
    """State the vocabulary to have it checked against the token stores; None takes theirs."""
    mup_base_model: LmConfig | None = None
    """The narrower model that learning rate and initial scale were found on, to carry them over by muP: see
    `marin.optim.mup`. None uses both as they are."""
    callbacks: tuple[CallbackConfig, ...] = ()
    """What happens besides logging, validation and checkpoints, in this order: see `marin.training.callback_config`."""
    trackers: tuple[TrackerConfig, ...] = field(default=(), metadata={"version": {"exclude": True}})
    """Where numbers go besides metrics.jsonl; no part of the run's identity. See `marin.tracking.config`."""
    origins: dict[str, str] = field(default_factory=dict, compare=False, metadata={"version": {"exclude": True}})
    """Where values come from that are no defaults, by their place, as `marin.config.origins` notes it; no part of the
    run's identity."""

    def __post_init__(self) -> None:
        callbacks = self.callbacks if isinstance(self.callbacks, tuple) else ()  # in a step it may be wrapped
        if sum(isinstance(callback, WatchConfig) for callback in callbacks) > 1:
            raise ValueError("callbacks lists 'watch' more than once; one step is watched in one way")
        if self.initialize_from is not None and self.initialize_from_hf is not None:
            raise ValueError("initialize_from and initialize_from_hf both say what to begin with: give one of them")

        if self.lora is not None:
            self._check_lora()

    def _check_lora(self) -> None:
        source = self.initialize_from or self.initialize_from_hf
        if source is None:
            raise ValueError("lora adapts a model: say which, by initialize_from or initialize_from_hf")
        if source.reinit_tokens:
            raise ValueError("reinit_tokens draws embeddings that lora would leave as they were drawn: leave one out")
        if self.mup_base_model is not None or self.trainer.ema_beta is not None:
            raise ValueError("lora goes with neither mup_base_model nor trainer.ema_beta: leave them out")

    def to_yaml(self) -> str:
        """The config as YAML with the origin of each value as a comment."""
        return annotated_yaml(self, self.origins, leave_out=("origins",))


@dataclass(frozen=True, kw_only=True)
class SimpleTrainConfig:
    """The usual settings of a run in one flat list. None takes the default of the full config named with it."""

    train_batch_size: int | tuple[ScheduleStep, ...]
    """Rows of each update, or where they change (TrainerConfig)."""
    num_train_steps: int
    """Updates in the run."""
    learning_rate: float
    """Peak learning rate."""
    resources: ResourceConfig | None = None
    """What the training step asks of the cluster; None runs in the process of the executor."""
    accelerator_type: str | None = None
    """Short form of resources: a TPU slice by name, like 'v4-128'. Give one of the two."""
    weight_decay: float | None = None
    """AdamWConfig."""
    beta1: float | None = None
    """AdamWConfig."""
    beta2: float | None = None
    """AdamWConfig."""
    epsilon: float | None = None
    """AdamWConfig."""
    max_grad_norm: float | None = None
    """AdamWConfig; to never clip, give `optimizer_config`."""
    warmup: Duration | None = None
    """AdamWConfig; an int is steps, a float in (0, 1) a fraction of the run."""
    decay: Duration | tuple[Duration, ...] | None = None
    """AdamWConfig; in the same units."""
    lr_schedule: ScheduleShape | None = None
    """AdamWConfig."""
    min_lr_ratio: float | None = None
    """AdamWConfig."""
    stable_lr_schedule: StableShape | None = None
    """AdamWConfig."""
    cycles: int | tuple[int, ...] | None = None
    """AdamWConfig."""
    cycle_length: Duration | tuple[int, ...] | None = None
    """AdamWConfig."""
    rewarmup: Duration | None = None
    """AdamWConfig."""
    optimizer_config: OptimizerConfig | None = None
    """A whole optimizer instead of the settings above; its learning_rate must be this one's."""
    z_loss_weight: float | None = None
    """TrainerConfig."""
    ema_beta: float | None = None
    """TrainerConfig."""
    skip_bad_steps: bool = False
    """Skip outliers as `SkipBadSteps()` does (TrainerConfig)."""
    train_seq_len: int | None = None
    """TrainerConfig."""
    per_device_parallelism: int | None = None
    """TrainerConfig."""
    precision: str | None = None
    """TrainerConfig."""
    mesh: MeshConfig | None = None
    """TrainerConfig."""
    seed: int = 0
    """Draws the initial parameters."""
    data_seed: int | None = None
    """Order of the data (LmDataConfig.shuffle_seed); None leaves the data config's own."""
    initialize_from_checkpoint_path: str | None = None
    """Begin with the whole state of another run, and count updates on from there (InitializeFrom of content 'state');
    in a script also a training step or a place in one. For its weights alone, see TrainLmConfig.initialize_from."""
    initialize_from_hf: str | None = None
    """Begin with the weights of a model in the Hugging Face format (InitializeFromHf.path)."""
    reset_data_loader_on_init: bool | None = None
    """InitializeFrom."""
    allow_partial_checkpoint: bool | None = None
    """InitializeFrom.allow_partial."""
    lora: LoraConfig | None = None
    """TrainLmConfig."""
    steps_per_eval: int | None = None
    """TrainerConfig."""
    max_eval_batches: int | None = None
    """TrainerConfig."""
    per_device_eval_parallelism: int | None = None
    """Rows of a validation batch (TrainerConfig.eval_batch_size)."""
    steps_per_checkpoint: int | None = None
    """TrainerConfig."""
    steps_per_export: int | None = None
    """Keep each checkpoint whose step is a multiple of this for good (KeepPolicy.keep_every)."""
    steps_per_hf_export: int | None = None
    """Export to the Hugging Face format each this many steps, and after the last (ExportHfConfig); None: not while
    training. It needs the tokenizer in the data config."""
    callbacks: tuple[CallbackConfig, ...] = ()
    """TrainLmConfig."""
    trackers: tuple[TrackerConfig, ...] = ()
    """TrainLmConfig."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What has no influence on results."""

    def __post_init__(self) -> None:
        if self.resources is not None and self.accelerator_type is not None:
            raise ValueError(
                f"resources and accelerator_type={self.accelerator_type!r} say the same thing twice: give one of them"
            )
        if self.initialize_from_checkpoint_path is not None and self.initialize_from_hf is not None:
            raise ValueError(
                "initialize_from_checkpoint_path and initialize_from_hf both say what to begin with: give one of them"
            )
        if self.initialize_from_checkpoint_path is None:
            given = [name for name in _INITIALIZE_FIELDS if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{given[0]} is for initialize_from_checkpoint_path, which is not given")
        if self.optimizer_config is not None:
            given = [name for name in _ADAMW_FIELDS if getattr(self, name) is not None]
            if given:
                raise ValueError(
                    f"optimizer_config and {', '.join(given)} are both given: set the latter in optimizer_config"
                )
            other = self.optimizer_config.learning_rate
            if other != self.learning_rate:
                raise ValueError(
                    f"learning_rate is {self.learning_rate!r} here and {other!r} in optimizer_config: give the same"
                )

    def optimizer(self) -> OptimizerConfig:
        """The full optimizer config."""
        if self.optimizer_config is not None:
            return self.optimizer_config
        return AdamWConfig(learning_rate=self.learning_rate, **self._given(*_ADAMW_FIELDS))

    def trainer(self) -> TrainerConfig:
        """The full trainer config."""
        renamed: dict[str, Any] = {
            full: getattr(self, name) for full, name in _RENAMED.items() if getattr(self, name) is not None
        }
        if self.steps_per_export is not None:
            renamed["keep_checkpoints"] = KeepPolicy(keep_every=self.steps_per_export)
        if self.skip_bad_steps:
            renamed["skip_bad_steps"] = SkipBadSteps()
        return TrainerConfig(
            num_train_steps=self.num_train_steps,
            train_batch_size=self.train_batch_size,
            seed=self.seed,
            runtime=self.runtime,
            **self._given(*_TRAINER_FIELDS),
            **renamed,
        )

    def initialize_from(self) -> InitializeFrom | None:
        """What the run begins with."""
        path = self.initialize_from_checkpoint_path
        if path is None:
            return None
        options: dict[str, Any] = {full: getattr(self, name) for name, full in self._initialize_options()}
        return InitializeFrom(path=path, content="state", **options)

    def _initialize_options(self) -> list[tuple[str, str]]:
        return [(name, full) for name, full in _INITIALIZE_FIELDS.items() if getattr(self, name) is not None]

    def all_callbacks(self) -> tuple[CallbackConfig, ...]:
        """The callbacks, the export among them."""
        export = () if self.steps_per_hf_export is None else (ExportHfConfig(every=self.steps_per_hf_export),)
        return (*self.callbacks, *export)

    def origins(self) -> dict[str, str]:
        """Place of each value of the full config that a field here decides -> that field."""
        places = {f"trainer.{name}": name for name in ("num_train_steps", "train_batch_size", "seed", "runtime")}
        places |= {f"trainer.{name}": name for name in self._given(*_TRAINER_FIELDS)}
        places |= {f"trainer.{full}": name for full, name in _RENAMED.items() if getattr(self, name) is not None}
        if self.steps_per_export is not None:
            places["trainer.keep_checkpoints.keep_every"] = "steps_per_export"
        if self.skip_bad_steps:
            places["trainer.skip_bad_steps"] = "skip_bad_steps"
        if self.optimizer_config is not None:
            places["optimizer"] = "optimizer_config"
        else:
            places["optimizer.type"] = "optimizer_config"  # AdamW where it is None
            places |= {f"optimizer.{name}": name for name in ("learning_rate", *self._given(*_ADAMW_FIELDS))}
        places |= {f"callbacks.{index}": "callbacks" for index in range(len(self.callbacks))}
        if self.steps_per_hf_export is not None:
            places[f"callbacks.{len(self.callbacks)}"] = "steps_per_hf_export"
        if self.data_seed is not None:
            places["data.shuffle_seed"] = "data_seed"
        if self.initialize_from_hf is not None:
            places["initialize_from_hf"] = "initialize_from_hf"
        if self.initialize_from_checkpoint_path is not None:
            places["initialize_from"] = "initialize_from_checkpoint_path"
            places |= {f"initialize_from.{full}": name for name, full in self._initialize_options()}
        if self.lora is not None:
            places["lora"] = "lora"
        if self.trackers:
            places["trackers"] = "trackers"
        defaults = {f.name for f in fields(self) if f.default is not MISSING and getattr(self, f.name) == f.default}
        return {
            place: f"{'default of ' * (name in defaults)}SimpleTrainConfig.{name}" for place, name in places.items()
        }

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_TRAINER_FIELDS = (
    *("z_loss_weight", "ema_beta", "train_seq_len", "precision", "per_device_parallelism", "mesh"),
    *("steps_per_eval", "max_eval_batches", "steps_per_checkpoint"),
)
_INITIALIZE_FIELDS = {
    "reset_data_loader_on_init": "reset_data_loader_on_init",
    "allow_partial_checkpoint": "allow_partial",
}
"""Fields here -> what they are called in InitializeFrom."""

_RENAMED = {"eval_batch_size": "per_device_eval_parallelism"}
"""Fields of TrainerConfig -> what they are called in SimpleTrainConfig."""

_ADAMW_FIELDS = (
    *("weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm"),
    *("warmup", "decay", "lr_schedule", "min_lr_ratio"),
    *("stable_lr_schedule", "cycles", "cycle_length", "rewarmup"),
)
