"""Evaluation steps."""

from collections.abc import Sequence

from marin.cluster.resources import ResourceConfig
from marin.evaluation.config import (
    AlpacaEvalConfig,
    ChatEvaluationConfig,
    CompareConfig,
    DocumentMemorizationConfig,
    EvaluationConfig,
    HttpJudgeConfig,
)
from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.tokenize.config import ChatFormat


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
