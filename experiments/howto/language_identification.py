"""A language identifier of 1 MB from text that you have, and how well it does on works it has never seen.

    marin run experiments/howto/language_identification.py --set texts=FOLDER
    marin run experiments/howto/language_identification.py --set texts=FOLDER --set published_model=lid.176.ftz

FOLDER has one folder a language, in each a file of documents a work: `de/handbook.jsonl.gz`, `de/manual.jsonl.gz`. A
document is a paragraph or so: a model learns to tell short texts apart only from short texts. Works named in `held_out`
are kept from training, so the report says how the model does on other works, by language and with error bars; text of
the same works looks several times easier than it is. With a published model, that is measured on the same texts.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, InputName, executor_main, output_path_of, this_output_path
from marin.io.atomic import write_text
from marin.processing.classify.api import train_classifier
from marin.processing.classify.config import LabelledSource, LinearModelConfig


@dataclass(frozen=True, kw_only=True)
class Languages:
    """Everything that makes this run what it is."""

    texts: str | None
    """Folder of languages."""
    held_out: tuple[str, ...]
    """Works that training never sees, by their files' names without endings."""
    max_texts_per_work: int
    """So that no language is known by one long work."""
    left_out: tuple[str, ...]
    """Languages with too little text to train on."""
    model: LinearModelConfig
    num_epochs: int
    learning_rate: float
    seed: int
    published_model: str | None = None
    """A fastText file to compare with."""


LANGUAGES = Languages(
    texts=os.environ.get("LANGUAGE_TEXTS"),
    held_out=("gnome-help", "aptitude-doc"),
    max_texts_per_work=2500,
    left_out=("hr",),
    # characters alone: no dictionary, so that the model is its 24,000 rows of 16 half-precision numbers
    model=LinearModelConfig(
        dim=16,
        word_ngrams=1,
        min_chars=1,
        max_chars=4,
        num_buckets=24_000,
        min_count=1,
        max_words=0,
        dtype="float16",
    ),
    num_epochs=10,
    learning_rate=0.5,
    seed=0,
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What was measured, and what to measure beside it."""

    model: str
    output_path: str
    other_works: tuple[LabelledSource, ...]
    published_model: str | None


def report(config: ReportConfig) -> None:
    """Accuracy on other works by language, as report.md; of a published model on the same texts too."""
    measured = json.loads((Path(config.model) / "evaluation.json").read_text(encoding="utf-8"))
    results = {"trained here": measured["other_works"]}
    if config.published_model is not None:
        results["published"] = measure_published(config.published_model, config.other_works)
    lines = [
        "| language | texts | " + " | ".join(results) + " | taken for |",
        "|---|---|" + "---|" * (len(results) + 1),
    ]
    for language, told in measured["other_works"]["labels"].items():
        if not told["num_texts"]:
            continue
        cells = [_share(result["labels"][language], "recall") for result in results.values()]
        taken_for = ", ".join(f"{other} {count}" for other, count in told["taken_for"].items())
        lines.append(f"| {language} | {told['num_texts']} | {' | '.join(cells)} | {taken_for} |")
    cells = [_share(result, "accuracy") for result in results.values()]
    lines.append(f"| all | {measured['other_works']['num_texts']} | {' | '.join(cells)} | |")
    size = sum(file.stat().st_size for file in Path(config.model).glob("*") if file.name != "evaluation.json")
    text = measured["test"]
    lines += [
        "",
        f"Model: {size / 1e6:.2f} MB, trained on {measured['num_training_texts']:,} texts. On texts of the same works: "
        f"{_share(text, 'accuracy')}. Calibration error on other works: "
        + ", ".join(f"{name} {result['expected_calibration_error']:.3f}" for name, result in results.items())
        + ".",
    ]
    write_text(Path(config.output_path) / "report.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def _share(measured: dict, name: str) -> str:
    low, high = measured[f"{name}_interval"]
    return f"{measured[name]:.3f} [{low:.3f}, {high:.3f}]"


def measure_published(model_path: str, sources: tuple[LabelledSource, ...]) -> dict:
    """The same measures for a published model, which chooses among all the languages it knows."""
    from marin.processing.classify.evaluate import evaluate
    from marin.processing.classify.linear import load_classifier, text_buffers
    from marin.processing.classify.train import collect

    model = load_classifier(model_path)
    if unknown := sorted({source.label for source in sources} - set(model.labels)):
        raise ValueError(f"{model_path}: has no labels {unknown}; name the folders as it does, or leave them out")
    texts, _ = collect(sources, model.labels, seed=LANGUAGES.seed)
    return evaluate(model.probabilities(*text_buffers(texts.texts)), texts.labels, model.labels)


def languages(config: Languages) -> ExecutorStep:
    """The report; the model hangs on it."""
    if config.texts is None:
        raise SystemExit("no texts: give a folder of languages, by --set texts=FOLDER or in LANGUAGE_TEXTS")
    works = sorted(Path(config.texts).glob("*/*.jsonl*"))
    if not works:
        raise SystemExit(f"{config.texts}: has no LANGUAGE/WORK.jsonl.gz")
    sources, others = [], []
    for work in works:
        name = work.name.partition(".")[0]
        source = LabelledSource(
            input_path=InputName.hardcoded(str(work)),  # type: ignore[arg-type]
            label=work.parent.name,
            max_documents=config.max_texts_per_work,
        )
        (others if name in config.held_out else sources).append(source)
    sources = [source for source in sources if source.label not in config.left_out]
    trained = {source.label for source in sources}
    left_out = sorted({source.label for source in others} - trained)
    if left_out:
        print(f"only in held-out works, so not learned: {', '.join(left_out)}")
    other_works = tuple(source for source in others if source.label in trained)
    model = train_classifier(
        "languages",
        tuple(sources),
        model=config.model,
        num_epochs=config.num_epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
        calibration_fraction=0.1,
        test_fraction=0.1,
        other_works=other_works,
    )
    return ExecutorStep(
        name="reports/languages",
        fn=report,
        config=ReportConfig(
            model=output_path_of(model),  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            other_works=other_works,
            published_model=config.published_model,
        ),
        description="how well languages are told apart in works that training did not see",
    )


if __name__ == "__main__":
    executor_main(steps=[languages(from_command_line(LANGUAGES))], description="Language identification")
