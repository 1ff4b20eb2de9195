"""The DCLM baseline at the scale "7B-1x" (Li et al. 2024, arXiv:2406.11794, table 1): 7 billion parameters.

    marin plan experiments/howto/exp1078_reproduce_dclm_7b1x.py

Settings are those of the DCLM repository for this scale (7b_1x_fast_2e-3_lr_5e-6_zloss), but for the warm-up, which is
that of the reference project's guide. See exp1077_reproduce_dclm_1b1x.py for the smaller one.
"""

from experiments.datasets.dclm import dclm_mixture_config_llama3
from marin.cluster.resources import ResourceConfig
from marin.execution.executor import executor_main
from marin.models.llama import LlamaConfig
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

NUM_TRAIN_TOKENS = int(140e9)
BATCH_SIZE = 2048
SEQ_LEN = 2048

model_config = LlamaConfig(
    seq_len=SEQ_LEN,
    hidden_dim=4096,
    intermediate_dim=11008,
    num_heads=32,
    num_kv_heads=32,
    num_layers=32,
)

training_config = SimpleTrainConfig(
    resources=ResourceConfig.with_tpu("v4-128", slice_count=4),
    train_batch_size=BATCH_SIZE,
    num_train_steps=NUM_TRAIN_TOKENS // (BATCH_SIZE * SEQ_LEN),
    learning_rate=2e-3,
    weight_decay=0.05,
    min_lr_ratio=0.1,
    warmup=5000,
    z_loss_weight=5e-6,
)

model = default_train(
    name="dclm_7b_1x_how_to",
    tokenized=dclm_mixture_config_llama3,
    model_config=model_config,
    train_config=training_config,
    tags=["HOWTOS", "DCLM_7B_1X"],
)

if __name__ == "__main__":
    executor_main(steps=[model], description="The DCLM baseline, 7B-1x")
