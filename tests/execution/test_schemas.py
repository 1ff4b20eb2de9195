"""The schemas describe every field of the files that real runs write, and nothing else is promised."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from marin.execution import schemas
from marin.execution.adoption import adopt
from marin.execution.catalog import find_step
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.gc import Policy, collect, find_garbage
from marin.execution.lease import acquire
from marin.execution.refs import pin
from marin.execution.selection import Selection
from marin.execution.status import State, active_run
from marin.execution.store import LocalStore
from marin.execution.strike import invalidate
from marin.execution.verify import verify


@dataclass(frozen=True)
class Work:
    output_path: Any = this_output_path()
    input_path: Any = None
    failing: str = ""  # a file: fails until it exists


def work(config: Work) -> dict[str, int]:
    Path(config.output_path, "out").write_text("x")
    if config.failing and not os.path.exists(config.failing):
        raise ValueError("not yet")
    return {"lines": 1}


def interrupted(config: Work) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> LocalStore:
    """A success, a failure, a retry, and a step each that was cancelled, adopted, struck out, evicted and abandoned."""
    folder = tmp_path_factory.mktemp("store")
    store = LocalStore(folder / "store", fsync=False)
    executor = Executor(store.prefix, fsync=False, quiet=True, description="all kinds")
    first = ExecutorStep(name="first", fn=work, config=Work(), tags=frozenset({"a-tag"}), description="the first")
    second = ExecutorStep(name="second", fn=work, config=Work(input_path=output_path_of(first, "out")), version="1")
    executor.run([second, first])
    fails = ExecutorStep(name="fails", fn=work, config=Work(failing="/nowhere"))
    later = str(folder / "later")
    retried = ExecutorStep(name="retried", fn=work, config=Work(failing=later))
    executor.run([fails, retried, ExecutorStep(name="after", fn=work, config=Work(input_path=output_path_of(fails)))])
    Path(later).touch()
    executor.run([retried], force_run_failed=True)
    with pytest.raises(KeyboardInterrupt):
        executor.run([ExecutorStep(name="cancelled", fn=interrupted, config=Work())])
    (folder / "data").mkdir()
    (folder / "data/file").write_text("data")
    adopt("adopted", folder / "data", version="2", reason="by hand", prefix=store.prefix)
    executor.run(
        [ExecutorStep(name="struck", fn=work, config=Work()), ExecutorStep(name="gone", fn=work, config=Work())]
    )
    pin(store, find_step(store.prefix, "second"), user="me")
    pin(store, find_step(store.prefix, "adopted"), user="me")
    pin(store, find_step(store.prefix, "retried"), user="me")
    invalidate(store, Selection(addresses=("struck",)), "a test")
    Path(find_step(store.prefix, "first").data_path, "more").touch()
    list(verify(store, [find_step(store.prefix, name) for name in ("first", "second")], deep=True, user="me"))
    _abandon(store, f"{store.prefix}/left-0123456789")
    policy = Policy(outputs=True, only_refs=True)
    collected = collect(store, find_garbage(store, policy), policy)
    assert sorted(item.path.partition("-")[0] for item in collected) == ["gone", "left"]
    return store


def _abandon(store: LocalStore, root: str) -> None:
    """An attempt whose runner has been gone for two hours."""
    with active_run("run-that-died") as owner:
        lease = acquire(store, root, None, digest="d" * 64, owner=owner, publish="attempt")
    assert lease is not None
    os.makedirs(lease.data_root)
    Path(lease.data_root, "half").touch()
    long_ago = time.time() - 7200
    for path in (Path(root), *Path(root).rglob("*")):
        os.utime(path, (long_ago, long_ago))


KINDS = {
    "state.json": "state",
    "run.json": "run",
    "events.jsonl": "event",
    "verified.json": "verified",
    "manifests": "manifest",
    "invalid": "tombstone",
    "refs": "ref",
    "history": "state",
}


def written(store: LocalStore) -> Iterator[tuple[str, str, Any]]:
    """(schema's name, path, content) of every file that the executor wrote."""
    for path in sorted(Path(store.prefix).rglob("*.json*")):
        if ".exec" not in path.parts:
            continue
        kind = KINDS.get(path.name) or KINDS.get(path.parent.name)
        if kind == "event":
            for line in path.read_text().splitlines():
                yield kind, str(path), json.loads(line)
        elif kind:
            yield kind, str(path), json.loads(path.read_text())


def validator(name: str, *, strict: bool = False) -> jsonschema.Draft202012Validator:
    known = {n: _strict(schemas.load(n)) if strict else schemas.load(n) for n in schemas.NAMES}
    registry = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in known.values()])
    return jsonschema.Draft202012Validator(known[name], registry=registry)


