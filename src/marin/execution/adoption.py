"""Data that the executor did not make, or did not make by today's recipe, taken for a step's output; on the record.

Two cases. A step with `version=` whose recipe no longer is the stored output's has drifted: it is refused until
somebody accepts the stored output for the new recipe. And data that exists already can be adopted as the output of a
step: its files are hashed and committed as if the step had run, with a record that says who said so. Both are a
person's word in place of a computation, which is why both leave who, when and why.

    corpus = adopt("corpus/web", "/data/web-2026", version="2026.11", reason="downloaded by hand, see notes.md")
    tokens = ExecutorStep(name="tokens/web", fn=tokenize, config=TokenizeConfig(input_path=output_path_of(corpus), ...))

On one disk the files are linked, not copied: adopting a terabyte takes no room and little time. The price: a link is
the same file under a second name, so whoever edits the source in place edits the output. Such an edit is found by
`marin verify --deep`, not prevented; `link=False` copies. (Replacing or deleting the source does no harm.)
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.job import JobResult, error_of
from marin.execution.artifact import OutputError, check_output
from marin.execution.attempt import Attempt, conclude
from marin.execution.graph import Node, build_graph
from marin.execution.inplace import clear
from marin.execution.lease import Lease, LeaseTimes, Observer, Renewer, acquire, swap
from marin.execution.plan import HIT, Plan, has_drifted
from marin.execution.record import new_run_id, surroundings, utc
from marin.execution.scratch import hold, work_place
from marin.execution.status import EXEC, RUNNING, SUCCEEDED, State, StepPaths, active_run
from marin.execution.step import ExecutorStep
from marin.execution.store import Store, open_store

ADOPTED = "adopted"  # the `fn` of the record of data that no step made


class AdoptionError(ValueError):
    """What was given cannot be adopted."""


class OutputExistsError(ValueError):
    """The step has an output, or is being made: adopting would replace it."""


def accept_drift(store: Store, plan: Plan, user: str) -> None:
    """Write into the registers of drifted steps that a plan accepts that it does."""
    for item in plan:
        if item.action == HIT and item.state is not None and has_drifted(item.node, item.state):
            root = f"{store.prefix}/{item.node.path}"
            state = store.read(root)
            if state is None or state.attempt != item.state.attempt:
                raise ValueError(f"{root}: its register changed since the plan was made; run the command again")
            accept(store, root, state, item.node.recipe, user)


def accept(store: Store, root: str, state: State, recipe: str, user: str, reason: str | None = None) -> State:
    """Accept a stored output for the recipe with this digest; the register's new state.

    Raises ValueError if the register changed meanwhile.
    """
    entry = {"recipe": recipe, "when": utc(), "user": user, "reason": reason}
    new = replace(state, seq=state.seq + 1, nonce=os.urandom(8).hex(), accepted=(*state.accepted, entry))
    if not swap(store, root, state, new):
        raise ValueError(f"{root}: its register changed while the drift was being accepted; run the command again")
    return new


# -- adopting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdoptedConfig:
    """The config of a step that stands for adopted data."""

    name: str  # the step's name
    version: str  # its version


def adopted_step(name: str, version: str) -> ExecutorStep:
    """The step that stands for data adopted as `name`, version `version`: for other steps to refer to."""
    config = AdoptedConfig(name=name, version=version)
    return ExecutorStep(name=name, fn=missing, config=config, version=version, description="adopted data")


def missing(config: AdoptedConfig) -> None:
    """What runs if adopted data is not there: nobody but a person can bring it back."""
    raise FileNotFoundError(
        f"adopted data is missing: {config.name} version {config.version} has no output in this store. Adopt it with "
        f"`marin adopt {config.name} --version {config.version} --from PATH --reason TEXT`"
    )


def adopt(
    name: str,
    source: str | os.PathLike[str],
    *,
    version: str,
    reason: str,
    prefix: str | os.PathLike[str] | None = None,
    link: bool = True,
) -> ExecutorStep:
    """Commit the files at `source` as the output of `name` version `version`; the step to refer to it by.

    Any step with that name and version accepts the data, whatever its recipe. If it was adopted from this source
    before, nothing is done, so a script may call this every time. `link`: hard links where possible, else copies.
    Raises OutputExistsError if the step has another output, AdoptionError if the source cannot be taken.
    """
    from marin.execution.executor import default_prefix

    step = adopted_step(name, version)
    store = open_store(os.fspath(prefix) if prefix is not None else default_prefix())
    (node,) = build_graph([step], prefix=store.prefix).nodes
    state = store.read(f"{store.prefix}/{node.path}")
    before = (state.record or {}).get("adopted") if state is not None and state.status == SUCCEEDED else None
    if before is None or before["source"] != os.path.abspath(os.fspath(source)):
        adopt_for(store, node, source, reason=reason, link=link, any_recipe=True)
    return step


def adopt_for(
    store: Store,
    node: Node,
    source: str | os.PathLike[str],
    *,
    reason: str,
    link: bool = True,
    any_recipe: bool = False,
) -> State:
    """Commit the files at `source` as the output of a step; its register.

    `any_recipe`: the data is no recipe's, and every recipe of the step's version= accepts it. Otherwise it stands for
    what the step's own recipe makes.
    """
    source = os.path.abspath(os.fspath(source))
    if not reason.strip():
        raise AdoptionError("say why this data may stand for the step's output: reason is empty")
    files = _files_of(source, store)
    store.prepare()
    paths, times = StepPaths(f"{store.prefix}/{node.path}"), LeaseTimes()
    before = store.read(paths.root)
    _check_free(store, node, paths, before)
    if files != [""]:
        _check_source(node, source)
    if node.step.publish == "inplace" and not (before is not None and before.must_clear):
        _check_folder(paths.root, {path or os.path.basename(source) for path in files})
    with active_run(f"adopt-{new_run_id()}") as owner:
        entry = {"recipe": "any", "when": utc(), "user": owner.user, "reason": reason}
        lease = acquire(
            store,
            paths.root,
            before,
            digest=node.digest,
            owner=owner,
            publish=node.step.publish,
            times=times,
            accepted=(entry,) if any_recipe else (),
            recipe=None if any_recipe else node.recipe,
            must_clear=True,  # until it is committed: what a refused or interrupted adoption brought is no partial work
        )
        if lease is None:
            raise OutputExistsError(f"{node.name}: another process began to make it just now; nothing was adopted")
        adopted = {"source": source, "who": owner.user, "when": utc(), "reason": reason, "linked": link}
        attempt = _attempt(store, node, lease, adopted, any_recipe)
        renewer = Renewer(times, lambda *_: None)
        renewer.add(lease)
        interrupt = None
        try:
            try:
                started = time.monotonic()
                if before is not None and before.must_clear and store.is_local:
                    clear(store, paths.root)
                _bring(store, attempt, source, files, link)
                result = JobResult(error=None, wall_s=time.monotonic() - started)
            except BaseException as trouble:  # cancelled, not failed: a failure would keep the step from running
                interrupt = None if isinstance(trouble, Exception) else trouble
                result = JobResult(error=error_of(trouble), cancelled=True)
            state, error = conclude(store, lease, attempt, result)
        finally:
            renewer.close()
    if interrupt is not None:
        raise interrupt
    if error is not None:
        raise AdoptionError(f"{node.name}: {error.message}")
    if state is None:
        raise OutputExistsError(f"{node.name}: another process took the step over meanwhile; nothing was adopted")
    return state


def _files_of(source: str, store: Store) -> list[str]:
    """Paths of the files to adopt, relative to the source; [""] if it is a file itself."""
    if os.path.islink(source):
        raise AdoptionError(f"{source} is a symbolic link; name what it points to: {os.path.realpath(source)}")
    if os.path.isfile(source):
        return [""]
    if not os.path.isdir(source):
        raise AdoptionError(f"there is nothing to adopt at {source}")
    if store.is_local and f"{os.path.realpath(store.prefix)}/".startswith(f"{os.path.realpath(source)}/"):
        raise AdoptionError(f"{source} holds the store {store.prefix} itself; name a folder of data")
    found = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(f"{source}/{folder}") as scanned:
            items = list(scanned)
        for item in items:
            path = f"{folder}/{item.name}" if folder else item.name
            if path == EXEC:
                raise AdoptionError(f"{source} is a step's folder; name its data: {source}/data")
            if item.is_symlink():
                raise AdoptionError(
                    f"{source}/{path} is a symbolic link, and what it points to may change or vanish; "
                    "put the file itself there"
                )
            if item.is_dir():
                pending.append(path)
            elif item.is_file():
                found.append(path)
            else:
                raise AdoptionError(f"{source}/{path} is neither a file nor a folder")
    if not found:
        raise AdoptionError(f"there are no files in {source}")
    return sorted(found)


def _check_free(store: Store, node: Node, paths: StepPaths, state: State | None) -> None:
    if state is None:
        return
    what = f"{node.name} @{node.digest[:6]}"
    if state.digest != node.digest:
        raise OutputExistsError(f"{what}: its folder {paths.root} belongs to another step (@{state.digest[:6]})")
    if state.status == SUCCEEDED:
        raise OutputExistsError(
            f"{what} has an output already (attempt {state.attempt}); adopt under another version, or "
            f"`marin invalidate {node.name}@{node.digest[:6]} --reason TEXT` first if it is wrong"
        )
    if state.status == RUNNING and not Observer(store=store).is_stale(paths.root, state):
        owner = state.owner
        raise OutputExistsError(
            f"{what} is being made by run {owner.run_id} (process {owner.pid} on {owner.host}); wait, or cancel that"
        )


def _attempt(store: Store, node: Node, lease: Lease, adopted: Mapping[str, Any], any_recipe: bool) -> Attempt:
    work_dir, log_dir = work_place(store, lease.paths, lease.state)
    step, started = node.step, time.time()
    record = {
        "format": 1,
        "digest": node.digest,
        "recipe": None if any_recipe else node.recipe,
        "name": step.name,
        "version": step.version,
        "description": None if any_recipe else step.description,
        "tags": sorted(step.tags),
        "fn": ADOPTED,
        "code_version": "",
        "publish": step.publish,
        "canonical": "" if any_recipe else node.canonical,
        "config_resolved": None,
        "inputs": [],
        "started": utc(started),
        "resources": None,
        "env": surroundings(),
        "run_id": lease.state.owner.run_id,
        "user": adopted["who"],
        "adopted": dict(adopted),
    }
    return Attempt(
        name=step.name,
        digest=node.digest,
        fn=missing,
        config=None,
        publish=step.publish,
        work_dir=work_dir,
        log_dir=log_dir,
        fetches=(),
        edges=(),
        output_type=step.output_type,
        record=record,
        started=started,
    )


def _bring(store: Store, attempt: Attempt, source: str, files: list[str], link: bool) -> None:
    """Put the files into the attempt's folder, and see that they are what the step's output must be."""
    if not store.is_local:
        hold(store)
    os.makedirs(attempt.work_dir, exist_ok=True)
    os.makedirs(attempt.log_dir, exist_ok=True)
    for path in files:
        name = path or os.path.basename(source)
        target = f"{attempt.work_dir}/{name}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _place(f"{source}/{path}" if path else source, target, link)
    check_output(attempt.output_type, attempt.work_dir, None)


def _check_source(node: Node, source: str) -> None:
    """A folder is looked at before anything of it is brought; a file can only be where it will lie."""
    try:
        check_output(node.step.output_type, source, None)
    except OutputError as error:
        raise AdoptionError(f"{node.name}: {error}") from error


def _check_folder(root: str, names: set[str]) -> None:
    """In place there must be nothing else in the folder: it would become part of the output."""
    others = sorted(
        path
        for folder, _, found in os.walk(root)
        for name in found
        if not (path := os.path.relpath(f"{folder}/{name}", root)).startswith(f"{EXEC}/") and path not in names
    )
    if others:
        raise AdoptionError(f"{root} holds {', '.join(others[:3])} already, which is not in the source; move it away")


def _place(source: str, target: str, link: bool) -> None:
    with contextlib.suppress(FileNotFoundError):  # in place: what an adoption that was killed brought
        os.unlink(target)
    if link:
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except OSError as error:  # another disk, or one without links, or no right to
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
                raise
    shutil.copy2(source, target, follow_symlinks=False)
