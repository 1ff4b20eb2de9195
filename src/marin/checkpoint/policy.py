"""Which checkpoints to keep.

Two kinds: the newest few, there to resume from, and every N-th step, there for good. At least two of the newest are
kept, so that one damaged on disk costs the steps since the one before it and never the run. A checkpoint between the
regular ones, saved because time had passed or the run was stopped, goes when a newer one comes: what a run leaves does
not depend on how fast it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from marin.checkpoint.discover import list_checkpoints, remove_checkpoint


@dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """What survives when a newer checkpoint has been saved."""

    keep_last: int = 2
    """How many of the newest regular ones to keep, at least 1; with 1 a damaged checkpoint means starting anew."""
    keep_every: int | None = None
    """Keep for good the checkpoint of each step that is a multiple of this; None keeps only the newest."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more (a run resumes from the newest), got {self.keep_last}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every counts steps and must be 1 or more, or None; got {self.keep_every}")

    def removable(self, steps: Iterable[int], is_regular: Callable[[int], bool] = lambda step: True) -> list[int]:
        """The steps whose checkpoints this policy no longer needs, oldest first."""
        ordered = sorted(steps)
        regular = [step for step in ordered if is_regular(step)]
        kept = {*regular[-self.keep_last :], *ordered[-1:]}
        if self.keep_every is not None:
            kept.update(step for step in regular if step % self.keep_every == 0)
        return [step for step in ordered if step not in kept]


def apply_policy(
    root: str | Path, policy: KeepPolicy, *, saved: int, is_regular: Callable[[int], bool] = lambda step: True
) -> list[int]:
    """Delete from `root` what `policy` lets go; the steps deleted.

    `saved` is the step just saved, which stays whatever else is there: only it is known to be whole. `is_regular` tells
    the steps at which the run saves however long they take.
    """
    folders = {folder.step: folder.path for folder in list_checkpoints(root)}
    doomed = [step for step in policy.removable(folders, is_regular) if step != saved]
    for step in doomed:
        remove_checkpoint(folders[step])
    return doomed
