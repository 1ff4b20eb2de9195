"""How long does a checkpoint keep the training loop, and how fast is it written and read?

A state of some hundred megabytes in arrays of the shapes of a small Llama (stacked layers, with both moments of AdamW)
is saved by turns in each way, and read back. A step that multiplies matrices on all cores runs meanwhile, as training
would; it takes the state's memory and gives it back, as the training step does.

    marin       the copy is made while the loop waits, the rest is written by a thread (`CheckpointWriter`)
    marin, waiting   the same, but the loop waits for all of it
    zarr        TensorStore, an array each, chunks of 64 MB, uncompressed; no hashes
    orbax       its StandardCheckpointer, which writes in the background too; no hashes of ours

`blocked` is the time that the loop is kept by one save. `done` is the time until the files are whole and flushed to the
disk, from which the MB/s are. `steps` is how much longer a step takes while the files are written. `memory` is the most
that the process took beyond what it had before, in copies of the state. Reading is from a page cache that was dropped,
as far as the system lets one process do that, and puts the arrays on the device.

    python benchmarks/bench_checkpoint.py                    writes benchmarks/results/checkpoint.md
    python benchmarks/bench_checkpoint.py --no_write --megabytes 100 --peers marin

A peer that is not installed is left out.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marin.checkpoint import format as checkpoint
from marin.checkpoint.format import CheckpointWriter

RESULT = Path(__file__).resolve().parent / "results" / "checkpoint.md"
LAYERS, RATIO = 8, 2.75  # of a Llama whose width follows from the size asked for
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Saved(NamedTuple):
    """One save."""

    blocked_s: float
    done_s: float
    step_s: float | None  # of the steps while it was written; None where none was
    memory_bytes: int


class Peer(NamedTuple):
    """A way to save: `save(folder, state)` returns when the loop may go on, with what waits for the rest."""

    name: str
    save: Callable[[Path, Any], Callable[[], None]]
    load: Callable[[Path, Any], Any]


def make_state(megabytes: int) -> dict[str, dict[str, jax.Array]]:
    """Parameters and two moments, float32, of about so many megabytes together."""
    vocab = 32_000
    width = 32
    while _num_bytes(vocab, width + 32) <= megabytes * 1e6:
        width += 32
    shapes = _shapes(vocab, width)
    rng = np.random.default_rng(0)
    return {
        part: {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
        for part in ("params", "mu", "nu")
    }


def _shapes(vocab: int, width: int) -> dict[str, tuple[int, ...]]:
    mlp = int(width * RATIO)
    return {
        "embedding": (vocab, width),
        "unembedding": (width, vocab),
        "final_norm": (width,),
        "wqkv": (LAYERS, width, 3 * width),
        "wo": (LAYERS, width, width),
        "gate_up": (LAYERS, width, 2 * mlp),
        "down": (LAYERS, mlp, width),
        "norms": (LAYERS, 2, width),
    }


def _num_bytes(vocab: int, width: int) -> int:
    return 3 * 4 * sum(int(np.prod(shape)) for shape in _shapes(vocab, width).values())


# -- the ways to save -------------------------------------------------------------------------------------------------


def marin_save(folder: Path, state: Any) -> Callable[[], None]:
    writer = CheckpointWriter(folder)
    writer.save(1, state)
    return writer.wait


def marin_save_waiting(folder: Path, state: Any) -> Callable[[], None]:
    checkpoint.save(folder, 1, state)
    return lambda: None


def marin_load(folder: Path, like: Any) -> Any:
    return checkpoint.load(folder / "step-00000001", like, prefix="")


def zarr_save(folder: Path, state: Any) -> Callable[[], None]:
    """As the thread of a loop that must go on would: a copy first."""
    copies = {name: np.array(leaf) for name, leaf in checkpoint.named_leaves(state).items()}
    writes = [_zarr_write(folder / name, array) for name, array in copies.items()]

    def wait() -> None:
        for write in writes:
            write.result()

    return wait


def _zarr_write(path: Path, array: np.ndarray) -> Any:
    import tensorstore as ts

    rows = max(1, min(array.shape[0], 64 * 2**20 // (array.nbytes // array.shape[0])))
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": {
            "shape": list(array.shape),
            "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *array.shape[1:]]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        },
    }
    return ts.open(spec, create=True).result().write(array)


def zarr_load(folder: Path, like: Any) -> Any:
    import tensorstore as ts

    def read(name: str) -> Any:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / name}/"}}
        return ts.open(spec, open=True).result().read()

    reads = [read(name) for name in checkpoint.named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(read.result()) for read in reads])


def orbax_save(folder: Path, state: Any) -> Callable[[], None]:
    import orbax.checkpoint as ocp

    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(folder / "orbax", state)
    return checkpointer.wait_until_finished


def orbax_load(folder: Path, like: Any) -> Any:
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer().restore(folder / "orbax", like)


PEERS = {
    "marin": Peer("marin", marin_save, marin_load),
    "marin_waiting": Peer("marin, waiting", marin_save_waiting, marin_load),
    "zarr": Peer("zarr", zarr_save, zarr_load),
    "orbax": Peer("orbax", orbax_save, orbax_load),
}
NEEDS = {"zarr": "tensorstore", "orbax": "orbax"}


# -- measuring --------------------------------------------------------------------------------------------------------


def measure(peer: Peer, folder: Path, state: Any, step: Callable[[Any], Any]) -> tuple[Saved, Any]:
    """One save beside the step; the state after it."""
    with _most_memory() as memory:
        began = time.perf_counter()
        wait = peer.save(folder, state)
        blocked_s = time.perf_counter() - began
        is_done = threading.Event()
        finished: list[float] = []

        def finish() -> None:
            wait()
            _flush(folder)
            finished.append(time.perf_counter() - began)
            is_done.set()

        thread = threading.Thread(target=finish)
        thread.start()
        times = []
        while not is_done.is_set():
            start = time.perf_counter()
            state = jax.block_until_ready(step(state))
            times.append(time.perf_counter() - start)
        thread.join()
    # the last step ran on when the files were done
    step_s = statistics.mean(times[:-1]) if len(times) > 1 else None
    return Saved(blocked_s, finished[0], step_s, memory[0]), state


def _flush(folder: Path) -> None:
    """All files to the disk, for who has not done that already."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


