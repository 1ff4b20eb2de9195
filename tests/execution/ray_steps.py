"""What the steps of test_on_ray.py do; apart from it, for workers import it by name."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from marin.cluster.resources import ResourceConfig
from marin.execution.executor import ExecutorStep, output_path_of, this_output_path
from marin.tracking.progress import report_progress


@dataclass(frozen=True)
class Config:
    folder: str  # where calls are counted and signals are exchanged
    name: str
    inputs: tuple = ()
    wait_for: str | None = None  # a file in `folder` without which the body does not end
    waiting_ranks: tuple[str, ...] = ("0", "1")  # the processes of the step that wait for it
    fail_times: int = 0  # calls that raise
    output_path: object = this_output_path()


def work(config: Config) -> dict[str, str]:
    """Counts its call, waits if told so, and writes its inputs' texts and its name."""
    rank = os.environ.get("MARIN_PROCESS_ID", "0")
    with open(f"{config.folder}/calls", "a") as file:
        file.write(f"{config.name}:{rank}\n")
    if rank == "0" and Path(config.folder, "calls").read_text().split().count(f"{config.name}:0") <= config.fail_times:
        raise ValueError("a bug")
    print(f"{config.name} is at work", flush=True)
    report_progress(1, 2, "halves")
    node = os.environ.get("RAY_NODE_ID", "")
    Path(config.folder, f"{config.name}.{rank}.started").write_text(f"{os.getpid()} {node}")
    while config.wait_for is not None and not Path(config.folder, config.wait_for).exists():
        if rank not in config.waiting_ranks:
            break
        time.sleep(0.05)
    text = "".join(Path(path, "out.txt").read_text() for path in config.inputs)
    if rank == "0":
        Path(config.output_path, "out.txt").write_text(text + config.name)
    return {"name": config.name}


def step(folder, name: str, *inputs: ExecutorStep, resources: ResourceConfig | None = None, **options) -> ExecutorStep:
    kept = {key: options.pop(key) for key in ("wait_for", "waiting_ranks", "fail_times") if key in options}
    config = Config(str(folder), name, tuple(output_path_of(i) for i in inputs), **kept)
    return ExecutorStep(
        name=name, fn="ray_steps:work", config=config, resources=resources or ResourceConfig.with_cpu(), **options
    )
