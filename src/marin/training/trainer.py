"""The loop: batch -> step -> callbacks.

The step number is a Python int and equals the updates done; it is also the position in the data, so resuming is
starting the loop at another number. Nothing here waits for the device.
"""

from collections.abc import Callable, Iterator, Sequence

from marin.data.dataset import Batch
from marin.optim.schedules import Schedule
from marin.training.callbacks import Callback, StepDone, device_batch
from marin.training.preemption import Preempted, PreemptionNotice
from marin.training.state import TrainState
from marin.training.train_step import TrainStep


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
) -> TrainState:
    """Updates `start_step .. num_train_steps - 1`; the state after the last.

    Args:
        state: after `start_step` updates.
        train_step: the compiled step; it takes the state's memory.
        batches: begin with the batch of update `start_step`.
        schedule: learning rate by number of updates done.
        start_step: updates done before.
        num_train_steps: updates in the whole run.
        callbacks: called in this order after each update.
        save: saves a checkpoint; used when the process is asked to leave.

    Raises:
        Preempted: SIGTERM came; the state after the update in progress has been saved.
    """
    with PreemptionNotice() as preemption:
        for step in range(start_step, num_train_steps):
            batch = next(batches)
            learning_rate = schedule(step)
            state, metrics = train_step(state, device_batch(batch), learning_rate)
            done = StepDone(
                step=step + 1,
                is_last=step + 1 == num_train_steps,
                state=state,
                metrics=metrics,
                learning_rate=learning_rate,
            )
            for callback in callbacks:
                callback(done)
            if preemption.is_requested and not done.is_last:
                save(done.step, state)
                raise Preempted(f"asked to leave at step {done.step} of {num_train_steps}; saved, and ready to resume")
    return state
