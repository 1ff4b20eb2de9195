"""Configs of the classifying stages: plain values, importable without a numerical library.

In a step's config a path may still be a reference to another step; the checks pass over what is no number yet, and run
again when the step does.
"""

from dataclasses import dataclass, field

from marin.processing.classify.scorers import FunctionScorer, LinearScorer, OnnxScorer

# Part of the identity of a step: raised when the same input would give another output.
TRAIN_VERSION = 1
SCORE_VERSION = 1
LANGUAGE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LabelledSource:
    """Documents that all have one label."""

    # Folder of documents, a file, or a pattern.
    input_path: str
    label: str
    # At most so many distinct texts are taken, those whose seeded hash is least; None: all.
    max_documents: int | None = None


@dataclass(frozen=True, kw_only=True)
class LinearModelConfig:
    """Which features a text has, and how wide their vectors are. The names in brackets are fastText's."""

    # Width of the vectors [dim].
    dim: int
    # Longest n-grams of words [wordNgrams]; 1: none.
    word_ngrams: int
    # Shortest and longest n-grams of characters within words [minn, maxn]; 0 and 0: none.
    min_chars: int
    max_chars: int
    # Rows that n-grams are hashed into [bucket]; 0 where there are none.
    num_buckets: int
    # Words with a vector of their own occur at least so often in the training texts [minCount].
    min_count: int
    # At most so many words have one, the most frequent; None: no limit. 0 leaves n-grams alone.
    max_words: int | None = None
    # Of the vectors on disk: float32, or float16 for half the bytes.
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise ValueError(f"min_chars is {self.min_chars} and max_chars {self.max_chars}; 0 <= min <= max is needed")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}; float32 and float16 are known")
        if self.num_buckets < 1 and (self.word_ngrams > 1 or self.max_chars > 0):
            raise ValueError(
                f"num_buckets is {self.num_buckets}, with n-grams of up to {self.word_ngrams} words and "
                f"{self.max_chars} characters; they need at least one bucket"
            )


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """What is told apart, by which model, and how it is trained."""

    # One label has one source or several; at least two labels.
    sources: tuple[LabelledSource, ...]
    # Folder of the model, with evaluation.json.
    output_path: str
    model: LinearModelConfig
    num_epochs: int
    # Of the first update; it falls linearly to zero.
    learning_rate: float
    seed: int
    # Shares of the distinct texts that training does not see: to calibrate on, and to report.
    calibration_fraction: float
    test_fraction: float
    # Texts of other works than the sources, reported apart: how much of what was learned is the works' own manner.
    other_works: tuple[LabelledSource, ...] = ()
    # Of each text so many bytes are read; None: all.
    max_bytes_per_text: int | None = None
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        labels = {source.label for source in self.sources}
        if len(labels) < 2:
            raise ValueError(f"sources have the labels {sorted(labels)}; a classifier needs at least two")
        if unknown := sorted({source.label for source in self.other_works} - labels):
            raise ValueError(f"other_works have the labels {unknown}, which no source has: {sorted(labels)}")
        if not 0 < self.calibration_fraction + self.test_fraction < 1:
            raise ValueError(
                f"calibration_fraction {self.calibration_fraction} and test_fraction {self.test_fraction}: their sum "
                "must be between 0 and 1, so that there is something to train on and something to report"
            )
        check_share("max_bad", self.max_bad)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which documents, and what gives them their scores."""

    # Documents: a folder, a file, or a pattern.
    input_path: str
    # Folder of the attributes: one shard a shard of documents, with id and the scores.
    output_path: str
    # The score's name: the column is `quality.NAME`, beside it `quality.NAME.COLUMN` for what else the scorer tells.
    name: str
    scorer: LinearScorer | OnnxScorer | FunctionScorer
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU. The output does not depend on it, so it is no part of its identity.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name is {self.name!r}; letters, digits and _ make a column's name: quality.NAME")
        check_share("max_bad", self.max_bad)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which documents, and which model of languages."""

    input_path: str
    output_path: str
    # Folder of a trained classifier whose labels are languages, or a fastText file such as lid.176.ftz.
    model: str
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        check_share("max_bad", self.max_bad)


def check_share(name: str, value: float) -> None:
    """ValueError where a share is none."""
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it is a share, between 0 and 1")
