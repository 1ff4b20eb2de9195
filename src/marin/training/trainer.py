"""The loop: batch -> step -> callbacks.

The step number is a Python int and equals the updates done; it is also the position in the data, so resuming is
starting the loop at another number. Nothing here waits for the device.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from marin.data.dataset import Batch
from marin.distributed.processes import Vote
from marin.optim.schedules import Schedule
from marin.training.callbacks import Callback, StepDone
from marin.training.preemption import Preempted, PreemptionNotice
from marin.training.run import StopRequest
from marin.training.state import TrainState
from marin.training.train_step import DeviceBatch, TrainStep, WatchedStep


def train(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    *,
    schedule: Schedule,
    start_step: int,
    num_train_steps: int,
    callbacks: Sequence[Callback],
    save: Callable[[int, TrainState], None],
    finish: Callable[[], None],
    place: Callable[[int, Batch], DeviceBatch],
    must_leave: Vote,
    watched_step: WatchedStep | None = None,
    is_watched: Callable[[int], bool] = lambda step: False,
    stop: StopRequest | None = None,
) -> int:
    """Updates `start_step .. num_train_steps - 1`, or fewer where a callback asks to stop; updates done in the end.

    Args:
        state: after `start_step` updates.
        train_step: the compiled step; it takes the state's memory.
        batches: begin with the batch of update `start_step`.
        schedule: learning rate by number of updates done.
        start_step: updates done before.
        num_train_steps: updates in the whole run.
        callbacks: called in this order after each update.
        save: saves a checkpoint and returns when that is written; used when the process is asked to leave.
        finish: returns when what callbacks began to save is written; a run that is asked to leave by then does not.
        place: puts the batch of an update, by updates done before, where the step reads it.
        must_leave: the vote on whether a process was asked to leave.
        watched_step: the step that also measures what is watched, for the updates of which `is_watched` says so.
        is_watched: by updates done when the update will be.
        stop: where callbacks ask to end the run. The callbacks after the one that asked are told that this step is the
            last.

    Raises:
        Preempted: SIGTERM came, to this process or another; the state after the update in progress has been saved.
    """
    stop = StopRequest() if stop is None else stop
    step = start_step
    with PreemptionNotice() as preemption:
        while step < num_train_steps and not stop.is_requested:
            batch = next(batches)
            learning_rate = schedule(step)
            watched = None
            if watched_step is not None and is_watched(step + 1):
                state, metrics, watched = watched_step(state, place(step, batch), learning_rate)
            else:
                state, metrics = train_step(state, place(step, batch), learning_rate)
            step += 1
            done = StepDone(
                step=step,
                is_last=step == num_train_steps,
                state=state,
                metrics=metrics,
                learning_rate=learning_rate,
                watched=watched,
            )
            for callback in callbacks:
                callback(done)
                if stop.is_requested and not done.is_last:
                    done = dataclasses.replace(done, is_last=True)
            if must_leave(preemption.is_requested) and not done.is_last:
                save(step, state)
                raise Preempted(f"asked to leave at step {step} of {num_train_steps}; saved, and ready to resume")
        finish()
    return step
