"""What was in a batch: the answer is what the loader really gave, token by token."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.at_step import name_documents, piece_tokens, rows_at_update
from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.config import PACKING_MODES, LmDataConfig, MixtureStage
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader
from marin.data.units import Sequences
from marin.testing.tiny import make_token_store, tiny_documents

SIZES = {"web": 40, "code": 9, "books": 20}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: str(make_token_store(folder / name, size, seed=seed, num_shards=2).path)
        for seed, (name, size) in enumerate(SIZES.items())
    }


def loader_of(stores: dict[str, str], batches: BatchSchedule, **settings) -> DataLoader:
    settings = {"verify_stores": False} | settings
    return DataLoader(open_data(LmDataConfig(train=stores, **settings), 24, batches=batches).train, batches)


shares = st.fixed_dictionaries({name: st.integers(1, 3).map(float) for name in SIZES})


@settings(max_examples=40, deadline=None)
@given(
    packing=st.sampled_from(PACKING_MODES),
    weights=st.lists(shares, min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    held_out=st.integers(0, 5),
    seed=st.integers(0, 3),
    update=st.integers(1, 60),
)
def test_each_row_is_made_of_the_tokens_that_are_named(stores, packing, weights, sizes, held_out, seed, update):
    loader = loader_of(
        stores,
        BatchSchedule([ScheduleStep(10 * number, size) for number, size in enumerate(sizes)]),
        packing=packing,
        weights=tuple(MixtureStage(start=Sequences(37 * n), weights=each) for n, each in enumerate(weights)),
        mixture_block_size=16,
        shuffle_seed=seed,
        num_validation_sequences={"web": held_out} if held_out else {},
    )
    with loader.iterate(update - 1, num_steps=1) as batches:
        batch = next(batches)
    rows = rows_at_update(loader, update)
    assert [row.row for row in rows] == list(range(batch.num_rows))
    for row in rows:
        store = loader.mixture.sources[loader.mixture.names.index(row.source)].store
        assert row.store == str(store.path) == stores[row.source]
        named = np.zeros(24, bool)
        for segment, piece in enumerate(row.pieces):
            slots = slice(piece.slot, piece.slot + piece.length)
            document = store.document(piece.document)
            assert piece.document_length == document.size
            tokens = document[piece.start : piece.start + piece.length]
            assert np.array_equal(batch.targets[row.row, slots], tokens)
            assert np.array_equal(piece_tokens(loader, row, piece), tokens)
            assert (batch.segment_ids[row.row, slots] == segment).all()
            assert (piece.document_source, piece.document_id) == store.document_id(piece.document)
            named[slots] = True
        assert np.array_equal(named, batch.loss_weights[row.row] > 0)  # every slot that counts is of some piece


@pytest.mark.parametrize("packing", PACKING_MODES)
def test_over_an_epoch_every_token_of_every_document_is_named_once(stores, packing):
    loader = loader_of({"books": stores["books"]}, BatchSchedule(1), packing=packing)
    times: dict[str, np.ndarray] = {}
    for update in range(1, loader.mixture.sources[0].num_rows + 1):
        for piece in rows_at_update(loader, update)[0].pieces:
            seen = times.setdefault(piece.document_id, np.zeros(piece.document_length, int))
            seen[piece.start : piece.start + piece.length] += 1
    assert set(times) == {document["id"] for document in tiny_documents(SIZES["books"], seed=2)}
    assert all((seen == 1).all() for seen in times.values())


def test_documents_are_named_by_source_and_the_rest_is_counted(stores):
    rows = rows_at_update(loader_of(stores, BatchSchedule(6)), 3)
    everything = name_documents(rows, at_most=1000)
    ids = {(row.source, piece.document_id) for row in rows for piece in row.pieces}
    assert sorted(re.findall("'(.*?)'", everything)) == sorted(document_id for _, document_id in ids)
    some = name_documents(rows, at_most=2)
    assert len(re.findall("'(.*?)'", some)) == 2 and some.endswith(f" and {len(ids) - 2} more")


def test_updates_are_counted_from_one_and_end_with_the_stream(stores):
    loader = loader_of(stores, BatchSchedule(4), stop_strategy="first_exhausted")
    with pytest.raises(ValueError, match="update 0 was asked for; the first update of this run is 1"):
        rows_at_update(loader, 0)
    last = loader.num_steps
    assert last is not None and len(rows_at_update(loader, last)) == 4
    with pytest.raises(IndexError, match="ends after"):
        rows_at_update(loader, last + 1)
