"""CPU cost of one training step: marin's own against a plain JAX loop and against PyTorch with torch.compile.

All three train the same small Llama on the same random tokens in float32 with AdamW. Each lives in a process of its
own, is warmed up (compiled) first, and then they take turns, a few steps each, so that whatever else the machine does
falls on all alike. The figures to read are the ratios; times are for this machine only.

- marin: the trainer's step with its features on: packed documents kept apart by segment, z-loss, clipping, decay mask,
  schedule, batches from the loader's thread over a token store, metrics fetched one step late and written as rows.
- plain: what one writes by hand in JAX: layers unrolled, whole attention matrix, logits of the whole batch,
  optax.adamw, one jit with donated state. No mask between documents, no clipping, no z-loss.
- torch: the same Llama in PyTorch, scaled_dot_product_attention, torch.compile, fused AdamW. No extras either.

    python benchmarks/bench_train_cpu.py                      all, writes benchmarks/results/train_cpu.md
    python benchmarks/bench_train_cpu.py --peers marin plain --rounds 3 --no_write
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

RESULT = Path(__file__).resolve().parent / "results" / "train_cpu.md"
LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY = 3e-4, 0.9, 0.95, 1e-8, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The model and batch that all peers train."""

    hidden: int = 256
    layers: int = 6
    heads: int = 8
    mlp: int = 688
    seq: int = 256
    vocab: int = 8192
    batch: int = 8
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0


SHAPE = Shape()
Step = Callable[[int], None]  # run that many steps, to the very end of the last
SCRATCH = "BENCH_TRAIN_SCRATCH"


def token_batches():
    """Endless (tokens, targets) int32 (batch, seq), the same for the peers that take plain batches."""
    rng = np.random.default_rng(0)
    while True:
        window = rng.integers(0, SHAPE.vocab, size=(SHAPE.batch, SHAPE.seq + 1), dtype=np.int32)
        yield np.ascontiguousarray(window[:, :-1]), np.ascontiguousarray(window[:, 1:])


def make_marin() -> Step:
    import jax

    from marin.data.config import LmDataConfig
    from marin.data.lm_data import open_data
    from marin.data.loader import DataLoader
    from marin.models.llama import LlamaConfig
    from marin.optim.adamw import AdamWConfig
    from marin.tracking.jsonl import JsonlTracker
    from marin.training.callbacks import LogMetrics, StepDone, device_batch
    from marin.training.state import init_state
    from marin.training.train_step import make_train_step

    folder = Path(tempfile.mkdtemp(dir=os.environ[SCRATCH]))
    write_random_store(folder / "store")
    model = LlamaConfig(
        seq_len=SHAPE.seq,
        hidden_dim=SHAPE.hidden,
        intermediate_dim=SHAPE.mlp,
        num_heads=SHAPE.heads,
        num_kv_heads=SHAPE.heads,
        num_layers=SHAPE.layers,
        layer_norm_epsilon=SHAPE.norm_epsilon,
    )
    optimizer = AdamWConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, beta1=BETA1, beta2=BETA2)
    params = jax.eval_shape(lambda: model.init(SHAPE.vocab, key=jax.random.key(0)))
    transformation = optimizer.transformation(model.weight_decay_mask(params))
    state = init_state(model, transformation, SHAPE.vocab, seed=0)
    train_step = make_train_step(model, transformation, max_grad_norm=1.0, z_loss_weight=1e-4)
    schedule = optimizer.schedule(100_000)
    data = open_data(LmDataConfig(train={"random": str(folder / "store")}, packing="best_fit"), SHAPE.seq)
    batches = DataLoader(data.train, SHAPE.batch).iterate(0)
    log = LogMetrics(
        metrics=JsonlTracker(folder / "metrics.jsonl"),
        timing=JsonlTracker(folder / "timing.jsonl"),
        num_tokens=lambda steps: steps * SHAPE.batch * SHAPE.seq,
        steps_per_log=1,
        flops_per_token=model.flops_per_token(SHAPE.vocab, SHAPE.seq),
        peak_flops_per_second=None,
        loader_stall_s=lambda: batches.stall_s,
        newest_checkpoint=lambda: None,
    )
    step_index = 0

    def steps(num_steps: int) -> None:
        nonlocal state, step_index
        for _ in range(num_steps):
            rate = schedule(step_index)
            state, metrics = train_step(state, device_batch(next(batches)), rate)
            step_index += 1
            log(StepDone(step=step_index, is_last=False, state=state, metrics=metrics, learning_rate=rate))
        log.drain()
        jax.block_until_ready(state)

    return steps


