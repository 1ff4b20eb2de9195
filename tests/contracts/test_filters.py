"""What every filter keeps, whichever it is: adding one is adding a line to FILTERS and, if it measures, to ORACLES."""

import dataclasses
import importlib
import json
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.config import decode, encode
from marin.processing.filter.compression import CompressionRatio
from marin.processing.filter.filters import FILTERS, Filter
from marin.processing.filter.meanings import MEANINGS
from marin.processing.kernels.line_edits_reference import c4_lines_reference, dclm_lines_reference
from marin.processing.kernels.text_signals_reference import text_signals_reference
from marin.processing.pipeline.evaluate import evaluate
from marin.processing.pipeline.expressions import parse

LISTS = {"domains": "bad.example\n", "words": "casino\n", "bad": "# a list\nfoo\nfoo bar\n@$!\n"}
TEXTS = [
    "",
    " \n\t\n",
    "\n" * 50,
    "x" * 4000,
    "The cat sat on the mat. It was happy with that, and so were we.\n" * 12,
    "Read more...\nSIGN IN\n1,234 likes\nWhat a day it was. Write to ann.lee@mail.example.com or 8.8.8.8 today!\n",
    "• one\r\n- two ...\n{ javascript }\nlorem ipsum dolor.\u2028foo bar @$! …",
    "東京は大きい。 \U0001f600 é\u0301 \x00 \ufeff ١٢٣ ß İ",
    "a b " * 2000,
]


def of_name(name: str, folder: Path) -> Filter:
    """The filter with its defaults, and lists where it needs some."""
    module, _, cls = FILTERS[name].partition(":")
    settings: dict[str, Any] = {}
    if name in ("url_lists", "bad_words"):
        for kind, text in LISTS.items():
            (folder / f"{kind}.txt").write_text(text)
        settings = {"path": str(folder / "bad.txt")}
    if name == "url_lists":
        settings = {
            "domains": str(folder / "domains.txt"),
            "soft_words": str(folder / "words.txt"),
            "min_soft_words": 1,
        }
    return getattr(importlib.import_module(module), cls)(**settings)


@pytest.fixture(scope="module", params=FILTERS)
def filter_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Filter:
    return of_name(request.param, tmp_path_factory.mktemp("lists"))


def batch_of(texts: list[str]) -> pa.RecordBatch:
    rows = range(len(texts))
    columns = {
        "id": [f"{row:032x}" for row in rows],
        "text": texts,
        "metadata": [json.dumps({"url": f"https://host{row % 7}.bad.example/casino-{row}"}) for row in rows],
        "language": ["en" if row % 2 else "de" for row in rows],
        "language_score": [row % 10 / 10 for row in rows],
    }
    types = [pa.float64() if name == "language_score" else pa.string() for name in columns]
    return pa.record_batch(columns, schema=pa.schema(zip(columns, types, strict=True)))


def measured(given: Filter, batch: pa.RecordBatch) -> pa.RecordBatch:
    for operation in given.operations():
        batch = operation(batch)
    return batch


def decided(given: Filter, texts: list[str]) -> list[list[Any]]:
    """For each rule, its decision on every text."""
    batch = measured(given, batch_of(texts))
    return [evaluate(parse(rule.keep), batch).to_pylist() for rule in given.rules()]


