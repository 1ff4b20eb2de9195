"""The callbacks that a config can add to a run, as plain values: `callbacks: [{type: watch, every: 100}, ...]`.

Each is a config with a method that builds the callback for a run, so that adding one of your own is a class, which a
config names as `type: module:Class`. All that they write is deterministic and part of the law of killed runs. So they
are part of what a run is: a run goes on only with the callbacks that it began with. They are called in the order of the
list, after validation and before the checkpoint is saved. Nothing here loads a tensor library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from marin.config import register_choice, retire_choice
from marin.evaluation.tasks import CORE_TASKS, EvalTaskConfig
from marin.export.config import MAX_SHARD_BYTES

if TYPE_CHECKING:
    from marin.training.run import Run


@runtime_checkable
class CallbackConfig(Protocol):
    """What the config of every callback offers."""

    def build(self, run: "Run") -> Callable[[Any], None]:
        """The callback, a function of `marin.training.callbacks.StepDone`."""
        ...


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """Norms of gradient, parameters and update of each parameter, as `watch/grad_norm/NAME` and so on, and histograms.

    They are measured inside the step, by a second program that runs only when they are due. Its updates can differ
    from the plain program's in the last bit, the same way each time.
    """

    every: int = 100
    """Steps between two measurements; also after the last step."""
    histograms: bool = True
    """Write histograms of magnitudes too, to histograms.jsonl; see `marin.training.watch_statistics`."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "every")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.watch import Watch

        return Watch(self, run)


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
    """Ends the run when a metric has not become better for some time."""

    metric: str
    """A number that validation or a callback listed before this one writes, like `validation/held_out/loss`."""
    patience: int = 3
    """Measurements in a row that are no better than the best before them, until the run ends."""
    min_delta: float = 0.0
    """By how much a measurement must beat the best to count as better."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "patience")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta must be 0 or more, got {self.min_delta!r}")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.early_stopping import EarlyStopping

        return EarlyStopping(self, run)


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Completions of fixed prompts, to samples.jsonl and the trackers, for a person to read."""

    prompts: tuple[str, ...]
    """Texts to complete."""
    every: int | None = None
    """Steps between two; also after the last step. None: after the last only."""
    max_new_tokens: int = 64
    """Where a completion is cut off, if it does not end by itself."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws; the same at each step."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "every", "max_new_tokens")
        if not self.prompts or not all(self.prompts):
            raise ValueError(f"prompts must be texts that are not empty, at least one; got {self.prompts!r}")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.samples import Samples

        return Samples(self, run)


@dataclass(frozen=True, kw_only=True)
class MemorizationConfig:
    """The probability with which the model goes on with the exact words of held texts, by how much it was shown.

    For each prefix length k: the probability P(z) of the n tokens that follow the first k of a document.
    `marin.training.memorization` has the formula.
    """

    source: str
    """The training source or validation set that the texts are from, by its name in the data config."""
    prefix_lengths: tuple[int, ...] = (8, 32)
    """Tokens shown."""
    continuation_length: int = 16
    """Tokens whose probability is asked for."""
    num_sequences: int = 64
    """Documents, spread evenly over those that are long enough; fewer where there are fewer."""
    every: int | None = None
    """Steps between two measurements; also after the last step. None: after the last only."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "continuation_length", "num_sequences", "every")
        if not self.prefix_lengths or min(self.prefix_lengths) < 0:
            raise ValueError(f"prefix_lengths must be one or more lengths, 0 or more each; got {self.prefix_lengths!r}")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.memorization import Memorization

        return Memorization(self, run)


@dataclass(frozen=True, kw_only=True)
class EvalsConfig:
    """Scores on tasks of `marin.evaluation.tasks`, as `eval/TASK/acc` and so on, of the parameters in training.

    The questions, prompts and metrics are those of an evaluation of the same parameters after training.
    """

    tasks: tuple[EvalTaskConfig, ...] = CORE_TASKS
    """Tasks and groups, each at its number of shots, and files of questions of your own."""
    data: str | None = None
    """Folder of the tasks' data; None: $MARIN_EVAL_DATA, else $MARIN_SHARED_DATA/eval. In a step's config it may be a
    step or a place in one."""
    every: int | None = None
    """Steps between two; also after the last step. None: after the last only."""
    limit: int | None = None
    """Ask the first so many questions of each task; None: all."""
    metrics: Literal["lm_eval", "core"] = "lm_eval"
    """`core` adds the CORE average of DataComp-LM."""
    mutual_information: bool = False
    """Add acc_mutual_info, for a second, short request for each candidate."""
    fewshot_seed: int = 1234
    """Draws solved examples, where a task draws them."""
    apply_chat_template: bool = False
    """Ask in the chat template of the conversations that are trained on, else of the tokenizer's folder."""
    fewshot_as_multiturn: bool = True
    """In a chat template: solved examples are turns of their own; else they stand in the user's turn."""
    system_instruction: str | None = None
    """In a chat template: the system's turn, before a task's description."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "every", "limit", "tokens_per_batch")
        if self.system_instruction is not None and not self.apply_chat_template:
            raise ValueError("system_instruction is given and apply_chat_template is not: it stands in a chat template")
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task of marin.evaluation.tasks")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.evals import Evals

        return Evals(self, run)


@dataclass(frozen=True, kw_only=True)
class ExportHfConfig:
    """The model in the Hugging Face format, in hf/step-N/, each one verified by its logits before it gets that name."""

    every: int | None = None
    """Steps between two; also after the last step. None: after the last only."""
    average: bool = False
    """Export the running average of the parameters (TrainerConfig.ema_beta) instead of the parameters."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Weights that are more than this are written as several files with an index."""

    def __post_init__(self) -> None:
        _check_at_least_one(self, "every", "max_shard_bytes")

    def build(self, run: "Run") -> Callable[[Any], None]:
        from marin.training.export_hf import ExportHf

        return ExportHf(self, run)


def _check_at_least_one(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value!r}")


register_choice(CallbackConfig, "watch", "marin.training.callback_config:WatchConfig")
register_choice(CallbackConfig, "early_stopping", "marin.training.callback_config:EarlyStoppingConfig")
register_choice(CallbackConfig, "samples", "marin.training.callback_config:SamplesConfig")
register_choice(CallbackConfig, "memorization", "marin.training.callback_config:MemorizationConfig")
register_choice(CallbackConfig, "evals", "marin.training.callback_config:EvalsConfig")
register_choice(CallbackConfig, "export_hf", "marin.training.callback_config:ExportHfConfig")
retire_choice(
    CallbackConfig,
    "task_evals",
    "write `type: evals` with `tasks: [{name: NAME, num_fewshot: 0, file: PATH}]` for each file; `limit` is "
    "what max_questions was (now the first ones), and its metrics are eval/NAME/acc and so on",
)
