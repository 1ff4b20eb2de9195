"""A store that writes down every change of a register, with who made it."""

import sys
import threading
from dataclasses import dataclass
from typing import Any

from marin.execution.status import State
from marin.execution.store import Store


@dataclass(frozen=True)
class Change:
    """One compare-and-swap that took effect."""

    root: str  # the step's folder
    before: State | None  # what the register said
    after: State  # what it says since
    callers: tuple[str, ...]  # qualified names of the functions under way, innermost first


class RecordingStore:
    """Passes everything on to another store."""

    def __init__(self, inner: Store) -> None:
        self.changes: list[Change] = []
        self._inner = inner
        self._mutex = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        with self._mutex:  # so that the order of the changes is theirs
            won = self._inner.compare_and_swap(root, expected, new, durable=durable, archive=archive)
            if won:
                callers, frame = [], sys._getframe(1)
                while frame is not None:
                    callers.append(frame.f_code.co_qualname)
                    frame = frame.f_back
                self.changes.append(Change(root, expected, new, tuple(callers)))
            return won