def test_a_filter_is_a_frozen_config_with_a_version(filter_of: Filter):
    assert isinstance(filter_of, Filter)
    assert type(filter_of).version >= 1 and "version" not in {field.name for field in dataclasses.fields(filter_of)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        filter_of.anything = 1  # type: ignore[attr-defined]
    for operation in filter_of.operations():
        assert dataclasses.is_dataclass(operation) and type(operation).version >= 1
        assert hash(operation) == hash(dataclasses.replace(operation))  # frozen, of plain values


def test_a_filter_is_the_same_after_a_trip_through_json(filter_of: Filter):
    plain = json.loads(json.dumps(encode(filter_of)))
    assert plain["type"] in FILTERS
    assert decode(Filter, plain) == filter_of


def test_rules_are_expressions_with_a_reason_and_a_source(filter_of: Filter):
    names = [rule.name for rule in filter_of.rules()]
    assert len(set(names)) == len(names)
    for rule in filter_of.rules():
        assert str(parse(rule.keep)) and rule.description and rule.source
        assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", rule.name)


def test_every_column_that_a_filter_adds_has_a_meaning(filter_of: Filter):
    before = batch_of(TEXTS)
    added = set(measured(filter_of, before).schema.names) - set(before.schema.names)
    assert added == {column for operation in filter_of.operations() for column in operation.adds()}
    assert added <= MEANINGS.keys()
    assert {column for rule in filter_of.rules() for column in parse(rule.keep).columns()} <= (
        added | {"language", "language_score"}
    )


def test_odd_texts_get_a_decision_of_every_rule(filter_of: Filter):
    for decisions in decided(filter_of, TEXTS):
        assert len(decisions) == len(TEXTS) and set(decisions) <= {True, False}
    assert all(not column.null_count for column in measured(filter_of, batch_of(TEXTS)).columns)
    assert measured(filter_of, batch_of([])).num_rows == 0


@settings(max_examples=40)
@given(texts=st.lists(st.text(max_size=60) | st.sampled_from(TEXTS), min_size=1, max_size=5), data=st.data())
def test_results_do_not_depend_on_how_rows_are_batched(filter_of: Filter, texts: list[str], data: st.DataObject):
    whole = measured(filter_of, batch_of(texts))
    cut = data.draw(st.integers(0, len(texts)))
    batch = batch_of(texts)
    parts = [measured(filter_of, part) for part in (batch.slice(0, cut), batch.slice(cut))]
    assert pa.Table.from_batches(parts).to_pylist() == whole.to_pylist()
    assert measured(filter_of, batch_of(texts)).equals(whole)


def test_other_columns_and_the_order_of_rows_stay(filter_of: Filter):
    before = batch_of(TEXTS)
    after = measured(filter_of, before)
    assert after.column("id").equals(before.column("id")) and after.column("language").equals(before.column("language"))
    large = before.set_column(1, "text", before.column("text").cast(pa.large_string()))
    assert measured(filter_of, large).drop_columns(["text"]).equals(after.drop_columns(["text"]))


@pytest.mark.parametrize("name", FILTERS)
def test_an_operation_that_changes_texts_says_so(name: str, tmp_path: Path):
    before = batch_of(TEXTS)
    given = of_name(name, tmp_path)
    changed = not measured(given, before).column("text").equals(before.column("text"))
    assert changed == any(operation.edits_text for operation in given.operations())


@pytest.mark.parametrize("name", sorted(FILTERS.keys() - {"url_lists", "language"}))  # these do not look at the text
def test_a_text_that_is_null_is_named(name: str, tmp_path: Path):
    batch = batch_of(TEXTS).set_column(1, "text", pa.array([None, *TEXTS[1:]], pa.string()))
    with pytest.raises(ValueError, match="'text' is null in 1 rows, first in row 0"):
        measured(of_name(name, tmp_path), batch)


def _prefixed(signals: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {name: value for name, value in signals.items() if name.split(".")[0] in prefixes}


def _edited(reference: Callable, text: str) -> dict[str, Any]:
    edited, counts = reference(text)
    return {"text": edited, **counts}


def _dclm(text: str) -> dict[str, Any]:
    row = _edited(dclm_lines_reference, text)
    before, after = row["dclm.num_words_before"], row["dclm.num_words_after"]
    return {**row, "dclm.removed_word_ratio": (before - after) / before if before else 0.0}


def _compressed(text: str) -> dict[str, Any]:
    data = text.encode()
    return {"compression.lz4": len(lz4.frame.compress(data)) / len(data) if data else 0.0}


def _bad_words(text: str) -> dict[str, Any]:
    bad = [re.escape(word) for word in ("foo", "foo bar", "@$!")]
    return {"bad_words.num_found": int(re.search(rf"(?:\W|^)(?:{'|'.join(bad)})(?:\W|$)", text.lower()) is not None)}


# What a filter makes of one text, in plain Python: its columns, or those of them that are told by the text alone.
ORACLES: dict[str, Callable[[str], dict[str, Any]]] = {
    "gopher_quality": lambda text: _prefixed(text_signals_reference(text), "gopher"),
    "gopher_repetition": lambda text: _prefixed(text_signals_reference(text), "text", "repetition"),
    "fineweb_quality": lambda text: _prefixed(text_signals_reference(text), "fineweb"),
    "c4_paragraphs": lambda text: _prefixed(text_signals_reference(text), "c4"),
    "c4": lambda text: _edited(c4_lines_reference, text),
    "dclm_lines": _dclm,
    "compression_ratio": _compressed,
    "bad_words": _bad_words,
}
# These are plain Python themselves, with tests of their own in tests/processing/filter.
WITHOUT_ORACLE = {"url_lists", "language", "pii"}


def test_every_filter_has_an_oracle_or_is_said_to_need_none():
    assert ORACLES.keys() | WITHOUT_ORACLE == FILTERS.keys()


@pytest.mark.parametrize("name", ORACLES)
def test_a_filter_measures_what_its_oracle_does(name: str, tmp_path: Path):
    texts = [*TEXTS, *(f"{a} {b}" for a in TEXTS[:8] for b in TEXTS[4:8]), "FOO", "food", "a.foo-b", "@$! foo\nbar"]
    rows = measured(of_name(name, tmp_path), batch_of(texts)).to_pylist()
    for text, row in zip(texts, rows, strict=True):
        expected = ORACLES[name](text)
        assert {column: row[column] for column in expected} == expected, repr(text)


def test_compression_ratios_are_those_of_the_libraries():
    text = "The cat sat on the mat. " * 40
    [row] = measured(CompressionRatio(codec="zlib", window_log=9), batch_of([text])).to_pylist()
    compressor = zlib.compressobj(6, wbits=9)
    assert row["compression.zlib"] == (len(compressor.compress(text.encode())) + len(compressor.flush())) / len(text)
    far = "".join(chr(33 + (i * i * 7 + i // 3) % 90) for i in range(3000))
    near, wide = (CompressionRatio(codec="zstd", level=3, window_log=log) for log in (10, 20))
    ratios = [measured(each, batch_of([far * 2])).to_pylist()[0]["compression.zstd"] for each in (near, wide)]
    assert ratios[1] < ratios[0]  # a repetition 3,000 bytes back is seen by the wider window alone


# How many times as fast as finding the words by a regular expression a filter is at least, on plain prose: a floor that
# an accident falls through and a loaded machine does not. Measured: benchmarks/results/filters.md.
SPEED_FLOOR = {
    **dict.fromkeys(("gopher_quality", "gopher_repetition", "fineweb_quality", "c4_paragraphs"), 0.8),
    **dict.fromkeys(("c4", "dclm_lines", "compression_ratio"), 1.0),
    **dict.fromkeys(("bad_words",), 0.2),
    **dict.fromkeys(("url_lists", "language"), 1.0),
    "pii": 0.5,
}


def test_a_filter_is_not_slower_than_it_was_made_to_be(filter_of: Filter):
    prose = [" ".join(f"word{(i * j) % 977} the and" for i in range(300)) + ".\n" for j in range(1, 60)]
    batch = batch_of(prose)
    measured(filter_of, batch)  # compiles

    def seconds(work: Callable[[], Any]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    plain = min(seconds(lambda: [re.findall(r"\w+", text) for text in prose]) for _ in range(5))
    taken = min(seconds(lambda: measured(filter_of, batch)) for _ in range(5))
    [name] = [name for name, target in FILTERS.items() if target.endswith(f":{type(filter_of).__qualname__}")]
    assert taken <= plain / SPEED_FLOOR[name]
