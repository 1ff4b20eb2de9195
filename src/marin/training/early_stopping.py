"""Ends a run whose metric no longer gets better.

What it remembers, the best measurement and how many came after it, is in the metrics file already: a resumed run reads
its rows again. So nothing is added to a checkpoint, and a run that was killed between its last measurement and its
last checkpoint stops at the same step.
"""

import difflib
from collections.abc import Sequence

from marin.tracking.jsonl import read_rows
from marin.training.callback_config import EarlyStoppingConfig
from marin.training.callbacks import StepDone, validation_metrics
from marin.training.run import Run

_KINDS = ("validation", "eval", "memorization", "watch")  # callbacks of one's own may write others


class EarlyStopping:
    """Asks to stop when `patience` measurements in a row did not beat the best by more than `min_delta`."""

    def __init__(self, config: EarlyStoppingConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._best: float | None = None
        self._num_worse = 0
        self._taken_at: int | None = None  # step of the last measurement that this process took
        if config.metric.startswith("train/"):
            raise ValueError(
                f"early_stopping watches '{config.metric}', a number of every step, which says little of a run. Name "
                "one that validation or a callback writes, like 'validation/NAME/loss'"
            )
        kind, *_ = difflib.get_close_matches(config.metric.partition("/")[0], _KINDS, n=1) or [None]
        if kind == "validation":
            self._check_among(
                validation_metrics(run.data.validation, has_average=run.config.trainer.ema_beta is not None)
            )
        elif kind is not None and not config.metric.startswith(f"{kind}/"):
            raise ValueError(f"early_stopping watches '{config.metric}'; did you mean '{kind}/...'?")
        if run.resume_step is not None:
            for row in read_rows(run.output / "metrics.jsonl"):
                if config.metric in row and int(row["step"]) <= run.resume_step:
                    self._take(int(row["step"]), float(row[config.metric]))

    def __call__(self, done: StepDone) -> None:
        step, value = self._run.log.latest.get(self._config.metric, (None, 0.0))
        if step == done.step:
            self._taken_at = step
            self._take(done.step, value)
        elif step is None:
            kind = self._config.metric.partition("/")[0]
            self._check_among([name for name in self._run.log.latest if name.partition("/")[0] == kind])
        elif step != self._taken_at:
            raise ValueError(
                f"early_stopping watches '{self._config.metric}', which a callback behind it in the list writes (as at "
                f"step {step}), when it has looked already. List early_stopping behind that callback"
            )

    def _check_among(self, written: Sequence[str]) -> None:
        """ValueError where metrics of the kind of ours are written, and ours is not one of them."""
        metric = self._config.metric
        if not written or metric in written:
            return
        near = difflib.get_close_matches(metric, written, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(written)}"
        raise ValueError(f"early_stopping watches '{metric}', which this run does not write; {hint}")

    def _take(self, step: int, value: float) -> None:
        sign = 1.0 if self._config.mode == "min" else -1.0
        if self._best is None or sign * value < sign * self._best - self._config.min_delta:
            self._best, self._num_worse = value, 0
            return
        self._num_worse += 1
        if self._num_worse >= self._config.patience:
            self._run.stop.request(
                f"stopped early at step {step}: {self._config.metric} is {value:.6g} and has not beaten "
                f"{self._best:.6g} in {self._num_worse} measurements"
            )
