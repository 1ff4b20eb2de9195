"""The quality classifier of exp596_stackexchange_classifier.py on text that you have: a minute on two cores.

    marin run experiments/howto/exp596_on_local_text.py --set good=FOLDER --set other=FOLDER --set documents=FOLDER

`good` and `other` are folders of documents that show what is wanted and what there is; `documents` are those to score.
The same features and the same trainer, with smaller tables and more passes, because there are fewer texts.

The report tells how much of the documents each threshold would keep. Choose by share kept, not by a probability: what a
classifier calls 0.5 is half-way between your two folders, which is no quality that anything else has.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.howto.exp596_stackexchange_classifier import BIGRAM_MODEL
from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, InputName, executor_main, output_path_of, this_output_path
from marin.io.atomic import write_text
from marin.processing.classify.api import score, train_classifier
from marin.processing.classify.config import LabelledSource, LinearModelConfig
from marin.processing.classify.scorers import LinearScorer

SHARES_KEPT = (0.5, 0.25, 0.1, 0.05, 0.01)


@dataclass(frozen=True, kw_only=True)
class LocalQuality:
    """Everything that makes this run what it is."""

    good: str | None
    """Folder of documents that show what is wanted."""
    other: str | None
    """Folder of documents as there are."""
    documents: str | None
    """Folder of documents to score."""
    model: LinearModelConfig
    num_epochs: int
    learning_rate: float
    seed: int
    max_documents: int | None = None
    """Of each kind at most so many."""


LOCAL_QUALITY = LocalQuality(
    good=os.environ.get("GOOD_DOCUMENTS"),
    other=os.environ.get("OTHER_DOCUMENTS"),
    documents=os.environ.get("DOCUMENTS"),
    model=LinearModelConfig(
        dim=32, word_ngrams=BIGRAM_MODEL.word_ngrams, min_chars=0, max_chars=0, num_buckets=100_000, min_count=2
    ),
    num_epochs=10,
    learning_rate=0.2,
    seed=0,
)


@dataclass(frozen=True, kw_only=True)
class ThresholdsConfig:
    """Which scores."""

    scores: str
    output_path: str


def thresholds(config: ThresholdsConfig) -> None:
    """Which threshold keeps which share of the documents, as thresholds.md."""
    import numpy as np

    from marin.processing.formats.splits import plan_splits
    from marin.processing.shards import read_shard

    parts = [
        batch.column("quality.good").to_numpy(zero_copy_only=False)
        for shard in plan_splits(config.scores)
        for batch in read_shard(shard)
    ]
    scores = np.concatenate(parts)
    known = scores[~np.isnan(scores)]
    lines = [
        f"{len(scores)} documents, {len(scores) - len(known)} without a score.",
        "",
        "| kept | threshold |",
        "|---|---|",
    ]
    for share in SHARES_KEPT:
        lines.append(f"| {share:.0%} | {np.quantile(known, 1 - share, method='higher'):.6f} |")
    write_text(Path(config.output_path) / "thresholds.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def local_quality(config: LocalQuality) -> ExecutorStep:
    """The table of thresholds; model and scores hang on it."""
    if config.good is None or config.other is None or config.documents is None:
        raise SystemExit("no text: give --set good=FOLDER --set other=FOLDER --set documents=FOLDER")
    classifier = train_classifier(
        "good-or-other",
        tuple(
            LabelledSource(
                input_path=InputName.hardcoded(folder),  # type: ignore[arg-type]
                label=label,
                max_documents=config.max_documents,
            )
            for folder, label in ((config.good, "good"), (config.other, "other"))
        ),
        model=config.model,
        num_epochs=config.num_epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
        calibration_fraction=0.1,
        test_fraction=0.1,
    )
    scores = score(
        "documents/good",
        InputName.hardcoded(config.documents),
        LinearScorer(model=classifier, label="good"),  # type: ignore[arg-type]
        column="good",
    )
    return ExecutorStep(
        name="reports/good-or-other",
        fn=thresholds,
        config=ThresholdsConfig(scores=output_path_of(scores), output_path=this_output_path()),  # type: ignore[arg-type]
        description="which threshold keeps which share",
    )


if __name__ == "__main__":
    executor_main(steps=[local_quality(from_command_line(LOCAL_QUALITY))], description="Quality on local text")
