"""The row that every extraction ends in: a document whose id is the hash of its text."""

import json
from typing import Any

from xxhash import xxh3_128_hexdigest


def document_row(text: str, source: str, metadata: dict[str, Any]) -> dict[str, str]:
    """A document: `id` is 32 hexadecimal digits of the text's xxh3_128, `metadata` a JSON object as one string.

    What is None or empty is left out of the metadata.
    """
    known = {name: value for name, value in metadata.items() if value not in (None, "", [], {})}
    return {
        "id": xxh3_128_hexdigest(text.encode("utf-8")),
        "text": text,
        "source": source,
        "metadata": json.dumps(known, ensure_ascii=False, sort_keys=True),
    }
