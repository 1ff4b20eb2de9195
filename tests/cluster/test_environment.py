"""Environments of their own for steps: what is installed, what a job then sees, and that each is built once."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import venv
import zipfile
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from marin.cluster import Entrypoint, JobRequest
from marin.cluster.environment import (
    InstallError,
    find_project,
    installed_packages,
    prepare_environment,
    requirements_of,
)
from marin.cluster.local import InProcessCluster, LocalCluster
from wheels import offline_wheels, write_wheel

SITE = next(path for path in map(Path, sys.path) if path.name == "site-packages")  # has pip, for the runners below


@pytest.fixture(autouse=True)
def wheels(tmp_path, monkeypatch) -> Path:
    return offline_wheels(tmp_path, monkeypatch)


@pytest.fixture(params=["uv", "pip"])
def installer(request, monkeypatch) -> str:
    monkeypatch.setenv("MARIN_INSTALLER", request.param)
    return request.param


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "My.Project"\nversion = "1"\n'
        "[project.optional-dependencies]\n"
        'eval = ["tinypkg >= 1"]\n'
        'all = ["my-project[eval, Dev_Tools]"]\n'
        "[dependency-groups]\n"
        'dev-tools = ["tinydep", {include-group = "eval"}]\n'
        'left = [{include-group = "right"}]\n'
        'right = [{include-group = "left"}]\n'
        'broken = [{include-group = "evla"}]\n'
    )
    return folder


def environments(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache/environments").glob("*-*") if p.is_dir())


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_an_extra_or_a_dependency_group(project):
    assert requirements_of(["eval"], project=project) == ("tinypkg >= 1",)
    assert requirements_of(["dev_tools"], project=project) == ("tinydep", "tinypkg >= 1")


def test_the_projects_own_extras_inside_an_extra_are_those_extras(project):
    assert requirements_of(["all"], project=project) == ("tinypkg >= 1", "tinydep")


def test_a_requirement_stands_for_itself_with_or_without_a_project(project):
    wanted = ["lm-eval==0.4.13", "tinypkg[fast]", "x @ file:///x", "y>=1; python_version>'3'"]
    assert requirements_of(wanted, project=None) == tuple(wanted)
    assert requirements_of(["eval", "tinypkg >= 1"], project=project) == ("tinypkg >= 1",)


@pytest.mark.parametrize(
    "group, message",
    [
        (
            "evla",
            r"'evla' is no extra and no dependency group; did you mean 'eval'\? .*pyproject.toml has all, broken, dev",
        ),
        ("lm-eval", r"like 'lm-eval==1.0'"),
        ("broken", r"group 'broken' includes 'evla' is no extra"),
        ("left", r"groups include each other: left -> right -> left"),
        ("--index-url=x", r"is an option of an installer; .*UV_DEFAULT_INDEX"),
        ("./wheel.whl", r"'./wheel.whl' is neither a name nor a requirement"),
    ],
)
def test_what_stands_for_nothing_is_an_error_that_says_what_there_is(project, group, message):
    with pytest.raises(ValueError, match=message):
        prepare_environment([group], project=project)


def test_without_a_project_there_are_no_names():
    with pytest.raises(ValueError, match="'eval' is no extra.*no pyproject.toml: there is none in the script's folder"):
        prepare_environment(["eval"], project=None)


def test_one_name_alone_is_no_list_of_names(project):
    with pytest.raises(TypeError, match=r"got 'eval'; write \['eval'\]"):
        requirements_of("eval", project=project)


def test_the_project_is_the_nearest_above(project, tmp_path):
    (project / "a/b").mkdir(parents=True)
    assert find_project(project / "a/b") == str(project)
    assert find_project(tmp_path) is None


# -- what a job sees --------------------------------------------------------------------------------------------------

SCRIPT = """
import importlib.metadata, json, os, sys
from marin.cluster import Entrypoint, JobRequest
from marin.cluster.environment import find_project, prepare_environment
from marin.cluster.local import LocalCluster
import beside  # in the script's folder

def look():
    import beside, marin, onlyrunner, tinypkg
    return [tinypkg.version, importlib.metadata.version("tinypkg"), onlyrunner.version, marin.__file__, sys.executable]

def run(**options):
    result = LocalCluster().launch(JobRequest(name="look", entrypoint=Entrypoint.from_callable(look), **options)).wait()
    assert result.error is None, result.error.traceback
    return result.value

if __name__ == "__main__":
    python = prepare_environment(["tinypkg==2.0"], project=find_project(), on_output=sys.stderr.buffer.write)
    print(json.dumps({"runner": look(), "with": run(python=python), "without": run(), "python": python}))
"""


def make_runner(folder: Path, *, with_pip: bool) -> Path:
    """A runner's environment: tinypkg 1.0, a package that only it has, marin; its interpreter."""
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = next((folder / "lib").glob("python*/site-packages"))
    write_wheel(folder, "onlyrunner", "1.0")
    write_wheel(folder, "tinypkg", "1.0")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(packages)
    (packages / "marin_source.pth").write_text(f"{Path(__file__).parents[2] / 'src'}\n")
    if with_pip:
        (packages / "pip.pth").write_text(f"{SITE}\n")
    return folder / "bin/python"


