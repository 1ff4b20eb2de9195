"""What differs between two outputs: what was asked for, the code, the surroundings, the files, what it cost.

All from the two records and manifests; no code of that time is needed, and no data is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marin.execution.explain import Change, diff_recipes
from marin.execution.manifest import ManifestEntry
from marin.execution.outputs import Committed

_MEASURES = ("wall_s", "cpu_s", "max_rss", "files", "bytes")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Everything that differs from one output to another; what is the same is not in it."""

    config: tuple[Change, ...]  # recipe by field, inputs last
    code: tuple[Change, ...]  # definitions, files, or the fingerprint as a whole, as far as the records name them
    environment: tuple[Change, ...]  # interpreter, packages, commit, platform, command line
    data: tuple["FileChange", ...]  # files of the outputs
    measures: tuple[Change, ...]  # time, memory, sizes
    notes: tuple[str, ...] = ()  # what could not be compared


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file that is not the same in both outputs."""

    path: str  # in the outputs
    old: ManifestEntry | None  # None: it was added
    new: ManifestEntry | None  # None: it was removed


def compare(old: Committed, new: Committed) -> Difference:
    """The differences from `old` to `new`."""
    notes: list[str] = []
    return Difference(
        config=tuple(_recipes(old, new, notes)),
        code=tuple(_codes(old.record, new.record)),
        environment=tuple(_fields(_flat(old.record["env"]), _flat(new.record["env"]))),
        data=tuple(_files(old, new, notes)),
        measures=tuple(_fields(_measures(old.record), _measures(new.record))),
        notes=tuple(notes),
    )


def _recipes(old: Committed, new: Committed, notes: list[str]) -> list[Change]:
    texts = [output.record.get("canonical") for output in (old, new)]
    if not texts[0] or not texts[1]:
        notes.append("recipes: data that was adopted for any recipe has none")
        return []
    names = {used["digest"]: used["name"] for output in (old, new) for used in output.record["inputs"]}
    changes = diff_recipes(texts[0], texts[1], names)
    if changes:
        return changes
    return [
        Change(path=f"dep {name}", old=f"attempt {before}", new=f"attempt {after}")
        for name, (before, after) in _made_again(old.record, new.record).items()
    ]


def _made_again(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Inputs of one recipe that are not the same output of it: they were made again in between."""
    before = {(used["digest"], used["sub"]): used for used in old["inputs"]}
    found = {}
    for used in new["inputs"]:
        other = before.get((used["digest"], used["sub"]))
        if other is not None and other.get("attempt") != used.get("attempt"):
            found[used["name"]] = (other.get("attempt") or "?", used.get("attempt") or "?")
    return found


def _codes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    before, after = old.get("code_fingerprint"), new.get("code_fingerprint")
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return _fields(_definitions(before), _definitions(after))
    root = [code["root"] if isinstance(code, Mapping) else code for code in (before, after)]
    return _fields({"fingerprint": _short(root[0])}, {"fingerprint": _short(root[1])})


def _definitions(code: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{path}:{name}": digits for path, file in code["files"].items() for name, digits in file["definitions"].items()
    }


def _short(text: str | None) -> str | None:
    return text[:16] if text is not None else None


def _flat(value: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{lead}{key}.") if isinstance(inner, Mapping) else {f"{lead}{key}": inner}
    return found


def _measures(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in _MEASURES}


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    return [
        Change(path=key, old=_text(old, key), new=_text(new, key))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        return "(none)"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _files(old: Committed, new: Committed, notes: list[str]) -> list[FileChange]:
    if old.record["root_digest"] == new.record["root_digest"]:
        return []
    tables = []
    for output in (old, new):
        manifest = output.manifest()
        if manifest is None:
            notes.append(f"files: the manifest of {output.address} is missing")
            return []
        tables.append({entry.path: entry for entry in manifest.entries})
    before, after = tables
    return [
        FileChange(path=path, old=before.get(path), new=after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]
