"""A data set as a plan: where its rows come from, what is done to them, where they go. Nothing happens before `run`.

A plan is a value. Every method returns a new one, so a common beginning can be used twice. The price of the laziness is
that a mistake in a function is met when the work is done, not where the function is named; names of columns in
expressions likewise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from marin.io.files import address
from marin.processing.pipeline.expressions import Expression, parse
from marin.processing.pipeline.operations import (
    FilterRows,
    FlatMapRows,
    Function,
    MapBatches,
    MapRows,
    MapShard,
    Missing,
    Operation,
    SampleRows,
    Select,
    WithColumns,
)
from marin.processing.pipeline.sinks import FileSink, Sink

if TYPE_CHECKING:
    from marin.processing.pipeline.run import Result
    from marin.processing.tokenize.config import ChatFormat

SPLIT_BYTES = 128 << 20
# How shards are called, and which there are: "part" packs small files, "input" has one shard a file of its name, and
# "shard" one a part of a file, as token stores do.
Names: TypeAlias = Literal["part", "input", "shard"]


@dataclass(frozen=True, kw_only=True)
class FilesInput:
    """Rows of files."""

    paths: tuple[str, ...]
    format: str | None
    columns: tuple[str, ...] | None
    split_bytes: int


@dataclass(frozen=True, kw_only=True)
class ItemsInput:
    """Rows that are given."""

    rows: tuple[Mapping[str, Any], ...]
    num_shards: int


@dataclass(frozen=True, kw_only=True)
class GroupInput:
    """Rows made of groups of others."""

    name: str
    dataset: "Dataset"
    keys: tuple[str, ...]
    reducer: Any
    order_by: tuple[str, ...]
    num_shards: int | None


@dataclass(frozen=True, kw_only=True)
class JoinInput:
    """Rows of one data set with columns of another."""

    name: str
    left: "Dataset"
    right: "Dataset"
    on: tuple[str, ...]
    columns: tuple[str, ...] | None
    missing: Missing
    strategy: Literal["auto", "files", "shuffle"]
    num_shards: int | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """An input and what is done to its rows, shard by shard."""

    input: FilesInput | ItemsInput | GroupInput | JoinInput
    operations: tuple[Operation, ...] = ()
    others: tuple["Dataset", ...] = ()  # the data sets of the Attach operations, in their order


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the rows go."""

    path: str
    sink: Sink
    names: Names


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A lazy sequence of rows, in shards. Begin with `Dataset.from_files`, end with `write_parquet` and `run`.

    >>> from marin.processing.pipeline import Dataset, col
    >>> plan = (
    ...     Dataset.from_files("raw/**/*.jsonl.zst")
    ...     .filter(col("text").length() >= 200, name="too short")
    ...     .select(["id", "text", "source", "metadata"])
    ...     .write_parquet("documents")
    ... )
    >>> result = plan.run(workers=2)   # doctest: +SKIP
    """

    parts: tuple[Part, ...]
    target: Target | None = None

    # -- where rows come from

    @staticmethod
    def from_files(
        paths: str | PathLike[str] | Iterable[str | PathLike[str]],
        *,
        format: str | None = None,
        columns: Sequence[str] | None = None,
        split_bytes: int = SPLIT_BYTES,
    ) -> "Dataset":
        """The rows of files, folders (with all below) and globs; the format by the files' endings unless it is named.

        A path may be an address in a store: s3://BUCKET/raw/*.jsonl.zst, gs://, az:// (needs the extra `remote`).
        `columns`: those to read, None for all. A file larger than `split_bytes` is shared by several shards where its
        format allows that; small files share one.
        """
        given = tuple(map(address, (paths,) if isinstance(paths, str | PathLike) else paths))
        if not given:
            raise ValueError("from_files: no path is given")
        wanted = None if columns is None else tuple(columns)
        files = FilesInput(paths=given, format=format, columns=wanted, split_bytes=split_bytes)
        return Dataset(parts=(Part(input=files),))

    @staticmethod
    def from_items(rows: Iterable[Mapping[str, Any]], *, num_shards: int = 1) -> "Dataset":
        """Rows that are given as dicts; one without an `id` is named by its position."""
        if num_shards < 1:
            raise ValueError(f"from_items: num_shards is {num_shards}; at least one is needed")
        return Dataset(parts=(Part(input=ItemsInput(rows=tuple(rows), num_shards=num_shards)),))

    @staticmethod
    def concat(datasets: Iterable["Dataset"]) -> "Dataset":
        """The shards of several data sets, one data set after the other."""
        given = tuple(datasets)
        if not given:
            raise ValueError("concat: no data set is given")
        for one in given:
            one._check_open("concat")
        return Dataset(parts=tuple(part for one in given for part in one.parts))

    # -- what is done to each row or batch

    def map(self, function: Function, *, name: str | None = None, timeout_s: float | None = None) -> "Dataset":
        """The dict that `function` returns for each row (a dict; `metadata` is one in it).

        ValueError quarantines the row, by the kind before the colon of its message; `Dropped(rule)` leaves it out; any
        other exception fails the shard. With `timeout_s`, a row that takes more seconds of processor time is
        quarantined, in whatever code it is stuck: its worker is ended, and the shard made again without the row.
        """
        return self._then(MapRows(name=name or _name_of(function), function=function, timeout_s=timeout_s))

    def flat_map(self, function: Function, *, name: str | None = None, timeout_s: float | None = None) -> "Dataset":
        """The rows that `function` returns for each row, as a list of dicts; otherwise as `map`."""
        return self._then(FlatMapRows(name=name or _name_of(function), function=function, timeout_s=timeout_s))

    def map_batches(self, function: Function, *, name: str | None = None, expanding: bool = False) -> "Dataset":
        """What `function` returns for each record batch (at most 2,048 rows and 16 MB): one, or a `BatchResult`.

        Fewer rows than it got must be named in a BatchResult; more are allowed where `expanding`.
        """
        return self._then(MapBatches(name=name or _name_of(function), function=function, expanding=expanding))

    def filter(
        self, condition: Expression | str | Function, *, name: str | None = None, missing: Missing = "error"
    ) -> "Dataset":
        """The rows for which a condition is true: an expression, its text, or a function of the row.

        `missing` says what an expression that is null means: an error, "drop" or "keep". `name` is the rule's in all
        counts; an expression's text by default.
        """
        if isinstance(condition, str):
            condition = parse(condition)
        shown = str(condition) if isinstance(condition, Expression) else _name_of(condition)
        return self._then(FilterRows(name=name or shown, condition=condition, missing=missing))

    def select(self, columns: Sequence[str]) -> "Dataset":
        """These columns alone, in this order."""
        if isinstance(columns, str):
            raise TypeError(f"select takes a list of columns: select([{columns!r}])")
        return self._then(Select(columns=tuple(columns)))

    def with_columns(self, columns: Mapping[str, Expression | str]) -> "Dataset":
        """New columns, or new values of old ones, from expressions over the columns as they are."""
        made = tuple((name, parse(one) if isinstance(one, str) else one) for name, one in columns.items())
        return self._then(WithColumns(columns=made))

    def sample(self, share: float, *, seed: int, on: str = "id") -> "Dataset":
        """About this share of the rows, chosen by a hash of `on` and the seed: the same ones in any order and split."""
        if not 0 <= share <= 1:
            raise ValueError(f"sample: {share} is no share of the rows; it is between 0 and 1")
        return self._then(SampleRows(name=f"sample {share:g}", share=share, seed=seed, on=on))

    def map_shard(self, function: Function, *, name: str | None = None) -> "Dataset":
        """The batches that `function` yields for the iterator of all batches of a shard.

        It must read all of them. Rows that it makes fewer or more are counted as merged or expanded.
        """
        return self._then(MapShard(name=name or _name_of(function), function=function))

    # -- what is done to all rows

    def group_by(
        self,
        keys: str | Sequence[str],
        reducer: Function,
        *,
        order_by: Sequence[str] = (),
        num_shards: int | None = None,
        name: str | None = None,
    ) -> "Dataset":
        """What `reducer(key, rows)` makes of each group of rows with the same key: a dict, a list of them, or Dropped.

        `rows` is an iterator of dicts by `order_by`, then as they were read; a group may be larger than memory. `key`
        is a value, or a tuple where several columns are named. KeepFirst and Count (in `reducers`) do without rows of
        Python. The result has `num_shards` shards (None: by the size of the input), its rows by key within each.
        """
        self._check_open("group_by")
        given = (keys,) if isinstance(keys, str) else tuple(keys)
        if name == "read":
            raise ValueError("group_by: 'read' is the name of reading in all counts; choose another one")
        if num_shards is not None and num_shards < 1:
            raise ValueError(f"group_by: num_shards is {num_shards}; at least one is needed")
        groups = GroupInput(
            name=name or _name_of(reducer),
            dataset=self,
            keys=given,
            reducer=reducer,
            order_by=tuple(order_by),
            num_shards=num_shards,
        )
        return Dataset(parts=(Part(input=groups),))

    def reduce(self, reducer: Function, *, order_by: Sequence[str] = (), name: str | None = None) -> "Dataset":
        """What `reducer((), rows)` makes of all rows, in one shard."""
        return self.group_by((), reducer, order_by=order_by, num_shards=1, name=name)

    def join(
        self,
        other: "Dataset",
        *,
        on: str | Sequence[str] = "id",
        columns: Sequence[str] | None = None,
        missing: Missing = "error",
        strategy: Literal["auto", "files", "shuffle"] = "auto",
        num_shards: int | None = None,
        name: str = "join",
    ) -> "Dataset":
        """These rows, with columns of the row of another data set that has the same key.

        `columns`: those to take, None for all. `missing`: what a row without partner means: an error, "drop" (an inner
        join) or "keep" with nulls (a left join). `strategy`: "files" joins files of the same names in place, "shuffle"
        brings the rows of both together by key, which gives them another order. In place a partner is looked for in
        the file of the same name alone, so rows that were dealt out to files anew may have none: "auto" joins in
        place where files have the same names and a row without partner is an error, and else by a shuffle.
        """
        self._check_open("join")
        other._check_open("join")
        if strategy not in ("auto", "files", "shuffle"):
            raise ValueError(f"strategy is {strategy!r}; 'auto', 'files' or 'shuffle' is expected")
        joined = JoinInput(
            name=name,
            left=self,
            right=other,
            on=(on,) if isinstance(on, str) else tuple(on),
            columns=None if columns is None else tuple(columns),
            missing=missing,
            strategy=strategy,
            num_shards=num_shards,
        )
        return Dataset(parts=(Part(input=joined),))

    # -- where rows go

    def write_parquet(self, path: str | PathLike[str], *, names: Literal["part", "input"] = "part") -> "Dataset":
        """Write parquet files (zstd) `part-00000-of-00010.parquet` to a folder, also of a store (s3://...).

        With names="input" there is one file for each file that is read, with its name, so that two data sets have their
        rows in files of the same names.
        """
        return self._to(path, FileSink(format="parquet"), names)

    def write_jsonl(
        self,
        path: str | PathLike[str],
        *,
        compression: Literal["zst", "gz"] | None = "zst",
        names: Literal["part", "input"] = "part",
    ) -> "Dataset":
        """Write JSON lines, compressed with zstd or gzip (several times slower) in blocks that can be found again."""
        return self._to(path, FileSink(format=f"jsonl.{compression}" if compression else "jsonl"), names)

    def write_tokens(
        self,
        path: str | PathLike[str],
        *,
        tokenizer: str | PathLike[str],
        chat: "ChatFormat | None" = None,
        encoder: Literal["auto", "tokenizers", "gigatoken"] = "auto",
        check_round_trip: bool = True,
    ) -> "Dataset":
        """Write a token store, as `tokenize` makes it: of the same files the same shards, byte for byte.

        Rows are documents (columns `id`, `text` and, if there is one, `source`); those without text are dropped as
        "empty". With `chat` they are conversations, in the columns that it names, and the store says which of their
        tokens are trained on. `tokenizer` is its folder, loaded here and again by the workers; ValueError where `chat`
        has a template that cannot be used with it. The run raises ValueError where no document is left, and fails a
        shard whose first texts do not come back from their tokens (`check_round_trip`).
        """
        from marin.processing.tokenize.sink import token_sink

        rows, sink = token_sink(fspath(tokenizer), chat=chat, encoder=encoder, check_round_trip=check_round_trip)
        name = "documents" if chat is None else "conversations"
        return self.map_batches(rows, name=name)._to(path, sink, "shard")

    def write(self, path: str | PathLike[str], sink: Sink, *, names: Literal["part", "input"] = "part") -> "Dataset":
        """Write each shard with a sink of one's own."""
        return self._to(path, sink, names)

    # -- doing it

    def run(self, **options: Any) -> "Result":
        """Do the work, or what is left of it, and return what became of the rows; see `run.run` for the options."""
        from marin.processing.pipeline.run import run

        return run(self, **options)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """The rows as dicts, computed in this process as they are asked for; bad rows are passed over, and counted on
        stderr at the end."""
        from marin.processing.pipeline.run import iter_rows

        return iter_rows(self)

    def take(self, num_rows: int) -> list[dict[str, Any]]:
        """The first rows, computed in this process."""
        from itertools import islice

        return list(islice(self.iter_rows(), num_rows))

    # --

    def _then(self, operation: Operation) -> "Dataset":
        self._check_open(operation.name)
        parts = []
        for part in self.parts:
            named = uniquely_named(operation, part.operations, part.input)
            parts.append(replace(part, operations=(*part.operations, named)))
        return replace(self, parts=tuple(parts))

    def _to(self, path: str | PathLike[str], sink: Sink, names: Names) -> "Dataset":
        self._check_open("write")
        if names not in ("part", "input", "shard"):
            raise ValueError(f"names is {names!r}; 'part' or 'input' is expected")
        return replace(self, target=Target(path=address(path), sink=sink, names=names))

    def _check_open(self, name: str) -> None:
        if self.target is not None:
            raise ValueError(
                f"{name}: the plan ends with writing to {self.target.path}; read that folder with from_files to go on"
            )


def _name_of(function: Any) -> str:
    name = getattr(function, "name", None) or getattr(function, "__name__", None)
    return str(name) if name else type(function).__name__


def uniquely_named(operation: Operation, others: tuple[Operation, ...], given: Any) -> Operation:
    """The operation, with a number behind its name where another one has it."""
    taken = {other.name for other in others} | {"read", getattr(given, "name", "")}
    name, number = operation.name, 2
    while name in taken:
        name = f"{operation.name} ({number})"
        number += 1
    return replace(operation, name=name)