@contextlib.contextmanager
def _most_memory() -> Iterator[list[int]]:
    """The most that this process's memory grew inside, in bytes, as the first element afterwards."""
    before, most = _resident(), [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            most[0] = max(most[0], _resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    yield most
    stop.set()
    thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def make_step(state: Any) -> Callable[[Any], Any]:
    """Some products of matrices, and an update in place."""

    def step(state: Any) -> Any:
        weights = state["params"]["wo"]
        product = jax.lax.fori_loop(0, 4, lambda _, x: jnp.tanh(x @ weights[0]), weights[0])
        return jax.tree.map(lambda x: x + 1e-12 * product[0, 0], state)

    compiled = jax.jit(step, donate_argnums=0)
    jax.block_until_ready(compiled(jax.tree.map(jnp.copy, state)))
    return compiled


def report(names: list[str], megabytes: int, rounds: int, folder: Path) -> str:
    state = make_state(megabytes)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = make_step(state)
    saves: dict[str, list[Saved]] = {name: [] for name in names}
    reads: dict[str, list[float]] = {name: [] for name in names}
    quiet: list[float] = []
    for number in range(rounds + 1):  # the first one warms up
        for name in names:
            for _ in range(5):
                start = time.perf_counter()
                state = jax.block_until_ready(step(state))
                quiet.append(time.perf_counter() - start)
            place = folder / f"{name}-{number}"
            place.mkdir()
            saved, state = measure(PEERS[name], place, state, step)
            _drop_from_cache(place)
            start = time.perf_counter()
            jax.block_until_ready(PEERS[name].load(place, shapes))
            read_s = time.perf_counter() - start
            if number:
                saves[name].append(saved)
                reads[name].append(read_s)
            shutil.rmtree(place)
    step_s = statistics.median(quiet)
    lines = []
    for name in names:
        slower = [save.step_s / step_s for save in saves[name] if save.step_s is not None]
        lines.append(
            f"| {PEERS[name].name} | {_middle([1e3 * save.blocked_s for save in saves[name]], '.0f')} "
            f"| {_middle([save.done_s for save in saves[name]], '.2f')} "
            f"| {_middle([num_bytes / 1e6 / save.done_s for save in saves[name]], '.0f')} "
            f"| {_middle(slower, '.2f') if slower else '-'} "
            f"| {_middle([save.memory_bytes / num_bytes for save in saves[name]], '.2f')} "
            f"| {_middle([num_bytes / 1e6 / read_s for read_s in reads[name]], '.0f')} |"
        )
    return "\n".join(
        [
            f"## A state of {num_bytes / 1e6:,.0f} MB in {len(jax.tree.leaves(state))} arrays",
            "",
            f"Median of {rounds} rounds, by turns (least to most). A step takes {1e3 * step_s:.0f} ms when nothing is "
            "written.",
            "",
            "| | blocked, ms | done, s | write, MB/s | steps, ratio | memory, copies | read, MB/s |",
            "|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _middle(values: list[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def machine() -> str:
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    packages = ("jax", "numpy", "tensorstore", "orbax-checkpoint")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages if _is_installed(name)]
    return (
        f"Machine: {model}, {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f} at the end.\n"
        f"Python {platform.python_version()}, {', '.join(versions)}.\n"
    )


def _is_installed(distribution: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(distribution)
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure; else one for temporary files")
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    names = [name for name in arguments.peers if importlib.util.find_spec(NEEDS.get(name, "jax")) is not None]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        parts = [report(names, size, arguments.rounds, Path(folder)) for size in arguments.megabytes]
    about = "What is measured and how: the first lines of `benchmarks/bench_checkpoint.py`."
    text = "\n".join(["# Checkpoints", "", about, "", *parts, machine()])
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
