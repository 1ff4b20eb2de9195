"""The rows of a task, from a folder of evaluation data.

The folder is looked through in a fixed order: `hub/REPOSITORY`, where the task's own source was downloaded to, then the
other layouts that the task knows. Nothing is fetched here: an evaluation that reaches for the network asks other
questions on another day. What is absent comes back as an error that has the command to fetch it.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marin.evaluation.tasks.definition import Example, LocalFiles, Row, TaskDefinition
from marin.io.rows import read_rows

HELLASWAG_LINES = 6
"""Lines of an item in the text form of HellaSwag: context, index of the right ending, four endings."""


class MissingDataError(FileNotFoundError):
    """The files of a task are not there; `fetch` is the command that brings them."""

    def __init__(self, reason: str, fetch: str):
        super().__init__(f"{reason}. {self._how}: {fetch}")
        self.reason = reason
        self.fetch = fetch

    _how = "Fetch them"


class MissingPackageError(MissingDataError):
    """A task needs what is not installed; `fetch` is the command that installs it."""

    _how = "Install it"


@dataclass(frozen=True, kw_only=True)
class LocatedRow:
    """A row in the columns of the task's source, and where it was read."""

    row: Row
    where: str
    """File and line."""


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """What a task asks, and where its examples come from."""

    asked: Sequence[LocatedRow]
    pool: Sequence[LocatedRow]
    """Rows that examples are taken from."""
    pool_is_asked: bool
    """Whether those are the asked rows themselves; the row asked about is then no example for itself."""
    files: tuple[str, ...]
    """Files of the asked rows, relative to the folder; of one's own file elsewhere its name."""
    notes: tuple[str, ...]
    core_baseline: float | None
    """Score of guessing that the CORE average subtracts, see `TaskDefinition`."""


@dataclass(frozen=True)
class TaskData:
    """A folder of evaluation data."""

    root: str | Path

    def load(self, task: TaskDefinition, num_fewshot: int) -> TaskRows:
        """The rows of a task, in the order of its files.

        Raises MissingDataError where they are not there, MissingPackageError where they are and the task needs a
        package that is not; ValueError, with file and line, for a broken row.
        """
        for layout in self._layouts(task):
            files, adapt = dict(layout.files), layout.adapt
            asked_files = self._find(files.get(task.split))
            if not asked_files:
                continue
            if task.require is not None:
                task.require()
            asked = list(_rows(task, asked_files, adapt))
            if not asked:
                raise ValueError(f"task '{task.name}': {asked_files[0]} has no rows")
            pool, pool_is_asked, notes = self._pool(task, files, adapt, asked, num_fewshot)
            return TaskRows(
                asked=asked,
                pool=pool,
                pool_is_asked=pool_is_asked,
                files=tuple(self._name(file) for file in asked_files),
                notes=tuple(each for each in (layout.note, *notes) if each),
                core_baseline=task.core_baseline if layout.core_baseline is None else layout.core_baseline,
            )
        raise MissingDataError(
            f"task '{task.name}': no files in {self.root}, neither hub/{task.source.repository} nor "
            f"{' nor '.join(files.files[task.split] for files in task.local) or 'another layout'}"
            if task.source.is_hub
            else f"task '{task.name}': no file {task.local[0].files[task.split]} in {self.root}",
            fetch_command(task, self.root),
        )

    def _layouts(self, task: TaskDefinition) -> Iterator[LocalFiles]:
        if task.source.is_hub:
            folder = f"hub/{task.source.repository}"
            # a pattern that begins with * stands for files at any depth, as it does to the download of the repository
            files = {
                split: f"{folder}/{'**/' * pattern.startswith('*')}{pattern}"
                for split, pattern in task.source.files.items()
            }
            yield LocalFiles(files=files, adapt=lambda row: row)
        yield from task.local

    def _find(self, pattern: str | None) -> list[Path]:
        if pattern is not None and Path(pattern).is_absolute():  # a file of one's own, wherever it is
            return [Path(pattern)]
        return [] if pattern is None else sorted(path for path in Path(self.root).glob(pattern) if path.is_file())

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else file.name

    def _pool(
        self,
        task: TaskDefinition,
        files: dict[str, str],
        adapt: Callable[[Row], Row],
        asked: list[LocatedRow],
        num_fewshot: int,
    ) -> tuple[list[LocatedRow], bool, tuple[str, ...]]:
        if num_fewshot == 0:
            return [], False, ()
        if task.shots.fixed:
            own = task.shots.own_examples()
            return [LocatedRow(row=row, where=f"examples of '{task.name}'") for row in own], False, ()
        if task.shots.split == task.split:
            return asked, True, ()
        found = self._find(files.get(task.shots.split))
        if found:
            return list(_rows(task, found, adapt)), False, ()
        note = (
            f"no '{task.shots.split}' split here: examples are other rows of the asked '{task.split}' split, so scores "
            "are not those of examples from training rows"
        )
        return asked, True, (note,)


def _rows(task: TaskDefinition, files: list[Path], adapt: Callable[[Row], Row]) -> Iterator[LocatedRow]:
    for file in files:
        for number, row in read_rows(file, lines_per_item=HELLASWAG_LINES if file.name.endswith(".txt.bz2") else None):
            where = f"{file}, {'row' if file.suffix in ('.parquet', '.arrow') else 'line'} {number}"
            try:
                yield LocatedRow(row=adapt(row), where=where)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise _broken(task, where, row, error) from error


def read_example(task: TaskDefinition, located: LocatedRow) -> Example:
    """The row in words. Raises ValueError, with file and line, for a broken row."""
    try:
        example = task.read(located.row)
        texts = (example.question, example.answer, *example.contexts, *example.continuations, *example.targets)
        wrong = [text for text in texts if not isinstance(text, str)]
        if wrong:
            raise TypeError(f"expected text, got {wrong[0]!r}")
        if not all(text.strip() for text in example.continuations):
            raise ValueError("a candidate is blank: there is nothing to score")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _broken(task, located.where, located.row, error) from error
    return example


def _broken(task: TaskDefinition, where: str, row: Row, error: Exception) -> ValueError:
    said = f"no column {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(
        f"task '{task.name}': {where}: no row of this task: {said} ({type(error).__name__}). The row: {str(row)[:160]}"
    )


def fetch_command(task: TaskDefinition, root: str | Path) -> str:
    """The shell command that brings a task's files to where `TaskData` looks for them."""
    source = task.source
    if not source.is_hub:
        place = Path(root) / task.local[0].files[task.split]
        return shlex.join(["curl", "-fL", "--create-dirs", "-o", str(place), source.repository])
    words = ["marin", "data", "download", "hf", source.repository, "--revision", source.revision or "COMMIT"]
    files = source.fetched or tuple(dict.fromkeys(source.files.values()))
    return shlex.join([*words, "--files", *files, "--out", str(Path(root) / "hub" / source.repository)])
