"""Which tokenizer made a token store, by the record of the step that made it."""

from collections.abc import Iterable
from pathlib import Path

from marin.execution.catalog import existing_store, step_around


def recorded_tokenizer(stores: Iterable[str | Path]) -> str | None:
    """The tokenizer's folder that the record of the first of `stores` to have one names.

    None where no store was made by a step that is on record. What is recorded may have been moved or changed since:
    compare the digest of the tokenizer found there with that of the stores.
    """
    for store in stores:
        path = Path(store).absolute()
        prefix = next((folder for folder in path.parents if (folder / ".exec" / "runs").is_dir()), None)
        entry = step_around(existing_store(str(prefix)), str(path)) if prefix is not None else None
        if entry is not None and entry.record is not None:
            config = entry.record["config_resolved"]
            if isinstance(config, dict) and isinstance(config.get("tokenizer"), str):
                return config["tokenizer"]
    return None
