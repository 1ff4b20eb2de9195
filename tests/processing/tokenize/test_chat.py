"""Conversations become tokens as they will stand in a prompt, and exactly the answers are trained on, their end too."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.chat_templates import CHATML_FORMAT, CHATML_TOKENS, LLAMA3_FORMAT, LLAMA3_TOKENS, PLAIN_FORMAT
from marin.data.store import CorruptStoreError, TokenStore
from marin.execution.canonical import canonical_json
from marin.processing.tokenize.api import default_tokenize
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.config import ChatFormat, TokenizeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.testing.tiny import TINY_CHAT, make_chat_store, make_token_store, tiny_conversations, write_byte_tokenizer

FORMATS = {"chatml": CHATML_FORMAT, "llama3": LLAMA3_FORMAT, "plain": PLAIN_FORMAT, "tiny": TINY_CHAT}
TINY_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
WITHOUT_BLOCKS = {
    name: replace(chat, template=chat.template.replace("{%- generation %}\n", "").replace("{%- endgeneration %}\n", ""))
    for name, chat in FORMATS.items()
    if name in ("chatml", "llama3")
}

contents = st.text(alphabet="aé \n<|>東", max_size=8)
answers = contents.filter(str.strip)
conversations = st.lists(st.tuples(contents, answers), min_size=1, max_size=3).map(
    lambda turns: [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    tokens = (*CHATML_TOKENS, *LLAMA3_TOKENS, *TINY_TOKENS)
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), extra_special_tokens=tokens)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def encoded(chat: ChatFormat, tokenizer: Tokenizer, messages: list[dict]) -> SimpleNamespace:
    """A conversation as the store gets it: all ids, and the mask."""
    template = ChatTemplate(chat, tokenizer)
    [row] = template.encode([template.conversation({"messages": messages}, "x").spans])
    assert row.loss_mask is not None
    return SimpleNamespace(ids=np.append(row.ids, tokenizer.eos_id), mask=row.loss_mask, stop_id=template.stop_id)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(messages=conversations)
def test_trained_on_are_the_answers_and_the_token_that_ends_each(tokenizer, name: str, messages: list[dict]):
    row = encoded(FORMATS[name], tokenizer, messages)
    stop = tokenizer.decode([row.stop_id])
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    trained = tokenizer.decode(row.ids[row.mask])
    assert trained == "".join((text.strip() if name == "llama3" else text) + stop for text in said)
    assert (row.ids[row.mask] == row.stop_id).sum() == len(said)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(messages=conversations)
def test_before_each_answer_stand_the_very_tokens_of_the_prompt_for_it(tokenizer, name: str, messages: list[dict]):
    row = encoded(FORMATS[name], tokenizer, messages)
    begins = np.flatnonzero(np.diff(row.mask.astype(int), prepend=0) == 1)
    template = ChatTemplate(FORMATS[name], tokenizer)
    prompts = [template.encode_prompt(messages[:index]) for index in range(1, len(messages), 2)]
    if name != "plain" or all(message["content"] for message in messages):  # an empty question there is none
        assert [row.ids[:begin].tolist() for begin in begins] == [prompt.tolist() for prompt in prompts]


@pytest.mark.parametrize("name", WITHOUT_BLOCKS)
@settings(max_examples=25, deadline=None)
@given(messages=conversations)
def test_a_template_without_blocks_gives_the_same_tokens_and_the_same_mask(tokenizer, name: str, messages: list[dict]):
    assert "generation %" not in WITHOUT_BLOCKS[name].template
    one, other = (encoded(formats[name], tokenizer, messages) for formats in (FORMATS, WITHOUT_BLOCKS))
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize("name", FORMATS)
def test_transformers_gives_the_same_tokens_and_the_same_mask(folder: Path, tokenizer: Tokenizer, name: str):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = FORMATS[name].template
    messages = [
        *({"role": "system", "content": "Be brief."}, {"role": "user", "content": " Straße\n"}),
        *({"role": "assistant", "content": "東京 \n"}, {"role": "user", "content": "?"}),
        {"role": "assistant", "content": "🙂"},
    ]
    row = encoded(FORMATS[name], tokenizer, messages)
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    size = len(found["input_ids"])
    assert row.ids.size - size == (0 if name == "plain" else 1)  # the store's own end-of-text token
    assert found["input_ids"] == row.ids[:size].tolist()
    assert found["assistant_masks"] == row.mask[:size].astype(int).tolist() and not row.mask[size:].any()
    prompt = theirs.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == ChatTemplate(FORMATS[name], tokenizer).encode_prompt(messages[:2]).tolist()


def test_an_end_of_text_token_of_the_template_is_that_of_the_store_and_is_trained_on(tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    plain = encoded(PLAIN_FORMAT, tokenizer, messages)
    assert plain.ids.tolist() == [*b"ab", tokenizer.eos_id] and plain.mask.tolist() == [False, True, True]
    tiny = encoded(TINY_CHAT, tokenizer, messages)
    assert tiny.ids[-2:].tolist() == [tiny.stop_id, tokenizer.eos_id] and tiny.mask[-2:].tolist() == [True, False]


def run(tmp_path: Path, rows: list[dict], folder: Path, chat: ChatFormat = TINY_CHAT, **settings) -> TokenStore:
    text = tmp_path / "rows"
    text.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (text / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    store = tmp_path / "store"
    tokenize(
        TokenizeConfig(
            input_path=str(text),
            output_path=str(store),
            tokenizer=str(folder),
            chat=chat,
            **{"num_workers": 1, **settings},
        )
    )
    return TokenStore.open(store, verify=True)


def test_the_store_holds_masks_beside_tokens_and_its_ledger_says_of_what(tmp_path: Path, folder, tokenizer):
    rows = tiny_conversations(12)
    store = run(tmp_path, rows, folder)
    assert store.chat is not None
    assert (store.chat.template, store.chat.stop_id) == (TINY_CHAT.template, tokenizer.special_tokens["<|end|>"])
    total = 0
    for index, row in enumerate(rows):
        expected = encoded(TINY_CHAT, tokenizer, row["messages"])
        start, end = store.document_offsets[index : index + 2].tolist()
        assert store.document(index).tolist() == expected.ids.tolist()
        assert store.read_loss_mask(start, end - start).tolist() == expected.mask.tolist()
        assert store.document_id(index) == ("", row["id"])
        text = "".join(message["content"] for message in row["messages"])
        assert store.document_num_bytes(index) == len(text.encode())
        total += int(expected.mask.sum())
    assert store.num_trained == total == store.read_loss_mask(0, store.num_tokens).sum()  # over both shards


def test_masks_do_not_depend_on_the_number_of_workers(tmp_path: Path, folder: Path):
    stores = [run(tmp_path / str(workers), tiny_conversations(10), folder, num_workers=workers) for workers in (1, 2)]
    assert stores[0].checksum == stores[1].checksum and "loss_mask" in stores[0].shards[0].sha256


def test_a_flipped_byte_of_a_mask_is_found_and_its_file_named(tmp_path: Path, folder: Path):
    store = run(tmp_path, tiny_conversations(4), folder)
    file = store.path / "shard-00001" / "loss_mask.bin"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"shard-00001/loss_mask.bin is damaged"):
        TokenStore.open(store.path, verify=True)
    file.write_bytes(data[:-1])
    with pytest.raises(CorruptStoreError, match=r"shard-00001/loss_mask.bin has .* bytes, the ledger says"):
        TokenStore.open(store.path)
    assert run(tmp_path, tiny_conversations(4), folder).checksum == store.checksum  # the same call mends it


def test_stores_of_text_are_as_they_were_and_every_token_of_them_counts(tmp_path: Path):
    store = make_token_store(tmp_path / "store")
    ledger = json.loads((store.path / "store.json").read_text())
    assert ledger["version"] == 2 and not {"chat", "num_trained"} & set(ledger)
    assert store.num_trained == store.num_tokens and store.read_loss_mask(3, 5).tolist() == [True] * 5
    assert json.loads((make_chat_store(tmp_path / "chat").path / "store.json").read_text())["version"] == 3
    assert "chat" not in canonical_json(TokenizeConfig(input_path="a", output_path="b", tokenizer="c"))
    assert default_tokenize("x", "a", "b").code_version != default_tokenize("x", "a", "b", chat=TINY_CHAT).code_version


def test_rows_of_two_columns_are_questions_with_answers(tmp_path: Path, folder: Path, tokenizer: Tokenizer):
    chat = replace(TINY_CHAT, prompt_column="prompt", completion_column="response")
    store = run(tmp_path, [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(4)], folder, chat)
    assert tokenizer.decode(store.document(2)) == "<|user|>p2<|end|><|assistant|>r2<|end|><|endoftext|>"
    assert store.document_id(2)[1] == "1.jsonl:1"
    with pytest.raises(ValueError, match="completion_column None; give both"):
        replace(TINY_CHAT, prompt_column="prompt")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "no answer: no message has the role 'assistant'"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "empty answer"),
        ({"messages": [{"role": "assistant", "content": None}]}, "message without content: number 0 has None"),
        ({"messages": "a"}, "messages is no list of objects"),
        ({"text": "a"}, "no messages"),
        ({"messages": [{"role": "assistant", "content": "a<|end|>"}]}, "message spells a special token"),
        ({"messages": [{"role": "assistant", "content": "a", "tool": [{"b": "<|user|>"}]}]}, "spells a special token"),
        ({"messages": [{"role": "assistant", "content": "\ufdd1"}]}, "no characters"),
        ({"messages": [{"role": "assistant", "content": "\ud800"}]}, "not valid Unicode"),
        (
            {"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "a"}]},
            "refuses it: no",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a"}, {"role": "assistent", "content": "a"}]},
            "message of unknown role: number 1 has 'assistent', known are 'user', 'assistant', 'system', 'tool'",
        ),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_put_aside_with_the_reason(tmp_path: Path, folder, row, reason: str):
    refusing = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    chat = replace(TINY_CHAT, template=refusing + TINY_CHAT.template)
    store = run(tmp_path, [*tiny_conversations(5), row], folder, chat, max_bad=0.5)
    assert store.num_documents == 5
    [bad] = [json.loads(line) for line in (store.path / "_bad" / "shard-00001.jsonl").read_text().splitlines()]
    assert reason in bad["reason"] and bad["line"] == 3


@pytest.mark.parametrize(
    ("template", "message"),
    [
        # the stop token stands outside the block
        (
            "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}<|end|>{% endfor %}",
            r"document 'chat-0-0': .* ends a turn that is trained on with .*, not with the stop token '<\|end\|>', "
            "so a model would not learn to stop",
        ),
        ("{% generation %}<|end|> bye{% endgeneration %}", "not with the stop token"),
        ("{{ messages[0].content }}{% generation %}{% endgeneration %}", "trained on with '', not with the stop token"),
        ("{% if false %}{% generation %}{% endgeneration %}{% endif %}a", "trains on nothing of it"),
        # earlier answers are shortened: without blocks nobody knows what was said
        (
            "{% for m in messages %}{{ m.content if loop.last else 'cut' }}<|end|>{% endfor %}",
            "no beginning of those with it. .*Write generation blocks",
        ),
        # and so they are when only answers that more follows are shortened, as those of models that think are
        (
            "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else 'cut' }}<|end|>{% endfor %}",
            "no beginning of those with it. .*Write generation blocks",
        ),
        # a model would be asked with words that no answer stood after in training
        (
            "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% endfor %}"
            "{% if add_generation_prompt %}assistant, think!{% endif %}",
            "document 'chat-0-0': .* asks for an answer with .*think!', .* in words it was not trained with",
        ),
        ("{{ ''.__class__.__mro__ }}<|end|>", "asks for what its sandbox forbids"),
        ("{% for m in messages %}", "is no Jinja: line 1"),
        ("<|im_start|>{{ messages }}", r"writes '<\|im_start\|>', which is no special token .*'<\|user\|>'"),
    ],
)
def test_a_template_that_cannot_teach_to_stop_fails_the_run(tmp_path: Path, template: str, message: str):
    tiny = write_byte_tokenizer(tmp_path / "tokenizer", extra_special_tokens=TINY_TOKENS)
    with pytest.raises((ValueError, RuntimeError), match=message):
        run(tmp_path, tiny_conversations(5), tiny, replace(TINY_CHAT, template=template), max_bad=1.0)
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_stop_token_that_the_tokenizer_lacks_is_refused_with_those_that_it_has(tmp_path: Path):
    tiny = write_byte_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"the stop token '<\|end\|>', which is no special token .*'<\|endoftext\|>'"):
        run(tmp_path, tiny_conversations(2), tiny)
