"""Evaluation steps."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from marin.cluster.resources import ResourceConfig
from marin.evaluation.config import (
    AlpacaEvalConfig,
    ChatEvaluationConfig,
    CheckpointsConfig,
    CompareConfig,
    DocumentMemorizationConfig,
    EvaluationConfig,
    HttpJudgeConfig,
    LmHarnessConfig,
    TaskEvaluationConfig,
    ValidationConfig,
)
from marin.evaluation.tasks import (
    BASE_GENERATION_TASKS,
    CORE_TASKS,
    KEY_GENERATION_TASKS,
    KEY_MULTIPLE_CHOICE_TASKS,
    MMLU_0_SHOT,
    MMLU_5_SHOT,
    EvalTaskConfig,
    task_names,
)
from marin.execution.executor import ExecutorStep, InputName, output_path_of, this_output_path
from marin.processing.tokenize.config import ChatFormat

Model: TypeAlias = ExecutorStep | InputName | str
"""What names a model: a training step (its last checkpoint), `trained / "checkpoints/step-..."`, an export step, or the
path of a folder of any of these kinds."""


def evaluate_heldout(
    name: str,
    model: ExecutorStep | InputName,
    documents: ExecutorStep | InputName,
    train_documents: ExecutorStep | InputName,
    *,
    seed: int,
    max_bytes: int | None,
    num_questions: int,
    resources: ResourceConfig | None = None,
    description: str = "Bits per byte beside two baselines, multiple choice and completions, on held-out text",
    **settings,
) -> ExecutorStep:
    """A step whose output has results.json and samples.jsonl of an exported model on held-out documents.

    documents and train_documents are folders of document shards, such as `collected / "validation"` and
    `collected / "train"`. With resources the step is a job of its own; without, it shares the executor's process. The
    other arguments, and every further field of EvaluationConfig as a keyword, say what is scored.

    Example:
        >>> from marin.execution.executor import ExecutorStep
        >>> collected = ExecutorStep(name="documents", fn="package:collect", config=None)
        >>> exported = ExecutorStep(name="export", fn="package:export", config=None)
        >>> step = evaluate_heldout("eval/heldout", exported, collected / "validation", collected / "train",
        ...                         seed=0, max_bytes=400_000, num_questions=200)
        >>> step.name
        'eval/heldout'
    """
    return ExecutorStep(
        name=name,
        fn="marin.evaluation.run:run",
        config=EvaluationConfig(
            model_path=model,  # type: ignore[arg-type]  # the executor puts the paths in
            documents_path=documents,  # type: ignore[arg-type]
            train_documents_path=train_documents,  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            seed=seed,
            max_bytes=max_bytes,
            num_questions=num_questions,
            **settings,
        ),
        resources=resources,
        description=description,
    )


def compare_evaluations(
    name: str,
    a: ExecutorStep | InputName | Sequence[ExecutorStep | InputName],
    b: ExecutorStep | InputName | Sequence[ExecutorStep | InputName],
    *,
    a_name: str,
    b_name: str,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    num_disagreements: int = 5,
    description: str = "Two models on the same questions: paired differences with errors",
) -> ExecutorStep:
    """A step whose output has comparison.json and comparison.md of two evaluations of the same tasks.

    a and b are evaluation steps; several on a side are seeds of one recipe. It is `marin compare` as a step, and fails
    where a task is not the same task on both sides.
    """
    return ExecutorStep(
        name=name,
        fn="marin.evaluation.compare_report:run",
        config=CompareConfig(
            a_paths=tuple(a) if isinstance(a, Sequence) else (a,),  # type: ignore[arg-type]  # paths, once it runs
            b_paths=tuple(b) if isinstance(b, Sequence) else (b,),  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            a_name=a_name,
            b_name=b_name,
            tasks=None if tasks is None else tuple(tasks),
            metrics=None if metrics is None else tuple(metrics),
            num_disagreements=num_disagreements,
        ),
        description=description,
    )


def evaluate_alpaca_eval(
    name: str,
    *,
    annotations: ExecutorStep | InputName | str | None = None,
    model: ExecutorStep | InputName | str | None = None,
    model_outputs: ExecutorStep | InputName | str | None = None,
    baseline_outputs: ExecutorStep | InputName | str | None = None,
    judge: HttpJudgeConfig | None = None,
    difficulties: ExecutorStep | InputName | str | None = None,
    resources: ResourceConfig | None = None,
    description: str = "Win rate against a baseline, with and without control for length",
    **settings,
) -> ExecutorStep:
    """A step whose output has results.json and samples.jsonl of AlpacaEval.

    Either `annotations` names a file of recorded ones, which needs no judge; or `judge` compares the outputs in the
    file `baseline_outputs` with those in the file `model_outputs`, or with what the exported chat model `model`, spoken
    to by `chat`, answers to the same instructions. Files are places in another step's output, such as `judged /
    "annotations.json"`, or paths. Every further field of AlpacaEvalConfig goes as a keyword.
    """
    return ExecutorStep(
        name=name,
        fn="marin.evaluation.alpaca_eval:run",
        config=AlpacaEvalConfig(
            output_path=this_output_path(),  # type: ignore[arg-type]  # the executor puts the paths in
            annotations_path=annotations,  # type: ignore[arg-type]
            model_path=model,  # type: ignore[arg-type]
            model_outputs_path=model_outputs,  # type: ignore[arg-type]
            baseline_outputs_path=baseline_outputs,  # type: ignore[arg-type]
            judge=judge,
            difficulties_path=difficulties,  # type: ignore[arg-type]
            **settings,
        ),
        resources=resources,
        description=description,
    )


def evaluate_memorization(
    name: str,
    model: ExecutorStep | InputName,
    documents: ExecutorStep | InputName,
    *,
    prefix_length: int = 50,
    suffix_length: int = 50,
    stride: int = 5,
    resources: ResourceConfig | None = None,
    description: str = "How likely the model is to write documents out again, window by window",
    **settings,
) -> ExecutorStep:
    """A step whose output tells P(z) of windows that slide along documents: results, a table, and a plot a document.

    With resources the step is a job of its own. Every further field of DocumentMemorizationConfig goes as a keyword.
    """
    return ExecutorStep(
        name=name,
        fn="marin.evaluation.memorization:run",
        config=DocumentMemorizationConfig(
            model_path=model,  # type: ignore[arg-type]  # the executor puts the paths in
            documents_path=documents,  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            prefix_length=prefix_length,
            suffix_length=suffix_length,
            stride=stride,
            **settings,
        ),
        resources=resources,
        description=description,
    )


def evaluate_chat(
    name: str,
    model: ExecutorStep | InputName,
    conversations: ExecutorStep | InputName,
    chat: ChatFormat,
    *,
    seed: int,
    max_new_tokens: int,
    max_conversations: int | None = None,
    baseline: ExecutorStep | InputName | None = None,
    resources: ResourceConfig | None = None,
    description: str = "Likelihood of held-out answers, and whether the model's own answers end",
    **settings,
) -> ExecutorStep:
    """A step whose output has results.json and samples.jsonl of an exported model on held-out conversations.

    `baseline` is the exported model that this one began as. With resources the step is a job of its own. The other
    arguments, and every further field of ChatEvaluationConfig as a keyword, say what is scored.
    """
    return ExecutorStep(
        name=name,
        fn="marin.evaluation.chat:run",
        config=ChatEvaluationConfig(
            model_path=model,  # type: ignore[arg-type]  # the executor puts the paths in
            baseline_path=baseline,  # type: ignore[arg-type]
            conversations_path=conversations,  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            chat=chat,
            seed=seed,
            max_conversations=max_conversations,
            max_new_tokens=max_new_tokens,
            **settings,
        ),
        resources=resources,
        description=description,
    )


def default_eval(
    step: Model,
    evals: Sequence[EvalTaskConfig] = CORE_TASKS,
    resources: ResourceConfig | None = None,
    *,
    name: str | None = None,
    data: Model | None = None,
    max_eval_instances: int | None = None,
    tokenizer: Model | None = None,
    description: str | None = None,
    **settings: Any,
) -> ExecutorStep:
    """A step whose output has results.json and samples.jsonl of a model on tasks of `marin.evaluation.tasks`.

    Args:
        step: the model.
        evals: tasks and groups with their shots.
        resources: makes the step a job of its own; None: it shares the executor's process.
        name: of the step; None: `evaluation/tasks/` and the model's name.
        data: folder of the tasks' data, a step that fetched it among others; None: the folder that the environment
            names when the step runs (`TaskEvaluationConfig.data_path`).
        max_eval_instances: questions of each task; None: all.
        tokenizer: of a checkpoint; None: that of the training step's data config, else of the steps that made its data.
        settings: further fields of TaskEvaluationConfig; `apply_chat_template=True` asks in the model's chat template.

    Example:
        >>> from marin.execution.executor import ExecutorStep
        >>> trained = ExecutorStep(name="checkpoints/tiny", fn="package:train", config=None)
        >>> default_eval(trained).name
        'evaluation/tasks/tiny'
    """
    return ExecutorStep(
        name=name or f"evaluation/tasks/{model_name(step)}",
        fn="marin.evaluation.task_step:run",
        config=_task_config(step, evals, data, max_eval_instances, tokenizer, settings),
        resources=resources,
        description=description or f"{len(evals)} tasks and groups, with error bars",
        publish="inplace",  # a run that was stopped goes on behind the last task that was done
    )


def default_base_eval(
    step: Model,
    resources: ResourceConfig | None = None,
    *,
    max_eval_instances: int | None = None,
    run_generation_evals: bool = True,
    data: Model | None = None,
    **settings: Any,
) -> list[ExecutorStep]:
    """What a base model is asked, a step each: CORE_TASKS, MMLU without and with examples, BASE_GENERATION_TASKS."""
    parts: dict[str, Sequence[EvalTaskConfig]] = {
        "core": CORE_TASKS,
        "mmlu_0shot": (MMLU_0_SHOT,),
        "mmlu_5shot": (MMLU_5_SHOT,),
    }
    if run_generation_evals:
        parts["base_generation"] = BASE_GENERATION_TASKS
    return _steps(step, parts, resources, data=data, max_eval_instances=max_eval_instances, **settings)


def default_key_evals(
    step: Model,
    resources: ResourceConfig | None = None,
    *,
    max_eval_instances: int | None = None,
    data: Model | None = None,
    **settings: Any,
) -> list[ExecutorStep]:
    """What an instructed model is asked: KEY_GENERATION_TASKS and KEY_MULTIPLE_CHOICE_TASKS. A step each."""
    parts = {"key_generation": KEY_GENERATION_TASKS, "key_multiple_choice": KEY_MULTIPLE_CHOICE_TASKS}
    return _steps(step, parts, resources, data=data, max_eval_instances=max_eval_instances, **settings)


def eval_checkpoints(
    step: Model,
    evals: Sequence[EvalTaskConfig] = CORE_TASKS,
    resources: ResourceConfig | None = None,
    *,
    every: int | None = None,
    name: str | None = None,
    data: Model | None = None,
    max_eval_instances: int | None = None,
    tokenizer: Model | None = None,
    **settings: Any,
) -> ExecutorStep:
    """A step that asks every checkpoint of a training run the same tasks: a table, JSON, a curve with error bands.

    `every` takes only checkpoints whose step is a multiple of it, and the last; the rest is as in `default_eval`.
    """
    return ExecutorStep(
        name=name or f"evaluation/checkpoints/{model_name(step)}",
        fn="marin.evaluation.checkpoints:run",
        config=CheckpointsConfig(
            evaluation=_task_config(step, evals, data, max_eval_instances, tokenizer, settings), every=every
        ),
        resources=resources,
        description=f"{len(evals)} tasks and groups at every checkpoint",
        publish="inplace",
    )


def evaluate_lm_evaluation_harness(
    step: Model,
    evals: Sequence[EvalTaskConfig],
    resources: ResourceConfig | None = None,
    *,
    name: str | None = None,
    include_path: str | None = None,
    max_eval_instances: int | None = None,
    apply_chat_template: bool = False,
    tokenizer: Model | None = None,
    **settings: Any,
) -> ExecutorStep:
    """A step that runs tasks of lm-evaluation-harness on our engine; its output has results.json in our form.

    `evals` are tasks and groups by the harness's own names, those of YAML files in `include_path` too. It needs the
    extra `evaluation`, and the tasks' data from the hub or its cache. `settings` are further fields of LmHarnessConfig.
    """
    return ExecutorStep(
        name=name or f"evaluation/lm_evaluation_harness/{model_name(step)}",
        fn="marin.evaluation.lm_harness_step:run",
        config=LmHarnessConfig(
            model_path=_place(step),
            output_path=this_output_path(),
            tasks=tuple(evals),
            include_path=include_path,
            limit=max_eval_instances,
            apply_chat_template=apply_chat_template,
            tokenizer_path=_tokenizer_of(step) if tokenizer is None else _place(tokenizer),
            **settings,
        ),
        resources=resources,
        description=f"{len(evals)} tasks of lm-evaluation-harness",
        publish="inplace",  # a run that was stopped goes on behind the last answers that were kept
    )


def evaluate_validation_sets(
    step: Model,
    sets: Mapping[str, Model],
    resources: ResourceConfig | None = None,
    *,
    name: str | None = None,
    max_documents: int | None = None,
    tokenizer: Model | None = None,
    **settings: Any,
) -> ExecutorStep:
    """A step with loss and bits per byte of a model on token stores by tag, such as `default_validation_sets()`.

    Error bars are over documents; sets with a part of the tag before a `/` in common are also measured together, micro
    and macro. `max_documents` of each set are read. `settings` are further fields of ValidationConfig.
    """
    return ExecutorStep(
        name=name or f"evaluation/validation/{model_name(step)}",
        fn="marin.evaluation.validation:run",
        config=ValidationConfig(
            model_path=_place(step),
            sets={tag: _place(store) for tag, store in sets.items()},
            output_path=this_output_path(),
            max_documents=max_documents,
            tokenizer_path=_tokenizer_of(step) if tokenizer is None else _place(tokenizer),
            **settings,
        ),
        resources=resources,
        description=f"loss and bits per byte on {len(sets)} validation sets",
    )


def model_name(step: Model) -> str:
    """What steps that evaluate a model are called by: the step's name, with the place in it where one is named."""
    if isinstance(step, str):
        return _last(step)
    own = step.name if isinstance(step, ExecutorStep) else (step.step.name if step.step is not None else "")
    inside = step.name if isinstance(step, InputName) else None
    if not own:
        return _last(str(inside))
    short = own.removeprefix("checkpoints/")
    return f"{short}/{_last(inside)}" if inside else short


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or "model"


def _steps(
    step: Model, parts: Mapping[str, Sequence[EvalTaskConfig]], resources: ResourceConfig | None, **settings: Any
) -> list[ExecutorStep]:
    return [
        default_eval(step, tasks, resources, name=f"evaluation/{part}/{model_name(step)}", **settings)
        for part, tasks in parts.items()
    ]


def _task_config(
    step: Model,
    evals: Sequence[EvalTaskConfig],
    data: Model | None,
    max_eval_instances: int | None,
    tokenizer: Model | None,
    settings: Mapping[str, Any],
) -> TaskEvaluationConfig:
    _check_evals(evals)
    _check_settings(settings)
    return TaskEvaluationConfig(
        model_path=_place(step),
        output_path=this_output_path(),
        tasks=tuple(evals),
        data_path=None if data is None else _place(data),
        limit=max_eval_instances,
        tokenizer_path=_tokenizer_of(step) if tokenizer is None else _place(tokenizer),
        **settings,
    )


def _check_evals(evals: Sequence[EvalTaskConfig]) -> None:
    """ValueError for what names no task, with near misses: now, not when the model has been trained."""
    if isinstance(evals, str) or not all(isinstance(each, EvalTaskConfig) for each in evals):
        raise ValueError(
            f"evals is {evals!r}; expected EvalTaskConfigs, as resolve_tasks('copa,mmlu@5') of marin.evaluation.tasks "
            "makes them"
        )
    for each in evals:
        if each.file is None:
            task_names(each.name)


def _check_settings(settings: Mapping[str, Any]) -> None:
    """ValueError for a setting that TaskEvaluationConfig does not have, or that has an argument of its own."""
    arguments = {"limit": "max_eval_instances", "data_path": "data", "tokenizer_path": "tokenizer", "tasks": "evals"}
    known = [each.name for each in fields(TaskEvaluationConfig) if each.name not in arguments]
    for name in settings:
        if name not in known:
            near = [arguments[name]] if name in arguments else difflib.get_close_matches(name, known, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
            raise ValueError(f"an evaluation has no setting {name!r}{hint}")


def _tokenizer_of(step: Model) -> Any:
    """The tokenizer of a training step, so that an evaluation waits for it too.

    It is the one that its data config names, else the one that makes its first token store, where that is a step.
    """
    config = getattr(_step_of(step), "config", None)
    data = getattr(getattr(config, "run", config), "data", None)
    stores = [_step_of(store) for store in getattr(data, "train", {}).values()]
    named = (getattr(getattr(store, "config", None), "tokenizer", None) for store in stores)
    return getattr(data, "tokenizer", None) or next((each for each in named if each is not None), None)


def _step_of(thing: Any) -> Any:
    return thing.step if isinstance(thing, InputName) else thing


def _place(thing: Any) -> Any:
    """A path when the step runs."""
    return output_path_of(thing) if isinstance(thing, ExecutorStep) else thing
