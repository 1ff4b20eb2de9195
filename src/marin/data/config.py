"""What a language model is trained and validated on: plain values, so a part of a run's identity as it stands.

Defining an experiment loads this module and no array library; `marin.data.lm_data.open_data` does the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from marin.data.units import Place, number_of, unit_of

# How documents become rows; the trade between them is told in marin.data.packing.
LaidOutMode = Literal["greedy", "best_fit"]
PackingMode = Literal["concatenate", LaidOutMode]
PACKING_MODES: tuple[PackingMode, ...] = ("concatenate", "greedy", "best_fit")

# What becomes of conversations longer than a row.
LongConversations = Literal["error", "drop", "cut"]
LONG_CONVERSATIONS: tuple[LongConversations, ...] = ("error", "drop", "cut")

# Where the stream of training rows ends; see marin.data.mixture.
StopStrategy = Literal["restart", "first_exhausted", "all_exhausted"]
STOP_STRATEGIES: tuple[StopStrategy, ...] = ("restart", "first_exhausted", "all_exhausted")


@dataclass(frozen=True, kw_only=True)
class MixtureStage:
    """Weights from a place in the run on, until the next stage."""

    start: Place
    """First update (a plain int or Steps), token or row with these weights; the first stage starts at 0."""
    weights: dict[str, float]
    """Source name -> share of the rows, in any unit; a source left out gets no row."""


@dataclass(frozen=True, kw_only=True)
class LmDataConfig:
    """Sources of training rows and validation sets, by name. Paths are token stores."""

    # Source name -> token store. In a step's config a path may be a step or an input name.
    train: dict[str, str]
    # Source name -> share of the rows; None: in proportion to the sources' sizes; or stages, where the shares change.
    weights: dict[str, float] | tuple[MixtureStage, ...] | None = None
    # Validation set (a tag in the metrics) -> token store.
    validation: dict[str, str] = field(default_factory=dict)
    # How documents become rows: see marin.data.packing.
    packing: PackingMode = "concatenate"
    # Conversations longer than a row: "error" refuses them, "drop" leaves them out, and a run says how many, "cut" cuts
    # them into pieces, of which the later do not see the earlier. (Texts longer than a row are always cut.)
    long_conversations: LongConversations = field(default="error", metadata={"version": {"omit_when": "error"}})
    # Chooses the order of everything. The same seed gives the same batches.
    shuffle_seed: int = 0
    # Rows over which the weights are met exactly.
    mixture_block_size: int = 2048
    # Where the stream ends: "restart" never, "first_exhausted" before the first row that would come a second time,
    # "all_exhausted" when every source has been passed through.
    stop_strategy: StopStrategy = "restart"
    # Source name -> rows that are not trained on but are the validation set of that name. They are drawn from the whole
    # source, the same ones whatever the seed.
    num_validation_sequences: dict[str, int] = field(default_factory=dict)
    # Source name -> batches (of the first update's size) that it gives at most, before it starts again.
    max_train_batches: dict[str, int] = field(default_factory=dict)
    # Simulated epoching: of every source only the part experiment_budget / target_budget is used, so that a run over
    # experiment_budget tokens repeats its sources as often as one over target_budget tokens would. Both or neither.
    target_budget: int | None = None
    experiment_budget: int | None = None
    # Folder of the tokenizer that the model will be exported with; its digest must be the stores'.
    tokenizer: str | None = None
    # Read every byte of the stores once before training and compare digests (about 1 GB/s).
    verify_stores: bool = field(default=True, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if not self.train and not self.validation:
            raise ValueError("LmDataConfig.train names no source; give at least one token store")
        if isinstance(self.packing, str) and self.packing not in PACKING_MODES:
            raise ValueError(f"LmDataConfig.packing is {self.packing!r}; {_one_of(PACKING_MODES)}")
        if isinstance(self.long_conversations, str) and self.long_conversations not in LONG_CONVERSATIONS:
            raise ValueError(
                f"LmDataConfig.long_conversations is {self.long_conversations!r}; {_one_of(LONG_CONVERSATIONS)}"
            )
        if isinstance(self.stop_strategy, str) and self.stop_strategy not in STOP_STRATEGIES:
            raise ValueError(f"LmDataConfig.stop_strategy is {self.stop_strategy!r}; {_one_of(STOP_STRATEGIES)}")
        if isinstance(self.weights, dict):
            if set(self.weights) != set(self.train):
                raise ValueError(
                    f"LmDataConfig.weights names {sorted(self.weights)}, train has {sorted(self.train)}; "
                    "give every source a weight (0 leaves it out)"
                )
            if self.weights:
                _check_weights(self.weights, "LmDataConfig.weights")
        elif isinstance(self.weights, (tuple, list)):
            _check_stages(self.weights, self.train)
        for name in ("num_validation_sequences", "max_train_batches"):
            _check_counts(f"LmDataConfig.{name}", getattr(self, name), self.train)
        twice = sorted(set(self.num_validation_sequences) & set(self.validation))
        if twice:
            raise ValueError(
                f"LmDataConfig.num_validation_sequences makes a validation set {twice[0]!r}, and validation names one "
                "too; give one of them another name"
            )
        self._check_budgets()

    def _check_budgets(self) -> None:
        target, experiment = self.target_budget, self.experiment_budget
        if target is None and experiment is None:
            return
        if target is None or experiment is None or not 0 < experiment <= target:
            raise ValueError(
                f"LmDataConfig.target_budget is {target!r} and experiment_budget {experiment!r}; simulated epoching "
                "takes both, in tokens, and the experiment's is the smaller"
            )
        if self.max_train_batches:
            raise ValueError(
                "LmDataConfig.max_train_batches and target_budget both say how much of a source is used; give one"
            )


def _check_weights(weights: Mapping[str, float], where: str) -> None:
    if not all(isinstance(weight, (int, float)) for weight in weights.values()):
        return  # while an experiment is planned, a value may be wrapped
    wrong = {name: weight for name, weight in weights.items() if not 0 <= weight < float("inf")}
    if wrong:
        raise ValueError(f"{where}: weights are finite and 0 or more; given {wrong}. 0 leaves a source out.")
    if not sum(weights.values()) > 0:
        raise ValueError(f"{where}: all weights are 0 ({dict(weights)}); at least one source must have a share")


def _check_stages(stages: Any, train: Mapping[str, str]) -> None:
    where = "LmDataConfig.weights"
    if not stages:
        raise ValueError(f"{where} is an empty list; give at least one stage, from 0 on")
    for number, stage in enumerate(stages):
        if not isinstance(stage, MixtureStage):
            raise ValueError(f"{where}[{number}] is {stage!r}; expected MixtureStage(start=..., weights={{...}})")
        unknown = sorted(set(stage.weights) - set(train))
        if unknown:
            raise ValueError(
                f"{where}[{number}] (from {stage.start!r} on) has weights for {', '.join(unknown)}, which train does "
                f"not name; it has {sorted(train)}"
            )
        _check_weights(stage.weights, f"{where}[{number}] (from {stage.start!r} on)")
    if number_of(stages[0].start) != 0:
        raise ValueError(f"{where}: the first stage starts at {stages[0].start!r}; it must start at 0")
    for one, two in zip(stages, stages[1:], strict=False):
        same_unit = unit_of(one.start) is unit_of(two.start) or number_of(one.start) == 0
        if same_unit and not number_of(one.start) < number_of(two.start):
            raise ValueError(
                f"{where}: the stage from {two.start!r} on stands after the one from {one.start!r} on; put the stages "
                "in order, no two at one place"
            )


def _check_counts(where: str, counts: Mapping[str, int], train: Mapping[str, str]) -> None:
    unknown = sorted(set(counts) - set(train))
    if unknown:
        raise ValueError(f"{where} names {', '.join(unknown)}, which train does not; it has {sorted(train)}")
    wrong = {name: count for name, count in counts.items() if isinstance(count, int) and count < 1}
    if wrong:
        raise ValueError(f"{where}: {wrong} of what is counted; give 1 or more, or leave the source out")


def _one_of(choices: tuple[str, ...]) -> str:
    return f"expected one of {', '.join(map(repr, choices))}"
