"""Training on one GPU: are the numbers right, how fast is it, and how fast is PyTorch beside it, in one run.

1. Numerics. Every implementation of attention gives packed documents the states that they have alone, and the loss that
   is trained on (bfloat16, cuDNN, logits as the engine keeps them) is that of float32 with the plain definition, but
   for rounding. What cannot run here is shown with the reason it gives.
2. Speed. GPT-2 124M and a Llama of about 1B train in bfloat16 with float32 parameters and AdamW, in the trainer's own
   loop, fed by the loader from a token store. GPT-2 in PyTorch (scaled_dot_product_attention, autocast, fused AdamW,
   with torch.compile and without) takes its turns among them, where PyTorch is. Each peer has a process of its own.

MFU is tokens a second times FLOPs a token over the peak of the device for dense bfloat16 (`marin.training.flops`). Two
conventions are shown: `full` counts the whole matrix of scores (as PaLM does), `causal` the half that is needed. Both
count 6 FLOPs for each weight that multiplies, and nothing for recomputation.

    python benchmarks/bench_train_gpu.py                        writes benchmarks/results/train_gpu.md
    python benchmarks/bench_train_gpu.py --torch_python /env/bin/python
    python benchmarks/bench_train_gpu.py --size tiny --no_write    a check of this file, on any machine
"""

import argparse
import contextlib
import dataclasses
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
from bench_train_cpu import Racer, cpu_model, started
from train_peers import BETA1, BETA2, EPSILON, LEARNING_RATE, SCRATCH, WEIGHT_DECAY, MarinLoop

RESULT = Path(__file__).resolve().parent / "results" / "train_gpu.md"
TORCH = {"torch": False, "torch_compile": True}
"""Peer -> whether it is compiled."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its batch."""

    title: str
    kind: str
    vocab: int
    batch: int
    seq: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int

    def model(self) -> Any:
        """marin's config."""
        from marin.models.gpt2 import Gpt2Config
        from marin.models.llama import LlamaConfig

        shape = {"seq_len": self.seq, "hidden_dim": self.hidden, "num_layers": self.layers, "num_heads": self.heads}
        if self.kind == "gpt2":
            return Gpt2Config(**shape)
        return LlamaConfig(**shape, num_kv_heads=self.kv_heads, intermediate_dim=self.mlp)

    def flops_per_token(self) -> tuple[float, float]:
        """By the conventions `full` and `causal`."""
        full = self.model().flops_per_token(self.vocab, self.seq)
        return full, full - 6.0 * self.hidden * self.layers * self.seq


SIZES = {
    "full": {
        "gpt2": Case("GPT-2 124M", "gpt2", 50_257, 32, 1024, 768, 12, 12, 12, 3072),
        "llama": Case("Llama 1.2B", "llama", 32_000, 8, 2048, 2048, 20, 16, 8, 5632),
    },
    "tiny": {
        "gpt2": Case("a tiny GPT-2", "gpt2", 509, 2, 64, 32, 2, 2, 2, 128),
        "llama": Case("a tiny Llama", "llama", 509, 2, 64, 32, 2, 4, 2, 64),
    },
}

MARIN: dict[str, dict[str, Any]] = {
    "cudnn": {"attention": "cudnn", "has_segments": False},
    "cudnn_packed": {"attention": "cudnn", "has_segments": True},
    "blocked": {"attention": "blocked", "has_segments": False},
    "xla": {"attention": "xla", "has_segments": False},
}
"""Peer -> how attention is computed, and whether documents are kept apart."""

PEERS = ("cudnn", "cudnn_packed", *TORCH, "blocked", "xla")
"""All live on the device at one time; the last need the most memory, and are told of where it does not suffice."""


# -- numerics ---------------------------------------------------------------------------------------------------------


