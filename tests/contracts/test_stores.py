"""What every store promises, tried on each: a disk, memory, an S3 server, and those that $MARIN_TEST_STORES names.

    MARIN_TEST_STORES="gs://bucket/tests az://container/tests" pytest tests/contracts/test_stores.py

Each test gets a prefix of its own below a named one, which is not deleted.
"""

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from marin.execution import lease as leases
from marin.execution.attempt import earlier_states
from marin.execution.lease import Lease, LeaseLost
from marin.execution.status import FAILED, RUNNING, SUCCEEDED, Owner, State, StepPaths, active_run
from marin.execution.store import Item, LocalStore, RegisterError, Store, open_store

STORES = ["disk", "memory", "s3", *os.environ.get("MARIN_TEST_STORES", "").split()]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        store: Store = LocalStore(tmp_path / "store", fsync=False)
    elif request.param == "memory":
        pytest.importorskip("obstore")
        store = open_store(f"memory://{uuid.uuid4().hex}/exp")
    elif request.param == "s3":
        store = open_store(request.getfixturevalue("s3_prefix"))
    else:
        store = open_store(f"{request.param}/{uuid.uuid4().hex}")
    store.prepare()
    return store


@pytest.fixture
def owner():
    with active_run("run-1") as owner:
        yield owner


@pytest.fixture
def new_state(owner: Owner) -> Callable[..., State]:
    def make(**changes) -> State:
        nonce = os.urandom(8).hex()
        state = State(
            status=RUNNING,
            digest="d" * 64,
            epoch=1,
            seq=0,
            nonce=nonce,
            owner=owner,
            attempt=f"0001-{nonce[:8]}",
            data_root=".",
            ttl=60.0,
        )
        return replace(state, **changes)

    return make


def acquire(store: Store, root: str, owner: Owner, expected: State | None = None) -> Lease | None:
    return leases.acquire(store, root, expected, digest="d" * 64, owner=owner, publish="attempt")


# -- plain bytes ------------------------------------------------------------------------------------------------------


def test_the_self_test_passes(store: Store):
    checks = store.self_test()
    assert len(checks) >= 3 and all(check.is_ok for check in checks)
    assert not [item for item in store.items(f"{store.prefix}/.exec") if not item.is_folder]  # and leaves nothing


def test_bytes_come_back_as_they_were_put(store: Store):
    path = f"{store.prefix}/a/b.json"
    assert store.get(path) is None
    store.put(path, b"one")
    store.put(path, b"two", durable=False)
    assert store.get(path) == b"two"
    assert store.get(f"{store.prefix}/a") is None


def test_a_file_is_created_once(store: Store):
    path = f"{store.prefix}/edges/x"
    assert store.create(path, b"")
    assert not store.create(path, b"")
    assert store.create(f"{path}.json", b"first")
    assert not store.create(f"{path}.json", b"second")
    assert store.get(f"{path}.json") == b"first"


def test_a_folder_lists_what_lies_directly_in_it(store: Store):
    for name in ("x/b/deep/file", "x/a", "x/c.json", "xy/z"):
        store.put(f"{store.prefix}/{name}", b"1")
    assert store.items(f"{store.prefix}/x") == [Item("a", False), Item("b", True), Item("c.json", False)]
    assert store.items(f"{store.prefix}/nothing") == []
    assert {"x", "xy"} <= {item.name for item in store.items(store.prefix)}


def test_a_tree_is_listed_measured_and_deleted_whole(store: Store):
    root = f"{store.prefix}/step"
    for name in ("a", "b/c", "b/d e/é#%.txt"):
        store.put(f"{root}/{name}", b"x" * len(name))
    store.put(f"{store.prefix}/step2/a", b"1")
    assert sorted(store.tree(root)) == [("a", 1), ("b/c", 3), ("b/d e/é#%.txt", 13)]
    assert store.sizes(root, ["b/c", "missing", "a", "b"])[:3] == [3, None, 1]
    store.delete(f"{root}/a")
    store.delete(f"{root}/a")
    assert store.get(f"{root}/a") is None
    store.delete_tree(root)
    store.delete_tree(root)
    assert list(store.tree(root)) == [] and store.get(f"{store.prefix}/step2/a") == b"1"


