"""How to train a language model: the DCLM baseline at the scale "1B-1x" (Li et al. 2024, arXiv:2406.11794, table 1).

    marin plan experiments/howto/exp1077_reproduce_dclm_1b1x.py      # every step from the download on
    marin run experiments/howto/exp1077_reproduce_dclm_1b1x.py       # on a cluster with a v4-128

1.4 billion parameters, as many tokens as are compute-optimal for them. Settings are those of the DCLM repository for
this scale (1b_1x_fast), but for the warm-up and the z-loss, which are those of the reference project's guide.
`howto_on_local_text.py` is the same on text and hardware that everybody has.
"""

import logging

from experiments.datasets.dclm import dclm_mixture_config_llama3
from marin.execution.executor import executor_main
from marin.models.llama import LlamaConfig
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

NUM_TRAIN_TOKENS = int(28.8e9)
BATCH_SIZE = 256
SEQ_LEN = 2048

model_config = LlamaConfig(
    seq_len=SEQ_LEN,
    hidden_dim=2048,
    intermediate_dim=8192,
    num_heads=16,
    num_kv_heads=16,
    num_layers=24,
    use_flash_attention=True,
)

training_config = SimpleTrainConfig(
    accelerator_type="v4-128",
    train_batch_size=BATCH_SIZE,
    num_train_steps=NUM_TRAIN_TOKENS // (BATCH_SIZE * SEQ_LEN),
    learning_rate=3e-3,
    weight_decay=0.033,
    min_lr_ratio=0.1,
    warmup=5000,
    z_loss_weight=1e-4,
)

model = default_train(
    name="dclm_1b_1x_how_to",
    tokenized=dclm_mixture_config_llama3,
    model_config=model_config,
    train_config=training_config,
    tags=["HOWTOS", "DCLM_1B_1X"],
)

if __name__ == "__main__":
    logging.getLogger(__name__).info("Starting language model training experiment")
    executor_main(steps=[model], description="The DCLM baseline, 1B-1x")