def run_script(python: Path, project: Path, *, path: str | Path = Path(sys.executable).parent):
    """Run SCRIPT as a person in that environment would; uv is found where the tests have theirs."""
    (project / "run.py").write_text(SCRIPT)
    (project / "beside.py").touch()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": str(path)}
    return subprocess.run([python, project / "run.py"], env=environ, cwd="/", capture_output=True, text=True)


def test_a_job_sees_its_own_version_and_the_runner_keeps_its(tmp_path, project, installer):
    python = make_runner(tmp_path / "runner", with_pip=installer == "pip")
    done = run_script(python, project)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    marin = str(Path(__file__).parents[2] / "src/marin/__init__.py")
    assert seen["runner"] == ["1.0", "1.0", "1.0", marin, str(python)]
    assert seen["without"] == seen["runner"]
    assert seen["with"] == ["2.0", "2.0", "1.0", marin, seen["python"]]
    # it needs tinydep, which the runner has not: what is installed is complete
    assert installed_packages(seen["python"]) == {"tinydep": "2.0", "tinypkg": "2.0"}


def test_a_job_does_so_when_marin_itself_is_installed_among_the_packages(tmp_path, project):
    """Then the folder of marin, from which a job starts, is that of the runner's packages."""
    python = make_runner(tmp_path / "runner", with_pip=False)
    packages = next((tmp_path / "runner/lib").glob("python*/site-packages"))
    (packages / "marin_source.pth").unlink()
    (packages / "marin").symlink_to(Path(__file__).parents[2] / "src/marin")
    done = run_script(python, project)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["runner"][0], seen["with"][0], seen["without"][0]) == ("1.0", "2.0", "1.0")


def test_any_other_interpreter_brings_its_own_packages_and_none_of_the_launchers(tmp_path):
    venv.EnvBuilder(symlinks=True).create(tmp_path / "bare")
    look = "__import__('importlib.util').util.find_spec('pytest') is not None"
    entrypoint = Entrypoint.from_callable("builtins:eval", (look,))
    for python, has_pytest in ((None, True), (str(tmp_path / "bare/bin/python"), False)):
        result = LocalCluster().launch(JobRequest(name="look", entrypoint=entrypoint, python=python)).wait()
        assert result.value is has_pytest, result.error


def test_a_command_finds_the_programs_of_its_environment(tmp_path):
    python = prepare_environment(["tinypkg==2.0"], project=None)
    command = ("-c", "import os, sys, tinypkg; print(sys.executable, os.environ['VIRTUAL_ENV'], tinypkg.version)")
    log = tmp_path / "log"
    request = JobRequest(
        name="c", entrypoint=Entrypoint.from_binary("python", command), python=python, log_path=str(log)
    )
    assert LocalCluster().launch(request).wait().error is None
    assert log.read_text().split() == [python, str(Path(python).parents[1]), "2.0"]


def test_a_job_in_the_runners_process_cannot_have_another_interpreter():
    request = JobRequest(name="job", entrypoint=Entrypoint.from_callable("os:getpid"), python=sys.executable)
    with pytest.raises(ValueError, match="'job' asks for the interpreter .* needs a process"):
        InProcessCluster().launch(request)


# -- built once -------------------------------------------------------------------------------------------------------


def test_the_second_use_installs_nothing(installer, project, wheels, tmp_path):
    said = []
    first = prepare_environment(["eval"], project=project, on_output=said.append)
    assert b"building an environment with tinypkg >= 1" in b"".join(said)
    said.clear()
    for wheel in wheels.iterdir():
        wheel.unlink()
    before = time.process_time()
    assert prepare_environment(["eval"], project=project, on_output=said.append) == first
    assert prepare_environment(["tinypkg >= 1"], project=None) == first  # what it is made from, not what it is called
    assert time.process_time() - before < 0.2
    assert not said and len(environments(tmp_path)) == 1


def test_other_requirements_another_lock_or_another_python_is_another_environment(project, tmp_path):
    def count(groups):
        prepare_environment(groups, project=project)
        return len(environments(tmp_path))

    assert [count(["eval"]), count(["tinypkg==1.0"]), count(["tinypkg==1.0", "tinydep==1.0"])] == [1, 2, 3]
    (project / "requirements.lock").write_text("tinydep==1.0\n")
    assert [count(["eval"]), count(["eval"])] == [4, 4]


LOCK = (
    "tinypkg==1.0 ; python_version > '3' \\\n    --hash=sha256:{tinypkg} \\\n    --hash=sha256:{zeros}\n"
    "# a comment\ntinydep==1.0 \\\n    --hash=sha256:{tinydep}\n"
)


def test_pins_of_the_lock_hold_unless_the_step_names_the_package(project, wheels, installer):
    def digest(name):
        return hashlib.sha256((wheels / f"{name}-1.0-py3-none-any.whl").read_bytes()).hexdigest()

    lock = LOCK.format(tinypkg=digest("tinypkg"), tinydep=digest("tinydep"), zeros="0" * 64)
    (project / "requirements.lock").write_text(lock)
    pinned = prepare_environment(["eval"], project=project)
    assert installed_packages(pinned) == {"tinydep": "1.0", "tinypkg": "1.0"}
    own = prepare_environment(["eval", "TinyDep==2.0"], project=project)
    assert installed_packages(own) == {"tinydep": "2.0", "tinypkg": "1.0"}


