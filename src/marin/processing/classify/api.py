"""Steps that train classifiers, and that write scores and languages beside documents.

The work functions are named, not imported, so that defining an experiment loads no numerical library.
"""

from typing import TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.classify.config import (
    LANGUAGE_VERSION,
    SCORE_VERSION,
    TRAIN_VERSION,
    LabelledSource,
    LanguageConfig,
    LinearModelConfig,
    ScoreConfig,
    TrainClassifierConfig,
)
from marin.processing.classify.scorers import FunctionScorer, LinearScorer, OnnxScorer

PathLike: TypeAlias = ExecutorStep | InputName | str


def train_classifier(
    name: str,
    sources: tuple[LabelledSource, ...],
    *,
    model: LinearModelConfig,
    num_epochs: int,
    learning_rate: float,
    seed: int,
    calibration_fraction: float = 0.05,
    test_fraction: float = 0.05,
    other_works: tuple[LabelledSource, ...] = (),
    max_bytes_per_text: int | None = None,
    max_bad: float = 0.01,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `classifiers/<name>` that trains a linear classifier; its folder is a model for `score`.

    The paths of sources are steps, folders in one (`collected / "train"`), or paths.
    """
    return ExecutorStep(
        name=f"classifiers/{name}",
        fn="marin.processing.classify.train:train_classifier",
        config=TrainClassifierConfig(
            sources=sources,
            output_path=this_output_path(),  # type: ignore[arg-type]
            model=model,
            num_epochs=num_epochs,
            learning_rate=learning_rate,
            seed=seed,
            calibration_fraction=calibration_fraction,
            test_fraction=test_fraction,
            other_works=other_works,
            max_bytes_per_text=max_bytes_per_text,
            max_bad=max_bad,
        ),
        description=description or f"classifier of {', '.join(sorted({source.label for source in sources})[:8])}",
        code_version=str(TRAIN_VERSION),
        tags=tags,
    )


def score(
    name: str,
    documents: PathLike,
    scorer: LinearScorer | OnnxScorer | FunctionScorer,
    *,
    column: str,
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `attributes/<name>` that writes `quality.<column>` for every document.

    A scorer's model is a step, a folder in one, or a path, as `documents` is.
    """
    return ExecutorStep(
        name=f"attributes/{name}",
        fn="marin.processing.classify.score:score",
        config=ScoreConfig(
            input_path=documents,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            name=column,
            scorer=scorer,
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or f"quality.{column}",
        publish="inplace",
        code_version=f"{SCORE_VERSION}, {type(scorer).__name__} {scorer.version}",
        tags=tags,
    )


def identify_languages(
    name: str,
    documents: PathLike,
    model: PathLike,
    *,
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `attributes/<name>` that writes `language` and `language_score` for every document.

    `model` is a classifier of languages: a step of `train_classifier`, or a file such as `lid176 / "lid.176.ftz"`.
    """
    return ExecutorStep(
        name=f"attributes/{name}",
        fn="marin.processing.classify.language:identify_languages",
        config=LanguageConfig(
            input_path=documents,  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            model=model,  # type: ignore[arg-type]
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or "language and language_score",
        publish="inplace",
        code_version=str(LANGUAGE_VERSION),
        tags=tags,
    )
