"""Batches that change their size: no row is left out or taken twice, from whichever step one begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.data.batch_schedule import BatchSchedule, ScheduleStep


@st.composite
def schedules(draw):
    starts = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    return [ScheduleStep(start, draw(st.integers(1, 50))) for start in [0, *starts]]


@given(schedules())
def test_each_batch_begins_where_the_one_before_ends(steps):
    batches, position = BatchSchedule(steps), 0
    for step in range(80):
        expected = [s.value for s in steps if s.start <= step][-1]
        assert batches.size(step) == expected
        assert batches.offset(step) == position
        position += expected


@given(schedules(), st.integers(0, 3000))
def test_whole_batches_are_those_that_end_within_the_rows(steps, num_rows: int):
    batches = BatchSchedule(steps)
    whole = batches.whole_batches(num_rows)
    assert batches.offset(whole) <= num_rows < batches.offset(whole + 1)


@given(schedules(), st.integers(0, 70), st.integers(0, 3000))
def test_a_run_that_begins_later_takes_the_same_sizes_from_row_0_on(steps, first_step: int, num_rows: int):
    plain, shifted = BatchSchedule(steps), BatchSchedule(steps, first_step=first_step)
    assert shifted.offset(first_step) == 0
    for step in range(0, 80, 7):
        assert shifted.size(step) == plain.size(step)
        assert shifted.offset(step) == plain.offset(step) - plain.offset(first_step)
    whole = shifted.whole_batches(num_rows)
    assert whole >= first_step and shifted.offset(whole) <= num_rows < shifted.offset(whole + 1)


@given(schedules(), st.integers(0, 70), st.integers(1, 30))
def test_the_sizes_of_a_part_are_those_of_its_batches(steps, start: int, length: int):
    batches = BatchSchedule(steps)
    expected = dict.fromkeys(batches.size(step) for step in range(start, start + length))
    assert batches.sizes_between(start, start + length) == tuple(expected)


def test_a_number_is_the_same_size_throughout():
    batches = BatchSchedule(7)
    assert [batches.offset(step) for step in (0, 1, 1000)] == [0, 7, 7000] and batches.sizes == (7,)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], r"begins at step 0 and its starts rise; got starts \[\]"),
        ([ScheduleStep(1, 4)], r"got starts \[1\]"),
        ([ScheduleStep(0, 4), ScheduleStep(5, 8), ScheduleStep(5, 9)], r"got starts \[0, 5, 5\]"),
        ([ScheduleStep(0, 4), ScheduleStep(5, 0)], r"at least one row; got sizes \[4, 0\]"),
        (0, "at least one row"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        BatchSchedule(steps)
