"""Tokenizing beside its peers, in MB of text a CPU second of one process, with GPT-2's vocabulary.

    python benchmarks/bench_tokenize.py DOCUMENTS --gpt2 GPT2_FOLDER [--peers_python PYTHON]

DOCUMENTS is a folder of parquet files with the columns id, text, source. Of ours the whole way is measured, from the
files to the token store (read, encode, hash, write, sync), from parquet and from the same documents as .jsonl.zst, with
the loading of the tokenizer and without; and the encoders alone. The slow ones see the first MB alone, which is said.
PYTHON has tiktoken and datatrove. Each number is the best of several rounds, taken in turns.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from marin.data.store import TokenStore
from marin.processing.formats.writing import open_writer
from marin.processing.tokenize.config import TokenizeConfig
from marin.processing.tokenize.encoder import Utf8Texts, difference
from marin.processing.tokenize.rows import texts_of
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.tokenizer import load_tokenizer

RESULTS = Path(__file__).resolve().parent / "results" / "tokenize.md"
PEERS = Path(__file__).resolve().parent / "peers" / "tokenize_peers.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents")
    parser.add_argument("--gpt2", required=True, help="folder with encoder.json and vocab.bpe")
    parser.add_argument("--peers_python", help="interpreter of an environment with tiktoken and datatrove")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow_mb", type=float, default=8.0, help="MB of text that the slow ones see")
    parser.add_argument("--no_write", action="store_true", help=f"print only, do not write {RESULTS.name}")
    arguments = parser.parse_args()
    table = pq.read_table(arguments.documents, columns=["id", "text", "source"])
    with tempfile.TemporaryDirectory() as work:
        lines = report(arguments, table, Path(work))
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.no_write:
        RESULTS.write_text(text, encoding="utf-8")


def report(arguments: argparse.Namespace, table: pa.Table, work: Path) -> list[str]:
    """The page, with all that is measured."""
    slow = _first(table, arguments.slow_mb * 1e6)
    places = _write_inputs(table, slow, work)
    tokenizer = load_tokenizer(arguments.gpt2)
    tokenizer.save(work / "gpt2")
    texts = {name: _texts(each) for name, each in (("all", table), ("slow", slow))}
    fast = tokenizer.encoders.best(texts["slow"])
    assert fast.reason is None, fast.reason
    assert difference(fast.encoder, tokenizer.encoders.oracle, texts["slow"]) is None

    cases: dict[str, tuple[str, Callable[[], float]]] = {
        "marin, parquet to token store": ("all", lambda: _end_to_end(places["parquet"], work)),
        "marin, .jsonl.zst to token store": ("all", lambda: _end_to_end(places["zst"], work)),
        "marin, parquet to token store, encoder tokenizers": (
            "slow",
            lambda: _end_to_end(places["slow"], work, encoder="tokenizers"),
        ),
        "marin's encoder alone: gigatoken, first time": ("all", lambda: _encode_first(arguments.gpt2, texts["all"])),
        "marin's encoder alone: gigatoken, again": ("all", lambda: _seconds(lambda: fast.encoder.encode(texts["all"]))),
        "tokenizers alone": ("slow", lambda: _seconds(lambda: tokenizer.encoders.oracle.encode(texts["slow"]))),
    }
    if arguments.peers_python:
        for peer, which in (("tiktoken", "parquet"), ("datatrove", "slow")):
            size = "slow" if which == "slow" else "all"
            what = "tiktoken alone, to lists" if peer == "tiktoken" else "datatrove, parquet to files of ids"
            command = [arguments.peers_python, str(PEERS), peer, str(places[which]), arguments.gpt2]
            command.append(str(work / "gpt2" / "tokenizer.json"))
            expected = sum(len(row) for row in fast.encoder.encode(texts[size]))
            cases[what] = (size, lambda command=command, expected=expected: _peer(command, expected))
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, (_, measure) in cases.items():
            best[name] = min(best.get(name, float("inf")), measure())
    load = min(_seconds(lambda: load_tokenizer(arguments.gpt2).digest) for _ in range(arguments.rounds))
    return _page(cases, best, {name: float(each.num_bytes.sum()) / 1e6 for name, each in texts.items()}, load, table)


def _page(
    cases: dict[str, tuple[str, Callable[[], float]]],
    best: dict[str, float],
    megabytes: dict[str, float],
    load: float,
    table: pa.Table,
) -> list[str]:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tokenizers", "gigatoken", "pyarrow")
    )
    lines = [
        "# Tokenizing",
        "",
        f"Machine: {_machine()}. {versions}.",
        f"Text: {megabytes['all']:.1f} MB in {table.num_rows:,} documents of {_num_sources(table)} sources; "
        f"GPT-2's vocabulary. The slow ones saw the first {megabytes['slow']:.1f} MB.",
        "",
        "| what | MB of text | CPU s | MB a CPU second |",
        "|---|---|---|---|",
    ]
    for name, (size, _) in cases.items():
        lines.append(f"| {name} | {megabytes[size]:.1f} | {best[name]:.2f} | {megabytes[size] / best[name]:.1f} |")
    lines += [
        "",
        f"In each way to a token store, reading the tokenizer and its digest is {load:.2f} s, once a process. All ids "
        "are those of `tokenizers`: of ours compared on what the slow ones saw, of the others by their number.",
        "",
        "`python benchmarks/bench_tokenize.py DOCUMENTS --gpt2 GPT2_FOLDER --peers_python PYTHON`",
    ]
    return lines


def _end_to_end(documents: Path, work: Path, *, encoder: str = "auto") -> float:
    output = work / "store"
    shutil.rmtree(output, ignore_errors=True)
    config = TokenizeConfig(
        input_path=str(documents),
        output_path=str(output),
        tokenizer=str(work / "gpt2"),
        num_workers=1,
        encoder=encoder,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        seconds = _seconds(lambda: tokenize(config))
    TokenStore.open(output)
    return seconds


def _encode_first(gpt2: str, texts: Utf8Texts) -> float:
    encoder = load_tokenizer(gpt2).encoders.best(texts).encoder
    return _seconds(lambda: encoder.encode(texts))


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _peer(command: list[str], expected: int) -> float:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["tokens"] != expected:
        raise ValueError(f"{command[2]} made {found['tokens']:,} tokens, {expected:,} were expected")
    return found["seconds"]


def _first(table: pa.Table, size: float) -> pa.Table:
    total, count = 0, 0
    for text in table["text"].to_pylist():
        if total >= size:
            break
        total += len(text.encode())
        count += 1
    return table.slice(0, count)


def _texts(table: pa.Table) -> Utf8Texts:
    return texts_of(table["text"].combine_chunks())


def _write_inputs(table: pa.Table, slow: pa.Table, work: Path) -> dict[str, Path]:
    places = {"parquet": work / "parquet", "zst": work / "zst", "slow": work / "slow"}
    for name, ending, rows in (("parquet", "parquet", table), ("zst", "jsonl.zst", table), ("slow", "parquet", slow)):
        places[name].mkdir()
        with open_writer(places[name] / f"part.{ending}", ending) as writer:
            for batch in rows.combine_chunks().to_batches(2048):
                writer.write(batch)
    return places


def _num_sources(table: pa.Table) -> int:
    return len(set(table["source"].to_pylist()))


def _machine() -> str:
    """The processor, and how fast it adds."""

    def add() -> None:
        x = 0
        for _ in range(10_000_000):
            x += 1  # noqa: SIM113 (what is timed)

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
    python = f"CPython {platform.python_version()}, ten million additions {_seconds(add):.2f} s"
    return f"{model}, {os.cpu_count()} shared cores, {python}"


if __name__ == "__main__":
    main()
