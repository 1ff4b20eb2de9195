"""What differs between two recipes, field by field, and where a difference began.

A digest says that something changed; the recipe that was hashed says what. Recipes are kept whole in the records, so
the answer needs no code of that time and no state beside them. What it costs: a few kilobytes for each output.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marin.execution.canonical_text import input_entries, to_json
from marin.execution.graph import Graph, Node

_WIDTH = 60  # characters of a value that fit on a line
_SHORT = 6  # digits of a digest in a message
_MAX_COMPARED = 50  # earlier recipes that are compared with the new one, the latest first


@dataclass(frozen=True, kw_only=True)
class Change:
    """One place where two recipes differ. `str()` of it is one line."""

    path: str  # "config.optimizer.lr", "code_version", "fn", or "dep tokens/wiki" for an input made differently
    old: str  # the earlier value as a person reads it; "(absent)" if there was none
    new: str  # the value now
    old_input: str | None = None  # "dep ..." only: digest of the input then
    new_input: str | None = None  # "dep ..." only: digest of the input now

    @property
    def is_input(self) -> bool:
        """Whether the same input is used in the same way but was made differently: the reason lies upstream."""
        return self.new_input is not None

    def __str__(self) -> str:
        old, new = _shortened(self.old, self.new)
        return f"{self.path}  {old} -> {new}"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A recipe that was carried out before."""

    digest: str  # 64 hexadecimal digits
    canonical: str  # the recipe
    ended: str | None = None  # when its output was committed, UTC
    wall_s: float | None = None  # seconds it took
    num_bytes: int | None = None  # size of its output
    names: Mapping[str, str] = field(default_factory=dict)  # digest of an input -> name of that step


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A step whose own recipe changed, so that it and what reads it have new digests."""

    node: Node  # the step
    earlier: Earlier | None  # what it is compared with; None for a step whose name is new
    changes: tuple[Change, ...]  # of its own; () for a new step


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a step has the digest it has and not that of the nearest earlier step of its name."""

    node: Node  # the step
    earlier: Earlier | None  # the nearest: fewest differences, then the latest
    changes: tuple[Change, ...]  # everything that differs from it, inputs last
    causes: tuple[Cause, ...]  # where it began, furthest upstream first; only steps that changed themselves


Lookup = Callable[[Node], Sequence[Earlier]]  # earlier recipes of a node's name, without its own digest


def diff_recipes(old_canonical: str, new_canonical: str, names: Mapping[str, str] | None = None) -> list[Change]:
    """Differences of two recipes by field, inputs last. `names`: digest -> step name, for inputs, where known."""
    names = names or {}
    old, new = json.loads(old_canonical), json.loads(new_canonical)
    _name_inputs(old, names)
    _name_inputs(new, names)
    changes: list[Change] = []
    for key in sorted({*old, *new} - {"deps", "pseudo"}):
        changes += _differences("fn" if key == "fn_ref" else key, old.get(key, _NOTHING), new.get(key, _NOTHING))
    found: dict[tuple[str, str | None], Change] = {}
    for change in changes:  # one input used in two places changed once
        found.setdefault((change.path, change.new_input) if change.is_input else (change.path, None), change)
    return sorted(found.values(), key=lambda change: change.is_input)


def nearest(node: Node, earlier: Sequence[Earlier], names: Mapping[str, str]) -> tuple[Earlier, list[Change]] | None:
    """The earlier recipe with the fewest differences to the node's, the latest of them; None if there is none."""
    best: tuple[Earlier, list[Change]] | None = None
    for candidate in sorted(earlier, key=lambda e: (e.ended or "", e.digest), reverse=True)[:_MAX_COMPARED]:
        changes = diff_recipes(candidate.canonical, node.canonical, {**candidate.names, **names})
        if best is None or _distance(changes) < _distance(best[1]):
            best = (candidate, changes)
    return best


def _distance(changes: Sequence[Change]) -> tuple[int, int]:
    """Own changes count before inputs."""
    return sum(not c.is_input for c in changes), len(changes)


