"""What a run begins with, other than random parameters, as plain values; `marin.training.initialize` does it.

Nothing here loads a tensor library.
"""

from dataclasses import dataclass
from typing import Literal

CONTENTS = ("weights", "state")


@dataclass(frozen=True, kw_only=True)
class InitializeFrom:
    """A checkpoint of another run to begin with. Once the run has checkpoints of its own, it goes on from those."""

    path: str
    """A run's folder, whose newest undamaged checkpoint is taken, or one checkpoint in it (`checkpoints/step-N`). In a
    step's config it may be a training step, or a place in one."""
    content: Literal["weights", "state"]
    """'weights': the parameters alone; updates are counted from 0 and the optimizer is fresh. 'state': parameters,
    optimizer, average and skip window, and the count of updates goes on from the checkpoint's: num_train_steps,
    learning rate, batch sizes and stages of the mixture are in steps counted from the very first run."""
    reset_data_loader_on_init: bool = True
    """Where the count of updates goes on: True begins with row 0 of this run's data, False with the row at which this
    run's batch sizes would be after so many updates."""
    allow_partial: bool = False
    """Let parameters that the checkpoint lacks start as in a new model, the average as the parameters, and leave out
    optimizer state, average or skip window that this run has no use for; each is named. False refuses."""

    def __post_init__(self) -> None:
        if isinstance(self.content, str) and self.content not in CONTENTS:
            raise ValueError(
                f"initialize_from.content is {self.content!r}; expected one of {', '.join(map(repr, CONTENTS))}"
            )
