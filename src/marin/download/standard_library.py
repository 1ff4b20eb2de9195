"""The Python standard library as documents: real text that every machine has, for quickstarts and tests.

One document per source file, and one per documentation topic (`help('topics')` of the interpreter). Which documents
are held out is decided by a hash of the document's name, so the split does not move when a file is added. What
differs between machines is the interpreter: its version is part of the config, so that another Python means another
step. The price of using what is at hand: a model of Python text, not of prose.
"""

import gzip
import hashlib
import io
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marin.io.atomic import write_bytes, write_text


@dataclass(frozen=True, kw_only=True)
class StandardLibraryConfig:
    """What to take of the running interpreter's library, and how to split it."""

    output_path: str
    """Folder that gets train/ and validation/ with documents-*.jsonl.gz, and provenance.json."""

    validation_fraction: float
    """Share of documents held out, in (0, 1), by a hash of the document's name."""

    python: str = platform.python_version()
    """Version of the interpreter whose library this is; must be that of the one that runs."""

    exclude: tuple[str, ...] = ("test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3")
    """Folder names left out: tests (largely data), code page tables, and what is taken as topics or going away."""

    max_documents: int | None = None
    """Take only the first so many documents of the sorted list, for a quick look; None takes all."""

    documents_per_shard: int = 100
    """Documents in one shard file; shards are the unit of parallel work later."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")


def collect_standard_library(config: StandardLibraryConfig) -> dict[str, Any]:
    """Write the documents and their provenance; returns the provenance.

    Raises ValueError if another interpreter runs than the config names, or if a split would be empty.
    """
    if config.python != platform.python_version():
        raise ValueError(
            f"python: this is Python {platform.python_version()}, the config was made for {config.python}; "
            "plan and run with one interpreter"
        )
    documents = list(standard_library_documents(config.exclude))[: config.max_documents]
    splits: dict[str, list[Mapping[str, Any]]] = {"train": [], "validation": []}
    for document in documents:
        held_out = _unit_interval(document["id"]) < config.validation_fraction
        splits["validation" if held_out else "train"].append(document)

    provenance: dict[str, Any] = {"python": config.python, "implementation": sys.version, "splits": {}}
    for split, chosen in splits.items():
        if not chosen:
            raise ValueError(f"no document fell into '{split}' of {len(documents)}; change validation_fraction")
        size = config.documents_per_shard
        for shard, start in enumerate(range(0, len(chosen), size)):
            path = Path(config.output_path) / split / f"documents-{shard:05d}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, _gzip_lines(chosen[start : start + size]))
        text = "".join(d["text"] for d in chosen).encode()
        provenance["splits"][split] = {
            "num_documents": len(chosen),
            "num_bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        }
        print(f"{split}: {len(chosen)} documents, {len(text) / 1e6:.1f} MB", flush=True)
    provenance["config"] = {k: v for k, v in asdict(config).items() if k != "output_path"}
    write_text(Path(config.output_path) / "provenance.json", json.dumps(provenance, indent=2))
    return provenance


def standard_library_documents(exclude: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """{id, text, source, metadata} of every source file and documentation topic, sorted by id.

    Files that are not UTF-8, or are empty, are left out.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {*exclude, "site-packages", "dist-packages", "__pycache__"}
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root)
        if left_out.intersection(name.parts[:-1]):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield {"id": f"lib/{name.as_posix()}", "text": text, "source": "python-sources", "metadata": {}}
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        yield {"id": f"topics/{topic}", "text": text, "source": "python-topics", "metadata": {}}


def _unit_interval(name: str) -> float:
    """A uniform number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _gzip_lines(documents: list[Mapping[str, Any]]) -> bytes:
    """Compressed JSON lines whose bytes depend on the documents alone (no clock in the header)."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    return buffer.getvalue()