def numerics(case: Case) -> list[str]:
    """Rows of a table; raises where a number is wrong."""
    import jax
    import jax.numpy as jnp

    from marin.models.config import ATTENTION_IMPLEMENTATIONS
    from marin.training.train_step import DeviceBatch, loss_sums

    model = dataclasses.replace(case.model(), num_layers=2)
    params = jax.jit(lambda: model.init(case.vocab, key=jax.random.key(0)))()
    rng = np.random.default_rng(0)
    rows = min(case.batch, 4)
    tokens = rng.integers(0, case.vocab, (rows, case.seq), dtype=np.int32)
    cut = case.seq // 3
    segments = np.broadcast_to(np.arange(case.seq) >= cut, tokens.shape).astype(np.int32)
    batch = DeviceBatch(tokens, np.roll(tokens, -1, 1), np.ones(tokens.shape, np.float32), segments)

    def states(dtype: Any, name: str, tokens: np.ndarray, segments: np.ndarray | None) -> np.ndarray:
        options = {"segment_ids": segments, "compute_dtype": dtype, "attention": name}
        run = jax.jit(lambda params, tokens: model.hidden_states(params, tokens, **options))
        return np.asarray(run(params, tokens).astype(jnp.float32))

    def mean_loss(**options: Any) -> float:
        return float(jax.jit(lambda params: loss_sums(model, params, batch, **options).nll)(params)) / tokens.size

    exact = mean_loss(compute_dtype=jnp.float32, attention="reference", logits_dtype=jnp.float32)
    lines = []
    for dtype, bound in ((jnp.float32, 1e-4), (jnp.bfloat16, 0.1)):
        for name in ATTENTION_IMPLEMENTATIONS:
            label = f"| {name} | {jnp.dtype(dtype).name} |"
            try:
                packed = states(dtype, name, tokens, segments)
            except ValueError as refusal:
                lines.append(f"{label} cannot run here: {refusal} | - |")
                continue
            alone = states(dtype, name, np.ascontiguousarray(tokens[:, cut:]), None)
            difference = float(np.abs(packed[:, cut:] - alone).max())
            loss_difference = abs(mean_loss(compute_dtype=dtype, attention=name) - exact)
            lines.append(f"{label} {difference:.1e} | {loss_difference:.1e} |")
            # jax's default product of float32 matrices on a GPU is of TensorFloat-32
            relaxed = bound if jax.default_backend() == "cpu" or dtype != jnp.float32 else 2e-2
            if difference > relaxed or loss_difference > 0.1 * relaxed:
                raise AssertionError(f"attention {name!r} in {jnp.dtype(dtype).name}: {lines[-1]} beyond {relaxed}")
    return lines


# -- the peers --------------------------------------------------------------------------------------------------------


def worker(size: str, case_name: str, peer: str) -> None:
    """Make ready and warm up; then for each line `n` of standard input run n steps. Answers are lines of JSON.

    The first is {"version", "memory_bytes"}, the others are [seconds of a step, seconds of it that the loader cost].
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case = SIZES[size][case_name]
    try:
        steps, stall_s, about = (torch_peer if peer in TORCH else marin_peer)(case, peer)
        steps(3)
    except (ValueError, RuntimeError) as refusal:  # it cannot run here, or memory does not suffice
        print(json.dumps({"refusal": str(refusal).partition("\n")[0]}), file=out, flush=True)
        return
    print(json.dumps(about()), file=out, flush=True)
    for line in sys.stdin:
        num_steps = int(line)
        began, stalled = time.perf_counter(), stall_s()
        steps(num_steps)
        cost = (time.perf_counter() - began) / num_steps, (stall_s() - stalled) / num_steps
        print(json.dumps(cost), file=out, flush=True)


def marin_peer(case: Case, peer: str) -> tuple[Any, Any, Any]:
    import jax

    from marin.training.callbacks import peak_memory_bytes

    loop = MarinLoop(case.model(), case.vocab, case.batch, compute_dtype="bfloat16", **MARIN[peer])
    about = lambda: {"version": f"jax {jax.__version__}", "memory_bytes": peak_memory_bytes()}  # noqa: E731
    return loop.run, lambda: loop.stall_s, about


def torch_peer(case: Case, peer: str) -> tuple[Any, Any, Any]:
    """GPT-2 as one writes it for speed: bfloat16 by autocast, fused AdamW, a vocabulary filled up to whole tiles."""
    import torch
    from torch import nn
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocab = -(-case.vocab // 128) * 128
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(case.hidden), nn.LayerNorm(case.hidden)
            self.qkv, self.out = nn.Linear(case.hidden, 3 * case.hidden), nn.Linear(case.hidden, case.hidden)
            self.up, self.down = nn.Linear(case.hidden, case.mlp), nn.Linear(case.mlp, case.hidden)

        def forward(self, x: Any) -> Any:
            rows, seq, _ = x.shape
            heads = self.qkv(self.norm1(x)).view(rows, seq, 3, case.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(rows, seq, case.hidden))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(vocab, case.hidden), nn.Embedding(case.seq, case.hidden)
            self.blocks = nn.Sequential(*(Block() for _ in range(case.layers)))
            self.norm = nn.LayerNorm(case.hidden)
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens: Any, targets: Any) -> Any:
            x = self.embed(tokens) + self.place.weight
            logits = functional.linear(self.norm(self.blocks(x)), self.embed.weight)
            return functional.cross_entropy(logits.view(-1, vocab), targets.view(-1))

    model = Gpt2().to(device)
    run = torch.compile(model) if TORCH[peer] else model
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, weight_decay=WEIGHT_DECAY, fused=True
    )
    tokens = torch.randint(0, case.vocab, (case.batch, case.seq + 1), device=device)

    def steps(num_steps: int) -> None:
        for _ in range(num_steps):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = run(tokens[:, :-1], tokens[:, 1:].contiguous())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()

    memory = torch.cuda.max_memory_allocated if device == "cuda" else lambda: 0
    return steps, lambda: 0.0, lambda: {"version": f"torch {torch.__version__}", "memory_bytes": memory()}


# -- the race ---------------------------------------------------------------------------------------------------------


def race(size: str, case_name: str, pythons: dict[str, str], rounds: int, steps: int) -> dict[str, Racer]:
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {**os.environ, SCRATCH: scratch, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        racers = {}
        for peer, python in pythons.items():
            command = [python, __file__, "--worker", size, case_name, peer]
            racers[peer] = stack.enter_context(started(command, environment))
        for turn in range(rounds):
            order = [racer for racer in racers.values() if "refusal" not in racer.start]
            first = turn % max(1, len(order))
            for racer in order[first:] + order[:first]:
                racer.run(steps)
    return racers


def speed(case: Case, racers: dict[str, Racer], peak: float | None) -> list[str]:
    full, causal = case.flops_per_token()
    lines = [
        f"## {case.title}",
        "",
        f"{case.model().num_params(case.vocab):,} parameters, vocabulary {case.vocab:,}, "
        f"{case.batch} x {case.seq} tokens a step.",
        f"MFLOP a token: {full / 1e6:.1f} (full), {causal / 1e6:.1f} (causal).",
        "",
        "| peer | tokens/s (quartiles) | ms a step | MFU full | MFU causal | loader stall | peak memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for peer, racer in racers.items():
        if "refusal" in racer.start:
            lines.append(f"| marin, {peer} | cannot run here: {racer.start['refusal']} | - | - | - | - | - |")
            continue
        times = [seconds for seconds, _ in racer.turns]
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        rate = case.batch * case.seq / np.array([middle, high, low])
        mfu = ["-" if peak is None else f"{rate[0] * flops / peak:.1%}" for flops in (full, causal)]
        stall = "-" if peer in TORCH else f"{sum(s for _, s in racer.turns) / sum(times):.2%}"
        memory, version = racer.start["memory_bytes"] / 2**30, racer.start["version"]
        lines.append(
            f"| {peer if peer in TORCH else f'marin, {peer}'} ({version}) | "
            f"{rate[0]:,.0f} ({rate[1]:,.0f} to {rate[2]:,.0f}) | {1e3 * middle:.1f} | {' | '.join(mfu)} | {stall} | "
            f"{memory:.1f} |"
        )
    return [*lines, ""]


def device() -> dict[str, Any]:
    """What JAX runs on, asked in another process: this one must not take the GPU's memory."""
    ask = (
        "import json, jax; from marin.training.flops import peak_flops_per_second as peak; d = jax.devices(); "
        "print(json.dumps({'kind': d[0].device_kind, 'platform': d[0].platform, 'count': len(d), 'peak': peak(d)}))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", nargs=3, metavar=("SIZE", "CASE", "PEER"), help=argparse.SUPPRESS)
    parser.add_argument("--numerics", nargs="+", metavar="SIZE CASE", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, tiny elsewhere")
    parser.add_argument("--cases", nargs="+", choices=SIZES["full"], default=list(SIZES["full"]))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--torch_python", default=sys.executable, help="the interpreter that has PyTorch, if any has")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps a turn")
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    if arguments.numerics:
        chosen, *names = arguments.numerics
        print("\n".join(line for name in names for line in numerics(SIZES[chosen][name])))
        return
    text = report(arguments)
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


