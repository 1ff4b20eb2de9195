"""Whether and when to try a failed job again: a pure rule; whoever launches jobs does the counting.

What the machine did to a job and what the job did are counted apart: a machine that is taken away a hundred times must
not use up the patience for a bug, and a bug must not be tried a million times.
"""

import random
from dataclasses import dataclass

from marin.cluster.job import CANCELLED, ERROR, KINDS, OOM, PREEMPTED, TRANSIENT, UNSCHEDULABLE, WORKER_LOST
from marin.cluster.resources import ResourceConfig

INTERRUPTIONS = frozenset({PREEMPTED, WORKER_LOST})  # kinds that count as preemptions; all others count as failures
_NEVER = frozenset({OOM, CANCELLED, UNSCHEDULABLE})
_FAILURES_ON_UNSTEADY_MACHINES = 10


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a job is tried again, by what its failure was, and after which pause.

    >>> Retry().next_delay("error", 1, 0) is None
    True
    >>> Retry(first_delay_s=2, jitter=0).next_delay("preempted", 0, 3)
    8
    """

    max_failures: int = 0  # new tries after the job's own failures
    max_transient: int = 3  # new tries after a failure of a network or a busy server
    max_preemptions: int = 1_000_000  # new tries after its machine or process was lost
    first_delay_s: float = 1.0  # pause before the first new try; it doubles from one to the next
    max_delay_s: float = 60.0  # longest pause
    jitter: float = 0.5  # share of a pause that chance may take off, so that many jobs do not come back at once

    def __post_init__(self) -> None:
        for name in ("max_failures", "max_transient", "max_preemptions", "first_delay_s", "max_delay_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must lie between 0 and 1, got {self.jitter}")

    @staticmethod
    def for_resources(resources: ResourceConfig | None, *, max_failures: int | None = None) -> "Retry":
        """The rule for a job with these resources: on a TPU or a machine that may be reclaimed, failures are retried.

        There a lost peer often shows as an error of the job itself. `max_failures` overrides how often.
        """
        if max_failures is None:
            unsteady = resources is not None and (resources.device == "tpu" or resources.preemptible)
            max_failures = _FAILURES_ON_UNSTEADY_MACHINES if unsteady else 0
        return Retry(max_failures=max_failures)

    def next_delay(
        self, kind: str, num_failures: int, num_preemptions: int, *, chance: float | None = None
    ) -> float | None:
        """Seconds to wait before the next try, or None: no more.

        Both numbers include the failure that `kind` speaks of (see `INTERRUPTIONS`). `chance` from 0 to 1 decides the
        jitter (None: drawn here).
        """
        if kind not in KINDS:
            raise ValueError(f"no kind of failure {kind!r}; there are {', '.join(KINDS)}")
        if kind in _NEVER:
            return None
        if kind in INTERRUPTIONS:
            count, limit = num_preemptions, self.max_preemptions
        else:
            count = num_failures
            limit = max(self.max_failures, self.max_transient) if kind == TRANSIENT else self.max_failures
            assert kind in (ERROR, TRANSIENT)
        if count < 1:
            raise ValueError(f"a failure of kind {kind!r} must be counted before a delay is asked for, got {count}")
        if count > limit:
            return None
        # 2**64 is far beyond any pause, and larger powers would overflow a float
        pause = min(self.max_delay_s, self.first_delay_s * 2 ** min(count - 1, 64))
        return pause * (1 - self.jitter * (random.random() if chance is None else chance))
