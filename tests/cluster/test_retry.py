"""When a failed job is tried again: laws that hold for every rule and every history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.cluster import ResourceConfig
from marin.cluster.job import KINDS, error_of, kind_of
from marin.cluster.retry import INTERRUPTIONS, Retry

RULES = st.builds(
    Retry,
    max_failures=st.integers(0, 30),
    max_transient=st.integers(0, 30),
    max_preemptions=st.integers(0, 30),
    first_delay_s=st.floats(0, 100),
    max_delay_s=st.floats(0, 100),
    jitter=st.floats(0, 1),
)
COUNTS = st.integers(1, 2_000_000)
CHANCE = st.floats(0, 1)


@given(RULES, st.sampled_from(KINDS), COUNTS, COUNTS, CHANCE)
def test_a_pause_is_never_negative_nor_longer_than_the_longest(rule, kind, failures, preemptions, chance):
    delay = rule.next_delay(kind, failures, preemptions, chance=chance)
    assert delay is None or 0 <= delay <= rule.max_delay_s


@given(RULES, st.sampled_from(sorted(INTERRUPTIONS)), COUNTS, COUNTS, COUNTS, CHANCE)
def test_failures_do_not_use_up_the_patience_for_lost_machines(rule, kind, preemptions, failures, others, chance):
    first, second = (rule.next_delay(kind, n, preemptions, chance=chance) for n in (failures, others))
    assert first == second


@given(RULES, st.sampled_from(["error", "transient"]), COUNTS, COUNTS, COUNTS, CHANCE)
def test_lost_machines_do_not_use_up_the_patience_for_failures(rule, kind, failures, preemptions, others, chance):
    first, second = (rule.next_delay(kind, failures, n, chance=chance) for n in (preemptions, others))
    assert first == second


@given(RULES, st.sampled_from(KINDS), CHANCE)
def test_a_job_is_tried_again_as_often_as_the_rule_says_and_no_more(rule, kind, chance):
    tries = 0
    while rule.next_delay(kind, tries + 1, tries + 1, chance=chance) is not None:
        tries += 1
    expected = {
        "error": rule.max_failures,
        "transient": max(rule.max_failures, rule.max_transient),
        "worker_lost": rule.max_preemptions,
        "preempted": rule.max_preemptions,
        "oom": 0,
        "cancelled": 0,
        "unschedulable": 0,
    }
    assert tries == expected[kind]


@given(RULES, st.integers(1, 29), CHANCE)
def test_pauses_never_get_shorter(rule, number, chance):
    now, later = (rule.next_delay("error", n, 0, chance=chance) for n in (number, number + 1))
    assert later is None or now <= later


@given(CHANCE)
def test_pauses_double_up_to_a_minute(chance):
    pauses = [Retry(jitter=0).next_delay("preempted", 0, n, chance=chance) for n in range(1, 9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert 30 <= Retry().next_delay("preempted", 0, 1_000_000, chance=chance) <= 60


def test_pauses_are_drawn_where_nobody_decides_them():
    assert len({Retry().next_delay("preempted", 0, 7) for _ in range(20)}) > 1


def test_preemptions_are_retried_without_end_for_all_purposes():
    assert Retry().next_delay("preempted", 0, 1_000_000) is not None
    assert Retry().next_delay("preempted", 0, 1_000_001) is None


def test_failures_are_retried_only_where_machines_come_and_go():
    assert Retry.for_resources(None).max_failures == 0
    assert Retry.for_resources(ResourceConfig.with_gpu("h100")).max_failures == 0
    assert Retry.for_resources(ResourceConfig.with_tpu("v4-8")).max_failures == 10
    assert Retry.for_resources(ResourceConfig.with_cpu(preemptible=True)).max_failures == 10
    assert Retry.for_resources(ResourceConfig.with_tpu("v4-8"), max_failures=2).max_failures == 2


def test_a_rule_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="max_failures must not be negative, got -1"):
        Retry(max_failures=-1)
    with pytest.raises(ValueError, match="jitter must lie between 0 and 1, got 2"):
        Retry(jitter=2)
    with pytest.raises(ValueError, match="no kind of failure 'sad'; there are error, transient"):
        Retry().next_delay("sad", 1, 0)
    with pytest.raises(ValueError, match="must be counted before"):
        Retry().next_delay("error", 0, 1)


class HttpError(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class ResponseError(Exception):
    def __init__(self, status: int) -> None:
        self.response = HttpError(status)


class ReadTimeout(Exception):
    """Of a library that does not derive it from TimeoutError."""


@pytest.mark.parametrize(
    "error, kind",
    [
        (ValueError("x"), "error"),
        (FileNotFoundError("x"), "error"),
        (HttpError(404), "error"),
        (HttpError(429), "transient"),
        (ResponseError(503), "transient"),
        (ConnectionResetError("x"), "transient"),
        (TimeoutError("x"), "transient"),
        (ReadTimeout("x"), "transient"),
        (MemoryError(), "oom"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_an_exception_is_of_the_kind_that_its_class_and_status_say(error, kind):
    assert kind_of(error) == kind
    assert error_of(error).kind == kind
