"""Looks into the data of a training run.

at-step prints where every row of one batch came from: source, documents, which of their tokens, in which slots. STEP
is counted as in metrics.jsonl: the first update of a run is 1. Nothing was recorded for it: the run's config says it,
with the token stores, for any step, also one that is yet to come. Stores that have changed since are refused.

Of conversations, what is trained on stands between ⟦ and ⟧ in the text, and in the JSON as "trained", ranges of the
piece's tokens.

mixture prints what a run takes from each source: shares by stage, rows, epochs. It needs the token stores, and no run:
give the config.yaml of one that is yet to start.

RUN is a training step (name, name@digits, ref, digest or path), the output folder of a run, or a config.yaml.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import RefusedError, UsageError, note, note_others, print_json, table

EXAMPLES = """\
  marin data at-step checkpoints/quickstart 100           the documents of the batch of update 100
  marin data at-step my_run/ 100 --text                   with the text of each piece
  marin data at-step my_run/ 100 --json | jq '.rows[0]'
  marin data mixture config.yaml                          what a run will take from each source
"""

_ACTIONS = ("at-step", "mixture")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", metavar="at-step|mixture", choices=_ACTIONS, help="what to print")
    parser.add_argument("run", metavar="STEP|PATH", help="a training step, a run's folder, or its config.yaml")
    parser.add_argument("step", metavar="N", nargs="?", type=int, help="at-step: the update, as in metrics.jsonl")
    parser.add_argument("--text", action="store_true", help="at-step: print the text too")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="for --text: the stores' tokenizer, where neither config nor records tell it"
    )
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    if arguments.action == "mixture":
        if arguments.step is not None or arguments.text or arguments.tokenizer:
            raise UsageError("marin data mixture takes RUN alone; a step, --text and --tokenizer are for at-step")
        return _mixture(arguments)
    if arguments.step is None:
        raise UsageError("marin data at-step takes RUN and STEP, like `marin data at-step my_run/ 100`")
    return _at_step(arguments)


def _mixture(arguments: Namespace) -> int:
    from dataclasses import asdict

    from marin.data.mixture_report import mixture_report, report_lines

    run = _open(arguments)
    report = mixture_report(run.loader, run.config.trainer.num_train_steps, start_step=run.start_step)
    if arguments.json:
        print_json({"config": str(run.config_path), **asdict(report)})
    else:
        print("\n".join(report_lines(report)))
    return 0


def _at_step(arguments: Namespace) -> int:
    from dataclasses import asdict

    from marin.data.at_step import piece_loss_mask, rows_at_update

    run = _open(arguments)
    first = run.start_step + 1
    if not first <= arguments.step <= run.config.trainer.num_train_steps:
        raise UsageError(
            f"step {arguments.step} is no update of {run.config_path}: those are {first} to "
            f"{run.config.trainer.num_train_steps}, counted as in metrics.jsonl"
        )
    rows = rows_at_update(run.loader, arguments.step)
    tokenizer = _tokenizer(arguments, run) if arguments.text else None

    if arguments.json:
        described = [asdict(row) for row in rows]
        for row, plain in zip(rows, described, strict=True):
            for piece, values in zip(row.pieces, plain["pieces"], strict=True):
                mask = piece_loss_mask(run.loader, row, piece)
                if mask is not None:
                    values["trained"] = [[first, end] for first, end, is_trained in _runs(mask) if is_trained]
                if tokenizer is not None:
                    values["text"] = _text(run, row, piece, tokenizer, marks=("", ""))
        print_json({"config": str(run.config_path), "step": arguments.step, "seq_len": run.seq_len, "rows": described})
        return 0
    note(f"update {arguments.step} of {run.config_path.parent}: {len(rows)} rows of {run.seq_len} slots")
    if tokenizer is None:
        print(table([_line(row, piece) for row in rows for piece in row.pieces], _HEADER, right=(0,)))
        words = ["marin", "data", "at-step", arguments.run, str(arguments.step), "--text"]
        note(f"Next: {hint(words, arguments)}")
        return 0
    for row in rows:
        for piece in row.pieces:
            number, source, document, tokens, slots, store = _line(row, piece)
            print(f"--- row {number}, slots {slots}: {source}, document {document}, tokens {tokens}, {store}")
            print(_text(run, row, piece, tokenizer, marks=("⟦", "⟧")))
    return 0


def _text(run: "_Run", row: Any, piece: Any, tokenizer: Any, *, marks: tuple[str, str]) -> str:
    """The text of a piece, with marks around what is trained on where not all is."""
    from marin.data.at_step import piece_loss_mask, piece_tokens

    tokens, mask = piece_tokens(run.loader, row, piece), piece_loss_mask(run.loader, row, piece)
    if mask is None:
        return tokenizer.decode(tokens)
    begin, end = marks
    parts = [(tokenizer.decode(tokens[first:last]), is_trained) for first, last, is_trained in _runs(mask)]
    return "".join(f"{begin}{text}{end}" if is_trained else text for text, is_trained in parts)


def _runs(mask: Any) -> list[tuple[int, int, bool]]:
    """(first, end, value) of each run of equal values of a mask."""
    ends = [i for i in range(1, len(mask)) if mask[i] != mask[i - 1]]
    bounds = [0, *ends, len(mask)]
    return [(first, end, bool(mask[first])) for first, end in zip(bounds, bounds[1:], strict=False)]


_HEADER = ("row", "source", "document", "tokens", "slots", "store")


def _line(row: Any, piece: Any) -> tuple[str, ...]:
    """What the table says of one piece; ranges name their first and last."""
    return (
        str(row.row),
        row.source,
        piece.document_id,
        f"{piece.start}-{piece.start + piece.length - 1} of {piece.document_length}",
        f"{piece.slot}-{piece.slot + piece.length - 1}",
        f"{row.store} #{piece.document}",
    )


class _Run:
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


def _open(arguments: Namespace) -> _Run:
    path = _config_path(arguments)
    try:
        run = _Run(path)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
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


def _tokenizer(arguments: Namespace, run: _Run) -> Any:
    """The tokenizer of the run's stores, for their text."""
    from marin.processing.tokenize.tokenizer import load_tokenizer

    place = arguments.tokenizer or run.config.data.tokenizer or _recorded_tokenizer(run)
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


def _recorded_tokenizer(run: _Run) -> str | None:
    """The tokenizer's folder as the record of the step that made one of the token stores has it."""
    from marin.execution.catalog import existing_store, step_around

    for source in run.data.train.sources:
        path = source.store.path.absolute()
        prefix = next((folder for folder in path.parents if (folder / ".exec" / "runs").is_dir()), None)
        entry = step_around(existing_store(str(prefix)), str(path)) if prefix is not None else None
        if entry is not None and entry.record is not None:
            config = entry.record["config_resolved"]
            if isinstance(config, dict) and isinstance(config.get("tokenizer"), str):
                return config["tokenizer"]
    return None
