"""A report shows what the records say, whatever the model wrote into its samples."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.plan import Choices
from marin.report.collect import read_lineage, register_of
from marin.report.config import ReportConfig
from marin.report.plots import score_bars
from marin.report.render import write_report

NASTY = "</pre><script>alert(1)</script>\n````\n| pipe | *star* [link](x)\n```"
RESULTS = {
    "tasks": {
        "heldout": {
            "n": 12,
            "notes": ["documents are the unit"],
            "metrics": {
                "bits_per_byte": {"value": 1.62345, "stderr": 0.0213, "ci95": [1.58, 1.67], "higher_is_better": False}
            },
        },
        "uniform": {
            "n": 12,
            "metrics": {
                "bits_per_byte": {
                    "value": 8.0,
                    "stderr": 0.0,
                    "ci95": None,
                    "interval": "exact",
                    "higher_is_better": False,
                }
            },
        },
        "single": {
            "n": 1,
            "metrics": {"exact_match": {"value": 1.0, "stderr": None, "ci95": None, "higher_is_better": True}},
        },
        "choice": {
            "n": 40,
            "chance": 0.25,
            "metrics": {"acc": {"value": 0.775, "stderr": 0.066, "ci95": [0.62, 0.88], "higher_is_better": True}},
        },
    },
    "comparisons": [
        {
            "model": "heldout",
            "baseline": "uniform",
            "metric": "bits_per_byte",
            "difference": -6.37655,
            "stderr": 0.0213,
            "ci95": [-6.42, -6.33],
            "n": 12,
            "unit": "documents",
            "verdict": "heldout is better",
        }
    ],
    "generations": [{"prompt": "def f(", "completion": NASTY, "reference": "x):"}],
}
METRICS = [{"step": s, "train/loss": 6.0 - s / 20} for s in range(1, 61)] + [
    {"step": 60, "validation/text/bits_per_byte": 2.34567, "validation/text/bytes": 4321}
]


@dataclass(frozen=True, kw_only=True)
class Write:
    output_path: str
    files: dict[str, str]
    inputs: tuple = ()


def write(config: Write) -> None:
    for name, text in config.files.items():
        Path(config.output_path, name).write_text(text)


def step(name: str, files: dict[str, str], *inputs: ExecutorStep) -> ExecutorStep:
    reads = tuple(output_path_of(i) for i in inputs)
    return ExecutorStep(name=name, fn=write, config=Write(output_path=this_output_path(), files=files, inputs=reads))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Roles and the paths of their committed outputs: text -> train -> evaluation."""
    text = step("text", {"a.txt": "a"})
    train = step(
        "train",
        {
            "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in METRICS),
            "timing.jsonl": json.dumps({"step": 60, "tokens_per_second": 12345.6}) + "\n",
            "config.yaml": "learning_rate: 0.0031\n",
        },
        text,
    )
    evaluation = step("evaluation", {"results.json": json.dumps(RESULTS)}, train, text)
    prefix = tmp_path_factory.mktemp("store")
    result = Executor(prefix=str(prefix)).run([evaluation])
    assert result.is_ok
    return {role: result.output_path(s) for role, s in {"train": train, "evaluation": evaluation}.items()}


def test_the_lineage_is_of_the_outputs_that_were_used_though_a_step_ran_again_since(tmp_path: Path):
    text = step("text", {"a.txt": "a"})
    train = step("train", {"b.txt": "b"}, text)
    executor = Executor(prefix=tmp_path)
    path = executor.run([train]).output_path(train)
    executor.run([text], choices=Choices(force=("^text$",)))
    assert [(found.name, found.attempt[:4]) for found in read_lineage([path])] == [("text", "0001"), ("train", "0001")]


@pytest.fixture(scope="module")
def page(outputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(ReportConfig(title="A <title>", steps=outputs, output_path=str(folder)))


def test_the_page_shows_the_recorded_numbers(page: Path):
    html, markdown = page.read_text(), page.with_name("report.md").read_text()
    for shown in (
        "1.6235 ± 0.0213",
        "8.0000 exactly",
        "1.0000, error unknown",
        "on 4.3 kB",
        "0.7750 ± 0.0660",
        "-6.3765 ± 0.0213",
        "2.3457",
        "12,346",
        "0.0031",
    ):
        assert shown in html and shown in markdown, shown
    assert "A &lt;title&gt;" in html


def test_the_page_is_one_file_whose_only_script_asks_whether_it_still_holds(page: Path):
    html = page.read_text()
    assert "src=" not in html and html.count("<svg") == 4
    assert html.count("<script") == 1 and "<script>\nfunction marinTaint(" in html


def test_whiskers_are_the_recorded_intervals_and_not_symmetric_by_decree():
    rows = [
        ("a", {"value": 0.3, "stderr": 9.0, "ci95": [0.2, 0.4]}),
        ("b", {"value": 0.3, "stderr": 9.0, "ci95": [0.2, 0.8]}),
        ("no interval", {"value": 0.3, "stderr": None, "ci95": None}),
    ]
    picture = score_bars(rows, label="acc", better="higher")
    lines = re.findall(r'LineCollection_\d+">\s*<path d="M ([\d.]+) [\d.]+ \s*L ([\d.]+) ', picture)
    (b_low, b_high), (a_low, a_high) = [(float(low), float(high)) for low, high in lines]
    assert a_low == b_low
    assert (b_high - b_low) / (a_high - a_low) == pytest.approx(3, rel=1e-4)


def test_a_sample_cannot_break_out_of_its_block(page: Path):
    html = page.read_text()
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<em>star</em>" not in html


def test_the_lineage_has_every_step_after_its_inputs(outputs: dict[str, str]):
    assert [s.name for s in read_lineage(outputs.values())] == ["text", "train", "evaluation"]


def test_the_same_records_give_the_same_page(page: Path, outputs: dict[str, str], tmp_path: Path):
    again = write_report(ReportConfig(title="A <title>", steps=outputs, output_path=str(tmp_path)))
    assert again.read_bytes() == page.read_bytes()


def test_a_path_that_no_step_wrote_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not the output of a recorded step"):
        register_of(tmp_path)
