"""Compel in small: the same steps as exp633_compel.py on the standard library, a tiny model, a minute on two cores.

    marin run experiments/compel/exp633_twin.py

Sources compress further than prose, so the windows are others: the middle half of the ratios, and what is above its
median. All models are measured on the same held-out files, unfiltered. It shows that the parts fit together; that one
window is better for a model of this size says nothing of another.
"""

from dataclasses import dataclass

from experiments.compel.exp633_compel import Compel, compel
from marin.config import from_command_line
from marin.download.api import standard_library
from marin.execution.executor import ExecutorStep, executor_main
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.training.config import SimpleTrainConfig


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What may be set from the command line."""

    num_train_steps: int = 200
    """Updates of each model."""
    max_documents: int | None = 600
    """Documents of the standard library."""


def twin(config: Twin) -> dict[str, ExecutorStep]:
    """The training steps by their names."""
    text = standard_library("documents/compel-twin", validation_fraction=0.1, max_documents=config.max_documents)
    tokenizer = train_tokenizer("compel-twin", dataset=text / "train", vocab_size=1024)
    validation = default_tokenize("compel-twin/validation", dataset=text / "validation", tokenizer=tokenizer)
    return compel(
        Compel(
            prefix="compel-twin",
            documents={"standard_library": text / "train"},
            tokenizer=tokenizer,
            windows=((0.36, 0.52), (0.43, 0.7)),
            model=LlamaConfig(
                seq_len=128, hidden_dim=64, intermediate_dim=256, num_heads=4, num_kv_heads=4, num_layers=2
            ),
            training=SimpleTrainConfig(
                train_batch_size=8,
                num_train_steps=config.num_train_steps,
                learning_rate=3e-3,
                weight_decay=0.033,
                warmup=0.1,
                max_eval_batches=16,
            ),
            validation={"standard_library": validation},
        )
    )


if __name__ == "__main__":
    executor_main(steps=list(twin(from_command_line(Twin())).values()), description="Text by its LZ4 ratio, in small")
