"""What the executor costs for each step, beside redun, Luigi, doit, Snakemake and Dagster.

Every case is a process of its own (`executor_cases.py` says what each system is given), and the cases of all systems
take turns, round by round, so that whatever else the machine does falls on all alike. The figures are CPU seconds of
the process and of the children that it waited for. What took long, failed or was stopped is done once, not every round.

    make bench-executor                             all, writes benchmarks/results/executor.md (about 15 minutes)
    python benchmarks/bench_executor.py --setup     install the peers, each into an environment below .venv-bench/
    python benchmarks/bench_executor.py --quick     marin alone, below a minute, printed only
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULT = HERE / "results" / "executor.md"
ENVIRONMENTS = REPOSITORY / ".venv-bench"
PEERS = ("doit", "luigi", "redun", "snakemake", "dagster")
MARIN = ("marin", "marin, files", "marin, fsync")
IMPORTS = {
    "marin": "import marin.execution.executor",
    "doit": "import doit.doit_cmd",
    "luigi": "import luigi",
    "redun": "import redun",
    "snakemake": "import snakemake.cli",
    "dagster": "import dagster",
}
LIMIT_S = 120  # CPU seconds after which a case is stopped; of wall time twice as much, for the machine may be busy
REPEAT_UP_TO_S = 10.0  # a case that takes longer is not repeated
DEPTHS = (100, 300, 1000, 3000, 10_000)  # tried in turn with the peers until one fails


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement of one system."""

    system: str  # of executor_cases.SYSTEMS
    action: str  # import, nothing (an empty process), or one of executor_cases.ACTIONS
    shape: str = ""
    steps: int = 0
    limit_s: int = LIMIT_S  # CPU seconds

    @property
    def environment(self) -> str:
        """The environment it runs in: marin or the name of a peer."""
        return self.system.partition(",")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run of a case gave."""

    total_s: float  # CPU seconds of the whole process and its children
    phases: dict[str, float]  # CPU seconds by phase
    peak_mb: float | None = None  # most resident memory
    trouble: str | None = None  # why there are no figures


Found = dict[Case, list[Sample]]


class Bench:
    """Runs cases in folders of its own and keeps what they gave."""

    def __init__(self, scratch: Path, disk: Path) -> None:
        self._scratch = scratch  # in memory if there is such a place: a disk would add what is not the system's
        self._disk = disk  # for the cases that flush
        self.found: Found = {}
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(scratch / "pycache"),
            "PYTHONPATH": str(REPOSITORY / "src"),
            "HOME": str(scratch / "home"),  # no settings of a user, and none left behind
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        self.environment.pop("PYTHONUNBUFFERED", None)
        (scratch / "home").mkdir()

    def warm_up(self, systems: list[str]) -> None:
        """Import everything once, uncounted: afterwards it is compiled and in the page cache."""
        for name in systems:
            for system in MARIN if name == "marin" else (name,):
                self._cases([Case(system=system, action="cold", shape="chain", steps=3)])
        self.found.clear()

    def turns(self, groups: dict[str, list[list[Case]]], rounds: int) -> None:
        """Rounds over what each system has to do; the systems take turns, group by group.

        A group is cases that share a folder, so that one finds what the one before it left.
        """
        for turn in range(rounds):
            names = list(groups)
            order = names[turn % len(names) :] + names[: turn % len(names)]
            for place in range(max(len(groups[name]) for name in names)):
                for name in order:
                    if place < len(groups[name]):
                        self._cases(groups[name][place])

    def _cases(self, group: list[Case]) -> None:
        if any(self._is_settled(case) for case in group):
            return
        flushes = any("fsync" in case.system for case in group)
        with tempfile.TemporaryDirectory(dir=self._disk if flushes else self._scratch) as folder:
            for case in group:
                sample = self._run(case, folder)
                self.found.setdefault(case, []).append(sample)
                what = sample.trouble or "  ".join(f"{k} {v:.3f}" for k, v in sample.phases.items())
                print(f"{case.system:14} {case.action:7} {case.shape:8} {case.steps or '':6} {what}", file=sys.stderr)
                if sample.trouble:
                    return

    def _is_settled(self, case: Case) -> bool:
        return any(sample.trouble or sample.total_s > REPEAT_UP_TO_S for sample in self.found.get(case, ()))

    def _run(self, case: Case, folder: str) -> Sample:
        python = python_of(case.environment)
        if case.action in ("import", "nothing"):
            command = [python, "-c", IMPORTS[case.system] if case.action == "import" else "pass"]
        else:
            script = str(HERE / "executor_cases.py")
            command = [python, script, case.system, case.action, case.shape, str(case.steps), folder]
        before = _children_cpu_s()
        with tempfile.TemporaryFile("w+") as messages:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                env=self.environment,
                cwd=folder,
                start_new_session=True,
            )
            try:
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (case.limit_s, case.limit_s + 5))
                answer, _ = process.communicate(timeout=2 * case.limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its own session: it and its children, nobody else
                process.communicate()
                return Sample(total_s=case.limit_s, phases={}, trouble=f"stopped after {2 * case.limit_s} s")
            total_s = _children_cpu_s() - before
            if process.returncode == -signal.SIGXCPU:
                return Sample(total_s=total_s, phases={}, trouble=f"stopped after {case.limit_s} s of CPU")
            if process.returncode:
                messages.seek(0)
                return Sample(total_s=total_s, phases={}, trouble=_last_words(messages.read(), process.returncode))
        if case.action in ("import", "nothing"):
            return Sample(total_s=total_s, phases={})
        value = json.loads(answer.splitlines()[-1])
        return Sample(total_s=total_s, **value)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_words(text: str, code: int) -> str:
    """The error that a process ended with."""
    if "RecursionError" in text:
        return "RecursionError"
    errors = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception)\w*:.*)$", text, re.MULTILINE)
    return errors[-1][:120] if errors else f"exit code {code}: {text.strip()[-120:]}"


# -- environments ------------------------------------------------------------------------------------------------------


def python_of(name: str) -> str:
    """The interpreter that has the system: this one for marin, for a peer that of its environment."""
    return sys.executable if name == "marin" else str(ENVIRONMENTS / name / "bin" / "python")


def setup(peers: list[str]) -> None:
    """Install each peer, at the versions of benchmarks/peers/NAME.txt, into an environment of its own."""
    for name in peers:
        if not Path(python_of(name)).exists():
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / name)], check=True)
        requirements = str(HERE / "peers" / f"{name}.txt")
        if importlib.util.find_spec("uv"):
            installer = [sys.executable, "-m", "uv", "pip", "install", "--python", python_of(name)]
        else:
            installer = [python_of(name), "-m", "pip", "install", "--disable-pip-version-check"]
        done = subprocess.run([*installer, "--quiet", "-r", requirements])
        print(f"{name}: {'installed' if done.returncode == 0 else 'NOT installed'}", file=sys.stderr)


def version_of(name: str) -> str:
    """The version of an installed peer."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python_of(name), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# -- what is measured --------------------------------------------------------------------------------------------------

