"""What a task is: where its rows come from, how a row becomes words, and how answers to it are judged.

A definition is data and small functions. `read` turns one row of the task's own source into an `Example`, which has
every text that a model may see; shots, delimiters and metrics are settings. Files of another layout give rows of the
source's layout through their `adapt`, so the words are written in one place. The price is that a local file is bent
into the source's columns only to be read out of them again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from marin.evaluation.tasks.filters import Filter

Kind = Literal["multiple_choice", "continuation", "generation"]
"""Choose among candidates by likelihood; how likely is one text; write a text."""

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row in the words in which a model sees it."""

    question: str
    """What stands before the answer where the row is one of the solved examples."""
    answer: str
    """The right answer there."""
    contexts: tuple[str, ...]
    """What is asked: one for each candidate, often the same one."""
    continuations: tuple[str, ...] = ()
    """Candidates, the delimiter before them left out; one for a continuation, none where a text is written."""
    choices: tuple[str, ...] = ()
    """What tells the candidates apart; its length is what acc_norm and acc_bytes divide by."""
    gold: tuple[int, ...] = ()
    """Right candidates."""
    targets: tuple[str, ...] = ()
    """Right texts, where one is written, or what the task's `judge` holds it against."""
    check: str = ""
    """Program that is run behind what was asked and written, where the task runs code; it raises for a wrong answer."""
    group: str = ""
    """Rows with one group share a passage and are no independent observations; '' is alone."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows of a task are published."""

    repository: str
    """On the Hugging Face hub, 'allenai/ai2_arc'; or an address that `fetch` reads from."""
    revision: str | None
    """Its commit; None: nobody has pinned it yet, and a fetch must name one."""
    licence: str
    """Of the rows, as their publishers name it."""
    files: Mapping[str, str]
    """Split -> files of it, a pattern within the repository; one that begins with * is of files at any depth."""
    fetched: tuple[str, ...] = ()
    """Patterns of what is fetched at once, where several tasks have one source; (): only this task's files."""
    is_hub: bool = True
    """Whether it is a data set of the hub."""


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """Another layout in which the rows are found."""

    files: Mapping[str, str]
    """Split -> file, a path within the folder of evaluation data, or an absolute one."""
    adapt: Callable[[Row], Row]
    """A row of these files as the source would have it. Raises KeyError, TypeError or ValueError for what is none."""
    note: str = ""
    """In what these rows differ from the source's."""
    core_baseline: float | None = None
    """As the task's, where these rows have another one than the source's."""


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Where solved examples come from."""

    split: str = "train"
    """Split of the source they are taken from; where it is not at hand, the asked rows themselves, without the one
    asked about."""
    sampler: Literal["random", "first"] = "random"
    """Drawn anew for each row, or the first ones for all."""
    draws_spare: bool = False
    """Draw one more than asked for and leave out the asked row, as lm-eval does where a task has no test split."""
    fixed: tuple[Row, ...] | Callable[[], tuple[Row, ...]] = ()
    """Examples that belong to the task, or what reads them; `split` is then not read."""

    def own_examples(self) -> tuple[Row, ...]:
        """Those that belong to the task. Raises MissingPackageError where they are in a package that is not there."""
        return self.fixed() if callable(self.fixed) else self.fixed


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a text is written and read, for a generation task."""

    stop: tuple[str, ...]
    """The text ends before the first of these."""
    max_new_tokens: int = 256
    """And after so many tokens."""
    num_samples: int = 1
    """Texts for each question, of a task that runs code: pass@1 is over all of them."""
    temperature: float = 0.0
    """At which they are drawn; 0: the likeliest tokens, so that all of them are the same."""
    filters: Mapping[str, tuple[Filter, ...]]
    """Name -> what takes the answer out of the text; each gives a metric of its own, 'exact_match,NAME'."""
    normalise: tuple[str, ...] = ()
    """Patterns removed from answer and target before they are compared."""
    ignore_case: bool = False
    ignore_punctuation: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """A task, but for its rows."""

    name: str
    kind: Kind
    about: str
    """What it asks, in a few words."""
    source: Source
    read: Callable[[Row], Example]
    """A row of the source in words."""
    version: int = 1
    """Raised whenever the same rows would give other prompts or other scores."""
    split: str = "test"
    """Split that is asked."""
    local: tuple[LocalFiles, ...] = ()
    """Other layouts, tried in order where the source's files are not at hand."""
    description: str = ""
    """Stands before everything else."""
    delimiter: str = " "
    """Stands between question and answer."""
    example_delimiter: str = "\n\n"
    """Stands behind each solved example."""
    shots: Shots = Shots()
    default_shots: int = 0
    metrics: tuple[str, ...] = ("acc",)
    """The ones that the task is known by; the first is the one to quote."""
    writing: Writing | None = None
    """For a generation task."""
    core_baseline: float | None = None
    """Score of guessing that the CORE average subtracts; None: 1 / candidates, 0 without candidates."""
    num_rows: int | None = None
    """Rows of the asked split, where known."""
    judge: Callable[[Example, str], dict[str, float | bool]] | None = None
    """Metric -> value of a text that was written; None: by the filters of `writing`."""
    require: Callable[[], None] | None = None
    """Raises MissingPackageError where the task needs what is not installed."""
    needs: str = ""
    """What that is, in words; '' where marin alone is enough."""
    runs_code: bool = False
    """Whether scoring it would run what the model wrote."""

    def __post_init__(self) -> None:
        if (self.kind == "generation") != (self.writing is not None):
            raise ValueError(f"task '{self.name}': a generation task has `writing`, and only such a one")
        if (
            self.writing is not None
            and not self.runs_code
            and (self.writing.num_samples > 1 or self.writing.temperature)
        ):
            raise ValueError(f"task '{self.name}': several samples, or sampled ones, are for tasks that run code")
