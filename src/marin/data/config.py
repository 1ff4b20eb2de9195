"""What a language model is trained and validated on: plain values, so a part of a run's identity as it stands.

Defining an experiment loads this module and no array library; `marin.data.lm_data.open_data` does the rest.
"""

from dataclasses import dataclass, field
from typing import Literal

# How documents become rows; the trade between them is told in marin.data.packing.
LaidOutMode = Literal["greedy", "best_fit"]
PackingMode = Literal["concatenate", LaidOutMode]
PACKING_MODES: tuple[PackingMode, ...] = ("concatenate", "greedy", "best_fit")


@dataclass(frozen=True, kw_only=True)
class LmDataConfig:
    """Sources of training rows and validation sets, by name. Paths are token stores."""

    # Source name -> token store. In a step's config a path may be a step or an input name.
    train: dict[str, str]
    # Source name -> share of the rows; None: in proportion to the sources' sizes.
    weights: dict[str, float] | None = None
    # Validation set (a tag in the metrics) -> token store.
    validation: dict[str, str] = field(default_factory=dict)
    # How documents become rows: see marin.data.packing.
    packing: PackingMode = "concatenate"
    # Chooses the order of everything. The same seed gives the same batches.
    shuffle_seed: int = 0
    # Rows over which the weights are met exactly.
    mixture_block_size: int = 2048
    # Folder of the tokenizer that the model will be exported with; its digest must be the stores'.
    tokenizer: str | None = None
    # Read every byte of the stores once before training and compare digests (about 1 GB/s).
    verify_stores: bool = field(default=True, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("LmDataConfig.train names no source; give at least one token store")
        if isinstance(self.packing, str) and self.packing not in PACKING_MODES:
            modes = ", ".join(map(repr, PACKING_MODES))
            raise ValueError(f"LmDataConfig.packing is {self.packing!r}; expected one of {modes}")
        if isinstance(self.weights, dict) and set(self.weights) != set(self.train):
            raise ValueError(
                f"LmDataConfig.weights names {sorted(self.weights)}, train has {sorted(self.train)}; "
                "give every source a weight (0 leaves it out)"
            )
