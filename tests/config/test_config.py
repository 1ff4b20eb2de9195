"""Configs: round trips, overrides, and errors that say what to write instead."""

import doctest
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marin.config as config_module
from marin.config import (
    ConfigError,
    apply_overrides,
    decode,
    dump_yaml,
    encode,
    from_command_line,
    load_yaml,
    register_choice,
    retire_choice,
)


class Shape(Protocol):
    size: int


@dataclass(frozen=True, kw_only=True)
class Circle:
    size: int


@dataclass(frozen=True, kw_only=True)
class Square:
    size: int
    rounded: bool = False


register_choice(Shape, "circle", f"{__name__}:Circle")
register_choice(Shape, "square", f"{__name__}:Square")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float
    warmup: int | float = 0.1
    kind: Literal["adamw", "muon"] = "adamw"
    clip: float | None = None

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Run:
    optimizer: Optimizer
    shape: Shape = Circle(size=1)
    weights: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (1, "a")
    note: str = ""
    schedule: Literal["cosine", "linear"] | None = None
    anything: object = None


RUN = Run(optimizer=Optimizer(learning_rate=1e-3))


def test_the_module_docstring_is_true():
    assert doctest.testmod(config_module).failed == 0


@settings(max_examples=60)
@given(
    st.builds(
        Run,
        optimizer=st.builds(
            Optimizer,
            learning_rate=st.floats(1e-12, 1e12),
            warmup=st.one_of(st.integers(0, 10**9), st.floats(0, 1)),
            kind=st.sampled_from(["adamw", "muon"]),
            clip=st.none() | st.floats(allow_nan=False),
        ),
        shape=st.builds(Circle, size=st.integers()) | st.builds(Square, size=st.integers(), rounded=st.booleans()),
        weights=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=3),
        names=st.lists(st.text(), max_size=3).map(tuple),
        pair=st.tuples(st.integers(), st.text()),
        note=st.text() | st.sampled_from(["no", "1e-3", "null", "0x10", "2026-01-01", "true", "~", "1_000"]),
    )
)
def test_a_config_written_as_yaml_reads_back_equal(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(dump_yaml(run), encoding="utf-8")
    back = load_yaml(Run, path)
    assert back == run
    assert type(back.optimizer.warmup) is type(run.optimizer.warmup)
    assert decode(Run, encode(run)) == run


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optimizer.learning_rate=3e-4", lambda r: r.optimizer.learning_rate == 3e-4),
        ("optimizer.warmup=5", lambda r: r.optimizer.warmup == 5 and isinstance(r.optimizer.warmup, int)),
        ("optimizer.clip=1", lambda r: r.optimizer.clip == 1.0 and isinstance(r.optimizer.clip, float)),
        ("optimizer.clip=null", lambda r: r.optimizer.clip is None),
        ("shape={type: square, size: 2}", lambda r: r.shape == Square(size=2)),
        ("shape.size=7", lambda r: r.shape == Circle(size=7)),
        ("weights.web=0.25", lambda r: r.weights == {"web": 0.25}),
        ("names=[a, b]", lambda r: r.names == ("a", "b")),
        ("note=no", lambda r: r.note == "no"),
        ("note=", lambda r: r.note is None or r.note == ""),
    ],
)
def test_an_override_sets_one_value_by_its_declared_type(override, read):
    if override == "note=":
        with pytest.raises(ConfigError, match="note: expected a string, got None"):
            apply_overrides(RUN, [override])
    else:
        assert read(apply_overrides(RUN, [override]))


@dataclass(frozen=True, kw_only=True)
class Heads:
    width: int
    heads: int

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@pytest.mark.parametrize("overrides", [["width=9", "heads=3"], ["heads=3", "width=9"]])
def test_fields_that_must_agree_are_set_together(overrides):
    assert apply_overrides(Heads(width=8, heads=2), overrides) == Heads(width=9, heads=3)


def test_of_two_overrides_of_one_place_the_later_wins():
    run = apply_overrides(RUN, ["shape.size=3", "shape={type: square, size: 2}", "shape.rounded=true"])
    assert run.shape == Square(size=2, rounded=True)


def test_an_override_keeps_objects_that_yaml_could_not_hold():
    marker = object()
    run = Run(optimizer=Optimizer(learning_rate=1e-3), anything=marker)
    assert apply_overrides(run, ["note=x"]).anything is marker


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learning_rat=1",
            "optimizer.learning_rat: Optimizer has no such field; did you mean 'learning_rate'",
        ),
        ("optimiser.learning_rate=1", "optimiser: Run has no such field; did you mean 'optimizer'"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: expected a number, got 'fast'"),
        ("optimizer.learning_rate=true", "optimizer.learning_rate: expected a number, got True"),
        ("optimizer.learning_rate=null", "optimizer.learning_rate: expected a number, got None"),
        ("optimizer.learning_rate=-1", "optimizer: learning_rate must be above 0, got -1.0"),
        ("optimizer.kind=adam", "optimizer.kind: expected one of 'adamw', 'muon', got 'adam'; did you mean 'adamw'"),
        ("schedule=cosin", "schedule: expected one of 'cosine', 'linear' or null, got 'cosin'; did you mean 'cosine'"),
        ("shape.size=1.5", "shape.size: expected an int, got 1.5"),
        (
            "shape={type: squar, size: 1}",
            "shape.type: expected one of circle, square, got 'squar'; did you mean 'square'",
        ),
        ("shape={type: square}", "shape: Square needs size"),
        ("pair=[1]", "pair: expected 2 items"),
        ("note.deeper=1", "note.deeper: note is '', which has no fields to set"),
        ("learning_rate", "expected path=value"),
        ("note=[", "note: not YAML"),
    ],
)
def test_a_wrong_override_names_the_path_and_the_near_miss(override, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides(RUN, [override])
    assert message in str(error.value)


def test_an_error_in_a_file_names_the_file_and_the_path(tmp_path):
    (tmp_path / "run.yaml").write_text("optimizer: {learning_rate: 1.0, warmpu: 3}")
    with pytest.raises(ConfigError, match=r"run\.yaml: optimizer\.warmpu: .*did you mean 'warmup'"):
        load_yaml(Run, tmp_path / "run.yaml")


def test_a_missing_field_without_default_is_named():
    with pytest.raises(ConfigError, match="config: Run needs optimizer"):
        decode(Run, {})


def test_yaml_numbers_are_those_of_yaml_1_2(tmp_path):
    (tmp_path / "run.yaml").write_text("optimizer: {learning_rate: 1e-3, clip: .inf}\nnote: off\n")
    run = load_yaml(Run, tmp_path / "run.yaml")
    assert run.optimizer.learning_rate == 1e-3 and math.isinf(run.optimizer.clip) and run.note == "off"


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("0x1f", 31), ("0o17", 15), ("-7", -7), ("+3", 3)])
def test_ints_are_those_of_yaml_1_2(text, value):
    assert apply_overrides(Circle(size=1), [f"size={text}"]).size == value


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("optimizer: {learning_rate: 1.0}\nnote: a\nnote: b\n")
    with pytest.raises(ConfigError, match="'note' stands twice"):
        load_yaml(Run, tmp_path / "run.yaml")


