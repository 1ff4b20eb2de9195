"""What happens after a step: numbers, validation, checkpoints.

A callback is a function of `StepDone`. The order in which the trainer calls them is part of the law that a killed run
repeats itself bit for bit: rows are written and flushed before the checkpoint that makes them final, so a checkpoint
never exists without the rows up to its step, and rows after it are cut off on resuming. A callback that must remember
something remembers it in such rows and reads them again when the run is resumed: nothing of it is in the checkpoint.
Here are the callbacks that every run has; `marin.training.callback_config` lists those that a config can add.

The numbers of a step are fetched from the device one step late, or when they are there anyway: the loop never waits for
the step it has just begun. Time is read when numbers come, and steps whose numbers come together share the time since
those before them, so each throughput is of an interval in which its steps were computed. Before a checkpoint is saved
all numbers are looked at, and the parameters too, so a run that has turned to NaN never overwrites a good checkpoint.
"""

import contextlib
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from marin.checkpoint.format import CheckpointWriter
from marin.checkpoint.policy import KeepPolicy, apply_policy
from marin.data.dataset import Batch, RowDataset
from marin.data.loader import sequential_batches
from marin.distributed.mesh import everywhere, place_rows, round_up_rows, rows_here
from marin.distributed.processes import Vote, wait_for_all
from marin.models.config import LmConfig
from marin.tracking.tracker import Tracker, Value
from marin.training.state import TrainState
from marin.training.train_step import METRICS, DeviceBatch, loss_sums

_STEPS_BEHIND = 1
_WAITING = ("loader_stall", "checkpoint_seconds")  # times of the row, not means of its steps


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """What callbacks are told."""

    step: int
    """Updates done, this one included."""
    is_last: bool
    """Whether the run ends here."""
    state: TrainState
    """The state after the update; gone when the next step begins."""
    metrics: jax.Array
    """Numbers of the step, on the device, named by METRICS."""
    learning_rate: float
    """Rate of this update."""
    watched: Any = None
    """What `marin.training.watch` measured in this step; None where it was not due."""


Callback = Callable[[StepDone], None]


class NonFiniteLossError(FloatingPointError):
    """The loss, the gradient or a parameter has become NaN or infinite."""


class _Waiting(NamedTuple):
    """A step whose numbers are still on the device."""

    step: int
    gets_row: bool
    metrics: jax.Array
    learning_rate: float


