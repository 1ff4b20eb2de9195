"""Generation through the key-value cache, against `generate` of transformers on PyTorch: the same weights and prompts.

A GPT-2-shaped model with random weights (the vocabulary is GPT-2's) is written once in the Hugging Face format. Each
case, so many prompts of so many random tokens, is completed greedily by as many new tokens, no token ending a
completion: once to warm up (there marin compiles), then in turns by a process of each library, both with one thread.
CPU time is of the whole process, prompts included; on a machine with other work it is the figure to read. Beside it
stands the share of new tokens on which both agree; where they differ, two logits were equal to rounding.

    python benchmarks/bench_generate.py              writes benchmarks/results/generate.md
    python benchmarks/bench_generate.py --size gpt2 --cases 1x64 8x128 --rounds 1 --no_write
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_train_cpu import cpu_model

RESULT = Path(__file__).resolve().parent / "results" / "generate.md"
SIZES = {"tiny": (2, 64, 1000), "small": (6, 384, 50257), "gpt2": (12, 768, 50257)}  # layers, width, vocabulary
HEAD_DIM, SEQ_LEN = 64, 1024
CASES = ("1x64", "1x512", "8x128", "32x64")  # prompts x tokens
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


def prompts_of(case: str, vocab_size: int) -> list[list[int]]:
    count, length = map(int, case.split("x"))
    return np.random.default_rng([count, length]).integers(0, vocab_size, (count, length)).tolist()


def work(peer: str, folder: str, vocab_size: int, num_new: int) -> None:
    """Complete the case named on each line of stdin; answer with one line of JSON."""
    complete = {"marin": with_marin, "transformers": with_transformers}[peer](folder, num_new)
    for line in sys.stdin:
        prompts = prompts_of(line.strip(), vocab_size)
        cpu, wall = time.process_time(), time.perf_counter()
        tokens = complete(prompts)
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "tokens": tokens}
        print(json.dumps(took), flush=True)


def with_marin(folder: str, num_new: int):
    from marin.export.hf import load_hf
    from marin.inference.generate import generate

    model = load_hf(folder)
    return lambda prompts: generate(
        model.config, model.params, prompts, max_new_tokens=num_new, batch_size=len(prompts)
    )


def with_transformers(folder: str, num_new: int):
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(1)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None

    def complete(prompts: list[list[int]]) -> list[list[int]]:
        tokens = torch.tensor(prompts)
        with torch.inference_mode():
            whole = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
            )
        return whole[:, tokens.shape[1] :].tolist()

    return complete


class Worker:
    """A process of one library."""

    def __init__(self, peer: str, folder: Path, vocab_size: int, num_new: int):
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", peer, str(folder), str(vocab_size), str(num_new)],
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


def measure(arguments: argparse.Namespace) -> list[str]:
    """The lines of the table."""
    vocab_size = SIZES[arguments.size][2]
    lines = [
        "| prompts x tokens | marin, tokens a CPU s | transformers | ratio | marin's first, CPU s | tokens alike |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.size)
        workers = {peer: Worker(peer, Path(folder), vocab_size, arguments.new_tokens) for peer in PEERS}
        for case in arguments.cases:
            first = {peer: worker.complete(case) for peer, worker in workers.items()}
            rounds: dict[str, list[float]] = {peer: [] for peer in PEERS}
            for _ in range(arguments.rounds):
                for peer, worker in workers.items():
                    rounds[peer].append(worker.complete(case)["cpu"])
            alike = np.mean(np.array(first["marin"]["tokens"]) == np.array(first["transformers"]["tokens"]))
            num_tokens = int(case.split("x")[0]) * arguments.new_tokens
            speed = {peer: num_tokens / statistics.median(rounds[peer]) for peer in PEERS}
            lines.append(
                f"| {case} | {speed['marin']:.1f} | {speed['transformers']:.1f} | "
                f"{speed['marin'] / speed['transformers']:.2f} | {first['marin']['cpu']:.1f} | {alike:.1%} |"
            )
            print(lines[-1], flush=True)
        for worker in workers.values():
            worker.close()
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        peer, folder, vocab_size, num_new = sys.argv[2:]
        work(peer, folder, int(vocab_size), int(num_new))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no_write", action="store_true")
    arguments = parser.parse_args()
    lines = measure(arguments)
    import jax
    import torch
    import transformers

    num_layers, width, vocab_size = SIZES[arguments.size]
    text = (
        "# Generation\n\nWhat is measured and how: the first lines of `benchmarks/bench_generate.py`.\n\n"
        f"{num_layers} layers of width {width}, vocabulary {vocab_size:,}, {arguments.new_tokens} new tokens, median "
        f"of {arguments.rounds} rounds, one thread of {cpu_model()}; jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}.\n\n" + "\n".join(lines) + "\n"
    )
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
