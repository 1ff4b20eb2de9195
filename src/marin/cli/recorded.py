"""Which tokenizer made the token stores of a training run, by the records of the steps that made them."""

from collections.abc import Iterable
from pathlib import Path


def recorded_tokenizer(stores: Iterable[str | Path]) -> str | None:
    """The tokenizer's folder that the record of the first of `stores` to have one names.

    None where no store was made by a step that is on record. What is recorded may have been moved or changed since:
    compare the digest of the tokenizer found there with that of the stores.
    """
    from marin.execution.catalog import existing_store, step_around

    for store in stores:
        path = Path(store).absolute()
        prefix = next((folder for folder in path.parents if (folder / ".exec" / "runs").is_dir()), None)
        entry = step_around(existing_store(str(prefix)), str(path)) if prefix is not None else None
        if entry is not None and entry.record is not None:
            config = entry.record["config_resolved"]
            if isinstance(config, dict) and isinstance(config.get("tokenizer"), str):
                return config["tokenizer"]
    return None


def tokenizer_of_run(model: str) -> str | None:
    """Of a training run, or a checkpoint of one, whose config names no tokenizer: that of its stores' records.

    None for what is no such run, and where nothing is on record.
    """
    import yaml

    folder = Path(model)
    config = next((file for at in (folder, folder.parent.parent) if (file := at / "config.yaml").is_file()), None)
    if config is None or (folder / "config.json").is_file():
        return None
    read = yaml.safe_load(config.read_text(encoding="utf-8"))
    data = read.get("data") if isinstance(read, dict) else None
    if not isinstance(data, dict) or data.get("tokenizer") is not None:
        return None
    return recorded_tokenizer(store for store in (data.get("train") or {}).values() if isinstance(store, str))
