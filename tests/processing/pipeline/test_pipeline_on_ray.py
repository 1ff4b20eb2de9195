"""The same plans as tasks of a Ray cluster: the same bytes, whatever machines are lost on the way."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")

import marin
from marin.processing.pipeline import Dataset
from marin.processing.pipeline.reducers import KeepFirst
from marin.processing.tokenize.config import TokenizeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.testing.tiny import tiny_documents, write_byte_tokenizer, write_documents
from ray_nodes import Nodes, running_nodes, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    source = str(Path(marin.__file__).parent.parent)
    with running_nodes(source, str(Path(__file__).parent), str(Path(__file__).parents[2])) as running:
        running.add()
        running.wait_for_all()
        yield running


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(6):
        rows = [{"id": f"{number}-{i}", "key": f"k{(number * 50 + i) % 90}", "n": i} for i in range(50)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def outputs(folder: Path, files: list[str]) -> list[bytes]:
    return [(folder / name).read_bytes() for name in [*files, "_funnel.json"]]


def test_the_same_bytes_come_out_on_a_cluster(nodes: Nodes, corpus: str, tmp_path: Path):
    prefix = "x"

    def local(row: dict[str, Any]) -> dict[str, Any]:  # known to this process alone, so it must be sent
        if row["n"] == 7:
            raise ValueError("seven: bad")
        return {**row, "key": prefix + row["key"]}

    plan = Dataset.from_files(corpus, split_bytes=800).map(local).group_by("key", KeepFirst(), num_shards=3)
    here = plan.write_parquet(str(tmp_path / "here")).run(workers=0, max_bad=1)
    there = plan.write_parquet(str(tmp_path / "there")).run(backend="ray", address=nodes.address, max_bad=1)
    assert outputs(tmp_path / "there", there.files) == outputs(tmp_path / "here", here.files)
    assert there.counters == here.counters and here.counters["bad"] == 6


def test_the_tokenizing_step_makes_the_same_store_on_a_cluster(nodes: Nodes, tmp_path: Path, monkeypatch):
    documents = write_documents(tmp_path / "documents", tiny_documents(60), num_shards=3)
    (documents / "damaged.jsonl.gz").write_bytes(b"no gzip")
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    here, there = (
        TokenizeConfig(
            input_path=str(documents),
            output_path=str(tmp_path / backend),
            tokenizer=str(tokenizer),
            num_workers=2,
            backend=backend,
        )
        for backend in ("local", "ray")
    )
    for config in (here, there):
        with pytest.raises(RuntimeError, match=r"1 of 4 shards were not tokenized:\n  damaged.jsonl.gz: Dam"):
            tokenize(config)
    (documents / "damaged.jsonl.gz").unlink()
    assert tokenize(there) == tokenize(here)
    files = {file.relative_to(tmp_path / "local") for file in (tmp_path / "local").rglob("*") if file.is_file()}
    assert len(files) > 12
    assert all((tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes() for file in files)


def test_an_exception_on_a_cluster_is_told_as_here(nodes: Nodes, corpus: str, tmp_path: Path):
    def broken(row: dict[str, Any]) -> dict[str, Any]:
        return row if row["id"] != "3-3" else row["absent"]

    plan = Dataset.from_files(corpus, split_bytes=800).map(broken).write_parquet(str(tmp_path / "out"))
    with pytest.raises(RuntimeError, match=r"broken: row '3-3': KeyError: 'absent'"):
        plan.run(backend="ray", address=nodes.address)


def test_rows_with_a_time_limit_are_watched_on_a_cluster(nodes: Nodes, tmp_path: Path):
    def stuck(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == "2":
            sum(range(10**13))
        return row

    rows = [{"id": str(i)} for i in range(4)]
    plan = Dataset.from_items(rows).map(stuck, timeout_s=0.5).write_parquet(str(tmp_path / "out"))
    result = plan.run(backend="ray", address=nodes.address, max_bad=1)
    assert result.funnel[1].bad == {"timeout": 1}


def test_a_lost_machine_costs_nothing_but_time(nodes: Nodes, corpus: str, tmp_path: Path):
    started = tmp_path / "started"

    def slowly(row: dict[str, Any]) -> dict[str, Any]:
        with open(f"{started}-{os.environ['RAY_NODE_ID']}" if "RAY_NODE_ID" in os.environ else started, "a"):
            time.sleep(0.01)
        return row

    plan = Dataset.from_files(corpus, split_bytes=800).map(slowly)
    here = plan.write_parquet(str(tmp_path / "here")).run(workers=0)
    for file in tmp_path.glob("started*"):
        file.unlink()
    extra = nodes.add()
    nodes.wait_for_all()
    done: list[Any] = []
    run = threading.Thread(
        target=lambda: done.append(
            plan.write_parquet(str(tmp_path / "there")).run(backend="ray", address=nodes.address, retries=3)
        )
    )
    run.start()
    wait_until(lambda: list(tmp_path.glob("started*")), "the first rows")
    nodes.kill(extra)
    run.join(timeout=120)
    assert done, "the run failed or hangs"
    assert outputs(tmp_path / "there", done[0].files) == outputs(tmp_path / "here", here.files)