def report(arguments: argparse.Namespace) -> str:
    found = device()
    size = arguments.size or ("full" if found["platform"] == "gpu" else "tiny")
    where = f"{found['count']} x {found['kind']} ({found['platform']})"
    lines = ["# Training on one GPU", "", f"Size {size}, on {where}; host: {cpu_model()}.", ""]
    if found["platform"] != "gpu":
        lines += ["**There is no GPU here.** The figures below show that this benchmark runs, and no speed.", ""]
    lines += [
        "## Numerics",
        "",
        "Two layers of each model. Largest difference of a state of a packed document from the same document alone,",
        "and of the mean loss (nats) from float32 by definition.",
        "",
        "| attention | compute dtype | packed against alone | loss |",
        "|---|---|---|---|",
    ]
    ask = [sys.executable, __file__, "--numerics", size, *arguments.cases]
    check = subprocess.run(ask, capture_output=True, text=True, check=False)
    if check.returncode:
        raise SystemExit(check.stderr)
    lines += [*check.stdout.splitlines(), ""]
    peers = [peer for peer in arguments.peers if peer in MARIN]
    if len(peers) < len(arguments.peers):
        if subprocess.run([arguments.torch_python, "-c", "import torch"], capture_output=True, check=False).returncode:
            lines += [f"No PyTorch in {Path(arguments.torch_python).name}, so it takes no part.", ""]
        else:
            peers = arguments.peers
    for name in arguments.cases:
        case = SIZES[size][name]
        pythons = {
            peer: arguments.torch_python if peer in TORCH else sys.executable
            for peer in peers
            if peer in MARIN or case.kind == "gpt2"
        }
        lines += speed(case, race(size, name, pythons, arguments.rounds, arguments.steps), found["peak"])
    lines += [f"Medians over {arguments.rounds} turns of {arguments.steps} steps.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
