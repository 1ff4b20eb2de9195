# ruff: noqa: E501 - one row for one case
"""What changed, named by its field, and where a change began."""

from dataclasses import dataclass
from typing import Any

import pytest

from marin.execution.explain import Earlier, Explanation, diff_recipes, explain
from marin.execution.graph import Graph, Node, build_graph
from marin.execution.record import inputs_of
from marin.execution.step import THIS_OUTPUT_PATH, ExecutorStep, this_output_path, versioned


@dataclass(frozen=True)
class Train:
    learning_rate: float = 3e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True)
class Other:
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Config:
    data: Any = None
    train: Any = Train()
    extra: Any = None
    output_path: Any = THIS_OUTPUT_PATH


def step(name: str = "train", config: Any = None, **options: Any) -> ExecutorStep:
    return ExecutorStep(**{"name": name, "fn": "package.module:work", "config": config, **options})


def changes(old: Any, new: Any, **options: Any) -> list[str]:
    """Lines of the difference of two configs (or steps)."""
    texts, names = [], {}
    for config in (old, new):
        target = config if isinstance(config, ExecutorStep) else step(config=config, **options)
        graph = build_graph([target])
        names |= {node.digest: node.name for node in graph}
        texts.append(graph.node_of(target).canonical)
    return [str(change) for change in diff_recipes(*texts, names)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Config(), Config(train=Train(1e-3)), ["config.train.learning_rate  0.003 -> 0.001"]),
        (Config(), Config(train=Train(betas=(0.9, 0.99))), ["config.train.betas[1]  0.95 -> 0.99"]),
        (Config(), Config(train=Train(betas=(0.9,))), ["config.train.betas[1]  0.95 -> (absent)"]),
        (
            Config(),
            Config(train=Other(0.1)),
            ["config.train  Train(betas=(0.9, 0.95), learning_rate=0.003) -> Other(learning_rate=0.1)"],
        ),
        (Config(extra={"a": 1}), Config(extra={"b": 1}), ["config.extra.a  1 -> (absent)", "config.extra.b  (absent) -> 1"]),
        (Config(extra={"a b": 1}), Config(extra={"a b": None}), ['config.extra["a b"]  1 -> None']),
        (Config(extra={1: "x"}), Config(extra={1: "y"}), ["config.extra[1]  'x' -> 'y'"]),
        (Config(extra={1, 2}), Config(extra={2, 3}), ["config.extra{1}  1 -> (absent)", "config.extra{3}  (absent) -> 3"]),
        (Config(extra=[1, 2, 3]), Config(extra=[1, 9, 2, 3]), ["config.extra[1]  (absent) -> 9"]),
        (Config(extra=1), Config(extra=True), ["config.extra  1 -> True"]),
        (Config(extra=1), Config(extra=1.0), ["config.extra  1 -> 1.0"]),
        (Config(extra=[1]), Config(extra=(1,)), ["config.extra  [1] -> (1,)"]),
        (Config(extra=len), Config(extra=max), ["config.extra  builtins:len -> builtins:max"]),
        (Config(), Config(output_path=this_output_path("x")), ["config.output_path  this_output_path() -> this_output_path('x')"]),
        (Config(), Config(), []),
    ],
)  # fmt: skip
def test_a_difference_is_named_by_its_field(old: Any, new: Any, expected: list[str]):
    assert changes(old, new) == expected


def test_keys_that_look_like_those_of_the_format_are_keys():
    def build(value: int, raw: int) -> tuple[Graph, Node]:
        tricky = {"$dep": value, "$m": {"$dep": "x", "$c": [1]}, "$marked": {"$t": {"$dep": 7}}}
        user = step("user", {**tricky, "input": step("raw", raw) / "f"})
        graph = build_graph([user])
        return graph, graph.node_of(user)

    (before, old), (after, new) = build(0, 1), build(5, 2)
    names = {node.digest: node.name for graph in (before, after) for node in graph}
    found = diff_recipes(old.canonical, new.canonical, names)
    assert [change.path for change in found] == ['config["$dep"]', "dep raw"]
    assert inputs_of(new.canonical, new.deps, new.pseudo) == [(new.deps[0], "f", False)]


def test_a_difference_outside_the_config_is_named_too():
    assert changes(step(), step(code_version="2")) == ["code_version  '' -> '2'"]
    assert changes(step(), step(fn="package.module:other")) == ["fn  'package.module:work' -> 'package.module:other'"]
    assert changes({"a": versioned(1)}, {"a": versioned(2)}, versioning="marked") == ["config.a  1 -> 2"]


