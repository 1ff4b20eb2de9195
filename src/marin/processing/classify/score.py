"""Scores of documents as columns beside them: `quality.NAME` for each id, in shards named as the documents' are.

Nothing is dropped here. A document without any score (no feature in a linear model) has null; whoever filters must
decide what that means.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from marin.processing.classify.config import SCORE_VERSION, ScoreConfig
from marin.processing.classify.scorers import FunctionScorer, LinearScorer, OnnxScorer, check_digest
from marin.processing.kernels.arrow_text import text_buffer

if TYPE_CHECKING:
    from marin.processing.pipeline.result import Result


@dataclass(frozen=True, kw_only=True)
class ScoreBatch:
    """Documents to their ids and scores, batch by batch."""

    name: str
    scorer: LinearScorer | OnnxScorer | FunctionScorer
    # What the model was when the work was planned; another one is refused, so that no output mixes two.
    digest: str

    version = SCORE_VERSION

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        check_digest(self.scorer, self.digest)
        column = batch.column("text")
        if isinstance(self.scorer, LinearScorer):
            scores = self.scorer.of_buffers(*text_buffer(column))
        else:
            scores = self.scorer(column.to_pylist())
        columns = {"id": batch.column("id")}
        for index, column_name in enumerate(self.scorer.columns):
            full_name = ".".join(("quality", self.name, column_name)).rstrip(".")
            columns[full_name] = score_column(scores[:, index])
        return pa.RecordBatch.from_pydict(columns)


def score(config: ScoreConfig) -> "Result":
    """Write the scores of all documents; returns what became of the rows."""
    from marin.processing.pipeline import Dataset

    operation = ScoreBatch(name=config.name, scorer=config.scorer, digest=config.scorer.digest())
    plan = Dataset.from_files(config.input_path).map_batches(operation, name=f"score {config.name}")
    return plan.write_parquet(config.output_path, names="input").run(workers=config.num_workers, max_bad=config.max_bad)


def score_column(values: np.ndarray) -> pa.Array:
    """float32, null where a text has no score."""
    return pa.array(values.astype(np.float32), mask=np.isnan(values))
