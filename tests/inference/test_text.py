"""Texts end where a stop string begins, come in order, and are the same however they were batched."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.inference.requests import GenerateRequest, generate_until
from marin.inference.sampling import Sampling
from marin.inference.text import _Draft, first_stop, generate_text
from marin.models.llama import LlamaConfig
from marin.models.lm import logits
from marin.models.lora import LoraLm
from marin.models.lora_config import LoraConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import write_byte_tokenizer

CONFIG = LlamaConfig(seq_len=64, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
VOCAB = 260  # three ids more than the tokenizer has
PROMPTS = ["the tree", "", "a small house near the river", "x" * 50]
SAMPLED = Sampling(temperature=2.0, top_p=0.95)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: CONFIG.init(VOCAB, key=jax.random.key(0)))
    params = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)
    return SimpleNamespace(config=CONFIG, params=params)


def complete(model, tokenizer, prompts=PROMPTS, **options):
    """Few shapes, since compiling them is most of what these tests cost."""
    options = {"max_new_tokens": 12, "batch_size": 4} | options
    return generate_text(model, tokenizer, prompts, **options)


def test_a_completion_is_what_its_tokens_say(model, tokenizer):
    completions = complete(model, tokenizer)
    for completion, prompt in zip(completions, PROMPTS, strict=True):
        assert completion.text == b"".join(tokenizer.token_bytes[t] for t in completion.tokens if t < 256).decode(
            "utf-8", "replace"
        )
        assert completion.finish_reason == "length" and len(completion.tokens) == 12
        assert completion.num_prompt_tokens_cut == 0
        assert completion.num_prompt_tokens == max(1, len(prompt))  # an empty one begins with EOS


def test_a_model_whose_numbers_are_none_writes_nothing(model, tokenizer):
    broken = SimpleNamespace(config=CONFIG, params=jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
    with pytest.raises(ValueError, match="behind prompt . the log-probability nan; expected a finite number"):
        complete(broken, tokenizer)


def test_log_probs_are_those_of_recomputing_before_temperature_and_penalty(model, tokenizer):
    sampling = Sampling(temperature=2.0, top_k=50, repetition_penalty=1.3)
    for completion, prompt in zip(complete(model, tokenizer, sampling=sampling), PROMPTS, strict=True):
        ids = [*(tokenizer.encode(prompt).tolist() or [tokenizer.eos_id]), *completion.tokens]
        padded = np.zeros((1, CONFIG.seq_len), np.int32)
        padded[0, : len(ids)] = ids
        expected = jax.nn.log_softmax(logits(CONFIG, model.params, jnp.asarray(padded))[0])
        start = len(ids) - len(completion.tokens)
        found = [float(expected[at - 1, ids[at]]) for at in range(start, len(ids))]
        np.testing.assert_allclose(completion.log_probs, found, atol=2e-3, rtol=1e-4)


def test_a_completion_ends_before_a_stop_string_that_spans_tokens(model, tokenizer):
    whole = complete(model, tokenizer)
    for index, completion in enumerate(whole):
        text = completion.text
        stop = text[3:6]
        if "\ufffd" in stop:  # no bytes that a string could spell
            continue
        cut = complete(model, tokenizer, stop=[stop])[index]
        assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")
        assert cut.tokens == completion.tokens[: len(cut.tokens)]  # those of the stop string among them
        assert len(cut.log_probs) == len(cut.tokens)


def test_eos_ends_a_completion_and_is_none_of_its_text(model, tokenizer):
    free = complete(model, tokenizer)[0]
    at = free.tokens.index(free.tokens[5])
    ended = complete(model, tokenizer, stop_ids=[free.tokens[5]])[0]
    assert ended.finish_reason == "eos" and ended.tokens == free.tokens[: at + 1]
    data = b"".join(tokenizer.token_bytes[t] for t in ended.tokens[:-1] if t < 257)
    assert ended.text == data.decode("utf-8", "replace")


def test_the_batch_and_the_other_prompts_change_nothing(model, tokenizer):
    together = complete(model, tokenizer, sampling=SAMPLED, seed=5)
    in_twos = complete(model, tokenizer, sampling=SAMPLED, seed=5, batch_size=2)  # later prompts take over rows
    assert [c.tokens for c in in_twos] == [c.tokens for c in together]
    first = complete(model, tokenizer, PROMPTS[:2], sampling=SAMPLED, seed=5, batch_size=2)
    assert [c.tokens for c in first] == [c.tokens for c in together[:2]]
    assert complete(model, tokenizer, sampling=SAMPLED, seed=6)[0].tokens != together[0].tokens


def test_several_samples_of_a_prompt_differ_and_stand_together(model, tokenizer):
    samples = complete(model, tokenizer, PROMPTS[2:], sampling=SAMPLED, num_samples=2, seed=1)
    assert len(samples) == 4 and len({s.tokens for s in samples}) == 4
    assert [s.num_prompt_tokens for s in samples] == [28, 28, 50, 50]
    greedy = complete(model, tokenizer, PROMPTS[2:], num_samples=2)
    assert greedy[0].tokens == greedy[1].tokens and greedy[2].tokens == greedy[3].tokens


def test_a_prompt_too_long_is_cut_on_the_left_and_counted(model, tokenizer):
    long = "abcdefghij" * 8
    cut, short = complete(model, tokenizer, [long, long[-(CONFIG.seq_len - 12) :]])
    assert (cut.num_prompt_tokens, cut.num_prompt_tokens_cut) == (CONFIG.seq_len - 12, 80 - (CONFIG.seq_len - 12))
    assert cut.tokens == short.tokens and short.num_prompt_tokens_cut == 0


def test_bos_stands_once_before_a_text_and_tokens_are_taken_as_they_are(model, tokenizer):
    with_bos = SimpleNamespace(
        bos_id=255,
        adds_bos=True,
        eos_id=256,
        token_bytes=tokenizer.token_bytes,
        encode_batch=tokenizer.encode_batch,
    )
    plain, by_default, eos = (
        complete(model, with_bos, prompts, document_prefix=prefix)
        for prompts, prefix in (([[255, 97]], None), (["a"], None), (["a"], "eos"))
    )
    assert by_default[0].tokens == plain[0].tokens and by_default[0].num_prompt_tokens == 2
    assert eos[0].num_prompt_tokens == 1
    with_bos.adds_bos = False  # it is named, and not put in front of a text
    assert complete(model, with_bos, ["a"])[0].num_prompt_tokens == 1


def test_streamed_text_adds_up_and_never_shows_the_stop_string(model, tokenizer):
    text = complete(model, tokenizer)[0].text
    stop = next(text[i : i + 2] for i in range(2, len(text) - 1) if "\ufffd" not in text[i : i + 2])
    for stops in ([], [stop]):
        shown: list[tuple[int, str]] = []
        streamed = complete(model, tokenizer, stop=stops, on_text=lambda *new, to=shown: to.append(new))
        for index, completion in enumerate(streamed):
            assert "".join(text for at, text in shown if at == index) == completion.text
        assert len(shown) > 2 * len(PROMPTS)  # it came in pieces
        if not stops:
            assert streamed[0].text == text


@settings(deadline=None, max_examples=60)
@given(
    data=st.text(st.sampled_from("aab\nZé🙂"), max_size=20),
    stops=st.lists(st.text(st.sampled_from("ab\nZé🙂"), min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_where_tokens_begin_and_end_changes_neither_the_text_nor_the_stream(data, stops, cuts):
    raw, wanted = data.encode(), [stop.encode() for stop in stops]
    bounds = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    draft, shown = _Draft(pieces, wanted, frozenset()), ""
    for index in range(len(pieces)):
        draft.add([index], [0.0])
        shown += draft.new_text(is_last=draft.ended_by is not None or index == len(pieces) - 1)
        if draft.ended_by is not None:
            break
    # by definition: the shortest beginning of the text that ends with a stop string
    ends = [(n, s) for n in range(1, len(raw) + 1) for s in wanted if raw[:n].endswith(s)]
    first = [(n, s) for n, s in ends if n == ends[0][0]] if ends else []
    expected = raw[: first[0][0] - max(len(s) for _, s in first)] if first else raw
    assert draft.text() == expected.decode() == shown
    assert (draft.ended_by == "stop") == bool(ends)


def test_a_stop_string_is_found_across_what_was_searched_before():
    assert first_stop(b"abc", [b"bc"], 2) == 1
    assert first_stop(b"abc", [b"ab"], 2) is None  # it ended within what was searched


def test_requests_are_answered_in_their_order_each_by_its_own_rules(model, tokenizer):
    requests = [
        GenerateRequest(prompt="the tree", until=("q",), max_gen_toks=5),
        GenerateRequest(prompt="near", max_gen_toks=9),
        GenerateRequest(prompt="a house", until=("q",), max_gen_toks=5),
    ]
    told = []
    answers = generate_until(model, tokenizer, requests, progress=lambda *at: told.append(at))
    for request, answer in zip(requests, answers, strict=True):
        [alone] = generate_text(
            model,
            tokenizer,
            [request.prompt],
            max_new_tokens=min(request.max_gen_toks, CONFIG.seq_len // 2),
            stop=request.until,
        )
        assert answer.tokens == alone.tokens
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_adapter_is_merged_before_generating(model, tokenizer):
    lora = LoraLm(base=CONFIG, lora=LoraConfig(r=2, alpha=4.0))
    params = lora.init(VOCAB, key=jax.random.key(1))
    params = dataclasses.replace(params, base=model.params)
    adapted = SimpleNamespace(config=lora, params=jax.tree.map(lambda x: x + 0.05, params))
    merged = SimpleNamespace(config=CONFIG, params=lora.merge(adapted.params))
    assert [c.tokens for c in complete(adapted, tokenizer)] == [c.tokens for c in complete(merged, tokenizer)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "ab"}, "expected a sequence of strings"),
        ({"stop": [""]}, "none of them empty"),
        ({"max_new_tokens": 64}, "max_new_tokens=64 must be from 1 to 63"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be from 1 to 63"),
        ({"num_samples": 0}, "num_samples=0"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        complete(model, tokenizer, **options)