def _strict(schema: Any) -> Any:
    """The same schema that forbids what it does not describe."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _strict(value) for key, value in schema.items()}
    return inner | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else inner


@pytest.mark.parametrize("name", schemas.NAMES)
def test_a_schema_is_one(name):
    jsonschema.Draft202012Validator.check_schema(schemas.load(name))


def test_what_real_runs_wrote_is_as_the_schemas_say_and_no_field_is_left_out(store):
    seen = set()
    for kind, path, content in written(store):
        errors = [f"{e.json_path}: {e.message}" for e in validator(kind, strict=True).iter_errors(content)]
        assert not errors, f"{path}: {errors}"
        seen.add((kind, content.get("status")))
    states = {status for kind, status in seen if kind == "state"}
    assert states == {"SUCCEEDED", "FAILED", "CANCELLED", "INVALID", "EVICTED", "RUNNING"} - {"RUNNING"}
    assert {kind for kind, _ in seen} == {"state", "run", "event", "manifest", "tombstone", "ref", "verified"}


def test_every_class_of_failure_is_described(store):
    classes = {c["error"]["class"] for kind, _, c in written(store) if kind == "state" and c.get("error")}
    assert {"USER_ERROR", "CANCELLED", "STRUCK_OUT", "ABANDONED"} <= classes
    described = schemas.load("state")["properties"]["error"]["properties"]["class"]["description"]
    assert [name for name in classes if name not in described] == []


def test_fields_of_later_versions_are_allowed_everywhere_and_registers_keep_them(store):
    for kind, path, content in written(store):
        assert validator(kind).is_valid(_with_more(content)), path
        if kind == "state":
            more = content | {"later": {"deep": [1]}, "record": (content.get("record") or {}) | {"later": 1}}
            again = json.loads(State.from_json(json.dumps(more).encode()).to_json())
            assert again["later"] == {"deep": [1]}
            assert again["record"]["later"] == 1


def _with_more(value: Any, is_map: bool = False) -> Any:
    """The same with one field more in every object; not where keys are names, as in a map of files."""
    if not isinstance(value, dict):
        return value
    inner = {key: _with_more(item, is_map=key in ("files", "definitions", "packages")) for key, item in value.items()}
    return inner if is_map else inner | {"later_field": {"any": "thing"}}


def test_a_schema_notices_what_is_wrong(store):
    for kind, path, _ in written(store):
        assert not validator(kind).is_valid({}), path
    state = next(content for kind, _, content in written(store) if kind == "state" and content.get("record"))
    assert not validator("state").is_valid(state | {"status": "DONE"})
    assert not validator("state").is_valid(state | {"record": state["record"] | {"bytes": "3"}})


def test_the_page_of_records_is_the_schemas(repository: Path):
    page = (repository / "docs/reference/records.md").read_text(encoding="utf-8")
    assert page == schemas.as_markdown(), "renew it: python -m marin.execution.schemas > docs/reference/records.md"
    for name in schemas.NAMES:
        for path, _, text in schemas.fields(schemas.load(name)):
            assert text, f"{name}: {path} has no description"


def test_the_schemas_come_with_the_package():
    script = "from marin.execution import schemas; print([schemas.load(n)['title'] for n in schemas.NAMES])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Register" in run.stdout
