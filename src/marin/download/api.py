"""Steps that bring raw text in."""

import os
from pathlib import Path
from typing import Literal

from marin.download.crawl import CrawlConfig
from marin.download.http import HttpFilesConfig, RemoteFile
from marin.download.huggingface import DownloadConfig
from marin.download.local import PATTERNS, LocalDocumentsConfig, folder_digest
from marin.download.pinned import PinnedFilesConfig
from marin.download.standard_library import StandardLibraryConfig
from marin.download.warc import WarcPagesConfig
from marin.execution.executor import ExecutorStep, InputName, this_output_path, unversioned


def standard_library(
    name: str = "documents/python", *, validation_fraction: float = 0.05, max_documents: int | None = None
) -> ExecutorStep:
    """A step whose output has train/ and validation/ documents of the running interpreter's standard library."""
    return ExecutorStep(
        name=name,
        fn="marin.download.standard_library:collect_standard_library",
        config=StandardLibraryConfig(
            output_path=this_output_path(), validation_fraction=validation_fraction, max_documents=max_documents
        ),
        description="Sources and documentation topics of the running Python, split by file",
    )


def hub_repository(
    name: str,
    repository: str,
    *,
    revision: str,
    files: tuple[str, ...] = (),
    kind: Literal["datasets", "models"] = "datasets",
) -> ExecutorStep:
    """A step that fetches a repository of the Hugging Face hub at a commit, or those of its files that match."""
    return ExecutorStep(
        name=name,
        fn="marin.download.huggingface:download_hf",
        config=DownloadConfig(
            hf_dataset_id=repository,
            revision=revision,
            hf_urls_glob=files,
            hf_repo_type_prefix=kind,
            output_path=this_output_path(),
        ),
        description=f"{repository} at {revision}",
        publish="inplace",  # an interrupted download goes on
    )


def http_files(name: str, base_url: str, *, index: str | None, files: tuple[str, ...] = ()) -> ExecutorStep:
    """A step that fetches files below `base_url`: those of an index that match `files`, or just `files` without one."""
    return ExecutorStep(
        name=name,
        fn="marin.download.http:download_http",
        config=HttpFilesConfig(base_url=base_url, index=index, files=files, output_path=this_output_path()),
        description=f"files of {base_url}" if index is None else f"files of {base_url}/{index}",
        publish="inplace",
    )


def pinned_files(name: str, *files: RemoteFile) -> ExecutorStep:
    """A step that fetches single files whose hashes are known, such as published models."""
    return ExecutorStep(
        name=name,
        fn="marin.download.pinned:download_pinned",
        config=PinnedFilesConfig(files=files, output_path=this_output_path()),
        description=", ".join(file.url for file in files),
        publish="inplace",
    )


def crawl_site(
    name: str,
    start_urls: tuple[str, ...],
    *,
    contact: str,
    max_pages: int,
    hosts: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (),
    max_depth: int | None = None,
    use_sitemaps: bool = False,
    previous: ExecutorStep | InputName | str | None = None,
    delay_s: float = 1.0,
) -> ExecutorStep:
    """A step that crawls pages into WARC files. What a site holds changes, so the step is run once and kept.

    `previous` is the step, or folder, of an earlier crawl, to whose archives pages that have not changed refer.
    """
    return ExecutorStep(
        name=name,
        fn="marin.download.crawl:crawl",
        config=CrawlConfig(
            start_urls=start_urls,
            contact=contact,
            max_pages=max_pages,
            hosts=hosts,
            prefixes=prefixes,
            max_depth=max_depth,
            use_sitemaps=use_sitemaps,
            previous=previous,  # type: ignore[arg-type]  # a path when the step runs
            delay_s=delay_s,
            output_path=this_output_path(),
        ),
        description=f"a crawl from {', '.join(start_urls)}",
        publish="inplace",  # a crawl that was killed goes on
    )


def warc_pages(name: str, archives: tuple[str, ...]) -> ExecutorStep:
    """A step that takes the HTML pages out of crawl archives: files, folders, addresses, or outputs of steps."""
    return ExecutorStep(
        name=name,
        fn="marin.download.warc:extract_pages",
        config=WarcPagesConfig(archives=archives, output_path=this_output_path()),
        description="pages of crawl archives",
    )


def local_documents(name: str, folder: str, *, patterns: tuple[str, ...] = PATTERNS) -> ExecutorStep:
    """A step that takes a folder of your own documents into the store; other text in it makes another step.

    The folder's files (.jsonl, .jsonl.gz, .jsonl.zst; others by `patterns`, like ("*.html",)) keep their places: with
    `folder/train/...`, say `documents / "train"`. They are hashed here, while the experiment is planned. Raises
    ValueError if there are none.
    """
    path = Path(folder)
    return ExecutorStep(
        name=name,
        fn="marin.download.local:take_local_documents",
        config=LocalDocumentsConfig(
            source=unversioned(os.path.abspath(path)),  # type: ignore[arg-type]
            sha256=folder_digest(path, patterns),
            output_path=this_output_path(),
            patterns=patterns,
        ),
        description=f"documents from {folder}",
    )
