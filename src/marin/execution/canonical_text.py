"""The text of a canonical tree: JSON with sorted keys, no spaces, UTF-8; and what can be read back from it."""

import json
from collections.abc import Iterator
from typing import Any

_JSON = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)
# What `_JSON.encode` makes anew for each text, an eighth of the time that it takes; None where json has no C half.
_c_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
quoted: Any = json.encoder.encode_basestring  # type: ignore[attr-defined]
_WRITE = _c_encoder and _c_encoder(None, _JSON.default, quoted, None, ":", ",", True, False, False)


def to_json(tree: Any) -> str:
    """Canonical tree to text: sorted keys, no spaces."""
    return "".join(_WRITE(tree, 0)) if _WRITE is not None else _JSON.encode(tree)


def input_entries(tree: Any) -> Iterator[dict[str, Any]]:
    """The entries of a canonical tree that stand for steps, {"$dep": ...}, in the order of the text.

    Keys of dicts are data: a key that looks like one of the format's own is none.
    """
    todo = [tree]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += reversed(value)
        elif isinstance(value, dict):
            if "$dep" in value:
                yield value
            else:
                inner = value.get("$m", value.get("$marked", value))
                todo += reversed(inner.values())