def explain(graph: Graph, digest: str, lookup: Lookup) -> Explanation:
    """Why the step with this digest is not one that was carried out before.

    An input that was made differently is followed upstream until steps are met whose own recipe changed: those are
    the causes. Each step is looked at once.
    """
    names = {node.digest: node.name for node in graph}
    compared: dict[str, tuple[Earlier, list[Change]] | None] = {
        digest: nearest(graph[digest], lookup(graph[digest]), names)
    }
    causes: dict[str, Cause] = {}
    todo = [digest]
    while todo:
        current = todo.pop()
        node, match = graph[current], compared[current]
        own = tuple(c for c in match[1] if not c.is_input) if match else ()
        if own or match is None:
            causes[current] = Cause(node=node, earlier=match[0] if match else None, changes=own)
        for change in match[1] if match else ():
            if change.new_input is None or change.new_input in compared or change.new_input not in graph:
                continue
            upstream = graph[change.new_input]
            earlier = lookup(upstream)
            exact = [e for e in earlier if e.digest == change.old_input]
            compared[upstream.digest] = nearest(upstream, exact or earlier, names)
            todo.append(upstream.digest)
    order = {node.digest: i for i, node in enumerate(graph)}
    match = compared[digest]
    return Explanation(
        node=graph[digest],
        earlier=match[0] if match else None,
        changes=tuple(match[1]) if match else (),
        causes=tuple(causes[d] for d in sorted(causes, key=order.__getitem__)),
    )


# -- comparing trees --------------------------------------------------------------------------------------------------


class _Nothing:
    """Stands for a value that one side does not have."""


_NOTHING = _Nothing()


def _name_inputs(recipe: dict[str, Any], names: Mapping[str, str]) -> None:
    """Replace the position of each input by its digest and name, in place."""
    tables = {False: recipe.get("deps", []), True: recipe.get("pseudo", [])}
    for entry in input_entries(recipe.get("config")):
        digest = tables[bool(entry.get("pseudo"))][entry["$dep"]]
        entry["$dep"] = digest
        entry["name"] = names.get(digest)


def _same(old: Any, new: Any) -> bool:
    """By their text: 1, 1.0 and True are different values."""
    if isinstance(old, _Nothing) or isinstance(new, _Nothing):
        return old is new
    return to_json(old) == to_json(new)


def _differences(path: str, old: Any, new: Any) -> Iterator[Change]:
    """Depth first, in the order of the fields; recursion is safe, configs are nested at most 200 deep."""
    if _same(old, new):
        return
    if isinstance(old, list) and isinstance(new, list):
        yield from _list_differences(path, old, new)
        return
    if isinstance(old, dict) and isinstance(new, dict):
        tag = next((k for k in old if k.startswith("$")), None)
        if tag == "$dep" and "$dep" in new:
            yield from _input_differences(path, old, new)
            return
        if tag == "$c" and old["$c"] == new.get("$c"):
            yield from _field_differences(path, old, new, ".{}".format)
            return
        if tag in ("$m", "$marked") and tag in new:
            yield from _field_differences(path, old[tag], new[tag], _key_part if tag == "$m" else "{}".format)
            return
        if tag == "$t" and "$t" in new:
            yield from _list_differences(path, old["$t"], new["$t"])
            return
        if tag == "$dd" and "$dd" in new:
            yield from _differences(f"{path}.default_factory", old["$dd"][0], new["$dd"][0])
            yield from _differences(path, old["$dd"][1], new["$dd"][1])
            return
        if tag == "$mi" and "$mi" in new:
            before, after = [{_text(k): v for k, v in side["$mi"]} for side in (old, new)]
            yield from _field_differences(path, before, after, "[{}]".format)
            return
        if tag == "$s" and "$s" in new:
            for value in old["$s"]:
                if not any(_same(value, other) for other in new["$s"]):
                    yield Change(path=f"{path}{{{_text(value)}}}", old=_text(value), new=_text(_NOTHING))
            for value in new["$s"]:
                if not any(_same(value, other) for other in old["$s"]):
                    yield Change(path=f"{path}{{{_text(value)}}}", old=_text(_NOTHING), new=_text(value))
            return
    yield Change(path=path, old=_text(old), new=_text(new))


