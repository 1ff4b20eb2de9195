"""lm-evaluation-harness on our engine: any of its tasks, scored by `marin.evaluation.scoring`.

`MarinLM` is what `lm_eval.simple_evaluate(model=...)` takes. The harness makes the prompts and the metrics, the engine
the log-likelihoods and the texts, so a score of ours and one of the harness on the same rows differ only where the
prompts do. Texts become tokens by the rules of `scoring.encode_requests`, not by those of the harness's own backends:
they agree but where a token spans the boundary of context and continuation, which is counted here. The price of the
adapter is that the harness builds every prompt in memory before the first is scored, and cannot resume.

`run` is the step of `marin.evaluation.api.evaluate_lm_evaluation_harness`: results.json and samples.jsonl in our form.
"""

import difflib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from marin.evaluation.chat_prompts import SpecialTokens
from marin.evaluation.config import LmHarnessConfig
from marin.evaluation.exported import ExportedModel
from marin.evaluation.models import open_model
from marin.evaluation.progress import ProgressLines
from marin.evaluation.results import TaskResult, check_same_evaluation, format_score, metric_entry, write_results
from marin.evaluation.scoring import (
    Progress,
    Request,
    log_likelihoods,
    prefix_id,
    prefix_policy,
    resolve_prefix,
    rolling_log_likelihoods,
    score_continuations,
)
from marin.evaluation.statistics import Z95, Estimate, mean_estimate, proportion_estimate
from marin.evaluation.tasks import EvalTaskConfig, prompt_hash
from marin.inference.requests import GenerateRequest, generate_until
from marin.inference.sampling import Sampling
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.config import ChatFormat
from marin.processing.tokenize.tokenizer import Tokenizer

try:
    import lm_eval
    from lm_eval.api.group import Group
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError(
        f"tasks of lm-evaluation-harness need lm-eval, which is not installed ({error}): "
        "pip install 'marin[evaluation]'. marin's own tasks (marin.evaluation.tasks) need nothing more"
    ) from error

__all__ = ["LmHarnessConfig", "MarinLM", "run"]

