"""Opening a run's data: what does not belong together is refused by name, before the first batch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.config import decode, encode
from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.config import PACKING_MODES, LmDataConfig, MixtureStage
from marin.data.dataset import row_dataset
from marin.data.lm_data import LmData, open_data
from marin.data.loader import DataLoader, sequential_batches
from marin.data.store import CorruptStoreError
from marin.data.units import Sequences, Steps, Tokens
from marin.testing.tiny import make_token_store, write_byte_tokenizer


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    make_token_store(folder / "web", 30, seed=1)
    make_token_store(folder / "code", 10, seed=2)
    make_token_store(folder / "held-out", 5, seed=3)
    return folder


def other_tokenizer(folder: Path) -> Path:
    """A byte tokenizer with other ids: its digest differs."""
    write_byte_tokenizer(folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"!": 33', '"!": 34').replace('"\\"": 34', '"\\"": 33'))
    return folder


def test_one_config_gives_training_rows_and_validation_sets(stores: Path):
    config = LmDataConfig(
        train={"web": str(stores / "web"), "code": str(stores / "code")},
        weights={"web": 3.0, "code": 1.0},
        validation={"held-out": str(stores / "held-out")},
        packing="best_fit",
        mixture_block_size=64,
    )
    data = open_data(config, 32)
    assert data.train.names == ("code", "web") and data.train.stages[0].counts.tolist() == [16, 48]
    assert (data.seq_len, data.vocab_size, data.eos_id, data.bos_id) == (32, 257, 256, None)
    batch = DataLoader(data.train, 8).batch(3)
    assert batch.tokens.shape == (8, 32)
    weights = sum(batch.loss_weights.sum() for batch in sequential_batches(data.validation["held-out"], 4))
    assert weights == data.validation["held-out"].store.num_tokens
    assert data.token_byte_lengths[:256].tolist() == [1] * 256 and data.token_byte_lengths[256] == 0


def test_the_same_config_gives_the_same_batches_and_another_seed_does_not(stores: Path):
    def first(seed: int) -> np.ndarray:
        config = LmDataConfig(train={"web": str(stores / "web")}, shuffle_seed=seed)
        return DataLoader(open_data(config, 16).train, 8).batch(0).tokens

    assert np.array_equal(first(1), first(1)) and not np.array_equal(first(1), first(2))


def test_stores_of_two_tokenizers_are_refused_naming_both(stores: Path, tmp_path: Path):
    make_token_store(tmp_path / "other", 5, tokenizer=other_tokenizer(tmp_path / "tokenizer"))
    config = LmDataConfig(train={"web": str(stores / "web")}, validation={"new": str(tmp_path / "other")})
    with pytest.raises(ValueError, match=r"training source 'web'.*validation set 'new'.*different tokenizers") as error:
        open_data(config, 16)
    assert str(stores / "web") in str(error.value) and str(tmp_path / "other") in str(error.value)


def test_a_tokenizer_that_differs_from_the_stores_is_refused(stores: Path):
    config = LmDataConfig(train={"web": str(stores / "web")}, tokenizer="tokenizers/llama3")
    with pytest.raises(ValueError, match=r"tokenizer 'tokenizers/llama3'.*is not the one that training source 'web'"):
        open_data(config, 16, tokenizer_digest="0" * 64)


def test_a_model_of_another_vocabulary_is_refused(stores: Path):
    with pytest.raises(ValueError, match="vocabulary of 50257 tokens, training source 'web' .* has 257"):
        open_data(LmDataConfig(train={"web": str(stores / "web")}), 16, vocab_size=50257)


def test_a_source_shorter_than_one_row_is_refused(stores: Path):
    with pytest.raises(ValueError, match="source 'web' .* tokens, one row needs 100000"):
        open_data(LmDataConfig(train={"web": str(stores / "web")}), 100_000)


def test_a_damaged_store_is_refused_before_training(tmp_path: Path):
    store = make_token_store(tmp_path / "web", 20)
    tokens = store.path / "shard-00000/tokens.bin"
    data = bytearray(tokens.read_bytes())
    data[7] ^= 4
    tokens.write_bytes(data)
    config = LmDataConfig(train={"web": str(store.path)})
    with pytest.raises(CorruptStoreError, match="shard-00000/tokens.bin is damaged"):
        open_data(config, 16)


def test_a_store_that_is_not_there_names_its_source(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"training source 'web': no token store.*Run its tokenizing step"):
        open_data(LmDataConfig(train={"web": str(tmp_path / "nowhere")}), 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {}}, "names no source"),
        ({"train": {"a": "x"}, "packing": "concat"}, "packing is 'concat'"),
        ({"train": {"a": "x"}, "weights": {"b": 1.0}}, r"weights names \['b'\], train has \['a'\]"),
        ({"train": {"a": "x"}, "weights": {"a": 0.0}}, "all weights are 0"),
        ({"train": {"a": "x"}, "weights": {"a": -1.0}}, r"0 or more; given \{'a': -1.0\}"),
        ({"train": {"a": "x"}, "weights": ()}, "empty list; give at least one stage"),
        ({"train": {"a": "x"}, "stop_strategy": "stop"}, "stop_strategy is 'stop'; expected one of 'restart'"),
        ({"train": {"a": "x"}, "max_train_batches": {"b": 1}}, r"max_train_batches names b, .*it has \['a'\]"),
        ({"train": {"a": "x"}, "num_validation_sequences": {"a": 0}}, "give 1 or more, or leave the source out"),
        (
            {"train": {"a": "x"}, "validation": {"a": "y"}, "num_validation_sequences": {"a": 4}},
            "makes a validation set 'a', and validation names one too",
        ),
        ({"train": {"a": "x"}, "target_budget": 5}, "takes both, in tokens"),
        ({"train": {"a": "x"}, "target_budget": 5, "experiment_budget": 6}, "the experiment's is the smaller"),
        (
            {"train": {"a": "x"}, "target_budget": 5, "experiment_budget": 5, "max_train_batches": {"a": 1}},
            "both say how much of a source is used",
        ),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_when_it_is_made(settings, message: str):
    with pytest.raises(ValueError, match=message):
        LmDataConfig(**settings)


def stages(*given) -> tuple[MixtureStage, ...]:
    return tuple(MixtureStage(start=start, weights=weights) for start, weights in given)


A, B = {"a": 1.0}, {"b": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (stages((1, A)), "the first stage starts at 1; it must start at 0"),
        (stages((0, A), (9, B), (Steps(9), A)), r"Steps\(num_steps=9\) on stands after the one from 9 on"),
        (stages((0, A), (Tokens(9), B), (Tokens(8), A)), r"stage from Tokens\(num_tokens=8\).*in order"),
        (stages((0, A), (-1, B)), "-1 is no place in a run"),
        (stages((0, A), (5, {"c": 1.0})), r"weights\[1\] \(from 5 on\) has weights for c.*it has \['a', 'b'\]"),
        (stages((0, A), (5, {"a": 0.0})), r"weights\[1\] \(from 5 on\): all weights are 0"),
        (((0, A),), "expected MixtureStage"),
    ],
)
def test_stages_that_cannot_be_meant_are_refused_when_the_config_is_made(given, message: str):
    with pytest.raises(ValueError, match=message):
        LmDataConfig(train={"a": "x", "b": "y"}, weights=given)


BATCHES = BatchSchedule([ScheduleStep(0, 4), ScheduleStep(10, 8)])


def test_a_stage_starts_at_the_update_the_token_or_the_row_that_is_asked_for(stores: Path):
    weights = stages((0, {"web": 1.0}), (12, {"web": 1.0, "code": 1.0}), (Tokens(100 * 16 - 5), {"code": 1.0}))
    weights = (*weights, *stages((Sequences(150), {"web": 1.0})))
    config = LmDataConfig(
        train={"web": str(stores / "web"), "code": str(stores / "code")}, weights=weights, mixture_block_size=8
    )
    assert decode(LmDataConfig, encode(config)) == config
    mixture = open_data(config, 16, batches=BATCHES).train
    assert [stage.start for stage in mixture.stages] == [0, 10 * 4 + 2 * 8, 100, 150]
    source, _ = mixture.locate(np.arange(200))
    assert np.bincount(source[:56], minlength=2).tolist() == [0, 56]
    assert np.bincount(source[56:96], minlength=2).tolist() == [20, 20]
    assert np.bincount(source[100:150], minlength=2).tolist() == [50, 0]
    with pytest.raises(ValueError, match="start of a stage: 12 counts updates"):
        open_data(config, 16)


def test_stages_in_different_units_are_put_in_order_once_the_rows_are_known(stores: Path):
    config = LmDataConfig(
        train={"web": str(stores / "web")},
        weights=stages((0, {"web": 1.0}), (Steps(5), {"web": 1.0}), (Sequences(7), {"web": 1.0})),
    )
    with pytest.raises(ValueError, match=r"must rise: 0 is row 0, Steps\(num_steps=5\) is row 20, .* is row 7"):
        open_data(config, 16, batches=BATCHES)


def rows_of(data: LmData, name: str) -> np.ndarray:
    """Targets of all training rows of a source, sorted so that two sets of rows can be compared."""
    source = data.train.sources[data.train.names.index(name)]
    return source.rows(np.arange(source.num_rows)).targets


def as_set(rows: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in rows}


@settings(max_examples=15, deadline=None)
@given(num=st.integers(1, 60), packing=st.sampled_from(PACKING_MODES), seed=st.integers(0, 9))
def test_held_out_rows_are_no_training_rows_and_with_them_all_there_are(stores: Path, num: int, packing, seed: int):
    def opened(num_held_out: int, shuffle_seed: int) -> LmData:
        config = LmDataConfig(
            train={"web": str(stores / "web")},
            packing=packing,
            shuffle_seed=shuffle_seed,
            num_validation_sequences={"web": num_held_out},
            verify_stores=False,
        )
        return open_data(config, 16)

    data = opened(num, seed)
    held_out = data.validation["web"]
    whole = row_dataset(held_out.store, 16, packing)
    assert held_out.num_rows == num and data.train.sources[0].num_rows == whole.num_rows - num
    # by the documents and places that rows are made of, since two rows may hold the same tokens
    places = [
        {(int(d), int(s)) for d, s in zip(pieces.document, pieces.start, strict=True)}
        for pieces in (rows.pieces(np.arange(rows.num_rows)) for rows in (held_out, data.train.sources[0], whole))
    ]
    assert not places[0] & places[1] and places[0] | places[1] == places[2]
    # neither the seed nor a larger number moves a held-out row to the other side
    more = opened(num + 5, seed + 1).validation["web"]
    assert np.array_equal(more.rows(np.arange(num)).targets, held_out.rows(np.arange(num)).targets)


def test_a_held_out_set_is_measured_beside_the_others(stores: Path):
    config = LmDataConfig(
        train={"web": str(stores / "web"), "code": str(stores / "code")},
        validation={"books": str(stores / "held-out")},
        num_validation_sequences={"code": 3},
    )
    assert set(open_data(config, 16).validation) == {"books", "code"}


def test_the_name_of_a_source_does_not_decide_what_is_held_out(stores: Path):
    def held_out(name: str) -> np.ndarray:
        config = LmDataConfig(train={name: str(stores / "web")}, num_validation_sequences={name: 7})
        return open_data(config, 16).validation[name].rows(np.arange(7)).targets

    assert np.array_equal(held_out("web"), held_out("crawl"))


def test_one_store_under_two_names_must_hold_out_the_same(stores: Path):
    train = {"web": str(stores / "web"), "again": str(stores / "web")}
    with pytest.raises(ValueError, match="'web' and 'again' are one token store.*holds out 3 rows of the one and 0"):
        open_data(LmDataConfig(train=train, num_validation_sequences={"web": 3}), 16)
    data = open_data(LmDataConfig(train=train, num_validation_sequences={"web": 3, "again": 3}), 16)
    assert not as_set(rows_of(data, "again")) & as_set(data.validation["web"].rows(np.arange(3)).targets)


def test_no_more_batches_of_a_source_than_allowed_and_then_the_same_again(stores: Path):
    config = LmDataConfig(
        train={"web": str(stores / "web"), "code": str(stores / "code")}, max_train_batches={"web": 3}
    )
    data = open_data(config, 16, batches=BATCHES)
    code, web = data.train.sources
    assert (code.num_rows, web.num_rows) == (row_dataset(code.store, 16, "concatenate").num_rows, 12)
    whole = row_dataset(web.store, 16, "concatenate")
    assert as_set(rows_of(data, "web")) <= as_set(whole.rows(np.arange(whole.num_rows)).targets)
    with pytest.raises(ValueError, match="limits source 'web' to 3 batches"):
        open_data(config, 16)
    plenty = LmDataConfig(train={"web": str(stores / "web")}, max_train_batches={"web": 10**6})
    assert open_data(plenty, 16, batches=BATCHES).train.sources[0].num_rows == whole.num_rows


def test_simulated_epoching_passes_through_the_sources_as_often_as_the_target_would(stores: Path):
    train = {"web": str(stores / "web"), "code": str(stores / "code")}
    weights = {"web": 3.0, "code": 1.0}
    whole = open_data(LmDataConfig(train=train, weights=weights), 16).train
    target = 50_000 * 16
    config = LmDataConfig(train=train, weights=weights, target_budget=target, experiment_budget=target // 10)
    simulated = open_data(config, 16).train
    for name in train:
        expected = whole.epochs(target // 16)[name]
        num_rows = whole.sources[whole.names.index(name)].num_rows
        assert simulated.sources[simulated.names.index(name)].num_rows == num_rows // 10
        rounding = num_rows / 10 / (num_rows // 10)  # a part is of whole rows
        assert simulated.epochs(target // 160)[name] == pytest.approx(expected * rounding, rel=0.01)
    with pytest.raises(ValueError, match="'web' has .* of them is none"):
        open_data(LmDataConfig(train=train, target_budget=10**9, experiment_budget=10), 16)


def test_holding_out_every_row_is_refused(stores: Path):
    config = LmDataConfig(train={"code": str(stores / "code")}, num_validation_sequences={"code": 10**6})
    with pytest.raises(ValueError, match="source 'code' .* none is left to train on. Hold out fewer"):
        open_data(config, 16)


def test_a_part_of_a_source_counts_its_own_padding(stores: Path):
    config = LmDataConfig(train={"web": str(stores / "web")}, packing="best_fit", num_validation_sequences={"web": 20})
    data = open_data(config, 32)
    whole = row_dataset(data.train.sources[0].store, 32, "best_fit").stats()
    for part in (data.train.sources[0], data.validation["web"]):
        stats, batch = part.stats(), part.rows(np.arange(part.num_rows))
        assert (stats.num_rows, stats.num_tokens) == (part.num_rows, int(batch.loss_weights.sum()))
        assert stats.padding == int((batch.loss_weights == 0).sum()) and stats.num_documents <= whole.num_documents
    assert data.train.sources[0].stats().num_tokens + data.validation["web"].stats().num_tokens == whole.num_tokens


def test_data_to_validate_on_alone_has_nothing_to_train_on(stores: Path):
    data = open_data(LmDataConfig(train={}, validation={"books": str(stores / "held-out")}), 16)
    assert set(data.validation) == {"books"} and data.vocab_size == 257
    with pytest.raises(ValueError, match="names no source, so there is nothing to train on"):
        _ = data.train