class LogMetrics:
    """Writes a row of deterministic numbers and a row of measured times, and checks that the loss is finite."""

    def __init__(
        self,
        *,
        metrics: Tracker,
        timing: Tracker,
        others: Sequence[Tracker] = (),
        num_tokens: Callable[[int], int],
        names: Sequence[str] = METRICS,
        steps_per_log: int,
        flops_per_token: float,
        peak_flops_per_second: float | None,
        loader_stall_s: Callable[[], float],
        num_loader_stalls: Callable[[], int] | None = None,
        newest_checkpoint: Callable[[], Path | None],
        documents: Callable[[int], str] | None = None,
    ) -> None:
        """`metrics` gets what is the same in each repetition of the run, `timing` what the clock says, `others` both.

        `num_tokens` says how many tokens the first so many updates take, and `names` what a step's numbers are.
        `peak_flops_per_second` None leaves out the MFU. `loader_stall_s` says how long batches were waited for so far,
        and `num_loader_stalls` how many of them.
        `newest_checkpoint` is asked for by the error about a loss that is no number, and so is what `documents` says of
        the step's batch, if it is given.
        """
        self._metrics = metrics
        self._timing = timing
        self._others = others
        self._num_tokens = num_tokens
        self._names = names
        self._steps_per_log = steps_per_log
        self._flops_per_token = flops_per_token
        self._peak_flops_per_second = peak_flops_per_second
        self._loader_stall_s = loader_stall_s
        self._num_loader_stalls = num_loader_stalls
        self._newest_checkpoint = newest_checkpoint
        self._documents = documents
        self._waiting: deque[_Waiting] = deque()
        self._without_row: tuple[_Waiting, dict[str, float]] | None = None  # the last step fetched, if it got no row
        self._mark_s: float | None = None  # when the last fetched step was done; None before the first
        # since the last row
        self._busy_s, self._busy_steps, self._busy_tokens, self._stall_s, self._stalls = 0.0, 0, 0, 0.0, 0
        self._saving_s = 0.0
        self._latest: dict[str, tuple[int, float]] = {}
        self._more_to_flush: list[Tracker] = []

    def __call__(self, done: StepDone) -> None:
        self._waiting.append(_Waiting(done.step, is_due(done, self._steps_per_log), done.metrics, done.learning_rate))
        self._take(len(self._waiting) - _STEPS_BEHIND)

    def drain(self) -> None:
        """Wait for all steps begun, and write their rows."""
        self._take(len(self._waiting))

    def log_last(self) -> None:
        """Wait for all steps begun, and write a row of the last whether or not it was due."""
        self.drain()
        if self._without_row is not None:
            waiting, numbers = self._without_row
            self._write(waiting, numbers, self._times())
            self._without_row = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do something else than training inside: rows are complete before, and its time is not counted as steps'."""
        self.drain()
        yield
        if self._mark_s is not None:
            self._mark_s = time.perf_counter()

    def flush(self) -> None:
        """Make the rows written so far durable."""
        for tracker in (self._metrics, self._timing, *self._others, *self._more_to_flush):
            tracker.flush()

    def add_tracker(self, tracker: Tracker) -> None:
        """Hand all rows from now on to this one too."""
        self._others = (*self._others, tracker)

    def flush_too(self, tracker: Tracker) -> None:
        """Make also the rows of this one durable before each checkpoint."""
        self._more_to_flush.append(tracker)

    def count_saving(self, seconds: float) -> None:
        """Tell the next row of times how long saving kept the loop."""
        self._saving_s += seconds

    def log_row(self, step: int, row: Mapping[str, float | int]) -> None:
        """Write a row of deterministic numbers that is not of a training step."""
        for tracker in (self._metrics, *self._others):
            tracker.log(step, row)
        self._latest |= {name: (step, float(value)) for name, value in row.items()}

    def show(self, step: int, row: Mapping[str, Value]) -> None:
        """Hand a row to the other trackers only."""
        for tracker in self._others:
            tracker.log(step, row)

    @property
    def latest(self) -> Mapping[str, tuple[int, float]]:
        """Name of each number that `log_row` wrote in this process -> (step, value) of the last time."""
        return self._latest

    def _take(self, at_least: int) -> None:
        """Wait for that many of the oldest steps, and take those with them that are done already."""
        taken: list[tuple[_Waiting, dict[str, float]]] = []
        while self._waiting and (len(taken) < at_least or _is_computed(self._waiting[0].metrics)):
            waiting = self._waiting.popleft()
            # this waits for the step
            taken.append((waiting, dict(zip(self._names, np.asarray(waiting.metrics).tolist(), strict=True))))
        if not taken:
            return
        now_s = time.perf_counter()
        if self._mark_s is not None:
            self._busy_s += now_s - self._mark_s
            self._busy_steps += len(taken)
            self._busy_tokens += self._num_tokens(taken[-1][0].step) - self._num_tokens(taken[0][0].step - 1)
        self._mark_s = now_s
        times: dict[str, float | int] | None = None
        for waiting, numbers in taken:
            if not all(map(math.isfinite, numbers.values())):
                found = ", ".join(f"{name} is {value}" for name, value in numbers.items())
                raise self.not_finite(waiting.step, found)
            if waiting.gets_row:
                if times is None:
                    times = self._times()
                else:  # what was waited for was counted in the row before
                    times = {name: 0 * v if name.startswith(_WAITING) else v for name, v in times.items()}
                self._write(waiting, numbers, times)
            self._without_row = None if waiting.gets_row else (waiting, numbers)

    def _write(self, waiting: _Waiting, numbers: dict[str, float], times: Mapping[str, float | int]) -> None:
        row = {**numbers, "train/learning_rate": waiting.learning_rate, "train/tokens": self._num_tokens(waiting.step)}
        self._metrics.log(waiting.step, row)
        self._timing.log(waiting.step, times)
        for tracker in self._others:
            tracker.log(waiting.step, {**row, **times})

    def _times(self) -> dict[str, float | int]:
        """Means over the steps since the last row."""
        times: dict[str, float | int] = {}
        if self._busy_steps and self._busy_s > 0:
            tokens_per_second = self._busy_tokens / self._busy_s
            times["step_seconds"] = self._busy_s / self._busy_steps
            times["tokens_per_second"] = tokens_per_second
            if self._peak_flops_per_second is not None:
                times["mfu"] = tokens_per_second * self._flops_per_token / self._peak_flops_per_second
        stall_s = self._loader_stall_s()
        times["loader_stall_seconds"] = stall_s - self._stall_s
        if self._num_loader_stalls is not None:
            stalls = self._num_loader_stalls()
            times["loader_stalls"] = stalls - self._stalls
            self._stalls = stalls
        times["checkpoint_seconds"] = self._saving_s
        times["peak_memory_bytes"] = peak_memory_bytes()
        self._busy_s, self._busy_steps, self._busy_tokens, self._stall_s = 0.0, 0, 0, stall_s
        self._saving_s = 0.0
        return times

    def not_finite(self, step: int, found: str) -> NonFiniteLossError:
        """The error about what was found at a step."""
        saved = self._newest_checkpoint()
        kept = "No checkpoint exists" if saved is None else f"The newest checkpoint, {saved}, is from before and stays"
        batch = "" if self._documents is None else f"{self._documents(step)}. "
        return NonFiniteLossError(
            f"step {step}: {found}; expected finite numbers. {batch}"
            f"{kept}. A lower learning_rate, a longer warmup or a smaller max_grad_norm usually helps."
        )


