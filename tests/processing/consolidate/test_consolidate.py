"""Documents with their attributes to those that stay: exact shares, spans, what is missing, every row counted."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.processing.consolidate.config import ConsolidateConfig, KeepFraction
from marin.processing.consolidate.fractions import Border, find_border
from marin.processing.consolidate.run import consolidate
from marin.processing.consolidate.split import SplitConfig, split_documents
from marin.processing.remove import RemoveSpans, remove


def write(folder: Path, rows: list[dict[str, Any]], *, files: int = 2) -> str:
    """Rows dealt out to parquet files, the same way for every data set of as many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number, start in enumerate(range(0, len(rows), size)):
        pq.write_table(pa.Table.from_pylist(rows[start : start + size]), folder / f"part-{number:05d}.parquet")
    return str(folder)


def documents(count: int) -> list[dict[str, Any]]:
    return [{"id": f"d{n}", "text": f"Text of {n}.", "source": "s", "metadata": "{}"} for n in range(count)]


def ids_in(folder: Path) -> list[str]:
    return [row["id"] for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def run(tmp_path: Path, attributes: list[str], name: str = "out", **settings: Any):
    config = ConsolidateConfig(
        input_path=str(tmp_path / "documents"),
        output_path=str(tmp_path / name),
        attributes=tuple(attributes),
        num_workers=0,
        **settings,
    )
    return consolidate(config)


def test_rules_over_several_attributes_decide_and_the_numbers_add_up(tmp_path: Path):
    write(tmp_path / "documents", documents(10))
    signals = write(tmp_path / "signals", [{"id": f"d{n}", "words": n} for n in range(10)])
    scores = write(tmp_path / "scores", [{"id": f"d{n}", "quality.hq": n % 2 / 1} for n in range(10)])
    result = run(tmp_path, [signals, scores], rules=("words >= 4", "quality.hq > 0.5"))
    assert ids_in(tmp_path / "out") == ["d5", "d7", "d9"]
    assert pq.read_table(next((tmp_path / "out").glob("*.parquet"))).column_names == [
        "id",
        "text",
        "source",
        "metadata",
    ]
    dropped = {rule: n for counts in result.funnel for rule, n in counts.dropped.items()}
    assert sorted(dropped.values()) == [3, 4] and result.counters["rows_in"] == 10 == 3 + sum(dropped.values())
    assert "words >= 4" in (tmp_path / "out" / "_funnel.json").read_text()


def test_no_order_of_criteria_changes_what_stays(tmp_path: Path):
    write(tmp_path / "documents", documents(30))
    given = write(tmp_path / "a", [{"id": f"d{n}", "x": float(n * 7 % 30), "y": float(n % 5)} for n in range(30)])
    kept = set()
    for number, order in enumerate(itertools.permutations(["x > 3", "y < 4", "x < 25"])):
        run(tmp_path, [given], f"out{number}", rules=order, keep_fractions=(KeepFraction(column="y", share=0.5),))
        kept.add(tuple(ids_in(tmp_path / f"out{number}")))
    assert len(kept) == 1 and kept != {()}


@settings(max_examples=60)
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -3.0]) | st.floats(allow_nan=False), min_size=1, max_size=60),
    share=st.floats(min_value=0.01, max_value=1.0),
    highest=st.booleans(),
    files=st.integers(min_value=1, max_value=5),
)
def test_a_share_is_exact_whatever_ties_there_are(tmp_path_factory, values, share, highest, files):
    rows = [{"id": f"d{n}", "x": value} for n, value in enumerate(values)]
    path = write(tmp_path_factory.mktemp("attributes"), rows, files=files)
    keep = KeepFraction(column="x", share=share, highest=highest)
    border = find_border(keep, (path,), missing="error")
    stays = set(border(pa.RecordBatch.from_pylist(rows)).batch.column("id").to_pylist())
    assert len(stays) == round(share * len(values))
    sign = 1 if highest else -1
    inside = [sign * row["x"] for row in rows if row["id"] in stays]
    outside = [sign * row["x"] for row in rows if row["id"] not in stays]
    assert not inside or not outside or min(inside) >= max(outside)
    backwards = write(tmp_path_factory.mktemp("backwards"), rows[::-1], files=1)
    assert find_border(keep, (backwards,), missing="error") == border


