"""Compel: is text whose LZ4 ratio lies in a window better to train on? FineWeb and FineWeb-Edu, models of 1.4B.

    marin plan experiments/compel/exp633_compel.py

After experiment 633 of the reference project (its issue and the names of its runs): a text that compresses far repeats
itself, one that hardly does is noise; what is between stays. There, a window helped on 9 of 13 benchmarks. The ratio is
measured once for each set, and every window is an expression over it. Length and batch of the runs were not published:
here it is twenty tokens a parameter, for all alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.datasets.simple import SETS
from experiments.models.llama import llama_1_4b
from experiments.shared_tokenizers import llama3_tokenizer
from marin.cluster.resources import ResourceConfig
from marin.execution.executor import ExecutorStep, InputName, executor_main
from marin.models.llama import LlamaConfig
from marin.processing.filter.api import filter_documents, measure_signals
from marin.processing.filter.compression import CompressionRatio
from marin.processing.tokenize.api import default_tokenize
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

# least and largest ratio; the first two name runs of the reference project, the third stands in its issue
WINDOWS: tuple[tuple[float, float], ...] = ((0.6, 0.8), (0.65, 0.8), (0.65, 0.9))
SET_NAMES = ("fineweb", "fineweb_edu")
BATCH_SIZE = 1024
NUM_TRAIN_TOKENS = int(20 * 1.4e9)


@dataclass(frozen=True, kw_only=True)
class Compel:
    """What the experiment is made of."""

    documents: Mapping[str, ExecutorStep | InputName]
    """Documents by the name of their set."""
    tokenizer: ExecutorStep
    """Of all models."""
    windows: tuple[tuple[float, float], ...]
    """Least and largest LZ4 ratio of what stays."""
    model: LlamaConfig
    """Shape of all models."""
    training: SimpleTrainConfig
    """Of all runs."""
    validation: Mapping[str, ExecutorStep]
    """Token stores that all models are measured on."""
    prefix: str = "compel"
    """What the names of the steps begin with."""


def compel(given: Compel) -> dict[str, ExecutorStep]:
    """The training steps: for each set one on all of it, and one for each window."""
    trained = {}
    for name, documents in given.documents.items():
        ratios = measure_signals(f"{given.prefix}/{name}", documents, (CompressionRatio(codec="lz4"),))
        kept = {"baseline": documents}
        for low, high in given.windows:
            window = CompressionRatio(codec="lz4", min_ratio=low, max_ratio=high)
            kept[f"lz4-{low}-{high}"] = filter_documents(
                f"{given.prefix}/{name}-lz4-{low}-{high}", documents, (window,), attributes=(ratios,)
            )
        for part, text in kept.items():
            run = f"{given.prefix}-{name}-{part}"
            trained[run] = default_train(
                name=run,
                tokenized=default_tokenize(run, dataset=text, tokenizer=given.tokenizer),
                model_config=given.model,
                train_config=given.training,
                validation=given.validation,
                tags=["COMPEL"],
            )
    return trained


def published() -> Compel:
    """Both sets at full size."""
    return Compel(
        documents={name: SETS[name].documents() for name in SET_NAMES},
        tokenizer=llama3_tokenizer,
        windows=WINDOWS,
        model=llama_1_4b,
        training=SimpleTrainConfig(
            resources=ResourceConfig.with_tpu("v4-128"),
            train_batch_size=BATCH_SIZE,
            num_train_steps=NUM_TRAIN_TOKENS // (BATCH_SIZE * llama_1_4b.seq_len),
            learning_rate=1e-3,
            weight_decay=0.1,
            min_lr_ratio=0.1,
            warmup=0.05,
        ),
        validation={},
    )


if __name__ == "__main__":
    executor_main(steps=list(compel(published()).values()), description="Text by its LZ4 ratio, at 1.4B")
