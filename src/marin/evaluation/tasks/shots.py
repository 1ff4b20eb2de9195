"""Solved examples in front of each question.

Which examples a question gets is decided as in lm-evaluation-harness, so that the same seed asks the same words: one
random generator per task draws for one question after the other, which makes the examples of a question depend on how
many came before it. The price: questions must be prompted in their order, and a shorter run is a run of the first ones.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from marin.evaluation.tasks.data import LocatedRow, TaskRows, read_example
from marin.evaluation.tasks.definition import Example, TaskDefinition

FEWSHOT_SEED = 1234
"""Default seed of lm-evaluation-harness."""

WritePrompt = Callable[[TaskDefinition, Sequence[Example], str], str]
"""(task, solved examples, what is asked) -> the whole text before the answer."""


@dataclass(frozen=True, kw_only=True)
class PromptedQuestion:
    """A question of a task as it is asked."""

    doc_id: int
    """Its row among the asked ones, counted from 0."""
    prefix: str
    """Description and solved examples: what stands before each of the example's contexts."""
    example: Example
    conversations: tuple[str, ...] = ()
    """The prompts, where the question is asked in a chat template."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Whole context of each candidate, or the one prompt of a text to write."""
        return self.conversations or tuple(self.prefix + context for context in self.example.contexts)


class ShotSampler:
    """Draws examples as `lm_eval.api.samplers.ContextSampler` does: same seed, same rows, same order."""

    def __init__(self, pool: Sequence[LocatedRow], seed: int):
        self._pool = list(pool)
        self._random = random.Random(seed)

    def sample(self, count: int, leave_out: LocatedRow | None) -> list[LocatedRow]:
        """`count` rows; never one equal to `leave_out`, for which one more is drawn. ValueError for too few rows."""
        drawn = count + (leave_out is not None)
        if drawn > len(self._pool):
            raise ValueError(f"{count} examples were asked for and there are {len(self._pool)} rows to take them from")
        rows = self._random.sample(self._pool, drawn)
        if leave_out is None:
            return rows
        rows = [row for row in rows if row.row != leave_out.row][:count]
        if len(rows) < count:  # the asked row is there several times
            others = [row for row in self._pool if row.row != leave_out.row]
            rows = self._random.sample(others, count)
        return rows


def first_rows(pool: Sequence[LocatedRow], count: int, leave_out: LocatedRow | None) -> list[LocatedRow]:
    """The first rows of a pool; never one equal to `leave_out`. ValueError for too few."""
    others = (row for row in pool if leave_out is None or row.row != leave_out.row)
    chosen = list(itertools.islice(others, count))
    if len(chosen) < count:
        raise ValueError(f"{count} examples were asked for and there are {len(chosen)} rows to take them from")
    return chosen


def prompted(
    task: TaskDefinition,
    rows: TaskRows,
    *,
    num_fewshot: int,
    seed: int,
    limit: int | None = None,
    write_prompt: WritePrompt | None = None,
) -> Iterator[PromptedQuestion]:
    """Every question of a task (the first `limit`) as it is asked, with `num_fewshot` examples drawn by seed.

    `write_prompt` puts it into a conversation; None: texts one behind the other.

    Raises ValueError for too few rows to take examples from, and, with file and line, for a broken row.
    """
    shots = task.shots
    sampler = ShotSampler(rows.pool, seed)
    spare = rows.pool_is_asked or shots.draws_spare
    known: dict[str, Example] = {}
    for index, located in enumerate(rows.asked if limit is None else rows.asked[:limit]):
        try:
            if num_fewshot == 0:
                chosen = []
            elif shots.sampler == "first":
                chosen = first_rows(rows.pool, num_fewshot, located if spare else None)
            else:
                chosen = sampler.sample(num_fewshot, located if spare else None)
        except ValueError as error:
            raise ValueError(f"task '{task.name}' at {num_fewshot} shots: {error}; ask for fewer") from error
        examples = []
        for row in chosen:
            if row.where not in known or shots.fixed:
                known[row.where] = read_example(task, row)
            examples.append(known[row.where])
        if not all(each.answer for each in examples):
            raise ValueError(f"task '{task.name}' at {num_fewshot} shots: its rows have no answer to show; ask it at 0")
        example = read_example(task, located)
        written = {} if write_prompt is None else {c: write_prompt(task, examples, c) for c in set(example.contexts)}
        yield PromptedQuestion(
            doc_id=index,
            prefix=task.description + "".join(_solved(task, each) for each in examples),
            example=example,
            conversations=tuple(written[context] for context in example.contexts) if written else (),
        )


def _solved(task: TaskDefinition, example: Example) -> str:
    return f"{example.question}{task.delimiter}{example.answer}{task.example_delimiter}"
