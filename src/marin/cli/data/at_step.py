"""Prints where every row of one batch came from: source, documents, which of their tokens, in which slots.

N is counted as in metrics.jsonl: the first update of a run is 1. Nothing was recorded for it: the run's config says it,
with the token stores, for any step, also one that is yet to come. Stores that have changed since are refused.

Of conversations, what is trained on stands between ⟦ and ⟧ in the text, and in the JSON as "trained", ranges of the
piece's tokens.

RUN is a training step (name, name@digits, ref, digest or path), the output folder of a run, or a config.yaml.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.data.training_run import Run, add_run_argument, open_run, run_tokenizer
from marin.cli.experiment import hint
from marin.cli.output import UsageError, note, print_json, table

EXAMPLES = """\
  marin data at-step checkpoints/quickstart 100           the documents of the batch of update 100
  marin data at-step my_run/ 100 --text                   with the text of each piece
  marin data at-step my_run/ 100 --json | jq '.rows[0]'
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("step", metavar="N", type=int, help="the update, as in metrics.jsonl")
    parser.add_argument("--text", action="store_true", help="print the text too")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="for --text: the stores' tokenizer, where neither config nor records tell it"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from dataclasses import asdict

    from marin.data.at_step import piece_loss_mask, rows_at_update

    training = open_run(arguments)
    first = training.start_step + 1
    if not first <= arguments.step <= training.config.trainer.num_train_steps:
        raise UsageError(
            f"step {arguments.step} is no update of {training.config_path}: those are {first} to "
            f"{training.config.trainer.num_train_steps}, counted as in metrics.jsonl"
        )
    rows = rows_at_update(training.loader, arguments.step)
    tokenizer = run_tokenizer(arguments, training) if arguments.text else None

    if arguments.json:
        described = [asdict(row) for row in rows]
        for row, plain in zip(rows, described, strict=True):
            for piece, values in zip(row.pieces, plain["pieces"], strict=True):
                mask = piece_loss_mask(training.loader, row, piece)
                if mask is not None:
                    values["trained"] = [[first, end] for first, end, is_trained in _runs(mask) if is_trained]
                if tokenizer is not None:
                    values["text"] = _text(training, row, piece, tokenizer, marks=("", ""))
        print_json(
            {
                "config": str(training.config_path),
                "step": arguments.step,
                "seq_len": training.seq_len,
                "rows": described,
            }
        )
        return 0
    note(f"update {arguments.step} of {training.config_path.parent}: {len(rows)} rows of {training.seq_len} slots")
    if tokenizer is None:
        print(table([_line(row, piece) for row in rows for piece in row.pieces], _HEADER, right=(0,)))
        words = ["marin", "data", "at-step", arguments.run, str(arguments.step), "--text"]
        note(f"Next: {hint(words, arguments)}")
        return 0
    for row in rows:
        for piece in row.pieces:
            number, source, document, tokens, slots, store = _line(row, piece)
            print(f"--- row {number}, slots {slots}: {source}, document {document}, tokens {tokens}, {store}")
            print(_text(training, row, piece, tokenizer, marks=("⟦", "⟧")))
    return 0


def _text(training: Run, row: Any, piece: Any, tokenizer: Any, *, marks: tuple[str, str]) -> str:
    """The text of a piece, with marks around what is trained on where not all is."""
    from marin.data.at_step import piece_loss_mask, piece_tokens

    tokens, mask = piece_tokens(training.loader, row, piece), piece_loss_mask(training.loader, row, piece)
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