@dataclass(frozen=True, kw_only=True)
class ByStep:
    batch_size: dict[int, int]


def test_the_key_of_an_override_has_its_declared_type():
    assert apply_overrides(ByStep(batch_size={1: 8}), ["batch_size.1=16"]) == ByStep(batch_size={1: 16})
    with pytest.raises(ConfigError, match="batch_size.first: expected an int, got 'first'"):
        apply_overrides(ByStep(batch_size={1: 8}), ["batch_size.first=16"])


def test_a_value_that_yaml_cannot_hold_is_refused_with_its_path():
    with pytest.raises(ConfigError, match="anything: a object cannot be written as YAML"):
        encode(Run(optimizer=Optimizer(learning_rate=1.0), anything=object()))


def test_the_command_line_sets_fields_and_leaves_the_rest_alone():
    argv = ["--prefix", "x", "--set", "note=a", "--set=optimizer.learning_rate=2", "--dry_run"]
    run = from_command_line(RUN, argv)
    assert run.note == "a" and run.optimizer.learning_rate == 2.0


def test_a_wrong_command_line_ends_with_a_message_and_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        from_command_line(RUN, ["--set", "optimizer.learning_rat=1"])
    assert stop.value.code == 2
    assert "did you mean 'learning_rate'" in capsys.readouterr().err


def test_a_setting_that_is_given_twice_on_the_command_line_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        from_command_line(RUN, ["--set", "optimizer.learning_rate=1", "--set=optimizer.learning_rate=2"])
    assert stop.value.code == 2
    said = "optimizer.learning_rate is given twice, as optimizer.learning_rate=1 and as optimizer.learning_rate=2"
    assert said in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Oval:
    """A shape that nobody registered."""

    size: int


@dataclass(frozen=True, kw_only=True)
class Colour:
    name: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shapes: tuple[Shape, ...] = ()


OVAL = f"{__name__}:Oval"


def test_a_class_that_is_not_registered_goes_by_its_module_and_name(tmp_path):
    drawing = Drawing(shapes=(Oval(size=2), Circle(size=1)))
    (tmp_path / "drawing.yaml").write_text(dump_yaml(drawing))
    assert f"type: {OVAL}" in (tmp_path / "drawing.yaml").read_text()
    assert load_yaml(Drawing, tmp_path / "drawing.yaml") == drawing
    assert apply_overrides(drawing, ["shapes.0.size=3"]).shapes[0] == Oval(size=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ovals:Oval", "shape.type: no module 'ovals'; it is looked for in the current folder"),
        (f"{__name__}.deeper:Oval", f"shape.type: no module '{__name__}.deeper'"),
        (f"{__name__}:Ovall", f"shape.type: the module '{__name__}' has no 'Ovall'"),
        (f"{__name__}:OVAL", f"shape.type: {__name__}:OVAL is no dataclass"),
        (f"{__name__}:Colour", "shape: Colour needs name"),
    ],
)
def test_a_class_that_is_not_there_or_does_not_fit_is_named(given, message):
    with pytest.raises(ConfigError) as error:
        decode(Run, {"optimizer": {"learning_rate": 1}, "shape": {"type": given}})
    assert message in str(error.value)


def test_a_choice_that_is_gone_says_what_to_write_instead():
    retire_choice(Shape, "disc", "write `type: circle`")
    with pytest.raises(ConfigError, match=r"^type: there is no 'disc' any more: write `type: circle`$"):
        decode(Shape, {"type": "disc", "radius": 1.0})


def test_a_class_that_lacks_what_is_asked_of_a_choice_is_refused():
    with pytest.raises(ConfigError, match="shape: Colour lacks size, so it is no Shape"):
        decode(Run, {"optimizer": {"learning_rate": 1}, "shape": {"type": f"{__name__}:Colour", "name": "red"}})


def test_a_class_that_no_other_process_finds_is_not_written():
    @dataclass(frozen=True, kw_only=True)
    class Local:
        size: int

    with pytest.raises(ConfigError, match="shape: .*Local is defined in a script or a function"):
        encode(Run(optimizer=Optimizer(learning_rate=1.0), shape=Local(size=1)))
