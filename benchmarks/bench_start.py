"""From typing `marin train` to the end of the first update, with compiled programs kept from before and without.

Whole processes on the small Llama of `bench_train_cpu.py`, in turns: `marin train` for one update, which also opens the
data, keeps its program and saves a checkpoint; the same again in another folder, with the programs that the first kept;
and, as the measure, the plain JAX loop of `bench_train_cpu.py` up to the end of its first update. CPU time is of the
whole process; on a machine with other work it is the figure to read.

    python benchmarks/bench_start.py                 writes benchmarks/results/start.md
    python benchmarks/bench_start.py --rounds 1 --no_write
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench_train_cpu import WORKER, cpu_model
from train_peers import LEARNING_RATE, SCRATCH, SHAPE, write_random_store

RESULT = Path(__file__).resolve().parent / "results" / "start.md"

PICKED = statistics.median, min
CONFIG = {
    "model": {
        "type": "llama",
        "seq_len": SHAPE.seq,
        "hidden_dim": SHAPE.hidden,
        "intermediate_dim": SHAPE.mlp,
        "num_heads": SHAPE.heads,
        "num_kv_heads": SHAPE.heads,
        "num_layers": SHAPE.layers,
    },
    "optimizer": {"type": "adamw", "learning_rate": LEARNING_RATE},
    "trainer": {"num_train_steps": 1, "train_batch_size": SHAPE.batch, "seed": 0},
}


def cost(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(wall, CPU) seconds of a process and its children."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - wall, cpu


def measure(folder: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    write_random_store(folder / "store", SHAPE.vocab)
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps({**CONFIG, "data": {"train": {"random": str(folder / "store")}}}), encoding="utf-8")
    environment = {**os.environ, SCRATCH: str(folder)}
    found = defaultdict(list)
    for number in range(rounds):
        train = [sys.executable, "-m", "marin.cli.main", "train", str(config), "--trainer.runtime.compilation_cache"]
        train.append(str(folder / f"cache{number}"))
        found["import of the trainer"].append(
            cost([sys.executable, "-c", "import marin.training.train_lm"], environment)
        )
        found["marin train, nothing kept"].append(
            cost([*train, "--output_path", str(folder / f"{number}a")], environment)
        )
        found["marin train, second start"].append(
            cost([*train, "--output_path", str(folder / f"{number}b")], environment)
        )
        found["plain JAX loop"].append(cost([sys.executable, str(WORKER), "plain", "0"], environment))
    return found


def report(found: dict[str, list[tuple[float, float]]], rounds: int, load: float) -> str:
    lines = [
        "# Start to first step",
        "",
        "What is measured and how: the first lines of `benchmarks/bench_start.py`.",
        "",
        "| what | CPU s, median | least | wall s, median | least |",
        "|---|---|---|---|---|",
    ]
    for what, costs in found.items():
        columns = [f"{pick(column):.2f}" for column in list(zip(*costs, strict=True))[::-1] for pick in PICKED]
        lines.append(f"| {what} | {' | '.join(columns)} |")
    lines += [
        "",
        f"{rounds} rounds. Machine: {cpu_model()}, {len(os.sched_getaffinity(0))} cores.",
        f"Python {platform.python_version()}.",
        f"Load average: {load:.1f} before, {os.getloadavg()[1]:.1f} at the end.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    load = os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as folder:
        text = report(measure(Path(folder), arguments.rounds), arguments.rounds, load)
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