MakeProgress = Callable[[str], Progress | None]
"""Kind of requests -> what is told how far they are."""

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
        self.num_truncated = 0
        """Requests that lost tokens of their context, as the model reads fewer."""
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
        pairs: list[Any] = [each.args for each in requests]
        asked = [Request(context=context, continuation=text) for context, text in pairs]
        answers = log_likelihoods(self.model.scored, self._encoder, asked, self._progress("log-likelihoods"))
        self.num_truncated += sum(answer.num_cut_tokens > 0 for answer in answers)
        self.num_boundary_merged += sum(answer.boundary_merged for answer in answers)
        return self._remember("loglikelihood", requests, [(a.log_prob, bool(a.is_greedy)) for a in answers])

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(np.array(before, np.int32), np.array(scored, np.int32)) for _, before, scored in requests]
        answers = score_continuations(self.model.scored, pairs, self._progress("log-likelihoods"))
        return [(float(a.log_probs.astype(np.float64).sum()), bool(a.is_greedy)) for a in answers]

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
        texts = [each.args[0] for each in requests]
        answers = rolling_log_likelihoods(self.model.scored, self._encoder, texts, self._progress("texts"))
        return self._remember("loglikelihood_rolling", requests, [answer.log_prob for answer in answers])

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        pairs: list[Any] = [each.args for each in requests]
        asked = [generate_request(prompt, settings) for prompt, settings in pairs]
        completions = generate_until(
            self.model.loaded,
            self._encoder,  # type: ignore[arg-type]  # a cached_property is a property
            asked,
            seed=self._seed,
            document_prefix=self.model.document_prefix,
            progress=self._progress("answers"),
        )
        self.num_truncated += sum(completion.num_prompt_tokens_cut > 0 for completion in completions)
        return self._remember("generate_until", requests, [completion.text for completion in completions])

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

    @cached_property
    def _chat(self) -> ChatTemplate:
        if self.model.tokenizer.chat_template is None:
            raise ValueError(
                "apply_chat_template was asked for, and the model's folder has no chat template: put a "
                "chat_template.jinja into it (a model fine-tuned by marin gets one when it is exported), or evaluate "
                "without one"
            )
        return ChatTemplate(ChatFormat(template=None), self.model.tokenizer)

    def _remember(self, kind: str, requests: "list[Instance]", answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return answers


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


# -- the step ----------------------------------------------------------------------------------------------------------


def run(config: LmHarnessConfig) -> Path:
    """Run tasks of the harness and write results.json and samples.jsonl; returns the path of results.json.

    A standard error is ours where a metric is the mean over the questions, else the harness's own, which a note says.

    Raises ValueError for a task that the harness does not know, and as `open_model` does.
    """
    manager = task_manager(config.include_path, config.include_defaults)
    for task in config.tasks:
        _check_known(task, manager)
    model = open_model(
        config.model_path,
        checkpoint=config.checkpoint,
        tokenizer=config.tokenizer_path,
        tokens_per_batch=config.tokens_per_batch,
        allow_unverified=config.allow_unverified,
    )
    settings = {name: value for name, value in asdict(config).items() if not name.endswith("_path")}
    check_same_evaluation(config.output_path, model.description, settings)
    loaded = [load_task(asked, manager) for asked in config.tasks]
    times = Counter(task.name for task in config.tasks)
    suffixes = [f"@{asked.num_fewshot}" if times[asked.name] > 1 else "" for asked in config.tasks]
    _check_listed_once(config.tasks, loaded, suffixes)
    lm = MarinLM(model, seed=config.seed, progress=lambda kind: ProgressLines(kind, "requests"))
    tasks: dict[str, TaskResult] = {}
    groups: dict[str, Mapping[str, Any]] = {}
    samples: list[Mapping[str, Any]] = []
    evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its signature from type checkers
    # the harness lists a task under its name, so one that is asked at several shots needs a call for each
    for number, (asked, task, suffix) in enumerate(zip(config.tasks, loaded, suffixes, strict=True), start=1):
        found = evaluate(
            model=lm,
            tasks=task,
            task_manager=manager,  # without it the harness reads all of its own tasks again
            limit=config.limit,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
            system_instruction=config.system_instruction,
            bootstrap_iters=config.bootstrap_iters,
            fewshot_random_seed=config.fewshot_seed,
            confirm_run_unsafe_code=config.confirm_run_unsafe_code,
        )
        assert found is not None, "there is one process, and it is the first"
        scores = harness_results(found, {asked.name: asked.task_alias} if asked.task_alias else {}, suffix)
        tasks.update(scores.tasks)
        groups.update(scores.groups)
        samples += scores.samples
        for name, entry in _entries(scores):
            print(f"{name}: {format_score(entry['value'], entry['stderr'], entry['n'])}", flush=True)
        # after every task: what was computed outlives an error in the next
        path = write_results(
            config.output_path,
            model=model.description,
            tasks=tasks,
            groups=groups,
            skipped=[
                _not_asked(task, suffix) for task, suffix in zip(config.tasks[number:], suffixes[number:], strict=True)
            ],
            samples=samples,
            policy={
                "document_prefix": resolve_prefix(model.tokenizer, model.document_prefix),
                "prefix": prefix_policy(model.tokenizer, model.document_prefix),
                "chat_template": prompt_hash([lm.chat_template(True)]) if config.apply_chat_template else None,
                "harness": f"lm-eval {version('lm-eval')}",
                "fewshot_seed": config.fewshot_seed,
                "num_truncated": lm.num_truncated,
                "num_boundary_merged": lm.num_boundary_merged,
            },
            config=settings,
        )
    print(f"results: {path}", flush=True)
    return path


def _not_asked(task: EvalTaskConfig, suffix: str) -> dict[str, Any]:
    reason = "not asked: the evaluation was stopped before it"
    key = task.task_alias or f"{task.name}{suffix}"
    return {"task": key, "num_fewshot": task.num_fewshot, "reason": reason, "fetch": None}


def _check_listed_once(tasks: Sequence[EvalTaskConfig], loaded: Sequence[list[Any]], suffixes: Sequence[str]) -> None:
    """ValueError where two of the scores would have one name."""
    listed: dict[str, str] = {}
    for task, parts, suffix in zip(tasks, loaded, suffixes, strict=True):
        for name in [name for part in parts for name in _names(part)]:
            key = task.task_alias if name == task.name and task.task_alias else f"{name}{suffix}"
            if key in listed:
                raise ValueError(
                    f"'{key}' would be listed twice, of {listed[key]} and of {task.name}; give one of them another "
                    "task_alias, or leave it out"
                )
            listed[key] = task.name


def _names(part: Any) -> list[str]:
    """Names that scores of a task or a group of the harness have: its tasks, and groups that have scores."""
    if not isinstance(part, Group):
        return [part.task_name]
    groups = [group.name for group in (part, *part.get_all_groups()) if group.aggregate_metric_list]
    return [*(task.task_name for task in part.get_all_tasks()), *groups]


def task_manager(include_path: str | None, include_defaults: bool) -> TaskManager:
    """The harness's tasks: those in a folder of its YAML files, and its own if asked for (indexing them takes 10 s)."""
    if include_path is not None and not Path(include_path).is_dir():
        raise FileNotFoundError(f"no folder {include_path}: expected YAML files of lm-evaluation-harness tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path, include_defaults=include_defaults)


def _check_known(task: EvalTaskConfig, manager: TaskManager) -> None:
    """ValueError, with near misses, for a task or group that the harness does not know."""
    if task.name not in manager.all_tasks:
        near = difflib.get_close_matches(task.name, manager.all_tasks, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it knows {', '.join(manager.all_tasks[:20])}"
        raise ValueError(f"lm-evaluation-harness has no task '{task.name}'{hint}")


def load_task(task: EvalTaskConfig, manager: TaskManager) -> list[Any]:
    """A task, the tasks of a tag, or a group of the harness, each task at the number of shots asked for."""
    loaded = manager.load([task.name])
    for leaf in loaded["tasks"].values():
        leaf.set_config(key="num_fewshot", value=task.num_fewshot)
    group = loaded.get("groups", {}).get(task.name)
    return list(loaded["tasks"].values()) if group is None else [group]


@dataclass(frozen=True, kw_only=True)
class HarnessScores:
    """What the harness found, as results.json and samples.jsonl have it."""

    tasks: Mapping[str, TaskResult]
    groups: Mapping[str, Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]


def harness_results(found: Mapping[str, Any], aliases: Mapping[str, str], suffix: str) -> HarnessScores:
    """What `simple_evaluate` returned; each name gets its alias, or the suffix."""
    tasks, samples = {}, []
    keys = {name: aliases.get(name, f"{name}{suffix}") for name in (*found["samples"], *found.get("groups", {}))}
    for name, given in found["samples"].items():
        by_doc: dict[Any, dict[str, Any]] = {}
        asked: dict[Any, Any] = {}
        values: dict[str, list[Any]] = {}
        for row in given:  # one for each filter
            behind = "" if row["filter"] == "none" else f",{row['filter']}"
            asked[row["doc_id"]] = [row["doc_id"], _plain(row["arguments"]), _plain(row["target"])]
            kept = by_doc.setdefault(
                row["doc_id"],
                {
                    "task": keys[name],
                    "doc_id": str(row["doc_id"]),
                    "target": _plain(row["target"]),
                    "arguments": _plain(row["arguments"]),
                    "resps": _plain(row["resps"]),
                },
            )
            kept[f"filtered_resps{behind}"] = _plain(row["filtered_resps"])
            for metric in row["metrics"]:
                values.setdefault(f"{metric}{behind}", []).append(row[metric])
                kept[f"{metric}{behind}"] = _plain(row[metric])
        samples += by_doc.values()
        num_all = int(found["n-samples"][name]["original"])
        better = found["higher_is_better"].get(name, {})
        tasks[keys[name]] = TaskResult(
            version=_version(found["versions"].get(name)),
            n=len(by_doc),
            num_fewshot=int(found["n-shot"].get(name) or 0),
            prompt_hash=prompt_hash(list(asked.values())),
            metrics=dict(_metrics(found["results"][name], values, better, len(by_doc))),
            notes=["prompts and metrics by lm-evaluation-harness"]
            + ([f"the first {len(by_doc)} of {num_all} questions"] if len(by_doc) < num_all else []),
            about={"task": name, "n_all": num_all},
        )
    groups = {
        keys[name]: {
            "group": name,
            "n": sum(tasks[keys[member]].n for member in _leaves(name, found["group_subtasks"])),
            "tasks": [keys[member] for member in _leaves(name, found["group_subtasks"])],
            "metrics": dict(_metrics(scores, {}, found["higher_is_better"].get(name, {}), int(scores["sample_len"]))),
        }
        for name, scores in found.get("groups", {}).items()
    }
    return HarnessScores(tasks=tasks, groups=groups, samples=samples)


def _leaves(name: str, below: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, those of groups in it too."""
    return [leaf for member in below.get(name, ()) for leaf in (_leaves(member, below) or [member])]


def _entries(scores: HarnessScores) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, metrics in (
        *((key, task.metrics) for key, task in scores.tasks.items()),
        *((key, group["metrics"]) for key, group in scores.groups.items()),
    ):
        yield from ((f"{key} {metric}", entry) for metric, entry in metrics.items())


def _metrics(
    scores: Mapping[str, Any], values: Mapping[str, list[Any]], better: Mapping[str, Any], n: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in scores.items():
        metric, _, filtered = key.partition(",")
        if metric.endswith("_stderr") or not filtered or not isinstance(value, (int, float)):
            continue
        name = metric if filtered == "none" else f"{metric},{filtered}"
        yield (
            name,
            metric_entry(
                _estimate(float(value), values.get(name, []), scores.get(f"{metric}_stderr,{filtered}"), n),
                higher_is_better=better.get(metric) is not False,
                note=None if _is_mean(float(value), values.get(name, [])) else "standard error by the harness",
            ),
        )


def _is_mean(value: float, values: Sequence[Any]) -> bool:
    is_number = bool(values) and all(isinstance(each, (bool, int, float, np.number)) for each in values)
    return is_number and math.isclose(math.fsum(map(float, values)) / len(values), value, rel_tol=1e-9, abs_tol=1e-12)


def _estimate(value: float, values: Sequence[Any], stderr: Any, n: int) -> Estimate:
    if _is_mean(value, values):
        numbers = [float(each) for each in values]
        return proportion_estimate(np.array(numbers)) if {*numbers} <= {0.0, 1.0} else mean_estimate(numbers)
    if not isinstance(stderr, (int, float)) or not math.isfinite(stderr):
        return Estimate(value=value, stderr=None, ci95=None, n=n, num_clusters=n, interval=None)
    ci95 = (value - Z95 * stderr, value + Z95 * stderr)
    return Estimate(value=value, stderr=float(stderr), ci95=ci95, n=n, num_clusters=n)


def _version(given: Any) -> int:
    try:
        return int(float(given))
    except (TypeError, ValueError):
        return 0


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
