"""From typing `marin train` to the end of the first update, with compiled programs kept from before and without.

Whole processes on the small Llama of `bench_train_cpu.py`, in turns: `marin train` for one update, which also opens the
data, keeps its program and saves a checkpoint; the same again in another folder, with the programs that the first kept;
and, as the measure, the plain JAX loop of `bench_train_cpu.py` up to the end of its first update, without and with kept
programs too. CPU time is of the whole process; on a machine with other work it is the figure to read. Python's bytecode
is kept throughout, as it is where a package is installed.

Where a second start goes is told by one more process, which does what `marin train` does a stage at a time.

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
from collections.abc import Iterator
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


def measure(folder: Path, rounds: int) -> tuple[dict[str, list[tuple[float, float]]], list[dict[str, float]]]:
    """(what -> (wall, CPU) seconds by round, stage -> CPU seconds by round)."""
    write_random_store(folder / "store", SHAPE.vocab)
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps({**CONFIG, "data": {"train": {"random": str(folder / "store")}}}), encoding="utf-8")
    environment = {**os.environ, SCRATCH: str(folder), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    base = [sys.executable, "-m", "marin.cli.main", "train", str(config)]
    cost([*base, "--output_path", str(folder / "first")], environment)  # makes the bytecode
    found, staged = defaultdict(list), []
    for number in range(rounds):
        cache = str(folder / f"cache{number}")
        train = [*base, "--trainer.runtime.compilation_cache", cache]
        found["import of JAX"].append(cost([sys.executable, "-c", "import jax"], environment))
        found["import of the trainer"].append(
            cost([sys.executable, "-c", "import marin.training.train_lm"], environment)
        )
        found["marin train, nothing kept"].append(
            cost([*train, "--output_path", str(folder / f"{number}a")], environment)
        )
        found["marin train, second start"].append(
            cost([*train, "--output_path", str(folder / f"{number}b")], environment)
        )
        plain = [sys.executable, str(WORKER), "plain", "0"]
        found["plain JAX loop, nothing kept"].append(cost(plain, environment))
        keeping = environment | {
            "JAX_COMPILATION_CACHE_DIR": str(folder / f"plain{number}"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        cost(plain, keeping)  # keeps its programs
        found["plain JAX loop, second start"].append(cost(plain, keeping))
        command = [sys.executable, __file__, "--stages", str(config), cache, str(folder / f"{number}c")]
        staged.append(json.loads(subprocess.check_output(command, env=environment)))
    return found, staged


def stages(config_path: str, cache: str, output: str) -> Iterator[tuple[str, float]]:
    """(stage of a start, CPU seconds up to its end), in this process; `cache` holds the programs."""
    yield "the interpreter, before", time.process_time()
    import jax

    yield "import of JAX", time.process_time()
    import marin.training.train_lm  # noqa: F401
    from marin.config.origins import load_with_origins
    from marin.training.config import TrainLmConfig

    config, _ = load_with_origins(TrainLmConfig, config_path, [f"output_path={output}"])
    yield "import of the trainer and the model", time.process_time()
    from marin.checkpoint.format import save
    from marin.distributed.compilation_cache import use_compilation_cache
    from marin.training.callbacks import device_batch
    from marin.training.prepare import prepare
    from marin.training.program import write_programs

    use_compilation_cache(cache)
    ready = prepare(config)
    state = jax.block_until_ready(ready.state)
    yield "data opened, parameters drawn", time.process_time()
    steps = ready.train_steps()
    Path(output).mkdir()
    write_programs(Path(output), steps, state, ready.data.seq_len, None)
    yield "the step traced and lowered, its program kept", time.process_time()
    batch = device_batch(ready.loader.batch(0))
    step = steps[SHAPE.batch]
    state, _ = jax.block_until_ready(step(state, batch, LEARNING_RATE))
    yield "the compiled step read, the first update", time.process_time()
    save(Path(output) / "checkpoints", 1, state)
    yield "a checkpoint", time.process_time()
    for _ in range(3):
        state, _ = jax.block_until_ready(step(state, batch, LEARNING_RATE))
    yield "three more updates", time.process_time()


def print_stages(arguments: list[str]) -> None:
    ends = list(stages(*arguments))
    before = [0.0, *(end for _, end in ends)]
    print(json.dumps({stage: end - began for (stage, end), began in zip(ends, before, strict=False)}))


def report(
    found: dict[str, list[tuple[float, float]]], staged: list[dict[str, float]], rounds: int, load: float
) -> str:
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
    lines += ["", "## Where a second start goes", "", "| stage | CPU s, median | least |", "|---|---|---|"]
    for stage in staged[0]:
        lines.append(f"| {stage} | {' | '.join(f'{pick([one[stage] for one in staged]):.2f}' for pick in PICKED)} |")
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
    parser.add_argument("--stages", nargs=3, help=argparse.SUPPRESS)  # what a process of `measure` is started with
    arguments = parser.parse_args()
    if arguments.stages:
        print_stages(arguments.stages)
        return
    load = os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as folder:
        text = report(*measure(Path(folder), arguments.rounds), arguments.rounds, load)
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
