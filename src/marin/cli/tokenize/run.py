"""Turns documents into a token store, the form in which training reads text.

CORPUS is a file, a folder or a glob of documents: JSON lines (also .gz and .zst), parquet, Arrow; with --format text
also files of text. After an interruption the same command goes on where it was. In an experiment, use
`default_tokenize` instead: a step is on record.
"""

import json
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from marin.cli.output import RefusedError, note, print_json

if TYPE_CHECKING:
    from marin.processing.tokenize.config import TokenizeConfig

EXAMPLES = """\
  marin tokenize run documents/ --tokenizer my_tokenizer -o tokens
  marin tokenize run "raw/*.parquet" --tokenizer gpt2/ -o tokens --workers 8
  marin tokenize run documents/ --tokenizer my_tokenizer -o tokens --text-column content
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="documents to tokenize")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder of the tokenizer")
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="folder of the token store")
    parser.add_argument("--text-column", default="text", metavar="COLUMN", help="the column with the text (text)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a CPU); the store is the same")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="of rows that are none (0.01)")
    parser.add_argument("--no-round-trip", action="store_true", help="do not check that documents come back")
    parser.add_argument("--format", metavar="FORMAT", help="of the files, where their endings do not tell")
    parser.add_argument("--overwrite", action="store_true", help="change the store that is there, or take its place")
    parser.add_argument("--json", action="store_true", help="one JSON object: what became of the rows")


def run(arguments: Namespace) -> int:
    from marin.cli.data.outputs import check_output
    from marin.cli.errors import told
    from marin.processing.tokenize.config import TokenizeConfig
    from marin.processing.tokenize.tokenize import tokenize

    check_output(arguments.output, [arguments.corpus])
    with told():
        config = TokenizeConfig(
            input_path=arguments.corpus,
            output_path=arguments.output,
            tokenizer=arguments.tokenizer,
            text_column=arguments.text_column,
            num_workers=arguments.workers,
            max_bad=arguments.max_bad,
            check_round_trip=not arguments.no_round_trip,
            format=arguments.format,
        )
        conflict = None if arguments.overwrite else _conflict(arguments, config)
    if conflict is not None:
        raise RefusedError(conflict)
    with told():
        counts = tokenize(config)
    if arguments.json:
        print_json({"store": arguments.output, **asdict(counts)})
    words = ["marin", "tokenize", "show", arguments.output, "0", "--tokenizer", arguments.tokenizer]
    note(f"Next: {shlex.join(words)}")
    return 0


def _conflict(arguments: Namespace, config: "TokenizeConfig") -> str | None:
    """What to say where the output is a whole store of another tokenizer, or of other documents or settings."""
    from marin.data.store import LEDGER
    from marin.processing.tokenize.tokenize import shards_to_make
    from marin.processing.tokenize.tokenizer import load_tokenizer

    store = Path(arguments.output) / LEDGER
    if not store.is_file():
        return None
    before = json.loads(store.read_text(encoding="utf-8")).get("tokenizer_digest")
    given = load_tokenizer(arguments.tokenizer).digest
    if before == given:
        num_new, num_shards = shards_to_make(config)
        if num_new == 0:
            return None
        return (
            f"{arguments.output} is a whole token store, and {num_new} of {num_shards} shards would be made anew: the "
            "documents or settings are others. Write to another folder, or give --overwrite"
        )
    return (
        f"{arguments.output} is a token store of another tokenizer (digest {str(before)[:12]}; that of "
        f"{arguments.tokenizer} is {given[:12]}). Write to another folder, or give --overwrite"
    )
