"""Data configs from tokenized sets, with whatever stands for a path passed on as it is."""

import pytest

from marin.data.lm_data import open_data
from marin.processing.tokenize.data_configs import lm_data_config, lm_mixture_data_config
from marin.testing.tiny import make_token_store


def test_one_training_set_and_its_validation_sets():
    training, held_out = object(), object()
    config = lm_data_config(training, {"held-out": held_out}, shuffle_seed=3)
    assert config.train == {"train": training} and config.weights is None
    assert config.validation == {"held-out": held_out} and config.shuffle_seed == 3


def test_a_mixture_has_fixed_weights_and_none_means_zero(tmp_path):
    stores = {name: str(make_token_store(tmp_path / name, 10).path) for name in ("web", "code", "off")}
    config = lm_mixture_data_config(stores, {"web": 3, "code": 1}, mixture_block_size=8)
    assert config.weights == {"web": 3.0, "code": 1.0, "off": 0.0}
    mixture = open_data(config, 16).train
    assert mixture.names == ("web", "code") and mixture.counts.tolist() == [6, 2]


def test_a_weight_for_no_component_is_refused():
    with pytest.raises(ValueError, match=r"weights for wbe, which are no components; those are \['web'\]"):
        lm_mixture_data_config({"web": "x"}, {"wbe": 1.0})
