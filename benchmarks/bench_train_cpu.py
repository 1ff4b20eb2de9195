"""CPU cost of one training step: marin's own beside a plain JAX loop, PyTorch and the newest Levanter.

All train the same small Llama on random tokens in float32 with AdamW. Each lives in a process of its own, is warmed up
(compiled) first, and then they take turns, a step each, so that whatever else the machine does falls on all alike. The
figures to read are the ratios of CPU time; wall time on a machine with other work says little, and times are for this
machine only.

- marin: the trainer's loop with its features on: packed documents kept apart by segment, z-loss, clipping, decay mask,
  schedule, batches from the loader's thread over a token store, metrics fetched one step late and written as rows.
- plain: what one writes by hand in JAX: layers unrolled, whole attention matrix, logits of the whole batch,
  optax.adamw, one jit with donated state. No mask between documents, no clipping, no z-loss.
- torch, torch_compile: the same Llama in PyTorch, scaled_dot_product_attention, fused AdamW. No extras either.
- levanter: its own trainer and Llama, clipping on, with the settings that are fastest here: layers unrolled, no
  recomputation, no tracker.

PyTorch and Levanter may live in other environments than this one: Levanter's newest needs Python 3.12.

    python benchmarks/bench_train_cpu.py                      those that can be imported; writes results/train_cpu.md
    python benchmarks/bench_train_cpu.py --python levanter=/env312/bin/python --python torch=/env/bin/python
    python benchmarks/bench_train_cpu.py --peers marin plain --rounds 9 --no_write
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train_peers import PEERS, SCRATCH, SHAPE

RESULT = Path(__file__).resolve().parent / "results" / "train_cpu.md"
WORKER = Path(__file__).resolve().parent / "train_peers.py"


@dataclasses.dataclass
class Racer:
    """A peer's process, and what was found of it."""

    process: subprocess.Popen
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """(wall, CPU) seconds of a step, by turn."""

    def answer(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}; its message stands above")
        return json.loads(line)

    def run(self, num_steps: int) -> None:
        self.process.stdin.write(f"{num_steps}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        self.turns.append(self.answer())


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[Racer]:
    """The process of a peer, warmed up and waiting for its turn."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        racer = Racer(process)
        racer.start = racer.answer()
        yield racer
    finally:
        process.kill()
        process.communicate()


def race(pythons: dict[str, str], rounds: int, steps: int) -> dict[str, Racer]:
    """Let the peers take turns, each round begun by another one. `pythons`: peer -> its interpreter."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": scratch, SCRATCH: scratch}
        racers = {
            peer: stack.enter_context(started([python, str(WORKER), peer], environment))
            for peer, python in pythons.items()
        }
        order = list(racers.values())
        for turn in range(rounds):
            first = turn % len(order)
            for racer in order[first:] + order[:first]:
                racer.run(steps)
    return racers


def report(racers: dict[str, Racer], rounds: int, steps: int, load: float) -> str:
    """The results as Markdown."""
    base = "plain" if "plain" in racers else next(iter(racers))
    lines = [
        "# One training step on CPU",
        "",
        f"Medians over {rounds} turns of {steps} step(s). CPU time is of all threads. A ratio is the median over the",
        f"turns of the cost beside that of '{base}' in the same turn; in brackets the quartiles. Import and first step",
        "(what is made before it included) began with no compiled programs kept.",
        "What each peer is: the first lines of `benchmarks/bench_train_cpu.py`.",
        "",
        "| peer | version of | CPU ms | CPU ratio | wall ms | wall ratio | import, CPU s | first step, CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for peer, racer in racers.items():
        wall, cpu = (statistics.median(column) for column in zip(*racer.turns, strict=True))
        pairs = list(zip(racer.turns, racers[base].turns, strict=True))
        wall_ratio, cpu_ratio = (_spread([own[i] / other[i] for own, other in pairs]) for i in (0, 1))
        start = racer.start
        lines.append(
            f"| {peer} | {PEERS[peer].package} {start['version']} | {1e3 * cpu:.0f} | {cpu_ratio} | {1e3 * wall:.0f} | "
            f"{wall_ratio} | {start['import'][1]:.1f} | {start['first_step'][1]:.1f} |"
        )
    shape = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(SHAPE).items())
    lines += [
        "",
        f"Shape: {shape}; float32, AdamW.",
        f"Machine: {cpu_model()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()} for marin.",
        f"Load average: {load:.1f} before, {os.getloadavg()[1]:.1f} at the end; the race itself makes about as much as",
        "there are cores, and what is beyond that is other work.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown CPU"


def _can_import(python: str, peer: str) -> bool:
    package = PEERS[peer].imports[0].partition(".")[0]
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", find], check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="who races; default: those that can be imported")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="the interpreter of a peer; torch is of both"
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    given = dict(entry.split("=", 1) for entry in arguments.python)
    given.setdefault("torch_compile", given.get("torch", sys.executable))
    pythons = {peer: given.get(peer, sys.executable) for peer in arguments.peers or PEERS}
    if arguments.peers is None:
        pythons = {peer: python for peer, python in pythons.items() if _can_import(python, peer)}
    load = os.getloadavg()[1]
    text = report(race(pythons, arguments.rounds, arguments.steps), arguments.rounds, arguments.steps, load)
    print(text)
    if not arguments.no_write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
