"""Texts of some languages only, by columns that language identification wrote."""

from dataclasses import dataclass
from typing import ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded


@dataclass(frozen=True, kw_only=True)
class LanguageIs:
    """Keeps documents by the columns `language` and `language_score`, which must be there already."""

    version: ClassVar[int] = 1

    # Codes as the model writes them.
    languages: tuple[str, ...] = ("en",)
    # The model's probability of the language that it names; None turns the rule off.
    min_score: float | None = 0.65

    def __post_init__(self) -> None:
        if isinstance(self.languages, tuple) and not self.languages:
            raise ValueError("languages is empty: no document could stay; name at least one, like ('en',)")

    def operations(self) -> tuple[Operation, ...]:
        return ()

    def rules(self) -> tuple[Rule, ...]:
        source = "Penedo et al. 2024 (arXiv:2406.17557), 3.3; DCLM"
        return (
            Rule(
                name="language.other",
                keep=f"language in {list(self.languages)!r}",
                description="another language",
                source=source,
            ),
            *bounded("language.unsure", "language_score", "no clear language", source, at_least=self.min_score),
        )
