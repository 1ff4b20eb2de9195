"""Compares tokenizers on your text: bytes a token, tokens a word, vocabulary use, speed, what is not given back.

TOKENIZER is a folder or a tokenizer.json, as NAME=PATH where the name of the folder will not do. What --on names are
files, folders or globs of documents; results are told by source, as the rows name theirs. Intervals are 95 %, from
documents drawn with replacement. In an experiment, use `compare_tokenizers`: a step with a report.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from marin.cli.output import UsageError, note, print_json, table

EXAMPLES = """\
  marin tokenize compare gpt2/ my_tokenizer/ --on documents/
  marin tokenize compare old=a/tokenizer.json new=b/tokenizer.json --on code/ web/ --max-documents 500
  marin tokenize compare gpt2/ my_tokenizer/ --on documents/ --json | jq .vocabularies
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "tokenizers", metavar="TOKENIZER", nargs="+", help="folders or files, the first to compare with"
    )
    parser.add_argument("--on", nargs="+", required=True, metavar="PATH", help="documents")
    parser.add_argument("--max-documents", type=int, default=2000, metavar="N", help="of each source (2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which documents (0)")
    parser.add_argument("--format", metavar="FORMAT", help="of the files, where their endings do not tell")
    parser.add_argument("-o", "--output", metavar="DIR", help="write results.json, timing.json and report.md there")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.cli.errors import told
    from marin.processing.tokenize.compare import COVERED, compare_tokenizers, shown
    from marin.processing.tokenize.config import CompareTokenizersConfig

    with told():
        found = compare_tokenizers(
            CompareTokenizersConfig(
                tokenizers=_named(arguments.tokenizers),
                inputs=_named(arguments.on),
                output_path=arguments.output,
                format=arguments.format,
                max_documents=arguments.max_documents,
                seed=arguments.seed,
            )
        )
    if arguments.json:
        print_json({**found.results(), "speeds": [asdict(speed) for speed in found.speeds]})
        return 0
    rows = [
        (
            result.source,
            result.tokenizer,
            f"{result.documents:,}",
            shown(result.bytes_per_token),
            shown(result.tokens_per_word),
            shown(result.tokens_relative),
            str(result.round_trip_failures),
        )
        for result in found.sources
    ]
    header = ("source", "tokenizer", "documents", "bytes a token", "tokens a word", "relative tokens", "not given back")
    print(table(rows, header, right=(2, 6)))
    print()
    rows = [
        (
            use.tokenizer,
            f"{use.vocab_size:,}",
            f"{use.share_seen:.1%}",
            f"{use.ids_for_most:,}",
            f"{speed.again_mb_per_s:.1f} ({speed.encoder})",
            f"{speed.reference_mb_per_s:.1f}",
        )
        for use, speed in zip(found.vocabularies, found.speeds, strict=True)
    ]
    header = ("tokenizer", "vocabulary", "seen", f"ids for {COVERED:.0%}", "MB per CPU second", "of the reference")
    print(table(rows, header, right=(1, 2, 3, 4, 5)))
    if found.bad_rows:
        note(f"left out, no documents: {', '.join(f'{count:,} {kind}' for kind, count in found.bad_rows.items())}")
    return 0


def _named(given: list[str]) -> dict[str, str]:
    """Name -> path of what was given as PATH or NAME=PATH."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            path = text
            name = Path(text).parent.name if Path(text).name == "tokenizer.json" else Path(text).name
        if name in named:
            raise UsageError(f"two are called {name!r}: {named[name]} and {path}; name them, NAME=PATH")
        named[name] = path
    return named