@pytest.mark.parametrize("files", [1, 3], ids=["joined file by file", "brought together by id"])
def test_a_share_is_of_the_documents_that_come_in_where_attributes_are_of_more(tmp_path: Path, files: int):
    write(tmp_path / "documents", documents(10), files=files)
    given = write(tmp_path / "x", [{"id": f"d{n}", "x": float(n)} for n in range(40)], files=1)
    result = run(tmp_path, [given], keep_fractions=(KeepFraction(column="x", share=0.5),))
    assert ids_in(tmp_path / "out") == ["d5", "d6", "d7", "d8", "d9"] and result.counters["rows_out"] == 5


def test_a_share_that_ends_between_documents_of_one_id_is_refused(tmp_path: Path):
    rows = [{"id": name, "x": 1.0} for name in ("a", "b", "b", "b")]
    path = write(tmp_path / "attributes", rows)
    for kept in range(1, 5):
        keep = KeepFraction(column="x", share=kept / 4)
        try:
            border = find_border(keep, (path,), missing="error")
        except ValueError as error:
            assert "ends between documents with the id 'b'" in str(error)
        else:
            assert border(pa.RecordBatch.from_pylist(rows)).batch.num_rows == kept
    with pytest.raises(ValueError, match="'b'"):
        find_border(KeepFraction(column="x", share=0.5), (path,), missing="error")


def test_attributes_may_be_json_lines(tmp_path: Path):
    write(tmp_path / "documents", documents(6))
    for name, column in (("signals", "words"), ("scores", "quality.hq")):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"id": f"d{n}", column: n}) + "\n" for n in range(6)]
        (tmp_path / name / "part.jsonl").write_text("".join(lines))
    given = [str(tmp_path / "signals"), str(tmp_path / "scores")]
    run(tmp_path, given, rules=("words >= 3", "quality.hq < 5"), keep_attributes=True)
    (file,) = (tmp_path / "out").glob("*.parquet")
    assert ids_in(tmp_path / "out") == ["d3", "d4"]
    assert pq.read_table(file).column_names == ["id", "text", "source", "metadata", "words", "quality.hq"]


@given(
    text=st.text(max_size=40),
    spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5),
)
def test_what_is_left_is_every_byte_outside_all_spans_in_order(text, spans):
    characters = [0, *itertools.accumulate(len(one.encode()) for one in text)]
    bounds = [sorted((min(a, len(text)), min(b, len(text)))) for a, b in spans]
    given = [{"start": characters[a], "end": characters[b]} for a, b in bounds]
    expected = "".join(c for i, c in enumerate(text) if not any(a <= i < b for a, b in bounds))
    assert remove(text, given) == expected


def test_spans_of_several_attributes_go_and_what_is_emptied_is_dropped(tmp_path: Path):
    rows = documents(3)
    rows[1]["text"] = "ab cd"
    write(tmp_path / "documents", rows)
    spans: list[list[dict[str, int]] | None] = [[{"start": 0, "end": 5}], [{"start": 0, "end": 2}], None]
    first = write(tmp_path / "first", [{"id": f"d{n}", "dedup.spans": one} for n, one in enumerate(spans)])
    more: list[list[dict[str, int]] | None] = [None, [{"start": 3, "end": 5}], None]
    second = write(tmp_path / "second", [{"id": f"d{n}", "overlap.spans": one} for n, one in enumerate(more)])
    result = run(tmp_path, [first, second], remove_spans=("dedup.spans", "overlap.spans"))
    texts = {
        row["id"]: row["text"] for f in (tmp_path / "out").glob("*.parquet") for row in pq.read_table(f).to_pylist()
    }
    assert texts == {"d0": "of 0.", "d2": "Text of 2."}
    assert result.counters["dropped"] == 1