PLAN_SHAPES = ("fan", "chain", "grid", "diamond")
LARGE, SMALL, DEEP = 10_000, 1_000, 20_000


def marin_groups(quick: bool) -> list[list[Case]]:
    """What marin does in every round; the quick one leaves out two shapes of the runs, and what flushes."""
    groups = [[Case(system="marin", action="nothing"), Case(system="marin", action="import")]] * 3
    runs = [("marin", ("grid",) if quick else ("fan", "chain", "grid")), ("marin, files", ("grid",))]
    if not quick:
        runs.append(("marin, fsync", ("grid",)))
    groups += [[Case(system="marin", action="plan", shape=s, steps=n)] for n in (SMALL, LARGE) for s in PLAN_SHAPES]
    for system, shapes in runs:
        groups += [
            [Case(system=system, action=action, shape=shape, steps=SMALL) for action in ("cold", "cached")]
            for shape in shapes
        ]
    return groups


def marin_once() -> list[list[Case]]:
    """What marin does once: it is large."""
    return [
        [Case(system="marin", action=action, shape="grid", steps=LARGE) for action in ("cold", "cached")],
        [Case(system="marin", action="plan", shape="chain", steps=DEEP)],
        [Case(system="marin", action="cold", shape="chain", steps=DEEP)],
    ]


