"""Data configs from tokenized sets, with whatever stands for a path passed on as it is."""

import pytest

from marin.data.batch_schedule import BatchSchedule
from marin.data.config import LmDataConfig, MixtureStage
from marin.data.lm_data import open_data
from marin.data.units import Sequences, Steps, Tokens
from marin.processing.tokenize.data_configs import (
    add_validation_sets_to_mixture,
    interpolate_mixture_configs,
    lm_data_config,
    lm_mixture_data_config,
    lm_varying_mixture_data_config,
    mixture_for_evaluation,
)
from marin.testing.tiny import make_token_store


def test_one_training_set_and_its_validation_sets():
    training, held_out = object(), object()
    config = lm_data_config(training, {"held-out": held_out}, shuffle_seed=3)
    assert config.train == {"train": training} and config.weights is None
    assert config.validation == {"held-out": held_out} and config.shuffle_seed == 3


def test_a_mixture_has_fixed_weights_and_zero_leaves_out(tmp_path):
    stores = {name: str(make_token_store(tmp_path / name, 10).path) for name in ("web", "code", "off")}
    config = lm_mixture_data_config(stores, {"web": 3, "code": 1, "off": 0}, mixture_block_size=8)
    assert config.weights == {"web": 3.0, "code": 1.0, "off": 0.0} and config.validation == {}
    mixture = open_data(config, 16).train
    assert mixture.names == ("code", "web") and mixture.stages[0].counts.tolist() == [2, 6]


def test_components_without_a_weight_are_validation_sets():
    config = lm_mixture_data_config({"web": "w", "books": "b"}, {"web": 1.0}, {"code": "c"})
    assert (config.train, config.validation) == ({"web": "w"}, {"books": "b", "code": "c"})
    with pytest.raises(ValueError, match="without a weight: books. Give each its weight"):
        lm_mixture_data_config({"web": "w", "books": "b"}, {"web": 1.0}, missing_weights_are_validation=False)
    with pytest.raises(ValueError, match="'books' has no weight, so it is a validation set, and validation_sets names"):
        lm_mixture_data_config({"web": "w", "books": "b"}, {"web": 1.0}, {"books": "c"})


def test_a_weight_for_no_component_is_refused():
    for build in (
        lambda weights: lm_mixture_data_config({"web": "x"}, weights),
        lambda weights: lm_varying_mixture_data_config({"web": "x"}, [(0, {"web": 1.0}), (5, weights)]),
    ):
        with pytest.raises(ValueError, match=r"weights for wbe, which are no components; those are \['web'\]"):
            build({"wbe": 1.0})


def test_a_varying_mixture_changes_its_weights_where_the_list_says(tmp_path):
    stores = {name: str(make_token_store(tmp_path / name, 10).path) for name in ("web", "code", "math", "held")}
    config = lm_varying_mixture_data_config(
        components=stores,
        weights_list=[(0, {"web": 3, "code": 1}), (5, {"web": 1, "code": 1, "math": 2})],
        mixture_block_size=4,
    )
    assert list(config.train) == ["web", "code", "math"] and list(config.validation) == ["held"]
    mixture = open_data(config, 16, batches=BatchSchedule(8)).train
    assert [(stage.start, stage.counts.tolist()) for stage in mixture.stages] == [(0, [1, 0, 3]), (40, [1, 2, 1])]
    with pytest.raises(ValueError, match="stands after the one from 5 on; put the stages in order"):
        lm_varying_mixture_data_config(stores, [(0, {"web": 1}), (5, {"web": 1}), (3, {"web": 1})])


