"""The steps of this stage: light to define, run by the executor from text to a store, resumed in place."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from marin.data.lm_data import open_data
from marin.data.store import TokenStore
from marin.execution.executor import ExecutorStep, InputName, run
from marin.execution.graph import build_graph
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.processing.tokenize.data_configs import lm_data_config
from marin.testing.tiny import tiny_documents, write_documents


@pytest.fixture
def documents(tmp_path: Path) -> str:
    return str(write_documents(tmp_path / "documents", tiny_documents(200), num_shards=3))


def tokenized_steps(documents: str, **settings) -> tuple[ExecutorStep, ExecutorStep]:
    text = InputName.hardcoded(documents)
    tokenizer = train_tokenizer("tiny", text, 300)
    return tokenizer, default_tokenize("tiny", text, tokenizer, num_workers=settings.pop("num_workers", 1), **settings)


def test_steps_lead_from_text_to_a_checked_store_and_run_once(documents: str, tmp_path: Path):
    tokenizer, tokenized = tokenized_steps(documents)
    first = run([tokenized], prefix=tmp_path / "store")
    assert first.is_ok
    data = open_data(lm_data_config(first.output_path(tokenized)), 32)
    trained = json.loads((Path(first.output_path(tokenizer)) / "training.json").read_text())
    assert data.vocab_size == 300 and data.tokenizer_digest == trained["tokenizer_digest"]
    again = run([tokenized_steps(documents)[1]], prefix=tmp_path / "store")
    assert {step.action for step in again.steps} == {"cached"}


def test_the_number_of_workers_is_no_part_of_the_identity_and_max_bad_is(documents: str, tmp_path: Path):
    def digest(**settings) -> str:
        step = tokenized_steps(documents, **settings)[1]
        return build_graph([step]).node_of(step).digest

    assert digest(num_workers=1) == digest(num_workers=7) == digest(num_workers=None)
    assert digest(max_bad=0.5) != digest(max_bad=0.01)


def test_the_format_of_the_files_is_that_of_the_step(documents: str, tmp_path: Path):
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "a.txt").write_text("one\ntwo\n")
    tokenizer = tokenized_steps(documents)[0]
    stores = {}
    for format in ("text", "text-lines"):
        step = default_tokenize(f"of-{format}", InputName.hardcoded(str(lines)), tokenizer, format=format)
        outcome = run([step], prefix=tmp_path / "store")
        assert outcome.is_ok
        stores[format] = TokenStore.open(outcome.output_path(step)).num_documents
    assert stores == {"text": 1, "text-lines": 2}


def test_a_failed_run_of_the_step_finds_its_complete_shards_again(documents: str, tmp_path: Path):
    damaged = Path(documents) / "documents-00001.jsonl.gz"
    whole = damaged.read_bytes()
    text = InputName.hardcoded(documents)
    other = write_documents(tmp_path / "other", tiny_documents(200))
    tokenized = default_tokenize("tiny", text, train_tokenizer("tiny", InputName.hardcoded(str(other)), 300))
    damaged.write_bytes(whole[:-30])
    failed = run([tokenized], prefix=tmp_path / "store")
    assert not failed.is_ok
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("tokens.bin")}
    assert len(shards) == 2
    damaged.write_bytes(whole)
    mended = run([tokenized], prefix=tmp_path / "store", force_run_failed=True)
    assert mended.is_ok
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert TokenStore.open(mended.output_path(tokenized), verify=True).num_documents == 200


def test_defining_the_steps_loads_no_tokenizer_and_no_array_library():
    code = (
        "import sys\n"
        "from marin.processing.tokenize.api import default_tokenize, train_tokenizer\n"
        "from marin.processing.tokenize.data_configs import lm_data_config\n"
        "lm_data_config(default_tokenize('a', 'text', train_tokenizer('a', 'text', 300)))\n"
        "print(sorted({'numpy', 'tokenizers', 'jax', 'torch', 'transformers', 'zstandard'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
