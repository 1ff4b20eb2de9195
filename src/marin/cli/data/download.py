"""Gets text: a repository of the Hugging Face hub, files over HTTP, a crawl of web sites, the pages of crawl archives.

hf takes a repository at a commit (--revision), http the files below an address that an index there names (--index),
crawl the pages of sites from their addresses on, warc the HTML pages out of archives here or at addresses. Each can be
stopped and typed again, and goes on where it was. An experiment has the same as steps, by `marin.download.api`.

The crawler minds robots.txt, asks a host once in --delay seconds, and names your --contact to whom it asks.
"""

import contextlib
import os
import shlex
import tempfile
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from marin.cli.data.outputs import check_output
from marin.cli.errors import told
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin data download hf allenai/c4 --revision 1588ec4 --files "en/*-0000?-*" --out raw/c4
  marin data download http https://data.example/set --index files.txt --out raw/set
  marin data download crawl https://docs.example/ --contact me@project.example --max-pages 500 --out raw/docs
  marin data download warc raw/docs --out pages/docs
"""

_KINDS = ("hf", "http", "crawl", "warc")
_FLAGS = {  # flag -> the kinds that take it
    "revision": ("hf",),
    "kind": ("hf",),
    "files": ("hf", "http"),
    "index": ("http",),
    "contact": ("crawl",),
    "max_pages": ("crawl",),
    "max_depth": ("crawl",),
    "hosts": ("crawl",),
    "below": ("crawl",),
    "sitemaps": ("crawl",),
    "previous": ("crawl",),
    "delay": ("crawl",),
}
_NEEDED = {"hf": ("revision",), "http": ("index",), "crawl": ("contact", "max_pages"), "warc": ()}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", metavar="hf|http|crawl|warc", choices=_KINDS, help="from where")
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a repository, addresses, or archives")
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder that gets it")
    parser.add_argument("--revision", metavar="COMMIT", help="hf: the commit, 7 digits at least")
    parser.add_argument("--kind", choices=("datasets", "models"), help="hf: of the repository (datasets)")
    parser.add_argument("--files", metavar="GLOB", nargs="+", help="hf, http: only files whose paths match")
    parser.add_argument("--index", metavar="FILE", help="http: the list of files, a path a line, below the address")
    parser.add_argument("--contact", metavar="WHO", help="crawl: your e-mail address or page, which the crawler names")
    parser.add_argument("--max-pages", metavar="N", type=int, help="crawl: answers after which it ends")
    parser.add_argument("--max-depth", metavar="N", type=int, help="crawl: links from the start (no limit)")
    parser.add_argument("--hosts", metavar="HOST", nargs="+", help="crawl: hosts that may be asked (those of SOURCE)")
    parser.add_argument("--below", metavar="URL", nargs="+", help="crawl: only addresses that begin so")
    parser.add_argument(
        "--previous", metavar="DIR", help="crawl: folder of an earlier crawl, whose unchanged pages are referred to"
    )
    parser.add_argument("--sitemaps", action="store_true", default=None, help="crawl: read sitemaps too")
    parser.add_argument("--delay", metavar="SECONDS", type=float, help="crawl: between two requests to a host (1)")
    parser.add_argument("--json", action="store_true", help="what came, as one JSON object")


def run(arguments: Namespace) -> int:
    _check(arguments)

    archives = arguments.sources if arguments.what == "warc" else []
    check_output(arguments.out, [*archives, *([arguments.previous] if arguments.previous else [])])
    work, config = _work(arguments)
    with told(), _progress():
        summary = work(config)
    if arguments.json:
        print_json({"out": arguments.out, **summary})
        return 0
    print(_told(arguments.what, summary))
    note(f"Next: marin data {'stats' if arguments.what == 'crawl' else 'head'} {shlex.quote(arguments.out)}")
    return 0


def _check(arguments: Namespace) -> None:
    for name, kinds in _FLAGS.items():
        if getattr(arguments, name) is not None and arguments.what not in kinds:
            raise UsageError(f"--{name.replace('_', '-')} is for {' and '.join(kinds)}, not {arguments.what}")
    for name in _NEEDED[arguments.what]:
        if getattr(arguments, name) is None:
            raise UsageError(f"marin data download {arguments.what} needs --{name.replace('_', '-')}")
    if arguments.what in ("hf", "http") and len(arguments.sources) > 1:
        raise UsageError(f"marin data download {arguments.what} takes one SOURCE, got {len(arguments.sources)}")


def _work(arguments: Namespace) -> tuple[Any, Any]:
    """(what to call, its config)."""
    source, files = arguments.sources[0], tuple(arguments.files or ())
    with told():
        if arguments.what == "hf":
            from marin.download.huggingface import DownloadConfig, download_hf

            return download_hf, DownloadConfig(
                hf_dataset_id=source,
                revision=arguments.revision,
                hf_urls_glob=files,
                hf_repo_type_prefix=arguments.kind or "datasets",
                output_path=arguments.out,
            )
        if arguments.what == "http":
            from marin.download.http import HttpFilesConfig, download_http

            return download_http, HttpFilesConfig(
                base_url=source, index=arguments.index, files=files, output_path=arguments.out
            )
        if arguments.what == "warc":
            from marin.download.warc import WarcPagesConfig, extract_pages

            return extract_pages, WarcPagesConfig(archives=tuple(arguments.sources), output_path=arguments.out)
        from marin.download.crawl import CrawlConfig, crawl

        return crawl, CrawlConfig(
            start_urls=tuple(arguments.sources),
            contact=arguments.contact,
            max_pages=arguments.max_pages,
            max_depth=arguments.max_depth,
            hosts=tuple(arguments.hosts or ()),
            prefixes=tuple(arguments.below or ()),
            use_sitemaps=bool(arguments.sitemaps),
            previous=arguments.previous,
            delay_s=1.0 if arguments.delay is None else arguments.delay,
            output_path=arguments.out,
        )


def _told(what: str, summary: dict[str, Any]) -> str:
    from marin.cli.output import size

    if what == "warc":
        return "\n".join(f"{count:>8,}  {kind}" for kind, count in summary["total"].items()) or "no responses"
    if what == "crawl":
        lines = [f"{summary['num_pages']:>8,}  answers in {', '.join(summary['archives']) or 'no archive'}"]
        for state in ("done", "failed", "refused"):
            lines += [f"{count:>8,}  {state}: {outcome}" for outcome, count in summary[state].items()]
        lines += [f"{summary['left']:>8,}  known and not asked for"] if summary["left"] else []
        lines += [
            f"{url} leads to {target}, which is no host of this crawl: --hosts"
            for url, target in summary["outside"].items()
        ]
        return "\n".join(lines)
    return f"{len(summary['files']):,} files, {size(summary['num_bytes'])}"


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Lines on stderr now and then, of what the work reports as a step would."""
    from marin.tracking.progress import read_progress

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "progress.json")
        before = os.environ.get("MARIN_PROGRESS_FILE")
        os.environ["MARIN_PROGRESS_FILE"] = path
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(10.0):
                if report := read_progress(path):
                    total = f" of {report['total']:,.6g}" if report["total"] else ""
                    note(f"{report['done']:,.6g}{total} {report['unit']}")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            stop.set()
            teller.join()
            if before is None:
                del os.environ["MARIN_PROGRESS_FILE"]
            else:
                os.environ["MARIN_PROGRESS_FILE"] = before
