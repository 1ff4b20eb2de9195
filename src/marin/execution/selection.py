"""Which outputs a person means: by address, by the code that made them, by when.

All that is given must hold. Where a record cannot tell whether something holds (it has no commit, or was made from a
tree with changes), the output is selected: a wrong result that goes on being served costs more than one that is made
again. What was decided that way is said.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from marin.execution.catalog import AddressError, near_misses
from marin.execution.fingerprint import matches_code
from marin.execution.outputs import Committed, all_outputs, find_output, outputs_of
from marin.execution.store import Store


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What outputs have in common. At least one of the fields must be given."""

    addresses: tuple[str, ...] = ()  # of steps: every output of that recipe; paths inside an output: that one
    producer: str | None = None  # "module:function" or "folder/file.py:function" that made it, or that its code reaches
    before_commit: str | None = None  # made at a commit that is an ancestor of this one, and not this one
    code_fingerprint: str | None = None  # first digits of the fingerprint of the code that made it
    since: str | None = None  # made then or later; ISO 8601, of this machine's clock if it names no zone
    until: str | None = None  # made then or earlier; a date alone means its end
    repository: str = "."  # folder of the git checkout that knows the commits

    def __post_init__(self) -> None:
        if not any((self.addresses, self.producer, self.before_commit, self.code_fingerprint, self.since, self.until)):
            raise AddressError("nothing is selected: name outputs, or say what they have in common (--producer, ...)")


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What a selection matched."""

    outputs: tuple[Committed, ...]  # by name, each step's latest first
    notes: tuple[str, ...] = ()  # what was decided where records could not tell, and what was left out


@dataclass
class _Doubt:
    """Outputs for which a record could not tell."""

    no_commit: list[Committed] = field(default_factory=list)
    changed_tree: list[Committed] = field(default_factory=list)


def select_outputs(store: Store, selection: Selection) -> Selected:
    """All outputs, current and superseded, for which everything that is given holds.

    Raises AddressError if there is none, with what comes near.
    """
    notes: list[str] = []
    found = _addressed(store, selection.addresses, notes) if selection.addresses else list(all_outputs(store))
    if not found:
        raise AddressError(f"{store.prefix} has no outputs yet")
    if selection.producer is not None:
        found = _kept(found, lambda o: is_made_by(o.record, selection.producer or ""), _no_producer, selection)
    if selection.code_fingerprint is not None:
        found = _kept(found, _has_code(selection.code_fingerprint), _no_code, selection)
    if selection.since is not None:
        since = _moment(selection.since, end_of_day=False)
        found = _kept(found, lambda o: _moment(o.record["ended"]) >= since, _no_time, selection)
    if selection.until is not None:
        until = _moment(selection.until, end_of_day=True)
        found = _kept(found, lambda o: _moment(o.record["ended"]) <= until, _no_time, selection)
    if selection.before_commit is not None:
        doubt = _Doubt()
        is_before = _before(selection.before_commit, selection.repository, doubt)
        found = _kept(found, is_before, _no_commit, selection)
        notes += _doubts(doubt)
    return Selected(outputs=tuple(found), notes=tuple(notes))


def _kept(
    outputs: list[Committed],
    holds: Callable[[Committed], bool],
    explain: Callable[[list[Committed], Selection], str],
    selection: Selection,
) -> list[Committed]:
    kept = [output for output in outputs if holds(output)]
    if not kept:
        raise AddressError(explain(outputs, selection))
    return kept


# -- by address -------------------------------------------------------------------------------------------------------


def _addressed(store: Store, addresses: Sequence[str], notes: list[str]) -> list[Committed]:
    found: dict[tuple[str, str], Committed] = {}
    for address in addresses:
        place = find_output(store, address)
        named = [place.output] if place.names_attempt else outputs_of(place.output.step)
        chosen = [o for o in named if o.state.digest == place.output.state.digest]
        found.update((output.key, output) for output in chosen)
        if address == place.output.name:
            notes += _others_of(store, place.output)
    return list(found.values())


def _others_of(store: Store, chosen: Committed) -> list[str]:
    others = [o for o in all_outputs(store) if o.name == chosen.name and o.state.digest != chosen.state.digest]
    if not others:
        return []
    shown = ", ".join(dict.fromkeys(f"@{o.state.digest[:10]}" for o in others))
    return [f"{chosen.name} means its latest output, @{chosen.state.digest[:10]}; not selected: {shown}"]


# -- by code ----------------------------------------------------------------------------------------------------------


def producers_of(record: Mapping[str, Any]) -> set[str]:
    """The functions behind an output, as module:name: the step's own, and all that its code fingerprint names."""
    code = record.get("code_fingerprint")
    found = {record["fn"]}
    if isinstance(code, Mapping):
        for path, file in code["files"].items():
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found.update(f"{module}:{name}" for name in file["definitions"])
    return found


