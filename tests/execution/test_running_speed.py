"""What the executor itself costs, in CPU time: ceilings with room for a slow machine, and the figures printed."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from machine import cpu_seconds, plain_loop

from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.graph import build_graph

ROOM = 4.0  # times what a quiet machine is allowed
LOOP_S = 0.3  # CPU seconds of `plain_loop` on the machine that the budgets are for


@dataclass(frozen=True)
class Nothing:
    index: int
    output_path: str
    rate: float = 0.1
    text: str = "some text"
    inputs: tuple = ()


def do_nothing(config: Nothing) -> None:
    pass


def grid(count: int) -> list[ExecutorStep]:
    """Layers of 20 steps, each of which reads three of the layer before."""
    steps: list[ExecutorStep] = []
    for i in range(count):
        before = [steps[i - 20 - i % 20 + (i + k) % 20] for k in range(3)] if i >= 20 else []
        config = Nothing(i, this_output_path(), inputs=tuple(output_path_of(s) for s in before))
        steps.append(ExecutorStep(name=f"layer-{i // 20}/step-{i}", fn=do_nothing, config=config))
    return steps


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """CPU seconds: of planning the graph, of a first run, of a run that finds everything cached."""
    count = 100
    steps = grid(count)
    executors = [Executor(tmp_path_factory.mktemp("store"), fsync=False, quiet=True) for _ in range(5)]
    planning = min(cpu_seconds(lambda: build_graph(steps)) for _ in range(5))
    first = min(cpu_seconds(lambda e=e: e.run(steps)) for e in executors)
    cached = min(cpu_seconds(lambda e=e: e.run(steps)) for e in executors)
    small = min(cpu_seconds(lambda e=e: e.run(steps[:1])) for e in executors)  # what every run costs, whatever its size
    slowness = max(1.0, min(cpu_seconds(plain_loop) for _ in range(3)) / LOOP_S)
    print(f"this machine takes {slowness:.2f} times as long as the budgets suppose, or less")
    return {
        "count": count,
        "planning": planning,
        "first": first,
        "cached": cached,
        "fixed": small,
        "room": ROOM * slowness,
    }


def test_a_step_that_does_nothing_costs_little(measured):
    each_ms = 1000 * (measured["first"] - measured["planning"] - measured["fixed"]) / measured["count"]
    print(f"no-op step in this process: {each_ms:.2f} ms CPU without fsync (budget 1 ms)")
    assert each_ms < 1.0 * measured["room"]


def test_a_cached_step_costs_next_to_nothing(measured):
    each_us = 1e6 * (measured["cached"] - measured["planning"] - measured["fixed"]) / measured["count"]
    print(f"cached step: {each_us:.0f} us CPU after planning (budget 100 us)")
    assert each_us < 100 * measured["room"]


def test_importing_the_executor_costs_little_more_than_what_it_needs_of_the_standard_library(tmp_path):
    """The budget, 50 ms, is nearly all the library's: a ratio to it holds on a slow or busy machine too."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)  # compiled once, as it is for who installs marin

    def import_cost(modules: str) -> float:
        code = f"import time; t = time.process_time(); import {modules}; print(time.process_time() - t)"
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    pairs = [(import_cost("marin.execution.executor"), import_cost("dataclasses, typing, re")) for _ in range(9)]
    executor, library = (min(column) for column in zip(*pairs, strict=True))
    print(f"import marin.execution.executor: {executor * 1000:.0f} ms CPU, {library * 1000:.0f} of it the library's")
    assert executor < 1.8 * library
