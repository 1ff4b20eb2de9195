"""Striking out: what is tainted follows from the records, whatever ran, was struck out or taken back in which order."""

import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marin.execution.catalog import AddressError
from marin.execution.executor import (
    Executor,
    ExecutorStep,
    InputName,
    RefusedError,
    output_path_of,
    this_output_path,
)
from marin.execution.graph import build_graph
from marin.execution.invalidation import Taint, all_tombstones
from marin.execution.lineage import as_tree, lineage
from marin.execution.outputs import all_outputs, find_output
from marin.execution.plan import Choices
from marin.execution.selection import Selection, select_outputs
from marin.execution.status import INVALID, SUCCEEDED, RegisterError, State, active_run
from marin.execution.store import LocalStore
from marin.execution.strike import bad_outputs, consider, invalidate, revoke, settle, strike


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps of these tests are told."""

    calls: str  # file that gets one line per call
    name: str
    output_path: object
    inputs: tuple = ()


def work(config: Work) -> None:
    """Writes a file and says that it was called."""
    with open(config.calls, "a") as file:
        file.write(config.name + "\n")
    Path(config.output_path, "out.txt").write_text(config.name)


class Line:
    """A store, and steps in it by name."""

    def __init__(self, folder: Path) -> None:
        self.prefix = folder / "store"
        self.calls_path = folder / "calls"
        self.steps: dict[str, ExecutorStep] = {}

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.prefix, fsync=False)

    def step(self, name: str, *inputs: str, pseudo: tuple[str, ...] = ()) -> ExecutorStep:
        uses: list[InputName] = [output_path_of(self.steps[i]) for i in inputs]
        uses += [output_path_of(self.steps[i]).nonblocking() for i in pseudo]
        config = Work(calls=str(self.calls_path), name=name, output_path=this_output_path(), inputs=tuple(uses))
        self.steps[name] = ExecutorStep(name=name, fn=work, config=config)
        return self.steps[name]

    def run(self, *names: str, **choices: object) -> list[str]:
        """Run steps; the names of those whose function was called, in order."""
        executor = Executor(self.prefix, fsync=False, stream=io.StringIO())
        result = executor.run([self.steps[name] for name in names], choices=Choices(**choices))
        assert result.is_ok
        return self.calls()

    def calls(self) -> list[str]:
        names = self.calls_path.read_text().split() if self.calls_path.exists() else []
        self.calls_path.write_text("")
        return names

    def digest(self, name: str) -> str:
        return build_graph([self.steps[name]]).node_of(self.steps[name]).digest

    def strike(self, *addresses: str, reason: str = "wrong") -> str:
        found = invalidate(self.store, Selection(addresses=addresses), reason)
        assert found.tombstone is not None
        return found.tombstone.id

    def state(self, name: str) -> State:
        return find_output(self.store, name).output.state

    def marks(self) -> dict[str, str]:
        """Names of the steps whose latest output must not be used."""
        return {output.name: mark for output, mark in bad_outputs(self.store) if output.is_current}


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """a <- b <- c <- d, and a <- e, all committed."""
    line = Line(tmp_path)
    for name, *inputs in (("a",), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "a")):
        line.step(name, *inputs)
    assert line.run("d", "e") == ["a", "b", "c", "d", "e"]
    return line


# -- laws -------------------------------------------------------------------------------------------------------------

NUM_STEPS = 5
# every step but the first reads the one before it, or any earlier ones
DAGS = st.tuples(
    *(
        st.one_of(st.just([i - 1]), st.sets(st.integers(0, i - 1)).map(sorted)) if i else st.just([])
        for i in range(NUM_STEPS)
    )
).map(list)
WHICH = st.integers(0, NUM_STEPS - 1)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), WHICH, st.just(0)),
        st.tuples(st.just("strike"), WHICH, st.integers(0, 3)),
        st.tuples(st.just("take back"), st.integers(0, 3), st.just(0)),
    ),
    min_size=3,
    max_size=10,
)


class Model:
    """What should be so, kept beside the store: outputs are (step, how many came before), each with what it read."""

    def __init__(self, inputs: list[list[int]]) -> None:
        self.inputs = inputs
        self.made: list[list[list[tuple[int, int]]]] = [[] for _ in inputs]  # step -> outputs -> outputs read
        self.struck: dict[str, set[tuple[int, int]]] = {}  # by tombstone

    def run(self, i: int) -> None:
        for j in self.inputs[i]:
            if not self.made[j]:
                self.run(j)
        self.made[i].append([(j, len(self.made[j]) - 1) for j in self.inputs[i]])

    def bad(self) -> dict[tuple[int, int], str]:
        struck = set().union(*self.struck.values())
        bad = set(struck)
        while True:  # to the fixed point, the simple way
            more = {
                (i, k)
                for i, outputs in enumerate(self.made)
                for k, read in enumerate(outputs)
                if (i, k) not in bad and bad.intersection(read)
            }
            if not more:
                return {output: "invalid" if output in struck else "tainted" for output in bad}
            bad |= more


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs=DAGS, events=EVENTS)
def test_tainted_is_whatever_was_made_from_what_is_struck_out(inputs: list[list[int]], events: list[tuple]):
    with tempfile.TemporaryDirectory() as folder:
        line, model = Line(Path(folder)), Model(inputs)
        for i, before in enumerate(inputs):
            line.step(f"s{i}", *(f"s{j}" for j in before))
        for kind, which, more in [("run", NUM_STEPS - 1, 0), *events]:
            bad_before = set(model.bad())
            if kind == "run":
                model.run(which)
                name = f"s{which}"
                line.run(name, force=(f"^{name}$",), only=frozenset({line.digest(name)}), allow_tainted=True)
            elif kind == "strike" and model.made[which]:
                attempts = {o.state.epoch: o for o in all_outputs(line.store) if o.name == f"s{which}"}
                output = attempts[1 + more % len(model.made[which])]
                found = invalidate(line.store, Selection(addresses=(output.data_path,)), "wrong")
                key = (which, output.state.epoch - 1)
                if found.tombstone is None:
                    assert model.bad().get(key) == "invalid"
                else:
                    model.struck[found.tombstone.id] = {key}
                assert set(model.bad()) >= bad_before
            elif kind == "take back" and model.struck:
                id = sorted(model.struck)[which % len(model.struck)]
                revoke(line.store, id, "it was fine")
                del model.struck[id]
                assert set(model.bad()) <= bad_before
            if (line.prefix / ".exec").exists():
                agrees(line, model)
        remade_exactly(line, model)


def agrees(line: Line, model: Model) -> None:
    """Marks, registers and plans say what the model says."""
    bad = model.bad()
    seen = {(int(o.name[1:]), o.state.epoch - 1): mark for o, mark in bad_outputs(line.store)}
    assert seen == bad
    for output in all_outputs(line.store):
        if output.is_current:
            is_struck = bad.get((int(output.name[1:]), output.state.epoch - 1)) == "invalid"
            assert output.state.status == (INVALID if is_struck else SUCCEEDED)
    steps = [line.steps[f"s{i}"] for i, made in enumerate(model.made) if made]
    plan = Executor(line.prefix).plan(steps, explain=False)
    refused = {int(item.node.name[1:]) for item in plan.refused}
    assert refused == {i for i, k in bad if k == len(model.made[i]) - 1}


def remade_exactly(line: Line, model: Model) -> None:
    """Running again what is tainted calls those functions and no others, and leaves nothing tainted."""
    steps = [f"s{i}" for i, made in enumerate(model.made) if made]
    bad = {f"s{i}" for i, k in model.bad() if k == len(model.made[i]) - 1}
    if steps:
        line.calls()
        assert set(line.run(*steps, rerun_tainted=True)) == bad
        assert line.marks() == {}


# -- registers follow tombstones --------------------------------------------------------------------------------------


class Dies(LocalStore):
    """A store whose process ends just before the first register is changed."""

    def compare_and_swap(self, *arguments, **options):
        raise KeyboardInterrupt


def test_a_striking_out_that_is_killed_half_way_counts_and_is_finished_by_the_next(line: Line):
    found = consider(line.store, Selection(addresses=("b",)), "wrong")
    with pytest.raises(KeyboardInterrupt):
        strike(Dies(line.prefix, fsync=False), found)
    assert line.state("b").status == SUCCEEDED
    with pytest.raises(RefusedError, match="struck out"):
        line.run("d")
    line.strike("e")
    assert line.state("b").status == INVALID and line.state("b").record is not None


def test_taking_back_that_is_killed_half_way_counts_and_is_finished_by_the_next(line: Line):
    id = line.strike("b")
    with pytest.raises(KeyboardInterrupt):
        revoke(Dies(line.prefix, fsync=False), id, "it was fine")
    assert line.state("b").status == INVALID
    assert line.run("d") == [] and line.marks() == {}
    assert settle(line.store) == 1
    assert line.state("b").status == SUCCEEDED and line.state("b").error is None
    assert settle(line.store) == 0


def test_an_output_that_two_tombstones_name_stays_struck_out_until_both_are_taken_back(line: Line):
    first = consider(line.store, Selection(addresses=("b",)), "first")
    second = consider(line.store, Selection(addresses=("b",)), "second")
    ids = [strike(line.store, found) for found in (first, second)]
    for id in ids:
        assert line.state("b").status == INVALID and line.marks()["d"] == "tainted"
        revoke(line.store, str(id), "it was fine")
    assert line.state("b").status == SUCCEEDED and line.marks() == {}


def test_a_damaged_tombstone_stops_everything_that_would_serve_outputs(line: Line):
    id = line.strike("b")
    path = line.prefix / ".exec" / "invalid" / f"{id}.json"
    path.write_text(path.read_text()[:30])
    with pytest.raises(RegisterError, match=rf"{id}\.json: not a tombstone"):
        line.run("e")


def test_the_tombstone_says_who_when_why_how_and_what(line: Line):
    selection = Selection(addresses=("b",))
    found = invalidate(line.store, selection, "wrong", superseded_by="e", argv=["marin", "invalidate", "b"])
    (tombstone,) = all_tombstones(line.store)
    content = json.loads((line.prefix / ".exec" / "invalid" / f"{tombstone.id}.json").read_text())
    state = line.state("b")
    assert content["format"] == 1 and content["reason"] == "wrong" and content["argv"] == ["marin", "invalidate", "b"]
    assert content["superseded_by"] == {"name": "e", "digest": line.digest("e")}
    assert content["selector"]["addresses"] == ["b"] and content["user"] and content["when"]
    assert content["outputs"] == [
        {
            "digest": line.digest("b"),
            "attempt": state.attempt,
            "root_digest": state.record["root_digest"],
            "name": "b",
            "path": found.struck[0].step.path,
        }
    ]


# -- what is served ---------------------------------------------------------------------------------------------------


def test_an_input_that_is_not_waited_for_must_not_be_struck_out_either(line: Line):
    line.step("f", "e", pseudo=("b",))
    line.strike("b")
    with pytest.raises(RefusedError, match="b @"):
        line.run("f")
    assert line.run("f", allow_tainted=True) == ["f"]
    record = line.state("f").record
    assert record is not None and record["tainted_inputs"] == ["b"]
    assert line.marks()["f"] == "tainted"


def test_only_what_was_made_from_the_struck_out_attempt_is_tainted(line: Line):
    first = find_output(line.store, "b").output.data_path
    line.run("b", force=("^b$",))
    line.step("g", "b")
    line.run("g")
    line.strike(first)
    assert line.marks() == {"c": "tainted", "d": "tainted"}
    assert line.run("d", "g", rerun_tainted=True) == ["c", "d"]


def test_consent_is_on_record_and_does_not_wash_clean(line: Line):
    line.step("f", "d")
    line.step("g", "f", "e")
    line.strike("b")
    assert line.run("g", allow_tainted=True) == ["f", "g"]
    records = [line.state(name).record for name in ("f", "g")]
    assert [record and record["tainted_inputs"] for record in records] == [["d"], ["f"]]
    assert line.marks()["f"] == line.marks()["g"] == "tainted"
    with pytest.raises(RefusedError):
        line.run("g")


# -- selections -------------------------------------------------------------------------------------------------------


def test_a_path_means_that_output_and_a_digest_every_output_of_the_recipe(line: Line):
    first = find_output(line.store, "b").output.data_path
    line.run("b", force=("^b$",))

    def selected(**fields: object) -> list[int]:
        return sorted(o.state.epoch for o in select_outputs(line.store, Selection(**fields)).outputs)

    assert selected(addresses=(first,)) == [1]
    assert selected(addresses=(f"{first}/out.txt",)) == [1]
    assert selected(addresses=(line.digest("b")[:12],)) == [1, 2]
    assert selected(addresses=("b", "c")) == [1, 1, 2]


def test_producer_code_and_time_must_all_hold(line: Line):
    record = line.state("b").record
    assert record is not None
    code = record["code_fingerprint"]
    code = code if isinstance(code, str) else code["root"]
    module = work.__module__

    def names(**fields: object) -> set[str]:
        return {o.name for o in select_outputs(line.store, Selection(**fields)).outputs}

    assert names(producer=f"{module}:work") == {"a", "b", "c", "d", "e"}
    assert names(producer=f"{module}:work", addresses=("b", "e"), code_fingerprint=code[:8]) == {"b", "e"}
    assert names(since=record["ended"][:10], until=record["ended"][:10], addresses=("b",)) == {"b"}
    for fields, near in (
        ({"producer": f"{module}:wrok"}, f"did you mean {module}:work"),
        ({"code_fingerprint": "0" * 12}, "there are"),
        ({"code_fingerprint": "main"}, "expected 6 to 64 of the digits"),
        ({"until": "2001-01-01"}, "made from 20"),
        ({"since": "soon"}, "is no time"),
        ({"addresses": ("bb",)}, "no step or run 'bb'"),
        ({}, "nothing is selected"),
    ):
        with pytest.raises(AddressError, match=near):
            names(**fields)


def test_a_helper_that_the_code_reaches_is_a_producer_too():
    from marin.execution.selection import is_made_by

    files = {
        "pretrain/export_hf.py": {"sha256": "ab" * 32, "definitions": {"main": "1" * 16, "Layout.split": "2" * 16}},
        "pretrain/layout/__init__.py": {"sha256": "cd" * 32, "definitions": {"transpose": "3" * 16}},
    }
    record = {"fn": "pretrain.export_hf:main", "code_fingerprint": {"root": "ef" * 32, "files": files}}
    for producer in (
        "pretrain.export_hf:main",
        "pretrain/export_hf.py:main",
        "pretrain.layout:transpose",
        "src/pretrain/layout/__init__.py:transpose",
        "pretrain.export_hf:Layout",
        "pretrain.layout",
    ):
        assert is_made_by(record, producer), producer
    for producer in ("pretrain.export_hf:mai", "export_hf:main", "pretrain.layout:main", "pretrain"):
        assert not is_made_by(record, producer), producer


def test_an_id_may_be_abbreviated_and_an_unknown_one_is_told_what_there_is(line: Line):
    id = line.strike("b")
    with pytest.raises(AddressError, match=f"there are {id}"):
        revoke(line.store, "nothing", "x")
    revoke(line.store, id[-6:], "it was fine")
    with pytest.raises(AddressError, match="was taken back before"):
        revoke(line.store, id, "again")


# -- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_long_chains_of_outputs_are_followed_to_the_end(tmp_path: Path, length: int):
    store = LocalStore(tmp_path, fsync=False)
    digests = [f"{i:064x}" for i in range(length)]
    with active_run("chain") as owner:
        for i, digest in enumerate(digests):
            used = {"digest": digests[i - 1], "attempt": "0001-a", "root_digest": "r", "name": f"s{i - 1}"}
            inputs = [{**used, "path": f"s{i - 1}-{digests[i - 1][:10]}", "sub": None, "pseudo": False}] if i else []
            record = {"name": f"s{i}", "inputs": inputs, "root_digest": "r", "ended": "", "run_id": "chain"}
            state = State(
                status=SUCCEEDED,
                digest=digest,
                epoch=1,
                seq=1,
                nonce=digest,
                owner=owner,
                attempt="0001-a",
                data_root="attempts/0001-a",
                ttl=60.0,
                record=record,
            )
            folder = tmp_path / f"s{i}-{digest[:10]}" / ".exec"
            folder.mkdir(parents=True)
            (folder / "state.json").write_bytes(state.to_json())
    tombstone = {"reason": "wrong", "when": "", "user": "", "outputs": [{**used, "digest": digests[0], "name": "s0"}]}
    store.put(f"{tmp_path}/.exec/invalid/t.json", json.dumps(tombstone).encode(), durable=False)
    started = time.process_time()
    assert Taint(store).mark(state) == "tainted"
    found = lineage(store, f"{tmp_path}/s{length - 1}-{digests[-1][:10]}")
    tree = as_tree(found)
    assert len(tree) == length and "s0 @0000000000  INVALID" in tree[-1] and f"[{length - 1}]" in tree[-1]
    assert time.process_time() - started < 30
