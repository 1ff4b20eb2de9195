"""Learning rates: units that cannot be confused, and the laws of each shape."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marin.optim.plot import schedule_text
from marin.optim.schedules import Fraction, Steps, cycle_starts, schedule, to_steps
from marin.report.plots import schedule_curve

SHAPES = ["constant", "linear", "cosine", "wsd", "inverse_sqrt"]


def make(shape="cosine", learning_rate=1.0, num_train_steps=100, warmup=10, decay=None, min_lr_ratio=0.1, **others):
    return schedule(
        shape,
        learning_rate=learning_rate,
        num_train_steps=num_train_steps,
        warmup=warmup,
        decay=decay,
        min_lr_ratio=min_lr_ratio,
        **others,
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


@st.composite
def runs_of_cycles(draw):
    """Settings of a run of one to four cycles, each with room for its warm-up and decay."""
    num_warmup, num_decay = draw(st.integers(0, 12)), draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(num_warmup + num_decay + 1, 60), min_size=1, max_size=4))
    shape = draw(st.sampled_from(["linear", "cosine", "wsd", "inverse_sqrt"]))
    stable = draw(st.sampled_from(["constant", "inverse_sqrt"]))
    settings = {
        "shape": shape,
        "stable_shape": stable,
        "num_train_steps": sum(lengths),
        "warmup": num_warmup,
        "rewarmup": num_warmup if len(lengths) > 1 else 0,
        "decay": num_decay,
        "cycle_length": lengths,
        "min_lr_ratio": draw(st.floats(0, 1)),
    }
    return settings, lengths, num_warmup, num_decay


@given(runs_of_cycles())
def test_every_cycle_warms_up_and_decays_for_exactly_the_steps_asked_for(run):
    settings, lengths, num_warmup, num_decay = run
    rate, floor = make(**settings), settings["min_lr_ratio"]
    is_flat = settings["shape"] != "inverse_sqrt" and settings["stable_shape"] == "constant"
    start, before = 0, 0.0
    for length in lengths:
        rates = [rate(start + t) for t in range(length)]
        assert rates[num_warmup] == pytest.approx(1.0), "the peak is reached after exactly the warm-up"
        warm = [before + (1 - before) * (t + 1) / (num_warmup + 1) for t in range(num_warmup)]
        assert rates[:num_warmup] == pytest.approx(warm)
        stable = rates[num_warmup : length - num_decay]
        if is_flat:
            assert stable == [1.0] * len(stable)
        else:
            exact = [max(floor, math.sqrt((num_warmup + 1) / (num_warmup + t + 1))) for t in range(len(stable))]
            assert stable == pytest.approx(exact)
        top = 1.0 if is_flat else max(floor, math.sqrt((num_warmup + 1) / (length - num_decay + 1)))
        assert rates[length - num_decay] == pytest.approx(top), "the first update of the decay is still at its top"
        assert all(floor - 1e-12 <= r <= top + 1e-12 for r in rates[length - num_decay :])
        if floor < 0.999 * top:
            assert all(
                a > b for a, b in zip(rates[length - num_decay :], rates[length - num_decay + 1 :], strict=False)
            )
        start, before = start + length, floor
    assert rate(start) == pytest.approx(floor), "the floor is reached where the run ends"


@given(runs_of_cycles())
def test_rates_go_in_small_steps_but_where_a_cycle_begins(run):
    settings, lengths, num_warmup, num_decay = run
    rate = make(**settings)
    largest_step = max(
        1 / (num_warmup + 1), math.pi / 2 / num_decay, 1 - math.sqrt((num_warmup + 1) / (num_warmup + 2))
    )
    begins = {sum(lengths[:i]) for i in range(1, len(lengths))}
    for t in range(1, sum(lengths)):
        assert abs(rate(t) - rate(t - 1)) <= largest_step + 1e-9 or t in begins


@given(num_steps=st.integers(1, 400), cycles=st.integers(1, 20), length=st.integers(1, 60))
def test_cycles_fill_the_run_without_gap_or_overlap(num_steps, cycles, length):
    assume(cycles <= num_steps)
    starts = cycle_starts(num_steps, cycles)
    lengths = [b - a for a, b in zip(starts, [*starts[1:], num_steps], strict=True)]
    assert len(starts) == cycles and sum(lengths) == num_steps and max(lengths) - min(lengths) <= 1
    assert cycle_starts(num_steps, starts[1:]) == starts == cycle_starts(num_steps, None, lengths)
    by_length = cycle_starts(num_steps, None, length)
    assert by_length == list(range(0, num_steps, length))


def test_wsd_s_decays_at_the_end_of_each_cycle_and_goes_on_at_the_full_rate():
    rate = make("wsd", warmup=5, decay=0.1, cycles=(40, 60), min_lr_ratio=0.0)
    rates = [rate(t) for t in range(100)]
    assert [t for t in range(100) if rates[t] == 1.0] == [*range(5, 37), *range(40, 59), *range(60, 97)]
    assert rates[36:40] == pytest.approx([1, 0.75, 0.5, 0.25])
    warm = make("wsd", warmup=5, decay=0.1, rewarmup=4, cycles=2, min_lr_ratio=0.5)
    assert [warm(t) for t in range(50, 55)] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])


def test_a_cycle_without_decay_stays_at_its_peak_after_those_that_decay():
    rate = make("wsd", warmup=0, decay=(0.25, 0), rewarmup=2, cycles=(40,), min_lr_ratio=0.1)
    assert [rate(t) for t in (29, 30, 35)] == pytest.approx([1, 1, 0.55])
    assert [rate(t) for t in (40, 41, 42, 99)] == pytest.approx([0.4, 0.7, 1, 1]), "warmed up from where it decayed to"


def test_inverse_sqrt_is_that_of_the_transformer_paper():
    rate = make("inverse_sqrt", warmup=10, min_lr_ratio=0.0)
    paper = [min((t + 1) ** -0.5, (t + 1) * 11**-1.5) * 11**0.5 for t in range(100)]
    assert [rate(t) for t in range(100)] == pytest.approx(paper)


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
        ({"stable_shape": "cosine"}, "unknown stable_lr_schedule 'cosine'"),
        ({"shape": "constant", "stable_shape": "inverse_sqrt"}, "use lr_schedule='inverse_sqrt'"),
        ({"shape": "constant", "cycles": 2}, "constant schedule has no cycles"),
        ({"rewarmup": 5}, "this run is one cycle"),
        ({"cycles": 2, "cycle_length": 50}, "say the same thing twice"),
        ({"cycles": 0}, "cycles must be from 1 to the 100"),
        ({"cycles": (50, 50)}, "rising, from 1 to 99"),
        ({"cycles": (100,)}, "rising, from 1 to 99"),
        ({"cycle_length": (40, 50)}, r"40 \+ 50 is 90, but the run has 100"),
        ({"cycle_length": 0}, "cycle_length must be 1 step or more"),
        ({"cycle_length": 1.5}, "cycle_length: 1.5 is neither"),
        ({"cycles": 2, "decay": (0.1, 0.1, 0.1)}, r"decay lists 3 lengths, \[0.1, 0.1, 0.1\], for the 2 cycles"),
        (
            {"cycles": 2, "decay": 40, "rewarmup": 11},
            "rewarmup of 11 steps and .* more than the 50 steps of the cycle from",
        ),
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


def test_a_schedule_is_drawn_as_text_with_its_peak_at_the_top():
    rate = make("wsd", 3e-3, 1000, warmup=100, decay=0.25, cycles=2, min_lr_ratio=0.0)
    text = schedule_text(rate, 1000, width=40, height=4)
    title, *rows, steps = text.splitlines()
    assert (title, steps) == ("learning rate, 0 to 0.003", "step 0 to 999")
    assert [len(row) for row in rows] == [42] * 4
    columns = ["".join(column).count("█") for column in zip(*rows, strict=True)][1:-1]
    assert columns[4:15] == [4] * 11 and columns[20:34] == [4] * 14
    assert columns[:3] == [1, 2, 3] and columns[19] < 2 and columns[39] < 2


def test_a_schedule_is_drawn_as_svg_the_same_each_time():
    rate = make("cosine", num_train_steps=5000)
    figure = schedule_curve(rate, 5000)
    assert figure.startswith("<svg") and "learning rate" in figure and figure == schedule_curve(rate, 5000)
