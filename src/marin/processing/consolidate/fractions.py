"""Which value of a column parts the share that is kept from the rest: an exact quantile, ties told apart by id.

The values of all documents, and the hashes of their ids, are read into memory once, 16 bytes each (1.6 GB for a hundred
million documents), where a sketch would be smaller and wrong by some documents. Attributes may be of more documents
than come in, of those before a filter or a deduplication, say: the others' values do not count. Documents whose value
is the one at the border are ordered by a hash of their ids, so that exactly the number that was asked for stays, and
which ones depends on no order of files. Documents of one id cannot be told apart so: where the border falls between two
of them, that is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from marin.processing.consolidate.config import KeepFraction
from marin.processing.pipeline import BatchResult

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Border:
    """A share as a comparison that is made row by row, of values as float64; the highest stay."""

    version: ClassVar[int] = 1

    column: str
    sign: int  # -1 where the lowest values stay
    value: float  # sign * column must be above this, or equal to it with a hash of at most
    largest_hash: int
    rule: str
    is_missing_kept: bool

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import numpy as np
        import pyarrow as pa

        from marin.processing.pipeline.rows import samples_of

        values = self.sign * values_of(batch.column(self.column))
        hashes = hashes_of(batch.column("id")) if (values == self.value).any() else np.zeros(len(values), np.uint64)
        stays = (values > self.value) | ((values == self.value) & (hashes <= np.uint64(self.largest_hash)))
        stays |= np.isnan(values) & self.is_missing_kept
        if stays.all():
            return BatchResult(batch)
        rows = np.flatnonzero(~stays).tolist()
        return BatchResult(
            batch.filter(pa.array(stays)),
            dropped={self.rule: len(rows)},
            samples={self.rule: samples_of(batch, rows, [self.column])},
        )


def find_border(
    keep: KeepFraction, paths: tuple[str, ...], *, missing: str, documents: "NDArray[np.uint64] | None" = None
) -> Border:
    """The border of a share, found in the attributes. `missing` says what a document without a value means.

    `documents`, uint64 (num_ids,), sorted, has the hashes of the ids that come in (`hashes_in`); None: all do.

    Raises ValueError where no attribute has the column, it holds no numbers, or values are missing and must not be; and
    where the border falls between documents of one id.
    """
    import numpy as np
    import pyarrow as pa

    sign = 1 if keep.highest else -1
    values = sign * np.concatenate(
        [np.empty(0), *(values_of(column) for _, column in _columns(keep, paths, documents))]
    )
    num_missing = int(np.isnan(values).sum())
    if num_missing and missing == "error":
        raise ValueError(
            f"{keep.column} has no value for {num_missing:,} of {len(values):,} documents. missing='drop' drops such "
            "documents, 'keep' keeps them; or make the attributes of all."
        )
    values = values[~np.isnan(values)]
    num_kept = round(keep.share * len(values))
    which = "highest" if keep.highest else "lowest"
    rule = f"{which} {keep.share:g} of {keep.column}"
    known = {"column": keep.column, "sign": sign, "rule": rule, "is_missing_kept": missing == "keep"}
    if num_kept == 0:
        return Border(**known, value=float("inf"), largest_hash=0)
    border = np.partition(values, len(values) - num_kept)[len(values) - num_kept]
    num_tied_kept = num_kept - int((values > border).sum())
    tied = [hashes_of(ids)[sign * values_of(column) == border] for ids, column in _columns(keep, paths, documents)]
    hashes = np.sort(np.concatenate(tied))
    largest = hashes[num_tied_kept - 1]
    if num_tied_kept < len(hashes) and hashes[num_tied_kept] == largest:
        ids = (ids.filter(pa.array(hashes_of(ids) == largest)) for ids, _ in _columns(keep, paths, documents))
        [document_id, *_] = (one for part in ids for one in part.to_pylist())
        raise ValueError(
            f"{rule} ends between documents with the id {document_id!r}, so it cannot be said which of them stay: give "
            "documents ids of their own, or deduplicate first"
        )
    return Border(**known, value=float(border), largest_hash=int(largest))


def values_of(column: "pa.Array") -> "NDArray[np.float64]":
    """float64 (rows,): the numbers of a column, nan where there is none. Raises ValueError where it has no numbers."""
    import numpy as np
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ValueError(f"a share is kept by numbers, and the column holds {kind}")
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def hashes_of(ids: "pa.Array") -> "NDArray[np.uint64]":
    """uint64 (rows,): xxh3_64 of each id's UTF-8 bytes."""
    import numpy as np
    import xxhash

    return np.array([xxhash.xxh3_64_intdigest(one.encode()) for one in ids.to_pylist()], np.uint64)


def hashes_in(path: str) -> "NDArray[np.uint64]":
    """uint64 (num_ids,), sorted, each once: `hashes_of` the ids in a folder, file or glob of documents."""
    import numpy as np

    from marin.processing.formats.reading import read_split
    from marin.processing.formats.splits import plan_splits

    # what is no document is told where the documents are read
    batches = (batch for split in plan_splits(path) for batch in read_split(split, columns=("id",), on_bad=_pass_over))
    return np.unique(np.concatenate([np.empty(0, np.uint64), *(hashes_of(batch.column("id")) for batch in batches)]))


def _pass_over(record: object) -> None:
    del record


def _columns(
    keep: KeepFraction, paths: tuple[str, ...], documents: "NDArray[np.uint64] | None"
) -> "Iterator[tuple[pa.Array, pa.Array]]":
    """(ids, values) of all batches of the attributes that have the column, those of the documents."""
    for ids, values in _all_columns(keep, paths):
        if documents is not None:
            is_one = _are_in(hashes_of(ids), documents)
            ids, values = ids.filter(is_one), values.filter(is_one)
        yield ids, values


def _are_in(hashes: "NDArray[np.uint64]", documents: "NDArray[np.uint64]") -> "pa.Array":
    """bool (rows,): whether each hash is among the sorted ones."""
    import numpy as np
    import pyarrow as pa

    places = np.searchsorted(documents, hashes)
    found = places < len(documents)
    found[found] = documents[places[found]] == hashes[found]
    return pa.array(found)


def _all_columns(keep: KeepFraction, paths: tuple[str, ...]) -> "Iterator[tuple[pa.Array, pa.Array]]":
    """(ids, values) of all batches of the attributes that have the column."""
    from marin.processing.formats.reading import read_split
    from marin.processing.formats.splits import column_names, plan_splits

    known: set[str] = set()
    for path in paths:
        splits = plan_splits(path)
        names = set(column_names(splits[0]))
        known |= names
        if keep.column in names:
            for split in splits:
                for batch in read_split(split, columns=("id", keep.column), on_bad=_refuse):
                    yield batch.column("id"), batch.column(keep.column)
            return
    import difflib

    near = difflib.get_close_matches(keep.column, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"no attribute {keep.column!r}{hint} The attributes are {', '.join(sorted(known - {'id'})) or 'none'}"
    )


def _refuse(record: object) -> None:
    raise ValueError(f"attributes are damaged: {record}")
