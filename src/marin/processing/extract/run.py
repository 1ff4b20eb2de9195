"""The work of the extraction stages: pages, articles, papers and threads in, documents out.

Each is a plan of the engine with one operation. What gives no document is counted by why: pages without content and
rows that are no page are dropped by a named rule; pages that would take too long, or broke a reader, are quarantined.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from marin.processing.extract.ar5iv import Ar5ivPaper
from marin.processing.extract.config import (
    Ar5ivConfig,
    ExtractConfig,
    PageOptions,
    ReadingOptions,
    StackExchangeConfig,
    WikipediaConfig,
)
from marin.processing.extract.decode import NotHtml
from marin.processing.extract.methods import method_of
from marin.processing.extract.page import extract_page
from marin.processing.extract.rows import document_row
from marin.processing.extract.stackexchange import ThreadOfJson, ThreadOfPage, ThreadOfPosts, read_posts
from marin.processing.extract.wikipedia import WikipediaArticle
from marin.processing.formats.reading import first_columns
from marin.processing.formats.splits import plan_splits
from marin.processing.pipeline import Dataset, Dropped

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.pipeline.result import Result

# Posts of a dump that make a batch.
_POSTS_A_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class ExtractPage:
    """Row function: a page to a document.

    Rows are those of crawl archives and files of HTML (marin.processing.formats.pages), or have a column of HTML as
    text or bytes. A row that its reader has no page of (`problem`) is dropped by what the problem was.
    """

    version: ClassVar[int] = 1
    name: ClassVar[str] = "extract"

    method: str
    options: PageOptions
    # `Method.identity()`: with another version of a library this is another operation.
    libraries: str
    html_column: str = "html"
    url_column: str = "url"
    source: str = "web"
    max_page_bytes: int = ReadingOptions.max_page_bytes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | Dropped:
        if problem := row.get("problem"):
            return Dropped(str(problem).partition(":")[0])
        html = row.get(self.html_column)
        if not isinstance(html, str | bytes):
            columns = ", ".join(sorted(row)[:8])
            raise ValueError(f"no HTML: column {self.html_column!r} is {type(html).__name__}; there are {columns}")
        url = str(row.get(self.url_column) or "")
        try:
            page = extract_page(html, self.method, self.options, url=url, max_bytes=self.max_page_bytes)
        except NotHtml:
            return Dropped("not HTML")
        if not page.text:
            return Dropped("empty page")
        metadata = {
            "url": url,
            **page.about.items(),
            # of a crawl archive: when the page was fetched
            "fetched": row.get("date"),
            "page": row.get("id"),
            "method": f"{self.method} {self.libraries}",
        }
        return document_row(page.text, self.source, metadata)


@dataclass(frozen=True, kw_only=True)
class ReadPosts:
    """Shard function: the posts of the dump files that rows name in `path`, in batches of bounded size.

    Each post has the name of its dump (`dump`), since threads of two sites have the same ids.
    """

    version: ClassVar[int] = 2
    name: ClassVar[str] = "read posts"

    def __call__(self, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        schema = pa.schema(
            [
                *(pa.field(name, pa.string()) for name in ("dump", "thread", "id", "body")),
                *(pa.field(name, pa.string()) for name in ("title", "accepted", "date")),
                pa.field("is_question", pa.bool_()),
                pa.field("score", pa.int64()),
                pa.field("tags", pa.list_(pa.string())),
            ]
        )
        for batch in batches:
            for file in batch.to_pylist():
                for posts in _in_lots(read_posts(file["path"]), _POSTS_A_BATCH):
                    yield pa.RecordBatch.from_pylist([{"dump": file["dump"], **post} for post in posts], schema=schema)


def extract(config: ExtractConfig) -> "Result":
    """Documents of pages. Raises ValueError where the first file has no column of them."""
    operation = ExtractPage(
        method=config.method,
        options=config.options,
        libraries=method_of(config.method).identity(),
        html_column=config.html_column,
        url_column=config.url_column,
        source=config.source,
        max_page_bytes=config.reading.max_page_bytes,
    )
    _check_columns(config)
    return _documents_of_rows(config.input_path, operation, config.output_path, config.reading)


def _check_columns(config: ExtractConfig) -> None:
    """ValueError where the first file lacks the column of pages, or one of addresses that is not the default's."""
    splits = plan_splits(config.input_path)
    columns = first_columns(splits)
    if columns is None:
        return
    for option, name in (("html_column", config.html_column), ("url_column", config.url_column)):
        if name not in columns and (option, name) != ("url_column", "url"):
            raise ValueError(
                f"{splits[0].path}: no column {name!r}; the columns are {', '.join(columns)}. Name another "
                f"one: {option}= (--{option.replace('_', '-')})"
            )