def test_a_span_that_is_not_of_its_text_makes_a_bad_row():
    for text, span, why in [("abc", (1, 9), "beyond the text"), ("aé", (0, 2), "within a character")]:
        batch = pa.RecordBatch.from_pylist(
            [{"id": "d", "text": text, "source": "", "spans": [{"start": span[0], "end": span[1]}]}]
        )
        [bad] = RemoveSpans(columns=("spans",))(batch).bad
        assert why in bad.reason and bad.id == "d"


def test_a_document_without_attributes_is_an_error_until_it_is_said_what_it_means(tmp_path: Path):
    write(tmp_path / "documents", documents(4), files=1)
    partial = write(tmp_path / "a", [{"id": f"d{n}", "x": n} for n in range(3)], files=1)
    with pytest.raises(RuntimeError, match="d3"):
        run(tmp_path, [partial], rules=("x >= 1",))
    run(tmp_path, [partial], "dropped", rules=("x >= 1",), missing="drop")
    assert sorted(ids_in(tmp_path / "dropped")) == ["d1", "d2"]
    run(tmp_path, [partial], "kept", rules=("x >= 1",), missing="keep")
    assert sorted(ids_in(tmp_path / "kept")) == ["d1", "d2", "d3"]


def test_a_missing_value_of_a_share_is_an_error_or_dropped_or_kept(tmp_path: Path):
    rows: list[dict[str, Any]] = [{"id": f"d{n}", "x": float(n)} for n in range(4)]
    rows.append({"id": "d4", "x": None})
    path = write(tmp_path / "a", rows, files=1)
    keep = KeepFraction(column="x", share=0.5)
    with pytest.raises(ValueError, match=r"no value for 1 of 5 documents"):
        find_border(keep, (path,), missing="error")
    batch = pa.RecordBatch.from_pylist(rows)
    for missing, ids in [("drop", ["d2", "d3"]), ("keep", ["d2", "d3", "d4"])]:
        border = find_border(keep, (path,), missing=missing)
        assert isinstance(border, Border) and border(batch).batch.column("id").to_pylist() == ids


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path):
    path = write(tmp_path / "a", [{"id": "d0", "quality.hq": 1.0}])
    with pytest.raises(ValueError, match=r"no attribute 'quality.hp'; did you mean 'quality.hq'\?"):
        find_border(KeepFraction(column="quality.hp", share=0.5), (path,), missing="error")
    text = write(tmp_path / "b", [{"id": "d0", "name": "x"}])
    with pytest.raises(ValueError, match="holds string"):
        find_border(KeepFraction(column="name", share=0.5), (text,), missing="error")


def test_a_sample_and_the_attributes_are_written_where_that_is_asked_for(tmp_path: Path):
    write(tmp_path / "documents", documents(200))
    path = write(tmp_path / "a", [{"id": f"d{n}", "x": n} for n in range(200)])
    run(tmp_path, [path], sample=0.5, seed=1, keep_attributes=True)
    kept = ids_in(tmp_path / "out")
    assert 70 <= len(kept) <= 130
    assert "x" in pq.read_schema(next((tmp_path / "out").glob("*.parquet"))).names
    funnel = json.loads((tmp_path / "out" / "_funnel.json").read_text())
    assert funnel


def test_a_config_that_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="every document would stay"):
        ConsolidateConfig(input_path="a", output_path="b", attributes=())
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        KeepFraction(column="x", share=0.0)


def test_the_order_in_which_parts_are_named_changes_no_part(tmp_path: Path):
    source = write(tmp_path / "documents", documents(60), files=1)
    texts = []
    for number, parts in enumerate([{"train": 0.7, "held": 0.3}, {"held": 0.3, "train": 0.7}]):
        output = tmp_path / f"out{number}"
        counts = split_documents(SplitConfig(input_path=source, output_path=str(output), parts=parts, num_workers=0))
        texts.append({name: [file.read_bytes() for file in (output / name).glob("part-*")] for name in sorted(counts)})
        assert sum(counts.values()) == 60
    assert texts[0] == texts[1]
