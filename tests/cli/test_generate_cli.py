"""`marin generate` and `marin chat`, typed as people type them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.data.store import ChatInfo
from marin.evaluation.models import open_model
from marin.export.hf import save_hf
from marin.inference.text import generate_text
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import TINY_CHAT, TINY_CHAT_TOKENS, write_byte_tokenizer

MODEL = LlamaConfig(seq_len=128, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
LONG = LlamaConfig(seq_len=40_000, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
VOCAB_SIZE = 260


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """models/plain without a chat template, models/chat with one, models/endless that never ends an answer soon."""
    root = tmp_path_factory.mktemp("generate")
    (root / "pyproject.toml").touch()
    tokenizer = write_byte_tokenizer(root / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    stop_id = load_tokenizer(tokenizer).token_id("<|end|>")
    random = np.random.default_rng(0)
    for name, config in (("plain", MODEL), ("chat", MODEL), ("endless", LONG)):
        chat = None if name == "plain" else ChatInfo(template=TINY_CHAT.template or "", stop_id=stop_id)
        shapes = jax.eval_shape(lambda config=config: config.init(VOCAB_SIZE, key=jax.random.key(0)))
        params = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)
        if name == "endless":  # printable letters alone
            letters = (jnp.arange(VOCAB_SIZE) >= 97) & (jnp.arange(VOCAB_SIZE) < 123)
            params = dataclasses.replace(params, unembedding=100 * jnp.where(letters, params.unembedding, 0))
        save_hf(config, params, VOCAB_SIZE, tokenizer, root / "models" / name, chat=chat)
    return root


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MARIN_PREFIX", "store")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


Marin = Callable[..., SimpleNamespace]


def test_a_prompt_is_completed_as_the_library_does_it(marin: Marin):
    opened = open_model("models/plain")
    [expected] = generate_text(opened.loaded, opened.tokenizer, ["the tree"], max_new_tokens=9)
    out = marin("generate", "models/plain", "--prompt", "the tree", "--max-new-tokens", "9")
    assert out.out == f"the tree{expected.text}\n"
    assert "nobody verified" in out.err


def test_json_has_every_sample_of_every_prompt_in_a_file(marin: Marin, place: Path):
    (place / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    command = ["generate", "models/plain", "--prompts", "prompts.jsonl", "--samples", "2", "--temperature", "1"]
    command += ["--max-new-tokens", "5", "--json", "--log-probs", "--seed", "3", "--top-p", "0.9"]
    said = json.loads(marin(*command).out)
    rows = said["completions"]
    assert [row["prompt"] for row in rows] == ["one", "one", "two", "two"]
    assert all(len(row["log_probs"]) == len(row["tokens"]) == 5 for row in rows)
    assert rows[0]["tokens"] != rows[1]["tokens"]
    assert json.loads(marin(*command).out) == said


def test_log_probs_are_shown_beside_their_tokens(marin: Marin):
    out = marin("generate", "models/plain", "--prompt", "x", "--max-new-tokens", "3", "--log-probs").out
    assert "token" in out and len(out.splitlines()) >= 5


def test_a_prompt_that_is_cut_is_told(marin: Marin):
    err = marin("generate", "models/plain", "--prompt", "x" * 200, "--max-new-tokens", "400").err
    assert "at most 64 new tokens: the model reads 128" in err
    assert "1 of 1 prompts were cut on the left" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models/plain", "--prompt", "x", "--top-p", "2"], "--top-p=2.0 must be above 0"),
        (["models/plain", "--prompt", "x", "--top-p", "0.9", "--samples", "2"], "--top-p and --samples would change"),
        (["models/plain", "--prompt", "x", "--stop", ""], "--stop '': expected some text"),
        (["models/plain", "--prompts", "none.txt"], "--prompts none.txt: "),
        (["models/plain", "--prompts", "bad.jsonl"], "bad.jsonl:2: expected an object like"),
        (["models/nothing", "--prompt", "x"], "no folder 'models/nothing', and "),
        (["tokenizer", "--prompt", "x"], "no model at tokenizer: expected a folder in the Hugging Face format"),
    ],
)
def test_what_cannot_be_done_is_said(marin: Marin, place: Path, words, message):
    (place / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    assert message in marin("generate", *words, expect=2).err


def talk(marin: Marin, monkeypatch: pytest.MonkeyPatch, lines: str, *words: str) -> SimpleNamespace:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return marin("chat", *words)


def test_a_chat_answers_saves_and_forgets(marin: Marin, place: Path, monkeypatch: pytest.MonkeyPatch):
    lines = "hello\n/probs\n/save talk.jsonl\n/reset\n/save empty.jsonl\n/system be kind\n/save kind.jsonl\n/nonsense\n"
    out = talk(marin, monkeypatch, lines, "models/chat", "--max-new-tokens", "6", "--temperature", "0")
    messages = json.loads((place / "talk.jsonl").read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] and messages[0]["content"] == "hello"
    answer = out.out.split("\n")[0]
    assert messages[1]["content"] in answer  # but for special tokens, which a message cannot have
    assert "token" in out.out and "log p" in out.out
    assert json.loads((place / "empty.jsonl").read_text())["messages"] == []
    assert json.loads((place / "kind.jsonl").read_text())["messages"] == [{"role": "system", "content": "be kind"}]
    assert "no command /nonsense; there are /reset" in out.err


def test_what_is_said_long_ago_is_left_out_and_counted(marin: Marin, monkeypatch: pytest.MonkeyPatch):
    lines = ("a" * 40 + "\n") * 4 + "/save long.jsonl\n"
    out = talk(marin, monkeypatch, lines, "models/chat", "--max-new-tokens", "20")
    assert "oldest messages were left out: the model reads 108 tokens before an answer" in out.err
    messages = json.loads(Path("long.jsonl").read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 4, "what the model no longer reads is kept"


def test_an_answer_that_was_ended_has_no_probabilities_and_one_that_failed_leaves_nothing(
    marin: Marin, place: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, calls = generate_text, []

    def troubled(*args, on_text, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            on_text(0, "half")
            raise KeyboardInterrupt
        if len(calls) == 3:
            raise ValueError("no answer to that")
        return plain(*args, on_text=on_text, **kwargs)

    monkeypatch.setattr("marin.inference.text.generate_text", troubled)
    lines = "one\n/probs\ntwo\n/probs\nthree\n/probs\n/save trouble.jsonl\n"
    out = talk(marin, monkeypatch, lines, "models/chat", "--max-new-tokens", "6")
    assert out.out.count("log p") == 1 and out.err.count("there is no whole answer whose probabilities") == 2
    assert "no answer to that" in out.err
    messages = json.loads((place / "trouble.jsonl").read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["one", "two"]
    assert len(messages) == 4 and messages[3]["content"] == "half"


def test_a_model_without_a_chat_template_is_refused_with_what_to_do(marin: Marin, place: Path, monkeypatch):
    err = marin("chat", "models/plain", expect=2).err
    assert "models/plain has no chat template" in err and "--chat-template FILE" in err and "marin generate" in err
    (place / "template.jinja").write_text(TINY_CHAT.template or "")
    words = ["models/plain", "--chat-template", "template.jinja", "--stop-token", "<|end|>", "--max-new-tokens", "4"]
    talk(marin, monkeypatch, "hello\n", *words)


def test_ctrl_c_ends_the_answer_and_not_the_chat(place: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "marin.cli.main", "chat", "models/endless", "--max-new-tokens", "19000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # it streams
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(b"/save stopped.jsonl\n/quit\n", timeout=120)
    assert process.returncode == 0, err
    assert b"(the answer was ended)" in err
    messages = json.loads((place / "stopped.jsonl").read_text())["messages"]
    assert 0 < len(messages[1]["content"]) < 19000
