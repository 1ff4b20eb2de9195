"""The standard library as documents."""

import gzip
import json
import platform
from pathlib import Path

import pytest

from marin.download.standard_library import StandardLibraryConfig, collect_standard_library


def collect(path: Path, **changes) -> dict:
    values = {"output_path": str(path), "validation_fraction": 0.2, "max_documents": 120, "documents_per_shard": 30}
    return collect_standard_library(StandardLibraryConfig(**(values | changes)))


def read(path: Path) -> dict[str, dict]:
    files = sorted(path.glob("*.jsonl.gz"))
    rows = [json.loads(line) for f in files for line in gzip.decompress(f.read_bytes()).decode().splitlines()]
    assert len({r["id"] for r in rows}) == len(rows)
    return {r["id"]: r for r in rows}


def test_no_document_is_in_both_splits_and_none_is_lost(tmp_path: Path):
    provenance = collect(tmp_path)
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 120
    assert provenance["splits"]["train"]["num_documents"] == len(train)
    assert all(set(row) == {"id", "text", "source", "metadata"} for row in train.values())


def test_a_document_keeps_its_split_when_others_come(tmp_path: Path):
    collect(tmp_path / "few")
    collect(tmp_path / "more", max_documents=200)
    assert set(read(tmp_path / "few" / "validation")) <= set(read(tmp_path / "more" / "validation"))


def test_collecting_twice_writes_the_same_bytes(tmp_path: Path):
    collect(tmp_path / "a")
    collect(tmp_path / "b")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.gz"))
    assert names and all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_another_interpreter_than_planned_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=rf"this is Python {platform.python_version()}, the config was made for 3\.0\.0"
    ):
        collect(tmp_path, python="3.0.0")


def test_an_empty_split_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no document fell into 'validation'"):
        collect(tmp_path, max_documents=2, validation_fraction=0.001)
