"""lm-evaluation-harness on our engine: any of its tasks, scored by `marin.evaluation.scoring`.

`MarinLM` is what `lm_eval.simple_evaluate(model=...)` takes. The harness makes the prompts and the metrics, the engine
the log-likelihoods and the texts, so a score of ours and one of the harness on the same rows differ only where the
prompts do. Texts become tokens by the rules of `scoring.encode_requests`, not by those of the harness's own backends:
they agree but where a token spans the boundary of context and continuation, which is counted here. The price of the
adapter is that the harness builds every prompt in memory before the first is scored, also where their answers are kept.

`marin.evaluation.lm_harness_step` writes what the harness finds as results.json and samples.jsonl in our form.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from marin.evaluation.chat_prompts import SpecialTokens
from marin.evaluation.exported import ExportedModel
from marin.evaluation.kept_answers import KeptAnswers
from marin.evaluation.scoring import (
    Progress,
    Request,
    log_likelihoods,
    prefix_id,
    resolve_prefix,
    rolling_log_likelihoods,
    score_continuations,
)
from marin.inference.requests import GenerateRequest, generate_until
from marin.inference.sampling import Sampling
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.config import ChatFormat
from marin.processing.tokenize.tokenizer import Tokenizer

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM, hash_args
except ImportError as error:
    raise ImportError(
        f"tasks of lm-evaluation-harness need lm-eval, which is not installed ({error}): "
        "pip install 'marin[evaluation]'. marin's own tasks (marin.evaluation.tasks) need nothing more"
    ) from error

MakeProgress = Callable[[str], Progress | None]
"""Kind of requests -> what is told how far they are."""

Ask = Callable[["list[Instance]", Progress | None], list[Any]]
"""Requests, and what is told how far they are -> an answer to each, as JSON has it."""

BLOCK = 1024
"""Requests that are asked together where answers are kept: what a run that is stopped may lose."""

MAX_GEN_TOKS = 256
"""Tokens of an answer where the task does not say; the harness's own default."""


