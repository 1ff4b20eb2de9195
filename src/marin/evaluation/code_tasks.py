"""Tasks whose answers are programs: whether they may run here, and how many of a problem's samples pass its check."""

from collections.abc import Collection, Sequence
from typing import Any

from marin.evaluation.code_execution import (
    ExecutionLimits,
    IsolationError,
    check_allowed,
    correct_counts,
    pass_at_k,
    run_program,
)
from marin.evaluation.tasks.definition import Example, TaskDefinition


def why_not_run(task: TaskDefinition, allowed: Collection[str], limits: ExecutionLimits) -> str:
    """Why programs of this task cannot run here; '' where they can. One program, that does nothing, is run to see."""
    try:
        check_allowed(task.name, allowed)
        run_program("pass", limits)
    except (ValueError, IsolationError) as error:
        return str(error)
    return ""


def program_of(example: Example, text: str) -> str:
    """The program that checks a text: what was asked, without solved examples, the text, the check."""
    return f"{example.contexts[0]}{text}\n{example.check}\n"


def program_values(
    example: Example, texts: Sequence[str], limits: ExecutionLimits
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """(pass@1 over all texts, how each program ended) of a question; runs every program, which the caller must allow.

    Raises IsolationError where `limits.required_isolation` cannot be had.
    """
    results = [run_program(program_of(example, text), limits) for text in texts]
    [(num_samples, num_correct)] = correct_counts([results])
    ended: list[Any] = [{"reason": each.reason, "detail": each.detail} for each in results]
    return {"pass@1": pass_at_k(num_samples, num_correct, 1)}, ended
