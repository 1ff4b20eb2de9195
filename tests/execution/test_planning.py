"""What a plan reads of a store, and that it finds there whatever is there."""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from marin.execution.executor import Executor, ExecutorStep, this_output_path
from marin.execution.graph import build_graph
from marin.execution.plan import HIT, RUN, make_plan
from marin.execution.status import State
from marin.execution.store import LocalStore, Store


@dataclass(frozen=True)
class Config:
    index: int
    output_path: str


def nothing(config: Config) -> None:
    pass


def step(name: str, **options: Any) -> ExecutorStep:
    return ExecutorStep(name=name, fn=nothing, config=Config(len(name), this_output_path()), **options)


class CountingStore:
    """Passes everything on to another store and counts the registers that were looked for."""

    def __init__(self, inner: Store) -> None:
        self.num_reads = 0
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, root: str) -> State | None:
        self.num_reads += 1
        return self._inner.read(root)


STEPS = (
    step("a"),
    step("b"),
    step("a/c"),
    step("a/d"),
    step("a/pinned", version="1"),
    step("a/pinned", version="2"),
    step("moved", override_output_path="a/elsewhere"),
    step("moved-too", override_output_path="here"),
)


@pytest.mark.parametrize("committed", list(itertools.combinations(range(len(STEPS)), 2)))
def test_what_is_committed_is_found_among_steps_that_are_not_whatever_folder_they_share(tmp_path, committed):
    executor = Executor(tmp_path, fsync=False, quiet=True)
    assert executor.run([STEPS[i] for i in committed]).is_ok

    planned = executor.plan(STEPS)

    found = {item.node.digest: item.action for item in planned}
    expected = [HIT if i in committed else RUN for i in range(len(STEPS))]
    assert [found[planned.graph.node_of(each).digest] for each in STEPS] == expected


def test_many_new_steps_of_one_folder_are_told_from_one_look_at_it(tmp_path):
    store: Any = CountingStore(LocalStore(tmp_path, fsync=False))
    steps = [step(f"data/{'x' * i}") for i in range(1, 100)]

    make_plan(build_graph(steps), store, with_changes=True)

    assert store.num_reads < len(steps) / 10


def test_a_cached_step_is_read_once_and_no_earlier_one_of_its_name_is(tmp_path):
    Executor(tmp_path, fsync=False, quiet=True).run([step("data"), step("data", code_version="2")])
    store: Any = CountingStore(LocalStore(tmp_path, fsync=False))

    make_plan(build_graph([step("data")]), store, with_changes=True)

    assert store.num_reads == 1
