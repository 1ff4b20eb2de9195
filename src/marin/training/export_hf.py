"""Exports to the Hugging Face format while training goes on.

An export is verified like any other: its logits are compared with those of the live parameters before the folder gets
its name, and a mismatch ends the run, since every later export would be as wrong. The same step of a resumed run
writes the same files again.
"""

from pathlib import Path

from marin.distributed.mesh import use_own_device
from marin.distributed.processes import fetch, is_first
from marin.export.config import ExportConfig
from marin.training.callback_config import ExportHfConfig
from marin.training.callbacks import StepDone, is_due
from marin.training.run import Run

EXPORTS_FOLDER = "hf"


class ExportHf:
    """Writes hf/step-00000500/ and so on, in the run's folder."""

    def __init__(self, config: ExportHfConfig, run: Run) -> None:
        from marin.export.hf import check_exportable

        self._config = config
        self._run = run
        assert run.tokenizer is not None, "a run without one has refused this callback"
        check_exportable(run.config.model)
        if config.average and run.config.trainer.ema_beta is None:
            raise ValueError(
                "the export_hf callback is to export the average of the parameters, and none is kept: set "
                "trainer.ema_beta, or average to false"
            )

    def __call__(self, done: StepDone) -> None:
        if not is_due(done, self._config.every):
            return
        from marin.export.export import export_params

        tokenizer_path = self._run.config.data.tokenizer
        assert tokenizer_path is not None
        with self._run.log.paused():
            params = fetch(done.state.average if self._config.average else self._run.model_params(done.state))
            if not is_first():
                return
            with use_own_device():
                export_params(
                    self._run.config.model,
                    params,
                    self._run.data.vocab_size,
                    tokenizer_path=tokenizer_path,
                    output=export_folder(self._run.output, done.step),
                    probe_length=ExportConfig.probe_length,
                    max_shard_bytes=self._config.max_shard_bytes,
                    chat=self._run.data.chat,
                    source={
                        "step": done.step,
                        "average": self._config.average,
                        "document_prefix": self._run.data.document_prefix,
                    },
                )


def exports_in(output: str | Path) -> bool:
    """Whether a run has left any."""
    return any((Path(output) / EXPORTS_FOLDER).glob("*"))


def export_folder(output: str | Path, step: int) -> Path:
    """Where a run has the export of a step."""
    return Path(output) / EXPORTS_FOLDER / f"step-{step:08d}"
