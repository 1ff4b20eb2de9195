"""Finds evaluation items in documents, names them, and writes the documents without them.

A document is contaminated if at least half of the 13-grams of one of its paragraphs are in evaluation items, or if it
has at least half of those of one item's text, wherever they stand. Words are compared without case, accents, numbers
and punctuation. A short question counts where it is a paragraph by itself.

OUTPUT gets attributes/, report.json (of every set the share of its items that was found), hits.jsonl (every item and
document), and documents/ (what is left). With --remove attributes nothing is removed, and the report says how far two
data sets overlap.

PATH of --against is a file, a folder or a pattern in quotes: rows of .jsonl, .parquet, .arrow, of which every text
counts; or lines of .txt (.gz, .bz2), with --lines-per-item. NAME=PATH gives it a name for the report.
"""

from argparse import ArgumentParser, Namespace
from pathlib import PurePath
from typing import Any

from marin.cli.data.inputs import find_input
from marin.cli.data.outputs import check_output
from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument, hint
from marin.cli.output import note, print_json, table

EXAMPLES = """\
  marin data decontaminate documents/ clean/ --against eval/gsm8k/test.jsonl "mmlu=eval/mmlu/*/test/*.arrow"
  marin data decontaminate train/ overlap/ --against held-out=validation/ --remove attributes
"""

_REMOVES = ("document", "paragraph", "attributes")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="INPUT", help="documents: files, a folder, a glob, or a step's address")
    parser.add_argument("output", metavar="OUTPUT", help="folder for what is found and what is left")
    parser.add_argument("--against", nargs="+", required=True, metavar="[NAME=]PATH", help="evaluation sets")
    parser.add_argument(
        "--text-column", default="text", metavar="COLUMN", help="the column with the text (text); written as text"
    )
    parser.add_argument("--lines-per-item", type=int, metavar="N", help="of .txt files: lines that make an item")
    parser.add_argument(
        "--remove", choices=_REMOVES, default="document", help="what goes (document); attributes: nothing"
    )
    parser.add_argument("--ngram", type=int, default=13, metavar="WORDS", help="words in an n-gram (13)")
    parser.add_argument(
        "--min-overlap",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of a paragraph's n-grams, that contaminates (0.5)",
    )
    parser.add_argument(
        "--min-coverage", type=float, default=0.5, metavar="SHARE", help="of an item's n-grams, that contaminates (0.5)"
    )
    parser.add_argument(
        "--max-document-share", type=float, metavar="SHARE", help="n-grams in more documents than this do not count"
    )
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="of rows that are none (0.01)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a CPU)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_prefix_argument(parser)
    parser.set_defaults(format=None)


def run(arguments: Namespace) -> int:
    from marin.processing.decontaminate.config import DecontaminateConfig
    from marin.processing.decontaminate.run import decontaminate

    with told():
        path = find_input(arguments).path
        against = tuple(_evaluation_set(given, arguments.lines_per_item) for given in arguments.against)
        check_output(arguments.output, [path, *(one.path for one in against)])
        config = DecontaminateConfig(
            input_path=path,
            output_path=arguments.output,
            text_column=arguments.text_column,
            against=against,
            ngram=arguments.ngram,
            min_paragraph_overlap=arguments.min_overlap,
            min_item_coverage=arguments.min_coverage,
            max_document_share=arguments.max_document_share,
            remove=arguments.remove,
            max_bad=arguments.max_bad,
            num_workers=arguments.workers,
        )
        report = decontaminate(config)
    if arguments.json:
        print_json({"output": arguments.output, **report})
    else:
        rows = [
            (name, f"{of['items']:,}", f"{of['items_hit']:,}", f"{of['share_hit']:.2%}", _shown(of["hit"]))
            for name, of in report["evaluation_sets"].items()
        ]
        print(table(rows, ("evaluation set", "items", "found", "share", "such as"), right=(1, 2, 3)))
    said = f"{report['contaminated']:,} of {report['documents']:,} documents are contaminated"
    note(f"{said}: {_what_goes(report, arguments)}" if report["contaminated"] else said)
    place = arguments.output.rstrip("/")
    what = "hits.jsonl" if arguments.remove == "attributes" else "documents"
    note(f"Next: {hint(['marin', 'data', 'head', f'{place}/{what}'], arguments)}")
    return 0


def _what_goes(report: dict[str, Any], arguments: Namespace) -> str:
    paragraphs = f"{report['contaminated_paragraphs']:,} paragraphs, {report['contaminated_bytes']:,} bytes of text"
    if arguments.remove == "document":
        return "left out"
    return f"{paragraphs} in them " + ("cut" if arguments.remove == "paragraph" else "found, nothing is removed")


def _shown(hits: list[dict[str, Any]]) -> str:
    return ", ".join(f"{hit['item']} in {hit['documents'][0]}" for hit in hits[:2]) or "-"


def _evaluation_set(given: str, lines_per_item: int | None) -> Any:
    from marin.processing.decontaminate.config import EvaluationSet

    name, separator, path = given.partition("=")
    if not separator:
        path = given
        parts = PurePath(path.split(".")[0] if not path.startswith(".") else path).parts[-2:]
        name = "/".join(part for part in parts if part != "/")
    is_text = path.endswith((".txt", ".txt.gz", ".txt.bz2"))
    return EvaluationSet(name=name, path=path, lines_per_item=lines_per_item if is_text else None)
