"""Every published set plans, and runs on a local stand-in of the hub that has its files in its form."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from marin.execution.executor import Executor, ExecutorStep, plan

COMMIT_DIGITS = 40
TEXTS = [f"Document {n} of a stand-in. It says nothing that matters, {n} times over.\n" * 3 for n in range(12)]


@pytest.fixture(scope="module")
def sets(repository: Path):
    """The modules of experiments/datasets, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository))
        from experiments.datasets import (
            dolma,
            dolmino,
            instruction,
            midtraining,
            paloma,
            reference,
            simple,
            uncheatable,
        )

        yield {
            "dolma": dolma,
            "dolmino": dolmino,
            "instruction": instruction,
            "midtraining": midtraining,
            "paloma": paloma,
            "reference": reference,
            "simple": simple,
            "uncheatable": uncheatable,
        }


def test_every_set_plans_from_the_download_to_the_tokens(sets, tmp_path: Path):
    steps: dict[str, ExecutorStep] = {
        **{name: entry.tokenized() for name, entry in sets["simple"].SETS.items()},
        **{name: entry.tokenized() for name, entry in sets["midtraining"].SETS.items()},
        **{f"sft/{name}": entry.tokenized() for name, entry in sets["instruction"].SETS.items()},
        **sets["dolma"].tokenize_dolma(),
        **sets["dolmino"].tokenize_dolmino(),
        **sets["paloma"].paloma_tokenized(),
        **sets["uncheatable"].uncheatable_eval_tokenized(),
    }
    planned = {item.node.name for item in plan(list(steps.values()), prefix=str(tmp_path)).items}
    assert {f"tokenized/{name}" for name in steps} <= planned
    assert {f"dolma/{part}" for part in sets["dolma"].DOLMA_PARTS} == set(sets["dolma"].DOLMA_OLMO_MIXTURE_WEIGHTS)
    assert set(sets["instruction"].SFT_MIXTURE_WEIGHTS) <= set(sets["instruction"].SETS)


def test_the_page_of_published_sets_is_what_they_are(sets, repository: Path):
    page = (repository / "docs" / "reference" / "datasets.md").read_text(encoding="utf-8")
    assert page == sets["reference"].reference(), (
        "renew it: PYTHONPATH=. python experiments/datasets/reference.py > docs/reference/datasets.md"
    )


def test_a_set_that_is_not_known_is_refused_with_those_that_are(sets):
    with pytest.raises(ValueError, match="expected one of fineweb"):
        sets["simple"].tokenize_simple("finewebb")
    with pytest.raises(ValueError, match="expected one of tulu_2"):
        sets["instruction"].tokenize_instruction_set("tulu")
    with pytest.raises(ValueError, match="Dolma has no part"):
        sets["dolma"].download_dolma("books")


# -- runs on a stand-in of the hub -------------------------------------------------------------------------------------


def _entry(path: str, body: bytes) -> dict[str, Any]:
    git_hash = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    return {"type": "file", "path": path, "size": len(body), "oid": git_hash}


