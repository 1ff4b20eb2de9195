"""A place in a run in any unit is one row of the stream."""

import pytest

from marin.config import decode, encode
from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.units import Place, Sequences, Steps, Tokens, to_row

BATCHES = BatchSchedule([ScheduleStep(0, 4), ScheduleStep(10, 16)])


@pytest.mark.parametrize(
    ("place", "row"),
    [
        (0, 0),
        (3, 12),
        (Steps(3), 12),
        (Steps(12), 72),
        (Sequences(12), 12),
        (Tokens(0), 0),
        (Tokens(384), 12),
        (Tokens(385), 13),
    ],
)
def test_each_unit_becomes_the_first_row_at_or_after_the_place(place: Place, row: int):
    assert to_row(place, batches=BATCHES, seq_len=32) == row


def test_only_updates_need_the_batch_sizes():
    for place in (0, Steps(0), Sequences(7), Tokens(7 * 32)):
        to_row(place, batches=None, seq_len=32)
    with pytest.raises(ValueError, match=r"Steps\(num_steps=3\) counts updates.*how large the batches are"):
        to_row(Steps(3), batches=None, seq_len=32)


@pytest.mark.parametrize("place", [-1, 0.5, True, "10"])
def test_what_is_no_place_is_refused(place):
    with pytest.raises(ValueError, match=r"is no place in a run.*Tokens\(...\) or Sequences\(...\)"):
        to_row(place, batches=BATCHES, seq_len=32)


@pytest.mark.parametrize("unit", [Steps, Tokens, Sequences])
@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_a_unit_counts_whole_things(unit, count):
    with pytest.raises(ValueError, match=f"{unit.__name__} counts .*a whole number, 0 or more; got {count}"):
        unit(count)


@pytest.mark.parametrize("place", [7, Steps(7), Tokens(7), Sequences(7)])
def test_a_place_comes_back_from_yaml_in_its_unit(place: Place):
    assert decode(Place, encode(place)) == place  # type: ignore[arg-type]
