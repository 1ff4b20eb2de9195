"""Training a tokenizer: the same text gives the same files, and bad input is refused."""

import json
from pathlib import Path

import pytest

from marin.processing.tokenize.config import TrainBpeConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.processing.tokenize.train_bpe import train_bpe
from marin.testing.tiny import tiny_documents, write_documents


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "documents", tiny_documents(200))


def train(documents: Path, output: Path, vocab_size: int = 300, **settings):
    config = TrainBpeConfig(input_path=str(documents), output_path=str(output), vocab_size=vocab_size, **settings)
    return train_bpe(config)


def test_training_twice_gives_equal_files(documents: Path, tmp_path: Path):
    summaries = [train(documents, tmp_path / name) for name in ("one", "two")]
    assert summaries[0] == summaries[1]
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_vocabulary_has_the_asked_size_the_bytes_and_end_of_text_first(documents: Path, tmp_path: Path):
    summary = train(documents, tmp_path / "tokenizer", 310, extra_special_tokens=("<|pad|>",))
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.vocab_size == summary["vocab_size"] == 310
    assert tokenizer.digest == summary["tokenizer_digest"]
    assert tokenizer.eos_id == 0 and tokenizer.decode([0, 1]) == "<|endoftext|><|pad|>"
    assert sorted(tokenizer.token_byte_lengths())[:3] == [0, 0, 1]
    everything = "".join(map(chr, [*range(0x300), 0x4E2D, 0x1F642]))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything
    assert len(tokenizer.encode("house token model")) < len("house token model")


def test_a_limit_of_bytes_trains_on_the_first_documents_only(documents: Path, tmp_path: Path):
    summary = train(documents, tmp_path / "tokenizer", 270, max_bytes=3000)
    assert 3000 <= summary["text_bytes"] < 3500 and summary["documents"] < 200


def test_a_text_too_small_for_the_vocabulary_says_what_it_gives(documents: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"give a vocabulary of (\d+) tokens, 50000 were asked for.*vocab_size=\1"):
        train(documents, tmp_path / "tokenizer", 50_000)
    assert not (tmp_path / "tokenizer").exists()


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 256; at least 257"):
        TrainBpeConfig(input_path="in", output_path="out", vocab_size=256)


def test_an_empty_corpus_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError,
        match=r"no documents: .*empty holds no \*\.jsonl.* file \(it holds nothing\)",
    ):
        train(tmp_path / "empty", tmp_path / "tokenizer")
    (tmp_path / "empty" / "a.jsonl").write_text('{"text": ""}')
    with pytest.raises(ValueError, match=r"no documents to train a tokenizer on under .*: its 1 files hold none"):
        train(tmp_path / "empty", tmp_path / "tokenizer")


def test_bad_rows_are_counted_and_too_many_fail(documents: Path, tmp_path: Path):
    (documents / "bad.jsonl").write_text('{"text": "fine"}\n{broken\n{"body": 1}\n')
    summary = train(documents, tmp_path / "tokenizer", max_bad=0.02)
    assert summary["bad_by_kind"] == {"no text": 1, "not JSON": 1} and summary["documents"] == 201
    assert json.loads((tmp_path / "tokenizer/training.json").read_text()) == summary
    with pytest.raises(ValueError, match=r"2 of 203 rows .* more than max_bad=0\.50%: 1 no text, 1 not JSON"):
        train(documents, tmp_path / "other", max_bad=0.005)


def test_a_refusal_names_the_first_bad_rows_by_file_and_line(documents: Path, tmp_path: Path):
    (documents / "more").mkdir()
    (documents / "more/bad.jsonl").write_text('{"text": "fine"}\n{broken\n{"body": 1}\n')
    (documents / "more/worse.jsonl").write_text("a\nb\n")
    found = (
        r"more/bad\.jsonl line 2 \(not JSON: .*\); more/bad\.jsonl line 3 \(no text: .*\); more/worse\.jsonl line 1 \("
    )
    with pytest.raises(ValueError, match=found) as refused:
        train(documents, tmp_path / "tokenizer", max_bad=0.005)
    assert "worse.jsonl line 2" not in str(refused.value)
    with pytest.raises(ValueError, match=r"The first: worse\.jsonl line 1 \(not JSON"):
        train(documents / "more/worse.jsonl", tmp_path / "tokenizer", max_bad=0.005)
