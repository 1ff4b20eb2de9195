"""Documents dealt out to parts, like train and validation, by a hash of their ids.

Which part a document is in depends on its id, the seed and the shares alone: no order of files changes it, nor one of
the parts, which take their ranges of the hash by the order of their names; and more documents leave those that are
there where they are.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from marin.processing.pipeline import BatchResult, Dataset
from marin.processing.pipeline.pool import kept_workers

# Part of the identity of the step: raised when the same documents and shares would be dealt out otherwise.
RECIPE_VERSION = 2

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which documents, and which parts."""

    # Folder with documents, or one file or glob of them.
    input_path: str
    # Folder that gets PART/part-*.jsonl.zst and PART/_funnel.json for each part.
    output_path: str
    # Part -> share of the documents; together 1.
    parts: Mapping[str, float]
    # Of the hash.
    seed: int = 0
    # Processes; None: one a CPU. The output does not depend on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        shares = list(self.parts.values())
        if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"parts is {dict(self.parts)}; shares above 0 that together are 1 are expected")


@dataclass(frozen=True, kw_only=True)
class TakePart:
    """Keeps the documents whose hash, as a number in [0, 1), lies in [start, end)."""

    version: ClassVar[int] = 1

    name: str
    start: float
    end: float
    seed: int

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import pyarrow as pa

        places = [_place(one, self.seed) for one in batch.column("id").to_pylist()]
        stays = [self.start <= place < self.end for place in places]
        num_others = len(stays) - sum(stays)
        dropped = {f"not in {self.name}": num_others} if num_others else {}
        return BatchResult(batch.filter(pa.array(stays, pa.bool_())), dropped=dropped)


@kept_workers()
def split_documents(config: SplitConfig) -> dict[str, int]:
    """Write the documents of each part; returns how many each got. Raises ValueError where one got none."""
    counts = {}
    start = 0.0
    # the identity of a step knows no order of a mapping, so what it makes must not either
    for number, (name, share) in enumerate(sorted(config.parts.items()), start=1):
        end = 1.0 if number == len(config.parts) else start + share
        part = Dataset.from_files(config.input_path).map_batches(
            TakePart(name=name, start=start, end=end, seed=config.seed), name=f"part {name}"
        )
        result = part.write_jsonl(f"{config.output_path}/{name}").run(workers=config.num_workers, max_bad=0.0)
        counts[name], start = result.counters["rows_out"], end
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise ValueError(
            f"{config.input_path} has too few documents: none was left for {', '.join(empty)} ({_shown(counts)})"
        )
    return counts


def _place(document_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _shown(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
