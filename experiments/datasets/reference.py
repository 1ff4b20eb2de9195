"""The published sets as a table, for docs/reference/datasets.md.

PYTHONPATH=. python experiments/datasets/reference.py > docs/reference/datasets.md
"""

from collections.abc import Iterable

from experiments.datasets import dclm, dolma, dolmino, instruction, midtraining, nemotron, paloma, simple, uncheatable
from experiments.datasets.catalog import licence_of

_HUB = "https://huggingface.co/datasets"


def reference() -> str:
    """The page, as Markdown."""
    parts = [
        "# Published sets",
        "Made from `experiments/datasets`. A set is a step: `marin plan` shows what it would fetch, from which commit. "
        'A licence is that of the set\'s card; "of its parts": the card leaves it to what the set was made of. '
        '"not checked": nobody has compared it with the card yet. Read the card before you publish what was made of a '
        "set.",
        "## Text",
        *_table(
            ("name", "on the hub", "commit", "text in", "licence", "described in"),
            [
                (
                    entry.name,
                    _link(entry.repository),
                    f"`{entry.revision}`",
                    f"`{entry.text_column}`",
                    licence_of(entry.licence, entry.licence_is_checked),
                    entry.source,
                )
                for entry in [*simple.SETS.values(), *midtraining.SETS.values()]
            ],
        ),
        "## Text in parts",
        *_table(
            ("set", "parts", "from", "licence", "described in"),
            [
                (
                    "Dolma 1.7",
                    str(len(dolma.DOLMA_PARTS)),
                    "olmo-data.org, by the hub's list at `7f48140`",
                    "ODC-By-1.0",
                    "arXiv:2402.00159",
                ),
                (
                    "Dolmino",
                    str(len(dolmino.DOLMINO_PARTS)),
                    f"{_link('allenai/dolmino-mix-1124')} `bb54cab`",
                    "ODC-By-1.0",
                    "arXiv:2501.00656",
                ),
                (
                    "Nemotron-CC",
                    str(len(nemotron.NEMOTRON_WEIGHTS)),
                    "data.commoncrawl.org, by its list",
                    licence_of("Common Crawl's terms of use", False),
                    "arXiv:2412.02595",
                ),
                (
                    "Paloma (validation)",
                    str(len(paloma.PALOMA_FOLDERS)),
                    f"{_link('allenai/paloma')} `{paloma.PALOMA_REVISION}`",
                    "AI2 ImpACT, and of its parts",
                    "arXiv:2312.10523",
                ),
                (
                    "Uncheatable Eval (validation)",
                    str(len(uncheatable.UNCHEATABLE_PARTS)),
                    f"its repository, {uncheatable.UNCHEATABLE_WINDOW}",
                    licence_of("MIT; the texts are their authors'", False),
                    "doi:10.5281/zenodo.11284692",
                ),
            ],
        ),
        "## Conversations",
        *_table(
            ("name", "on the hub", "commit", "licence"),
            [
                (
                    entry.name,
                    _link(entry.repository),
                    f"`{entry.revision}`",
                    licence_of(entry.licence, entry.licence_is_checked),
                )
                for entry in instruction.SETS.values()
            ],
        ),
        "## Shares of mixtures",
        "Trillions of tokens, TiB, billions of tokens and counts of rows: only their ratios count.",
        *_table(
            ("mixture", "set", "share"),
            [
                (mixture, name, f"{share:,}")
                for mixture, weights in {
                    "DCLM": dclm.DCLM_MIXTURE_WEIGHTS,
                    "Nemotron": nemotron.NEMOTRON_WEIGHTS,
                    "Dolma, as OLMo 1.7": dolma.DOLMA_OLMO_MIXTURE_WEIGHTS,
                    "instruction": instruction.SFT_MIXTURE_WEIGHTS,
                }.items()
                for name, share in weights.items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["\n".join("| " + " | ".join(line) + " |" for line in lines)]


def _link(repository: str) -> str:
    return f"[{repository}]({_HUB}/{repository})"


if __name__ == "__main__":
    print(reference(), end="")
