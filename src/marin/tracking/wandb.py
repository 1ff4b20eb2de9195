"""Weights & Biases, offline unless told otherwise.

One run, one id: it comes from the config and the folder's name, so a resumed run goes on in the same curves. Offline,
each process leaves a folder of its own with that id, and `wandb sync` puts them together; steps that were repeated
after a kill are in two of them, with the same numbers. Nothing of the machine, the code or the console is collected.
"""

from collections.abc import Mapping

from marin.tracking.config import MAX_WANDB_NAME, TrackedRun, WandbConfig
from marin.tracking.tracker import Value


class WandbTracker:
    """Rows as W&B's history, the config as its config."""

    def __init__(self, config: WandbConfig, run: TrackedRun) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        assert len(run.run_id) <= MAX_WANDB_NAME, run.run_id
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or run.name[:MAX_WANDB_NAME],
            id=run.run_id,
            resume="allow",
            mode=config.mode,
            dir=str(run.output),
            config=dict(run.config),
            tags=config.tags,
            settings=settings,
        )

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Add to the row of that step."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """W&B's own process writes as it goes; there is nothing to ask for."""

    def close(self) -> None:
        """Finish the run; W&B's own process has written all when this one ends."""
        self._run.finish()
