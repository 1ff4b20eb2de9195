"""Ask a model tasks and write down its scores: results.json and samples.jsonl.

One task after the other is asked and kept, so that a run that was stopped goes on with the next. A task whose data is
absent is left out, counted, and named with the command that fetches it; every score says how many of how many questions
it is of. Nothing here knows a model's kind: it is scored as `marin.evaluation.scoring` scores and writes as
`marin.inference.text` writes, whether it comes from a folder or from a training run.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.code_tasks import program_values, why_not_run
from marin.evaluation.results import TaskResult, check_same_evaluation, format_score, metric_entry, write_results
from marin.evaluation.scoring import (
    DocumentPrefix,
    LogLikelihood,
    NotFiniteError,
    Progress,
    Request,
    ScoredModel,
    alone_request,
    check_vocabulary,
    log_likelihoods,
    prefix_policy,
    resolve_prefix,
)
from marin.evaluation.statistics import Estimate
from marin.evaluation.tasks.catalog import TASKS
from marin.evaluation.tasks.data import MissingDataError, TaskData, TaskRows
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.finished import FinishedTasks
from marin.evaluation.tasks.lists import DCLM_CORE_TASKS, EvalTaskConfig
from marin.evaluation.tasks.plan import Asked, AskedGroup, planned
from marin.evaluation.tasks.question import prompt_hash
from marin.evaluation.tasks.scores import (
    LOWER_IS_BETTER,
    SCORES_VERSION,
    choice_values,
    continuation_values,
    core_score,
    estimate,
    is_proportion,
    metrics_of,
    pooled,
    written_values,
)
from marin.evaluation.tasks.shots import FEWSHOT_SEED, PromptedQuestion, prompted

TaskProgress = Callable[[str], Progress]
"""Key of a task -> what is called with (requests done, requests in all) of it."""


_LIMITS = ExecutionLimits()


class EvaluatedModel(Protocol):
    """A model that tasks are asked of; `marin.evaluation.exported.ExportedModel` is one."""

    @property
    def scored(self) -> ScoredModel: ...

    @property
    def loaded(self) -> Any:
        """config and params, for tasks that write."""
        ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def document_prefix(self) -> DocumentPrefix | None: ...

    @property
    def description(self) -> Mapping[str, Any]:
        """What it is, by content."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Scores of a model, as results.json has them."""

    tasks: Mapping[str, TaskResult]
    """Key (the task's name, NAME@SHOTS where it is asked at several, or its alias) -> scores."""
    groups: Mapping[str, Mapping[str, Any]]
    """Key -> scores over several tasks."""
    skipped: Sequence[Mapping[str, Any]]
    """Tasks that were asked for and could not run: task, num_fewshot, reason, fetch."""
    samples: Sequence[Mapping[str, Any]]
    """A row for each question."""
    core: Mapping[str, Any] | None
    """The CORE average, where it was asked for and a task of it ran."""
    path: Path | None
    """results.json, where it was written."""

    def value(self, key: str, metric: str) -> float:
        """A score. KeyError where there is none."""
        return (self.tasks[key].metrics if key in self.tasks else self.groups[key]["metrics"])[metric]["value"]


