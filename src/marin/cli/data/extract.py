"""Makes documents of pages: text or Markdown of their content, without navigation, comments and advertising.

INPUT is a file, a folder with all below, or a glob in quotes: crawl archives (.warc, .warc.gz), files of HTML, and rows
(JSON lines, parquet, Arrow) with a column of HTML. OUTPUT becomes a folder of parquet files with id, text, source and
metadata (url, title, date, language, method), and _funnel.json, which tells what became of every page. The same command
again goes on where it was stopped.

ours is the default method; resiliparse, trafilatura and readability need the extra `extractors`.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.data.inputs import note_passed_over
from marin.cli.data.outputs import check_output, note_bad
from marin.cli.errors import told
from marin.cli.output import note, print_json

EXAMPLES = """\
  marin data extract pages.warc.gz documents/
  marin data extract "site/**/*.html" documents/ --output text --source handbook
  marin data extract rows.parquet documents/ --html-column content --method trafilatura
"""


def add_arguments(parser: ArgumentParser) -> None:
    from marin.processing.extract.config import METHOD_NAMES, OUTPUTS, ReadingOptions

    parser.add_argument("input", metavar="INPUT", help="pages: files, a folder, a glob")
    parser.add_argument("output_path", metavar="OUTPUT", help="folder of the documents")
    parser.add_argument("--method", choices=METHOD_NAMES, default="ours", help="how content is found (ours)")
    parser.add_argument("--output", choices=OUTPUTS, default="markdown", help="what is written (markdown)")
    parser.add_argument("--keep-links", action="store_true", help="links as [text](address), in Markdown")
    parser.add_argument("--keep-images", action="store_true", help="images as ![text](address), in Markdown")
    parser.add_argument("--keep-references", action="store_true", help="marks of references and footnotes, as [1]")
    parser.add_argument("--html-column", default="html", metavar="NAME", help="of rows: the column of HTML (html)")
    parser.add_argument("--url-column", default="url", metavar="NAME", help="of rows: the column of addresses (url)")
    parser.add_argument("--source", default="web", metavar="NAME", help="what documents have as their source (web)")
    parser.add_argument(
        "--max-bad",
        type=float,
        default=ReadingOptions.max_bad,
        metavar="SHARE",
        help=f"largest share of pages that may be quarantined ({ReadingOptions.max_bad:g})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=ReadingOptions.timeout_s,
        metavar="SECONDS",
        help=f"CPU time after which a page is quarantined ({ReadingOptions.timeout_s:g})",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a CPU)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.processing.extract.config import ExtractConfig, PageOptions, ReadingOptions
    from marin.processing.extract.run import extract

    check_output(arguments.output_path, [arguments.input])
    note_passed_over(arguments.input)
    with told():
        config = ExtractConfig(
            input_path=arguments.input,
            output_path=arguments.output_path,
            method=arguments.method,
            options=PageOptions(
                output=arguments.output,
                keep_links=arguments.keep_links,
                keep_images=arguments.keep_images,
                keep_references=arguments.keep_references,
            ),
            html_column=arguments.html_column,
            url_column=arguments.url_column,
            source=arguments.source,
            reading=ReadingOptions(
                timeout_s=arguments.timeout, max_bad=arguments.max_bad, num_workers=arguments.workers
            ),
        )
        result = extract(config)
    operation = next(counts for counts in result.funnel if counts.name == "extract")
    if arguments.json:
        print_json(
            {
                "path": result.path,
                "files": result.files,
                "counters": result.counters,
                "dropped": dict(operation.dropped),
                "bad": dict(operation.bad),
            }
        )
        return 0
    for reason, num_rows in sorted(operation.dropped.items(), key=lambda item: (-item[1], item[0])):
        print(f"{num_rows:,} dropped: {reason}")
    note_bad(result)
    note(f"Next: marin data head {result.path}")
    return 0
