"""What was in a batch: for every row its source, its store, and which tokens of which documents, exactly.

Nothing is recorded while training. The loader's own arithmetic says where a row comes from, and the layout of the
packing which documents it is made of, so the answer costs a run nothing and can be had for any step, past or to come,
as long as the token stores are there and are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marin.data.loader import DataLoader


@dataclass(frozen=True, kw_only=True)
class DocumentPiece:
    """Consecutive tokens of one document, the targets of consecutive slots of a row."""

    document: int  # its index in the store
    document_id: str  # as its text came with it
    document_source: str  # likewise
    document_length: int  # tokens of the whole document, its end-of-text included
    start: int  # the piece's first token, counted from the document's first
    length: int  # tokens of the piece
    slot: int  # the row's first slot whose target is of this piece


@dataclass(frozen=True, kw_only=True)
class RowOrigin:
    """One row of a batch."""

    row: int  # its place in the batch
    position: int  # its place in the stream of training rows
    source: str  # name of the training source
    store: str  # path of its token store
    pieces: tuple[DocumentPiece, ...]  # from left to right; the slots after the last are padding


def rows_at_update(loader: DataLoader, update: int) -> list[RowOrigin]:
    """Where each row of the batch of one update comes from.

    Updates are counted from 1, as `step` in metrics.jsonl counts them: the batch of update 1 is `loader.batch(0)`.
    Raises ValueError for an update before the first, IndexError for one after the end of the stream.
    """
    first = loader.batches.first_step + 1
    if update < first:
        raise ValueError(f"update {update} was asked for; the first update of this run is {first}")
    positions = np.arange(loader.batches.offset(update - 1), loader.batches.offset(update))
    mixture = loader.mixture
    source, index = mixture.locate(positions)
    pieces: list[list[DocumentPiece]] = [[] for _ in positions]
    for which in np.unique(source).tolist():
        rows = np.flatnonzero(source == which)
        dataset = mixture.sources[which]
        found = dataset.pieces(index[rows])
        offsets = dataset.store.document_offsets
        columns = (found.row, found.slot, found.length, found.document, found.start)
        for row, slot, length, document, start in zip(*(column.tolist() for column in columns), strict=True):
            document_source, document_id = dataset.store.document_id(document)
            piece = DocumentPiece(
                document=document,
                document_id=document_id,
                document_source=document_source,
                document_length=int(offsets[document + 1] - offsets[document]),
                start=start,
                length=length,
                slot=slot,
            )
            pieces[int(rows[row])].append(piece)
    return [
        RowOrigin(
            row=row,
            position=int(position),
            source=mixture.names[int(source[row])],
            store=str(mixture.sources[int(source[row])].store.path),
            pieces=tuple(pieces[row]),
        )
        for row, position in enumerate(positions)
    ]


def piece_tokens(loader: DataLoader, row: RowOrigin, piece: DocumentPiece) -> np.ndarray:
    """The token ids of a piece, int32 (length,): the targets of its slots."""
    store = loader.mixture.sources[loader.mixture.names.index(row.source)].store
    return store.read(int(store.document_offsets[piece.document]) + piece.start, piece.length)


def piece_loss_mask(loader: DataLoader, row: RowOrigin, piece: DocumentPiece) -> np.ndarray | None:
    """Which tokens of a piece count, bool (length,); None where the store has no mask, so that all count."""
    store = loader.mixture.sources[loader.mixture.names.index(row.source)].store
    if store.chat is None:
        return None
    return store.read_loss_mask(int(store.document_offsets[piece.document]) + piece.start, piece.length)


def name_documents(rows: Sequence[RowOrigin], *, at_most: int) -> str:
    """The documents of a batch in one line, by source, `at_most` of them by their ids.

    web: 'a', 'b'; code: 'c' and 14 more
    """
    documents = dict.fromkeys((row.source, piece.document_id) for row in rows for piece in row.pieces)
    shown: dict[str, list[str]] = {}
    for source, document_id in list(documents)[:at_most]:
        shown.setdefault(source, []).append(repr(document_id))
    more = f" and {len(documents) - at_most} more" if len(documents) > at_most else ""
    return "; ".join(f"{source}: {', '.join(ids)}" for source, ids in shown.items()) + more
