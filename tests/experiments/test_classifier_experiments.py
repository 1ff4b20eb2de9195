"""The classifier experiments: each plans, and the local ones run at toy size."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.howto.exp596_on_local_text import LOCAL_QUALITY, local_quality
from experiments.howto.exp596_stackexchange_classifier import scores
from experiments.howto.language_identification import LANGUAGES, languages
from experiments.published_models import lid176, lid176_whole
from marin.execution.executor import run
from marin.execution.graph import build_graph
from marin.io.records import write_records

SENTENCES = {
    "en": "the library near the station is open from nine to five and the path {} is under water",
    "de": "die Bücherei am Bahnhof ist von neun bis fünf geöffnet und der Weg {} steht unter Wasser",
    "fr": "la bibliothèque près de la gare est ouverte et le chemin {} se trouve sous l'eau",
}


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, [{"id": f"{path.parent.name}-{number}", "text": text} for number, text in enumerate(texts)])


@pytest.mark.slow
def test_languages_are_learned_from_some_works_and_reported_on_others(tmp_path: Path, capsys: pytest.CaptureFixture):
    for language, sentence in SENTENCES.items():
        for work in ("guide", "manual", "help"):
            texts = [sentence.format(f"{work} {number}") for number in range(60)]
            write(tmp_path / "texts" / language / f"{work}.jsonl.gz", texts)
    write(tmp_path / "texts" / "is" / "help.jsonl.gz", ["Vegurinn er undir vatni"])
    published = Path(__file__).parent.parent / "processing" / "classify" / "golden" / "softmax.bin"
    config = replace(
        LANGUAGES,
        texts=str(tmp_path / "texts"),
        held_out=("help",),
        model=replace(LANGUAGES.model, num_buckets=500),
        published_model=str(published),
    )
    report = languages(config)
    assert "only in held-out works, so not learned: is" in capsys.readouterr().out
    done = run([report], prefix=tmp_path / "store")
    assert done.is_ok
    lines = (Path(done.output_path(report)) / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| language | texts | trained here | published | taken for |"
    assert lines[2].startswith("| de | 60 | 1.000 [")
    assert lines[5].startswith("| all | 180 | 1.000 [")


def test_local_quality_tells_which_threshold_keeps_what(tmp_path: Path):
    good = [f"first we ask why step {number} holds and then we explain the answer" for number in range(80)]
    other = [f"buy now {number} cheap deals click here for more offers today" for number in range(80)]
    for name, texts in (("good", good), ("other", other), ("documents", good[:20] + other[:60])):
        write(tmp_path / name / "rows.jsonl.gz", texts)
    config = replace(
        LOCAL_QUALITY,
        good=str(tmp_path / "good"),
        other=str(tmp_path / "other"),
        documents=str(tmp_path / "documents"),
    )
    report = local_quality(config)
    done = run([report], prefix=tmp_path / "store")
    assert done.is_ok
    lines = (Path(done.output_path(report)) / "thresholds.md").read_text().splitlines()
    assert lines[0] == "80 documents, 0 without a score."
    kept = {line.split("|")[1].strip(): float(line.split("|")[2]) for line in lines[4:]}
    assert kept["50%"] < 0.5 < kept["25%"] < kept["1%"]


def test_the_recipe_plans_from_pinned_downloads():
    graph = build_graph(scores)
    names = {node.step.name for node in graph.nodes}
    assert {"classifiers/stackexchange-200k-refinedweb-200k", "models/dclm-fasttext", "raw/refined-web"} <= names


def test_published_models_are_pinned_by_their_hashes():
    for step in (lid176, lid176_whole):
        assert all(len(file.sha256) == 64 and file.size for file in step.config.files)


def test_without_text_they_say_what_to_give(tmp_path: Path):
    with pytest.raises(SystemExit, match="no texts: give a folder of languages, by --set texts=FOLDER"):
        languages(replace(LANGUAGES, texts=None))
    with pytest.raises(SystemExit, match="has no LANGUAGE/WORK.jsonl.gz"):
        languages(replace(LANGUAGES, texts=str(tmp_path)))
    with pytest.raises(SystemExit, match="no text: give --set good=FOLDER"):
        local_quality(replace(LOCAL_QUALITY, good=None))
