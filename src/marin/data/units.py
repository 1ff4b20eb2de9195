"""A place in a run, counted in updates, in tokens or in rows: three types, so that no number is read in a wrong unit.

A plain int counts updates wherever a place in a run is asked for. Whatever the unit, a place becomes one number, the
position of a row in the endless stream, once: `to_row`.
"""

from dataclasses import dataclass

from marin.data.batch_schedule import BatchSchedule


@dataclass(frozen=True)
class Steps:
    """A length counted in updates."""

    num_steps: int
    """0 or more."""

    def __post_init__(self) -> None:
        _check_count(self, self.num_steps, "updates")


@dataclass(frozen=True)
class Tokens:
    """A length counted in tokens as the metrics count them: every slot of a row, padding included."""

    num_tokens: int
    """0 or more."""

    def __post_init__(self) -> None:
        _check_count(self, self.num_tokens, "tokens")


@dataclass(frozen=True)
class Sequences:
    """A length counted in rows."""

    num_sequences: int
    """0 or more."""

    def __post_init__(self) -> None:
        _check_count(self, self.num_sequences, "rows")


Place = int | Steps | Tokens | Sequences
"""A place in a run; a plain int counts updates."""


def unit_of(place: Place) -> type[Steps] | type[Tokens] | type[Sequences]:
    """What a place counts. ValueError for what is no place."""
    if isinstance(place, (Steps, Tokens, Sequences)):
        return type(place)
    if isinstance(place, bool) or not isinstance(place, int) or place < 0:
        raise ValueError(
            f"{place!r} is no place in a run. Write a number of updates (an int, 0 or more, or Steps(...)), "
            "Tokens(...) or Sequences(...)."
        )
    return Steps


def number_of(place: Place) -> int:
    """How many of its unit. Comparable between places of one unit, and with 0 in any; ValueError for no place."""
    unit_of(place)
    if isinstance(place, Steps):
        return place.num_steps
    if isinstance(place, Tokens):
        return place.num_tokens
    return place.num_sequences if isinstance(place, Sequences) else place


def to_row(place: Place, *, batches: BatchSchedule | None, seq_len: int) -> int:
    """The first row at or after `place`, as a position in the stream.

    A number of tokens that is no multiple of `seq_len` means the next whole row. `batches` says which row an update
    begins with: one below 0 for an update before that of row 0. Raises ValueError for what is no place, and for a
    number of updates (other than 0) where `batches` is None.
    """
    unit, number = unit_of(place), number_of(place)
    if unit is Sequences:
        return number
    if unit is Tokens:
        return -(-number // seq_len)
    if batches is None:
        if number == 0:
            return 0
        raise ValueError(
            f"{place!r} counts updates, and how many rows those take is not known here. Say how large the batches are "
            "(open_data's `batches`), or write Sequences(...) or Tokens(...)."
        )
    return batches.offset(number)


def _check_count(unit: object, count: object, of: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"{type(unit).__name__} counts {of}: a whole number, 0 or more; got {count!r}")