def extract_wikipedia(config: WikipediaConfig) -> "Result":
    """Documents of articles."""
    operation = WikipediaArticle(format=config.format, source=config.source)
    return _documents_of_rows(config.input_path, operation, config.output_path, config.reading)


def extract_ar5iv(config: Ar5ivConfig) -> "Result":
    """Documents of papers."""
    operation = Ar5ivPaper(format=config.format, source=config.source)
    return _documents_of_rows(config.input_path, operation, config.output_path, config.reading)


def extract_stackexchange(config: StackExchangeConfig) -> "Result":
    """Documents of threads. Raises ValueError where `site` is given for several dumps: it would be but one's."""
    if config.form != "posts":
        rows = ThreadOfJson if config.form == "api" else ThreadOfPage
        operation = rows(format=config.format, source=config.source)
        return _documents_of_rows(config.input_path, operation, config.output_path, config.reading)
    files = posts_files(config.input_path)
    if config.site and len(files) > 1:
        raise ValueError(
            f"site is {config.site!r}, and {config.input_path} has {len(files)} dumps ({files[0]}, {files[1]}, ...): "
            "extract each by itself, with its own site, or give no site"
        )
    # size and time of a file say whether it is the one that was read before
    items = [
        {"path": str(file), "dump": dump, "size": (stat := file.stat()).st_size, "mtime_ns": stat.st_mtime_ns}
        for file, dump in zip(files, names_of_dumps(files), strict=True)
    ]
    posts = Dataset.from_items(items, num_shards=len(items)).map_shard(ReadPosts())
    reducer = ThreadOfPosts(format=config.format, source=config.source, site=config.site)
    threads = posts.group_by(("dump", "thread"), reducer)
    return threads.write_parquet(config.output_path).run(
        workers=config.reading.num_workers, max_bad=config.reading.max_bad
    )


def posts_files(path: str) -> list[Path]:
    """The files Posts.xml at a path: a file, a glob, or a folder with all below. Raises FileNotFoundError for none."""
    given = Path(path)
    if given.is_dir():
        files = sorted(given.rglob("Posts.xml"))
    else:
        files = [Path(found) for found in sorted(glob.glob(path, recursive=True))]
    if not files:
        raise FileNotFoundError(f"no Posts.xml at {path}: unpack a dump (7z x NAME.7z Posts.xml), and name it here")
    return files


def names_of_dumps(files: Sequence[Path]) -> list[str]:
    """What tells the dumps apart: each file's path below the folder of all, a name Posts.xml left out; "" for one."""
    if len(files) == 1:
        return [""]
    common = os.path.commonpath([file.parent for file in files])
    paths = [file.relative_to(common) for file in files]
    return [(path.parent if path.name == "Posts.xml" else path).as_posix() for path in paths]


def _documents_of_rows(
    input_path: str, operation: Callable[..., Any], output_path: str, reading: ReadingOptions
) -> "Result":
    return (
        Dataset.from_files(input_path)
        .map(operation, timeout_s=reading.timeout_s)
        .write_parquet(output_path)
        .run(workers=reading.num_workers, max_bad=reading.max_bad)
    )


def _in_lots(posts: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    lot: list[dict[str, Any]] = []
    for post in posts:
        lot.append(post)
        if len(lot) == size:
            yield lot
            lot = []
    if lot:
        yield lot