def is_made_by(record: Mapping[str, Any], producer: str) -> bool:
    """Whether a function, or with no function named any of a module, is behind an output."""
    module, _, function = producer.partition(":")
    if module.endswith(".py"):
        module = module.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for known in producers_of(record):
        of_module, _, name = known.partition(":")
        is_same = of_module == module or of_module.endswith(f"/{module.replace('.', '/')}.py")
        if is_same and (not function or name == function or name.startswith(f"{function}.")):
            return True
    return False


def _has_code(digits: str) -> Callable[[Committed], bool]:
    try:
        matches_code({}, digits)
    except ValueError as error:
        raise AddressError(str(error)) from None
    return lambda output: matches_code(output.record, digits)


def _no_producer(outputs: list[Committed], selection: Selection) -> str:
    producer = selection.producer or ""
    known = sorted({fn for output in outputs for fn in producers_of(output.record)})
    function = producer.rpartition(":")[2]
    near = [fn for fn in known if fn.rpartition(":")[2] == function][:3] or near_misses(producer, known)
    made = sorted({output.record["fn"] for output in outputs})
    hint = f"did you mean {' or '.join(near)}?" if near else f"outputs were made by {_some(made)}"
    return f"no output was made by {producer!r}; {hint}"


def _no_code(outputs: list[Committed], selection: Selection) -> str:
    roots = {(_root_of(output.record) or "none")[:10] for output in outputs}
    return f"no output was made by code {selection.code_fingerprint}; there are {_some(sorted(roots))}"


def _root_of(record: Mapping[str, Any]) -> str | None:
    code = record.get("code_fingerprint")
    return code["root"] if isinstance(code, Mapping) else code


# -- by time ----------------------------------------------------------------------------------------------------------


def _moment(text: str, end_of_day: bool = False) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise AddressError(f"{text!r} is no time; write 2026-01-31 or 2026-01-31T23:59:59") from None
    if end_of_day and re.fullmatch(r"[\d-]{8,10}", text):
        moment += timedelta(days=1) - timedelta(microseconds=1)
    return moment.astimezone()


def _no_time(outputs: list[Committed], selection: Selection) -> str:
    ended = sorted(output.record["ended"] for output in outputs)
    return f"no output was made in that time; they were made from {ended[0]} to {ended[-1]}"


# -- by commit --------------------------------------------------------------------------------------------------------


def _before(commit: str, repository: str, doubt: _Doubt) -> Callable[[Committed], bool]:
    limit = _resolve(repository, commit)
    if limit is None:
        raise AddressError(
            f"no commit {commit!r} in the repository at {os.path.abspath(repository)}; "
            "run the command in the checkout whose commits the records name"
        )
    known: dict[str, bool] = {}

    def is_before(output: Committed) -> bool:
        git = output.record["env"].get("git") or {}
        made_at = git.get("commit")
        if made_at is None:
            doubt.no_commit.append(output)
            return True
        if made_at not in known:
            known[made_at] = made_at != limit and _is_ancestor(repository, made_at, limit, output)
        if known[made_at] and git.get("dirty_sha256"):
            doubt.changed_tree.append(output)
        return known[made_at]

    return is_before


def _resolve(repository: str, commit: str) -> str | None:
    done = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    return done.stdout.strip() if done.returncode == 0 else None


def _is_ancestor(repository: str, commit: str, limit: str, output: Committed) -> bool:
    done = _git(repository, "merge-base", "--is-ancestor", commit, limit)
    if done.returncode in (0, 1):
        return done.returncode == 0
    raise AddressError(
        f"{output.address} was made at commit {commit}, which is not in the repository at "
        f"{os.path.abspath(repository)}, so nobody can tell whether it came before; fetch it, or select outputs by name"
    )


def _git(repository: str, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", repository, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        raise AddressError(f"commits cannot be compared: git does not run here ({error})") from None


def _doubts(doubt: _Doubt) -> list[str]:
    notes = []
    if doubt.changed_tree:
        notes.append(
            f"taken as before, though the tree had changes that no commit names: {_addresses(doubt.changed_tree)}"
        )
    if doubt.no_commit:
        notes.append(f"taken as before, though no commit is on record: {_addresses(doubt.no_commit)}")
    return notes


def _no_commit(outputs: list[Committed], selection: Selection) -> str:
    commits = {(o.record["env"].get("git") or {}).get("commit") or "none" for o in outputs}
    return (
        f"no output was made before commit {selection.before_commit}; "
        f"they were made at {_some(sorted(c[:10] for c in commits))}"
    )


def _addresses(outputs: Iterable[Committed]) -> str:
    return _some([output.address for output in outputs])


def _some(words: Sequence[str], num: int = 5) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(words[:num]) + (f" and {len(words) - num} more" if len(words) > num else "")
