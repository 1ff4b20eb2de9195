"""Batches by step number, made ahead of time in a thread.

`batch(step)` is a pure function of the step, so a resumed run needs one integer and no replay. The thread only runs
ahead; it never decides an order. Time spent waiting for it is measured, because a slow loader looks like a slow model.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from marin.data.batch_schedule import BatchSchedule
from marin.data.dataset import Batch, RowDataset
from marin.data.mixture import Mixture


class DataLoader:
    """Batches of a mixture, one after the other: of `batch_size` rows, or as many as a schedule says."""

    def __init__(self, mixture: Mixture, batch_size: int | BatchSchedule):
        if isinstance(batch_size, int) and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch has at least one row")
        self.mixture = mixture
        self.batches = batch_size if isinstance(batch_size, BatchSchedule) else BatchSchedule(batch_size)

    @property
    def num_steps(self) -> int | None:
        """Updates that the stream lasts for; None where it never ends. What is left over at the end is never given."""
        return None if self.mixture.num_rows is None else self.batches.whole_batches(self.mixture.num_rows)

    def check_num_steps(self, num_steps: int) -> None:
        """ValueError where the stream ends before the batches of that many updates."""
        available = self.num_steps
        if available is not None and num_steps > available:
            first = self.batches.first_step
            raise ValueError(
                f"{num_steps - first} batches take {self.batches.offset(num_steps)} rows, and the mixture ends after "
                f"{self.mixture.num_rows} (stop_strategy {self.mixture.stop_strategy!r}), which are "
                f"{available - first} whole batches. Train for {available} steps or fewer, or set stop_strategy to "
                "'restart' to repeat the data."
            )

    def batch(self, step: int, rows_here: Callable[[int], np.ndarray] = np.arange) -> Batch:
        """The batch of one step, counted from 0.

        `rows_here` says which rows of a batch of so many are wanted, by their numbers, where that is not all of them.
        """
        if step < self.batches.first_step:
            raise ValueError(f"step {step} was asked for; steps begin at {self.batches.first_step}")
        return self.mixture.rows(self.batches.offset(step) + rows_here(self.batches.size(step)))

    def iterate(
        self,
        start_step: int,
        *,
        num_steps: int | None = None,
        prefetch: int = 8,
        rows_here: Callable[[int], np.ndarray] = np.arange,
    ) -> "BatchStream":
        """Batches from `start_step` on, `num_steps` of them or as many as there are, up to `prefetch` made ahead.

        Raises ValueError where there are fewer than `num_steps`. `rows_here` is as for `batch`.

        Use it as a context manager, or call `close`, so that its thread ends::

            with loader.iterate(start_step=resumed_at, num_steps=100) as batches:
                for batch in batches: ...
        """
        end = self.num_steps if num_steps is None else start_step + num_steps
        if num_steps is not None:
            self.check_num_steps(start_step + num_steps)
        return BatchStream(lambda step: self.batch(step, rows_here), start_step, end, prefetch)


class BatchStream:
    """An iterator over batches with a thread that makes them ahead; see `DataLoader.iterate`."""

    stall_s: float  # seconds that the consumer has waited for batches, the first one included
    num_stalls: int  # batches that were not there yet when they were asked for, the first one included

    def __init__(self, make: Callable[[int], Batch], start_step: int, end: int | None, prefetch: int):
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}; at least one batch is made ahead")
        self.stall_s, self.num_stalls = 0.0, 0
        self._prefetch = prefetch
        self._few = prefetch // 2  # waking the thread costs the consumer microseconds, so not for each batch
        self._ready: deque[Batch | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._produce, args=(make, start_step, end), name="marin-data-loader", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        """The next batch. An error of the thread is raised here, and the stream has ended."""
        if self._stop.is_set():
            raise StopIteration
        began = time.perf_counter()
        is_late = not self._ready
        if is_late:
            with self._changed:
                self._changed.wait_for(lambda: self._ready)
        item = self._ready.popleft()
        if len(self._ready) == self._few:
            with self._changed:
                self._changed.notify_all()
        self.stall_s += time.perf_counter() - began
        if isinstance(item, Batch):
            self.num_stalls += is_late
            return item
        self.close()
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """End the thread; safe to call twice. Batches made ahead are dropped: they can be had again by their step."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _produce(self, make: Callable[[int], Batch], step: int, end: int | None) -> None:
        try:
            while not self._stop.is_set() and (end is None or step < end):
                self._put(make(step))
                step += 1
            self._put(None)
        except BaseException as error:  # whatever it is, it belongs to the consumer
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> None:
        """Hand over what was made, and wait until only few are left where that was enough."""
        with self._changed:
            self._ready.append(item)
            self._changed.notify_all()
            if len(self._ready) >= self._prefetch:
                self._changed.wait_for(lambda: len(self._ready) <= self._few or self._stop.is_set())


def sequential_batches(
    dataset: RowDataset, batch_size: int, *, max_batches: int | None = None, rows_here: np.ndarray | None = None
) -> Iterator[Batch]:
    """All rows in order, once, for evaluation: every batch has `batch_size` rows, the last one filled up with padding.

    Where they are more than `max_batches` hold, that many batches of rows spread evenly over the set, the same ones
    every time: row i of k is the middle of the i-th of k equal parts. The first rows alone would be the first
    documents, and those are often of one kind.

    With `rows_here`, rising numbers of rows in a batch, each batch has just these.
    """
    wanted = np.arange(batch_size) if rows_here is None else rows_here
    chosen = np.arange(dataset.num_rows)
    if max_batches is not None and max_batches * batch_size < dataset.num_rows:
        count = max_batches * batch_size
        chosen = (2 * np.arange(count) + 1) * dataset.num_rows // (2 * count)
    for start in range(0, chosen.size, batch_size):
        rows = start + wanted
        yield _filled_up(dataset.rows(chosen[rows[rows < chosen.size]]), wanted.size, dataset.store.eos_id)


def _filled_up(batch: Batch, batch_size: int, eos_id: int) -> Batch:
    missing = batch_size - batch.num_rows
    if missing == 0:
        return batch

    def fill(array: np.ndarray, value: int) -> np.ndarray:
        return np.pad(array, ((0, missing), (0, 0)), constant_values=value)

    return Batch(
        tokens=fill(batch.tokens, eos_id),
        targets=fill(batch.targets, eos_id),
        loss_weights=fill(batch.loss_weights, 0),
        segment_ids=fill(batch.segment_ids, -1),
    )