def test_validation_sets_are_added_to_any_mixture():
    varying = lm_varying_mixture_data_config({"web": "w"}, [(0, {"web": 1.0})], {"code": "c"})
    config = add_validation_sets_to_mixture(varying, {"books": "b", "code": "c"})
    assert config.validation == {"code": "c", "books": "b"} and config.weights == varying.weights
    with pytest.raises(ValueError, match="'code' is there already; give the new one another tag"):
        add_validation_sets_to_mixture(varying, {"code": "other"})
    held_out = lm_data_config("w", num_validation_sequences={"train": 4})
    with pytest.raises(ValueError, match="'train' is there already"):
        add_validation_sets_to_mixture(held_out, {"train": "other"})


def test_a_mixture_for_evaluation_trains_on_nothing(tmp_path):
    store = str(make_token_store(tmp_path / "books", 10).path)
    data = open_data(mixture_for_evaluation({"books": store}, packing="best_fit"), 16)
    assert list(data.validation) == ["books"] and data.mixture is None
    with pytest.raises(ValueError, match="given no token store"):
        mixture_for_evaluation({})


WEB = lm_mixture_data_config({"web": "w", "code": "c"}, {"web": 3.0, "code": 1.0}, {"books": "b"})


def test_interpolated_mixtures_have_each_configs_share_in_its_own_weights():
    math = lm_mixture_data_config({"math": "m", "code": "c"}, {"math": 30.0, "code": 10.0})
    config = interpolate_mixture_configs([WEB, math], [2.0, 6.0])
    assert config.weights == pytest.approx({"web": 0.25 * 0.75, "code": 0.25, "math": 0.75 * 0.75})
    assert config.train == {"web": "w", "code": "c", "math": "m"} and config.validation == {"books": "b"}
    assert interpolate_mixture_configs([WEB], [5.0]).weights == {"web": 0.75, "code": 0.25}


def test_interpolated_varying_mixtures_change_wherever_one_of_them_does():
    one = lm_varying_mixture_data_config({"web": "w", "code": "c"}, [(0, {"web": 1}), (10, {"code": 1})])
    two = lm_varying_mixture_data_config({"web": "w", "math": "m"}, [(0, {"web": 1}), (Steps(20), {"math": 1})])
    weights = interpolate_mixture_configs([one, two], [1.0, 1.0]).weights
    assert isinstance(weights, tuple)
    stage = MixtureStage
    assert weights == (
        stage(start=0, weights={"web": 1.0, "code": 0.0, "math": 0.0}),
        stage(start=10, weights={"web": 0.5, "code": 0.5, "math": 0.0}),
        stage(start=Steps(20), weights={"web": 0.0, "code": 0.5, "math": 0.5}),
    )
    with_fixed = interpolate_mixture_configs([one, WEB], [1.0, 1.0]).weights
    assert [each.start for each in with_fixed] == [0, 10]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("configs", "weights", "message"),
    [
        ([WEB], [1.0, 2.0], "1 configs and 2 weights"),
        ([WEB, WEB], [0.0, 0.0], "expected 0 or more, not all 0"),
        ([WEB, lm_data_config("x")], [1, 1], r"config 1 \(of train\) gives no weights. Write them out"),
        (
            [WEB, lm_mixture_data_config({"web": "other"}, {"web": 1})],
            [1, 1],
            "source 'web' is 'w' .* 'other' in another",
        ),
        (
            [WEB, lm_mixture_data_config({"x": "x"}, {"x": 1}, shuffle_seed=7)],
            [1, 1],
            r"differ in shuffle_seed: \[0, 7\]",
        ),
        (
            [
                lm_varying_mixture_data_config({"web": "w"}, [(0, {"web": 1}), (Tokens(10), {"web": 1})]),
                lm_varying_mixture_data_config({"web": "w"}, [(0, {"web": 1}), (Sequences(10), {"web": 1})]),
            ],
            [1, 1],
            "counted in Sequences, Tokens, which cannot be put in order",
        ),
    ],
)
def test_configs_that_cannot_be_interpolated_are_refused(configs: list[LmDataConfig], weights, message: str):
    with pytest.raises(ValueError, match=message):
        interpolate_mixture_configs(configs, weights)
