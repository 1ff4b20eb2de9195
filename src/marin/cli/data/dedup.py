"""Finds documents, or paragraphs, that are there more than once, and writes what is left.

Methods: exact (whole texts), paragraphs (between empty lines), minhash (nearly the same text; each removal is verified
against the document that stays), bloom (lines and documents whose 13-grams were seen before; depends on the order).

OUTPUT gets attributes/ (what duplicates what), report.json, documents/ (what is left), and index/, which a later run
over more documents can begin with (--index). Where a source would lose a larger share of its documents than --max-
removed, nothing is removed: look at the attributes, then allow it for that source, or ask for more likeness.

INPUT is a file, a folder of shards, a glob in quotes, or the address of a step. Run it again after an interruption:
what is done is kept.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from marin.cli.data.inputs import find_input
from marin.cli.data.outputs import check_output
from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument, hint
from marin.cli.output import UsageError, note, print_json, table

if TYPE_CHECKING:
    from marin.processing.dedup.config import DedupConfig

EXAMPLES = """\
  marin data dedup documents/ deduplicated/ --method exact
  marin data dedup documents/ deduplicated/ --method minhash --priority books,wiki
  marin data dedup more/ deduplicated-2/ --method minhash --index deduplicated/index
  marin data dedup documents/ looked-at/ --method minhash --attributes-only --max-removed 1
"""

_METHODS = ("exact", "paragraphs", "minhash", "bloom")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="INPUT", help="documents: files, a folder, a glob, or a step's address")
    parser.add_argument("output", metavar="OUTPUT", help="folder for what is found and what is left")
    parser.add_argument("--method", choices=_METHODS, required=True, metavar="|".join(_METHODS))
    parser.add_argument(
        "--priority", metavar="SOURCE,...", default="", help="sources that keep their documents, in order"
    )
    parser.add_argument("--index", metavar="DIR", help="index/ of an earlier run: its documents come first, and stay")
    parser.add_argument(
        "--max-removed", type=float, default=0.8, metavar="SHARE", help="largest share of a source that may go (0.8)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="SOURCE=SHARE", help="another limit for one source; repeatable"
    )
    parser.add_argument(
        "--min-similarity", type=float, metavar="SHARE", help="minhash: from which on it is a duplicate"
    )
    parser.add_argument(
        "--verify", choices=("signature", "jaccard", "containment"), help="minhash: what similarity is (signature)"
    )
    parser.add_argument("--ngram", type=int, metavar="WORDS", help="minhash, bloom: words in a row that count as one")
    parser.add_argument(
        "--text-column", default="text", metavar="COLUMN", help="the column with the text (text); written as text"
    )
    parser.add_argument("--attributes-only", action="store_true", help="find, report, and write no documents")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="of rows that are none (0.01)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a CPU)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_prefix_argument(parser)
    parser.set_defaults(format=None)


def run(arguments: Namespace) -> int:
    from marin.processing.dedup.config import DedupConfig
    from marin.processing.dedup.run import dedup

    path = find_input(arguments).path
    check_output(arguments.output, [path])
    with told():
        config = DedupConfig(
            input_path=path,
            output_path=arguments.output,
            text_column=arguments.text_column,
            method=_method(arguments),
            priority=tuple(source for source in arguments.priority.split(",") if source),
            index_path=arguments.index,
            max_removed_per_source=arguments.max_removed,
            max_removed_of=_limits(arguments.allow),
            write_documents=not arguments.attributes_only,
            max_bad=arguments.max_bad,
            num_workers=arguments.workers,
        )
        report = dedup(config).as_dict()
    if arguments.json:
        print_json({"output": arguments.output, **report})
    else:
        rows = [_line(source, counts) for source, counts in report["sources"].items()]
        header = ("source", "documents", "removed", "share", "cut from others")
        print(table(rows, header, right=(1, 2, 3, 4)))
    for source in _unknown(config, report["sources"]):
        there_are = ", ".join(report["sources"])
        note(f"no document is of source {source!r}, which --allow or --priority names; the sources are {there_are}")
    note(f"{report['removed']:,} of {report['documents']:,} documents are duplicates")
    folder = "attributes" if arguments.attributes_only else "documents"
    place = f"{arguments.output.rstrip('/')}/{folder}"
    note(f"Next: {hint(['marin', 'data', 'head', place], arguments)}")
    return 0


def _line(source: str, counts: dict[str, Any]) -> tuple[str, ...]:
    cut = f"{counts['span_bytes']:,} bytes" if counts["spans"] else "-"
    return (
        source or "(none)",
        f"{counts['documents']:,}",
        f"{counts['removed']:,}",
        f"{counts['share_removed']:.1%}",
        cut,
    )


def _unknown(config: "DedupConfig", sources: dict[str, Any]) -> list[str]:
    """Sources that the command line names and the documents are not of; an index may have others to come first."""
    named = [*config.max_removed_of, *(config.priority if config.index_path is None else ())]
    return [source for source in dict.fromkeys(named) if source not in sources]


def _method(arguments: Namespace) -> Any:
    from marin.processing.dedup.config import BloomConfig, ExactConfig, MinHashConfig

    given = {
        name: getattr(arguments, name)
        for name in ("min_similarity", "verify", "ngram")
        if getattr(arguments, name) is not None
    }
    takes = {"minhash": {"min_similarity", "verify", "ngram"}, "bloom": {"ngram"}}.get(arguments.method, set())
    for name in given.keys() - takes:
        raise UsageError(f"--{name.replace('_', '-')} is not for --method {arguments.method}")
    if arguments.method == "minhash":
        return MinHashConfig(**given)
    if arguments.method == "bloom":
        return BloomConfig(**given)
    return ExactConfig(on="document" if arguments.method == "exact" else "paragraph")


def _limits(allowed: list[str]) -> dict[str, float]:
    limits = {}
    for given in allowed:
        source, _, share = given.rpartition("=")
        try:
            limits[source] = float(share)
        except ValueError as error:
            raise UsageError(f"--allow {given!r}: SOURCE=SHARE is expected, like web=0.95") from error
    return limits
