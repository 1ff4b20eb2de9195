"""The tokenizer: text is only text, every token's bytes are known, equal tokenizers have equal digests."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from marin.processing.tokenize.config import TrainBpeConfig
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.processing.tokenize.train_bpe import train_bpe
from marin.testing.tiny import EOS_TOKEN, tiny_documents, write_byte_tokenizer, write_documents


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, request) -> dict[str, Tokenizer]:
    """A byte tokenizer and a trained one."""
    folder = tmp_path_factory.mktemp("tokenizers")
    write_byte_tokenizer(folder / "bytes")
    write_documents(folder / "documents", tiny_documents(300))
    train_bpe(TrainBpeConfig(input_path=str(folder / "documents"), output_path=str(folder / "trained"), vocab_size=320))
    return {name: load_tokenizer(folder / name) for name in ("bytes", "trained")}


@pytest.fixture(scope="module")
def gpt2(shared_data: Path, tmp_path_factory) -> Tokenizer:
    """GPT-2's own vocabulary and merges, made into a tokenizer folder."""
    source = shared_data / "tokenizers" / "gpt2"
    hf = HfTokenizer(models.BPE.from_file(str(source / "encoder.json"), str(source / "vocab.bpe")))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([EOS_TOKEN])
    file = tmp_path_factory.mktemp("gpt2") / "tokenizer.json"
    hf.save(str(file))
    return load_tokenizer(file, eos_token=EOS_TOKEN)


any_text = st.text(max_size=60) | st.text(alphabet=" \n\t'sé🙂\u0300<|endoftext|>", max_size=60)


@pytest.mark.parametrize("name", ["bytes", "trained"])
@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_every_text_comes_back_and_its_tokens_bytes_are_its_bytes(tokenizers, name: str, text: str):
    tokenizer = tokenizers[name]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    assert tokenizer.token_byte_lengths()[ids].sum() == len(text.encode())
    assert tokenizer.eos_id not in ids


@settings(max_examples=25, deadline=None)
@given(text=any_text)
def test_gpt2_tokens_stand_for_the_bytes_of_the_text(gpt2: Tokenizer, text: str):
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    assert gpt2.token_byte_lengths()[ids].sum() == len(text.encode())


def test_gpt2_encodes_a_known_sentence_and_real_text_as_it_should(gpt2: Tokenizer, shared_data: Path):
    assert gpt2.vocab_size == 50257 and gpt2.eos_id == 50256 and gpt2.bos_id is None
    assert gpt2.encode("Hello world, 1234!").tolist() == [15496, 995, 11, 1105, 2682, 0]
    lengths = gpt2.token_byte_lengths()
    assert lengths[gpt2.eos_id] == 0 and (np.delete(lengths, gpt2.eos_id) >= 1).all()
    for number in (8, 20, 100, 484):
        text = (shared_data / "text" / "peps" / f"pep-{number:04d}.rst").read_text(encoding="utf-8")
        ids = gpt2.encode(text)
        assert gpt2.decode(ids) == text and lengths[ids].sum() == len(text.encode())


def test_a_llama_3_style_tokenizer_knows_its_bytes_too(shared_data: Path):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "dolma2.json", eos_token=EOS_TOKEN)
    text = "naïve — 東京 🙂\n\n    def f(x):\treturn 12345678 |||PHONE_NUMBER||| <|endoftext|>"
    ids = tokenizer.encode(text)
    assert tokenizer.vocab_size == 100278 and tokenizer.eos_id == 100257 not in ids
    assert tokenizer.decode(ids) == text and tokenizer.token_byte_lengths()[ids].sum() == len(text.encode())


def test_a_document_cannot_spell_the_end_of_itself(tokenizers):
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode(f"a{EOS_TOKEN}b")
        assert tokenizer.eos_id not in ids and len(ids) > 3


def test_a_batch_is_encoded_as_its_texts_are(tokenizers):
    texts = [document["text"] for document in tiny_documents(20)] + ["", EOS_TOKEN]
    for tokenizer in tokenizers.values():
        batch = tokenizer.encode_batch(texts)
        assert [ids.tolist() for ids in batch] == [tokenizer.encode(text).tolist() for text in texts]


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizers, gpt2_like: Path, tmp_path: Path):
    for name, tokenizer in tokenizers.items():
        tokenizer.save(tmp_path / name)
        again = load_tokenizer(tmp_path / name)
        assert (again.digest, again.eos_id, again.vocab_size) == (
            tokenizer.digest,
            tokenizer.eos_id,
            tokenizer.vocab_size,
        )
    bare = load_tokenizer(gpt2_like, eos_token=EOS_TOKEN)  # a file without a tokenizer_config.json
    bare.save(tmp_path / "bare")
    assert load_tokenizer(tmp_path / "bare").digest == bare.digest


@pytest.fixture
def gpt2_like(tmp_path: Path) -> Path:
    folder = write_byte_tokenizer(tmp_path / "folder")
    target = tmp_path / "lonely" / "tokenizer.json"
    target.parent.mkdir()
    return (folder / "tokenizer.json").rename(target)


def rewritten(folder: Path, change) -> Path:
    """The byte tokenizer with its tokenizer.json changed by a function of its object."""
    write_byte_tokenizer(folder)
    description = json.loads((folder / "tokenizer.json").read_text())
    change(description)
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return folder