def evaluate_tasks(
    model: EvaluatedModel,
    tasks: Sequence[EvalTaskConfig],
    *,
    data: TaskData,
    limit: int | None = None,
    seed: int = FEWSHOT_SEED,
    output_path: str | Path | None = None,
    progress: TaskProgress | None = None,
    metrics: Literal["lm_eval", "core"] = "lm_eval",
    mutual_information: bool = False,
    definitions: Mapping[str, TaskDefinition] | None = None,
    allow_code_execution: Collection[str] = (),
    limits: ExecutionLimits = _LIMITS,
    chat: ChatPrompts | None = None,
    quiet: bool = False,
) -> TaskScores:
    """The model's scores on tasks and groups; with `output_path`, results.json and samples.jsonl there.

    `limit` asks the first so many questions of each task, and the scores say so. `seed` draws solved examples.
    `metrics` "core" adds the CORE average of DataComp-LM (`scores.core_score`) over those of its 22 tasks that are
    asked at its numbers of examples and have data, where candidates are compared by mean loss over their tokens.
    `mutual_information` adds acc_mutual_info, for a second, short request for each candidate. `definitions` are tasks
    beside those of the catalog, by name. A task that runs what the model wrote is skipped unless it is named in
    `allow_code_execution`; each program has `limits`. With `chat` all is asked as conversations. A run that was stopped
    and is started again with the same output_path, model and arguments goes on behind the last task that was done.

    Raises ValueError for an unknown task (with near misses), a broken row (with file and line), too few rows for the
    examples asked for, a tokenizer that does not fit the model or gives none of the task's texts back, and for an
    output_path with the results of another model or of other arguments.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more questions for each task, or None for all")
    known = {**TASKS, **(definitions or {})}
    asked, groups = planned(tasks, known)
    check_vocabulary(model.scored, model.tokenizer)
    say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    config = written_config(
        tasks, limit=limit, seed=seed, metrics=metrics, mutual_information=mutual_information, chat=chat
    )
    if output_path is not None:
        check_same_evaluation(output_path, model.description, config)
    settings = {name: value for name, value in config.items() if name != "tasks"}
    policy = {
        "document_prefix": resolve_prefix(model.tokenizer, model.document_prefix),
        "prefix": prefix_policy(model.tokenizer, model.document_prefix),
        "tokenizer_digest": getattr(model.tokenizer, "digest", None),
        "fewshot_seed": seed,
        "log_likelihoods": "natural",
        "scores_version": SCORES_VERSION,
    }
    kept = FinishedTasks(output_path, model.description, {**settings, **policy, "limits": asdict(limits)})

    results: dict[str, TaskResult] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    baselines: dict[str, float | None] = {}
    skipped: list[dict[str, Any]] = []
    for task in asked:
        try:
            questions, rows = _questions(task, data, seed, limit, chat)
            why_not = why_not_run(task.definition, allow_code_execution, limits) if task.definition.runs_code else ""
            if why_not:
                raise _CannotRunError(why_not)
        except MissingDataError as error:
            skipped.append(_skipped(task, error.reason, error.fetch))
            continue
        except _CannotRunError as error:
            skipped.append(_skipped(task, str(error), None))
            continue
        asked_hash = _prompt_hash(task.definition, questions)
        finished_hash = _finished_hash(task.definition, questions, rows, asked_hash)
        done = kept.read(task.key, finished_hash)
        if done is None:
            follow = None if progress is None else progress(task.key)
            answered = _ask(model, task, questions, mutual_information, follow, limits, seed, chat)
            done = _result(task, answered, rows, asked_hash, model, seed), answered.samples
            kept.write(task.key, finished_hash, *done)
        results[task.key], samples[task.key] = done
        baselines[task.key] = rows.core_baseline
        say(_line(task.key, results[task.key]))

    group_scores = _group_scores(groups, results, samples, known)
    for key, group in group_scores.items():
        say(_group_line(key, group))
    core = _core(asked, samples, baselines, set(definitions or ())) if metrics == "core" else None
    if core is not None:
        say(_group_line(core["name"], core))
    elif metrics == "core":
        say("no CORE average: no task of it was asked at its number of examples and had data; list dclm_core has them")
    _say_skipped(skipped, say)

    rows_of_all = [row for key in results for row in samples[key]]
    path = None
    if output_path is not None:
        path = write_results(
            output_path,
            model=model.description,
            tasks=results,
            groups=group_scores | ({} if core is None else {core["name"]: core}),
            skipped=skipped,
            samples=rows_of_all,
            policy=policy,
            config=config,
        )
        kept.clear()
        say(f"results: {path}")
    return TaskScores(tasks=results, groups=group_scores, skipped=skipped, samples=rows_of_all, core=core, path=path)


# --- Which tasks


def written_config(
    tasks: Sequence[EvalTaskConfig],
    *,
    limit: int | None,
    seed: int,
    metrics: str,
    mutual_information: bool,
    chat: ChatPrompts | None,
) -> dict[str, Any]:
    """The arguments of `evaluate_tasks` as results.json has them."""
    return {
        "tasks": [asdict(config) for config in tasks],
        "limit": limit,
        "fewshot_seed": seed,
        "metrics": metrics,
        "mutual_information": mutual_information,
    } | ({} if chat is None else {"chat": chat.description})


class _CannotRunError(Exception):
    """Why a task cannot run, other than for want of data."""


def _questions(
    task: Asked, data: TaskData, seed: int, limit: int | None, chat: ChatPrompts | None
) -> tuple[list[PromptedQuestion], TaskRows]:
    rows = data.load(task.definition, task.num_fewshot)
    write_prompt = None if chat is None else chat.prompt
    if chat is not None:
        rows = replace(rows, notes=(*rows.notes, *chat.notes(task.definition)))
    shots = task.num_fewshot
    questions = prompted(task.definition, rows, num_fewshot=shots, seed=seed, limit=limit, write_prompt=write_prompt)
    return list(questions), rows


def _prompt_hash(definition: TaskDefinition, questions: Sequence[PromptedQuestion]) -> str:
    """sha256 over everything that is asked and what counts as right: what lengths are of, and how texts are read."""
    asked: list[Any] = [definition.kind, definition.delimiter, _written_how(definition)]
    for question in questions:
        example = question.example
        texts = [question.prefix, example.contexts, example.continuations, example.choices, example.check]
        asked.append([*texts, example.gold, example.targets, *question.conversations])
    return prompt_hash(asked)


def _written_how(definition: TaskDefinition) -> Any:
    """The settings of a text to write, each filter with its kind and fields."""
    writing = definition.writing
    if writing is None:
        return None
    filters = {name: [[type(each).__name__, asdict(each)] for each in kept] for name, kept in writing.filters.items()}
    return {**{field.name: getattr(writing, field.name) for field in fields(writing)}, "filters": filters}


def _finished_hash(
    definition: TaskDefinition, questions: Sequence[PromptedQuestion], rows: TaskRows, asked_hash: str
) -> str:
    """sha256 over what its result and samples depend on but for the model: all that they say of the task as well."""
    groups = [question.example.group for question in questions]
    said = [definition.name, definition.version, definition.metrics, asdict(definition.source)]
    return prompt_hash([asked_hash, *said, groups, len(rows.asked), rows.files, rows.notes])


def _skipped(task: Asked, reason: str, fetch: str | None) -> dict[str, Any]:
    return {"task": task.key, "num_fewshot": task.num_fewshot, "reason": reason, "fetch": fetch}


# --- Asking


@dataclass(frozen=True, kw_only=True)
class _Answered:
    samples: list[dict[str, Any]]
    counts: dict[str, int]
    notes: list[str]


def _ask(
    model: EvaluatedModel,
    task: Asked,
    questions: Sequence[PromptedQuestion],
    mutual_information: bool,
    progress: Progress | None,
    limits: ExecutionLimits,
    seed: int,
    chat: ChatPrompts | None,
) -> _Answered:
    changed = _not_given_back(model.tokenizer, task, questions)
    if task.definition.kind == "generation":
        answered = _write(model, task, questions, progress, limits, seed, chat)
    else:
        answered = _score(model, task, questions, mutual_information, progress, chat)
    notes = [*answered.notes]
    if changed:
        notes.append(
            f"the tokenizer does not give the text of {changed} of {len(questions)} questions back: the model read "
            "something else than was asked"
        )
    counts = {**answered.counts, "num_not_given_back": changed}
    return _Answered(samples=answered.samples, counts=counts, notes=notes)


def _not_given_back(tokenizer: Any, task: Asked, questions: Sequence[PromptedQuestion]) -> int:
    """Questions whose text is another one after encoding and decoding. ValueError where that is every one."""
    texts = [question.example.question + "".join(question.example.continuations) for question in questions]
    if not hasattr(tokenizer, "decode"):
        return 0
    decoded = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)]
    # tokenizers of the SentencePiece kind put a blank in front
    changed = [
        (text, other) for text, other in zip(texts, decoded, strict=True) if other != text and other.lstrip() != text
    ]
    if len(changed) == len(texts):
        text, other = changed[0]
        raise ValueError(
            f"task '{task.key}': the tokenizer gives no text of it back; {text[:60]!r} becomes {other[:60]!r}. Scores "
            "would be of other texts: evaluate with the tokenizer that the model was trained with"
        )
    return len(changed)


def _score(
    model: EvaluatedModel,
    task: Asked,
    questions: Sequence[PromptedQuestion],
    mutual_information: bool,
    progress: Progress | None,
    chat: ChatPrompts | None,
) -> _Answered:
    """Log-likelihoods of every candidate of every question."""
    choosing = task.definition.kind == "multiple_choice"
    # a single continuation has its blank in front, and a chat template ends the turn before a candidate
    between = task.definition.delimiter if choosing and chat is None else ""
    encoder = model.tokenizer if chat is None else chat.encoder
    requests = [
        Request(context=prompt, continuation=between + continuation)
        for question in questions
        for prompt, continuation in zip(question.prompts, question.example.continuations, strict=True)
    ]
    alone = [alone_request(each) for each in requests] if mutual_information else []
    alone = alone if choosing else []
    try:
        scored = log_likelihoods(model.scored, encoder, [*requests, *alone], progress)
    except NotFiniteError as error:
        owners = [question.doc_id for question in questions for _ in question.example.continuations]
        asked = owners[error.index % len(requests)]
        raise ValueError(f"task '{task.key}', question {asked}: {error}") from error
    samples, counts = [], Counter[str](num_truncated=0, num_boundary_merged=0)
    start = 0
    for question in questions:
        example = question.example
        end = start + len(example.continuations)
        answers = scored[start:end]
        without = scored[len(requests) + start : len(requests) + end] if alone else None
        values = choice_values(example, answers, without) if choosing else _continuation(task, answers[0])
        cut = max(answer.num_cut_tokens for answer in answers)
        counts["num_truncated"] += cut > 0
        counts["num_boundary_merged"] += any(answer.boundary_merged for answer in answers)
        samples.append(
            {
                **_sample(task, question),
                "choices": list(example.choices),
                "target": example.gold[0] if len(example.gold) == 1 else list(example.gold) or example.answer,
                "log_probs": [answer.log_prob for answer in answers],
                "num_tokens": [answer.num_tokens for answer in answers],
                "is_greedy": [answer.is_greedy for answer in answers],
                "num_truncated": cut,
                **({"log_probs_alone": [answer.log_prob for answer in without]} if without else {}),
                **values,
            }
        )
        start = end
    return _Answered(samples=samples, counts=dict(counts), notes=[])


def _continuation(task: Asked, answer: LogLikelihood) -> dict[str, Any]:
    if answer.is_greedy is None:
        raise ValueError(
            f"task '{task.key}' asks whether greedy decoding would write the answer, and this model gives "
            "log-probabilities only; score it through `scoring.scored_model`"
        )
    return continuation_values(answer)


def _write(
    model: EvaluatedModel,
    task: Asked,
    questions: Sequence[PromptedQuestion],
    progress: Progress | None,
    limits: ExecutionLimits,
    seed: int,
    chat: ChatPrompts | None,
) -> _Answered:
    """Texts behind every prompt, and what is right about them."""
    from marin.inference.sampling import Sampling
    from marin.inference.text import generate_text

    writing = task.definition.writing
    assert writing is not None, task
    room = min(writing.max_new_tokens, max(1, model.scored.seq_len // 2))
    completions = generate_text(
        model.loaded,
        model.tokenizer if chat is None else chat.encoder,
        [question.prompts[0] for question in questions],
        max_new_tokens=room,
        stop=writing.stop,
        sampling=Sampling(temperature=writing.temperature),
        num_samples=writing.num_samples,
        seed=seed,
        document_prefix=model.document_prefix,
        stop_ids=None if chat is None else chat.stop_ids,
        progress=progress,
    )
    samples = []
    for index, question in enumerate(questions):
        ours = completions[index * writing.num_samples : (index + 1) * writing.num_samples]
        completion, texts = ours[0], [each.text for each in ours]
        values, answers = written_values(task.definition, question.example, completion.text)
        programs: dict[str, Any] = {}
        if task.definition.runs_code:
            values, programs["programs"] = program_values(question.example, texts, limits)
        samples.append(
            {
                **_sample(task, question),
                "target": question.example.targets[0],
                "resps": texts,
                "filtered_resps": answers,
                "finish_reason": completion.finish_reason,
                "num_truncated": completion.num_prompt_tokens_cut,
                **programs,
                **values,
            }
        )
    notes = []
    if room < writing.max_new_tokens:
        notes.append(f"texts of at most {room} tokens, not {writing.max_new_tokens}: the model reads no more")
    return _Answered(
        samples=samples,
        counts={
            "num_truncated": sum(row["num_truncated"] > 0 for row in samples),
            "num_ended_by_length": sum(row["finish_reason"] == "length" for row in samples),
        },
        notes=notes,
    )


def _sample(task: Asked, question: PromptedQuestion) -> dict[str, Any]:
    """What every row of samples.jsonl has; solved examples only by the hash of all that stands in front."""
    prefix = question.prefix.encode("utf-8", "surrogatepass")
    return {
        "task": task.key,
        "doc_id": question.doc_id,
        "group": question.example.group,
        "prompt": question.example.contexts[0],
        "prefix_hash": hashlib.sha256(prefix).hexdigest()[:16] if prefix else "",
    }


# --- Scores


def _result(
    task: Asked,
    answered: _Answered,
    rows: TaskRows,
    asked_hash: str,
    model: EvaluatedModel,
    seed: int,
) -> TaskResult:
    definition, samples = task.definition, answered.samples
    names = metrics_of(definition, samples)
    entries = {
        name: metric_entry(estimate(name, samples), higher_is_better=name not in LOWER_IS_BETTER) for name in names
    }
    notes = [*rows.notes, *answered.notes]
    if len(samples) < len(rows.asked):
        notes.insert(0, f"the first {len(samples)} of {len(rows.asked)} questions")
    chances = [1 / len(row["choices"]) for row in samples] if definition.kind == "multiple_choice" else []
    groups = {row["group"] for row in samples} - {""}
    return TaskResult(
        version=definition.version,
        n=len(samples),
        num_fewshot=task.num_fewshot,
        prompt_hash=asked_hash,
        chance=sum(chances) / len(chances) if chances and "mc2" not in definition.metrics else None,
        metrics=entries,
        counts={**answered.counts, **({"num_groups": len(groups)} if groups else {})},
        notes=notes,
        about={
            "task": definition.name,
            "n_all": len(rows.asked),
            "primary_metric": names[0],
            "files": list(rows.files),
            "source": definition.source.repository,
            "licence": definition.source.licence,
        }
        | ({"fewshot_seed": seed} if task.num_fewshot and definition.shots.sampler == "random" else {}),
    )


def _group_scores(
    groups: Sequence[AskedGroup],
    results: Mapping[str, TaskResult],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    known: Mapping[str, TaskDefinition],
) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {}
    for group in groups:
        members = [key for key in group.members if key in results]
        if not members:
            continue
        common = [name for name in results[members[0]].metrics if all(name in results[key].metrics for key in members)]
        scores[group.key] = {
            "group": group.name,
            "num_fewshot": group.num_fewshot,
            "n": sum(results[key].n for key in members),
            "n_all": sum(results[key].about["n_all"] for key in members),
            "tasks": members,
            "missing": [key for key in group.members if key not in results],
            "metrics": {
                name: metric_entry(
                    pooled([estimate(name, samples[key]) for key in members], is_proportion=is_proportion(name)),
                    higher_is_better=name not in LOWER_IS_BETTER,
                )
                for name in common
            },
        }
    return scores


def _core(
    asked: Sequence[Asked],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    baselines: Mapping[str, float | None],
    own: set[str],
) -> dict[str, Any] | None:
    """The average over the asked tasks that DataComp-LM's has, at its numbers of examples, and over tasks of one's own.

    A task of one's own counts once, at the number of examples that it is asked with first.
    """
    of_core = {(config.name, config.num_fewshot) for config in DCLM_CORE_TASKS}
    own = own - {name for name, _ in of_core}
    first_shots = {task.definition.name: task.num_fewshot for task in reversed(asked)}
    counted = [
        task
        for task in asked
        if (task.definition.name, task.num_fewshot) in of_core
        or (task.definition.name in own and task.num_fewshot == first_shots[task.definition.name])
    ]
    scores: dict[str, tuple[Estimate, float]] = {}
    for task in counted:
        if task.key not in samples or task.definition.kind == "generation":
            continue
        rows = samples[task.key]
        metric = "acc_per_token" if task.definition.kind == "multiple_choice" else "acc"
        guessing = sum(1 / len(row["choices"]) for row in rows) / len(rows) if metric == "acc_per_token" else 0.0
        baseline = baselines[task.key]
        scores[task.key] = estimate(metric, rows), guessing if baseline is None else baseline
    if not scores:
        return None
    average, centred = core_score(scores)
    return {
        "name": f"CORE-{len(centred)}",
        "group": "core",
        "n": average.n,
        "tasks": list(centred),
        "missing": [task.key for task in counted if task.key not in scores],
        "not_counted": [task.key for task in asked if task not in counted],
        "metrics": {"centred": metric_entry(average, higher_is_better=True)},
        "centred": centred,
    }


# --- In words


def _line(key: str, result: TaskResult) -> str:
    metric = result.about["primary_metric"]
    entry = result.metrics[metric]
    words = [f"{key}: {format_score(entry['value'], entry['stderr'], entry['n'])} {metric}"]
    if entry["interval"] == "wilson":  # the error says little of so few right or wrong answers
        words.append("95% interval {:.3f} to {:.3f}".format(*entry["ci95"]))
    if result.n < result.about["n_all"]:
        words.append(f"of {result.about['n_all']} questions")
    if result.chance is not None:
        words.append(f"chance {result.chance:.4f}")
    if result.counts.get("num_truncated"):
        words.append(f"{result.counts['num_truncated']} prompts cut on the left")
    return ", ".join(words)


def _group_line(key: str, group: Mapping[str, Any]) -> str:
    metric, entry = next(iter(group["metrics"].items()))
    missing = f", {len(group['missing'])} tasks missing" if group["missing"] else ""
    score = format_score(entry["value"], entry["stderr"], entry["n"])
    interval = "" if entry["interval"] in ("normal", None) else ", 95% interval {:.3f} to {:.3f}".format(*entry["ci95"])
    return f"{key}: {score} {metric} over {len(group['tasks'])} tasks{interval}{missing}"


def _say_skipped(skipped: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    if not skipped:
        return
    say(f"{len(skipped)} tasks were skipped:")
    for task in skipped:
        say(f"  {task['task']}: {task['reason']}")
    for fetch in dict.fromkeys(task["fetch"] for task in skipped if task["fetch"]):
        say(f"  to fetch: {fetch}")
