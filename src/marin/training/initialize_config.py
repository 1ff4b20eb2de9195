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
    allow_other_tokenizer: bool = False
    """Begin although the stores' tokenizer is not the checkpoint's, as where another special token ends a text. The
    vocabulary must be as large; what the ids mean is your affair."""
    reinit_tokens: tuple[str | int, ...] = ()
    """Tokens (text or id) that the checkpoint never saw in training: their embeddings are drawn anew, with mean and
    standard deviation of the table. Text needs the tokenizer in the data config. With content 'weights' only."""

    def __post_init__(self) -> None:
        if isinstance(self.content, str) and self.content not in CONTENTS:
            raise ValueError(
                f"initialize_from.content is {self.content!r}; expected one of {', '.join(map(repr, CONTENTS))}"
            )
        if self.content == "state" and self.reinit_tokens:
            raise ValueError(
                f"initialize_from.reinit_tokens {self.reinit_tokens!r} would break with the optimizer's state of those "
                "rows: set content to 'weights', or leave them out"
            )


@dataclass(frozen=True, kw_only=True)
class InitializeFromHf:
    """A model in the Hugging Face format to begin with: its weights, updates counted from 0, a fresh optimizer."""

    path: str
    """A folder with config.json, safetensors and tokenizer.json; or `hf://organization/name`, with `@revision` where
    it is not the main one, which must lie in the local cache already. In a step's config it may be a step."""
    allow_other_tokenizer: bool = False
    """Begin although the stores' tokenizer is not the folder's, as where another special token ends a text, or where
    the folder has none. What the ids mean is your affair."""
    reinit_tokens: tuple[str | int, ...] = ()
    """As in InitializeFrom."""
