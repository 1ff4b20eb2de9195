"""Trains a byte-level BPE tokenizer and writes it as a folder in the Hugging Face format.

CORPUS is a file, a folder or a glob of documents: JSON lines (also .gz and .zst), parquet, Arrow; with --format text
also files of text. In an experiment, use `train_tokenizer` instead: a step is on record.
"""

import json
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from marin.cli.output import RefusedError, note, print_json

EXAMPLES = """\
  marin tokenize train documents/ --vocab-size 32000 -o my_tokenizer
  marin tokenize train documents/ --vocab-size 32000 --special "<|user|>" --special "<|end|>" -o my_tokenizer
  marin tokenize train "notes/**/*.md" --format text --vocab-size 4096 -o my_tokenizer
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="documents to train on")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="tokens in all, the 256 bytes too")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the tokenizer")
    parser.add_argument("--special", action="append", default=[], metavar="TOKEN", help="a special token beside eos")
    parser.add_argument("--eos", default="<|endoftext|>", metavar="TOKEN", help="the token that ends a text")
    parser.add_argument("--min-frequency", type=int, default=2, metavar="N", help="of a pair that is merged (2)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="train on the first so many bytes of text")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="of rows that are none (0.01)")
    parser.add_argument("--format", metavar="FORMAT", help="of the files, where their endings do not tell")
    parser.add_argument("--overwrite", action="store_true", help="take the place of the tokenizer that is there")
    parser.add_argument("--json", action="store_true", help="one JSON object: what it was trained on")


def run(arguments: Namespace) -> int:
    from marin.cli.data.outputs import check_output
    from marin.cli.errors import told
    from marin.processing.tokenize.config import TrainBpeConfig
    from marin.processing.tokenize.train_bpe import train_bpe

    check_output(arguments.output, [arguments.corpus])
    if (Path(arguments.output) / "tokenizer.json").exists() and not arguments.overwrite:
        raise RefusedError(
            f"{arguments.output} has a tokenizer, and token stores made with it could not be read with another one. "
            "Write to another folder, or give --overwrite"
        )
    with told():
        train_bpe(
            TrainBpeConfig(
                input_path=arguments.corpus,
                output_path=arguments.output,
                vocab_size=arguments.vocab_size,
                eos_token=arguments.eos,
                extra_special_tokens=tuple(arguments.special),
                min_frequency=arguments.min_frequency,
                max_bytes=arguments.max_bytes,
                max_bad=arguments.max_bad,
                format=arguments.format,
            )
        )
    if arguments.json:
        trained = json.loads((Path(arguments.output) / "training.json").read_text(encoding="utf-8"))
        print_json({"tokenizer": arguments.output, **trained})
    words = ["marin", "tokenize", "run", arguments.corpus, "--tokenizer", arguments.output, "-o", "STORE"]
    note(f"Next: {shlex.join(words)}")
    return 0