def peer_groups(name: str) -> list[list[Case]]:
    """What a peer does in a round; that it cannot do something is found out, but for what its interface lacks."""
    groups = [[Case(system=name, action="nothing"), Case(system=name, action="import")]] * 3
    if name not in ("redun", "luigi"):  # they have no plan
        groups += [
            [Case(system=name, action="plan", shape=s, steps=n)] for n in (SMALL, LARGE) for s in ("fan", "grid")
        ]
    actions = ("cold",) if name == "dagster" else ("cold", "cached")  # Dagster runs every op again
    groups += [
        [Case(system=name, action=action, shape=shape, steps=SMALL) for action in actions] for shape in ("fan", "grid")
    ]
    return groups


def depth_case(name: str, depth: int) -> Case:
    """A chain: run, or for a system that runs slowly, but plans, planned."""
    action = "plan" if name in ("snakemake", "dagster") else "cold"
    return Case(system=name, action=action, shape="chain", steps=depth, limit_s=60)


def measure(bench: Bench, peers: list[str], rounds: int, quick: bool) -> None:
    """Everything, into bench.found."""
    bench.warm_up(["marin", *peers])
    bench.turns({"marin": marin_groups(quick), **{name: peer_groups(name) for name in peers}}, rounds)
    if quick:
        bench.turns({"marin": marin_once()[1:2]}, 1)
        return
    bench.turns({"marin": marin_once()}, 1)
    for name in peers:
        for depth in DEPTHS:
            case = depth_case(name, depth)
            bench.turns({name: [[case]]}, 1)
            if bench.found[case][-1].trouble:
                break


# -- the report --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Figure:
    """Several values of one quantity."""

    values: list[float]

    def text(self, digits: int = 3) -> str:
        """Minimum and median."""
        low, middle = min(self.values), statistics.median(self.values)
        return f"{low:.{digits}f}" if len(self.values) == 1 else f"{low:.{digits}f} / {middle:.{digits}f}"


def figure(found: Found, case: Case, phase: str) -> Figure | str:
    """A phase ("total": the process, "peak": MB) of all runs of a case; or, in words, why there is none."""
    samples = found.get(case, [])
    trouble = next((sample.trouble for sample in samples if sample.trouble), None)
    if trouble is not None or not samples:
        return trouble or "-"
    if phase == "total":
        return Figure([sample.total_s for sample in samples])
    if phase == "peak":
        return Figure([sample.peak_mb for sample in samples if sample.peak_mb is not None])
    return Figure([sample.phases[phase] for sample in samples if phase in sample.phases])


def import_cost(found: Found, system: str) -> Figure | str:
    """CPU seconds of importing it, an empty process taken off."""
    importing = figure(found, Case(system=system, action="import"), "total")
    nothing = figure(found, Case(system=system, action="nothing"), "total")
    if isinstance(importing, str) or isinstance(nothing, str):
        return importing if isinstance(importing, str) else "-"
    return Figure([max(0.0, value - min(nothing.values)) for value in importing.values])


def cell(found: Found, case: Case, phase: str, digits: int = 3) -> str:
    """A table's cell."""
    value = figure(found, case, phase)
    return value if isinstance(value, str) else value.text(digits) if value.values else "-"


def targets(found: Found) -> list[tuple[str, Figure | str, float, str]]:
    """(what, figure, at most, unit) of everything that there is a target for."""
    plans = [(s, Case(system="marin", action="plan", shape=s, steps=LARGE)) for s in PLAN_SHAPES]
    runs = [("marin", s) for s in ("fan", "chain", "grid")] + [("marin, files", "grid")]
    rows: list[tuple[str, Figure | str, float, str]] = [
        ("import marin.execution.executor", import_cost(found, "marin"), 0.05, "s")
    ]
    rows += [(f"plan {LARGE:,} steps, {s}", figure(found, case, "plan"), 0.5, "s") for s, case in plans]
    for phase, words, action, most in (
        ("run", "cold run", "cold", 1.0),
        ("run again", "cached re-run, same process", "cold", 0.1),
        ("run", "cached re-run, fresh process, after imports", "cached", 0.1),
    ):
        for system, shape in runs:
            case = Case(system=system, action=action, shape=shape, steps=SMALL)
            if case not in found:
                continue
            note = ", each writes a file" if "files" in system else ""
            rows.append((f"{SMALL:,} steps, {shape}{note}: {words}", figure(found, case, phase), most, "s"))
    case = Case(system="marin", action="cached", shape="grid", steps=LARGE)
    if case in found:
        rows.append((f"peak memory, plan and cached run of {LARGE:,} steps", figure(found, case, "peak"), 200, "MB"))
    return rows


