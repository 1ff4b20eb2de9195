"""The stages end to end: documents to a model, and to attributes in shards named as the documents'."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from marin.execution.executor import ExecutorStep, InputName, run
from marin.execution.graph import build_graph
from marin.io.records import write_records
from marin.processing.classify import api
from marin.processing.classify.config import LabelledSource, LanguageConfig, LinearModelConfig, ScoreConfig
from marin.processing.classify.language import identify_languages
from marin.processing.classify.score import score
from marin.processing.classify.scorers import LinearScorer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    texts = [
        f"the library {index} is open" if index % 2 else f"Das Brot muss eine Stunde ruhen {index}"
        for index in range(50)
    ]
    rows = [{"id": f"d{index}", "text": text} for index, text in enumerate(texts)]
    write_records(folder / "a.jsonl.gz", rows[:30])
    write_records(folder / "b.jsonl.gz", rows[30:])
    return folder


def read(folder: Path) -> dict[str, dict]:
    return {path.name: pq.read_table(path).to_pydict() for path in sorted(folder.glob("*.parquet"))}


def test_scores_stand_in_shards_named_as_the_documents_and_do_not_depend_on_workers(documents: Path, tmp_path: Path):
    config = ScoreConfig(
        input_path=str(documents),
        output_path=str(tmp_path / "scores"),
        name="english",
        scorer=LinearScorer(model=str(GOLDEN / "binary.bin"), label="en"),
        num_workers=0,
    )
    result = score(config)
    assert result.counters["rows_in"] == result.counters["rows_out"] == 50
    scores = read(tmp_path / "scores")
    assert [len(table["id"]) for table in scores.values()] == [30, 20]
    assert scores["a.parquet"]["id"] == [f"d{index}" for index in range(30)]
    for number, value in enumerate(scores["b.parquet"]["quality.english"], 30):
        assert (value > 0.5) == (number % 2 == 1)
    score(replace(config, output_path=str(tmp_path / "again"), num_workers=2))
    for name in ("a.parquet", "b.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "scores" / name).read_bytes()


def test_languages_stand_beside_the_documents(documents: Path, tmp_path: Path):
    identify_languages(
        LanguageConfig(
            input_path=str(documents),
            output_path=str(tmp_path / "languages"),
            model=str(GOLDEN / "softmax.bin"),
            num_workers=0,
        )
    )
    languages = read(tmp_path / "languages")
    assert languages["a.parquet"]["language"] == ["de", "en"] * 15


def steps(documents: Path, *, seed: int = 1, num_workers: int | None = 0) -> tuple[ExecutorStep, ExecutorStep]:
    model = api.train_classifier(
        "english",
        (
            LabelledSource(input_path=InputName.hardcoded(str(documents / "english")), label="english"),  # type: ignore
            LabelledSource(input_path=InputName.hardcoded(str(documents / "german")), label="german"),  # type: ignore
        ),
        model=LinearModelConfig(dim=4, word_ngrams=1, min_chars=0, max_chars=0, num_buckets=0, min_count=1),
        num_epochs=20,
        learning_rate=0.5,
        seed=seed,
        calibration_fraction=0.1,
        test_fraction=0.1,
    )
    scored = api.score(
        "english",
        InputName.hardcoded(str(documents)),
        LinearScorer(model=model, label="english"),  # type: ignore[arg-type]
        column="english",
        num_workers=num_workers,
    )
    return model, scored


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for label, words in (("english", "the library is open"), ("german", "das Brot muss ruhen")):
        folder = tmp_path / "labelled" / label
        folder.mkdir(parents=True)
        write_records(folder / "a.jsonl.gz", [{"id": f"{label}{i}", "text": f"{words} {i}"} for i in range(100)])
    return tmp_path / "labelled"


def test_steps_lead_from_labelled_documents_to_scores_and_run_once(labelled: Path, tmp_path: Path):
    model, scored = steps(labelled)
    first = run([scored], prefix=tmp_path / "store")
    assert first.is_ok
    scores = read(Path(first.output_path(scored)) / "english")["a.parquet"]["quality.english"]
    assert min(scores) > 0.5
    assert (Path(first.output_path(model)) / "evaluation.json").is_file()
    again = run([steps(labelled)[1]], prefix=tmp_path / "store")
    assert {step.action for step in again.steps} == {"cached"}


def test_what_a_model_is_made_of_is_part_of_its_scores_and_the_number_of_workers_is_not(labelled: Path):
    def digest(**settings: int) -> str:
        step = steps(labelled, **settings)[1]
        return build_graph([step]).node_of(step).digest

    assert digest() == digest(num_workers=7)
    assert digest() != digest(seed=2)


def test_planning_loads_no_numerical_library(repository: Path):
    loaded = "import marin.processing.classify.api, experiments.published_models, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=repository)
    assert not {"numpy", "pyarrow", "numba", "jax", "onnxruntime"} & set(done.stdout.split())
