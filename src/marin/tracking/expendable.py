"""Trackers that may fail: the first error is said once, and the tracker is not asked again.

A full disk, a server that is gone or a bug in somebody's library is no reason to lose a training run, whose own files
have every number. The price is that a picture may end before the run does, which the warning says.
"""

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence

from marin.tracking.config import TrackedRun, TrackerConfig
from marin.tracking.tracker import Tracker, Value


class TrackerWarning(UserWarning):
    """A tracker was given up."""


class ExpendableTracker:
    """Passes everything on to another tracker until that raises."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker: Tracker | None = tracker
        self._name = name

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Take a row, or drop it."""
        self._try(lambda tracker: tracker.log(step, values))

    def flush(self) -> None:
        """Ask the tracker to."""
        self._try(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Let go."""
        self._try(lambda tracker: tracker.close())

    def _try(self, what: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            what(self._tracker)
        except Exception as error:
            self._tracker = None
            _warn(self._name, error)


def open_trackers(configs: Sequence[TrackerConfig], run: TrackedRun) -> list[ExpendableTracker]:
    """The trackers of a run; one that cannot be opened is left out, with a warning."""
    trackers = []
    for config in configs:
        try:
            tracker = config.open(run)
        except Exception as error:
            _warn(_name(config), error)
            continue
        if tracker is not None:
            trackers.append(ExpendableTracker(tracker, _name(config)))
    return trackers


def check_installed(configs: Sequence[TrackerConfig]) -> None:
    """ImportError where the library of a tracker is missing: a mistake of the config, to be said before training."""
    for config in configs:
        if config.library is not None and importlib.util.find_spec(config.library) is None:
            name = _name(config)
            raise ImportError(
                f"the tracker '{name}' needs the package {config.library}, which is not installed. Install it "
                f"(pip install 'marin[{name}]'), or leave the tracker out: metrics.jsonl is written anyway."
            )


def _name(config: TrackerConfig) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _warn(name: str, error: Exception) -> None:
    warnings.warn(
        f"the tracker '{name}' failed and is given up ({type(error).__name__}: {error}); training goes on, and "
        "metrics.jsonl has all numbers",
        TrackerWarning,
        stacklevel=3,
    )