def _verdict(value: Figure | str, most: float) -> str:
    if isinstance(value, str):
        return f"**missed** ({value})"
    if statistics.median(value.values) <= most:
        return "met"
    return "met by the minimum" if min(value.values) <= most else "**missed**"


def report(found: Found, peers: dict[str, str], absent: list[str], rounds: int, notes: list[str]) -> str:
    """The results as Markdown."""
    lines = [
        "# What the executor costs",
        "",
        f"CPU seconds of the process and its children, minimum / median over {rounds} rounds in which the systems took",
        f"turns; one figure alone was taken once (it took over {REPEAT_UP_TO_S:.0f} s, or is large). What each system",
        "was given: `benchmarks/executor_cases.py`. Shapes: fan (one, all read it, one reads all), chain, grid (layers",
        "of 20, each step reads three), diamond (layers of two, each reads both).",
        "",
        "## Targets",
        "",
        "| what | at most | measured | |",
        "|---|---|---|---|",
    ]
    for what, value, most, unit in targets(found):
        text = value if isinstance(value, str) else value.text(0 if unit == "MB" else 3)
        lines.append(f"| {what} | {most:g} {unit} | {text} | {_verdict(value, most)} |")
    for action, words in (("plan", "plan"), ("cold", "run")):
        case = Case(system="marin", action=action, shape="chain", steps=DEEP)
        if case in found:
            value = figure(found, case, "plan" if action == "plan" else "run")
            text, verdict = (value, "**missed**") if isinstance(value, str) else (f"{value.text(2)} s", "met")
            lines.append(f"| {words} a chain of {DEEP:,} steps | no RecursionError | {text} | {verdict} |")
    systems = ["marin", *peers]
    lines += ["", "## Import and plan", "", _plan_note(), ""]
    columns = [(s, n) for n in (SMALL, LARGE) for s in ("fan", "grid")]
    lines.append("| | import | " + " | ".join(f"{n:,} {s}" for s, n in columns) + f" | peak MB, {LARGE:,} grid |")
    lines.append("|---" * (len(columns) + 3) + "|")
    for name in systems:
        cost = import_cost(found, name)
        cells = [cost if isinstance(cost, str) else cost.text()]
        for shape, steps in columns:
            cells.append(cell(found, Case(system=name, action="plan", shape=shape, steps=steps), "plan"))
        cells.append(cell(found, Case(system=name, action="plan", shape="grid", steps=LARGE), "peak", 0))
        lines.append(f"| {_label(name, peers)} | {' | '.join(cells)} |")
    lines += ["", f"## {SMALL:,} steps that do nothing", "", _run_note(), ""]
    lines.append(
        "| | shape | cold run | again in that process | again in a fresh process, the run | and all of the process |"
    )
    lines.append("|---|---|---|---|---|---|")
    for name in (*MARIN, *peers):
        for shape in ("fan", "chain", "grid"):
            cold, cached = (Case(system=name, action=a, shape=shape, steps=SMALL) for a in ("cold", "cached"))
            if cold in found and found[cold][0].phases or shape != "chain" and cold in found:
                cells = [cell(found, cold, "run"), cell(found, cold, "run again"), cell(found, cached, "run")]
                cells.append(cell(found, cached, "total"))
                lines.append(f"| {_label(name, peers)} | {shape} | {' | '.join(cells)} |")
    if peers and any(depth_case(name, DEPTHS[0]) in found for name in peers):
        lines += ["", "## The longest chain", "", "| | | works | fails |", "|---|---|---|---|"]
        for action, how in (("plan", "planned"), ("cold", "run")):
            trouble = figure(found, Case(system="marin", action=action, shape="chain", steps=DEEP), "total")
            worked, failed = ("", f"{DEEP:,}: {trouble}") if isinstance(trouble, str) else (f"{DEEP:,}", "")
            lines.append(f"| marin | {how} | {worked} | {failed} |")
        for name in peers:
            lines.append(f"| {_label(name, peers)} | {_depth_row(found, name)} |")
    if absent:
        lines += ["", f"Not measured, for they are not installed (`--setup`): {', '.join(absent)}."]
    return "\n".join([*lines, "", *notes, ""])