def test_an_environment_that_somebody_deleted_is_built_again(tmp_path):
    python = prepare_environment(["tinydep==1.0"], project=None)
    os.rename(Path(python).parents[1], tmp_path / "moved")
    again = prepare_environment(["tinydep==1.0"], project=None)
    assert again != python and installed_packages(again) == {"tinydep": "1.0"}


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_failing_installer_is_shown_with_its_command_and_log_and_leaves_nothing(installer, wheels, tmp_path):
    with pytest.raises(InstallError) as raised:
        prepare_environment(["tinypkg==3.0"], project=None)
    message = str(raised.value)
    assert "cannot install tinypkg==3.0: the process ended with exit code 1" in message
    assert f"{'uv pip install' if installer == 'uv' else '-m pip'}" in message.split("command: ")[1]
    log = Path(message.split("log: ")[1])
    assert log.read_text().rstrip().splitlines()[-1].strip() in message
    assert environments(tmp_path) == []
    write_wheel(wheels, "tinypkg", "3.0")
    assert installed_packages(prepare_environment(["tinypkg==3.0"], project=None)) == {"tinypkg": "3.0"}


def test_pins_in_the_way_are_named_as_a_cause(project):
    (project / "requirements.lock").write_text("tinydep==7.0\n")
    with pytest.raises(InstallError, match="The 1 pins of requirements.lock held. If one is in the way"):
        prepare_environment(["eval"], project=project)


def test_without_an_installer_the_message_says_so(tmp_path, project):
    done = run_script(make_runner(tmp_path / "runner", with_pip=False), project, path="/nowhere")
    assert "has neither uv nor pip, and the path has no uv" in done.stderr


BACKEND = """
import base64, hashlib, os, time, zipfile
from pathlib import Path

{write_wheel}
here = Path(__file__).parent

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    (here / "begun").write_text(str(os.getpid()))
    while not (here / "gate").exists():
        time.sleep(0.01)
    write_wheel(Path(wheel_directory), "slow", "1.0")
    return "slow-1.0-py3-none-any.whl"
"""


@pytest.fixture
def slow(tmp_path) -> Path:
    """A package whose build writes the file `begun`, and ends only when there is a file `gate`."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "slow"\nversion = "1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (folder / "backend.py").write_text(BACKEND.format(write_wheel=inspect.getsource(write_wheel)))
    return folder


def wait_until(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def start_builder(requirement: str) -> subprocess.Popen:
    """A process that prepares an environment and prints what it hears, and then the interpreter."""
    code = (
        "import sys; from marin.cluster.environment import prepare_environment\n"
        "say = lambda chunk: (sys.stdout.write(chunk.decode()), sys.stdout.flush())\n"
        f"print('got', prepare_environment([{requirement!r}], project=None, on_output=say))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    try:  # it may be gone between opening and reading, too
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_builder_killed_in_the_middle_leaves_nothing_that_counts(slow, tmp_path):
    requirement = f"slow @ file://{slow}"
    builder = start_builder(requirement)
    wait_until(lambda: (slow / "begun").exists() and (slow / "begun").read_text())
    backend = int((slow / "begun").read_text())
    builder.kill()
    builder.wait()
    builder.stdout.close()
    assert len(environments(tmp_path)) == 1  # half of one
    if sys.platform == "linux":
        wait_until(lambda: not is_alive(backend))  # its installer ended with it
    (slow / "gate").touch()
    python = prepare_environment([requirement], project=None)
    assert installed_packages(python) == {"slow": "1.0"}
    assert environments(tmp_path) == [Path(python).parents[1].name]
    assert subprocess.check_output([python, "-c", "import slow; print(slow.version)"], text=True) == "1.0\n"


def test_of_two_processes_at_once_one_builds_and_the_other_waits(slow, tmp_path):
    requirement = f"slow @ file://{slow}"
    first = start_builder(requirement)
    wait_until((slow / "begun").exists)
    second = start_builder(requirement)
    line = second.stdout.readline()
    assert line == f"waiting for process {first.pid}, which builds the same environment\n"
    (slow / "gate").touch()
    told, waited = (process.communicate(timeout=60)[0] for process in (first, second))
    assert told.count("building an environment") == 1 and waited.startswith("got ")
    assert told.splitlines()[-1] == waited.splitlines()[-1]
    assert len(environments(tmp_path)) == 1


def test_a_build_can_be_stopped(slow, tmp_path):
    stop, raised = threading.Event(), []

    def build():
        try:
            prepare_environment([f"slow @ file://{slow}"], project=None, stop=stop)
        except CancelledError as error:
            raised.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    wait_until(lambda: (slow / "begun").exists() and (slow / "begun").read_text())
    stop.set()
    thread.join(20)
    assert raised and environments(tmp_path) == []
    assert not is_alive(int((slow / "begun").read_text()))
