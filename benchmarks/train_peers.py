"""The peers of `bench_train_cpu.py`: the same small Llama in marin, in a plain JAX loop, in PyTorch and in Levanter.

Each is a function that makes everything ready and returns one that runs so many steps, to the very end of the last. A
process of its own runs each, under the interpreter that has its packages, so this file imports nothing but numpy until
a peer is chosen. Run as a script it is that process: `worker` says how it is spoken to.
"""

import dataclasses
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

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
    """The trainer's own loop: prefetching loader, packed documents, clipping, z-loss, schedule, rows of metrics."""
    from marin.models.llama import LlamaConfig

    model = LlamaConfig(
        seq_len=SHAPE.seq,
        hidden_dim=SHAPE.hidden,
        intermediate_dim=SHAPE.mlp,
        num_heads=SHAPE.heads,
        num_kv_heads=SHAPE.heads,
        num_layers=SHAPE.layers,
        layer_norm_epsilon=SHAPE.norm_epsilon,
    )
    return MarinLoop(model, SHAPE.vocab, SHAPE.batch).run


class MarinLoop:
    """A training run of marin in memory, which goes on as many steps as it is told to."""

    stall_s = property(lambda self: self._batches.stall_s)

    def __init__(self, model: Any, vocab: int, batch: int, *, has_segments: bool = True, **step_options: Any):
        import jax

        from marin.data.config import LmDataConfig
        from marin.data.lm_data import open_data
        from marin.data.loader import DataLoader
        from marin.optim.adamw import AdamWConfig
        from marin.tracking.jsonl import JsonlTracker
        from marin.training.callbacks import LogMetrics, device_batch
        from marin.training.state import init_state
        from marin.training.train_step import make_train_step

        folder = Path(tempfile.mkdtemp(dir=os.environ[SCRATCH]))
        write_random_store(folder / "store", vocab)
        optimizer = AdamWConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, beta1=BETA1, beta2=BETA2)
        params = jax.eval_shape(lambda: model.init(vocab, key=jax.random.key(0)))
        transformation = optimizer.transformation(model.weight_decay_mask(params))
        packing = "best_fit" if has_segments else "concatenate"
        data = open_data(LmDataConfig(train={"random": str(folder / "store")}, packing=packing), model.seq_len)
        self._batches = DataLoader(data.train, batch).iterate(0)
        self._log = LogMetrics(
            metrics=JsonlTracker(folder / "metrics.jsonl"),
            timing=JsonlTracker(folder / "timing.jsonl"),
            num_tokens=lambda steps: steps * batch * model.seq_len,
            steps_per_log=1,
            flops_per_token=model.flops_per_token(vocab, model.seq_len),
            peak_flops_per_second=None,
            loader_stall_s=lambda: self._batches.stall_s,
            newest_checkpoint=lambda: None,
        )
        self._train_step = make_train_step(model, transformation, max_grad_norm=1.0, z_loss_weight=1e-4, **step_options)
        self._schedule = optimizer.schedule(100_000)
        self._state, self._step = init_state(model, transformation, vocab, seed=0), 0

        def place(step: int, batch: Any) -> Any:
            placed = device_batch(batch)
            return placed if has_segments else placed._replace(segment_ids=None)

        self._place = place

    def run(self, num_steps: int) -> None:
        import jax

        from marin.distributed.processes import Vote
        from marin.training.trainer import train

        train(
            self._state,
            self._train_step,
            self._batches,
            schedule=self._schedule,
            start_step=self._step,
            num_train_steps=self._step + num_steps,
            callbacks=(self._log, self._keep),
            save=lambda step, state: None,
            finish=lambda: None,
            place=self._place,
            must_leave=Vote(None),
        )
        self._log.drain()
        jax.block_until_ready(self._state)

    def _keep(self, done: Any) -> None:
        self._state, self._step = done.state, done.step


def write_random_store(path: Path, vocab: int) -> None:
    """A token store of 4,000 documents of 20 to 800 random tokens."""
    from marin.data.store_writer import ShardWriter, write_ledger

    rng = np.random.default_rng(0)
    eos = vocab - 1
    shard = path / "shard-00000"
    shard.mkdir(parents=True)
    with ShardWriter(shard, name=shard.name, vocab_size=vocab, eos_id=eos) as writer:
        for number in range(4000):
            tokens = rng.integers(0, eos, rng.integers(20, 800)).astype(np.int32)
            writer.add(tokens, document_id=str(number), source="random", num_bytes=4 * tokens.size)
        info = writer.close()
    write_ledger(
        path,
        [info],
        vocab_size=vocab,
        tokenizer_digest="0" * 64,
        eos_id=eos,
        bos_id=None,
        token_byte_lengths=np.full(vocab, 4, np.int32),
    )