def test_the_digest_sees_what_decides_ids_and_nothing_else(tmp_path: Path):
    def truncate(description):
        description["truncation"] = {
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        }

    def swap(description):
        vocabulary = description["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    def merge(description):
        description["model"]["vocab"]["ab"] = 256
        description["model"]["merges"] = [["a", "b"]]
        description["added_tokens"][0]["id"] = 257

    def merge_as_text(description):
        merge(description)
        description["model"]["merges"] = ["a b"]

    def normalize(description):
        description["normalizer"] = {"type": "NFC"}

    changes = {"same": lambda d: None, "truncate": truncate, "swap": swap, "merge": merge, "normalize": normalize}
    tokenizers = {name: load_tokenizer(rewritten(tmp_path / name, change)) for name, change in changes.items()}
    assert tokenizers["same"].digest == tokenizers["truncate"].digest
    assert tokenizers["truncate"].encode("abcdefgh").size == 8  # and truncation does not happen
    assert len({tokenizer.digest for tokenizer in tokenizers.values()}) == 4
    assert load_tokenizer(rewritten(tmp_path / "text", merge_as_text)).digest == tokenizers["merge"].digest


def test_the_digest_is_the_same_for_files_that_do_the_same(tmp_path: Path):
    """The settings in which published copies of one tokenizer differ: none of them changes an id or a text."""
    texts = [document["text"] for document in tiny_documents(30)] + [" a  b\n", f"x{EOS_TOKEN} y", "\t 12 345"]

    def offsets(description):
        description["pre_tokenizer"]["trim_offsets"] = False

    def decoder(description):
        description["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}

    def sequence(description):
        description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [description["pre_tokenizer"]]}

    def special(description):
        description["added_tokens"][0] |= {"normalized": True, "lstrip": True, "rstrip": True}

    def order(description):
        description["model"]["vocab"] = dict(reversed(description["model"]["vocab"].items()))

    plain = load_tokenizer(rewritten(tmp_path / "plain", lambda d: None))
    for change in (offsets, decoder, sequence, special, order):
        other = load_tokenizer(rewritten(tmp_path / change.__name__, change))
        assert other.digest == plain.digest, change.__name__
        for text in texts:
            ids = other.encode(text)
            assert np.array_equal(ids, plain.encode(text)) and other.decode(ids) == plain.decode(ids)

    def prefix(description):
        description["pre_tokenizer"]["add_prefix_space"] = True

    def found(description):  # a token that is no special one is looked for in texts
        description["added_tokens"].append(
            {**description["added_tokens"][0], "id": 257, "content": "the", "special": False}
        )

    def found_alone(description):
        found(description)
        description["added_tokens"][1]["single_word"] = True

    others = [load_tokenizer(rewritten(tmp_path / c.__name__, c)) for c in (prefix, found, found_alone)]
    assert len({plain.digest, *(other.digest for other in others)}) == 4
    assert len({tuple(t.encode("then the").tolist()) for t in (plain, *others)}) == 4


def test_a_published_tokenizer_saved_again_by_others_keeps_its_digest(shared_data: Path, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    file = shared_data / "tokenizers" / "dolma2.json"
    published = load_tokenizer(file, eos_token=EOS_TOKEN)
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=EOS_TOKEN).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != file.read_bytes()
    assert load_tokenizer(tmp_path).digest == published.digest


def test_the_digest_covers_which_tokens_end_and_begin_a_text(tmp_path: Path):
    def add_begin(description):
        added = description["added_tokens"]
        added.append({**added[0], "id": 257, "content": "<|begin|>"})

    folder = rewritten(tmp_path / "two", add_begin)
    settings_of = ({}, {"bos_token": "<|begin|>"}, {"eos_token": "<|begin|>"}, {"bos_token": EOS_TOKEN})
    tokenizers = [load_tokenizer(folder, **settings) for settings in settings_of]
    assert len({tokenizer.digest for tokenizer in tokenizers}) == len(settings_of)
    for number, tokenizer in enumerate(tokenizers):
        tokenizer.save(tmp_path / str(number))
        again = load_tokenizer(tmp_path / str(number))
        assert (again.digest, again.eos_id, again.bos_id) == (tokenizer.digest, tokenizer.eos_id, tokenizer.bos_id)


def test_transformers_loads_a_written_folder_with_the_same_ids(tokenizers, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    for name, tokenizer in tokenizers.items():
        tokenizer.save(tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        text = "the naïve 東京 🙂 model's\n  tokens"
        assert theirs(text).input_ids == tokenizer.encode(text).tolist()
        assert theirs.decode(tokenizer.encode(text)) == text
        assert (theirs.eos_token, theirs.eos_token_id, len(theirs)) == (
            EOS_TOKEN,
            tokenizer.eos_id,
            tokenizer.vocab_size,
        )


def test_what_is_no_usable_tokenizer_is_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    folder = write_byte_tokenizer(tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"does not say which token ends a text. Write it into .*tokenizer_config.json, .*\['<\|endoftext\|>'\]",
    ):
        load_tokenizer(folder)
    with pytest.raises(ValueError, match="eos_token '</s>' is not in the vocabulary"):
        load_tokenizer(folder, eos_token="</s>")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    assert load_tokenizer(folder).eos_token == "<|endoftext|>", "what the refusal says to write is enough"
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(folder)
    hf = HfTokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    hf.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="of type WordLevel and not byte-level BPE"):
        load_tokenizer(folder)
