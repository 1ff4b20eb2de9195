"""What steps print, read where it lies: one attempt's log, or the running one as it grows.

On a disk a log grows line by line. Into an object store it is copied when the attempt ends; until then it is in the
scratch folder of the machine that does the work, and is read there if that is this machine.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from marin.execution.catalog import AddressError, StepEntry
from marin.execution.lease import Observer
from marin.execution.scratch import work_place
from marin.execution.status import CANCELLED, FAILED, RUNNING, State, StepPaths
from marin.execution.store import Store

_POLL_S = 0.2
_POLL_REMOTE_S = 2.0
_RETRY_PATIENCE_S = 1.5  # after a failure: a runner that tries again has taken the lease by then


class AttemptLog:
    """The log of one attempt."""

    def __init__(self, store: Store, paths: StepPaths, attempt: str, state: State | None = None) -> None:
        """`state`: the register, if it names this attempt."""
        self.attempt = attempt
        self.path = f"{paths.exec_dir}/logs/{attempt}/stdout.log"
        self._store = store
        self._local = self.path if store.is_local else None
        if not store.is_local and state is not None:
            scratch = f"{work_place(store, paths, state)[1]}/stdout.log"
            self._local = scratch if os.path.exists(scratch) else None

    def read(self, offset: int = 0) -> bytes:
        """What was printed from this byte on."""
        if self._local is not None:
            with contextlib.suppress(OSError), open(self._local, "rb") as file:
                file.seek(offset)
                return file.read()
        return (self._store.get(self.path) or b"")[offset:]


def attempt_log(entry: StepEntry, epoch: int | None = None) -> AttemptLog:
    """The log of a step's last attempt, or of the one with this number. AddressError if there is none of it."""
    assert entry.state is not None
    if epoch is None or epoch == entry.state.epoch:
        return AttemptLog(entry.store, entry.paths, entry.state.attempt, entry.state)
    names = [item.name for item in entry.store.items(f"{entry.paths.exec_dir}/logs")]
    found = [name for name in names if name.startswith(f"{epoch:04}-")]
    if not found:
        have = ", ".join(str(int(name.partition("-")[0])) for name in names) or "none"
        raise AddressError(f"{entry.name} @{entry.digest[:6]} has no log of attempt {epoch}; there are logs of {have}")
    return AttemptLog(entry.store, entry.paths, found[-1])


def follow(
    entry: StepEntry, offset: int, on_attempt: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """What a step's running attempt prints from `offset` on, as it comes, until it ends.

    If the step is tried again, goes on with the new attempt and says so by `on_attempt`.
    """
    store, paths = entry.store, entry.paths
    poll_s = _POLL_S if store.is_local else _POLL_REMOTE_S
    observer = Observer(store=store)
    log = attempt_log(entry)
    patience_s = _RETRY_PATIENCE_S
    while True:
        state = store.read(paths.root)  # before the log: what was printed before it changed is all there
        while chunk := log.read(offset):
            offset += len(chunk)
            yield chunk
        if state is None:
            return
        if state.attempt != log.attempt:
            log, offset = AttemptLog(store, paths, state.attempt, state), 0
            patience_s = _RETRY_PATIENCE_S
            on_attempt(state.attempt)
            continue
        is_over = state.status != RUNNING or observer.is_stale(paths.root, state)
        if is_over and (state.status not in (FAILED, CANCELLED, RUNNING) or patience_s <= 0):
            return
        if is_over:
            patience_s -= poll_s
        sleep(poll_s)