def make_plain() -> Step:
    """What one writes by hand: layers unrolled, the whole attention matrix, logits of the whole batch, one jit."""
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


def make_torch_compile() -> Step:
    import torch

    return make_torch(torch.compile)


def make_torch(prepare: Callable[[Any], Any] = lambda model: model) -> Step:
    """Query, key and value in one matrix, gate and up too, scaled_dot_product_attention, fused AdamW."""
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
    prepared = prepare(model)
    batches = token_batches()

    def steps(num_steps: int) -> None:
        for _ in range(num_steps):
            tokens, targets = (torch.from_numpy(a).long() for a in next(batches))
            loss = prepared(tokens, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return steps


def make_levanter() -> Step:
    """Levanter's trainer with what is fastest here: layers unrolled, nothing computed twice; no segments, no z-loss."""
    import haliax
    import jax
    from levanter.models.llama import LlamaConfig
    from levanter.models.lm_model import LmExample
    from levanter.optim.config import AdamConfig
    from levanter.tracker import NoopConfig
    from levanter.trainer import Trainer, TrainerConfig

    config = LlamaConfig(
        max_seq_len=SHAPE.seq,
        hidden_dim=SHAPE.hidden,
        intermediate_dim=SHAPE.mlp,
        num_layers=SHAPE.layers,
        num_heads=SHAPE.heads,
        num_kv_heads=SHAPE.heads,
        layer_norm_epsilon=SHAPE.norm_epsilon,
        gradient_checkpointing=False,
        scan_layers=False,
    )
    optimizer = AdamConfig(
        learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, beta1=BETA1, beta2=BETA2, epsilon=EPSILON
    )
    trainer_config = TrainerConfig(
        train_batch_size=SHAPE.batch,
        num_train_steps=100_000,
        tracker=NoopConfig(),
        require_accelerator=False,
        log_dir=Path(os.environ[SCRATCH]) / "levanter",
        log_jaxprs=False,
        log_xla_hlo=False,
    )
    trainer_config.initialize()
    trainer = Trainer(
        trainer_config,
        optimizer.build(trainer_config.num_train_steps),
        lambda model, example, *, key=None: model.compute_next_token_loss(example, key=key),
    )
    trainer.__enter__()  # for as long as the process lives
    vocabulary = haliax.Axis("vocab", SHAPE.vocab)
    key = jax.random.PRNGKey(0)
    state = trainer.initial_state(key, model_init=lambda: config.build(vocabulary, key=key))
    rows = haliax.Axis(trainer_config.batch_axis_name, SHAPE.batch)
    example_of = haliax.vmap(LmExample.causal, rows)
    batches = token_batches()

    def steps(num_steps: int) -> None:
        nonlocal state
        for _ in range(num_steps):
            tokens = haliax.named(next(batches)[0], (rows, config.max_Pos))
            state = trainer.train_step(state, example_of(tokens)).state
        jax.block_until_ready(state)

    return steps


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who takes part."""

    make: Callable[[], Step]
    package: str
    """Whose version the report tells."""
    imports: tuple[str, ...]
    """Modules that are loaded before anything is made."""


PEERS = {
    "marin": Peer(make_marin, "jax", ("marin.training.train_lm",)),
    "plain": Peer(make_plain, "jax", ("jax", "optax")),
    "torch": Peer(make_torch, "torch", ("torch",)),
    "torch_compile": Peer(make_torch_compile, "torch", ("torch",)),
    "levanter": Peer(make_levanter, "marin-levanter", ("levanter.main.train_lm",)),
}


def worker(name: str, warm_up: int = 4) -> None:
    """Load, make ready, run the first step and `warm_up` more; then n steps for each line `n` of standard input.

    Answers are lines of JSON. The first tells what the start cost, import and the rest until the first step was done,
    each as [wall, CPU] seconds; the others the same pair for a mean step. CPU time is of all threads.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    peer = PEERS[name]
    loading = Stopwatch()
    for module in peer.imports:
        importlib.import_module(module)
    loaded = loading.read()
    first = Stopwatch()
    steps = peer.make()
    steps(1)
    start = {"version": metadata.version(peer.package), "import": loaded, "first_step": first.read()}
    steps(warm_up)
    answer(start)
    for line in sys.stdin:
        num_steps = int(line)
        turn = Stopwatch()
        steps(num_steps)
        answer([seconds / num_steps for seconds in turn.read()])


class Stopwatch:
    """Wall and CPU seconds since it was made; CPU of all threads of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_s()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, _cpu_s() - self._cpu


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    worker(sys.argv[1], *map(int, sys.argv[2:]))
