"""How fast this machine is just now: budgets of CPU time are multiples of a plain loop, so a busy one fails none."""

import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def plain_loop() -> None:
    """Five million additions: 0.2 to 0.3 s on a quiet machine."""
    total = 0
    for i in range(5_000_000):
        total += i