class MarinLM(TemplateLM):
    """A model of ours as lm-evaluation-harness sees it.

    Example:
        lm = MarinLM(open_model("store/export", tokens_per_batch=4096))
        lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"], task_manager=TaskManager(include_path="my_tasks"))
    """

    def __init__(self, model: ExportedModel, *, seed: int = 0, progress: MakeProgress = lambda kind: None) -> None:
        """`seed` is of texts that are drawn."""
        super().__init__()
        self.model = model
        self.kept: KeptAnswers | None = None
        """Answers of an earlier run, which are not asked for again, and of this one; None: nothing is kept."""
        self.num_truncated = 0
        """Requests that lost tokens of their context, as the model reads fewer."""
        self.num_shortened = 0
        """Answers that could have fewer tokens than their task allows: at most half of what the model reads."""
        self.num_boundary_merged = 0
        """Requests in which a token spanned context and continuation."""
        self._encoder: Tokenizer | SpecialTokens = model.tokenizer
        self._seed = seed
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text with nothing before it: as `marin.inference.prefix` says."""
        return prefix_id(self.model.tokenizer, self.model.document_prefix)

    @property
    def max_length(self) -> int:
        return self.model.scored.seq_len

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of the harness's cache of prompts."""
        return f"marin-{self.model.tokenizer.digest[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, with BOS in front where contexts begin with one (add_special_tokens=False: never)."""
        ids = self._encoder.encode_batch([string])[0].tolist()
        begins = resolve_prefix(self.model.tokenizer, self.model.document_prefix) == "bos"
        if begins and add_special_tokens is not False and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        def score(requests: "list[Instance]", progress: Progress | None) -> list[list[Any]]:
            pairs: list[Any] = [each.args for each in requests]
            asked = [Request(context=context, continuation=text) for context, text in pairs]
            answers = log_likelihoods(self.model.scored, self._encoder, asked, progress)
            return [[a.log_prob, bool(a.is_greedy), a.num_cut_tokens > 0, a.boundary_merged] for a in answers]

        answers = self._answers("loglikelihood", requests, score, self._progress("log-likelihoods"))
        self.num_truncated += sum(is_cut for _, _, is_cut, _ in answers)
        self.num_boundary_merged += sum(is_merged for _, _, _, is_merged in answers)
        return self._remember("loglikelihood", requests, [(log_prob, greedy) for log_prob, greedy, _, _ in answers])

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(np.array(before, np.int32), np.array(scored, np.int32)) for _, before, scored in requests]
        answers = score_continuations(self.model.scored, pairs, self._progress("log-likelihoods"))
        return [(float(a.log_probs.astype(np.float64).sum()), bool(a.is_greedy)) for a in answers]

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
        def score(requests: "list[Instance]", progress: Progress | None) -> list[float]:
            texts = [each.args[0] for each in requests]
            return [a.log_prob for a in rolling_log_likelihoods(self.model.scored, self._encoder, texts, progress)]

        answers = self._answers("loglikelihood_rolling", requests, score, self._progress("texts"))
        return self._remember("loglikelihood_rolling", requests, answers)

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        def write(requests: "list[Instance]", progress: Progress | None) -> list[list[Any]]:
            pairs: list[Any] = [each.args for each in requests]
            completions = generate_until(
                self.model.loaded,
                self._encoder,  # type: ignore[arg-type]  # a cached_property is a property
                [generate_request(prompt, settings) for prompt, settings in pairs],
                seed=self._seed,
                document_prefix=self.model.document_prefix,
                progress=progress,
            )
            return [[completion.text, completion.num_prompt_tokens_cut > 0] for completion in completions]

        answers = self._answers("generate_until", requests, write, self._progress("answers"))
        self.num_truncated += sum(is_cut for _, is_cut in answers)
        allowed = [generate_request(*each.args).max_gen_toks for each in requests]  # type: ignore[arg-type]
        self.num_shortened += sum(count > self.max_length // 2 for count in allowed)
        return self._remember("generate_until", requests, [text for text, _ in answers])

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template of the model's folder, for the record. ValueError where it has none."""
        return self._chat.text if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the model was trained on them; in what is encoded from now on, special tokens are that."""
        text = self._chat.rendered(chat_history, add_generation_prompt=add_generation_prompt)
        if self._encoder is self.model.tokenizer:  # not before the template is known to have special tokens
            self._encoder = SpecialTokens(self.model.tokenizer)
        return text

    def get_model_info(self) -> dict[str, Any]:
        return {"model": "marin", "model_description": dict(self.model.description)}

    @functools.cached_property
    def _chat(self) -> ChatTemplate:
        if self.model.tokenizer.chat_template is None:
            raise ValueError(
                "apply_chat_template was asked for, and the model's folder has no chat template: put a "
                "chat_template.jinja into it (a model fine-tuned by marin gets one when it is exported), or evaluate "
                "without one"
            )
        return ChatTemplate(ChatFormat(template=None), self.model.tokenizer)

    def _answers(self, kind: str, requests: "list[Instance]", ask: Ask, progress: Progress | None) -> list[Any]:
        """What `ask` answers; with `kept`, block by block, and only to requests that have no kept answer."""
        if self.kept is None:
            return ask(requests, progress)
        answers: dict[int, Any] = {}
        keys = [hash_args(kind, each.args) for each in requests]
        drawn = [index for index, each in enumerate(requests) if _is_drawn(kind, each)]
        missing = [i for i in sorted({*range(len(requests))} - {*drawn}) if keys[i] not in self.kept]
        num_before = len(requests) - len(missing) - len(drawn)
        # what is drawn depends on what else is drawn with it, so all of that is one block, which is not kept
        blocks = [missing[start : start + BLOCK] for start in range(0, len(missing), BLOCK)]
        for block in [*blocks, drawn] if drawn else blocks:
            follow = None if progress is None else functools.partial(_report, progress, num_before, len(requests))
            found = ask([requests[index] for index in block], follow)
            answers.update(zip(block, found, strict=True))
            if block is not drawn:
                self.kept.add({keys[index]: answers[index] for index in block})
            num_before += len(block)
        return [answers[index] if index in answers else self.kept[key] for index, key in enumerate(keys)]

    def _remember(self, kind: str, requests: "list[Instance]", answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return answers


def _is_drawn(kind: str, request: "Instance") -> bool:
    """Whether the answer is a text that is drawn: asked again, it is another one."""
    return kind == "generate_until" and generate_request(*request.args).sampling.temperature > 0


def _report(progress: Progress, num_before: int, num_requests: int, num_done: int, _: int) -> None:
    progress(num_before + num_done, num_requests)


_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_IGNORED = ("num_return_sequences", "pad_token_id", "use_cache")  # change no text


def generate_request(prompt: str, settings: Mapping[str, Any]) -> GenerateRequest:
    """A generation request of the harness as ours: `until`, length, `do_sample` and how tokens are drawn.

    As in the harness, `do_sample` decides, and where it is not given, whether the temperature is above 0.

    Raises ValueError for a setting that we do not have, such as beams: another text would be scored.
    """
    left = {name: value for name, value in settings.items() if value is not None and name not in _IGNORED}
    until = left.pop("until", ())
    lengths = [left.pop(name) for name in _LENGTHS if name in left]
    temperature = float(left.pop("temperature", 0.0))
    do_sample = left.pop("do_sample", temperature > 0)
    sampling: dict[str, Any] = {}
    if do_sample:
        sampling = {name: left[name] for name in ("top_k", "top_p") if name in left}
        sampling["temperature"] = temperature or 1.0
        if sampling.get("top_k") == 0:
            del sampling["top_k"]
    left = {name: value for name, value in left.items() if name not in ("top_k", "top_p")}
    unknown = {name: value for name, value in left.items() if value != _NEUTRAL.get(name)}
    if unknown:
        raise ValueError(
            f"generation settings {unknown} are not supported; known are until, do_sample, temperature, top_k, top_p "
            f"and {', '.join(_LENGTHS)}"
        )
    return GenerateRequest(
        prompt=prompt,
        until=(until,) if isinstance(until, str) else tuple(text for text in until if text),
        max_gen_toks=int(lengths[0]) if lengths else MAX_GEN_TOKS,
        sampling=Sampling(**sampling),
    )


_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0}
"""Settings that do nothing at this value."""
