"""What the callbacks of a run share: its config and data, where its rows go, and the wish to end it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marin.distributed.processes import is_first
from marin.tracking.jsonl import JsonlTracker

if TYPE_CHECKING:
    from marin.data.lm_data import LmData
    from marin.training.callbacks import LogMetrics
    from marin.training.config import TrainLmConfig
    from marin.training.state import TrainState


def trained_model(config: "TrainLmConfig") -> Any:
    """What the run trains: the model of the config, with an adapter where it asks for one."""
    if config.lora is None:
        return config.model
    from marin.models.lora import LoraLm

    return LoraLm(base=config.model, lora=config.lora)


class StopRequest:
    """Whether a callback has asked to end the run after the step in progress."""

    def __init__(self) -> None:
        self.reason: str | None = None

    @property
    def is_requested(self) -> bool:
        return self.reason is not None

    def request(self, reason: str) -> None:
        """End the run; of several reasons the first is kept."""
        if self.reason is None:
            self.reason = reason


@dataclass(kw_only=True)
class Run:
    """A run that is about to begin or to go on. Callbacks are built before anything in its folder is written."""

    config: "TrainLmConfig"
    """What it is."""
    data: "LmData"
    """Its opened data."""
    resume_step: int | None
    """Updates done before; None: nothing was."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Where to ask for the end."""
    log: "LogMetrics" = field(init=False)
    """Where rows are written; there when the first step is done."""
    _files: dict[str, JsonlTracker] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_path)

    def model_params(self, state: "TrainState") -> Any:
        """The parameters of `config.model` itself: an adapter that is being trained is merged in."""
        if self.config.lora is None:
            return state.params
        import jax

        from marin.models.lora import LoraLm

        return jax.jit(LoraLm.merge, static_argnums=0)(trained_model(self.config), state.params)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the run's tokens. ValueError where the config does not name it."""
        if self.config.data.tokenizer is None:
            raise ValueError(
                "a callback that reads or writes text (samples, evals, export_hf) needs the tokenizer of the "
                "token stores: set data.tokenizer to its folder"
            )
        from marin.processing.tokenize.tokenizer import load_tokenizer

        return load_tokenizer(self.config.data.tokenizer)

    def log_json(self, name: str, step: int, row: Mapping[str, Any]) -> None:
        """Append a row of deterministic values to a file in the run's folder.

        Rows of steps after the one that the run goes on from are cut off first; the file is flushed before each
        checkpoint and closed with the run. Of several processes the first one writes it.
        """
        if not is_first():
            return
        if name not in self._files:
            self._files[name] = JsonlTracker(self.output / name, resume_step=self.resume_step)
            self.log.flush_too(self._files[name])
        self._files[name].log_json(step, row)

    def close(self) -> None:
        """Close what was opened."""
        for file in self._files.values():
            file.close()
