"""The loader: a batch is a function of its step, the thread only makes it earlier."""

import threading
import time

import numpy as np
import pytest

from marin.data.config import PACKING_MODES
from marin.data.dataset import Batch, RowDataset, row_dataset
from marin.data.loader import DataLoader, sequential_batches
from marin.data.mixture import Mixture
from marin.testing.tiny import make_token_store


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> RowDataset:
    return row_dataset(make_token_store(tmp_path_factory.mktemp("loader") / "store", 40), 16, "concatenate")


@pytest.fixture
def loader(rows: RowDataset) -> DataLoader:
    return DataLoader(Mixture({"tiny": rows}, seed=0, block_size=64), batch_size=4)


def equal(one: Batch, two: Batch) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in Batch.__dataclass_fields__)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "marin-data-loader"]


def test_a_stream_gives_the_batches_of_its_steps_from_any_step_on(loader: DataLoader):
    for start in (0, 7, 1000):
        with loader.iterate(start, num_steps=5) as batches:
            assert all(equal(batch, loader.batch(start + i)) for i, batch in enumerate(batches))


def test_a_stream_without_end_goes_on_past_the_epoch(loader: DataLoader, rows: RowDataset):
    with loader.iterate(0) as batches:
        taken = [next(batches) for _ in range(rows.num_rows // 2)]  # two epochs in batches of four
    assert sum(batch.num_rows for batch in taken) == rows.num_rows // 2 * 4


def test_a_finished_stream_stays_finished_and_leaves_no_thread(loader: DataLoader):
    stream = loader.iterate(0, num_steps=3)
    assert len(list(stream)) == 3
    assert list(stream) == [] and not loader_threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_early_ends_the_thread(loader: DataLoader, taken: int):
    stream = loader.iterate(0, prefetch=3)
    for _ in range(taken):
        next(stream)
    stream.close()
    stream.close()
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(stream)


class FailsAt:
    """Rows of another dataset until a row that cannot be read, as on a failing disk."""

    def __init__(self, rows: RowDataset, calls: int, delay_s: float = 0.0):
        self.store, self.seq_len, self.num_rows = rows.store, rows.seq_len, rows.num_rows
        self._rows, self._calls, self._delay_s = rows, calls, delay_s

    def rows(self, indices: np.ndarray) -> Batch:
        time.sleep(self._delay_s)
        self._calls -= 1
        if self._calls < 0:
            raise OSError("input/output error")
        return self._rows.rows(indices)

    def stats(self):
        return self._rows.stats()


def test_an_error_in_the_thread_is_raised_where_the_batch_is_asked_for(rows: RowDataset):
    loader = DataLoader(Mixture({"tiny": FailsAt(rows, calls=3)}, seed=0, block_size=64), batch_size=4)
    stream = loader.iterate(0)
    got = [next(stream) for _ in range(3)]
    with pytest.raises(OSError, match="input/output error"):
        next(stream)
    assert len(got) == 3 and not loader_threads()


def test_time_spent_waiting_for_a_slow_source_is_measured(rows: RowDataset):
    slow = DataLoader(Mixture({"tiny": FailsAt(rows, calls=99, delay_s=0.02)}, seed=0, block_size=64), batch_size=4)
    with slow.iterate(0, num_steps=5) as batches:
        for _ in batches:
            pass
    waited = batches.stall_s
    assert waited > 0.05
    assert batches.num_stalls == 5
    with slow.iterate(0, num_steps=5) as batches:
        for _ in batches:
            time.sleep(0.03)  # the consumer is slower: only the first batch is waited for
    assert batches.stall_s < waited / 2
    assert batches.num_stalls < 5


@pytest.mark.parametrize("mode", PACKING_MODES)
def test_evaluation_batches_hold_every_token_once_in_batches_of_one_size(rows: RowDataset, mode):
    dataset = row_dataset(rows.store, 16, mode)
    batches = list(sequential_batches(dataset, 7))
    assert {batch.tokens.shape for batch in batches} == {(7, 16)}
    assert sum(batch.loss_weights.sum() for batch in batches) == rows.store.num_tokens
    targets = np.concatenate([batch.targets[batch.loss_weights > 0] for batch in batches])
    assert np.array_equal(np.sort(targets), np.sort(rows.store.take(np.arange(rows.store.num_tokens))))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_limit_on_evaluation_batches_takes_rows_spread_over_the_whole_set(rows: RowDataset, batch_size: int):
    count = 3 * batch_size
    some = list(sequential_batches(rows, batch_size, max_batches=3))
    expected = np.array([int((i + 0.5) * rows.num_rows / count) for i in range(count)])
    assert np.unique(expected).size == count and expected[0] < rows.num_rows / count
    assert expected[-1] >= rows.num_rows - 1 - rows.num_rows / count
    for number, batch in enumerate(some):
        assert equal(batch, rows.rows(expected[number * batch_size : (number + 1) * batch_size]))
    assert len(some) == 3


def test_a_limit_that_all_rows_fit_in_leaves_none_out(rows: RowDataset):
    whole = list(sequential_batches(rows, 8))
    limited = list(sequential_batches(rows, 8, max_batches=len(whole)))
    assert len(limited) == len(whole) and all(equal(one, two) for one, two in zip(limited, whole, strict=True))


def test_a_stream_that_ends_gives_its_whole_batches_and_no_more(rows: RowDataset):
    mixture = Mixture({"tiny": rows}, seed=0, block_size=64, stop_strategy="first_exhausted")
    loader = DataLoader(mixture, batch_size=4)
    available = rows.num_rows // 4
    assert loader.num_steps == available
    with loader.iterate(start_step=available - 3) as batches:
        assert len(list(batches)) == 3
    with pytest.raises(ValueError) as refused:
        loader.iterate(2, num_steps=available - 1)
    assert f"{available + 1} batches take {4 * (available + 1)} rows" in str(refused.value)
    assert f"ends after {rows.num_rows} (stop_strategy 'first_exhausted'), which are {available} whole" in str(
        refused.value
    )


def test_steps_and_sizes_that_make_no_batch_are_refused(loader: DataLoader):
    with pytest.raises(ValueError, match="step -1"):
        loader.batch(-1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        DataLoader(loader.mixture, 0)
    with pytest.raises(ValueError, match="prefetch is 0"):
        loader.iterate(0, prefetch=0)


def test_gathering_costs_microseconds_a_row(tmp_path):
    """Three orders below a loader that runs Python for every token; the bound leaves room for a busy machine."""
    store = make_token_store(tmp_path / "store", 3000, num_shards=1)
    loader = DataLoader(Mixture({"tiny": row_dataset(store, 256, "concatenate")}, seed=0), batch_size=64)
    loader.batch(0)
    best = float("inf")
    for repeat in range(5):
        began = time.process_time()
        for step in range(20):
            loader.batch(20 * repeat + step)
        best = min(best, (time.process_time() - began) / (20 * 64))
    assert best < 50e-6, f"{best * 1e6:.1f} us a row"
