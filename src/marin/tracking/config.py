"""Where a run's numbers go besides the files in its folder: `trackers: [tensorboard, {type: wandb, project: ...}]`.

metrics.jsonl and timing.jsonl are always written, and they are what a run is resumed from and reported by. The trackers
here are copies for people to look at, so one that fails is given up with a warning, and training goes on. Each needs a
library that marin does not (an extra of its own name), and none needs an account: W&B is offline unless told otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from marin.config import register_choice
from marin.tracking.tracker import Tracker

MAX_WANDB_NAME = 64
"""Characters; W&B's server takes no longer id, and cuts longer names in its tables."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of the run."""

    output: Path
    """The run's folder."""
    name: str
    """A name for people: that of the folder, if the config gives none."""
    run_id: str
    """The same for the same config in a folder of the same name: a resumed run goes on under its id. At most 64
    characters."""
    resume_step: int
    """Updates done before this process began; rows of later steps that a tracker has already are of work done again."""
    config: Mapping[str, Any]
    """The run's config as plain values."""


@runtime_checkable
class TrackerConfig(Protocol):
    """What the config of every tracker offers."""

    library: ClassVar[str | None]
    """The module that it needs besides marin."""

    def open(self, run: TrackedRun) -> Tracker | None:
        """The tracker, or None for one that is there anyway."""
        ...


@dataclass(frozen=True, kw_only=True)
class JsonlConfig:
    """metrics.jsonl and timing.jsonl in the run's folder. They are always written; to name them changes nothing."""

    library: ClassVar[str | None] = None
    __unversioned__: ClassVar[bool] = True

    def open(self, run: TrackedRun) -> Tracker | None:
        return None


@dataclass(frozen=True, kw_only=True)
class TensorboardConfig:
    """Event files for TensorBoard, in tensorboard/ of the run's folder. Needs the extra `tensorboard`."""

    library: ClassVar[str | None] = "tensorboardX"
    __unversioned__: ClassVar[bool] = True

    flush_s: int = 30
    """Seconds between two writes to the file."""

    def open(self, run: TrackedRun) -> Tracker | None:
        from marin.tracking.tensorboard import TensorboardTracker

        return TensorboardTracker(run, flush_s=self.flush_s)


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases. Needs the extra `wandb`."""

    library: ClassVar[str | None] = "wandb"
    __unversioned__: ClassVar[bool] = True

    project: str = "marin"
    """Where runs are collected."""
    entity: str | None = None
    """User or team; None is the account's own."""
    name: str | None = None
    """Name of the run, at most 64 characters; None is the name of its folder."""
    mode: Literal["offline", "online"] = "offline"
    """Offline writes to wandb/ in the run's folder, for `wandb sync` some day; online needs an account."""
    tags: tuple[str, ...] = ()
    """Words to find the run by."""

    def __post_init__(self) -> None:
        if self.name is not None and not 1 <= len(self.name) <= MAX_WANDB_NAME:
            raise ValueError(
                f"name has {len(self.name)} characters, W&B takes 1 to {MAX_WANDB_NAME}: {self.name!r}. Shorten it."
            )

    def open(self, run: TrackedRun) -> Tracker | None:
        from marin.tracking.wandb import WandbTracker

        return WandbTracker(self, run)


@dataclass(frozen=True, kw_only=True)
class TrackioConfig:
    """trackio, a dashboard on this machine: `trackio show`. Needs the extra `trackio`."""

    library: ClassVar[str | None] = "trackio"
    __unversioned__: ClassVar[bool] = True

    project: str = "marin"
    """Where runs are collected, in trackio's own folder ($TRACKIO_DIR)."""
    name: str | None = None
    """Name of the run; None is the run's id, which begins with the name of its folder."""

    def open(self, run: TrackedRun) -> Tracker | None:
        from marin.tracking.trackio import TrackioTracker

        return TrackioTracker(self, run)


register_choice(TrackerConfig, "jsonl", "marin.tracking.config:JsonlConfig")
register_choice(TrackerConfig, "tensorboard", "marin.tracking.config:TensorboardConfig")
register_choice(TrackerConfig, "wandb", "marin.tracking.config:WandbConfig")
register_choice(TrackerConfig, "trackio", "marin.tracking.config:TrackioConfig")
