"""The formats of all that the executor writes, as JSON Schema files in this folder, for readers that are not marin.

Fields that a schema does not name are allowed: a later version may add them. `python -m marin.execution.schemas` prints
them all as the page docs/reference/records.md, which a test keeps equal.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

NAMES = ("state", "record", "run", "event", "manifest", "tombstone", "ref", "verified")

_HEAD = """\
# Records

All that the executor knows lies in the store as JSON that can be read without marin. This page describes each file;
it is printed from the JSON Schema files in `marin/execution/schemas` by `python -m marin.execution.schemas`. Times are
UTC, sizes bytes, digests SHA-256 in hexadecimal. A reader must ignore fields that it does not know: later
versions add some. `<step>` is a step's folder; other paths are relative to the store.
"""


def load(name: str) -> dict[str, Any]:
    """The schema of this name, one of `NAMES`."""
    return json.loads(files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8"))


def as_markdown() -> str:
    """All schemas as one page."""
    parts = [_HEAD]
    for name in NAMES:
        schema = load(name)
        rows = [f"| `{path}` | {kind} | {text} |" for path, kind, text in fields(schema)]
        table = "\n".join(["| field | type | |", "|---|---|---|", *rows])
        parts.append(f"## {schema['title']}\n\n{schema['description']}\n\n{table}\n")
    return "\n".join(parts)


def fields(schema: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, type, description) of every field of a schema, those of inner objects too.

    `[]` stands for any item of a list, `*` for any name.
    """
    for key, value in schema.get("properties", {}).items():
        path = f"{start}{key}"
        yield path, _kind(value), value.get("description", "")
        yield from fields(value, f"{path}.")
        named = value.get("additionalProperties", {})
        yield from fields(named, f"{path}.*.")
        items = value.get("items", {})
        yield from fields(items, f"{path}[].")
        for index, item in enumerate(items.get("prefixItems", ())):
            yield f"{path}[][{index}]", _kind(item), item.get("description", "")


def _kind(value: Mapping[str, Any]) -> str:
    if "enum" in value:
        return ", ".join(f"`{word}`" for word in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "$ref" in value:
        return "object"
    kind = value.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)
