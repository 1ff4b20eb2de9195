"""The usual settings of supervised fine-tuning in one flat list, a front over TrainLmConfig as SimpleTrainConfig is.

What differs from training anew: a run begins with the weights of a trained model, counts its updates from 0, and may be
as long as so many passes through its conversations, of which nobody knows the number of rows before they are tokenized.
How conversations become tokens is not here but where they do (`default_tokenize(..., chat=...)`), since a token store
has one answer to that.
"""

from dataclasses import dataclass, fields, replace

from marin.cluster.resources import ResourceConfig
from marin.data.config import LmDataConfig, LongConversations, PackingMode
from marin.distributed.config import MeshConfig
from marin.models.lora_config import LoraConfig
from marin.optim.optimizer import OptimizerConfig
from marin.optim.schedules import Duration, ScheduleShape
from marin.tracking.config import TrackerConfig
from marin.training.callback_config import CallbackConfig
from marin.training.config import RuntimeConfig, SimpleTrainConfig, TrainLmConfig
from marin.training.initialize_config import InitializeFrom, InitializeFromHf

STEPS_NOT_KNOWN = 1_000_000_000
"""Stands for the number of updates until the length of an epoch is known."""


@dataclass(frozen=True, kw_only=True)
class SimpleSFTConfig:
    """Settings of a fine-tuning run. None takes the default of the full config named with it."""

    train_batch_size: int
    """Rows of each update."""
    learning_rate: float
    """Peak learning rate."""
    initialize_from_checkpoint_path: str | None = None
    """The run whose weights to begin with, or one of its checkpoints (InitializeFrom of content 'weights'); in a script
    also a training step or a place in one. Give this or model_name_or_path."""
    model_name_or_path: str | None = None
    """The model in the Hugging Face format to begin with: a folder, a step, or hf://organization/name in the local
    cache (InitializeFromHf)."""
    allow_other_tokenizer: bool = False
    """InitializeFromHf."""
    reinit_tokens: tuple[str | int, ...] = ()
    """Tokens whose embeddings are drawn anew (InitializeFrom, InitializeFromHf): those that the model has never seen,
    like the ones that begin and end a turn. By their text it needs the tokenizer."""
    num_train_steps: int | None = None
    """Updates in the run. Give this or num_epochs."""
    num_epochs: float | None = None
    """Passes through all rows, rounded up to whole updates; of several sources each as often to within a part of a
    block (LmDataConfig.mixture_block_size). The data config must not give weights: with them sources are passed through
    at different paces."""
    max_seq_len: int | None = None
    """Tokens in a row (TrainerConfig.train_seq_len)."""
    packing: PackingMode | None = None
    """LmDataConfig. None leaves the data config's own; one token store alone is packed by 'best_fit'."""
    long_conversations: LongConversations | None = None
    """LmDataConfig. None leaves the data config's own."""
    tokenizer: str | None = None
    """LmDataConfig: folder of the tokenizer, which exports and samples need. None leaves the data config's own."""
    resources: ResourceConfig | None = None
    """What the training step asks of the cluster; None runs in the process of the executor."""
    accelerator_type: str | None = None
    """Short form of resources: a TPU slice by name. Give one of the two."""
    weight_decay: float | None = None
    """AdamWConfig."""
    beta1: float | None = None
    """AdamWConfig."""
    beta2: float | None = None
    """AdamWConfig."""
    epsilon: float | None = None
    """AdamWConfig."""
    max_grad_norm: float | None = None
    """AdamWConfig."""
    warmup: Duration | None = None
    """AdamWConfig; an int is steps, a float in (0, 1) a fraction of the run."""
    decay: Duration | None = None
    """AdamWConfig; in the same units."""
    lr_schedule: ScheduleShape | None = None
    """AdamWConfig."""
    min_lr_ratio: float | None = None
    """AdamWConfig."""
    optimizer_config: OptimizerConfig | None = None
    """A whole optimizer instead of the settings above; its learning_rate must be this one's."""
    z_loss_weight: float | None = None
    """TrainerConfig."""
    ema_beta: float | None = None
    """TrainerConfig."""
    lora: LoraConfig | None = None
    """TrainLmConfig: train an adapter on the model, which stays as it is."""
    per_device_parallelism: int | None = None
    """TrainerConfig."""
    precision: str | None = None
    """TrainerConfig."""
    mesh: MeshConfig | None = None
    """TrainerConfig."""
    seed: int = 0
    """Draws whatever is drawn."""
    data_seed: int | None = None
    """Order of the data (LmDataConfig.shuffle_seed); None leaves the data config's own."""
    steps_per_eval: int | None = None
    """TrainerConfig."""
    max_eval_batches: int | None = None
    """TrainerConfig."""
    per_device_eval_parallelism: int | None = None
    """Rows of a validation batch (TrainerConfig.eval_batch_size)."""
    steps_per_checkpoint: int | None = None
    """TrainerConfig."""
    steps_per_export: int | None = None
    """Keep each checkpoint whose step is a multiple of this for good."""
    steps_per_hf_export: int | None = None
    """Export to the Hugging Face format each this many steps, and after the last; None: not while training. It needs
    the tokenizer."""
    callbacks: tuple[CallbackConfig, ...] = ()
    """TrainLmConfig."""
    trackers: tuple[TrackerConfig, ...] = ()
    """TrainLmConfig."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What has no influence on results."""

    def __post_init__(self) -> None:
        if (self.num_train_steps is None) == (self.num_epochs is None):
            raise ValueError(
                f"num_train_steps is {self.num_train_steps!r} and num_epochs {self.num_epochs!r}: give one of them, "
                "which says how long the run is"
            )
        if (self.initialize_from_checkpoint_path is None) == (self.model_name_or_path is None):
            raise ValueError(
                f"initialize_from_checkpoint_path is {self.initialize_from_checkpoint_path!r} and model_name_or_path "
                f"{self.model_name_or_path!r}: give one of them, the model to fine-tune"
            )
        if self.allow_other_tokenizer and self.model_name_or_path is None:
            raise ValueError("allow_other_tokenizer is for model_name_or_path, which is not given")
        if isinstance(self.num_epochs, int | float) and not 0 < self.num_epochs < float("inf"):
            raise ValueError(f"num_epochs must be above 0, got {self.num_epochs!r}")
        if not isinstance(self.train_batch_size, int):
            raise ValueError(f"train_batch_size must be one number of rows, got {self.train_batch_size!r}")
        self.train_config()  # which checks the rest

    def data(self, data: LmDataConfig) -> LmDataConfig:
        """The data config with what is said here. ValueError where epochs of it cannot be counted."""
        if self.num_epochs is not None and data.weights is not None:
            raise ValueError(
                f"num_epochs is {self.num_epochs!r}, and the data config gives weights ({data.weights!r}), by which "
                "its sources are passed through at different paces. Give num_train_steps, or leave the weights out."
            )
        given = {name: getattr(self, name) for name in _DATA_FIELDS if getattr(self, name) is not None}
        return replace(data, **given)

    def initialize_from(self) -> InitializeFrom | None:
        """The run's checkpoint that this one begins with."""
        path = self.initialize_from_checkpoint_path
        if path is None:
            return None
        return InitializeFrom(path=path, content="weights", reinit_tokens=self.reinit_tokens)

    def initialize_from_hf(self) -> InitializeFromHf | None:
        """The model in the Hugging Face format that it begins with."""
        if self.model_name_or_path is None:
            return None
        return InitializeFromHf(
            path=self.model_name_or_path,
            allow_other_tokenizer=self.allow_other_tokenizer,
            reinit_tokens=self.reinit_tokens,
        )

    def train_config(self) -> SimpleTrainConfig:
        """The settings that training anew has too."""
        shared = {name: getattr(self, name) for name in _SHARED_FIELDS}
        steps = STEPS_NOT_KNOWN if self.num_train_steps is None else self.num_train_steps
        return SimpleTrainConfig(num_train_steps=steps, train_seq_len=self.max_seq_len, **shared)

    def origins(self, of_training: dict[str, str]) -> dict[str, str]:
        """Place of each value of the full config that a field here decides -> that field; `of_training` has them as
        `train_config` does."""
        own = {
            place: text.replace("SimpleTrainConfig.", "SimpleSFTConfig.").replace("default_train", "default_sft")
            for place, text in of_training.items()
        }
        if self.model_name_or_path is None:
            own["initialize_from"] = "SimpleSFTConfig.initialize_from_checkpoint_path"
        else:
            own["initialize_from_hf"] = "SimpleSFTConfig.model_name_or_path"
        if self.lora is not None:
            own["lora"] = "SimpleSFTConfig.lora"
        if self.num_epochs is not None:
            own["trainer.num_train_steps"] = "SimpleSFTConfig.num_epochs"
        if self.max_seq_len is not None:
            own["trainer.train_seq_len"] = "SimpleSFTConfig.max_seq_len"
        return own | {f"data.{name}": f"SimpleSFTConfig.{name}" for name in _DATA_FIELDS if getattr(self, name)}


_DATA_FIELDS = ("packing", "long_conversations", "tokenizer")
_SHARED_FIELDS = tuple(
    sorted(
        {field.name for field in fields(SimpleSFTConfig)}
        & {field.name for field in fields(SimpleTrainConfig)}
        - {"num_train_steps", "initialize_from_checkpoint_path", "lora"}
    )
)


@dataclass(frozen=True, kw_only=True)
class TrainEpochsConfig:
    """A run that is as long as so many passes through its data."""

    run: TrainLmConfig
    """The run; its trainer.num_train_steps is replaced, whatever it says."""
    num_epochs: float
    """Passes through all rows."""
