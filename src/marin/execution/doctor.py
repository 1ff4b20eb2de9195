"""What a person checks first when a run does not start: this installation, this machine, the store.

Findings, each with a verdict and, where it is not "ok", with what to do. "bad" is what would stop or endanger a run.
Everything else that is worth knowing (a runner that is gone, leftovers of killed runs) harms nothing and is a "note".
Nothing is changed but for the store's self-test, which deletes what it wrote, and for a striking out that was killed
half-way: it is finished, for it was in force already.
"""

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from marin.execution.catalog import StepEntry, side_by_side, steps_of, unreadable_runs
from marin.execution.status import RUNNING, RegisterError
from marin.execution.store import PrefixError, Store, open_store

OK, NOTE, BAD = "ok", "note", "bad"

_LEAST_ROOM = 1 << 30  # bytes without which a disk counts as full
_SLOW_S = 10.0  # a self-test that takes longer says that renewals may come late


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    section: str  # installation, machine, store, leases, records or leftovers
    what: str  # what was looked at
    verdict: str  # ok, note or bad
    found: str  # how it is
    advice: str = ""  # what to do about it; "" if nothing, or if `found` says it

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(prefix: str, *, environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Look at everything; findings come as they are made. `environ`: the environment variables (default: this
    process's)."""
    environ = os.environ if environ is None else environ
    yield from installation()
    yield from machine()
    yield from ray_cluster(environ)
    try:
        store = open_store(prefix)
    except PrefixError as error:
        yield Finding(section="store", what=prefix, verdict=BAD, found=str(error))
        return
    if store.is_local and not os.path.isdir(store.prefix):
        yield _absent(store)
        return
    health = list(store_health(store))
    yield from health
    if len(health) == 1:  # nothing could be tried
        return
    try:
        yield from contents(store)
    except OSError as error:
        yield Finding(section="leases", what="registers", verdict=BAD, found=str(error))


# -- this installation and machine ------------------------------------------------------------------------------------


def installation() -> Iterator[Finding]:
    """Python, and the packages of marin and of each of its extras."""
    from importlib.metadata import PackageNotFoundError, requires, version

    is_known = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(
        section="installation",
        what="python",
        verdict=OK if is_known else NOTE,
        found=f"{sys.version.split()[0]} at {sys.executable}",
        advice="" if is_known else "marin is tested on Python 3.11 and 3.12",
    )
    by_extra: dict[str, list[str]] = {}
    try:
        needed = requires("marin") or []
    except PackageNotFoundError:
        yield Finding(
            section="installation",
            what="marin",
            verdict=NOTE,
            found="not installed, only on the path of modules",
            advice="install it, with `pip install -e .` in a checkout",
        )
        return
    for requirement in needed:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        by_extra.setdefault(extra[1] if extra else "", []).append(name)
    yield Finding(section="installation", what="marin", verdict=OK, found=version("marin"))
    for extra, names in by_extra.items():
        found, missing = [], []
        for name in sorted(names):
            try:
                found.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                missing.append(name)
        text = ", ".join(found + [f"no {name}" for name in missing])
        what = f"marin[{extra}]" if extra else "required packages"
        install = f"pip install '{what}'" if extra else "pip install marin"
        verdict = OK if not missing else NOTE if extra else BAD
        yield Finding(
            section="installation",
            what=what,
            verdict=verdict,
            found=text,
            advice=f"{install}, if it is needed" if missing else "",
        )


def machine() -> Iterator[Finding]:
    """Cores, memory and accelerators that steps may use, and room for copies and temporary files."""
    from marin.cluster.capacity import Capacity
    from marin.execution.scratch import remains, scratch_root

    try:
        has = Capacity.of_this_machine()
    except ValueError as error:  # MARIN_CAPACITY makes no sense
        yield Finding(
            section="machine", what="capacity", verdict=BAD, found=str(error), advice="correct or unset MARIN_CAPACITY"
        )
        return
    memory = f"{has.ram / 1e9:.1f} GB" if has.ram is not None else "unknown"
    yield Finding(section="machine", what="cores", verdict=OK, found=str(has.cpu))
    yield Finding(section="machine", what="memory", verdict=OK, found=memory)
    kinds = ", ".join(gpu.kind or f"GPU {gpu.device}" for gpu in has.gpus) or "none"
    yield Finding(section="machine", what="gpus", verdict=OK, found=kinds)
    if has.tpus:
        found = ", ".join(f"{count} {kind}" for kind, count in has.tpus.items())
        yield Finding(section="machine", what="tpus", verdict=OK, found=found)
    yield _room("machine", "scratch", scratch_root(), "free some, or name another folder with MARIN_SCRATCH")
    copied = remains(keep_days=0)
    if copied:
        yield Finding(
            section="machine",
            what="copies of what is in object stores",
            verdict=OK,
            found=f"{sum(item.num_bytes for item in copied) / 1e6:,.1f} MB in {scratch_root()}",
            advice="`marin gc --scratch` deletes them",
        )


def _room(section: str, what: str, folder: str, advice: str) -> Finding:
    there = folder
    while not os.path.isdir(there):  # it is made when it is needed
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free
    is_ok = free >= _LEAST_ROOM
    return Finding(
        section=section,
        what=what,
        verdict=OK if is_ok else BAD,
        found=f"{free / 1e9:.1f} GB free at {folder}",
        advice="" if is_ok else advice,
    )


def ray_cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether somebody answers at the Ray cluster that the environment names, if it names one."""
    kind, _, address = environ.get("MARIN_CLUSTER", "").partition(":")
    if kind != "ray":
        return
    address = address or environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    what = f"ray at {address or 'this machine'}"
    advice = "start one with `ray start --head`, or unset MARIN_CLUSTER to run here"
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), timeout=3).close()
            found = "answers"
        else:
            from marin.cluster.ray import connect

            connect(None, "marin")
            found = "connected"
    except (OSError, ValueError) as error:
        yield Finding(section="machine", what=what, verdict=BAD, found=str(error), advice=advice)
        return
    yield Finding(section="machine", what=what, verdict=OK, found=found)


# -- the store --------------------------------------------------------------------------------------------------------


def _absent(store: Store) -> Finding:
    parent = os.path.dirname(store.prefix)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    is_ok = os.access(parent, os.W_OK)
    return Finding(
        section="store",
        what=store.prefix,
        verdict=NOTE if is_ok else BAD,
        found="does not exist yet" if is_ok else f"does not exist, and {parent} cannot be written to",
        advice="the first run makes it" if is_ok else "name another folder with --prefix or MARIN_PREFIX",
    )


def store_health(store: Store) -> Iterator[Finding]:
    """The self-test line by line, how long it took, the times of leases, and room."""
    from marin.execution.lease import LeaseTimes

    started = time.monotonic()
    try:
        checks = store.self_test()
    except PrefixError as error:
        yield Finding(section="store", what=store.prefix, verdict=BAD, found=str(error))
        return
    took_s = time.monotonic() - started
    for check in checks:
        advice = "" if check.is_ok else "use another store, or --single-runner if nobody else runs on it"
        yield Finding(
            section="store",
            what=check.what,
            verdict=OK if check.is_ok else BAD,
            found=check.found,
            advice=advice,
        )
    is_slow = took_s > _SLOW_S
    yield Finding(
        section="store",
        what="self-test",
        verdict=NOTE if is_slow else OK,
        found=f"took {took_s:.2f} s",
        advice="leases may be renewed too late on a store that is so slow" if is_slow else "",
    )
    times = LeaseTimes()
    yield Finding(
        section="store",
        what="lease",
        verdict=OK,
        found=f"renewed every {times.renew_s:g} s, given up after {times.fence_s:g} s without a renewal, taken over "
        f"after {times.ttl_s:g} s by the store's clock or an observer's; clocks of machines are never compared",
    )
    if store.is_local:
        yield _room("store", "room", store.prefix, "free some: `marin gc` deletes what nothing needs")


def contents(store: Store) -> Iterator[Finding]:
    """Runners that are gone, registers that cannot be read, and what takes room for nothing."""
    from marin.execution.lease import Observer

    steps, observer = steps_of(store), Observer(store=store)
    running, gone, broken = 0, [], []
    for step in steps:
        if step.state is None:
            broken.append(step)
        elif step.state.status == RUNNING:
            if observer.is_stale(step.paths.root, step.state):
                gone.append(step)
            else:
                running += 1
    yield Finding(section="leases", what="registers", verdict=OK, found=f"{len(steps)} steps, {running} running")
    for step in broken:
        yield Finding(section="leases", what=step.path, verdict=BAD, found="corrupt", advice=step.trouble or "")
    for step in gone:
        assert step.state is not None
        yield Finding(
            section="leases",
            what=f"{step.name}@{step.digest[:6]}",
            verdict=NOTE,
            found=f"abandoned by run {step.state.owner.run_id} on {step.state.owner.host}",
            advice="nothing: the next run that needs it takes it over at once",
        )
    yield from records(store)
    yield from leftovers(store, [step for step in steps if step.state is not None])


def records(store: Store) -> Iterator[Finding]:
    """Records of runs that cannot be read, and whether tombstones and registers agree about what is struck out."""
    from marin.execution.strike import settle

    for path in unreadable_runs(store):
        yield Finding(
            section="records",
            what=path,
            verdict=BAD,
            found="not the record of a run, so no command shows the run",
            advice="restore it, or move its folder away; no output depends on it",
        )
    try:
        num_changed = settle(store)
    except RegisterError as error:
        yield Finding(section="records", what="struck out", verdict=BAD, found="cannot be told", advice=str(error))
        return
    if num_changed:
        registers = f"{num_changed} register{'s' * (num_changed != 1)}"
        found = f"a striking out had not been finished; {registers} brought into line"
        yield Finding(section="records", what="struck out", verdict=NOTE, found=found)
    else:
        yield Finding(section="records", what="struck out", verdict=OK, found="registers and tombstones agree")


def leftovers(store: Store, steps: Sequence[StepEntry]) -> Iterator[Finding]:
    """What takes room and harms nothing: what `marin gc` would delete now, as gc finds it, and what it spares."""
    from marin.execution.gc import find_garbage

    garbage = find_garbage(store)
    found = {item.path for item in garbage}
    for what, kinds in (
        ("attempts without output", ("attempt", "leftover")),
        ("edges and temporary files of killed runs", ("edge", "temporary")),
    ):
        items = [item for item in garbage if item.kind in kinds]
        size = sum(item.num_bytes for item in items)
        yield _leftover(what, [item.path for item in items], size, "`marin gc` deletes them")
    with side_by_side(store) as each:
        looked = each(lambda step: _spared(store, step, found), list(steps))
        young = [path for paths, _ in looked for path in paths]
        replaced = [path for _, paths in looked for path in paths]
        sizes = each(lambda path: sum(size for _, size in store.tree(f"{store.prefix}/{path}")), [*young, *replaced])
    if young:
        advice = "`marin gc` deletes them when nothing in them has changed for an hour"
        yield _leftover("attempts without output, too young for gc", young, sum(sizes[: len(young)]), advice)
    if replaced:
        advice = "`marin gc --outputs` deletes those that nothing needs"
        yield _leftover("outputs that later ones replaced", replaced, sum(sizes[len(young) :]), advice)


def _spared(store: Store, step: StepEntry, garbage: Collection[str]) -> tuple[list[str], list[str]]:
    """Folders of a step that gc leaves alone for now: (of attempts that made no output, of replaced outputs)."""
    from marin.execution.attempt import earlier_states

    state = step.state
    assert state is not None
    below = f"{step.path}/attempts"
    names = [item.name for item in store.items(f"{step.paths.root}/attempts") if item.is_folder]
    is_at_work = state.status == RUNNING and not state.owner.is_gone()
    others = [
        name
        for name in names
        if f"{below}/{name}" not in garbage and not (name == state.attempt and (state.record is not None or is_at_work))
    ]
    made = {past.attempt for past in earlier_states(store, step.paths) if past.record is not None} if others else set()
    young = [f"{below}/{name}" for name in others if name not in made]
    return young, [f"{below}/{name}" for name in others if name in made]


def _leftover(what: str, paths: Sequence[str], num_bytes: int | None, advice: str) -> Finding:
    size = f", {num_bytes / 1e6:,.1f} MB" if num_bytes is not None and paths else ""
    shown = f": {', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}" if paths else ""
    return Finding(
        section="leftovers",
        what=what,
        verdict=NOTE if paths else OK,
        found=f"{len(paths)}{size}{shown}" if paths else "none",
        advice=f"{advice}; they take room and harm nothing" if paths else "",
    )
