"""Deduplication and decontamination as steps: documents of one are the input of the other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from document_folders import read_rows
from marin.execution.executor import InputName, run
from marin.execution.graph import build_graph
from marin.processing.decontaminate.api import remove_evaluation_items
from marin.processing.decontaminate.config import EvaluationSet
from marin.processing.dedup import minhash
from marin.processing.dedup import run as run_of_dedup
from marin.processing.dedup.api import deduplicate
from marin.processing.dedup.config import DedupConfig, ExactConfig, MinHashConfig
from marin.processing.dedup.run import dedup


def test_steps_read_each_others_documents(documents: Callable[..., Path], tmp_path: Path):
    text = " ".join(f"word{i}" if i % 3 else f"other{'abc'[i % 7 % 3]}" for i in range(80))
    question = "Of the nine boats in the harbour four have left by noon and one came back. How many are there?"
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"question": question}) + "\n")
    rows = [{"id": "a", "text": text}, {"id": "b", "text": text}, {"id": "c", "text": f"{text} and more"}]
    folder = documents(rows, [{"id": "d", "text": f"{question}\n\nFour."}, {"id": "e", "text": "Clean."}])
    exact = deduplicate("exact", InputName.hardcoded(str(folder)), ExactConfig(), num_workers=0)
    near = deduplicate("near", exact / "documents", MinHashConfig(), num_workers=0)
    against = [EvaluationSet(name="boats", path=str(items))]
    clean = remove_evaluation_items("clean", near / "documents", against, num_workers=0)
    result = run([clean], prefix=tmp_path / "store")
    assert result.is_ok
    output = Path(result.output_path(clean))
    assert [row["id"] for row in read_rows(output / "documents")] == ["a", "e"]
    assert json.loads((output / "report.json").read_text())["evaluation_sets"]["boats"]["items_hit"] == 1


def test_what_decides_the_result_is_identity_and_the_number_of_workers_is_not():
    def digest(**settings) -> str:
        step = deduplicate("x", InputName.hardcoded("/data"), settings.pop("method", MinHashConfig()), **settings)
        return build_graph([step]).node_of(step).digest

    assert digest(num_workers=1) == digest(num_workers=7)
    others = [
        digest(method=MinHashConfig(min_similarity=0.8)),
        digest(method=ExactConfig()),
        digest(priority=("books",)),
        digest(max_removed_of={"web": 0.9}),
    ]
    assert len({digest(), *others}) == 5


def test_planning_loads_no_data_library():
    code = (
        "import sys, marin.processing.dedup.api, marin.processing.decontaminate.api\n"
        "print([name for name in ('numpy', 'numba', 'pyarrow', 'xxhash', 'jax') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_result_does_not_depend_on_workers(documents: Callable[..., Path], tmp_path: Path):
    texts = [" ".join(f"w{(i * i + j * j) % 41}" for j in range(60)) for i in range(30)]
    folder = documents(*[[{"id": f"{s}-{i}", "text": text} for i, text in enumerate(texts)] for s in range(3)])
    outputs = []
    for num_workers in (0, 2):
        output = tmp_path / f"out-{num_workers}"
        dedup(
            DedupConfig(
                input_path=str(folder), output_path=str(output), method=MinHashConfig(), num_workers=num_workers
            )
        )
        files = sorted(
            path for path in output.rglob("*") if path.is_file() and path.suffix in (".parquet", ".npy", ".u32")
        )
        outputs.append({str(path.relative_to(output)): path.read_bytes() for path in files})
        outputs[-1]["report"] = (output / "report.json").read_bytes()
    assert outputs[0] == outputs[1]
    assert not (tmp_path / "out-0" / "work").exists()


def test_what_was_done_before_a_run_was_stopped_is_not_done_again(
    documents: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = documents(*[[{"id": f"{s}", "text": f"text {s} " * 20}] for s in range(4)])
    config = DedupConfig(
        input_path=str(folder), output_path=str(tmp_path / "out"), method=MinHashConfig(), num_workers=0
    )
    link = minhash.link_range

    def stop(task: minhash.LinkTask) -> minhash.Linked:
        raise KeyboardInterrupt

    monkeypatch.setattr(minhash, "link_range", stop)
    with pytest.raises(KeyboardInterrupt):
        dedup(config)
    signed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("signatures.u32")}
    assert len(signed) == 4
    monkeypatch.setattr(minhash, "link_range", link)
    assert dedup(config).as_dict()["documents"] == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("signatures.u32")} == signed


def test_nothing_of_a_run_over_other_documents_is_taken_over(
    documents: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = " ".join(f"w{i * i % 53}" for i in range(80))
    folder = documents(*[[{"id": f"{s}", "text": text}] for s in range(3)])
    output = tmp_path / "out"
    config = DedupConfig(
        input_path=str(folder),
        output_path=str(output),
        method=MinHashConfig(),
        num_workers=0,
        max_removed_per_source=1.0,
    )
    cluster_sizes = run_of_dedup.cluster_sizes

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_of_dedup, "cluster_sizes", stop)
    with pytest.raises(KeyboardInterrupt):
        dedup(config)
    monkeypatch.setattr(run_of_dedup, "cluster_sizes", cluster_sizes)
    (folder / "shard-002.jsonl").unlink()
    (folder / "shard-001.jsonl").write_text('{"id": "new", "text": "of something else, and all of it new"}\n')
    assert dedup(config).as_dict()["removed"] == 0
    assert sorted(path.name for path in (output / "attributes").iterdir()) == ["shard-000.parquet", "shard-001.parquet"]
    assert not (output / "index" / "generation-000" / "shard-00002").exists()


def test_what_was_done_on_another_index_of_as_many_documents_is_done_again(
    documents: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    given = {"method": ExactConfig(), "num_workers": 0, "max_removed_per_source": 1.0}
    for name in ("x", "y"):
        (earlier / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": f"text {name}"}) + "\n")
        dedup(DedupConfig(input_path=str(earlier / f"{name}.jsonl"), output_path=str(tmp_path / name), **given))
    folder = documents([{"id": "a", "text": "text x"}, {"id": "b", "text": "text y"}])
    index = tmp_path / "index"
    shutil.copytree(tmp_path / "x" / "index", index)
    config = DedupConfig(input_path=str(folder), output_path=str(tmp_path / "out"), index_path=str(index), **given)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_of_dedup, "cluster_sizes", stop)
        with pytest.raises(KeyboardInterrupt):
            dedup(config)
    shutil.rmtree(index)
    shutil.copytree(tmp_path / "y" / "index", index)
    dedup(config)
    assert [row["id"] for row in read_rows(tmp_path / "out" / "documents")] == ["a"]


def test_documents_of_an_earlier_run_do_not_stay_where_none_are_written(documents: Callable[..., Path], tmp_path: Path):
    folder = documents([{"id": "a", "text": "text"}, {"id": "b", "text": "text"}])
    given = {"input_path": str(folder), "output_path": str(tmp_path / "out"), "num_workers": 0}
    given |= {"method": ExactConfig(), "max_removed_per_source": 1.0}
    dedup(DedupConfig(**given))
    assert len(read_rows(tmp_path / "out" / "documents")) == 1
    dedup(DedupConfig(**given, write_documents=False))
    assert not (tmp_path / "out" / "documents").exists()


def test_documents_that_would_be_removed_before_they_are_read_are_refused(
    documents: Callable[..., Path], tmp_path: Path
):
    folder = documents([{"id": "a", "text": "text"}])
    folder = folder.rename(tmp_path / "documents")
    config = DedupConfig(input_path=str(folder), output_path=str(tmp_path), method=ExactConfig(), num_workers=0)
    with pytest.raises(ValueError, match="is to be read, and .* is written anew"):
        dedup(config)
    assert (folder / "shard-000.jsonl").exists()


def test_folders_that_no_run_has_made_are_not_touched(documents: Callable[..., Path], tmp_path: Path):
    mine = tmp_path / "out" / "attributes" / "mine.parquet"
    mine.parent.mkdir(parents=True)
    mine.touch()
    folder = documents([{"id": "a", "text": "text"}])
    config = DedupConfig(input_path=str(folder), output_path=str(tmp_path / "out"), method=ExactConfig())
    with pytest.raises(ValueError, match="has attributes, and no run has made them"):
        dedup(config)
    assert mine.exists()
    inside = DedupConfig(
        input_path=str(folder),
        output_path=str(tmp_path / "out"),
        method=ExactConfig(),
        index_path=str(tmp_path / "out" / "index"),
    )
    with pytest.raises(ValueError, match="is in the folder that is written to"):
        dedup(inside)
