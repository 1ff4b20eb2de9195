"""Tootsie in small: every phase and hand-over of exp600_tootsie.py, a tiny model, the standard library as text.

    marin run experiments/tootsie/exp600_twin.py
    marin plan experiments/tootsie/exp600_twin.py

Lengths are 1/100,000 of the real ones, but at least six updates; batches 1/256; a Llama of the same two rotary rules.
Nothing is learned here but that the phases fit together: which checkpoint, which rows, which rate.
"""

from dataclasses import dataclass, replace

from experiments.datasets.stand_ins import stand_ins
from experiments.tootsie.exp600_tootsie import PUBLISHED_LENGTHS, SET_NAMES, Scale, tootsie
from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, executor_main
from marin.models.llama import LlamaConfig
from marin.models.rotary import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig
from marin.training.config import SimpleTrainConfig


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What may be set from the command line."""

    shorter_by: int = 100_000
    """How many times shorter than the real one."""
    at_least: int = 6
    """Updates of the shortest phase."""
    max_documents: int | None = 400
    """Documents of the standard library."""
    vocab_size: int = 512
    """Tokens of its BPE."""


def twin(config: Twin) -> dict[str, ExecutorStep]:
    """The training steps of all phases, by their names, in order."""
    local = stand_ins(SET_NAMES, prefix="twin", vocab_size=config.vocab_size, max_documents=config.max_documents)
    model = LlamaConfig(
        seq_len=64,
        hidden_dim=32,
        intermediate_dim=112,
        num_heads=4,
        num_kv_heads=1,
        num_layers=2,
        rope=Llama3RotaryEmbeddingsConfig(),
    )
    return tootsie(
        Scale(
            prefix="tootsie-twin",
            lengths=PUBLISHED_LENGTHS.divided(config.shorter_by, at_least=config.at_least),
            rows=(4, 12, 16),
            old_model=replace(model, rope=DefaultRotaryEmbeddingsConfig()),
            model=model,
            sets=local.sets,
            validation={"standard_library": local.validation},
            base=SimpleTrainConfig(
                train_batch_size=4,
                num_train_steps=1,
                learning_rate=1e-3,
                weight_decay=0.05,
                steps_per_eval=None,
                max_eval_batches=2,
            ),
        )
    )


if __name__ == "__main__":
    executor_main(steps=list(twin(from_command_line(Twin())).values()), description="Every phase of Tootsie, in small")
