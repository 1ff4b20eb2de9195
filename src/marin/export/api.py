"""The step that exports a trained model and verifies the export.

The work function is named, not imported, so that defining an experiment loads no tensor library.
"""

from typing import TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.export.config import MAX_SHARD_BYTES, ExportConfig

PathLike: TypeAlias = ExecutorStep | InputName | str


def export_step(
    name: str,
    trained: PathLike,
    tokenizer: PathLike,
    *,
    checkpoint: str | None = None,
    probe_length: int = 256,
    average: bool = False,
    adapter_alone: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `name` whose output is the trained model as a verified Hugging Face folder.

    `trained` is a training step, `tokenizer` the step (or a folder, or a path) whose tokenizer it was trained with.
    `checkpoint` names one within the training output; None: the one that training ended with. `average` exports the
    running average of the parameters that training kept; `adapter_alone` and `max_shard_bytes` are as in
    `ExportConfig`. The step fails, and publishes nothing, if the exported files do not compute what the checkpoint
    does.
    """
    return ExecutorStep(
        name=name,
        fn="marin.export.export:export_model",
        config=ExportConfig(
            train_path=trained,  # type: ignore[arg-type]  # a path when the step runs
            tokenizer_path=tokenizer,  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            checkpoint=checkpoint,
            probe_length=probe_length,
            average=average,
            adapter_alone=adapter_alone,
            max_shard_bytes=max_shard_bytes,
        ),
        description=description or "export to the Hugging Face format, verified against the checkpoint",
        tags=tags,
    )
