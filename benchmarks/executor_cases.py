"""One case of bench_executor.py: one system, one graph of steps that do nothing, in a process of its own.

    python benchmarks/executor_cases.py SYSTEM ACTION SHAPE STEPS FOLDER

Runs in the environment of the system that it measures, so nothing but the standard library is imported at the top.
Prints one line of JSON: CPU seconds of each phase (this process and the children it waited for), and the peak memory of
this process. Every system is told to do the same: run a step for each entry of the graph, keep what it needs to find
the steps done the next time, print nothing. What a step does is what the system takes as done: where files are what
counts (Luigi, doit, Snakemake) it writes a small one; where values are (redun, Dagster) it returns one. marin is
measured with steps that do nothing, and with steps that write a file.

After a run it is checked that as many steps ran as should have.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Graph = list[list[int]]  # for each step, the earlier steps whose output it reads


def fan(count: int) -> Graph:
    """One step, all others but one read it, and the last reads those."""
    return [[], *([0] for _ in range(count - 2)), list(range(1, count - 1))]


def chain(count: int) -> Graph:
    """Each reads the one before."""
    return [[i - 1] if i else [] for i in range(count)]


def grid(count: int) -> Graph:
    """Layers of 20 steps, each of which reads three of the layer before."""
    return [[i - i % 20 - 20 + (i + k) % 20 for k in range(3)] if i >= 20 else [] for i in range(count)]


def diamond(count: int) -> Graph:
    """Layers of two steps, each of which reads both of the layer before: 2^(count/2) paths."""
    return [[i - i % 2 - 2, i - i % 2 - 1] if i >= 2 else [] for i in range(count)]


SHAPES: dict[str, Callable[[int], Graph]] = {"fan": fan, "chain": chain, "grid": grid, "diamond": diamond}


def sinks(graph: Graph) -> list[int]:
    """The steps that no other reads."""
    read = {i for inputs in graph for i in inputs}
    return [i for i in range(len(graph)) if i not in read]


class System(Protocol):
    """How to make one system do the work. Construction imports it."""

    executed: int  # steps whose body ran so far

    def define(self, graph: Graph) -> Any:
        """The graph, as the system's user would write it down."""
        ...

    def plan(self, defined: Any) -> None:
        """Find out what would have to run."""
        ...

    def run(self, defined: Any) -> None:
        """Run what has to."""
        ...


# -- marin ------------------------------------------------------------------------------------------------------------

