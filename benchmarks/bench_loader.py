"""Does the loader keep up with a million tokens a second, and what does a row cost it?

A token store of random documents (lengths log-normal, as web text's are) is written once. For each shape of batch and
each packing, a loader over a mixture of three sources whose weights change on the way feeds a step that does nothing
but take the time that a million tokens a second leave it (`time.sleep`: the work of an accelerator, which leaves the
host alone). The stall is the time that the step waited for its batch, beside the time of all steps; the first batch,
which nothing can be made ahead of, is told apart. Handing a batch from one thread to another after a sleep costs some
microseconds whoever made it: the same run with a batch that is there already tells how many. CPU is of the whole
process, so of the loader, as a share of a core.

The cost of a row is CPU time without any step: of the gather alone (`TokenStore.gather`, one copy out of the
memory-mapped store), of the batch that training takes (tokens, targets, weights, segments), of one that is located in
the mixture first, and of naming its documents (`marin data at-step`). The page cache is warm throughout: the store was
just written.

    python benchmarks/bench_loader.py                 writes benchmarks/results/loader.md
    python benchmarks/bench_loader.py --no_write
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marin.data.at_step import rows_at_update
from marin.data.config import PACKING_MODES, PackingMode
from marin.data.dataset import Batch, RowDataset, row_dataset
from marin.data.loader import DataLoader
from marin.data.mixture import Mixture
from marin.data.store import TokenStore
from marin.data.store_writer import ShardWriter, write_ledger

RESULT = Path(__file__).resolve().parent / "results" / "loader.md"
TOKENS_PER_SECOND = 1_000_000
SHAPES = ((8, 256), (64, 1024), (128, 4096))  # rows of a batch, slots of a row
VOCAB_SIZE = 50_257
SECONDS_A_CASE = 6.0
SOURCES = {"web": 30_000, "code": 20_000, "books": 10_000}  # documents


class Run(NamedTuple):
    """A loader beside a step of a million tokens a second."""

    stall: float  # share of the steps' time
    cpu: float  # share of a core
    first_batch_s: float
    num_steps: int


def write_store(path: Path, num_documents: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    eos = VOCAB_SIZE - 1
    shards = []
    for number in range(4):
        name = f"shard-{number:05d}"
        (path / name).mkdir(parents=True)
        with ShardWriter(path / name, name=name, vocab_size=VOCAB_SIZE, eos_id=eos) as writer:
            lengths = np.maximum(1, rng.lognormal(6.0, 1.0, num_documents // 4)).astype(np.int64)  # mean 665
            for document, length in enumerate(lengths.tolist()):
                tokens = rng.integers(0, eos, length).astype(np.int32)
                writer.add(tokens, document_id=f"{number}-{document}", num_bytes=4 * length)
            shards.append(writer.close())
    write_ledger(
        path,
        shards,
        vocab_size=VOCAB_SIZE,
        tokenizer_digest="0" * 64,
        eos_id=eos,
        bos_id=None,
        token_byte_lengths=np.full(VOCAB_SIZE, 4, np.int32),
    )


def varying_loader(sources: dict[str, RowDataset], batch_size: int) -> DataLoader:
    weights = [(0, {"web": 0.7, "code": 0.2, "books": 0.1}), (5_000, {"web": 0.2, "code": 0.3, "books": 0.5})]
    return DataLoader(Mixture(sources, seed=0, weights=weights), batch_size)


def run_steps(loader: DataLoader, step_s: float) -> Run:
    num_steps = max(20, int(SECONDS_A_CASE / step_s))
    with loader.iterate(0, num_steps=num_steps + 1) as batches:
        next(batches)
        first = batches.stall_s
        began, began_cpu = time.perf_counter(), _cpu_s()
        for _ in range(num_steps):
            time.sleep(step_s)
            next(batches)
        wall, cpu = time.perf_counter() - began, _cpu_s() - began_cpu
        return Run((batches.stall_s - first) / wall, cpu / wall, first, num_steps)


class ReadyBatch:
    """Stands where a mixture does, and has one batch ready for every step."""

    num_rows = None

    def __init__(self, loader: DataLoader):
        self._batch = loader.batch(0)

    def rows(self, positions: np.ndarray) -> Batch:
        return self._batch


def cost_us(work: Callable[[int], object], num_rows: int) -> float:
    """CPU microseconds a row of `work(i)`, which makes `num_rows` rows; the median of nine rounds."""
    work(0)
    rounds = []
    for number in range(9):
        calls = 20
        began = _cpu_s()
        for call in range(calls):
            work(1 + number * calls + call)
        rounds.append((_cpu_s() - began) / (calls * num_rows) * 1e6)
    return sorted(rounds)[len(rounds) // 2]


def row_costs(stores: dict[str, TokenStore], packing: PackingMode, rows: int, slots: int) -> dict[str, float]:
    sources: dict[str, RowDataset] = {name: row_dataset(store, slots, packing) for name, store in stores.items()}
    one, loader = sources["web"], varying_loader(sources, rows)
    rng = np.random.default_rng(0)
    # drawn before, since drawing is no part of the cost
    starts = rng.integers(0, stores["web"].num_tokens - slots - 1, (200, rows))
    indices = rng.integers(0, one.num_rows, (200, rows))
    return {
        "gather": cost_us(lambda i: stores["web"].gather(starts[i], slots + 1), rows),
        "rows": cost_us(lambda i: one.rows(indices[i]), rows),
        "mixture": cost_us(lambda i: loader.batch(i), rows),
        "locate": cost_us(lambda i: loader.mixture.locate(np.arange(i * rows, (i + 1) * rows)), rows),
        "at-step": cost_us(lambda i: rows_at_update(loader, i + 1), rows),
    }


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, num_documents) in enumerate(SOURCES.items()):
            write_store(Path(folder) / name, num_documents, seed)
        stores = {name: TokenStore.open(Path(folder) / name) for name in SOURCES}
        text = report(stores)
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


def report(stores: dict[str, TokenStore]) -> str:
    runs, costs = [], []
    for rows, slots in SHAPES:
        for packing in PACKING_MODES:
            began = _cpu_s()
            sources: dict[str, RowDataset] = {name: row_dataset(s, slots, packing) for name, s in stores.items()}
            layout_s = _cpu_s() - began
            step_s = rows * slots / TOKENS_PER_SECOND
            loader = varying_loader(sources, rows)
            run = run_steps(loader, step_s)
            ready = run_steps(DataLoader(ReadyBatch(loader), rows), step_s)  # type: ignore[arg-type]
            runs.append(
                f"| {rows} x {slots} | {packing} | {step_s * 1e3:.1f} | {run.stall:.3%} | {ready.stall:.3%} | "
                f"{run.cpu:.1%} | {run.first_batch_s * 1e3:.1f} | {layout_s:.2f} | {run.num_steps} |"
            )
            cost = row_costs(stores, packing, rows, slots)
            costs.append(
                f"| {rows} x {slots} | {packing} | {cost['gather']:.2f} | {cost['rows']:.2f} | {cost['mixture']:.2f} | "
                f"{cost['locate']:.2f} | {cost['at-step']:.1f} |"
            )
    num_tokens = sum(store.num_tokens for store in stores.values())
    num_documents = sum(store.num_documents for store in stores.values())
    return "\n".join(
        [
            "# The loader",
            "",
            f"Three sources, {num_tokens:,} tokens in {num_documents:,} documents, weights that change on the way.",
            "What is measured and how: the first lines of `benchmarks/bench_loader.py`.",
            "",
            f"## Beside a step of {TOKENS_PER_SECOND:,} tokens a second",
            "",
            "| batch | packing | step ms | stall | of a ready batch | CPU, of a core | first ms | layout, s | steps |",
            "|---|---|---|---|---|---|---|---|---|",
            *runs,
            "",
            "## CPU microseconds a row",
            "",
            "| batch | packing | gather alone | a source's batch | mixed batch | of that: where rows are | at-step |",
            "|---|---|---|---|---|---|---|",
            *costs,
            "",
            f"Machine: {_cpu_name()}, {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f} at the end.",
            f"Python {platform.python_version()}, numpy {np.__version__}. The page cache was warm.",
            "",
        ]
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