def test_files_are_copied_to_the_store_and_back(store: Store, tmp_path: Path):
    content = os.urandom(1 << 20) * 9  # more than one part of an upload
    (tmp_path / "here").write_bytes(content)
    store.upload(str(tmp_path / "here"), f"{store.prefix}/out/big.bin")
    store.download(f"{store.prefix}/out/big.bin", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    (tmp_path / "empty").touch()
    store.upload(str(tmp_path / "empty"), f"{store.prefix}/out/empty")
    assert store.sizes(f"{store.prefix}/out", ["empty", "big.bin"]) == [0, len(content)]
    with pytest.raises(FileNotFoundError):
        store.download(f"{store.prefix}/out/none", str(tmp_path / "none"))


def test_a_log_is_complete_when_it_is_closed_and_is_continued(store: Store):
    path = f"{store.prefix}/.exec/runs/r/events.jsonl"
    for lines in ((b"one\n", b"two\n"), (b"three\n",)):
        log = store.open_log(path)
        for line in lines:
            log.write(line)
        log.close()
    assert store.get(path) == b"one\ntwo\nthree\n"


def test_the_age_of_what_was_just_written_is_small(store: Store):
    store.put(f"{store.prefix}/step/deep/file", b"1")
    for path in ("step/deep/file", "step"):
        age_s = store.age_s(f"{store.prefix}/{path}")
        assert age_s is not None and 0 <= age_s < 5
    assert store.age_s(f"{store.prefix}/nothing") is None


def test_where_a_disk_cannot_be_asked_for_its_time_no_age_is_known(tmp_path: Path):
    (tmp_path / "file").touch()
    assert LocalStore(tmp_path).age_s(f"{tmp_path}/file") is None  # there is no place for the file that asks


# -- registers --------------------------------------------------------------------------------------------------------


def test_a_register_changes_only_from_what_was_expected(store: Store, new_state: Callable[..., State]):
    root, first = f"{store.prefix}/step", new_state()
    assert store.read(root) is None
    store.put(f"{root}/.exec/note", b"")
    assert not store.compare_and_swap(root, new_state(), new_state())  # nothing is there to replace
    assert store.compare_and_swap(root, None, first)
    assert not store.compare_and_swap(root, None, new_state())
    assert not store.compare_and_swap(root, new_state(), new_state())
    second = new_state(seq=1)
    assert store.compare_and_swap(root, first, second)
    assert not store.compare_and_swap(root, first, new_state())
    assert store.read(root) == second


def test_what_is_replaced_goes_to_the_history_if_asked(store: Store, new_state: Callable[..., State]):
    root, first = f"{store.prefix}/step", new_state(status=FAILED)
    store.compare_and_swap(root, None, first, archive=True)
    assert not store.compare_and_swap(root, new_state(), new_state(epoch=2), archive=True)
    assert earlier_states(store, StepPaths(root)) == []
    assert store.compare_and_swap(root, first, new_state(epoch=2), archive=True)
    assert earlier_states(store, StepPaths(root)) == [first]


def test_eight_threads_lose_no_change_of_a_register(store: Store, new_state: Callable[..., State]):
    root = f"{store.prefix}/counter"
    assert store.compare_and_swap(root, None, new_state())
    each, threads, troubles = 4, [], []

    def count_up() -> None:
        try:
            for _ in range(each):
                while True:
                    now = store.read(root)
                    assert now is not None
                    if store.compare_and_swap(root, now, replace(now, seq=now.seq + 1, nonce=os.urandom(8).hex())):
                        break
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = store.read(root)
    assert not troubles and end is not None and end.seq == 8 * each


def test_of_eight_threads_one_acquires_a_step(store: Store, owner: Owner):
    root, won = f"{store.prefix}/step", []
    threads = [threading.Thread(target=lambda: won.append(acquire(store, root, owner))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 8 and len([lease for lease in won if lease is not None]) == 1


def test_a_lease_is_renewed_taken_over_and_ended(store: Store, owner: Owner):
    root = f"{store.prefix}/step"
    first = acquire(store, root, owner)
    assert first is not None and acquire(store, root, owner) is None
    first.renew({"done": 1, "total": 2, "unit": "steps"})
    seen = store.read(root)
    assert seen is not None and (seen.seq, seen.progress) == (1, {"done": 1, "total": 2, "unit": "steps"})
    second = acquire(store, root, owner, seen)
    assert second is not None and second.state.epoch == 2
    with pytest.raises(LeaseLost, match="taken over"):
        first.end(SUCCEEDED, record={})
    ended = second.end(SUCCEEDED, record={"root_digest": "r"})
    assert store.read(root) == ended
    assert [state.epoch for state in earlier_states(store, StepPaths(root))] == [1]


def test_a_file_that_is_no_register_is_named(store: Store):
    store.put(f"{store.prefix}/step/.exec/state.json", b"{}")
    with pytest.raises(RegisterError, match=r"step/.exec/state.json: not a register .*move the folder"):
        store.read(f"{store.prefix}/step")
