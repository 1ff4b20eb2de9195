"""Documents are measured and filtered file by file; every one that goes is counted by the rule that it failed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from marin.config import dump_yaml, load_yaml
from marin.execution.executor import InputName, run
from marin.execution.graph import build_graph
from marin.processing.filter.api import filter_documents as filter_step
from marin.processing.filter.api import measure_signals as signals_step
from marin.processing.filter.bad_words import BadWords
from marin.processing.filter.c4 import C4
from marin.processing.filter.compression import CompressionRatio
from marin.processing.filter.config import FilterConfig, SignalsConfig
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.pii import MaskPii
from marin.processing.filter.presets import PRESETS, filters_named
from marin.processing.filter.run import MAX_TEXT_BYTES, filter_documents, measure_signals, steps
from marin.processing.filter.url_lists import UrlLists
from marin.processing.kernels.text_signals_reference import text_signals_reference

PROSE = (
    "The village lies below the pass, and in winter the road to it is closed for weeks. "
    "People who live there have stores of flour, wood and patience. "
    "In March a plough comes up with the mail, that is how they know of the spring. "
    "Nobody minds. "
)
TEXTS = {
    "good": PROSE + "Write to mayor@village.example.org about it.",
    "short": "I do not know what came of it, nor who was there, but some of them said they had felt it coming.",
    "list": "\n".join(f"- item number {index} of the list" for index in range(20)),
    "again": "Click here to go on with it.\n" * 30,
    "code": PROSE + "\nvoid main() { return; } is what he wrote.",
}
NUMBERED = list(enumerate(TEXTS.items()))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = [{"id": name, "text": text, "source": "test", "metadata": {"n": n}} for n, (name, text) in NUMBERED]
    for number, part in enumerate((rows[:3], rows[3:])):
        (folder / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_document_is_kept_or_counted_by_the_rule_that_it_failed(documents: Path, tmp_path: Path):
    filters = (*PRESETS["gopher"], C4())
    config = FilterConfig(input_path=str(documents), output_path=str(tmp_path / "out"), filters=filters, num_workers=0)
    result = filter_documents(config)
    [kept] = rows_of(tmp_path / "out")
    assert kept == {"id": "good", "text": TEXTS["good"], "source": "test", "metadata": '{"n":0}'}
    dropped = {counts.name: counts.dropped for counts in result.funnel if counts.dropped}
    assert dropped == {
        "gopher_repetition": {"gopher_repetition.duplicate_line": 1, "gopher_repetition.top_2gram_char": 1},
        "gopher_quality": {"gopher_quality.few_words": 1},
        "c4": {"c4.curly_bracket": 1},
    }
    assert result.counters["rows_in"] == 5 and result.counters["dropped"] == 4 and result.counters["rows_out"] == 1
    funnel = json.loads((tmp_path / "out" / "_funnel.json").read_text())
    quality = next(one for one in funnel["sections"][0]["operations"] if one["name"] == "gopher_quality")
    [sample] = quality["samples"]["gopher_quality.few_words"]
    assert (sample["id"], sample["numbers"]) == ("short", {"gopher.num_words": 22})


def test_the_output_does_not_depend_on_the_number_of_processes(documents: Path, tmp_path: Path):
    for workers in (0, 2):
        filters = (GopherQuality(min_words=10), C4(terminal_punctuation=False, min_sentences=1), MaskPii())
        output = str(tmp_path / f"out-{workers}")
        filter_documents(
            FilterConfig(input_path=str(documents), output_path=output, filters=filters, num_workers=workers)
        )
    assert rows_of(tmp_path / "out-0") == rows_of(tmp_path / "out-2") != []
    assert (tmp_path / "out-0/_funnel.json").read_text() == (tmp_path / "out-2/_funnel.json").read_text()


def test_edits_change_what_later_filters_see_and_what_is_written(documents: Path, tmp_path: Path):
    filters = (C4(min_sentences=None, reject_curly_brackets=False), GopherQuality(min_words=2), MaskPii())
    config = FilterConfig(
        input_path=str(documents), output_path=str(tmp_path / "out"), filters=filters, keep_signals=True, num_workers=0
    )
    filter_documents(config)
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert "list" not in rows  # no line of it ends a sentence
    assert rows["good"]["text"].endswith("Write to email@example.com about it.")
    assert json.loads(rows["good"]["metadata"]) == {"n": 0, "pii": {"emails": 1, "ip_addresses": 0}}
    assert rows["good"]["pii.num_emails"] == 1 and rows["good"]["c4.num_sentences"] == 5


def test_signals_stand_beside_the_documents_row_by_row(documents: Path, tmp_path: Path):
    filters = (GopherQuality(), FineWebQuality(), CompressionRatio())
    config = SignalsConfig(input_path=str(documents), output_path=str(tmp_path / "out"), filters=filters, num_workers=0)
    measure_signals(config)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == ["part-0.parquet", "part-1.parquet"]
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == list(TEXTS)
    for row in rows:
        expected = text_signals_reference(TEXTS[row["id"]])
        assert row == {
            "id": row["id"],
            **{name: value for name, value in expected.items() if name.startswith(("gopher", "fineweb"))},
            "compression.lz4": row["compression.lz4"],
        }


def test_thresholds_over_signals_that_were_measured_decide_as_measuring_again(documents: Path, tmp_path: Path):
    filters = (*PRESETS["gopher"], C4(min_sentences=2), FineWebQuality(), GopherQuality(min_words=52))
    given = {"input_path": str(documents), "filters": filters, "num_workers": 0}
    direct = filter_documents(FilterConfig(output_path=str(tmp_path / "direct"), **given))
    signals = str(tmp_path / "signals")
    measure_signals(SignalsConfig(**{**given, "output_path": signals, "filters": PRESETS["gopher"]}))
    joined = filter_documents(FilterConfig(output_path=str(tmp_path / "joined"), attributes=(signals,), **given))
    assert rows_of(tmp_path / "joined") == rows_of(tmp_path / "direct") != []
    assert [one.name for one in direct.funnel].count("TextSignals") == 1
    names = [one.name for one in joined.funnel]
    # measured are only the texts that an edit has changed
    assert names.index("C4LineEdits") < min(i for i, name in enumerate(names) if name.startswith("TextSignals"))
    assert {one.name: one.dropped for one in joined.funnel if one.dropped} == (
        {one.name: one.dropped for one in direct.funnel if one.dropped}
    )


def test_signals_are_taken_only_where_they_were_measured_by_the_same_settings(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    listed, moved, other = (tmp_path / name for name in ("listed.txt", "moved.txt", "other.txt"))
    listed.write_text("xyzzy\n")
    moved.write_text("xyzzy\n")
    other.write_text("plugh\n")
    urls = tmp_path / "urls.txt"
    urls.write_text("blocked.example\n")
    signals = str(tmp_path / "signals")
    given = {"input_path": str(documents), "num_workers": 0}

    def filters(listing: Path, *, split: str = "whitespace", level: int | None = None, **lists: str) -> tuple:
        gopher = GopherQuality(min_words=1, min_stop_words=0, words=split)
        compression = CompressionRatio(level=level, min_ratio=None, max_ratio=None)
        return (
            gopher,
            compression,
            BadWords(path=str(listing)),
            UrlLists(domains=str(urls), missing_url="keep", **lists),
        )

    measure_signals(SignalsConfig(output_path=signals, filters=(*filters(listed), FineWebQuality()), **given))

    def measured_again(*chain: Any) -> set[str]:
        """What is measured with the signals at hand; the documents that stay are those without them."""
        (with_them, without), results = (tmp_path / "with", tmp_path / "without"), []
        for output, attributes in ((with_them, (signals,)), (without, ())):
            config = FilterConfig(
                output_path=str(output), filters=chain, attributes=attributes, keep_signals=True, **given
            )
            results.append(filter_documents(config))
        names = list(rows_of(without)[0])
        assert [{name: row[name] for name in names} for row in rows_of(with_them)] == rows_of(without) != []
        measures = {"TextSignals", "CompressionSignal", "BadWordsSignal", "UrlSignals"}
        return {one.name for one in results[0].funnel} & measures

    assert measured_again(*filters(listed)) == measured_again(*filters(moved)) == set()
    assert "measured again" not in capsys.readouterr().err
    assert measured_again(*filters(other)) == {"BadWordsSignal"}
    assert "measured again" in (told := capsys.readouterr().err) and "bad_words.num_found" in told
    assert measured_again(*filters(listed, split="unicode")) == {"TextSignals"}
    assert measured_again(*filters(listed, level=9)) == {"CompressionSignal"}
    assert measured_again(*filters(listed, words=str(listed))) == {"UrlSignals"}
    urls.write_text("other.example\n")
    assert measured_again(*filters(listed)) == {"UrlSignals"}
    (tmp_path / "signals" / "_measured.json").unlink()
    assert len(measured_again(*filters(listed))) == 4


def test_signals_of_other_documents_are_an_error(documents: Path, tmp_path: Path):
    filters, signals = PRESETS["gopher"], tmp_path / "signals"
    measure_signals(
        SignalsConfig(
            input_path=str(documents / "part-0.jsonl"), output_path=str(signals), filters=filters, num_workers=0
        )
    )
    config = FilterConfig(
        input_path=str(documents),
        output_path=str(tmp_path / "out"),
        filters=filters,
        attributes=(str(signals),),
        num_workers=0,
    )
    with pytest.raises((RuntimeError, ValueError), match="again|part-1"):
        filter_documents(config)


def test_filters_that_edit_have_no_signals_of_the_documents(documents: Path, tmp_path: Path):
    config = SignalsConfig(
        input_path=str(documents), output_path=str(tmp_path / "out"), filters=(GopherQuality(), C4())
    )
    with pytest.raises(ValueError, match="C4 edits texts"):
        measure_signals(config)


def test_measures_are_taken_together_where_no_edit_stands_between():
    names = [
        step.name for step in steps((GopherRepetition(), GopherQuality(), C4(), FineWebQuality(), GopherQuality()))
    ]
    assert names == [
        *("TextSignals", "gopher_repetition", "gopher_quality"),
        *("C4LineEdits", "c4"),
        *("TextSignals", "fineweb_quality", "gopher_quality"),
    ]
    apart = steps((GopherQuality(), FineWebQuality(words="unicode")))
    assert [step.name for step in apart] == ["TextSignals", "gopher_quality", "TextSignals", "fineweb_quality"]


def test_rules_may_be_written_by_hand_and_a_wrong_name_is_answered(documents: Path, tmp_path: Path):
    def filtered(rule: str, name: str) -> list[str]:
        output = tmp_path / name
        filters = (GopherQuality(min_words=None, min_alpha_word_ratio=None, max_bullet_line_ratio=None),)
        config = FilterConfig(
            input_path=str(documents), output_path=str(output), filters=filters, rules=(rule,), num_workers=0
        )
        filter_documents(config)
        return [row["id"] for row in rows_of(output)]

    assert filtered("gopher.num_words >= 100 or gopher.bullet_line_ratio == 1", "right") == ["list", "again"]
    with pytest.raises(RuntimeError, match=r"no column 'gopher.num_word'.*did you mean 'gopher.num_words'"):
        filtered("gopher.num_word >= 100", "wrong")
    with pytest.raises(ValueError, match="no expression"):
        filtered("gopher.num_words >=", "broken")


def test_a_language_that_was_not_identified_is_an_error(documents: Path, tmp_path: Path):
    config = FilterConfig(
        input_path=str(documents), output_path=str(tmp_path / "out"), filters=filters_named("language"), num_workers=0
    )
    with pytest.raises(RuntimeError, match="no column 'language', which rule 'language.other' needs"):
        filter_documents(config)


def test_a_text_of_many_megabytes_is_a_bad_row(documents: Path, tmp_path: Path):
    with (documents / "part-1.jsonl").open("a") as file:
        file.write(json.dumps({"id": "huge", "text": "word " * (MAX_TEXT_BYTES // 5 + 1)}) + "\n")
    config = FilterConfig(
        input_path=str(documents),
        output_path=str(tmp_path / "out"),
        filters=(GopherQuality(min_words=1),),
        max_bad=0.5,
        num_workers=0,
    )
    result = filter_documents(config)
    assert result.counters["bad"] == 1
    assert [one.bad for one in result.funnel if one.bad] == [{"too long": 1}]


def test_presets_and_filters_are_found_by_name():
    assert filters_named("gopher_quality") == (GopherQuality(),)
    assert filters_named("c4") == PRESETS["c4"]
    with pytest.raises(ValueError, match="no preset or filter 'gophr'; presets are gopher, c4"):
        filters_named("gophr")
    with pytest.raises(ValueError, match="UrlLists without a list drops nothing"):
        filters_named("url_lists")


def test_settings_change_a_preset_and_wrong_ones_are_answered():
    changed = filters_named("gopher", {"gopher_quality": {"min_words": 10}, "c4": {"min_sentences": 1}})
    assert changed == (GopherRepetition(), GopherQuality(min_words=10))
    with pytest.raises(ValueError, match="GopherQuality has no such field; did you mean 'min_words'"):
        filters_named("gopher", {"gopher_quality": {"min_word": 10}})
    assert filters_named("marin.processing.filter.c4:C4Paragraphs") == PRESETS["mc4"]


def test_configs_survive_a_file_and_nothing_to_do_is_refused(tmp_path: Path):
    config = FilterConfig(input_path="a", output_path="b", filters=PRESETS["fineweb"], rules=("x.y < 3",))
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_yaml(FilterConfig, tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="neither filters nor rules"):
        FilterConfig(input_path="a", output_path="b")
    with pytest.raises(ValueError, match="nothing to measure"):
        SignalsConfig(input_path="a", output_path="b", filters=())


def test_steps_measure_and_filter_and_run_once(documents: Path, tmp_path: Path):
    given = InputName.hardcoded(str(documents))
    signals = signals_step("tiny", given, PRESETS["gopher"], num_workers=1)
    filtered = filter_step("tiny", given, PRESETS["gopher"], num_workers=1)
    first = run([signals, filtered], prefix=tmp_path / "store")
    assert first.is_ok
    assert [row["id"] for row in rows_of(Path(first.output_path(filtered)))] == ["good", "code"]
    assert len(rows_of(Path(first.output_path(signals)))) == len(TEXTS)
    again = run([signals, filtered], prefix=tmp_path / "store")
    assert {step.action for step in again.steps} == {"cached"}


def test_a_threshold_is_part_of_a_step_and_the_number_of_processes_is_not():
    def digest(given: GopherQuality, **settings: Any) -> str:
        step = filter_step("x", InputName.hardcoded("documents"), (given,), **settings)
        return build_graph([step]).node_of(step).digest

    assert digest(GopherQuality(), num_workers=1) == digest(GopherQuality(), num_workers=4)
    assert digest(GopherQuality()) != digest(GopherQuality(min_words=51)) != digest(GopherQuality(words="unicode"))


def test_a_new_version_of_a_filter_is_another_step(monkeypatch: pytest.MonkeyPatch):
    def version() -> str | None:
        return filter_step("x", InputName.hardcoded("documents"), (GopherQuality(),)).code_version

    before = version()
    monkeypatch.setattr(GopherQuality, "version", GopherQuality.version + 1)
    assert before is not None and version() != before


def test_defining_filters_loads_no_arrow_and_no_compiler():
    code = (
        "import sys, marin.processing.filter.api, marin.processing.filter.presets as p\n"
        "[rule for filters in p.PRESETS.values() for each in filters for rule in each.rules()]\n"
        "print(*sorted({'pyarrow', 'numba', 'numpy', 'lz4', 'jax'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
