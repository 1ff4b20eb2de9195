"""Does extraction keep what readers came for, drop the rest, and how many pages does it read a second?

Two public sets of pages judge the text (a folder of public data is named by $MARIN_SHARED_DATA or stands beside the
checkout). On trafilatura's annotated pages, strings that must be in the text and strings that must not: a string of the
first kind that is there is a true positive, one of the second kind a false positive, as in trafilatura's own
evaluation. Our rules were tuned on the pages whose name hashes to an even number, so the figures of the other half are
the honest ones. On readability's pages, precision and recall of the words of the article that its authors expect.

Speed is pages a second of CPU time, over trafilatura's pages: methods take turns, block by block, so that whatever else
the machine does falls on all alike; of all rounds the quickest counts. With --docs, a folder of HTML documentation: of
the lines of code that begin with white space, the share that is in the text with its white space.

    python benchmarks/bench_extract.py --docs FOLDER      writes benchmarks/results/extract.md
    python benchmarks/bench_extract.py --no_write
"""

import argparse
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser

from marin.io.charset import decode_html
from marin.processing.extract.config import PageOptions
from marin.processing.extract.page import extract_page

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "extract.md"
DATA = Path(os.environ.get("MARIN_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "html"
ROUNDS = 3
BLOCK = 40  # pages that a method reads before it is the next one's turn
DOCS_PAGES = 200
MAX_DOCS_BYTES = 300_000
TEXT, MARKDOWN = PageOptions(output="text"), PageOptions(output="markdown")
WORD = re.compile(r"\w+")

Extract = Callable[[bytes], str]


class Annotated(NamedTuple):
    """A page with strings that its text must have, and must not have."""

    name: str
    html: bytes
    wanted: list[str]
    unwanted: list[str]


class Quality(NamedTuple):
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def through_page(method: str, options: PageOptions) -> Extract:
    """A method as the extraction stage runs it: bytes are decoded, the title and date are read."""
    return lambda html: extract_page(html, method, options).text


def trafilatura_with(*, fast: bool = False, precision: bool = False, recall: bool = False) -> Extract:
    from trafilatura import extract

    return lambda html: (
        extract(decode_html(html)[0], include_comments=False, fast=fast, favor_precision=precision, favor_recall=recall)
        or ""
    )


def main_part_by_html_to_markdown(html: bytes) -> str:
    """Our choice of the content, the converter library's Markdown: what our writer is compared with."""
    from html_to_markdown import convert

    from marin.processing.extract.content import main_content
    from marin.processing.extract.decode import decode_page
    from marin.processing.extract.tree import parse

    tree = parse(decode_page(html))
    main_content(tree)
    return convert((tree.body and tree.body.html) or "").content or ""


def whole_body(html: bytes) -> str:
    """The text of all elements but scripts and styles: the least that any method must beat."""
    tree = LexborHTMLParser(decode_html(html)[0].encode())
    for node in tree.css("script, style, noscript, head"):
        node.decompose()
    return " ".join(tree.text(separator=" ").split())


def methods() -> dict[str, Extract]:
    return {
        "ours, text": through_page("ours", TEXT),
        "ours, Markdown": through_page("ours", MARKDOWN),
        "trafilatura": trafilatura_with(),
        "trafilatura, fast": trafilatura_with(fast=True),
        "trafilatura, precision": trafilatura_with(precision=True),
        "trafilatura, recall": trafilatura_with(recall=True),
        "resiliparse": through_page("resiliparse", TEXT),
        "readability-lxml": through_page("readability", TEXT),
        "whole body": whole_body,
    }


def annotated_pages() -> list[Annotated]:
    records = json.loads((DATA / "trafilatura" / "evaldata.json").read_text(encoding="utf-8")).values()
    folder = DATA / "trafilatura" / "eval"
    return [Annotated(r["file"], (folder / r["file"]).read_bytes(), r["with"], r["without"]) for r in records]


def is_tuned_on(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def quality(texts: dict[str, str], pages: list[Annotated]) -> Quality:
    kept = [wanted in texts[page.name] for page in pages for wanted in page.wanted]
    slipped = [unwanted in texts[page.name] for page in pages for unwanted in page.unwanted]
    return Quality(sum(kept) / max(sum(kept) + sum(slipped), 1), sum(kept) / len(kept))


def words_of(text: str) -> Counter[str]:
    return Counter(WORD.findall(text))


def word_quality(extract: Extract) -> tuple[Quality, float]:
    """(mean precision and recall, mean F1) of words over readability's pages."""
    scores = []
    for folder in sorted((DATA / "readability").iterdir()):
        expected_html = (folder / "expected.html").read_bytes()
        expected = words_of(LexborHTMLParser(expected_html).text(separator=" "))
        found = words_of(extract((folder / "source.html").read_bytes()))
        common = (expected & found).total()
        scores.append(Quality(common / max(found.total(), 1), common / max(expected.total(), 1)))
    mean = Quality(sum(s.precision for s in scores) / len(scores), sum(s.recall for s in scores) / len(scores))
    return mean, sum(s.f1 for s in scores) / len(scores)


def race(names: list[str], num_pages: int, rounds: int) -> tuple[dict[str, float], dict[str, dict[str, str]]]:
    """(pages a second of CPU time, the texts by method and page). Of each page the quickest of all rounds counts.

    Each method has a process of its own, as it would have at work, so that none pays for another's memory.
    """
    starts = range(0, num_pages, BLOCK)
    rounds_of: dict[str, list[list[float]]] = {name: [] for name in names}
    texts: dict[str, dict[str, str]] = {name: {} for name in names}
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for name in names}
        for _ in range(rounds):
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for start in starts:
                for name, worker in workers.items():
                    of_pages, extracted = worker.submit(read_block, name, start).result()
                    seconds[name] += of_pages
                    texts[name].update(extracted)
            for name in names:
                rounds_of[name].append(seconds[name])
    return {name: num_pages / sum(map(min, zip(*rounds_of[name], strict=True))) for name in names}, texts


def read_block(name: str, start: int) -> tuple[list[float], dict[str, str]]:
    """(CPU seconds that a method needs for each page of a block, the texts); in a process of the method's own."""
    logging.disable(logging.CRITICAL)
    extract = raced()[name]
    seconds, texts = [], {}
    for page in _all_pages()[start : start + BLOCK]:
        began = time.process_time_ns()
        texts[page.name] = extract(page.html)
        seconds.append((time.process_time_ns() - began) / 1e9)
    return seconds, texts


def raced() -> dict[str, Extract]:
    return {**methods(), "ours, html-to-markdown": main_part_by_html_to_markdown}


@cache
def _all_pages() -> list[Annotated]:
    return annotated_pages()


def documentation_pages(folder: Path) -> list[bytes]:
    """Pages with code, spread evenly over the folder's files in order of their paths' hashes."""
    files = sorted(folder.rglob("*.html"), key=lambda f: hashlib.sha256(str(f.relative_to(folder)).encode()).digest())
    pages = []
    for file in files:
        if len(pages) == DOCS_PAGES:
            break
        if file.is_file() and file.stat().st_size <= MAX_DOCS_BYTES:
            html = file.read_bytes()
            if code_lines(html):
                pages.append(html)
    return pages


def code_lines(html: bytes) -> list[str]:
    tree = LexborHTMLParser(html)
    for node in tree.css(".linenos, .lineno, .linenodiv, .gutter"):
        node.decompose()
    lines = [line for pre in tree.css("pre") for line in pre.text().replace("\xa0", " ").split("\n")]
    return [line.rstrip() for line in lines if line[:1].isspace() and line.strip()]


def code_kept(extract: Extract, pages: list[bytes]) -> float:
    """Share of indented lines of code that are in the text; a list or definition may have moved them to the right."""
    kept = total = 0
    for html in pages:
        have = [line.rstrip() for line in extract(html).split("\n")]
        exact, stripped = set(have), {line.strip(): line for line in have}
        lines = code_lines(html)
        total += len(lines)
        kept += sum(line in exact or stripped.get(line.strip(), "").endswith(line) for line in lines)
    return kept / max(total, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder of HTML documentation, for lines of code")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no_write", action="store_true")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"no pages at {DATA}: set MARIN_SHARED_DATA to a folder that has html/trafilatura")
    logging.disable(logging.CRITICAL)
    report = measure(arguments.docs, arguments.rounds)
    print(report)
    if not arguments.no_write:
        RESULT.write_text(report, encoding="utf-8")


def measure(docs: Path | None, rounds: int) -> str:
    pages = annotated_pages()
    tuned = [page for page in pages if is_tuned_on(page.name)]
    other = [page for page in pages if not is_tuned_on(page.name)]
    candidates = methods()
    speed, texts = race(list(raced()), len(pages), rounds)
    lines = [
        "# Extraction of pages",
        "",
        f"{len(pages)} annotated pages ({len(tuned)} tuned on, {len(other)} not), a mean of "
        f"{sum(len(page.html) for page in pages) // len(pages):,} bytes.",
        "What is measured and how: the first lines of `benchmarks/bench_extract.py`.",
        "",
        "| method | F1, pages not tuned on | F1, tuned on | precision, all | recall, all | F1, all | pages a CPU "
        "second | times trafilatura |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in candidates:
        whole = quality(texts[name], pages)
        lines.append(
            f"| {name} | {quality(texts[name], other).f1:.3f} | {quality(texts[name], tuned).f1:.3f} | "
            f"{whole.precision:.3f} | {whole.recall:.3f} | {whole.f1:.3f} | {speed[name]:,.0f} | "
            f"{speed[name] / speed['trafilatura']:.1f} |"
        )
    lines += [
        "",
        "Markdown is judged by the same strings, though its marks of emphasis and code stand within some of them. With "
        f"html-to-markdown in place of our writer: {speed['ours, html-to-markdown']:,.0f} pages a second.",
        "",
        "## Words of readability's articles",
        "",
        "| method | precision | recall | F1 |",
        "|---|---|---|---|",
    ]
    for name, extract in candidates.items():
        mean, f1 = word_quality(extract)
        lines.append(f"| {name} | {mean.precision:.3f} | {mean.recall:.3f} | {f1:.3f} |")
    if docs is not None:
        lines += ["", *code_table(docs)]
    libraries = ("selectolax", "html-to-markdown", "trafilatura", "resiliparse", "readability-lxml")
    return "\n".join(
        [
            *lines,
            "",
            f"Machine: {_cpu_name()}, {os.cpu_count()} shared cores, CPython {platform.python_version()}, ten million "
            f"additions {ten_million_additions():.2f} s.",
            f"{', '.join(f'{name} {version(name)}' for name in libraries)}.",
            "",
        ]
    )


def code_table(docs: Path) -> list[str]:
    pages = documentation_pages(docs)
    ways = {
        "ours, Markdown": through_page("ours", MARKDOWN),
        "ours, text": through_page("ours", TEXT),
        "trafilatura, Markdown": through_page("trafilatura", MARKDOWN),
        "resiliparse, Markdown": through_page("resiliparse", MARKDOWN),
        "readability-lxml, Markdown": through_page("readability", MARKDOWN),
    }
    num_lines = sum(len(code_lines(html)) for html in pages)
    return [
        "## Indented lines of code",
        "",
        f"{len(pages)} pages of software documentation with {num_lines:,} such lines.",
        "",
        "| method | kept |",
        "|---|---|",
        *(f"| {name} | {code_kept(extract, pages):.1%} |" for name, extract in ways.items()),
    ]


def ten_million_additions() -> float:
    """How fast the machine was: CPU seconds of a loop that every Python runs alike."""
    began = time.process_time()
    number = 0
    for _ in range(10_000_000):
        number += 1  # noqa: SIM113 (the additions are what is measured)
    return time.process_time() - began


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
