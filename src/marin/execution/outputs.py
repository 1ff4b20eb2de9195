"""Every output that a store has committed, the superseded ones too, and how a person names one.

A step's register names its latest output; earlier ones are in the step's history. They matter as long as something may
have been made from them, so whoever strikes out, traces or compares outputs looks at all of them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin.execution.attempt import earlier_states
from marin.execution.catalog import AddressError, StepEntry, find_step, read_step, step_around, steps_of
from marin.execution.executor import RefusedError
from marin.execution.manifest import Manifest, ManifestEntry
from marin.execution.status import State, said
from marin.execution.store import Store


@dataclass(frozen=True, kw_only=True)
class Committed:
    """One output that was committed once."""

    step: StepEntry  # whose output it is
    state: State  # the register as the commit left it, or as it was superseded; it has a record
    is_current: bool  # whether the step's register names it now

    @property
    def key(self) -> tuple[str, str]:
        """(digest of the step, attempt): what names it for ever."""
        return self.state.digest, self.state.attempt

    @property
    def name(self) -> str:
        return self.record["name"]

    @property
    def record(self) -> Mapping[str, Any]:
        assert self.state.record is not None
        return self.state.record

    @property
    def address(self) -> str:
        """How a person names it: name@digits, with the attempt if it was superseded."""
        return f"{self.name}@{self.state.digest[:10]}" + ("" if self.is_current else f" attempt {self.state.attempt}")

    @property
    def data_path(self) -> str:
        """Absolute path, or URL, of its data."""
        return self.step.paths.data_root(self.state)

    def manifest(self) -> Manifest | None:
        """Its files; None if the manifest is gone. ValueError if it was altered."""
        data = self.step.store.get(f"{self.step.paths.root}/{self.record['manifest_ref']}")
        return Manifest.from_json(data.decode()) if data is not None else None

    def to_json(self) -> dict[str, Any]:
        """Plain values that name it."""
        return {
            "name": self.name,
            "digest": self.state.digest,
            "attempt": self.state.attempt,
            "path": self.step.path,
            "is_current": self.is_current,
            "run_id": self.record["run_id"],
            "ended": self.record["ended"],
        }


def outputs_of(step: StepEntry) -> list[Committed]:
    """All outputs of a step, the latest first; those of other recipes that lay at its path before too."""
    if step.state is None:
        return []
    states = [(step.state, True)]
    if step.state.epoch > 1:
        states += [(state, False) for state in reversed(earlier_states(step.store, step.paths))]
    return [Committed(step=step, state=s, is_current=now) for s, now in states if s.record is not None]


def all_outputs(store: Store) -> Iterator[Committed]:
    """Every output of a store, step by step."""
    for step in steps_of(store):
        yield from outputs_of(step)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a person's address leads to."""

    output: Committed  # the output
    file: ManifestEntry | None = None  # a file in it, if the address was the path of one
    names_attempt: bool = (
        False  # whether the address was a ref, or a path inside this attempt's data: it alone is meant
    )


def find_output(store: Store, address: str) -> Place:
    """The output that a person means: by the step's address (its latest output), by a ref, or by a path inside it.

    Raises AddressError if it leads nowhere, RefusedError if the step has no output, or none yet.
    """
    step = step_around(store, address)
    inside = _inside(store, step, address) if step is not None else ""
    step = step if step is not None else find_step(store.prefix, address)
    if step.named_attempt is not None and step.state is not None and step.record is not None:
        now = read_step(store, step.paths.root)
        is_current = now is not None and now.state is not None and now.state.attempt == step.named_attempt
        return Place(output=Committed(step=now or step, state=step.state, is_current=is_current), names_attempt=True)
    outputs = outputs_of(step)
    if not outputs:
        raise RefusedError(f"{step.name}@{step.digest[:10]} has no output: {said(step.status)}")
    if not inside:
        return Place(output=outputs[0])
    for output in outputs:
        root = "" if output.state.data_root == "." else f"{output.state.data_root}/"
        if f"{inside}/".startswith(root):
            return Place(output=output, file=_file(output, inside[len(root) :]), names_attempt=bool(root))
    raise AddressError(f"{address} is in no output of {step.name}: it has {_attempts(outputs)}")


def _inside(store: Store, step: StepEntry, address: str) -> str:
    """The part of a path below the step's folder; the `data` link is followed."""
    if not store.is_local:
        path = address.rstrip("/").removeprefix(f"{store.prefix}/")[len(step.path) + 1 :]
        if path.partition("/")[0] == "data" and step.state is not None:
            return f"{step.state.data_root}/{path[5:]}".rstrip("/")
        return path
    root = os.path.realpath(step.paths.root)
    for start in (address, f"{store.prefix}/{address}"):
        real = os.path.realpath(start)
        if os.path.exists(start) and f"{real}/".startswith(f"{root}/"):
            return real[len(root) + 1 :]
    return ""


def _file(output: Committed, path: str) -> ManifestEntry | None:
    """The entry of a file; None for the data's own folder or one in it."""
    manifest = output.manifest() if path else None
    if manifest is None:
        return None
    for entry in manifest.entries:
        if entry.path == path:
            return entry
    if any(entry.path.startswith(f"{path}/") for entry in manifest.entries):
        return None
    raise AddressError(f"{path} is no file of {output.address}: it was put there by something else")


def _attempts(outputs: Sequence[Committed]) -> str:
    return ", ".join(output.state.data_root for output in outputs)
