"""Where values come from, and the reference of fields."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pytest

from marin.config import ConfigError, decode, load_yaml, register_choice
from marin.config.origins import annotated_yaml, load_with_origins
from marin.config.reference import field_docs, reference_page


@runtime_checkable
class Shape(Protocol):
    """One of several."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A shape without corners."""

    radius: float = 1.0
    """Half of its width."""


register_choice(Shape, "round", f"{__name__}:Round")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part, of which there may be many.

    More words.
    """

    # How many of it,
    # at least one.
    count: int
    weight: float = 0.5  # kilograms
    names: tuple[str, ...] = ()
    """What it is called, | or not."""

    def __post_init__(self) -> None:
        if len(self.names) > self.count:
            raise ValueError(f"{len(self.names)} names for {self.count}")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """All of it."""

    part: Part
    shapes: tuple[Shape, ...] = ()
    by_name: dict[str, int] = field(default_factory=dict)
    seed: int | None = None


FILE = """\
part:
  count: 3
  names: [a, b]
shapes:
  - round
  - {type: round, radius: 2}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "whole.yaml").write_text(FILE)
    return tmp_path / "whole.yaml"


def test_each_value_has_its_line_the_command_line_or_its_default(path):
    config, origins = load_with_origins(Whole, path, ["part.names.1=c", "by_name={x: 1}", "seed=7"])
    assert config == Whole(
        part=Part(count=3, names=("a", "c")), shapes=(Round(), Round(radius=2.0)), by_name={"x": 1}, seed=7
    )
    assert origins == {
        "part.count": "whole.yaml:2",
        "part.names.0": "whole.yaml:3",
        "part.names.1": "command line",
        "shapes.0": "whole.yaml:5",
        "shapes.1.type": "whole.yaml:6",
        "shapes.1.radius": "whole.yaml:6",
        "by_name.x": "command line",
        "seed": "command line",
    }
    text = annotated_yaml(config, origins)
    said = {line.split("#")[0].strip(): line.partition("# ")[2] for line in text.splitlines() if "#" in line}
    assert said["count: 3"] == "whole.yaml:2" and said["- c"] == "command line"
    assert said["weight: 0.5"] == "default of Part" and said["radius: 1.0"] == "default of Round"
    assert said["radius: 2.0"] == "whole.yaml:6" and said["seed: 7"] == "command line"


def test_what_is_annotated_reads_back_as_the_same_config(path, tmp_path):
    config, origins = load_with_origins(Whole, path, ["part.names=['# no comment', \"two\\nlines\", '']"])
    (tmp_path / "again.yaml").write_text(annotated_yaml(config, origins))
    assert load_yaml(Whole, tmp_path / "again.yaml") == config


def test_an_override_may_give_what_the_file_leaves_out(tmp_path):
    (tmp_path / "empty.yaml").write_text("seed: 1\n")
    config, _ = load_with_origins(Whole, tmp_path / "empty.yaml", ["part.count=2", "part.weight=1"])
    assert config == Whole(part=Part(count=2, weight=1.0), seed=1)


def test_a_value_set_to_its_default_is_still_somebodys_choice(path):
    config, origins = load_with_origins(Whole, path, ["part.weight=0.5"])
    assert "weight: 0.5" in annotated_yaml(config, origins)
    assert origins["part.weight"] == "command line"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("part.cont=1", "--part.cont: Part has no such field; did you mean 'count'"),
        ("part.count=x", "--part.count: expected an int, got 'x'"),
        ("part.names.5=x", "--part.names.5: expected an index below 2, got '5'"),
        ("part.count.deep=1", "--part.count.deep: what holds 'deep' is 3, which has no fields to set"),
        ("part.count", "expected path=value"),
        ("shapes.0.radius=wide", "--shapes.0.radius: expected a number, got 'wide'"),
    ],
)
def test_an_error_names_the_override_it_is_about(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_with_origins(Whole, path, [override])


def test_an_error_of_a_part_names_the_file_and_the_overrides_of_that_part(path):
    with pytest.raises(ConfigError, match="whole.yaml --part.count=1: part: 2 names for 1"):
        load_with_origins(Whole, path, ["seed=7", "part.count=1"])


def test_an_error_of_the_file_names_the_file(tmp_path):
    (tmp_path / "bad.yaml").write_text("part: {count: many}\n")
    with pytest.raises(ConfigError, match="bad.yaml: part.count: expected an int, got 'many'"):
        load_with_origins(Whole, tmp_path / "bad.yaml", ["seed=1"])
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="list.yaml: expected a mapping with the fields of Whole"):
        load_with_origins(Whole, tmp_path / "list.yaml")


def test_a_choice_may_be_named_alone():
    assert decode(Whole, {"part": {"count": 1}, "shapes": ["round"]}).shapes == (Round(),)
    with pytest.raises(ConfigError, match="shapes.0.type: expected one of round, got 'rond'; did you mean 'round'"):
        decode(Whole, {"part": {"count": 1}, "shapes": ["rond"]})


def test_the_reference_has_every_field_with_the_words_of_its_source():
    assert field_docs(Part) == {
        "count": "How many of it, at least one.",
        "weight": "kilograms",
        "names": "What it is called, | or not.",
    }
    page = reference_page(Whole, title="Whole things", introduction="Here.")
    assert page.startswith("# Whole things\n\nHere.\n\n## Whole\n\nAll of it.\n")
    assert "| `count` | int | **needed** | How many of it, at least one. |" in page
    assert "| `names` | list of text | `[]` | What it is called, \\| or not. |" in page
    assert "| `shapes` | list of one of [round](#round) | `[]` |" in page
    assert "| `seed` | int or null | `null` |" in page
    assert "## Part\n\nA part, of which there may be many.\n" in page and "`type: round`" in page