def _field_differences(path: str, old: dict, new: dict, name: Callable[[str], str]) -> Iterator[Change]:
    for key in sorted({*old, *new}):
        if key != "$c":
            yield from _differences(path + name(key), old.get(key, _NOTHING), new.get(key, _NOTHING))


def _list_differences(path: str, old: list, new: list) -> Iterator[Change]:
    """Item by item; where the lengths differ, what is between the common beginning and the common end."""
    start = 0
    if len(old) != len(new):
        while start < min(len(old), len(new)) and _same(old[start], new[start]):
            start += 1
        end = 0
        while end < min(len(old), len(new)) - start and _same(old[-1 - end], new[-1 - end]):
            end += 1
        if end:
            old, new = old[:-end], new[:-end]
    for i in range(start, max(len(old), len(new))):
        yield from _differences(
            f"{path}[{i}]", old[i] if i < len(old) else _NOTHING, new[i] if i < len(new) else _NOTHING
        )


def _input_differences(path: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    same_use = old.get("sub") == new.get("sub") and old.get("pseudo") == new.get("pseudo")
    renamed = old["name"] is not None and new["name"] is not None and old["name"] != new["name"]
    if not same_use or renamed:
        yield Change(path=path, old=_text(old), new=_text(new))
    if old["$dep"] != new["$dep"] and not renamed:
        yield Change(
            path=f"dep {new['name'] or old['name'] or path}",
            old=f"@{old['$dep'][:_SHORT]}",
            new=f"@{new['$dep'][:_SHORT]}",
            old_input=old["$dep"],
            new_input=new["$dep"],
        )


def _key_part(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


# -- values as a person reads them ------------------------------------------------------------------------------------


def _text(tree: Any) -> str:
    """A canonical tree as Python would write the value, nearly."""
    if isinstance(tree, _Nothing):
        return "(absent)"
    if isinstance(tree, list):
        return f"[{', '.join(map(_text, tree))}]"
    if not isinstance(tree, dict):
        return repr(tree)
    if "$c" in tree:
        return f"{tree['$c']}({', '.join(f'{k}={_text(v)}' for k, v in tree.items() if k != '$c')})"
    if "$dep" in tree:
        name = tree.get("name") or f"@{tree['$dep'][:_SHORT]}"
        return f"{name}{'/' + tree['sub'] if tree.get('sub') else ''}{' (nonblocking)' if tree.get('pseudo') else ''}"
    tag, value = next(iter(tree.items()))
    if tag == "$t":
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if tag in ("$m", "$marked"):
        return f"{{{', '.join(f'{k!r}: {_text(v)}' for k, v in value.items())}}}"
    if tag == "$mi":
        return f"{{{', '.join(f'{_text(k)}: {_text(v)}' for k, v in value)}}}"
    if tag == "$s":
        return f"{{{', '.join(map(_text, value))}}}" if value else "set()"
    if tag == "$dd":
        return f"defaultdict({_text(value[0])}, {_text(value[1])})"
    if tag == "$u":
        return "unversioned(...)"
    if tag == "$out":
        return f"this_output_path({value!r})" if value else "this_output_path()"
    if tag == "$in":
        return f"InputName.hardcoded({value!r})"
    if tag in ("$e", "$fn", "$f", "$dtype", "$path", "$dec", "$uuid", "$date", "$datetime", "$i"):
        return str(value)
    return json.dumps(tree, ensure_ascii=False)


def _shortened(old: str, new: str) -> tuple[str, str]:
    """Both short enough for one line, and cut so that the difference stays in sight."""
    if max(len(old), len(new)) <= _WIDTH:
        return old, new
    common = 0
    while common < min(len(old), len(new)) and old[common] == new[common]:
        common += 1
    start = max(0, common - 10) if common > _WIDTH // 2 else 0

    def cut(text: str) -> str:
        shown = text[start : start + _WIDTH]
        return ("..." if start else "") + shown + ("..." if start + _WIDTH < len(text) else "")

    return cut(old), cut(new)
