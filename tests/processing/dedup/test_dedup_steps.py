"""Deduplication and decontamination as steps: documents of one are the input of the other."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from document_folders import read_rows
from marin.execution.executor import InputName, run
from marin.execution.graph import build_graph
from marin.processing.decontaminate.api import remove_evaluation_items
from marin.processing.decontaminate.config import EvaluationSet
from marin.processing.dedup.api import deduplicate
from marin.processing.dedup.config import ExactConfig, MinHashConfig


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
