"""The page docs/reference/train-config.md, made from the configs themselves."""

from marin.config.reference import reference_page
from marin.training.config import SimpleTrainConfig, TrainLmConfig
from marin.training.sft_config import SimpleSFTConfig

_INTRODUCTION = """
What can stand in the YAML file of `marin train`, and in a `TrainLmConfig`. This page is what `marin train --reference`
prints: `marin train --reference > docs/reference/train-config.md`.

A field marked **needed** has no default, since it makes a run what it is. `null` is Python's None. Where one of
several configs can stand, `type:` says which, and a name alone (`trackers: [tensorboard]`) is the one of that name with
its defaults. `--PLACE VALUE` on the command line sets any of them: `--optimizer.learning_rate 1e-3`.

[SimpleTrainConfig](#simpletrainconfig) and [SimpleSFTConfig](#simplesftconfig), at the end, are the flat lists that
`default_train` and `default_sft` take in an experiment.
"""


def train_config_reference() -> str:
    """Markdown: every config that a training run can hold, then the short fronts."""
    roots = TrainLmConfig, SimpleTrainConfig, SimpleSFTConfig
    return reference_page(*roots, title="Training configuration", introduction=_INTRODUCTION)
