"""Train for so many passes through the data.

A training run is so many updates: its learning rate is a function of that number. What a pass is in updates is known
only when the token stores are there, so it is found here, before the run begins, and the run's own config.yaml holds
the number. The stores are opened twice for it, which reads no token.

Of one source a pass is each row once. Several are mixed in blocks with whole rows of each, so when their rows together
have been passed through, one source may be some rows short of it and another beyond it: `epochs` in summary.json says
of each how far it came.
"""

import math
from dataclasses import replace
from fractions import Fraction

from marin.data.lm_data import open_data
from marin.training.config import TrainLmConfig
from marin.training.sft_config import TrainEpochsConfig
from marin.training.train_lm import TrainResult, train_lm


def train_epochs(config: TrainEpochsConfig) -> TrainResult:
    """Train as `train_lm` does, for `num_epochs` passes through all rows, rounded up to whole updates."""
    run = config.run
    trainer = replace(run.trainer, num_train_steps=num_train_steps(run, config.num_epochs))
    return train_lm(replace(run, trainer=trainer))


def num_train_steps(config: TrainLmConfig, num_epochs: float) -> int:
    """Updates in which so many times the number of rows of all training sources are passed through; 1 at least.

    The last update may hold rows of another pass.
    """
    seq_len = config.trainer.train_seq_len or config.model.seq_len
    data = open_data(replace(config.data, verify_stores=False), seq_len, batches=config.trainer.batches)
    num_rows = sum(source.num_rows for source in data.train.sources)
    batch_size = config.trainer.batches.size(0)
    return max(1, math.ceil(Fraction(str(num_epochs)) * num_rows / batch_size))
