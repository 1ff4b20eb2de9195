"""Generation through the key-value cache, against `generate` of transformers on PyTorch: the same weights and prompts.

A GPT-2-shaped model with random weights (the vocabulary is GPT-2's) is written once in the Hugging Face format. Each
case, so many prompts of so many random tokens, is completed greedily by as many new tokens, no token ending a
completion: once to warm up (there marin compiles), then in turns by a process of each library, both with one thread.
CPU time is of the whole process, prompts included; on a machine with other work it is the figure to read, and the best
of the rounds, as other work only adds to it. Beside it stands the share of new tokens on which both agree; where they
differ, two logits were equal to rounding.

The case `ragged` is completions that end at different lengths, as those of a task do: 48 prompts of 128 tokens, 16 rows
at a time, up to 96 new tokens, one token in 32 ending a completion. A batch of transformers goes on until its last row
has ended; marin gives the row to the next prompt. Tokens behind an end are not counted for either.

    python benchmarks/bench_generate.py              writes benchmarks/results/generate.md
    python benchmarks/bench_generate.py --sizes gpt2 --cases 1x64 8x128 --rounds 1 --no_write
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_train_cpu import cpu_model

RESULT = Path(__file__).resolve().parent / "results" / "generate.md"
SIZES = {"tiny": (2, 64, 1000), "small": (6, 384, 50257), "gpt2": (12, 768, 50257)}  # layers, width, vocabulary
HEAD_DIM, SEQ_LEN = 64, 1024
CASES = ("1x64", "8x128", "16x128", "32x128", "ragged")  # prompts x tokens
PEERS = ("marin", "transformers")


def write_model(folder: Path, size: str) -> None:
    """Random weights, written by transformers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    num_layers, width, vocab_size = SIZES[size]
    shape = {"n_layer": num_layers, "n_embd": width, "n_head": width // HEAD_DIM, "n_positions": SEQ_LEN}
    # weights five times as large as those of training's first step: completions then wander
    config = GPT2Config(**shape, vocab_size=vocab_size, initializer_range=0.1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is completed."""

    prompts: list[list[int]]
    num_new: int
    """Most new tokens of a prompt."""
    batch_size: int
    """Rows at a time."""
    stops: list[int]
    """Tokens that end a completion."""


def case_of(name: str, vocab_size: int) -> Case:
    is_ragged = name == "ragged"
    count, length = (48, 128) if is_ragged else map(int, name.split("x"))
    prompts = np.random.default_rng([count, length]).integers(0, vocab_size, (count, length)).tolist()
    if is_ragged:
        return Case(prompts=prompts, num_new=96, batch_size=16, stops=list(range(0, vocab_size, 32)))
    return Case(prompts=prompts, num_new=32, batch_size=count, stops=[])


def work(peer: str, folder: str, vocab_size: int) -> None:
    """Complete the case named on each line of stdin; answer with one line of JSON."""
    complete = {"marin": with_marin, "transformers": with_transformers}[peer](folder)
    for line in sys.stdin:
        case = case_of(line.strip(), vocab_size)
        cpu = time.process_time()
        tokens = complete(case)
        print(json.dumps({"cpu": time.process_time() - cpu, "tokens": tokens}), flush=True)


def with_marin(folder: str):
    from marin.export.hf import load_hf
    from marin.inference.generate import generate

    model = load_hf(folder)
    return lambda case: generate(
        model.config,
        model.params,
        case.prompts,
        max_new_tokens=case.num_new,
        stop_ids=case.stops,
        batch_size=case.batch_size,
    )


def with_transformers(folder: str):
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(1)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None

    def complete(case: Case) -> list[list[int]]:
        completions = []
        for start in range(0, len(case.prompts), case.batch_size):
            tokens = torch.tensor(case.prompts[start : start + case.batch_size])
            with torch.inference_mode():
                whole = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=case.num_new,
                    do_sample=False,
                    eos_token_id=case.stops or None,
                    pad_token_id=0,
                )
            completions += whole[:, tokens.shape[1] :].tolist()
        stops = set(case.stops)
        return [list(itertools.takewhile(lambda token: token not in stops, tokens)) for tokens in completions]

    return complete


class Worker:
    """A process of one library."""

    def __init__(self, peer: str, folder: Path, vocab_size: int):
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", peer, str(folder), str(vocab_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "XLA_FLAGS": flags},
        )

    def complete(self, case: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(case, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with code {self._process.wait()} in case {case}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(size: str, cases: Sequence[str], num_rounds: int) -> list[str]:
    """The lines of the table of one size."""
    vocab_size = SIZES[size][2]
    lines = [
        "| prompts x tokens | new | marin, tokens a CPU s | transformers | ratio | marin's first, CPU s | alike |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), size)
        workers = {peer: Worker(peer, Path(folder), vocab_size) for peer in PEERS}
        for case in cases:
            first = {peer: worker.complete(case) for peer, worker in workers.items()}
            rounds: dict[str, list[float]] = {peer: [] for peer in PEERS}
            for _ in range(num_rounds):
                for peer, worker in workers.items():
                    rounds[peer].append(worker.complete(case)["cpu"])
            alike = share_alike(first["marin"]["tokens"], first["transformers"]["tokens"])
            num_tokens = {peer: sum(map(len, first[peer]["tokens"])) for peer in PEERS}
            speed = {peer: num_tokens[peer] / min(rounds[peer]) for peer in PEERS}
            each = [later / earlier for earlier, later in zip(*rounds.values(), strict=True)]
            lines.append(
                f"| {case} | {num_tokens['marin']} | {speed['marin']:.0f} | {speed['transformers']:.0f} | "
                f"{speed['marin'] / speed['transformers']:.2f} ({min(each):.2f} to {max(each):.2f}) | "
                f"{first['marin']['cpu']:.1f} | {alike:.1%} |"
            )
            print(lines[-1], flush=True)
        for worker in workers.values():
            worker.close()
    return lines


def share_alike(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Places at which both have the same token, of those at which one has any."""
    pairs = [pair for each in zip(ours, theirs, strict=True) for pair in itertools.zip_longest(*each)]
    return sum(a == b for a, b in pairs) / len(pairs)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        peer, folder, vocab_size = sys.argv[2:]
        work(peer, folder, int(vocab_size))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "gpt2"])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no_write", action="store_true")
    arguments = parser.parse_args()
    import jax
    import torch
    import transformers

    text = (
        "# Generation\n\nWhat is measured and how: the first lines of `benchmarks/bench_generate.py`.\n\n"
        f"Best of {arguments.rounds} rounds, in brackets the ratios of single rounds; one thread of {cpu_model()}; "
        f"jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}.\n"
    )
    for size in arguments.sizes:
        num_layers, width, vocab_size = SIZES[size]
        text += f"\n{num_layers} layers of width {width}, vocabulary {vocab_size:,}:\n\n"
        text += "\n".join(measure(size, arguments.cases, arguments.rounds)) + "\n"
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
