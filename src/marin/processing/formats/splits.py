"""Which parts of which files can be read apart, so that one big file is not one worker.

A plan depends on the files alone, never on how many read them: files sorted by their path below the folder that was
named, each cut by its own nature (JSON lines at line ends, parquet by row groups, Arrow by batches, our own .gz and
.zst by blocks). What cannot be cut without reading all of it, like somebody else's .gz, stays whole.

JSON lines have no schema, and the columns of all batches of one input must be the same. So the first rows of up to
sixteen files say which fields there are and of what type (`Split.fields`). A field that turns up later is not lost: it
goes into the row's metadata. A value that does not fit its column makes its row a bad one, with the reason. The price
is that a rare field is found in another place than a common one.
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from marin.io.compression import DamagedError, compression_of, content_chunks, find_blocks
from marin.io.files import absolute, address, each, file_info, is_file, is_remote, open_input, tree
from marin.io.files import is_folder as is_a_folder
from marin.io.objects import RemoteError
from marin.processing.document import BadInputError
from marin.processing.formats.finished import DONE_FOLDER, check_finished

SPLIT_BYTES = 128 << 20

# Endings of file names, and the format they mean; the longest that fits counts.
FORMATS = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".ndjson.zst": "jsonl",
    ".json.gz": "jsonl",  # dolma and others name their JSON lines so
    ".json.zst": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.wet": "wet",
    ".warc.wet.gz": "wet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".txt": "text",
    ".txt.gz": "text",
    ".txt.zst": "text",
    ".md": "text",
    ".rst": "text",
}
# "text" makes a document of a file; the other two of each paragraph (blank lines between) or line, and must be asked
# for.
FORMAT_NAMES = ("jsonl", "parquet", "arrow", "warc", "wet", "html", "text", "text-paragraphs", "text-lines")

_REPORT = "report.json"  # beside attributes/, and documents/, of a deduplication or decontamination

_KINDS = {"html": 1, "text": 2}  # of the files in a folder; all others hold rows, or a crawl, and come first

_SAMPLED_FILES = 16
_SAMPLED_BYTES = 1 << 18  # decompressed, of each of them
_DOCUMENT_FIELDS = {"id": "string", "text": "string", "source": "string", "metadata": "json"}


class FormatError(ValueError):
    """A file that is not what its format says, or is damaged; the message begins with the file."""


class DamagedFileError(FormatError, BadInputError):
    """A file that is cut or damaged, or not the one any more that it was when the work was planned."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A part of one file. `start` and `end` count what the format is cut by.

    Bytes of JSON lines and of text (the lines that begin after `start`, up to the one that begins at `end`; of our .gz
    and .zst the blocks between), row groups of parquet, batches of Arrow. `end` None is the end of the file.
    """

    path: str
    label: str  # the path below the folder that was named, with "/"; stands in made-up ids and in messages
    format: str  # one of FORMAT_NAMES
    start: int
    end: int | None
    size: int  # bytes of the whole file
    mtime_ns: int  # of the file when it was planned; a file that has changed since is refused
    version: str = ""  # of an object, what its store calls the content; likewise
    first_row: int | None = None  # rows (lines) of the file before this split; None: counted when somebody asks
    num_rows: int | None = None  # in this split, those that are bad too; None: nobody has counted
    text_column: str = "text"  # of documents, the column that is taken for their text (`processing.shards`)
    fields: tuple[tuple[str, str], ...] = ()  # of JSON lines: (name, "string" | "int64" | "float64" | "bool" | "json")


def plan_splits(
    paths: str | Path | Sequence[str | Path], *, format: str | None = None, split_bytes: int = SPLIT_BYTES
) -> list[Split]:
    """The splits of files, folders (with all below) and globs (`**` for any depth), sorted by label.

    They are paths, or addresses in a store (s3://, gs://, az://). `format` is one of FORMAT_NAMES where the files'
    endings do not tell. Names that begin with `_` or `.` are passed over. Raises FileNotFoundError where a path or glob
    has no file, FormatError where a format is unknown or a file's footer is damaged, PrefixError where an address is
    none or the extra `remote` is not installed.
    """
    if format is not None and format not in FORMAT_NAMES:
        raise ValueError(f"format {format!r} is none of {', '.join(FORMAT_NAMES)}")
    if split_bytes <= 0:
        raise ValueError(f"split_bytes must be positive, got {split_bytes}")
    files = find_files(paths, format=format)
    formats = {label: format or format_of(path) for label, path in files}
    json_files = [path for label, path in files if formats[label] == "jsonl"]
    fields, has_ids = infer_fields(json_files)

    def of_file(file: tuple[str, str]) -> list[Split]:
        label, path = file
        info = file_info(path)
        return [
            Split(
                path=path,
                label=label,
                format=formats[label],
                size=info.size,
                mtime_ns=info.mtime_ns,
                version=info.version,
                fields=fields if formats[label] == "jsonl" else (),
                **piece._asdict(),
            )
            for piece in _pieces(path, formats[label], split_bytes, has_ids=has_ids)
        ]

    return [split for splits in each(of_file, files, where=files[0][1]) for split in splits]


def column_names(split: Split) -> list[str]:
    """The columns that the file of a split has."""
    if split.format in ("parquet", "arrow"):
        from marin.processing.formats.arrow_files import schema_of

        return schema_of(split.path, split.format).names
    return [name for name, _ in split.fields]


def format_of(path: str | Path) -> str:
    """The format that a file's ending means. Raises FormatError where it means none."""
    name = os.path.basename(path)
    fitting = [ending for ending in FORMATS if name.endswith(ending)]
    if not fitting:
        raise FormatError(
            f"{path}: its ending says no format (known are {', '.join(FORMATS)}): name the format, one of "
            f"{', '.join(FORMAT_NAMES)}"
        )
    return FORMATS[max(fitting, key=len)]


def find_files(paths: str | Path | Sequence[str | Path], *, format: str | None = None) -> list[tuple[str, str]]:
    """(label, path) of every file that is meant, sorted by label, each once.

    A folder means the files below it whose ending is known (with `format`: all files): those that hold rows or a crawl;
    where there are none, the pages; where there are none of these either, the texts. So a README beside the files of a
    set is no part of it. A label is the path below the folder that was named, with "/", and never absolute; files of
    one label, from two folders, have as many of the folders above them before it as tell them apart.

    Raises FileNotFoundError where a path or glob has no file, ValueError where files are of a run of the data engine
    that has not ended, or a folder is all that a deduplication or decontamination wrote.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise ValueError("no input: name files, folders or globs")
    found: dict[str, tuple[str, str]] = {}  # absolute path -> (label, path)
    for path in given:
        for label, file in _files_of(address(path), format):
            found.setdefault(absolute(file), (label, file))
    check_finished(os.path.dirname(file) for file in found)
    labels = _told_apart({absolute: label for absolute, (label, _) in found.items()})
    return sorted((labels[absolute], file) for absolute, (_, file) in found.items())


def _told_apart(labels: dict[str, str]) -> dict[str, str]:
    """The labels by absolute path, those that are equal with folders before them until none are."""
    labels = dict(labels)
    while len(uses := Counter(labels.values())) < len(labels):
        for path, label in labels.items():
            folders = path.strip(os.sep).split(os.sep)
            depth = label.count("/") + 2
            if uses[label] > 1 and depth <= len(folders):
                labels[path] = "/".join(folders[-depth:])
    return labels


def _files_of(path: str, format: str | None) -> Iterator[tuple[str, str]]:
    if is_file(path):
        yield os.path.basename(path), path
        return
    is_folder = False
    if is_remote(path):
        is_folder = not glob.has_magic(path) or is_a_folder(path)
        root, names = _names_in_store(path, is_folder=is_folder)
    elif os.path.isdir(path):
        is_folder = True
        pattern, root = os.path.join(glob.escape(path), "**"), path
        found = list(glob.iglob(pattern, recursive=True))
        check_finished([path, *(os.path.dirname(one) for one in found if os.path.basename(one) == DONE_FOLDER)])
    elif glob.has_magic(path):
        pattern, root = path, _folder_before_magic(path)
        found = list(glob.iglob(pattern, recursive=True))
        check_finished(filter(os.path.isdir, glob.iglob(os.path.dirname(pattern), recursive=True)))
    else:
        raise FileNotFoundError(f"no file or folder at {os.path.abspath(path)}")
    if not is_remote(path):
        names = [os.path.relpath(file, root) for file in found if os.path.isfile(file)]
    if is_folder:
        _check_one_meaning(path, names)
    visible = [name for name in names if _is_visible(name)]
    if is_folder and format is None:
        visible = _of_one_kind(visible)
    if not visible:
        what = "the folder has" if is_folder else "the glob matches"
        raise FileNotFoundError(f"{path}: {what} no file of a known format ({', '.join(sorted(FORMATS))})")
    for name in visible:
        yield name.replace(os.sep, "/"), os.path.join(root, name)


def _check_one_meaning(path: str, names: Sequence[str]) -> None:
    """ValueError for the output of a deduplication or decontamination: its attributes have rows too, of no texts."""
    folders = {name.split(os.sep)[0] for name in names if os.sep in name}
    if _REPORT not in names or "attributes" not in folders:
        return
    documents, attributes = (os.path.join(path, name) for name in ("documents", "attributes"))
    left = f"its documents are in {documents}" if "documents" in folders else "it was made without documents"
    raise ValueError(
        f"{path} is all that a deduplication or decontamination wrote, not documents alone: {left}, and what was found "
        f"of each document is in {attributes}; name one of them"
    )


def _names_in_store(path: str, *, is_folder: bool) -> tuple[str, list[str]]:
    """(folder, names below it) of the objects that an address means, a folder or a glob."""
    root = path if is_folder else _folder_before_magic(path)
    pattern = path[len(root) + 1 :].split("/") if root != path else ["**"]
    names = [name for name, _ in tree(root)]
    if not names and root == path:
        raise FileNotFoundError(f"no file or folder at {path}")
    outputs = {f"/{name}".partition(f"/{DONE_FOLDER}/")[0] for name in names if f"/{DONE_FOLDER}/" in f"/{name}"}
    folders = pattern if root == path else pattern[:-1]
    check_finished(root + output for output in outputs if _fits(output.split("/")[1:], folders))
    return root, [name for name in names if _fits(name.split("/"), pattern)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name are those of a pattern, in which ** stands for any number of them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[passed:], pattern[1:]) for passed in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def passed_over(folder: str) -> dict[str, int]:
    """How many files below a folder of this machine are of another kind than those that `find_files` takes, by ending.

    Empty where `folder` is none.
    """
    walked = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    names = [name for name in (os.path.relpath(path, folder) for path in walked) if _is_visible(name)]
    taken = set(_of_one_kind(names))
    return dict(Counter(os.path.splitext(name)[1] for name in names if _is_known(name) and name not in taken))


def _is_visible(name: str) -> bool:
    return not any(part[0] in "._" for part in name.split(os.sep))


def _is_known(name: str) -> bool:
    return name.endswith(tuple(FORMATS))


def _of_one_kind(names: list[str]) -> list[str]:
    """The files that a folder is about, of those whose ending is known: rows, or else pages, or else texts."""
    kinds = {name: _KINDS.get(format_of(name), 0) for name in names if _is_known(name)}
    return [name for name, kind in kinds.items() if kind == min(kinds.values())]


def _folder_before_magic(pattern: str) -> str:
    parts = pattern.split(os.sep)
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return os.sep.join(parts[:plain]) or (os.sep if pattern.startswith(os.sep) else ".")


class _Piece(NamedTuple):
    """What tells one split of a file from another; see Split."""

    start: int
    end: int | None
    first_row: int | None
    num_rows: int | None = None


def _pieces(path: str, format: str, split_bytes: int, *, has_ids: bool) -> list[_Piece]:
    if format == "parquet":
        return _parquet_pieces(path, split_bytes)
    if format == "arrow":
        return _arrow_pieces(path, split_bytes)
    if format == "jsonl":
        return _line_pieces(path, split_bytes, has_ids=has_ids)
    return [_Piece(0, None, 0)]


def _line_pieces(path: str, split_bytes: int, *, has_ids: bool) -> list[_Piece]:
    if compression_of(path) is not None:
        blocks = find_blocks(path)
        if not blocks:
            return [_Piece(0, None, 0)]
        return _grouped([(block.end - block.start, block.num_rows) for block in blocks], split_bytes, in_bytes=True)
    size = file_info(path).size
    starts = list(range(0, max(size, 1), split_bytes))
    if len(starts) > 1 and size - starts[-1] < split_bytes // 2:
        starts.pop()  # a short rest goes with the piece before it
    ends = [*starts[1:], None]
    # Rows without an id are named by their line. Lines are counted here once, not by every worker for all before it.
    rows: list[int | None] = [0] + [None] * (len(starts) - 1)
    if not has_ids:
        newlines = 0
        for i in range(1, len(starts)):
            newlines += count_newlines(path, starts[i - 1], starts[i])
            rows[i] = newlines + 1  # the line around a piece's start is read with the piece before
    return [_Piece(*bounds) for bounds in zip(starts, ends, rows, strict=True)]


def count_newlines(path: str, start: int, end: int) -> int:
    """Newlines among the bytes from `start` to `end` of a file."""
    count = 0
    with open_input(path) as file:
        file.seek(start)
        while (left := end - file.tell()) > 0 and (chunk := file.read(min(1 << 20, left))):
            count += chunk.count(b"\n")
    return count


def _grouped(parts: Sequence[tuple[int, int]], split_bytes: int, *, in_bytes: bool = False) -> list[_Piece]:
    """Neighbouring parts of (bytes, rows) put together up to `split_bytes`; bounds count parts, or bytes."""
    pieces: list[_Piece] = []
    position = begin = rows = first_row = held = 0
    for size, num_rows in parts:
        if held and held + size > split_bytes:
            pieces.append(_Piece(begin, position, first_row, rows - first_row))
            begin, first_row, held = position, rows, 0
        position += size if in_bytes else 1
        rows += num_rows
        held += size
    pieces.append(_Piece(begin, position, first_row, rows - first_row))
    return pieces


def _parquet_pieces(path: str, split_bytes: int) -> list[_Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from marin.processing.formats.arrow_files import arrow_source

    try:
        with arrow_source(path) as source:
            metadata = pq.read_metadata(source)
    except RemoteError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{path}: not a whole parquet file: {error}") from error
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [
        sum(group.column(j).total_compressed_size for j in range(group.num_columns)) if group.num_columns else 0
        for group in groups
    ]
    return _grouped([(size, group.num_rows) for size, group in zip(sizes, groups, strict=True)], split_bytes)


def _arrow_pieces(path: str, split_bytes: int) -> list[_Piece]:
    import pyarrow as pa

    from marin.processing.formats.arrow_files import is_arrow_file

    if is_remote(path) or not is_arrow_file(path):
        return [_Piece(0, None, 0)]  # a stream can only be read from its beginning; an object would be fetched whole
    try:
        with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
            parts = [
                (batch.nbytes, batch.num_rows) for batch in map(reader.get_batch, range(reader.num_record_batches))
            ]
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{path}: not a whole Arrow file: {error}") from error
    return _grouped(parts, split_bytes)


def infer_fields(paths: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """(name, type) of the columns of files of JSON lines, by their first rows, and whether each of these has an id.

    Documents, that is rows with a text, have id, text, source and metadata, others id and metadata. Further fields
    stand behind, as they come.
    """
    step = max(1, len(paths) // _SAMPLED_FILES)
    seen: dict[str, str | None] = {}  # None: only nulls so far
    has_ids = True
    sampled = paths[::step][:_SAMPLED_FILES]
    for rows in each(lambda path: list(_first_rows(path)), sampled, where=sampled[0] if sampled else ""):
        for row in rows:
            has_ids &= row.get("id") is not None
            for name, value in row.items():
                seen[name] = _wider(seen.get(name), _type_of(value))
    is_documents = "text" in seen or not seen
    base = _DOCUMENT_FIELDS if is_documents else {name: _DOCUMENT_FIELDS[name] for name in ("id", "metadata")}
    known = {**base, **{name: kind or "json" for name, kind in seen.items() if name not in base}}
    return tuple(known.items()), has_ids


def _first_rows(path: str) -> Iterable[dict[str, Any]]:
    content, whole = b"", True
    with open_input(path) as file:
        try:
            for chunk in content_chunks(file, compression_of(path)):
                content += chunk
                if len(content) > _SAMPLED_BYTES:
                    content, whole = content[:_SAMPLED_BYTES], False
                    break
        except DamagedError:
            whole = False  # told, with the position, by whoever reads the file
    lines = content.splitlines()
    for line in lines if whole else lines[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # bad lines are counted where they are read
            continue
        if isinstance(row, dict):
            yield row


def _type_of(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "int64", float: "float64"}.get(type(value), "json")


def _wider(one: str | None, other: str | None) -> str | None:
    """The type that holds values of both; values of unlike types are told apart as JSON."""
    if one is None or other is None or one == other:
        return other if one is None else one
    return "float64" if {one, other} == {"int64", "float64"} else "json"
