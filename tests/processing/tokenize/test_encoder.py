"""The fast encoder gives the reference's ids, or is not used."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from marin.processing.tokenize import encoder as module
from marin.processing.tokenize.config import TrainBpeConfig
from marin.processing.tokenize.encoder import (
    AWKWARD_TEXTS,
    EncoderChoice,
    HuggingFaceEncoder,
    Utf8Texts,
    cut_between_words,
    difference,
    utf8_texts,
)
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.processing.tokenize.train_bpe import train_bpe
from marin.testing.tiny import EOS_TOKEN, tiny_documents, write_byte_tokenizer, write_documents

NAMES = ("bytes", "trained", "gpt2", "dolma2")

words = st.sampled_from(
    [" ", "  ", "\n", "\r\n", "\t", "the", "The", "'s", "'LL", "don't", "é", "e\u0301", "東京", "🙂", "123", "1", "²"]
    + [
        "\u00a0",
        "\u200b",
        "...",
        "-",
        "_",
        "/",
        "<|endoftext|>",
        "|||PHONE_NUMBER|||",
        "<|im_start|>",
        "\x00",
        "ſ",
        "İ",
    ]
)
texts = st.text(max_size=80) | st.lists(words, max_size=30).map("".join)


@pytest.fixture(scope="module")
def tokenizers(shared_data: Path, tmp_path_factory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    write_byte_tokenizer(folder / "bytes")
    write_documents(folder / "documents", tiny_documents(300))
    train_bpe(TrainBpeConfig(input_path=str(folder / "documents"), output_path=str(folder / "trained"), vocab_size=320))
    return {
        "bytes": load_tokenizer(folder / "bytes"),
        "trained": load_tokenizer(folder / "trained"),
        "gpt2": load_tokenizer(shared_data / "tokenizers" / "gpt2"),
        "dolma2": load_tokenizer(shared_data / "tokenizers" / "dolma2.json", eos_token=EOS_TOKEN),
    }


@pytest.fixture
def needs_gigatoken() -> None:
    pytest.importorskip("gigatoken", reason="needs gigatoken: pip install -e '.[gigatoken]'")


def fast_of(tokenizer: Tokenizer) -> Any:
    choice = tokenizer.encoders.best(utf8_texts(["a"]))
    assert (choice.encoder.name, choice.reason) == ("gigatoken", None)
    return choice.encoder


@pytest.mark.usefixtures("needs_gigatoken")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150)
@given(batch=st.lists(texts, max_size=5))
def test_the_fast_encoder_gives_the_ids_of_the_reference(tokenizers, name: str, batch: list[str]):
    tokenizer = tokenizers[name]
    assert difference(fast_of(tokenizer), tokenizer.encoders.oracle, utf8_texts(batch)) is None


@pytest.mark.usefixtures("needs_gigatoken")
@pytest.mark.parametrize("name", NAMES)
def test_it_does_on_real_text(tokenizers, shared_data: Path, name: str):
    files = sorted((shared_data / "text" / "peps").glob("*.rst"))[::40]
    pages = sorted((shared_data / "html" / "readability").glob("*/source.html"))[::8]
    real = [file.read_text(encoding="utf-8", errors="replace") for file in (*files, *pages)]
    assert sum(map(len, real)) > 500_000
    tokenizer = tokenizers[name]
    assert difference(fast_of(tokenizer), tokenizer.encoders.oracle, utf8_texts(real)) is None


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(batch=st.lists(texts, max_size=5))
def test_the_reference_encodes_a_batch_as_each_text_alone(tokenizers, name: str, batch: list[str]):
    tokenizer = tokenizers[name]
    rows = tokenizer.encoders.oracle.encode(utf8_texts(batch))
    assert [row.tolist() for row in rows] == [tokenizer.encode(text).tolist() for text in batch]


@given(batch=st.lists(texts, max_size=6), start=st.integers(0, 3), max_bytes=st.integers(0, 60))
def test_a_buffer_holds_its_texts_also_from_the_middle_on(batch: list[str], start: int, max_bytes: int):
    whole = utf8_texts(batch)
    start = min(start, len(batch))
    part = Utf8Texts(whole.data, whole.offsets[start:])
    assert [part[i] for i in range(len(part))] == batch[start:]
    first = part.first(max_bytes)
    assert first.num_bytes.sum() <= max_bytes
    assert "".join(batch[start:]).startswith("".join(first[i] for i in range(len(first))))


@pytest.mark.parametrize("name", ["bytes", "trained", "gpt2"])
@settings(max_examples=100)
@given(text=st.lists(words | st.sampled_from(["a b", " c d", "x"]), max_size=40).map("".join), size=st.integers(1, 9))
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(tokenizers, name: str, text: str, size: int):
    pieces = list(cut_between_words(text, size))
    assert "".join(pieces) == text
    tokenizer = tokenizers[name]
    ids = np.concatenate([tokenizer.encode(piece) for piece in pieces])
    assert ids.tolist() == tokenizer.encode(text).tolist()


def test_the_reference_cuts_long_texts_only_where_words_are_known_to_end(tokenizers, monkeypatch):
    monkeypatch.setattr(module, "LONG_TEXT", 50)
    asked: list[str] = []

    class Listening:
        def encode(self, text: str, **settings):
            asked.append(text)
            return tokenizers["gpt2"]._hf.encode(text, **settings)

    text = "the cat sat on a mat, and then " * 20 + "x" * 300
    for name, is_cut in (("gpt2", True), ("dolma2", False)):  # dolma2 looks for tokens that may have spaces in them
        asked.clear()
        description = tokenizers[name]._description
        rows = HuggingFaceEncoder(Listening(), description).encode(utf8_texts([text]))  # type: ignore[arg-type]
        assert (len(asked) > 5) == is_cut and "".join(asked) == text
        assert all(len(piece) < 100 for piece in asked[:-1])
        assert rows.ids.tolist() == tokenizers["gpt2"].encode(text).tolist()


def described(tokenizer: Tokenizer, change) -> EncoderChoice:
    """The encoders of a tokenizer whose tokenizer.json is changed by a function of its object."""
    description = json.loads(json.dumps(tokenizer._description))
    change(description)
    hf = HfTokenizer.from_str(json.dumps(description))
    hf.encode_special_tokens = True
    return EncoderChoice(hf, description)


def lower_case(description):
    description["normalizer"] = {"type": "Lowercase"}


def first_digits(description):
    description["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits", "individual_digits": True})


def prefix_space(description):
    description["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def other_pattern(description):
    description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|[^\p{L}]+"


def dropout(description):
    description["model"]["dropout"] = 0.5


def single_word(description):
    description["added_tokens"][0]["single_word"] = True


@pytest.mark.usefixtures("needs_gigatoken")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lower_case, "the normalizer Lowercase"),
        (first_digits, "this pre-tokenizer"),
        (prefix_space, "this pre-tokenizer"),
        (other_pattern, "this pre-tokenizer"),
        (dropout, "the setting dropout"),
        (single_word, "the token '<|extra_id_0|>', which is single_word"),
    ],
)
def test_a_tokenizer_with_a_part_that_it_may_not_have_is_left_to_the_reference(tokenizers, change, reason: str):
    encoders = described(tokenizers["dolma2"], change)
    choice = encoders.best(utf8_texts(["a"]))
    assert choice.encoder is encoders.oracle and choice.reason is not None and reason in choice.reason


@pytest.mark.usefixtures("needs_gigatoken")
@settings(max_examples=100)
@given(text=texts)
def test_it_composes_characters_as_the_reference_does(composing: EncoderChoice, text: str):
    encoder = composing.best(utf8_texts(["a"])).encoder
    assert encoder.name == "gigatoken"
    assert difference(encoder, composing.oracle, utf8_texts([text])) is None


@pytest.fixture(scope="module")
def composing(tokenizers) -> EncoderChoice:
    return described(tokenizers["trained"], lambda description: description.update(normalizer={"type": "NFC"}))


@pytest.mark.usefixtures("needs_gigatoken")
def test_an_encoder_that_differs_on_the_first_documents_is_not_used(tokenizers, monkeypatch):
    right = module.GigatokenEncoder.encode

    def wrong(self, texts: Utf8Texts):
        rows = right(self, texts)
        if any("zebra" in texts[i] for i in range(len(texts))):
            return module.TokenRows(np.append(rows.ids[:-1], rows.ids[-1] + 1), rows.offsets)
        return rows

    monkeypatch.setattr(module.GigatokenEncoder, "encode", wrong)
    encoders = described(tokenizers["trained"], lambda description: None)
    assert encoders.best(utf8_texts(["a horse"])).encoder.name == "gigatoken"
    choice = encoders.best(utf8_texts(["a horse", "a zebra"]))
    assert choice.encoder is encoders.oracle
    assert choice.reason == "gigatoken encodes 'a zebra' otherwise than tokenizers"
    monkeypatch.setattr(module, "AWKWARD_TEXTS", (*AWKWARD_TEXTS, "zebra"))
    again = described(tokenizers["trained"], lambda description: None)
    assert "'zebra'" in str(again.best(utf8_texts(["a horse"])).reason)


def test_without_it_the_reference_is_used_and_the_reason_told(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    encoders = described(tokenizers["trained"], lambda description: None)
    choice = encoders.best(utf8_texts(["a"]))
    assert choice.encoder is encoders.oracle
    assert choice.reason == "gigatoken is not installed (pip install 'marin[gigatoken]')"


@pytest.mark.usefixtures("needs_gigatoken")
def test_what_it_remembers_is_forgotten_when_it_is_too_much_and_no_id_changes(tokenizers, monkeypatch):
    encoder = fast_of(tokenizers["trained"])
    loaded: list[int] = []
    load = module.GigatokenEncoder._load
    monkeypatch.setattr(module.GigatokenEncoder, "_load", lambda self: (loaded.append(1), load(self))[1])
    sample = utf8_texts(["the small house", "a b c"])
    before = encoder.encode(sample)
    assert not loaded
    monkeypatch.setattr(module, "MAX_GROWTH", -(1 << 60))
    assert encoder.encode(sample).equals(before) and loaded == [1]
