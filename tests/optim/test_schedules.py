"""Learning rates: units that cannot be confused, and the laws of each shape."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marin.optim.schedules import Fraction, Steps, schedule, to_steps

SHAPES = ["constant", "linear", "cosine", "wsd"]


def make(shape="cosine", learning_rate=1.0, num_train_steps=100, warmup=10, decay=None, min_lr_ratio=0.1):
    return schedule(
        shape,
        learning_rate=learning_rate,
        num_train_steps=num_train_steps,
        warmup=warmup,
        decay=decay,
        min_lr_ratio=min_lr_ratio,
    )


@given(
    shape=st.sampled_from(SHAPES),
    num_steps=st.integers(1, 300),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    floor=st.floats(0, 1),
    peak=st.floats(1e-6, 10),
)
def test_every_shape_rises_to_the_peak_once_then_never_rises_and_stays_above_its_floor(
    shape, num_steps, warmup, decay, floor, peak
):
    num_warmup, num_decay = int(warmup * num_steps), int(decay * num_steps)
    rate = make(
        shape,
        peak,
        num_steps,
        warmup=Steps(num_warmup),
        decay=None if shape == "constant" else Steps(num_decay),
        min_lr_ratio=floor,
    )
    rates = [rate(step) for step in range(num_steps)]
    rising, falling = rates[: num_warmup + 1], rates[num_warmup:]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-12 * peak for a, b in zip(falling, falling[1:], strict=False))
    assert all(0 < r <= peak * (1 + 1e-12) for r in rates) or floor == 0 or num_decay > 0
    assert all(r >= floor * peak * (1 - 1e-12) for r in falling)
    assert rates[num_warmup] == pytest.approx(peak) or num_decay == num_steps - num_warmup == 0


@given(num_steps=st.integers(10, 500), fraction=st.floats(0.01, 0.49))
def test_a_fraction_and_the_steps_it_rounds_to_are_one_schedule(num_steps, fraction):
    steps = round(fraction * num_steps)
    for shape in ("linear", "cosine", "wsd"):
        by_fraction = make(shape, num_train_steps=num_steps, warmup=fraction, decay=Fraction(fraction))
        by_steps = make(shape, num_train_steps=num_steps, warmup=steps, decay=Steps(steps))
        assert [by_fraction(t) for t in range(num_steps)] == [by_steps(t) for t in range(num_steps)]


def test_the_shapes_have_their_textbook_values():
    linear, cosine = make("linear", min_lr_ratio=0.0), make("cosine", min_lr_ratio=0.0)
    wsd = make("wsd", decay=20, min_lr_ratio=0.5)
    assert [linear(0), linear(9), linear(10), linear(55), linear(100)] == pytest.approx([1 / 11, 10 / 11, 1, 0.5, 0])
    assert [cosine(10), cosine(55), cosine(100)] == pytest.approx([1, 0.5, 0])
    assert cosine(25) == pytest.approx((1 + math.cos(math.pi * 15 / 90)) / 2)
    assert [wsd(10), wsd(79), wsd(80), wsd(90), wsd(99)] == pytest.approx([1, 1, 1, 0.75, 0.525])
    assert make("constant")(99) == 1.0


def test_plain_ints_are_steps_and_floats_below_one_are_fractions():
    assert to_steps(1, 1000, "warmup") == 1
    assert to_steps(0.01, 1000, "warmup") == 10
    assert to_steps(Fraction(1.0), 1000, "warmup") == 1000
    assert to_steps(Steps(715), 1000, "warmup") == 715


@given(st.one_of(st.floats(1.0, 1e6), st.floats(max_value=0.0), st.integers(max_value=-1), st.booleans(), st.none()))
def test_a_number_that_could_be_either_unit_is_refused(number):
    assume(number is None or isinstance(number, (bool, int)) or not math.isnan(number))
    with pytest.raises(ValueError, match="warmup: .*(neither a number of steps|expected a number of steps)"):
        to_steps(number, 1000, "warmup")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 60, "decay": 50}, "warmup of 60 steps and decay of 50 steps make 110, more than the 100"),
        ({"shape": "wsd"}, "'wsd' schedule needs the length of its decay"),
        ({"shape": "constant", "decay": 10}, "constant schedule has no decay"),
        ({"shape": "cosinus"}, "unknown schedule 'cosinus'"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio is a part of the peak"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0"),
        ({"num_train_steps": 0}, "num_train_steps must be 1 or more"),
        ({"warmup": Fraction(0.5), "decay": 0.6}, "make 110, more than the 100"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_lengths_know_their_range():
    with pytest.raises(ValueError, match="Steps counts updates"):
        Steps(-1)
    with pytest.raises(ValueError, match="Fraction is a part of the run"):
        Fraction(1.5)
