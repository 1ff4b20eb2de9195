"""Opening a run's data: what does not belong together is refused by name, before the first batch."""

from pathlib import Path

import numpy as np
import pytest

from marin.data.config import LmDataConfig
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader, sequential_batches
from marin.data.store import CorruptStoreError
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
    assert data.train.counts.tolist() == [48, 16]
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
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_when_it_is_made(settings, message: str):
    with pytest.raises(ValueError, match=message):
        LmDataConfig(**settings)
