"""What a process is told about the others, and what it asks them. (Real ones: test_several_processes.py.)"""

import jax
import pytest

from marin.distributed.config import ProcessesConfig
from marin.distributed.mesh import rows_here
from marin.distributed.processes import (
    Vote,
    connect,
    fetch,
    is_first,
    said_by_first,
    true_everywhere,
    wait_for_all,
)


@pytest.fixture(autouse=True)
def _no_place_in_the_environment(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"MARIN_{name}", raising=False)


def test_a_process_that_is_told_of_no_others_is_alone_and_asks_nobody(monkeypatch):
    connect(ProcessesConfig())
    monkeypatch.setenv("MARIN_COORDINATOR_ADDRESS", "host-0:4747")
    monkeypatch.setenv("MARIN_NUM_PROCESSES", "1")
    monkeypatch.setenv("MARIN_PROCESS_ID", "0")
    connect(ProcessesConfig())
    assert not jax.distributed.is_initialized()
    assert is_first() and said_by_first({"a": [1, None]}) == {"a": [1, None]}
    assert (true_everywhere(True), true_everywhere(False)) == (True, False)
    wait_for_all("anything")
    assert fetch({"x": jax.numpy.arange(3)})["x"].tolist() == [0, 1, 2]
    assert rows_here(5, None).tolist() == [0, 1, 2, 3, 4]


def test_alone_a_wish_comes_true_at_once():
    vote = Vote(None)
    assert [vote(wish) for wish in (False, True, False)] == [False, True, False]


@pytest.mark.parametrize(
    ("variables", "fields", "message"),
    [
        (
            {},
            {"num_processes": 2},
            r"num_processes 2 is given without coordinator \(\$MARIN_COORDINATOR_ADDRESS\), process_id \(",
        ),
        (
            {"NUM_PROCESSES": "2", "PROCESS_ID": "1"},
            {},
            "num_processes '2', process_id '1' is given without coordinator",
        ),
        ({"COORDINATOR_ADDRESS": "a:1"}, {}, r"coordinator 'a:1' is given without num_processes \(.*\), process_id"),
        ({"NUM_PROCESSES": "two", "PROCESS_ID": "1"}, {"coordinator": "a:1"}, "whole numbers, got .*'two'"),
        ({}, {"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process_id 2 of num_processes 2.*last is 1"),
    ],
)
def test_half_a_place_among_others_is_refused_with_what_is_missing(monkeypatch, variables, fields, message):
    for name, value in variables.items():
        monkeypatch.setenv(f"MARIN_{name}", value)
    with pytest.raises(ValueError, match=message):
        connect(ProcessesConfig(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "10.0.0.1"}, "'10.0.0.1'; expected host:port"),
        ({"lost_after_s": 0}, "whole seconds, 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ProcessesConfig(**fields)
