"""Decisions are datatrove's, rule by rule, where words are split the same way."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from marin.processing.filter.c4 import C4, C4Paragraphs
from marin.processing.filter.filters import Filter
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.pipeline.evaluate import evaluate
from marin.processing.pipeline.expressions import parse

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install datatrove==0.10.1")

from benchmarks import filter_peers

FILTERS: list[Filter] = [GopherQuality(), GopherRepetition(), FineWebQuality(), C4(), C4Paragraphs()]


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """Prose, articles, and pages with their tags taken out and all the menus left in. All have a word."""
    found = [path.read_text(encoding="utf-8") for path in sorted((shared_data / "text" / "peps").glob("*.rst"))[::3]]
    found += re.split(r"\n = (?!=)", (shared_data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8"))
    for path in sorted((shared_data / "html" / "trafilatura" / "eval").glob("*.html"))[::2]:
        page = path.read_text(encoding="utf-8", errors="replace")
        found.append(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", "", page))
    return [text for text in found if text.strip()]


@pytest.fixture(scope="module")
def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch({"id": [str(row) for row in range(len(texts))], "text": texts})


@pytest.mark.parametrize("given", FILTERS, ids=lambda given: type(given).__name__)
def test_decisions_are_those_of_datatrove(given: Filter, texts: list[str], batch: pa.RecordBatch):
    filter_peers.whitespace_words()
    peers = filter_peers.datatrove_rules()
    for operation in given.operations():
        batch = operation(batch)
    rules = {rule.name: rule.keep for rule in given.rules()}
    # sentences are counted by NLTK there, by a rule of ours here
    assert rules.keys() - peers.keys() <= {"c4.few_sentences"}
    for name in rules.keys() & peers.keys():
        ours = evaluate(parse(rules[name]), batch).to_pylist()
        found = [filter_peers.decision(peers[name], text) for text in texts]
        theirs = [kept is True or kept != filter_peers.REASONS.get(name, kept) for kept in found]
        different = [index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        if name == "gopher_quality.ellipses":  # not asked there where hash signs were too many
            different = [index for index in different if found[index] is True]
        assert not different, f"{name}: {[(texts[index][:60], ours[index]) for index in different[:3]]}"


def test_few_sentences_are_few_for_datatrove_too_but_near_the_threshold(texts: list[str]):
    pytest.importorskip("spacy", reason="datatrove counts sentences with spaCy: pip install spacy")
    pieces = [text[start : start + 700] for text in texts[:60] for start in range(0, len(text), 700)]
    ids = [str(row) for row in range(len(pieces))]
    edited = C4().operations()[0](pa.record_batch({"id": ids, "text": pieces}))
    ours = [count < 5 for count in edited.column("c4.num_sentences").to_pylist()]
    theirs = [filter_peers.num_sentences(text) < 5 for text in edited.column("text").to_pylist()]
    assert not all(theirs)
    assert sum(one != other for one, other in zip(ours, theirs, strict=True)) <= 0.02 * len(pieces)


def test_the_lines_that_c4_keeps_are_those_of_datatrove(texts: list[str], batch: pa.RecordBatch):
    edited = C4().operations()[0](batch).column("text").to_pylist()
    assert edited == [filter_peers.c4_text(text) for text in texts]