def write_random_store(path: Path) -> None:
    """A token store of 400 documents of 20 to 800 random tokens."""
    from marin.data.store import ShardWriter, write_ledger

    rng = np.random.default_rng(0)
    eos = SHAPE.vocab - 1
    shard = path / "shard-00000"
    shard.mkdir(parents=True)
    with ShardWriter(shard, name=shard.name, vocab_size=SHAPE.vocab, eos_id=eos) as writer:
        for number in range(400):
            tokens = rng.integers(0, eos, rng.integers(20, 800)).astype(np.int32)
            writer.add(tokens, document_id=str(number), source="random", num_bytes=4 * tokens.size)
        info = writer.close()
    write_ledger(
        path,
        [info],
        vocab_size=SHAPE.vocab,
        tokenizer_digest="0" * 64,
        eos_id=eos,
        bos_id=None,
        token_byte_lengths=np.full(SHAPE.vocab, 4, np.int32),
    )


def make_plain() -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    s = SHAPE
    head = s.hidden // s.heads

    def init(key):
        keys = iter(jax.random.split(key, 2 + 7 * s.layers))

        def normal(*shape):
            return 0.02 * jax.random.normal(next(keys), shape)

        layers = [
            {
                "norm1": jnp.ones(s.hidden),
                "q": normal(s.hidden, s.hidden),
                "k": normal(s.hidden, s.hidden),
                "v": normal(s.hidden, s.hidden),
                "o": normal(s.hidden, s.hidden),
                "norm2": jnp.ones(s.hidden),
                "gate": normal(s.hidden, s.mlp),
                "up": normal(s.hidden, s.mlp),
                "down": normal(s.mlp, s.hidden),
            }
            for _ in range(s.layers)
        ]
        return {
            "embed": normal(s.vocab, s.hidden),
            "layers": layers,
            "norm": jnp.ones(s.hidden),
            "unembed": normal(s.hidden, s.vocab),
        }

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + s.norm_epsilon) * scale

    frequencies = 1.0 / s.rope_theta ** (np.arange(0, head, 2) / head)
    angles = np.arange(s.seq)[:, None] * frequencies  # (T, H/2)
    cos, sin = (f(angles).astype(np.float32)[None, :, None] for f in (np.cos, np.sin))
    causal = np.tril(np.ones((s.seq, s.seq), bool))

    def rotate(x):  # (B, T, N, H)
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def loss_of(params, tokens, targets):
        x = params["embed"][tokens]
        for p in params["layers"]:
            h = norm(x, p["norm1"])
            q, k, v = ((h @ p[name]).reshape(s.batch, s.seq, s.heads, head) for name in "qkv")
            scores = jnp.einsum("bqnh,bknh->bnqk", rotate(q), rotate(k)) / np.sqrt(head).astype(np.float32)
            weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
            x = x + jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(s.batch, s.seq, s.hidden) @ p["o"]
            h = norm(x, p["norm2"])
            x = x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
        log_probs = jax.nn.log_softmax(norm(x, params["norm"]) @ params["unembed"])
        return -jnp.mean(jnp.take_along_axis(log_probs, targets[..., None], axis=-1))

    optimizer = optax.adamw(LEARNING_RATE, b1=BETA1, b2=BETA2, eps=EPSILON, weight_decay=WEIGHT_DECAY)

    def update(params, state, tokens, targets):
        loss, gradient = jax.value_and_grad(loss_of)(params, tokens, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    update = jax.jit(update, donate_argnums=(0, 1))
    params = jax.jit(init)(jax.random.key(0))
    state = jax.jit(optimizer.init)(params)
    batches = token_batches()

    def steps(num_steps: int) -> None:
        nonlocal params, state
        for _ in range(num_steps):
            params, state, loss = update(params, state, *next(batches))
            loss.block_until_ready()
        jax.block_until_ready(params)

    return steps


def make_torch() -> Step:
    import torch
    from torch import nn
    from torch.nn import functional

    s = SHAPE
    head = s.hidden // s.heads
    torch.manual_seed(0)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(layer.weight, std=0.02)
        return layer

    angles = np.arange(s.seq)[:, None] / s.rope_theta ** (np.arange(0, head, 2) / head)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = (nn.RMSNorm(s.hidden, eps=s.norm_epsilon) for _ in range(2))
            self.qkv = linear(s.hidden, 3 * s.hidden)
            self.out = linear(s.hidden, s.hidden)
            self.gate_up = linear(s.hidden, 2 * s.mlp)
            self.down = linear(s.mlp, s.hidden)

        def forward(self, x, cos, sin):
            qkv = self.qkv(self.norm1(x)).view(s.batch, s.seq, 3, s.heads, head).permute(2, 0, 3, 1, 4)
            first, second = qkv[:2].chunk(2, dim=-1)
            query, key = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
            mixed = functional.scaled_dot_product_attention(query, key, qkv[2], is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(s.batch, s.seq, s.hidden))
            gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
            return x + self.down(functional.silu(gate) * up)

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(s.vocab, s.hidden)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.blocks = nn.ModuleList(Block() for _ in range(s.layers))
            self.norm = nn.RMSNorm(s.hidden, eps=s.norm_epsilon)
            self.unembed = linear(s.hidden, s.vocab)
            self.register_buffer("cos", torch.tensor(np.cos(angles), dtype=torch.float32))
            self.register_buffer("sin", torch.tensor(np.sin(angles), dtype=torch.float32))

        def forward(self, tokens, targets):
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x, self.cos, self.sin)
            logits = self.unembed(self.norm(x))
            return functional.cross_entropy(logits.view(-1, s.vocab), targets.view(-1))

    model = Llama()
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, weight_decay=WEIGHT_DECAY, fused=True
    )
    compiled = torch.compile(model)
    batches = token_batches()

    def steps(num_steps: int) -> None:
        for _ in range(num_steps):
            tokens, targets = (torch.from_numpy(a).long() for a in next(batches))
            loss = compiled(tokens, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return steps


PEERS = {"marin": make_marin, "plain": make_plain, "torch": make_torch}


def worker(peer: str) -> None:
    """Warm up, then for each line `n` of standard input run n steps and print the mean cost of one, as JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    began, began_cpu = time.perf_counter(), _cpu_s()
    steps = PEERS[peer]()
    steps(1)
    first = {"first_wall_s": time.perf_counter() - began, "first_cpu_s": _cpu_s() - began_cpu}
    steps(4)
    print(json.dumps(first), file=out, flush=True)
    for line in sys.stdin:
        num_steps = int(line)
        wall, cpu = time.perf_counter(), _cpu_s()
        steps(num_steps)
        cost = ((time.perf_counter() - wall) / num_steps, (_cpu_s() - cpu) / num_steps)
        print(json.dumps(cost), file=out, flush=True)


def _cpu_s() -> float:
    """CPU seconds of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(peers: list[str], rounds: int, steps: int) -> dict[str, dict]:
    """Per peer: (wall, cpu) seconds of a step in each round, and what its start cost."""
    processes = {}
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": scratch, SCRATCH: scratch}
        try:
            for peer in peers:
                processes[peer] = subprocess.Popen(
                    [sys.executable, __file__, "--worker", peer],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
                found[peer] = {**_answer(peer, processes[peer]), "rounds": []}
            for turn in range(rounds):
                for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                    processes[peer].stdin.write(f"{steps}\n")
                    processes[peer].stdin.flush()
                    found[peer]["rounds"].append(_answer(peer, processes[peer]))
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()
    return found


def _answer(peer: str, process: subprocess.Popen):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"peer '{peer}' ended with code {process.wait()}; its message stands above")
    return json.loads(line)


def report(found: dict[str, dict], rounds: int, steps: int) -> str:
    """The results as Markdown."""
    base = "plain" if "plain" in found else next(iter(found))
    lines = [
        "# One training step on CPU",
        "",
        f"Medians over {rounds} rounds in turns of {steps} steps. CPU time is of all threads. A ratio is the median",
        f"over the rounds of the cost beside that of '{base}' in the same round; in brackets the quartiles.",
        "What each peer is: the first lines of `benchmarks/bench_train_cpu.py`.",
        "",
        "| peer | CPU ms a step | wall ms a step | CPU ratio | wall ratio | first step, wall s | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for peer, costs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*costs["rounds"], strict=True))
        pairs = list(zip(costs["rounds"], found[base]["rounds"], strict=True))
        wall_ratio, cpu_ratio = (_spread([own[i] / other[i] for own, other in pairs]) for i in (0, 1))
        lines.append(
            f"| {peer} | {1e3 * cpu:.0f} | {1e3 * wall:.0f} | {cpu_ratio} | {wall_ratio} | "
            f"{costs['first_wall_s']:.1f} | {costs['first_cpu_s']:.1f} |"
        )
    shape = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(SHAPE).items())
    versions = ", ".join(f"{name} {_version(name)}" for name in ("jax", "optax", "numpy", "torch"))
    lines += [
        "",
        f"Shape: {shape}; float32, AdamW.",
        f"Machine: {_cpu_model()}, {len(os.sched_getaffinity(0))} cores.",
        f"Load average at the end: {os.getloadavg()[1]:.1f}; more than the cores is a machine with other work.",
        f"Python {platform.python_version()}, {versions}.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=PEERS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5, help="steps a round")
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    text = report(measure(arguments.peers, arguments.rounds, arguments.steps), arguments.rounds, arguments.steps)
    print(text)
    if not arguments.no_write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