class Hub:
    """Serves repositories as the hub does: {repository: {path: bytes}}; and files by address for what is elsewhere."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = hub.answer(self.path.partition("?")[0])
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str) -> bytes | None:
        for repository, files in self.repositories.items():
            api = f"/api/datasets/{repository}/"
            if path.startswith(api + "revision/"):
                revision = path.removeprefix(api + "revision/")
                return json.dumps({"sha": revision.ljust(COMMIT_DIGITS, "0")}).encode()
            if path.startswith(api + "tree/"):
                return json.dumps([_entry(name, body) for name, body in sorted(files.items())]).encode()
            if path.startswith(f"/datasets/{repository}/resolve/"):
                return files.get(path.removeprefix(f"/datasets/{repository}/resolve/").partition("/")[2])
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A byte-level BPE of the stand-ins, with the tokens that the chat template writes."""
    from marin.io.records import write_records
    from marin.processing.tokenize.config import TrainBpeConfig
    from marin.processing.tokenize.train_bpe import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    write_records(folder / "documents.jsonl.gz", ({"text": text} for text in TEXTS))
    config = TrainBpeConfig(
        input_path=str(folder),
        output_path=str(folder / "bpe"),
        vocab_size=300,
        extra_special_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    )
    train_bpe(config)
    return folder / "bpe"


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _file_of(entry: Any, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """A file with the rows where the entry looks for them."""
    pattern = entry.files[0] if entry.files else "data/*"
    folder, _, name = pattern.rpartition("/")
    name = f"{name.replace('*', '')}00000.parquet".lstrip("-")
    return {f"{folder}/{name}" if folder else name: _parquet(rows), "README.md": b"# A stand-in\n"}


def test_every_set_of_text_runs_to_its_tokens_on_a_stand_in(sets, hub: Hub, tokenizer: Path, tmp_path: Path):
    entries = [*sets["simple"].SETS.values(), *sets["midtraining"].SETS.values()]
    for entry in entries:
        rows = [{"key": n, entry.text_column: text} for n, text in enumerate(TEXTS)]
        hub.repositories.setdefault(entry.repository, {}).update(_file_of(entry, rows))
    steps = [entry.tokenized(str(tokenizer)) for entry in entries]
    Executor(str(tmp_path)).run(steps)
    for entry in entries:
        [ledger] = tmp_path.glob(f"tokenized/{entry.name}-*/store.json")
        assert json.loads(ledger.read_text())["num_documents"] == len(TEXTS), entry.name


FORMS = ("tulu_3", "openhermes_2_5", "acecode_89k", "dolphin_r1_reasoning", "natural_reasoning")
"""Instruction sets of unlike forms, one each."""


def test_sets_of_conversations_of_every_form_run_to_their_tokens(sets, hub: Hub, tokenizer: Path, tmp_path: Path):
    run_conversations([sets["instruction"].SETS[name] for name in FORMS], hub, tokenizer, tmp_path)


@pytest.mark.slow
def test_every_set_of_conversations_runs_to_its_tokens_on_a_stand_in(sets, hub: Hub, tokenizer: Path, tmp_path: Path):
    run_conversations(list(sets["instruction"].SETS.values()), hub, tokenizer, tmp_path)


def run_conversations(entries: list[Any], hub: Hub, tokenizer: Path, tmp_path: Path) -> None:
    for entry in entries:
        rows = [_conversation(entry.adapter, text) for text in TEXTS]
        hub.repositories.setdefault(entry.repository, {}).update(_file_of(entry, rows))
    Executor(str(tmp_path)).run([entry.tokenized(str(tokenizer)) for entry in entries])
    for entry in entries:
        [ledger] = tmp_path.glob(f"tokenized/sft/{entry.name}-*/store.json")
        store = json.loads(ledger.read_text())
        assert store["num_documents"] == len(TEXTS) and 0 < store["num_trained"] < store["num_tokens"], entry.name


def _conversation(adapter: Any, text: str) -> dict[str, Any]:
    """A row as the adapter's set has it."""
    row: dict[str, Any] = dict.fromkeys(adapter.metadata_columns, "x")
    names = {ours: theirs for theirs, ours in adapter.roles.items()}
    if adapter.messages_column is not None:
        messages = [(names["user"], f"What of {text[:12]}?")]
        if adapter.answer_column is None:
            messages.append((names["assistant"], text))
        row[adapter.messages_column] = [{adapter.role_key: who, adapter.content_key: what} for who, what in messages]
    if adapter.question_column is not None:
        row[adapter.question_column] = f"What of {text[:12]}?"
    if adapter.answer_column is not None:
        answer = text if adapter.answer_key is None else [{adapter.answer_key: text, (adapter.best_by or "n"): 0.5}]
        row[adapter.answer_column] = answer
    return row


def test_texts_that_no_model_can_have_read_become_documents_by_part(sets, tmp_path: Path):
    uncheatable = sets["uncheatable"]
    for part in uncheatable.UNCHEATABLE_PARTS:
        file = tmp_path / f"{part}_{uncheatable.UNCHEATABLE_WINDOW}.json"
        file.write_text(json.dumps(TEXTS[:2] + [{"content": TEXTS[2]}]))
    config = uncheatable.TextArraysConfig(input_path=str(tmp_path), output_path=str(tmp_path / "out"))
    assert uncheatable.documents_of_text_arrays(config) == dict.fromkeys(sorted(uncheatable.UNCHEATABLE_PARTS), 3)
    (tmp_path / f"bbc_news_{uncheatable.UNCHEATABLE_WINDOW}.json").write_text("[3]")
    with pytest.raises(ValueError, match="entry 0 is int"):
        uncheatable.documents_of_text_arrays(config)
