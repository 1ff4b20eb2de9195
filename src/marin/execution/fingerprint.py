"""A digest of a step's code, to notice that it changed since an output was made.

Code is no part of a step's identity (a comment must not rerun a month of training), so an output outlives an edit of
the code that made it. Records therefore keep a fingerprint of that code, and `plan` and `run` say which definitions
differ today; the author decides whether the meaning changed, by raising `code_version`, or decides for all edits at
once by the step's `code_policy`.

The fingerprint begins at the step's function and the classes and functions in its config (a model is chosen by the
config, not by the function), and follows every name through the first-party modules: those of the function's project,
which is the nearest folder with a pyproject.toml or .git, or, for an installed function, of its own package. The
source is read from its files and parsed, never imported: planning must not load what the steps need.

What that costs. Unseen are: the method behind `value.method()`, unless the value's class is named somewhere; names
looked up by text; attributes set from elsewhere; what a module does while it is imported; compiled code, data files,
and other projects' packages, which the record's commit and lock file stand for. And a fingerprint is taken when a step
starts: a file that was edited after this process imported it and before that is recorded as edited.
"""

import re
from collections.abc import Mapping
from typing import Any

from marin.execution.reach import Fn, Start, code_in, project_of, reached, starts_of
from marin.execution.summaries import file_sha256, stamp_of

MIN_DIGITS = 6  # of a fingerprint that is given to find outputs by


class CodeError(ValueError):
    """The code that a step reaches cannot be read, and so has no fingerprint."""


def code_of(fn: Fn, config: Any = None) -> dict[str, Any]:
    """What a record keeps of the code behind a step's function and config.

    {"code_fingerprint": {"root": SHA-256 over all reached definitions, "files": {path: {"sha256": of the file's bytes,
    "definitions": {name: sixteen digits}}}}}. Paths are relative to the project, without a leading `src/`, or to the
    folder that holds an installed package, so that both agree. A file without definitions was only looked through. None
    instead of all that, where there is no Python source.
    """
    found = reached(starts_of(fn, code_in(config)))
    if not found.definitions:
        return {"code_fingerprint": None}
    return {"code_fingerprint": {"root": found.root, "files": found.by_file}}


def code_root(fn: Fn, config: Any = None) -> str:
    """The root of `code_of(fn, config)`: equal for equal code. Raises CodeError if any of the code cannot be read."""
    found = reached(starts_of(fn, code_in(config)))
    if found.errors:
        raise CodeError("; ".join(found.errors))
    if not found.definitions:
        raise CodeError(f"no Python source defines {fn if isinstance(fn, str) else getattr(fn, '__qualname__', fn)!s}")
    return found.root


def code_difference(
    fn: Fn, record: Mapping[str, Any], config: Any = None, memo: dict[Any, list[str]] | None = None
) -> list[str]:
    """The definitions that changed, then appeared, then vanished since the output of `record`: "export/hf.py:convert".

    [] if nothing did, or if either side has no fingerprint. While the files are the same byte for byte none is parsed.
    A record from before fingerprints had definitions gives the function's file, if that is not the same. `memo`, an
    empty dict kept for the comparisons of one plan, lets steps of one function look at its files once.
    """
    before = record.get("code_fingerprint")
    if before is None:
        return []
    code = code_in(config)
    if isinstance(before, str):
        return _difference_of_file(starts_of(fn, code), record)
    memo = {} if memo is None else memo
    key = (fn, code, before["root"])
    if key not in memo:
        memo[key] = _difference(starts_of(fn, code), before)
    return list(memo[key])


def code_changed(fn: Fn, record: Mapping[str, Any], config: Any = None) -> bool:
    """Whether the code is known to differ from that which made the output of `record`."""
    return bool(code_difference(fn, record, config))


def _difference_of_file(starts: tuple[Start, ...], record: Mapping[str, Any]) -> list[str]:
    if not starts:
        return []
    path, stamp = starts[0].path, stamp_of(starts[0].path)
    is_same = stamp is not None and file_sha256(path, stamp) == record.get("source_sha256")
    return [] if is_same else [project_of(path, starts[0].module).name_of(path) or starts[0].module]


def _difference(starts: tuple[Start, ...], before: Mapping[str, Any]) -> list[str]:
    if not starts or _is_untouched(starts, before["files"]):
        return []
    found = reached(starts)
    if not found.definitions or found.root == before["root"]:
        return []
    old = {path: file["definitions"] for path, file in before["files"].items()}
    was, now = (
        {f"{path}:{name}": digits for path, names in files.items() for name, digits in names.items()}
        for files in (old, found.definitions)
    )
    changed = sorted(name for name in was.keys() & now.keys() if was[name] != now[name])
    return [*changed, *sorted(now.keys() - was.keys()), *sorted(was.keys() - now.keys())]


def _is_untouched(starts: tuple[Start, ...], files: Mapping[str, Any]) -> bool:
    """Whether the starts are among what was recorded, and all those files are the same byte for byte."""
    projects = {project_of(start.path, start.module): None for start in starts}
    for start in starts:
        names = {name for project in projects if (name := project.name_of(start.path)) in files}
        if not any(start.name[0] in files[name or ""]["definitions"] for name in names):
            return False
    for name, file in files.items():
        places = (place for project in projects for place in project.places_of(name))
        stamps = ((place, stamp_of(place)) for place in places)
        if not any(stamp is not None and file_sha256(place, stamp) == file["sha256"] for place, stamp in stamps):
            return False
    return True


def matches_code(record: Mapping[str, Any], digits: str) -> bool:
    """Whether an output was made by this code: `digits` begin its root, a file's sha256 or a definition's digits.

    Raises ValueError for what is not six or more hexadecimal digits.
    """
    if not re.fullmatch(f"[0-9a-f]{{{MIN_DIGITS},64}}", digits):
        raise ValueError(f"code fingerprint {digits!r}: expected {MIN_DIGITS} to 64 of the digits 0-9 a-f")
    code = record.get("code_fingerprint")
    if not isinstance(code, Mapping):
        return any(str(known).startswith(digits) for known in (code, record.get("source_sha256")) if known)
    known = [code["root"]]
    for file in code["files"].values():
        known += [file["sha256"], *file["definitions"].values()]
    return any(text is not None and text.startswith(digits) for text in known)
