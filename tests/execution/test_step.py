"""Steps and placeholders: inert, and refused early where they make no sense."""

from dataclasses import dataclass
from typing import Any

import pytest

from marin.execution.step import (
    ExecutorStep,
    InputName,
    VersionedValue,
    ensure_versioned,
    get_executor_step,
    output_path_of,
    this_output_path,
    unversioned,
    unwrap_versioned_value,
    versioned,
)


def work(config: Any) -> None:
    """A function for steps that are never run."""


def step(name: str = "a", **options: Any) -> ExecutorStep:
    return ExecutorStep(**{"name": name, "fn": work, "config": None, **options})


@pytest.mark.parametrize("name", ["a", "tokens/wiki", "A-b_c.d", "0/1/2", "x" * 200])
def test_a_step_name_is_a_relative_path(name: str):
    assert step(name).name == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("", None),
        ("/a", "a"),
        ("a/", "a"),
        ("a//b", "a/b"),
        ("../a", "a"),
        ("a/./b", "a/b"),
        (".exec/x", "exec/x"),
        ("my data/x", "my-data/x"),
        ("caf\u00e9", "caf"),
        ("x" * 201, "x" * 200),
        ("a:b", "a-b"),
        ("a\nb", "a-b"),
        ("a\n", "a"),
    ],
)
def test_a_bad_step_name_is_refused_with_a_near_one(name: str, near: str | None):
    with pytest.raises(ValueError, match="bad step name") as raised:
        step(name)
    assert (f"did you mean '{near}'?" in str(raised.value)) == (near is not None)


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"name": 3}, TypeError, "must be a str"),
        ({"fn": None}, TypeError, "step 'a': fn must be a function"),
        ({"fn": "package.module.function"}, ValueError, "package.module:function"),
        ({"versioning": "some"}, ValueError, "versioning='some'; expected one of"),
        ({"publish": "now"}, ValueError, "publish='now'"),
        ({"code_version": 2}, TypeError, "code_version must be a str"),
        ({"override_output_path": "/abs"}, ValueError, "stays below the prefix"),
        ({"override_output_path": "a/../../b"}, ValueError, "stays below the prefix"),
        ({"override_output_path": "."}, ValueError, "stays below the prefix"),
        ({"override_output_path": ".exec/x"}, ValueError, "the executor's own"),
        ({"override_output_path": "a/.exec"}, ValueError, "the executor's own"),
        ({"override_output_path": "a\nb"}, ValueError, "a line end"),
    ],
)
def test_a_bad_field_is_refused_when_the_step_is_built(options: dict, error: type[Exception], complaint: str):
    with pytest.raises(error, match=complaint):
        step(**options)


def test_a_fixed_output_path_has_one_spelling():
    assert step(override_output_path="a//b/./c/").override_output_path == "a/b/c"


def test_steps_are_equal_only_to_themselves_and_show_their_name():
    assert step() != step()
    assert len({step(), step()}) == 2
    assert repr(step("tokens/wiki")) == "ExecutorStep('tokens/wiki')"


def test_paths_inside_an_output_are_joined():
    data = step()
    assert data / "train" / "x.jsonl" == InputName(data, "train/x.jsonl")
    assert data.cd("train").cd("x") == output_path_of(data, "train/x") == output_path_of(data / "train", "x")
    assert data.as_input_name() == output_path_of(data)
    assert (data / "x").nonblocking() == InputName(data, "x", block_on_step=False)
    assert InputName.hardcoded("raw") / "x" == InputName.hardcoded("raw/x")
    assert get_executor_step(data / "x") is get_executor_step(data) is data
    assert step(override_output_path=None).with_output_path("here").override_output_path == "here"


@pytest.mark.parametrize("path", ["/etc", "../other", "a/../../b", "", "."])
def test_a_path_that_leaves_the_output_is_refused(path: str):
    with pytest.raises(ValueError, match="must be a relative path that stays below"):
        output_path_of(step(), path)
    with pytest.raises(ValueError, match="must be a relative path that stays below"):
        this_output_path(path)


def test_references_to_nothing_are_refused():
    with pytest.raises(ValueError, match="needs a path"):
        InputName(None, None)
    with pytest.raises(TypeError, match="expected an ExecutorStep"):
        InputName("data", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="belongs to no step"):
        get_executor_step(InputName.hardcoded("x"))
    with pytest.raises(TypeError, match="expected an ExecutorStep or an InputName"):
        get_executor_step("data")  # type: ignore[arg-type]


def test_marks_wrap_once_and_unwrap_everywhere():
    @dataclass(frozen=True)
    class Config:
        a: Any
        b: Any = 2

    assert ensure_versioned(versioned(1)) == ensure_versioned(1) == VersionedValue(1)
    with pytest.raises(ValueError, match="already versioned"):
        versioned(versioned(1))
    assert unversioned(unversioned(1)) == unversioned(1)
    plain = Config(1)
    assert unwrap_versioned_value(plain) is plain
    marked = {"x": [versioned(Config(unversioned(1))), (versioned(3),)]}
    assert unwrap_versioned_value(marked) == {"x": [Config(1), (3,)]}
    data = step()
    assert unwrap_versioned_value([data, data / "x"]) == [data, data / "x"]
