"""Documents of one's own, taken into the store by what they are.

A path in a config is only a name: text that changes under it would change no identity, and old tokens would be served
for new text. So a folder of one's own becomes a step whose config holds a hash of its files. The price is that the
files are read whenever the experiment is planned, and kept twice.
"""

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst")


@dataclass(frozen=True, kw_only=True)
class LocalDocumentsConfig:
    """A folder of document files and the hash of what was in it when the experiment was planned."""

    source: str
    """Folder with document files (.jsonl, .jsonl.gz, .jsonl.zst), in subfolders like train/ or without."""

    sha256: str
    """`folder_digest` of the folder."""

    output_path: str
    """Folder that gets copies of the files, under the same names."""

    patterns: tuple[str, ...] = field(default=PATTERNS, metadata={"version": {"omit_when": PATTERNS}})
    """Names of the files that are taken, in the folder and below."""


def take_local_documents(config: LocalDocumentsConfig) -> None:
    """Copy the files. Raises ValueError if they are no longer those that the config was made for."""
    source, output = Path(config.source), Path(config.output_path)
    for path in document_files(source, config.patterns):
        target = output / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    copied = folder_digest(output, config.patterns)  # of the copies: what comes later reads these
    if copied != config.sha256:
        raise ValueError(
            f"the documents in {source} changed after the experiment was planned (sha256 {copied}, planned "
            f"{config.sha256}); run it again to plan with what is there now"
        )


def document_files(folder: Path, patterns: tuple[str, ...] = PATTERNS) -> list[Path]:
    """Document files in the folder and below, sorted; ValueError naming the folder if there is none, or no folder."""
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "it does not exist"
        raise ValueError(f"no folder of documents at {folder.absolute()}: {what}; make it, or name another")
    files = sorted({path for pattern in patterns for path in folder.rglob(pattern)})
    if not files:
        raise ValueError(f"no documents in {folder}: expected files named {', '.join(patterns)} in it or in subfolders")
    return files


def folder_digest(folder: Path, patterns: tuple[str, ...] = PATTERNS) -> str:
    """sha256 over the names and contents of the document files, in order of name; 64 hex digits."""
    digest = hashlib.sha256()
    for path in document_files(folder, patterns):
        with open(path, "rb") as file:
            contents = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{contents}\n".encode())
    return digest.hexdigest()