def _plan_note() -> str:
    return (
        "Of a graph that is defined already, against an empty store. marin: `Executor.plan`, which digests every step\n"
        "and looks up its register; doit: `list --all --status`; Snakemake: `--dry-run`; Dagster: `to_job` and its\n"
        "execution plan. redun and Luigi have no plan."
    )


def _run_note() -> str:
    return (
        "marin keeps a manifest, a record with the whole config and a log of each step; 'files': each step writes one\n"
        "file; 'fsync': every commit is flushed to the disk, which the others do not do. What the others keep: redun\n"
        "every value and call in SQLite, Luigi nothing but the files, doit hashes of the files, Snakemake metadata of\n"
        "each file, Dagster an event log in SQLite; it runs every op again."
    )


def _label(name: str, peers: dict[str, str]) -> str:
    return f"{name} {peers[name]}" if name in peers else name


def _depth_row(found: Found, name: str) -> str:
    worked, failed = "none", ""
    for depth in DEPTHS:
        case = depth_case(name, depth)
        if case in found:
            trouble = found[case][-1].trouble
            worked, failed = (worked, f"{depth:,}: {trouble}") if trouble else (f"{depth:,}", "")
    how = "planned" if depth_case(name, DEPTHS[0]).action == "plan" else "run"
    return f"{how} | {worked} | {failed}"


def calibration_s() -> float:
    """CPU seconds of ten million additions in a plain Python loop: how fast this interpreter is here."""
    best = float("inf")
    for _ in range(3):
        began, total = time.process_time(), 0
        for i in range(10_000_000):
            total += i
        best = min(best, time.process_time() - began)
    return best


def machine_notes(scratch: Path, disk: Path, loads: tuple[float, float], started: float) -> list[str]:
    """Where the figures come from."""
    return [
        f"Machine: {_cpu_model()}, {len(os.sched_getaffinity(0))} cores; load average {loads[0]:.1f} before, "
        f"{loads[1]:.1f} after (one core is this benchmark).",
        f"Ten million additions in a Python loop take {calibration_s():.2f} s here: the speed to scale by.",
        f"Stores lay on {_file_system(scratch)}; those with fsync on {_file_system(disk)}.",
        f"Python {platform.python_version()}. The benchmark took {(time.monotonic() - started) / 60:.1f} minutes.",
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown CPU"


def _file_system(path: Path) -> str:
    """The kind of file system that a folder is on."""
    kind, longest = "unknown", -1
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, of_kind = line.split()[:3]
        if path.resolve().is_relative_to(point) and len(point) > longest:
            kind, longest = of_kind, len(point)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="install the peers and end")
    parser.add_argument("--quick", action="store_true", help="marin alone, printed only")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="folder for stores with fsync")
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.setup:
        setup(arguments.peers)
        return
    peers = [] if arguments.quick else [name for name in arguments.peers if Path(python_of(name)).exists()]
    absent = [] if arguments.quick else [name for name in PEERS if name not in peers]
    if absent:
        print(f"skipped, not installed or not asked for: {', '.join(absent)}", file=sys.stderr)
    memory = Path("/dev/shm")
    started, load = time.monotonic(), os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as scratch,
        tempfile.TemporaryDirectory(dir=arguments.disk) as disk,
    ):
        bench = Bench(Path(scratch), Path(disk))
        measure(bench, peers, arguments.rounds, arguments.quick)
        notes = machine_notes(Path(scratch), Path(disk), (load, os.getloadavg()[0]), started)
    versions = {name: version_of(name) for name in peers}
    text = report(bench.found, versions, absent, arguments.rounds, notes)
    print(text)
    if not arguments.no_write and not arguments.quick:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
