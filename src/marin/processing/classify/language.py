"""The language of each document, as columns beside it: `language` and `language_score`.

The model is a choice: one trained here on text whose language is known, or a published one. Thresholds belong to a
model: those of RefinedWeb, DCLM and FineWeb, which keep English from 0.65 on, to lid.176 of fastText (176 languages),
which `experiments/published_models.py` has by its hash. The score is the probability of the likeliest language; what
fastText prints is some hundred-thousandths more.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from marin.processing.classify.config import LANGUAGE_VERSION, LanguageConfig
from marin.processing.classify.scorers import LinearScorer, check_digest, loaded_classifier
from marin.processing.kernels.arrow_text import text_buffer

if TYPE_CHECKING:
    from marin.processing.pipeline.result import Result

UNDETERMINED = "und"  # ISO 639-2: the language cannot be told


@dataclass(frozen=True, kw_only=True)
class IdentifyLanguage:
    """Documents to their ids, languages and scores, batch by batch."""

    # Folder of a classifier whose labels are languages, or a fastText file.
    model: str
    # What the model was when the work was planned; another one is refused, so that no output mixes two.
    digest: str

    version = LANGUAGE_VERSION

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        check_digest(LinearScorer(model=self.model, label=""), self.digest)
        languages, scores = identify(self.model, *text_buffer(batch.column("text")))
        return pa.RecordBatch.from_pydict(
            {
                "id": batch.column("id"),
                "language": pa.array(languages, pa.string()),
                "language_score": pa.array(scores.astype(np.float32)),
            }
        )


def identify(model: str, data: np.ndarray, offsets: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(language, probability) of each text, `und` with 0 where a text has no feature.

    `data` is UTF-8 (uint8), text i is `data[offsets[i] : offsets[i + 1]]`.
    """
    classifier = loaded_classifier(model)
    probabilities = classifier.probabilities(data, offsets)
    has_features = ~np.isnan(probabilities).any(axis=1)
    probabilities = np.where(has_features[:, None], probabilities, 0.0)
    chosen = probabilities.argmax(axis=1)
    labels = [*classifier.labels, UNDETERMINED]
    languages = [labels[index] for index in np.where(has_features, chosen, len(labels) - 1).tolist()]
    return languages, probabilities[np.arange(len(chosen)), chosen]


def identify_languages(config: LanguageConfig) -> "Result":
    """Write the languages of all documents; returns what became of the rows."""
    from marin.processing.classify.linear import classifier_digest
    from marin.processing.pipeline import Dataset

    operation = IdentifyLanguage(model=config.model, digest=classifier_digest(config.model))
    plan = Dataset.from_files(config.input_path).map_batches(operation, name="identify language")
    return plan.write_parquet(config.output_path, names="input").run(workers=config.num_workers, max_bad=config.max_bad)