_marin_bodies = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What a step of the marin cases is given."""

    index: int
    output_path: str
    rate: float
    text: str
    flag: bool
    inputs: tuple[str, ...]


def do_nothing(config: Config) -> None:
    global _marin_bodies
    _marin_bodies += 1


def write_a_file(config: Config) -> None:
    global _marin_bodies
    _marin_bodies += 1
    with open(f"{config.output_path}/out.txt", "w", encoding="utf-8") as file:
        file.write("x")


class Marin:
    def __init__(self, folder: str, *, fsync: bool = False, body: Callable[[Config], None] = do_nothing) -> None:
        import marin.execution.executor as executor

        self._executor = executor
        self._folder, self._fsync, self._body = folder, fsync, body

    @property
    def executed(self) -> int:
        return _marin_bodies

    def define(self, graph: Graph) -> Any:
        step, output_path_of = self._executor.ExecutorStep, self._executor.output_path_of
        output_path = self._executor.this_output_path()
        steps: list[Any] = []
        for index, inputs in enumerate(graph):
            config = Config(
                index=index,
                output_path=output_path,
                rate=0.1,
                text="some text",
                flag=False,
                inputs=tuple(output_path_of(steps[i]) for i in inputs),
            )
            steps.append(step(name=f"group-{index // 20}/step-{index}", fn=self._body, config=config))
        return [steps[i] for i in sinks(graph)]

    def _open(self) -> Any:
        return self._executor.Executor(self._folder, fsync=self._fsync, quiet=True)

    def plan(self, defined: Any) -> None:
        self._open().plan(defined)

    def run(self, defined: Any) -> None:
        assert self._open().run(defined).is_ok


def marin_fsync(folder: str) -> Marin:
    return Marin(folder, fsync=True)


def marin_files(folder: str) -> Marin:
    return Marin(folder, body=write_a_file)


# -- the peers --------------------------------------------------------------------------------------------------------


class Redun:
    def __init__(self, folder: str) -> None:
        import redun
        from redun.config import Config as RedunConfig

        self.executed = 0
        self._redun = redun
        self._config = RedunConfig({"backend": {"db_uri": f"sqlite:///{folder}/redun.db"}})

        @redun.task(namespace="bench")
        def step(index: int, inputs: list) -> int:
            self.executed += 1
            return index

        self._step = step

    def define(self, graph: Graph) -> Any:
        values: list[Any] = []
        for index, inputs in enumerate(graph):
            values.append(self._step(index, [values[i] for i in inputs]))
        return [values[i] for i in sinks(graph)]

    def plan(self, defined: Any) -> None:
        raise NotImplementedError("redun has no plan: it finds out while it runs")

    def run(self, defined: Any) -> None:
        scheduler = self._redun.Scheduler(config=self._config)
        scheduler.load()
        scheduler.run(defined)


class Luigi:
    def __init__(self, folder: str) -> None:
        import luigi

        self.executed = 0
        self._luigi = luigi
        self._graph: Graph = []
        system = self

        class Step(luigi.Task):
            index = luigi.IntParameter()

            def requires(self) -> list:
                return [Step(index=i) for i in system._graph[self.index]]

            def output(self) -> Any:
                return luigi.LocalTarget(f"{folder}/{self.index}.txt")

            def run(self) -> None:
                system.executed += 1
                with self.output().open("w") as file:
                    file.write("x")

        self._step = Step

    def define(self, graph: Graph) -> Any:
        self._graph = graph
        return [self._step(index=i) for i in sinks(graph)]

    def plan(self, defined: Any) -> None:
        raise NotImplementedError("Luigi has no plan: it finds out while it runs")

    def run(self, defined: Any) -> None:
        assert self._luigi.build(defined, local_scheduler=True, workers=1, no_lock=True, log_level="ERROR")


class Doit:
    def __init__(self, folder: str) -> None:
        from doit.cmd_base import ModuleTaskLoader
        from doit.doit_cmd import DoitMain

        self.executed = 0
        self._loader, self._main, self._folder = ModuleTaskLoader, DoitMain, folder

    def _write(self, path: str) -> None:
        self.executed += 1
        with open(path, "w", encoding="utf-8") as file:
            file.write("x")

    def define(self, graph: Graph) -> Any:
        def task_step():
            for index, inputs in enumerate(graph):
                target = f"{self._folder}/{index}.txt"
                yield {
                    "name": str(index),
                    "actions": [(self._write, [target])],
                    "targets": [target],
                    "file_dep": [f"{self._folder}/{i}.txt" for i in inputs],
                    "uptodate": [True],
                }

        config = {"dep_file": f"{self._folder}/.doit.db", "verbosity": 0, "reporter": "zero"}
        return {"task_step": task_step, "DOIT_CONFIG": config}

    def plan(self, defined: Any) -> None:
        assert self._main(self._loader(defined)).run(["list", "--all", "--status"]) == 0

    def run(self, defined: Any) -> None:
        assert self._main(self._loader(defined)).run(["run"]) == 0


class Snakemake:
    _FILE = """
import json
GRAPH, SINKS = json.load(open("graph.json"))
rule everything:
    input: [f"out/{i}.txt" for i in SINKS]
rule step:
    input: lambda wildcards: [f"out/{i}.txt" for i in GRAPH[int(wildcards.index)]]
    output: touch("out/{index}.txt")
    wildcard_constraints: index=r"\\d+"
