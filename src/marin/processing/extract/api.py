"""Steps that make documents of pages, articles, papers and threads.

The work functions are named, not imported, so that defining an experiment loads no parser. They publish in place: an
interrupted step finds its complete shards again. The versions of the method and of the libraries that decide the text
are part of a step's identity, so another version of a library is another output, and not a silent difference.
"""

from typing import Any, TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.extract.config import (
    Ar5ivConfig,
    ArticleFormat,
    ExtractConfig,
    PageOptions,
    PaperFormat,
    ReadingOptions,
    StackExchangeConfig,
    ThreadFormat,
    WikipediaConfig,
)
from marin.processing.extract.methods import TRANSFORM_LIBRARIES, TRANSFORM_VERSION, identity_of, method_of

PathLike: TypeAlias = ExecutorStep | InputName | str


def extract_html(
    name: str,
    pages: PathLike,
    method: str,
    options: PageOptions,
    *,
    html_column: str = "html",
    url_column: str = "url",
    source: str | None = None,
    reading: ReadingOptions | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `documents/<name>` that extracts documents from pages by a method (config.METHOD_NAMES).

    `pages` is a step, a folder in one, or a path with crawl archives, files of HTML, or rows with a column of HTML.
    `source` is what the documents have as their source, `name` by default. Raises ValueError where a library that the
    method needs is not installed, naming the extra that brings it.
    """
    config = ExtractConfig(
        input_path=pages,  # type: ignore[arg-type]  # a path when the step runs
        output_path=this_output_path(),  # type: ignore[arg-type]
        method=method,
        options=options,
        html_column=html_column,
        url_column=url_column,
        source=name if source is None else source,
        reading=reading or ReadingOptions(),
    )
    what = description or f"{options.output} of {name}, extracted by {method}"
    return _step(name, "extract", config, method_of(method).identity(), what, tags)


def extract_wikipedia(
    name: str,
    dump: PathLike,
    format: ArticleFormat | None = None,
    *,
    reading: ReadingOptions | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `documents/<name>` that makes documents of the articles of Wikipedia's HTML dumps."""
    config = WikipediaConfig(
        input_path=dump,  # type: ignore[arg-type]
        output_path=this_output_path(),  # type: ignore[arg-type]
        format=format or ArticleFormat(),
        reading=reading or ReadingOptions(),
    )
    return _step(name, "extract_wikipedia", config, _transform_version(), description or f"articles of {name}", tags)


def extract_ar5iv(
    name: str,
    papers: PathLike,
    format: PaperFormat | None = None,
    *,
    reading: ReadingOptions | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `documents/<name>` that makes documents of papers in ar5iv's HTML."""
    config = Ar5ivConfig(
        input_path=papers,  # type: ignore[arg-type]
        output_path=this_output_path(),  # type: ignore[arg-type]
        format=format or PaperFormat(),
        reading=reading or ReadingOptions(),
    )
    return _step(name, "extract_ar5iv", config, _transform_version(), description or f"papers of {name}", tags)


def extract_stackexchange(
    name: str,
    threads: PathLike,
    form: str,
    format: ThreadFormat | None = None,
    *,
    site: str = "",
    reading: ReadingOptions | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `documents/<name>` that makes documents of StackExchange's threads, which come in a form of THREAD_FORMS.

    `site` is the address of the site that a dump is of.
    """
    config = StackExchangeConfig(
        input_path=threads,  # type: ignore[arg-type]
        output_path=this_output_path(),  # type: ignore[arg-type]
        form=form,
        format=format or ThreadFormat(),
        site=site,
        reading=reading or ReadingOptions(),
    )
    return _step(name, "extract_stackexchange", config, _transform_version(), description or f"threads of {name}", tags)


def _transform_version() -> str:
    return identity_of(TRANSFORM_VERSION, TRANSFORM_LIBRARIES, "data")


def _step(name: str, function: str, config: Any, version: str, description: str, tags: frozenset[str]) -> ExecutorStep:
    return ExecutorStep(
        name=f"documents/{name}",
        fn=f"marin.processing.extract.run:{function}",
        config=config,
        description=description,
        publish="inplace",
        code_version=version,
        tags=tags,
    )
