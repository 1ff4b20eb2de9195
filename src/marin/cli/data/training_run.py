"""The training run that `marin data at-step` and `marin data mixture` look into."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument, prefix_of
from marin.cli.output import RefusedError, UsageError, note_others


def add_run_argument(parser: ArgumentParser) -> None:
    """The run, and the store in which steps are looked for."""
    parser.add_argument("run", metavar="STEP|PATH", help="a training step, a run's folder, or its config.yaml")
    add_prefix_argument(parser)


class Run:
    """The training data of a run, opened and found to be what it trains on."""

    def __init__(self, config_path: Path):
        from dataclasses import replace

        from marin.config import load_yaml
        from marin.data.lm_data import open_data
        from marin.data.loader import DataLoader
        from marin.training.config import TrainLmConfig
        from marin.training.initialize import find_start, recorded_start, run_batches

        self.config_path = config_path
        self.config: TrainLmConfig = load_yaml(TrainLmConfig, config_path)
        self.seq_len = self.config.trainer.train_seq_len or self.config.model.seq_len
        folder = config_path.parent
        start = recorded_start(self.config, folder) or find_start(self.config, folder)
        self.start_step = start.step
        batches = run_batches(self.config, start)
        # the ledgers tell whether these are the stores; that no byte of them is damaged is not asked here
        self.data = open_data(replace(self.config.data, verify_stores=False), self.seq_len, batches=batches)
        self.loader = DataLoader(self.data.train, batches)

    def check(self) -> None:
        """RefusedError where the run's own data.json says that it saw other rows than are found now."""
        from marin.data.lm_data import DATA_FILE

        path = self.config_path.parent / DATA_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        now = self.data.describe()
        if before is None or before == now:
            return
        changed = [name for name, checksum in now["stores"].items() if before["stores"].get(name) != checksum]
        what = f"the store of {', '.join(changed)} has changed" if changed else "marin makes another order of them"
        raise RefusedError(
            f"{path} says that this run saw other rows than there are now: {what}. Restore the stores as they were (or "
            "use the version of marin that trained it), and ask again."
        )


def open_run(arguments: Namespace) -> Run:
    path = _config_path(arguments)
    with told():
        run = Run(path)
    run.check()
    return run


def _config_path(arguments: Namespace) -> Path:
    """The config.yaml that RUN means."""
    given = Path(arguments.run)
    if given.is_file():
        return given
    if (given / "config.yaml").is_file():
        return given / "config.yaml"
    if given.is_dir() and not _is_in_a_store(arguments):
        raise UsageError(f"{given} has no config.yaml, so it is no run's folder")
    from marin.execution.catalog import NoStoreError, find_work

    try:
        entry = find_work(prefix_of(arguments), arguments.run)
    except NoStoreError as error:
        raise UsageError(f"no folder or file {arguments.run!r}, and {error}") from error
    note_others(entry)
    if not entry.store.is_local:
        raise UsageError(
            f"{entry.name}@{entry.digest[:6]} lies in {entry.store.prefix}, and this command reads token stores from "
            "disk. Copy its config.yaml and its token stores here, put their paths into the config, and give that."
        )
    config = Path(entry.paths.root) / "config.yaml"
    if not config.is_file():
        raise UsageError(
            f"{entry.name}@{entry.digest[:6]} has no {config}: it is no training step, or has not begun to train"
        )
    return config


def _is_in_a_store(arguments: Namespace) -> bool:
    from marin.execution.catalog import NoStoreError, existing_store, step_around

    try:
        return step_around(existing_store(prefix_of(arguments)), arguments.run) is not None
    except NoStoreError:
        return False


def run_tokenizer(arguments: Namespace, run: Run) -> Any:
    """The tokenizer of the run's stores, for their text."""
    from marin.cli.recorded import recorded_tokenizer
    from marin.processing.tokenize.tokenizer import load_tokenizer

    stores = (source.store.path for source in run.data.train.sources)
    place = arguments.tokenizer or run.config.data.tokenizer or recorded_tokenizer(stores)
    if place is None:
        raise UsageError(
            "--text needs the tokenizer of the stores, and neither the run's config nor a record beside a store names "
            "it; give --tokenizer DIR"
        )
    try:
        tokenizer = load_tokenizer(place)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"the tokenizer at {place}: {error}") from error
    if tokenizer.digest != run.data.tokenizer_digest:
        raise UsageError(
            f"the tokenizer at {place} (digest {tokenizer.digest[:12]}) is not the one that the stores were made with "
            f"(digest {run.data.tokenizer_digest[:12]})"
        )
    return tokenizer
