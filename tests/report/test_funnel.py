"""The funnel of a pipeline: its numbers add up from stage to stage, or there is none."""

import json
from pathlib import Path

import pytest

from marin.cli import main as cli
from marin.processing.filter.config import FilterConfig
from marin.processing.filter.run import filter_documents
from marin.processing.pipeline import Dataset
from marin.processing.tokenize.config import TokenizeConfig, TrainBpeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.train_bpe import train_bpe
from marin.report.config import FunnelConfig
from marin.report.funnel import read_funnel, stage_names, write_funnel

TEXTS = ["short", *(f"A text of some length, number {n}, with <b>words</b> & `signs`. " * (n + 1) for n in range(9))]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> dict[str, str]:
    """Output folders of three stages, by name."""
    folder = tmp_path_factory.mktemp("pipeline")
    places = {name: str(folder / name) for name in ("read", "filtered", "tokens")}
    rows = [{"id": f"d{n}", "text": text, "source": "s", "metadata": {}} for n, text in enumerate(TEXTS)]
    Dataset.from_items(rows, num_shards=2).write_parquet(places["read"]).run(workers=0)
    rules = ("length(text) >= 10", "length(text) < 400")
    filter_documents(
        FilterConfig(input_path=places["read"], output_path=places["filtered"], rules=rules, num_workers=0)
    )
    train_bpe(TrainBpeConfig(input_path=_jsonl(folder), output_path=str(folder / "bpe"), vocab_size=300))
    config = TokenizeConfig(
        input_path=places["filtered"], output_path=places["tokens"], tokenizer=str(folder / "bpe"), num_workers=1
    )
    tokenize(config)
    return places


def _jsonl(folder: Path) -> str:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def test_each_stage_says_what_came_in_what_each_rule_took_and_what_is_left(pipeline):
    funnel = read_funnel(pipeline)
    read, filtered, tokens = funnel.stages
    assert (read.documents_in, read.documents_out) == (10, 10)
    assert filtered.documents_in == 10
    assert filtered.documents_out == 10 - sum(rule.documents for rule in filtered.rules)
    first, second = filtered.rules
    assert first.documents == 1 and first.samples[0]["id"] == "d0" and second.documents > 0
    assert tokens.documents_in == filtered.documents_out == tokens.documents_out
    ledger = json.loads((Path(pipeline["tokens"]) / "store.json").read_text())
    assert tokens.tokens_out == ledger["num_tokens"] and tokens.are_tokens_counted
    assert funnel.bytes_per_token == tokens.text_bytes_out / ledger["num_tokens"]
    assert not read.are_tokens_counted and (read.tokens_out or 0) > (tokens.tokens_out or 0)


def test_stages_that_are_not_one_behind_the_other_have_no_funnel(pipeline, tmp_path: Path):
    with pytest.raises(ValueError, match=r"'filtered' read 10 documents .* 'tokens' before it wrote"):
        read_funnel({"tokens": pipeline["tokens"], "filtered": pipeline["filtered"]})
    with pytest.raises(FileNotFoundError, match=r"has no _funnel.json and no tokenize.json"):
        read_funnel({"nothing": str(tmp_path)})


def test_without_a_token_store_no_number_of_tokens_is_told(pipeline):
    funnel = read_funnel({name: pipeline[name] for name in ("read", "filtered")})
    assert funnel.bytes_per_token is None and {one.tokens_out for one in funnel.stages} == {None}


def test_the_page_shows_samples_as_text_and_is_the_same_each_time(pipeline, tmp_path: Path):
    for name in ("first", "second"):
        write_funnel(FunnelConfig(title="A pipeline", stages=pipeline, output_path=str(tmp_path / name)))
    page = (tmp_path / "first" / "funnel.html").read_text()
    assert "<svg" in page and "<b>words" not in page and "&lt;b&gt;words" in page
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
    assert json.loads((tmp_path / "first" / "funnel.json").read_text())["stages"][1]["name"] == "filtered"


def test_the_command_prints_the_funnel_of_folders(pipeline, capfd):
    assert cli.main(["data", "funnel", *pipeline.values(), "--samples", "1"]) == 0
    out = capfd.readouterr().out
    assert "| filtered | 10 |" in out and "Dropped by `length(text) >= 10`" in out.replace(
        "text.length()", "length(text)"
    )
    assert cli.main(["data", "funnel", *pipeline.values(), "--json"]) == 0
    assert [one["name"] for one in json.loads(capfd.readouterr().out)["stages"]] == ["read", "filtered", "tokens"]
    assert cli.main(["data", "funnel", pipeline["tokens"], pipeline["read"]]) == 2
    assert "not one behind the other" in capfd.readouterr().err


def test_stages_are_named_by_what_tells_their_paths_apart():
    named = stage_names(["documents", "exact/documents", "near/documents/"])
    assert list(named) == ["documents", "exact", "near"]
    assert stage_names(["a/docs/", "b/docs", "c"]) == {"docs": "a/docs/", "b/docs": "b/docs", "c": "c"}
