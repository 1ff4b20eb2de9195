"""Writes what the watched steps measured: norms as numbers of the run, histograms to a file of their own."""

import math

import numpy as np

from marin.training.callback_config import WatchConfig
from marin.training.callbacks import StepDone
from marin.training.run import Run
from marin.training.watch_statistics import Watched

HISTOGRAMS_FILE = "histograms.jsonl"


class Watch:
    """Rows `watch/KIND_norm/NAME`, and `watch/KIND_norm` of all parameters together, for grad, param and update."""

    def __init__(self, config: WatchConfig, run: Run) -> None:
        self._run = run
        self._config = config

    def __call__(self, done: StepDone) -> None:
        if done.watched is None:
            return
        watched: Watched = done.watched
        with self._run.log.paused():
            row: dict[str, float | int] = {}
            for kind in ("grad", "param", "update"):
                norms = {name: float(norm) for name, norm in getattr(watched, f"{kind}_norm").items()}
                row[f"watch/{kind}_norm"] = math.sqrt(math.fsum(norm * norm for norm in norms.values()))
                row |= {f"watch/{kind}_norm/{name}": norm for name, norm in norms.items()}
            self._run.log.log_row(done.step, row)
            if self._config.histograms:
                self._run.log_json(
                    HISTOGRAMS_FILE,
                    done.step,
                    {
                        f"{kind}/{name}": np.asarray(counts).tolist()
                        for kind in ("grad", "param", "update")
                        for name, counts in getattr(watched, f"{kind}_histogram").items()
                    },
                )