def test_an_input_that_was_made_differently_is_named_once_and_last():
    old, new = step("data"), step("data", 1)
    lines = changes(Config(data=[old / "a", old / "b"]), Config(data=[new / "a", new / "b"], extra=1))
    assert lines[0] == "config.extra  None -> 1"
    assert len(lines) == 2
    assert lines[1].startswith("dep data  @")


def test_another_input_or_another_file_of_it_is_a_difference_of_the_config():
    assert changes(Config(data=step("a")), Config(data=step("b"))) == ["config.data  a -> b"]
    assert changes(Config(data=step("a")), Config(data=step("a") / "x")) == ["config.data  a -> a/x"]
    assert changes(Config(data=step("a")), Config(data="/x")) == ["config.data  a -> '/x'"]


def test_long_values_are_cut_so_that_the_difference_stays_in_sight():
    (line,) = changes(Config(extra="x" * 500 + "one"), Config(extra="x" * 500 + "two"))
    assert len(line) < 200
    assert "one" in line
    assert "two" in line


# -- where it began ---------------------------------------------------------------------------------------------------


def history(*steps: ExecutorStep) -> dict[str, list[Earlier]]:
    """What was carried out, oldest first."""
    found: dict[str, list[Earlier]] = {}
    for i, target in enumerate(steps):
        graph = build_graph([target])
        names = {node.digest: node.name for node in graph}
        for node in graph:
            if all(e.digest != node.digest for e in found.get(node.name, [])):
                found.setdefault(node.name, []).append(
                    Earlier(digest=node.digest, canonical=node.canonical, ended=f"2026-01-{i + 1:02}", names=names)
                )
    return found


def line(raw: Any = 1, tokens: Any = 1, train: Any = 1) -> ExecutorStep:
    """raw -> tokens -> train -> eval, with one setting for each."""
    text = step("raw", raw)
    tokenized = step("tokens", [text, tokens])
    model = step("train", [tokenized, train])
    return step("eval", [model, tokenized])


def why(target: ExecutorStep, earlier: dict[str, list[Earlier]]) -> tuple[Graph, Explanation]:
    graph = build_graph([target])

    def lookup(node: Node) -> list[Earlier]:
        return [e for e in earlier.get(node.name, []) if e.digest != node.digest]

    return graph, explain(graph, graph.targets[0], lookup)


def causes(target: ExecutorStep, earlier: dict[str, list[Earlier]]) -> dict[str, list[str]]:
    return {c.node.name: [str(change) for change in c.changes] for c in why(target, earlier)[1].causes}


def test_only_the_step_where_a_change_began_is_a_cause():
    assert causes(line(train=2), history(line())) == {"train": ["config[1]  1 -> 2"]}
    assert causes(line(raw=2), history(line())) == {"raw": ["config  1 -> 2"]}
    assert causes(line(tokens=2), history(line(tokens=0), line())) == {"tokens": ["config[1]  1 -> 2"]}


def test_two_independent_changes_are_two_causes_upstream_first():
    found = causes(line(raw=2, train=3), history(line()))
    assert list(found) == ["raw", "train"]


def test_a_step_that_changed_itself_is_its_own_cause():
    earlier = history(step("a", Config()))
    assert causes(step("a", Config(train=Train(1e-3))), earlier) == {
        "a": ["config.train.learning_rate  0.003 -> 0.001"]
    }


def test_a_step_of_a_new_name_is_new():
    _, explanation = why(step("new"), history(line()))
    assert explanation.earlier is None
    assert [(c.node.name, c.changes) for c in explanation.causes] == [("new", ())]


def test_the_nearest_earlier_recipe_is_the_one_with_the_fewest_differences_then_the_latest():
    earlier = history(step("a", {"x": 1, "y": 1}), step("a", {"x": 1, "y": 2}), step("a", {"x": 5, "y": 5}))
    _, explanation = why(step("a", {"x": 1, "y": 3}), earlier)
    assert [str(change) for change in explanation.changes] == ["config.y  2 -> 3"]


def test_a_wide_diamond_is_explained_in_linear_time():
    def diamond(setting: int) -> list[ExecutorStep]:
        layer = [step("s0a", setting), step("s0b")]
        for i in range(1, 60):
            layer = [step(f"s{i}{side}", list(layer)) for side in "ab"]
        return layer

    found = causes(step("top", diamond(2)), history(step("top", diamond(1))))
    assert found == {"s0a": ["config  1 -> 2"]}
