"""Uncheatable Eval: text of two weeks that no older model can have read, by `uncheatable_eval/PART`.

Jellyfish042, Uncheatable Eval, doi:10.5281/zenodo.11284692; MIT for the collection, the texts are their authors'. Each
part is one file, a JSON array of texts. Which weeks is part of what is measured: a newer window is another set.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import http_files
from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.io.records import write_records
from marin.processing.tokenize.api import default_tokenize

UNCHEATABLE_PARTS = (
    *("ao3_english", "arxiv_computer_science", "arxiv_physics", "bbc_news"),
    *("github_cpp", "github_python", "wikipedia_english"),
)
UNCHEATABLE_WINDOW = "20250701to20250715"

download = http_files(
    "raw/uncheatable_eval",
    # the commit that added the window
    "https://raw.githubusercontent.com/Jellyfish042/uncheatable_eval/513673dd88ab14dab0242892cdf461496fc2f0e4/data",
    index=None,
    files=tuple(f"{part}_{UNCHEATABLE_WINDOW}.json" for part in UNCHEATABLE_PARTS),
)


@dataclass(frozen=True, kw_only=True)
class TextArraysConfig:
    """Files that are JSON arrays of texts."""

    input_path: str
    """Folder with PART_WINDOW.json files."""
    output_path: str
    """Folder that gets PART/documents.jsonl.gz for each."""


def documents_of_text_arrays(config: TextArraysConfig) -> dict[str, int]:
    """A document for each text; returns how many there are of each part. Raises ValueError naming file and entry."""
    files = sorted(Path(config.input_path).glob("*.json"))
    files = [file for file in files if file.name.endswith(f"_{UNCHEATABLE_WINDOW}.json")]
    if not files:
        raise ValueError(f"{config.input_path} holds no file of the window {UNCHEATABLE_WINDOW}")
    counts = {}
    for file in files:
        part = file.name.removesuffix(f"_{UNCHEATABLE_WINDOW}.json")
        rows = [_document(entry, part, f"{file}: entry {n}") for n, entry in enumerate(json.loads(file.read_bytes()))]
        path = Path(config.output_path, part, "documents.jsonl.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        counts[part] = write_records(path, ({**row, "id": f"{file.name}:{n}"} for n, row in enumerate(rows)))
    return counts


def _document(entry: Any, part: str, where: str) -> dict[str, Any]:
    text = entry.get("content", entry.get("text")) if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise ValueError(f"{where} is {type(text).__name__}; expected a text, or an object with content or text")
    return {"text": text, "source": f"uncheatable_eval/{part}"}


documents = ExecutorStep(
    name="documents/uncheatable_eval",
    fn=documents_of_text_arrays,
    config=TextArraysConfig(input_path=download, output_path=this_output_path()),  # type: ignore[arg-type]
    description="texts of Uncheatable Eval as documents, by part",
)


def uncheatable_eval_tokenized(
    *,
    tokenizer: ExecutorStep | InputName | str = llama3_tokenizer,
    uncheatable_documents: ExecutorStep = documents,
) -> dict[str, ExecutorStep]:
    """Token stores of the parts, by `uncheatable_eval/PART`; `uncheatable_documents` are those of another window."""
    return {
        f"uncheatable_eval/{part}": default_tokenize(
            f"uncheatable_eval/{part}", dataset=uncheatable_documents / part, tokenizer=tokenizer
        )
        for part in UNCHEATABLE_PARTS
    }
