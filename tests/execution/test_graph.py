"""Planning: what a digest covers, how equal steps meet, what is refused, and that it is linear."""

from collections import OrderedDict
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import cpu_seconds, plain_loop

from marin.execution.canonical import UnversionableError, register_canonical
from marin.execution.graph import Graph, GraphError, build_graph, resolve_config
from marin.execution.step import (
    THIS_OUTPUT_PATH,
    ExecutorStep,
    InputName,
    output_path_of,
    this_output_path,
    unversioned,
    version_meta,
    versioned,
)


@dataclass(frozen=True)
class Config:
    inputs: Any = ()
    lr: float = 1e-3
    workers: int = field(default=4, metadata=version_meta(exclude=True))
    output_path: Any = THIS_OUTPUT_PATH


def work(config: Any) -> None:
    """A function for steps that are only planned."""


def other_work(config: Any) -> None:
    """Another one."""


def step(name: str = "a", config: Any = None, **options: Any) -> ExecutorStep:
    return ExecutorStep(name=name, fn=options.pop("fn", work), config=config, **options)


def digest(of: ExecutorStep) -> str:
    return build_graph([of]).node_of(of).digest


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


# -- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"fn": other_work},
        {"config": Config(lr=2e-3)},
        {"config": Config(inputs=(step(),))},
        {"code_version": "2"},
        {"versioning": "marked"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_what_a_step_is_changes_its_digest(change: dict):
    base = step(config=Config())
    assert digest(replace(base, **change)) != digest(base)


@pytest.mark.parametrize(
    "change",
    [
        {"description": "in words"},
        {"resources": object()},
        {"tags": frozenset({"x"})},
        {"pip_dependency_groups": ["gpu"]},
        {"publish": "inplace"},
        {"override_output_path": "somewhere/else"},
        {"config": Config(workers=64)},
        {"fn": f"{__name__}:work"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_how_and_where_a_step_runs_does_not(change: dict):
    base = step(config=Config())
    assert digest(replace(base, **change)) == digest(base)


def test_the_prefix_is_in_no_digest():
    base = step(config=Config())
    assert build_graph([base], prefix="/a").targets == build_graph([base], prefix="/b/c").targets


def test_a_path_under_the_prefix_is_refused_as_text():
    from pathlib import Path

    for config in (
        {"data": "/store/raw/x"},
        {"data": Path("/store/raw/x")},
        {"data": InputName.hardcoded("/store/raw/x")},
    ):
        with pytest.raises(UnversionableError, match=r"step 'a': .*config\.data.*InputName\.hardcoded\('raw/x'\)"):
            build_graph([step(config=config)], prefix="/store/")
    build_graph([step(config={"data": "/storeroom/x", "log": unversioned("/store/logs")})], prefix="/store")


def test_a_change_upstream_reaches_everything_downstream():
    def line(lr: float) -> list[ExecutorStep]:
        data = step("data")
        train = step("train", Config(inputs=(data,), lr=lr))
        return [data, train, step("eval", Config(inputs=[train / "model"]))]

    before, after = [[digest(s) for s in line(lr)] for lr in (1e-3, 2e-3)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_steps_that_mean_the_same_are_planned_once():
    graph = build_graph([step("b", [step("a"), step("a")]), step("b", [step("a"), step("a")])])
    assert names(graph) == ["a", "b"]
    assert len(graph.targets) == 1
    assert graph.nodes[1].deps == (graph.nodes[0].digest,)


def test_the_name_of_an_output_folder_begins_with_the_digest():
    node = build_graph([step("tokens/wiki")]).nodes[0]
    assert node.path == f"tokens/wiki-{node.digest[:10]}"
    assert node.fn_ref == f"{__name__}:work"


def test_marked_versioning_counts_only_marks_and_inputs():
    def marked(**config: Any) -> ExecutorStep:
        return step(config=config, versioning="marked")

    assert digest(marked(a=versioned(1), b=2)) == digest(marked(a=versioned(1), b=3))
    assert digest(marked(a=versioned(1))) != digest(marked(a=versioned(2)))
    assert digest(marked(a=versioned(1))) != digest(marked(b=versioned(1)))
    assert digest(marked(a=step("x"))) != digest(marked(a=step("y")))
    assert digest(marked(**{"a.b": versioned(1)})) != digest(marked(a={"b": versioned(1)}))


def test_marked_versioning_records_the_digest_of_what_it_left_out():
    def unmarked(**config: Any) -> str | None:
        return build_graph([step(config=config, versioning="marked")]).nodes[0].unmarked_digest

    assert unmarked(a=1) == unmarked(a=1) != unmarked(a=2)
    assert unmarked(a=lambda: 0) is None
    assert build_graph([step()]).nodes[0].unmarked_digest is None


def test_an_input_in_an_unversioned_place_runs_before_but_is_not_identity():
    readers = [step("b", Config(inputs=unversioned([step(name)]))) for name in ("x", "y")]
    assert digest(readers[0]) == digest(readers[1])
    graph = build_graph(readers[:1])
    assert names(graph) == ["x", "b"]
    assert graph.node_of(readers[0]).deps == (graph.nodes[0].digest,)


def test_a_nonblocking_input_is_identity_but_is_not_waited_for():
    data = step("data")
    watch = step("watch", output_path_of(data).nonblocking())
    graph = build_graph([watch])
    node = graph.node_of(watch)
    assert (node.deps, node.pseudo) == ((), (graph.node_of(data).digest,))
    assert graph.required == {node.digest}
    assert digest(watch) != digest(step("watch", output_path_of(data)))


# -- order ------------------------------------------------------------------------------------------------------------


def test_inputs_come_first_in_the_order_in_which_they_are_met():
    a, b = step("a"), step("b")
    top = step("top", Config(inputs={"second": step("d", [b]), "first": step("c", [a, b])}))
    assert names(build_graph([b, top])) == ["b", "a", "c", "d", "top"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 100), max_size=4), min_size=1, max_size=20))
def test_every_step_comes_after_its_inputs(shape: list[list[int]]):
    steps: list[ExecutorStep] = []
    for i, inputs in enumerate(shape):
        steps.append(step(f"s{i}", [steps[j % i] for j in inputs] if i else []))
    graph = build_graph(reversed(steps))
    position = {node.digest: i for i, node in enumerate(graph)}
    assert all(position[dep] < position[node.digest] for node in graph for dep in node.deps)
    assert len(graph) == len({node.digest for node in graph}) == len(steps)


# -- budgets ----------------------------------------------------------------------------------------------------------


def cost_of_planning(steps: list[ExecutorStep]) -> float:
    """CPU time in plain loops of five million additions, in turns with them: best of three.

    One such loop takes 0.2 to 0.3 s on a quiet machine; a slow or busy one slows both.
    """
    pairs = [(cpu_seconds(lambda: build_graph(steps)), cpu_seconds(plain_loop)) for _ in range(3)]
    return min(planning for planning, _ in pairs) / min(loop for _, loop in pairs)


def test_a_chain_of_20000_steps_is_planned_in_the_time_of_35_million_additions():
    last = step("s0", Config())
    for i in range(1, 20_000):
        last = step(f"s{i}", Config(inputs=(last,)))
    assert cost_of_planning([last]) < 7


def test_a_diamond_of_5000_layers_is_planned_in_the_time_of_20_million_additions():
    layer = [step("s0a", Config()), step("s0b", Config())]
    for i in range(1, 5_000):
        layer = [step(f"s{i}{side}", Config(inputs=tuple(layer))) for side in "ab"]
    assert cost_of_planning(layer) < 4


def test_a_fan_of_10000_steps_is_planned_in_the_time_of_20_million_additions():
    source = step("source", Config())
    leaves = [step(f"s{i}", Config(inputs=(source,))) for i in range(10_000)]
    assert cost_of_planning([step("sink", Config(inputs=tuple(leaves)))]) < 4


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_cycle_is_an_error_that_shows_the_way_around():
    loop: dict[str, Any] = {}
    a = step("a", loop)
    b = step("b", [a])
    loop["input"] = step("c", [b])
    with pytest.raises(GraphError, match=r"cycle: a -> c -> b -> a "):
        build_graph([step("top", [a])])
    with pytest.raises(GraphError, match=r"cycle: me -> me"):
        me: dict[str, Any] = {}
        me["input"] = step("me", me)
        build_graph([me["input"]])


def test_two_steps_with_one_output_path_are_refused():
    steps = [step("a", 1, override_output_path="out"), step("b", 2, override_output_path="out/")]
    with pytest.raises(GraphError, match=r"two steps with one output path 'out': 'a' @\w{10} and 'b' @\w{10}"):
        build_graph(steps)


def test_a_step_inside_the_output_of_another_is_refused():
    steps = [step("a", 1, override_output_path="out"), step("b", 2, override_output_path="out/inner")]
    with pytest.raises(GraphError, match=r"'b' would write to 'out/inner', inside the output of 'a'"):
        build_graph(steps)


def test_one_step_with_two_output_paths_is_refused():
    with pytest.raises(GraphError, match=r"step 'a' @\w{10} has two output paths, 'a-\w{10}' and 'out'"):
        build_graph([step("a"), step("a", override_output_path="out")])


def test_a_value_that_cannot_be_versioned_is_refused_with_step_and_field():
    with pytest.raises(UnversionableError, match=r"step 'a': cannot version config\.inputs\[0\]\.init: a lambda"):
        build_graph([step("top", step("a", Config(inputs=[{"init": lambda: 0}])))])


class Registered:
    """A type with a canonical form of its own."""

    def __init__(self, held: Any):
        self.held = held

    def method(self, config: Any) -> None:
        """A method whose value is identity."""


register_canonical(Registered, lambda value: value.held)


@dataclass(frozen=True)
class WithInitOnly:
    """A dataclass that cannot be made again from its fields."""

    path: Any = None
    scale: InitVar[int] = 1


@dataclass(frozen=True)
class Holder:
    """A dataclass with a method."""

    path: Any = None

    def method(self, config: Any) -> None:
        """A method whose value is identity."""


PLACEHOLDERS = [step(), output_path_of(step("b"), "x"), THIS_OUTPUT_PATH, InputName.hardcoded("raw"), versioned(1)]


@pytest.mark.parametrize("held", [*PLACEHOLDERS, unversioned(1)], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("versioning", ["all", "marked"])
@pytest.mark.parametrize("place", [lambda v: v, unversioned], ids=["counts", "does not count"])
def test_a_placeholder_that_could_not_be_replaced_is_refused_with_its_path(held: Any, versioning: Any, place: Any):
    for value, shown in [
        (Registered([held]), "Registered"),
        (Registered(held).method, "Registered"),
        (Holder(held).method, "method"),
        (partial(Holder([held]).method, 1), ".func"),
        (WithInitOnly(held), "InitVar"),
    ]:
        with pytest.raises(
            UnversionableError, match=r"step 'a': cannot version config\.inputs.*could not be"
        ) as raised:
            build_graph([step(config=Config(inputs=place({"k": value})), versioning=versioning)])
        assert shown in str(raised.value)
        assert "config.inputs.k" in str(raised.value)


def test_what_holds_no_placeholder_may_be_anything():
    held = [Registered([1]), Registered(2).method, Holder(3).method, WithInitOnly(4), partial(Holder(5).method, 1)]
    for versioning in ("all", "marked"):
        other = step("b")
        assert build_graph([step(config=Config(inputs=[*held, other]), versioning=versioning)]).nodes[-1].deps


def test_marks_and_inputs_in_a_pydantic_model_count_and_are_replaced():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", x=(Any, None), i=(Any, None))
    data = step("data")
    steps = [step(config=model(x=versioned(x), i=data / "f"), versioning="marked") for x in (1, 2)]
    steps.append(step(config={"k": unversioned(model(x=versioned(1), i=data))}))
    graph = build_graph(steps)
    assert len({digest(s) for s in steps}) == 3
    for s in steps:
        node = graph.node_of(s)
        assert node.deps == (graph.node_of(data).digest,)
        config = resolve_config(node, graph, "/out", {node.deps[0]: "/data"})
        found = config["k"] if isinstance(config, dict) else config
        assert (found.x, found.i[:5]) in ((1, "/data"), (2, "/data"))


def test_a_placeholder_as_a_key_in_a_place_that_does_not_count_is_refused():
    with pytest.raises(UnversionableError, match=r"config\.inputs.* cannot be a key of a dict here"):
        build_graph([step(config=Config(inputs=unversioned({step("b"): 1})))])


def test_a_partial_of_a_value_with_an_input_gets_its_path():
    data = step("data")
    graph = build_graph([user := step(config=partial(CallableHolder(data / "x"), 1))])
    node = graph.node_of(user)
    config = resolve_config(node, graph, "/out", {node.deps[0]: "/data"})
    assert config.func == CallableHolder("/data/x")


@dataclass(frozen=True)
class CallableHolder:
    """A dataclass that is called."""

    path: Any

    def __call__(self, config: Any) -> None:
        """Nothing."""


def test_a_function_that_cannot_be_versioned_is_refused():
    captured = 1

    def closure(config: Any) -> int:
        return captured

    with pytest.raises(UnversionableError, match=r"step 'a': cannot version fn: .* captures captured"):
        build_graph([step(fn=closure)])
    with pytest.raises(UnversionableError, match=r"step 'a': cannot version fn: a lambda"):
        build_graph([step(fn=lambda config: None)])


def test_a_list_of_lists_of_steps_is_refused_at_the_door():
    with pytest.raises(TypeError, match="a list of steps inside the list"):
        build_graph([[step()]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="belongs to no step"):
        build_graph([InputName.hardcoded("x")])


# -- the config a function gets ---------------------------------------------------------------------------------------


class Paths(NamedTuple):
    a: Any
    b: Any = None


def resolved(config: Any, *, prefix: str | None = None) -> Any:
    target = step("target", config)
    graph = build_graph([target])
    roots = {node.digest: f"/data/{node.name}" for node in graph}
    return resolve_config(graph.node_of(target), graph, "/out", roots, prefix=prefix)


def test_placeholders_become_paths():
    config = Config(
        inputs=[step("x"), step("y") / "train" / "a.jsonl", {"k": (output_path_of(step("z"), "s"),)}],
        lr=versioned(3e-4),  # type: ignore[arg-type]
        workers=unversioned(8),  # type: ignore[arg-type]
        output_path=this_output_path("model"),
    )
    assert resolved(config) == Config(
        inputs=["/data/x", "/data/y/train/a.jsonl", {"k": ("/data/z/s",)}], lr=3e-4, workers=8, output_path="/out/model"
    )


def test_every_kind_of_container_keeps_its_kind():
    x = step("x")
    assert resolved(Paths(x, 1)) == Paths("/data/x", 1)
    assert resolved({x / "a", "b"}) == {"/data/x/a", "b"}
    assert resolved(frozenset({x})) == frozenset({"/data/x"})
    assert resolved(OrderedDict(b=x, a=1)) == OrderedDict(b="/data/x", a=1)
    assert type(resolved(OrderedDict(b=x))) is OrderedDict
    assert resolved(x) == "/data/x"
    assert resolved(versioned(versioned)) is versioned


def test_a_hardcoded_path_is_taken_below_the_prefix():
    assert resolved(InputName.hardcoded("raw/x"), prefix="/store") == "/store/raw/x"
    assert resolved(InputName.hardcoded("/else/x"), prefix="/store") == "/else/x"


def test_what_holds_no_placeholder_is_handed_over_as_it_is():
    inner = Config(output_path="fixed")
    result = resolved({"same": inner, "path": step("x")})
    assert result["same"] is inner


def test_a_missing_input_is_an_error_that_names_it():
    target = step("target", step("x"))
    graph = build_graph([target])
    with pytest.raises(KeyError, match=r"step 'target': no data root for its input 'x' @"):
        resolve_config(graph.node_of(target), graph, "/out", {})
