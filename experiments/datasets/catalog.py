"""What a published set is: where it lies, at which commit, under which licence, and where its text stands.

One entry a set, and nothing else about it anywhere: the download, the token store and the table in
docs/reference/datasets.md are made from it. A revision is a commit; those of the reference project are kept where it
named one, so that the same text is meant. A licence is that of the set's card on the hub; where the card leaves it to
the parts, it says so, and the parts' terms hold. Which of them were read there is said too: look for yourself before
you publish anything that was made of a set.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from experiments.shared_tokenizers import llama3_tokenizer
from marin.download.api import hub_repository
from marin.execution.executor import ExecutorStep, InputName
from marin.processing.tokenize.api import default_tokenize


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A set on the Hugging Face hub, or a part of one."""

    name: str
    """What it is called here; its steps are `raw/NAME` and `tokenized/NAME`."""
    repository: str
    """Name on the hub."""
    revision: str
    """Commit, at least 7 hex digits."""
    licence: str
    """SPDX name where there is one."""
    source: str
    """Who made it, where it is described."""
    licence_is_checked: bool = False
    """Whether the licence was read off the set's card, or off its card that there is none."""
    files: tuple[str, ...] = ()
    """Patterns of the files that are fetched; none: all."""
    folder: str = ""
    """Where in the repository the documents lie."""
    text_column: str = "text"
    """Column with the text."""

    def download(self) -> ExecutorStep:
        """The step that fetches it."""
        return hub_repository(f"raw/{self.name}", self.repository, revision=self.revision, files=self.files)

    def documents(self) -> ExecutorStep | InputName:
        """The folder with its documents, in the output of `download`."""
        return self.download() / self.folder if self.folder else self.download()

    def tokenized(self, tokenizer: ExecutorStep = llama3_tokenizer) -> ExecutorStep:
        """The step that makes its token store."""
        return default_tokenize(self.name, dataset=self.documents(), tokenizer=tokenizer, text_column=self.text_column)


def licence_of(licence: str, is_checked: bool) -> str:
    """A licence as the table has it."""
    return licence if is_checked else f"{licence} (not checked)"


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def repository(self) -> str: ...


Named = TypeVar("Named", bound=_Named)


def by_name(sets: Iterable[Named]) -> dict[str, Named]:
    """The sets by name. Raises ValueError where two have one name."""
    named: dict[str, Named] = {}
    for entry in sets:
        if entry.name in named:
            raise ValueError(f"two sets are called {entry.name!r}: {named[entry.name].repository}, {entry.repository}")
        named[entry.name] = entry
    return named