"""

    def __init__(self, folder: str) -> None:
        from snakemake.cli import main

        self.executed = 0
        self._main, self._folder = main, Path(folder)
        self._before = self._outputs()

    def define(self, graph: Graph) -> Any:
        os.chdir(self._folder)
        Path("graph.json").write_text(json.dumps([graph, sinks(graph)]), encoding="utf-8")
        Path("Snakefile").write_text(self._FILE, encoding="utf-8")

    def _call(self, *arguments: str) -> None:
        try:
            self._main(["--cores", "1", "--quiet", "all", *arguments])
        except SystemExit as done:
            if done.code:
                raise RuntimeError(f"snakemake ended with code {done.code}") from None

    def plan(self, defined: Any) -> None:
        self._call("--dry-run")

    def run(self, defined: Any) -> None:
        self._call()
        after = self._outputs()
        self.executed += sum(self._before.get(name) != changed for name, changed in after.items())
        self._before = after

    def _outputs(self) -> dict[str, int]:
        """Name and time of change of every output."""
        folder = self._folder / "out"
        return {f.name: f.stat().st_mtime_ns for f in os.scandir(folder)} if folder.is_dir() else {}


class Dagster:
    def __init__(self, folder: str) -> None:
        import logging

        import dagster

        logging.disable(logging.CRITICAL)
        self.executed = 0
        self._dagster, self._folder = dagster, folder

    def define(self, graph: Graph) -> Any:
        dagster = self._dagster

        def body(context, inputs):  # Dagster reads annotations, and refuses most
            self.executed += 1
            yield dagster.Output(None)

        nodes, dependencies = [], {}
        for index, inputs in enumerate(graph):
            nodes.append(
                dagster.OpDefinition(
                    name=f"step_{index}",
                    compute_fn=body,
                    ins={f"input_{k}": dagster.In(dagster.Nothing) for k in range(len(inputs))},
                    outs={"result": dagster.Out(dagster.Nothing)},
                )
            )
            dependencies[f"step_{index}"] = {
                f"input_{k}": dagster.DependencyDefinition(f"step_{i}") for k, i in enumerate(inputs)
            }
        return dagster.GraphDefinition(name="bench", node_defs=nodes, dependencies=dependencies)

    def plan(self, defined: Any) -> None:
        from dagster._core.execution.api import create_execution_plan

        create_execution_plan(defined.to_job())

    def run(self, defined: Any) -> None:
        with self._dagster.DagsterInstance.local_temp(self._folder) as instance:
            assert defined.to_job().execute_in_process(instance=instance).success


SYSTEMS: dict[str, Callable[[str], System]] = {
    "marin": Marin,
    "marin, fsync": marin_fsync,
    "marin, files": marin_files,
    "redun": Redun,
    "luigi": Luigi,
    "doit": Doit,
    "snakemake": Snakemake,
    "dagster": Dagster,
}
ACTIONS = ("plan", "cold", "cached")


def measure(system_name: str, action: str, graph: Graph, folder: str) -> dict[str, Any]:
    """Do one case; CPU seconds by phase.

    plan: define the graph, plan it in an empty store. cold: run it in an empty store, then define it again and run it
    again, which must run nothing. cached: in a store where it was run, define and run it, which must run nothing.
    """
    phases: dict[str, float] = {}

    def timed(phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = _cpu_s()
        value = function(*arguments)
        phases[phase] = _cpu_s() - began
        return value

    system = timed("import", SYSTEMS[system_name], folder)
    defined = timed("define", system.define, graph)
    if action == "plan":
        timed("plan", system.plan, defined)
    elif action == "cached":
        timed("run", system.run, defined)
        _check(system.executed, 0)
    else:
        timed("run", system.run, defined)
        _check(system.executed, len(graph))
        if system_name != "dagster":  # it has no notion of an op that is done already
            defined = timed("define again", system.define, graph)
            timed("run again", system.run, defined)
            _check(system.executed, len(graph))
    return {"phases": phases, "peak_mb": _peak_mb()}


def _check(executed: int, expected: int) -> None:
    if executed != expected:
        raise RuntimeError(f"{executed} steps ran, expected {expected}")


def _cpu_s() -> float:
    """CPU seconds of all threads of this process and of the children that it waited for."""
    import resource

    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_mb() -> float | None:
    """The most memory that this process ever had resident, in MB; None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kilobytes = next(line.split()[1] for line in file if line.startswith("VmHWM"))
    except OSError:
        return None
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("steps", type=int)
    parser.add_argument("folder")
    arguments = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answer
    graph = SHAPES[arguments.shape](arguments.steps)
    found = measure(arguments.system, arguments.action, graph, os.path.abspath(arguments.folder))
    print(json.dumps(found), file=out, flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