@dataclass(frozen=True, kw_only=True)
class ValidationSums:
    """Sums over the target tokens of one validation set that were measured."""

    nats: float
    """Negative log-likelihood of them all."""
    num_tokens: int
    """How many they are, end-of-text included."""
    num_bytes: int
    """UTF-8 bytes of them."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.num_tokens if self.num_tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Nats / ln 2 / bytes; special tokens cost nats and count no bytes."""
        return self.nats / math.log(2) / self.num_bytes if self.num_bytes else math.nan


class Validate:
    """Measures loss and bits per byte on each validation set every few steps, and after the last.

    With `max_batches` on rows spread evenly over the set, the same ones each time. Beside the two means stand the
    tokens and bytes they are of, so that a reader can tell how much of the set was measured. Where an average of the
    parameters is kept, it is measured too, as the set `ema/NAME`. Sets whose names have a part before a `/` in common
    have a common parent of that name, measured as one set: all nats over all tokens, and over all bytes (the micro
    average). Beside that stand `macro_loss` and `macro_bits_per_byte`, the means of the sets' own: there each set
    counts alike, however small.
    """

    def __init__(
        self,
        log: LogMetrics,
        model: LmConfig,
        datasets: Mapping[str, RowDataset],
        *,
        batch_size: int,
        max_batches: int | None,
        every: int | None,
        token_byte_lengths: np.ndarray,
        compute_dtype: Any,
        attention: str | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """On a mesh the rows of a batch are rounded up to what can be spread over it.

        `token_byte_lengths` is int32 (vocab,).
        """
        self._log = log
        self._datasets = datasets
        self._batch_size = round_up_rows(batch_size, mesh)
        self._mesh = mesh
        self._max_batches = max_batches
        self._every = every
        self._measured_at: int | None = None  # a step is measured once, however often it is told
        self._rows_here = rows_here(self._batch_size, mesh)
        options: dict[str, Any] = {"compute_dtype": compute_dtype, "attention": attention, "logits_dtype": "float32"}
        self._nll_sum = jax.jit(lambda params, batch: everywhere(loss_sums(model, params, batch, **options).nll))
        self._counts = jax.jit(lambda batch: everywhere(_counts(batch, token_byte_lengths)))

    def __call__(self, done: StepDone) -> None:
        if not self._datasets or not is_due(done, self._every) or done.step == self._measured_at:
            return
        self._measured_at = done.step
        with self._log.paused():
            row: dict[str, float | int] = {}
            measured = {"": done.state.params}
            if done.state.average is not None:
                measured["ema/"] = done.state.average
            for prefix, params in measured.items():
                sums: dict[str, ValidationSums] = {}
                for tag, dataset in self._datasets.items():
                    batches = sequential_batches(
                        dataset, self._batch_size, max_batches=self._max_batches, rows_here=self._rows_here
                    )
                    sums[tag] = self.measure(params, batches)
                for tag, total in (sums | parent_sums(sums)).items():
                    row[f"validation/{prefix}{tag}/loss"] = total.loss
                    row[f"validation/{prefix}{tag}/bits_per_byte"] = total.bits_per_byte
                    row[f"validation/{prefix}{tag}/tokens"] = total.num_tokens
                    row[f"validation/{prefix}{tag}/bytes"] = total.num_bytes
                for name, mean in macro_means(sums).items():
                    row[f"validation/{prefix}{name}"] = mean
            self._log.log_row(done.step, row)

    def measure(self, params: Any, batches: Iterable[Batch]) -> ValidationSums:
        """Sums over all batches, of which this process has its rows; whoever wants a mean divides last."""
        sums, counts = [], []
        for batch in batches:
            placed = device_batch(batch, self._mesh, self._batch_size)
            sums.append(self._nll_sum(params, placed))
            counts.append(self._counts(placed))
        return ValidationSums(
            nats=math.fsum(float(s) for s in sums),
            num_tokens=sum(int(tokens) for tokens, _ in counts),
            num_bytes=sum(int(num_bytes) for _, num_bytes in counts),
        )


def _counts(batch: DeviceBatch, token_byte_lengths: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Target tokens of a batch that count, and their bytes, int32."""
    counted = batch.loss_weights > 0  # a weight is 0 or 1
    num_bytes = jnp.where(counted, jnp.asarray(token_byte_lengths)[batch.targets], 0)
    return jnp.sum(counted, dtype=jnp.int32), jnp.sum(num_bytes, dtype=jnp.int32)


def parent_sums(sums: Mapping[str, ValidationSums]) -> dict[str, ValidationSums]:
    """Name of each parent -> the sum over all sets below it, of names like `parent/child/grandchild`."""
    return {
        parent: ValidationSums(
            nats=math.fsum(child.nats for child in children),
            num_tokens=sum(child.num_tokens for child in children),
            num_bytes=sum(child.num_bytes for child in children),
        )
        for parent, children in _children(sums).items()
    }


def macro_means(sums: Mapping[str, ValidationSums]) -> dict[str, float]:
    """`PARENT/macro_loss` and `PARENT/macro_bits_per_byte` of each parent: the mean over all sets below it."""
    means: dict[str, float] = {}
    for parent, children in _children(sums).items():
        means[f"{parent}/macro_loss"] = math.fsum(child.loss for child in children) / len(children)
        means[f"{parent}/macro_bits_per_byte"] = math.fsum(child.bits_per_byte for child in children) / len(children)
    return means


def _children(sums: Mapping[str, ValidationSums]) -> dict[str, list[ValidationSums]]:
    parents: dict[str, list[ValidationSums]] = {}
    for tag, total in sums.items():
        for parent in _parents(tag):
            parents.setdefault(parent, []).append(total)
    return parents


def validation_metrics(tags: Collection[str], *, has_average: bool) -> list[str]:
    """The names under which `Validate` writes the loss and bits per byte of sets and parents."""
    measured = ("loss", "bits_per_byte")
    parents = list(dict.fromkeys(parent for tag in tags for parent in _parents(tag)))
    known = [f"{tag}/{what}" for tag in dict.fromkeys([*tags, *parents]) for what in measured]
    known += [f"{parent}/macro_{what}" for parent in parents for what in measured]
    return [f"validation/{prefix}{name}" for prefix in (("", "ema/") if has_average else ("",)) for name in known]


def check_set_names(tags: Iterable[str], *, has_average: bool) -> None:
    """ValueError where two numbers would have one name.

    So it is where a validation set has the name of the parent of others, or, if an average of the parameters is
    measured too, the name under which that is done.
    """
    known = set(tags)
    taken = next((tag for tag in sorted(known) if tag.split("/")[0] == "ema"), None)
    if has_average and taken is not None:
        raise ValueError(
            f"validation set '{taken}' has a name of those under which the average of the parameters is measured "
            "(trainer.ema_beta), 'ema/NAME'; give it another"
        )
    for tag in sorted(known):
        clash = next((parent for parent in _parents(tag) if parent in known), None)
        if clash is not None:
            raise ValueError(
                f"validation set '{clash}' has the name under which '{tag}' and its like are measured together; give "
                f"it another, like '{clash}/all'"
            )


def _parents(tag: str) -> list[str]:
    parts = tag.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


# Writing because time has passed may take so large a share of the time.
_MOST_SAVING = 1 / 20


class SaveCheckpoint:
    """Saves the state every few steps, every few seconds and after the last, then deletes what the policy lets go.

    A step whose checkpoint the policy keeps for good is saved too, whether or not it is one of every few. What is not
    finite is not saved: an update can go wrong whose loss and gradient were in order.

    A checkpoint is written in a thread while the next steps run; only one at a time is. What goes wrong with one ends
    the run after the step in which that is noticed. Several processes save at the same steps: whether it is time is put
    to the vote.
    """

    def __init__(
        self,
        log: LogMetrics,
        writer: CheckpointWriter,
        root: Path,
        *,
        is_late: Vote,
        every: int,
        every_s: float | None,
        keep: KeepPolicy,
        metadata: Callable[[], Mapping[str, Any]],
        already_saved: int | None = None,
    ) -> None:
        """`writer` writes into `root`. `metadata()` is asked when all rows up to the checkpoint's step are written.

        `is_late` is the vote on whether `every_s` have passed.
        `already_saved` is the step of the checkpoint this run resumed from; it is not saved again. The clock of
        `every_s` begins with the first step done: compiling is not lost work.
        """
        self._log = log
        self._writer = writer
        self._root = root
        self._vote = is_late
        self._every = every
        self._every_s = every_s
        self._keep = keep
        self._metadata = metadata
        self._saved = already_saved
        self._saved_at: float | None = None  # by the monotonic clock, or when the first step was done
        self._last_step: int | None = None

    def __call__(self, done: StepDone) -> None:
        if self._saved_at is None:
            self._saved_at = time.monotonic()
        if done.is_last:
            self._last_step = done.step
            self._log.log_last()  # a run that is stopped early learns of its end when the row's time has gone by
        self._writer.raise_failure()
        if self._vote(self._is_late()) or self._is_regular(done.step):
            self._save(done.step, done.state)

    def save_now(self, step: int, state: TrainState) -> None:
        """Save, unless this step is saved already, and return when that is complete."""
        self._save(step, state)
        self.finish()

    def finish(self) -> None:
        """Return when all that was begun is complete."""
        self._writer.wait()
        wait_for_all("the checkpoint is complete")

    def _save(self, step: int, state: TrainState) -> None:
        if step == self._saved:
            return
        with self._log.paused():
            if not _is_finite(state.params):
                raise self._log.not_finite(step, "the update made parameters that are NaN or infinite")
            self._log.flush()
            self._writer.save(
                step,
                state,
                self._metadata(),
                when_saved=lambda: apply_policy(self._root, self._keep, saved=step, is_regular=self._is_regular),
            )
            self._saved, self._saved_at = step, time.monotonic()
            self._vote.forget()
            self._log.count_saving(self._writer.blocked_s)

    def _is_late(self) -> bool:
        if self._every_s is None or self._writer.is_writing:
            return False
        assert self._saved_at is not None
        pause_s = max(self._every_s, (self._writer.write_s or 0.0) / _MOST_SAVING)
        return time.monotonic() - self._saved_at >= pause_s

    def _is_regular(self, step: int) -> bool:
        every = (self._every,) if self._keep.keep_every is None else (self._every, self._keep.keep_every)
        return step == self._last_step or any(step % interval == 0 for interval in every)


def is_due(done: StepDone, every: int | None) -> bool:
    """Whether something that happens every so many steps, and after the last, happens now."""
    return done.is_last or (every is not None and done.step % every == 0)


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return everywhere(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all())


def _is_computed(array: Any) -> bool:
    """Whether fetching a jax array would not wait (a method that jax's type stubs leave out)."""
    return array.is_ready()


def device_batch(batch: Batch, mesh: Mesh | None = None, num_rows: int | None = None) -> DeviceBatch:
    """What the loss reads of a batch; spread over the mesh, or left for the compiled step to put on its device.

    `batch` has the rows of this process, of `num_rows` altogether; None: all of them are here.
    """
    arrays: Any = (batch.tokens, batch.targets, batch.loss_weights, batch.segment_ids)
    return place_rows(DeviceBatch(*arrays), mesh, batch.num_rows if num_rows is None else num_rows)


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the first device where it says so, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
