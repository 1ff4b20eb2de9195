"""The guide's experiment on text and hardware that everybody has: two minutes on two cores.

    marin run experiments/howto/howto_on_local_text.py
    marin run experiments/howto/howto_on_local_text.py --set num_train_tokens=400000

The same script as exp1077_reproduce_dclm_1b1x.py with the same mixture, in which the standard library stands in for the
sets: a smaller model, fewer tokens, and nothing else. A length in steps became a part of the run.
"""

from dataclasses import dataclass

from experiments.datasets.dclm import DCLM_MIXTURE_WEIGHTS
from experiments.datasets.stand_ins import stand_ins
from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, executor_main
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.data_configs import lm_mixture_data_config
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

BATCH_SIZE = 8
SEQ_LEN = 256


@dataclass(frozen=True, kw_only=True)
class Howto:
    """What may be set from the command line."""

    num_train_tokens: int = 1_000_000
    """Tokens to train on."""
    max_documents: int | None = None
    """Take only the first so many documents, for a quick look."""


def howto(config: Howto) -> ExecutorStep:
    """The training step; the steps that make its data hang on it."""
    local = stand_ins(DCLM_MIXTURE_WEIGHTS, prefix="howto", vocab_size=2048, max_documents=config.max_documents)
    model_config = LlamaConfig(
        seq_len=SEQ_LEN,
        hidden_dim=128,
        intermediate_dim=512,
        num_heads=4,
        num_kv_heads=4,
        num_layers=3,
        use_flash_attention=True,
    )
    training_config = SimpleTrainConfig(
        train_batch_size=BATCH_SIZE,
        num_train_steps=config.num_train_tokens // (BATCH_SIZE * SEQ_LEN),
        learning_rate=3e-3,
        weight_decay=0.033,
        min_lr_ratio=0.1,
        warmup=0.1,
        z_loss_weight=1e-4,
        max_eval_batches=16,
    )
    return default_train(
        name="howto_on_local_text",
        tokenized=lm_mixture_data_config(
            local.sets, DCLM_MIXTURE_WEIGHTS, validation_sets={"standard_library": local.validation}
        ),
        model_config=model_config,
        train_config=training_config,
        tags=["HOWTOS"],
    )


if __name__ == "__main__":
    executor_main(steps=[howto(from_command_line(Howto()))], description="The guide's experiment on local text")
