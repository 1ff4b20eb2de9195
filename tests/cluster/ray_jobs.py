"""What the jobs of test_ray_cluster.py do; apart from it, for importing the tests would cost each job a second."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from marin.cluster.current import stop_event


@dataclass(frozen=True)
class Answer:
    number: int
    path: Path


def add(a: int, b: int = 1) -> Answer:
    return Answer(a + b, Path("x"))


def fail(message: str) -> None:
    raise KeyError(message)


def talk() -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr, flush=True)
    os.system("echo from a child")


def read_variable(name: str) -> str | None:
    return os.environ.get(name)


def sleep_in(folder: str, name: str = "ready", seconds: float = 120.0) -> None:
    unfinished = Path(folder, f".{name}")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(Path(folder, name))
    time.sleep(seconds)


def shrug_at_sigterm(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_in(folder)


def stop_when_asked(folder: str) -> str:
    Path(folder, "ready").touch()
    assert stop_event().wait(60), "nobody asked"
    return "stopped"


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def meet(folder: str) -> dict[str, str]:
    """Comes back only when all processes of the gang are here at the same time; what tells each its place."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("MARIN_", "MEGASCALE_"))}
    me, number = variables["MARIN_PROCESS_ID"], int(variables["MARIN_NUM_PROCESSES"])
    Path(folder, f"here-{me}").touch()
    deadline = time.monotonic() + 30
    while len(list(Path(folder).glob("here-*"))) < number:
        assert time.monotonic() < deadline, "alone"
        time.sleep(0.02)
    print(f"process {me} of {number}", flush=True)
    return variables


def meet_and_tell_where(folder: str) -> dict[str, str]:
    """For a job in Ray's own process."""
    import ray

    variables = meet(folder)
    node = ray.get_runtime_context().get_node_id()
    Path(folder, f"node-{variables['MARIN_PROCESS_ID']}").write_text(node)
    return variables


def fail_in_process(number: str, folder: str) -> None:
    meet(folder)
    if os.environ["MARIN_PROCESS_ID"] == number:
        raise ValueError("a planned failure")
    time.sleep(60)


def sleep_as_member(folder: str) -> None:
    sleep_in(folder, f"member-{os.environ['MARIN_PROCESS_ID']}")
