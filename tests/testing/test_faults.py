"""The store that fails on command does what it says: else the tests that use it would show nothing."""

from dataclasses import replace

import pytest

from marin.execution.status import RUNNING, Owner, State
from marin.execution.store import LocalStore, Store
from marin.testing.faults import KINDS, Fault, FaultyStore, SimulatedCrash

OWNER = Owner(host="h", boot_id="b", pid_ns="n", pid=1, pid_start=1, run_id="r", user="u")
FIRST = State(
    status=RUNNING,
    digest="d",
    epoch=1,
    seq=0,
    nonce="first",
    owner=OWNER,
    attempt="0001-first",
    data_root="attempts/0001-first",
    ttl=60.0,
)
SECOND = replace(FIRST, seq=1, nonce="second")


@pytest.fixture
def inner(tmp_path):
    return LocalStore(tmp_path, fsync=False)


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "step")


def test_without_faults_it_is_the_other_store(inner, root):
    store = FaultyStore(inner)
    assert store.compare_and_swap(root, None, FIRST) and not store.compare_and_swap(root, None, FIRST)
    store.put(f"{root}/file", b"abc")
    log = store.open_log(f"{root}/log")
    log.write(b"line\n")
    log.close()
    assert store.read(root) == FIRST and store.get(f"{root}/file") == b"abc" and store.get(f"{root}/log") == b"line\n"
    assert store.create(f"{root}/new", b"1") and not store.create(f"{root}/new", b"2")
    assert [item.name for item in store.items(root)] == [".exec", "file", "log", "new"]
    assert dict(store.tree(root))["file"] == 3 and store.sizes(root, ["file", "none"]) == [3, None]
    assert store.age_s(f"{root}/none") is None
    store.delete_tree(root)
    assert store.read(root) is None
    assert ("put", f"{root}/file") in store.calls


def test_it_has_every_method_of_the_protocol():
    methods = {name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")}
    assert methods <= set(vars(FaultyStore))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"late", "slow"}))
def test_a_fault_leaves_of_a_swap_what_its_name_says(inner, root, kind):
    assert inner.compare_and_swap(root, None, FIRST)
    store = FaultyStore(inner, [Fault(kind=kind, method="compare_and_swap")])
    error = SimulatedCrash if kind.startswith("crash") else OSError
    with pytest.raises(error) as raised:
        store.compare_and_swap(root, FIRST, SECOND)
    took_effect = kind in ("crash after", "lost reply", "broken after")
    assert inner.read(root) == (SECOND if took_effect else FIRST)
    if error is OSError:
        assert raised.value.errno == KINDS[kind][1] and raised.value.filename == root
        assert store.read(root) == inner.read(root)


def test_whoever_crashed_reaches_the_store_no_more(inner, root):
    store = FaultyStore(inner, [Fault(kind="crash before", method="put")])
    with pytest.raises(SimulatedCrash):
        store.put(f"{root}/file", b"abc")
    for call in (lambda: store.put(f"{root}/file", b"abc"), lambda: store.read(root), lambda: store.delete(root)):
        with pytest.raises(SimulatedCrash, match="killed earlier"):
            call()
    assert store.is_dead and inner.items(root) == []


def test_a_torn_write_leaves_half_of_it_and_never_half_a_target(inner, root, tmp_path):
    def torn(method: str) -> FaultyStore:
        return FaultyStore(inner, [Fault(kind="crash torn", method=method)])

    for path in ("one/file", "two/file"):
        inner.put(f"{root}/tree/{path}", b"abcd")
    (tmp_path / "source").write_bytes(b"abcdef")
    with pytest.raises(SimulatedCrash):
        torn("put").put(f"{root}/put/file", b"abcd")
    assert [size for _, size in inner.tree(f"{root}/put")] == [2] and inner.get(f"{root}/put/file") is None
    with pytest.raises(SimulatedCrash):
        torn("compare_and_swap").compare_and_swap(root, None, FIRST)
    assert inner.read(root) is None and len(inner.items(f"{root}/.exec")) == 1
    with pytest.raises(SimulatedCrash):
        torn("delete_tree").delete_tree(f"{root}/tree")
    assert dict(inner.tree(f"{root}/tree")) == {"two/file": 4}
    with pytest.raises(SimulatedCrash):
        torn("upload").upload(str(tmp_path / "source"), f"{root}/uploaded")
    assert inner.get(f"{root}/uploaded") == b"abc"
    log = torn("log").open_log(f"{root}/log")
    with pytest.raises(SimulatedCrash):
        log.write(b"a line\n")
    assert inner.get(f"{root}/log") == b"a l"


def test_a_late_write_lands_when_it_is_told_to_if_what_it_expects_is_still_there(inner, root):
    store = FaultyStore(inner, [Fault(kind="late", method="compare_and_swap", times=2)])
    with pytest.raises(TimeoutError):
        store.compare_and_swap(root, None, FIRST)
    with pytest.raises(TimeoutError):
        store.compare_and_swap(root, None, SECOND)
    assert inner.read(root) is None and store.num_flying == 2
    assert store.land() == [True, False] and inner.read(root) == FIRST
    with pytest.raises(ValueError, match="only a compare_and_swap"):
        Fault(kind="late", method="put")


def test_faults_come_in_the_order_of_the_plan_and_where_it_says(inner, root):
    slept = []
    plan = [
        Fault(kind="busy", method="put", path="/b", skip=1, times=2),
        Fault(kind="slow", method="get", slow_s=3.0),
    ]
    store = FaultyStore(inner, plan, sleep=slept.append)
    outcomes = []
    for name in ("b", "a", "b", "b", "b"):
        try:
            store.put(f"{root}/{name}", b"1")
            outcomes.append("ok")
        except BlockingIOError:
            outcomes.append("busy")
    assert outcomes == ["ok", "ok", "busy", "busy", "ok"]
    assert store.met == [("busy", "put")] * 2
    assert store.get(f"{root}/a") == b"1" and slept == [3.0]
    store.add(Fault(kind="no space"))
    store.heal()
    store.put(f"{root}/c", b"1")


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no fault is of kind 'mishap'; there are crash before"):
        Fault(kind="mishap")
