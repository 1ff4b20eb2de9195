"""Programs of models end, and do no harm outside; what they did is told."""

import itertools
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.evaluation.code_execution import (
    ISOLATION,
    ExecutionLimits,
    IsolationError,
    check_allowed,
    pass_at_k,
    run_program,
)


def has_namespaces() -> bool:
    try:
        return run_program("pass").passed
    except IsolationError:
        return False


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="the kernel lets this user make no namespaces")
NO_NAMESPACES = ExecutionLimits(timeout_s=20, required_isolation=())
LIMITS = ExecutionLimits(timeout_s=20) if has_namespaces() else NO_NAMESPACES


def limits(**changes):
    return ExecutionLimits(**{"timeout_s": 20, "required_isolation": LIMITS.required_isolation} | changes)


def test_a_program_that_runs_to_its_end_passes():
    result = run_program("import math\nprint(math.comb(5, 2))\nassert math.comb(5, 2) == 10", LIMITS)
    assert (result.passed, result.reason, result.stdout) == (True, "passed", "10\n")
    assert set(LIMITS.required_isolation) <= set(result.isolation)


def test_a_program_that_closes_its_output_passes():
    assert run_program("import sys\nprint('done')\nsys.stdout.close()", LIMITS).reason == "passed"


def test_the_processor_limit_comes_with_its_own_signal_before_the_kill():
    source = "import resource\nprint(*resource.getrlimit(resource.RLIMIT_CPU))"
    soft, hard = run_program(source, limits(timeout_s=20)).stdout.split()
    assert (int(soft), int(hard)) == (21, 22)  # equal ones would be SIGKILL alone, and no timeout


@pytest.mark.parametrize(
    ("source", "reason", "detail"),
    [
        ("assert 1 + 1 == 3, 'wrong sum'", "failed", "AssertionError: wrong sum"),
        ("def f(:", "failed", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\nassert False", "exited", "left with exit code 0 before its end"),
        ("import os\nos._exit(0)", "exited", "left with exit code 0 before its end"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\nimport ctypes\nctypes.string_at(0)",
            "killed",
            "SIG",
        ),
        *((f"import os\nos._exit({code})", "exited", f"left with exit code {code} before") for code in (129, 137, 200)),
        ("import sys\nsys.exit(-1)", "exited", "left with exit code 255 before its end"),
        ("x = bytearray(10**10)", "memory", "wanted more than 536870912 bytes"),
        ("input()", "failed", "EOFError: EOF when reading a line"),
    ],
)
def test_how_a_program_ended_is_told(source, reason, detail):
    result = run_program(source, LIMITS)
    assert (result.passed, result.reason) == (False, reason)
    assert detail in result.detail


def test_an_infinite_loop_is_stopped():
    for source in ("while True: pass", "import time\ntime.sleep(1000)"):
        started = time.monotonic()
        result = run_program(source, limits(timeout_s=1.0))
        assert result.reason == "timeout" and "after 1 s" in result.detail
        assert time.monotonic() - started < 15


def test_huge_output_is_cut_and_ends_the_program():
    result = run_program("while True: print('x' * 1000)", limits(output_bytes=5000))
    assert result.reason == "output" and len(result.stdout) == 5000


def test_a_file_has_a_limit():
    result = run_program("with open('large', 'wb') as f:\n    f.write(bytes(10**6))", limits(file_bytes=10_000))
    assert result.reason == "failed" and "File too large" in result.detail


def test_a_hog_that_grows_slowly_is_stopped():
    result = run_program("kept = []\nwhile True: kept.append(bytearray(10**7))", LIMITS)
    assert result.reason == "memory"


@needs_namespaces
def test_a_fork_bomb_is_bounded_and_dies():
    marker = f"marin-bomb-{os.getpid()}"
    bomb = f"""
import os, sys, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            os.execv(sys.executable, [sys.executable, "-I", "-c", "import time; time.sleep(600)", "{marker}"])
    except OSError:
        print("no more", flush=True)
        time.sleep(600)
"""
    result = run_program(bomb, limits(timeout_s=3.0, num_processes=8))
    assert result.reason == "timeout" and "no more" in result.stdout
    time.sleep(0.2)
    alive = [p for p in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in _read(p)]
    assert alive == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@needs_namespaces
def test_there_is_no_network_not_even_to_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()  # from here it can be reached
        result = run_program(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)", LIMITS)
    assert result.reason == "failed" and result.detail.startswith("OSError: [Errno 101] Network is unreachable")


def test_without_namespaces_socket_cannot_be_imported_and_the_result_says_what_was_had():
    result = run_program("import socket", NO_NAMESPACES)
    if "network" in result.isolation:
        assert result.passed
    else:
        assert result.reason == "failed" and "ModuleNotFoundError" in result.detail


@needs_namespaces
def test_a_program_writes_in_its_folder_alone(tmp_path):
    tmp_path.chmod(0o777)
    outside = tmp_path / "outside"
    inside = run_program("open('inside', 'w').write('x')\nassert open('inside').read() == 'x'", LIMITS)
    assert inside.passed
    for target in (outside, Path("/tmp/marin-outside"), Path("/dev/shm/marin-outside")):
        result = run_program(f"open({str(target)!r}, 'w').write('x')", LIMITS)
        assert result.reason == "failed" and not target.exists()
        assert any(word in result.detail for word in ("Read-only", "Permission denied", "No such file")), result.detail


@needs_namespaces
@pytest.mark.parametrize("place", ["/tmp", "/run", "/dev/shm", "~"])
def test_a_socket_on_disk_cannot_be_reached(place):
    folder = Path(place).expanduser()
    if not os.access(folder, os.W_OK):
        pytest.skip(f"no socket can be made in {folder} by this user")
    with tempfile.TemporaryDirectory(dir=folder) as made, socket.socket(socket.AF_UNIX) as server:
        Path(made).chmod(0o755)
        path = f"{made}/socket"
        server.bind(path)
        server.listen()
        Path(path).chmod(0o777)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)  # from here it can be reached
        program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})"
        result = run_program(program, LIMITS)
    assert (result.reason, result.detail) == ("failed", "FileNotFoundError: [Errno 2] No such file or directory")


def test_nothing_of_the_environment_or_the_folder_stays(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    result = run_program(
        "import os\nassert 'SECRET' not in os.environ\nopen('left', 'w').close()\nprint(os.getcwd())", LIMITS
    )
    assert result.passed, result.stderr
    assert not Path(result.stdout.strip()).exists()


def test_isolation_that_cannot_be_had_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="names \\['sound'\\]; there are network, processes, files"):
        ExecutionLimits(required_isolation=("sound",))
    assert ISOLATION == ("network", "processes", "files")


def test_code_runs_only_for_tasks_asked_for_by_name():
    check_allowed("humaneval", ["humaneval"])
    with pytest.raises(ValueError, match="task 'humaneval' runs programs that the model wrote, which is off"):
        check_allowed("humaneval", [])


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_all_draws_with_a_correct_one(num_samples, data):
    num_correct = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    draws = list(itertools.combinations([True] * num_correct + [False] * (num_samples - num_correct), k))
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_wants_enough_samples():
    with pytest.raises(ValueError, match="pass@5 of 1 correct among 3 samples"):
        pass_at_k(3, 1, 5)


@needs_namespaces
def test_many_small_files_do_not_fill_the_disk():
    source = "for n in range(40):\n    open(str(n), 'wb').write(bytes(2**20))"
    result = run_program(source)
    assert (result.reason, "No space left on device" in result.detail) == ("failed", True)
    assert run_program(source.replace("40", "10")).passed
