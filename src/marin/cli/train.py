"""Trains what a YAML file says, without the executor: no store, no record, only the run's own folder (output_path).

Every value can be set from the command line as --PLACE VALUE, where PLACE is its path in the file: --model.num_layers 4
--data.train.wiki stores/wiki. A value is YAML and is checked like the file. Type the same command again and a run that
was stopped, killed or preempted goes on, to the same bits. Ctrl-C once finishes the step, saves and stops; twice stops
at once.

Exit codes: 0 trained, 1 training failed, 2 the config makes no sense, 75 preempted by SIGTERM (saved; run it again),
130 interrupted, 143 ended by SIGTERM while it still started (there was nothing to save; run it again).
"""

import argparse
import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from marin.cli.output import UsageError, error_line, note, print_json

EXAMPLES = """\
  marin train config.yaml
  marin train config.yaml --optimizer.learning_rate 1e-3 --output_path runs/lr1e-3
  marin train config.yaml --print-config        every value, and where it comes from; trains nothing
  marin train config.yaml --dry-run             checks the data and draws the schedules; trains nothing
  marin train --reference                       every field there is

On several hosts: the same command on each, with MARIN_COORDINATOR_ADDRESS (host:port of the first), MARIN_NUM_PROCESSES
and MARIN_PROCESS_ID set, or with --trainer.runtime.processes.coordinator auto where JAX knows the cluster.
"""

_SWITCHES = ("--print-config", "--dry-run", "--reference", "--json")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="FILE.yaml", nargs="?", help="the run, see `marin train --reference`")
    # they are read by hand, since any of them may stand behind a --PLACE that argparse does not know
    parser.add_argument(
        "rest", metavar="--PLACE VALUE", nargs=argparse.REMAINDER, help="a value to set, like --trainer.seed 1"
    )
    parser.add_argument("--print-config", action="store_true", help="print the config with the origin of each value")
    parser.add_argument("--dry-run", action="store_true", help="check config and data, draw the schedules, and stop")
    parser.add_argument("--reference", action="store_true", help="print every field with its type, default and meaning")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: Namespace) -> int:
    overrides, switches = split_rest(arguments.rest)
    for switch in switches:
        setattr(arguments, switch.removeprefix("--").replace("-", "_"), True)
    if arguments.reference:
        from marin.training.reference import train_config_reference

        print(train_config_reference(), end="")
        return 0
    if arguments.config is None:
        raise UsageError("marin train takes a YAML file; `marin train --reference` lists what can stand in it")
    config = _read(arguments.config, overrides)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    if arguments.dry_run:
        return _dry_run(config)
    return _train(config, arguments)


def split_rest(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(values to set, as `place=value`; switches) of what stands behind the file.

    UsageError for what is neither, and for two values of one place: on one line that is a slip, and nobody can tell
    which was meant.
    """
    overrides: dict[str, str] = {}
    switches = []
    rest = iter(words)
    for word in rest:
        if word in _SWITCHES:
            switches.append(word)
            continue
        if word in ("-h", "--help"):
            raise UsageError("--help stands before the file: marin train --help")
        if not word.startswith("--") or word == "--":
            raise UsageError(f"{word!r}: expected --PLACE VALUE, like --optimizer.learning_rate 1e-3")
        place, equals, value = word.removeprefix("--").partition("=")
        if place == "set":  # as the commands of the executor spell it
            place, equals, value = (value if equals else next(rest, "")).partition("=")
            if not equals:
                raise UsageError("--set expects place=value, like --set optimizer.learning_rate=1e-3")
        elif not equals:
            given = next(rest, None)
            if given is None or given.startswith("--"):  # the next flag would be a value, and be missed
                behind = "" if given is None else f", but {given} stands there (if that is it: --{place}={given})"
                raise UsageError(f"--{place} expects a value after it, like --{place} 1{behind}")
            value = given
        if place in overrides:
            raise UsageError(f"--{place} is given twice, as {overrides[place]} and as {value}: keep one")
        overrides[place] = value
    return [f"{place}={value}" for place, value in overrides.items()], switches


def _read(path: str, overrides: Sequence[str]) -> Any:
    from dataclasses import replace

    from marin.config import ConfigError
    from marin.config.origins import load_with_origins
    from marin.training.config import TrainLmConfig

    if not Path(path).is_file():
        raise UsageError(f"no file {path}; `marin train --reference` lists what can stand in one")
    try:
        config, origins = load_with_origins(TrainLmConfig, path, overrides, fill_in=_model_of_source)
    except (ConfigError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return replace(config, origins={**config.origins, **origins})


def _model_of_source(content: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The model where the config leaves it out: that of the run, or of the Hugging Face folder, to begin with."""
    if content.get("model") is not None:
        return None
    for name in ("initialize_from", "initialize_from_hf"):
        source = content.get(name)
        path = source.get("path") if isinstance(source, dict) else None
        if not isinstance(path, str):
            continue
        try:
            found = _model_of_run(Path(path)) if name == "initialize_from" else _model_of_folder(path)
        except FileNotFoundError:
            found = None
        # a run that has begun needs no more what it began with
        found = found or _model_of_run(Path(str(content.get("output_path"))))
        if found is None:
            raise FileNotFoundError(f"--{name}.path: no model at {path}, and the config names none")
        return found
    return None


def _model_of_run(path: Path) -> tuple[dict[str, Any], str] | None:
    """`path` is the run's folder, or that of one of its checkpoints."""
    for folder in (path, path.parent.parent):
        file = folder / "model.json"
        if file.is_file():
            return {"model": json.loads(file.read_text(encoding="utf-8"))["model"]}, str(file)
    return None


def _model_of_folder(path: str) -> tuple[dict[str, Any], str]:
    from marin.config import ConfigError, encode
    from marin.export.hf import read_config

    try:
        return {"model": encode(read_config(path))}, f"config.json of {path}"
    except ValueError as error:
        raise ConfigError(f"--initialize_from_hf.path: {error}") from error


def _dry_run(config: Any) -> int:
    from marin.training.initialize import find_start
    from marin.training.prepare import open_run_data
    from marin.training.run import trained_model
    from marin.training.train_lm import preview_of

    try:
        start = find_start(config, Path(config.output_path))
        data = open_run_data(config, start)
        print(preview_of(config, data, start).text())
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    num_params = config.model.num_params(data.vocab_size)
    adapter = ""
    if config.lora is not None:
        adapter = f" and {trained_model(config).num_params(data.vocab_size) - num_params:,} of the adapter"
    note(f"{num_params:,} parameters{adapter}; nothing was trained or written")
    return 0


def _train(config: Any, arguments: Namespace) -> int:
    from marin.checkpoint.format import CorruptCheckpointError
    from marin.config import encode
    from marin.distributed.processes import is_first
    from marin.training.callbacks import NonFiniteLossError
    from marin.training.preemption import Preempted
    from marin.training.train_lm import train_lm

    interrupt = _FirstInterrupt()
    try:
        with interrupt:
            result = train_lm(config)
    except Preempted as left:
        note(f"{left}. Next: {' '.join(arguments.typed)}")
        return 130 if interrupt.came else left.code if isinstance(left.code, int) else 1
    except (NonFiniteLossError, CorruptCheckpointError) as error:
        error_line(str(error))
        return 1
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise UsageError(str(error)) from error
    if not is_first():
        return 0
    if arguments.json:
        print_json({"output_path": config.output_path, "result": encode(result)})
        return 0
    print("\n".join(_lines(config.output_path, result)))
    return 0


def _lines(output: str, result: Any) -> Iterator[str]:
    yield f"{output}  {result.final_step:,} updates, loss {result.final_loss:.4f}"
    for tag, measured in result.final_validation.items():
        yield f"  {tag}  loss {measured['loss']:.4f}, {measured['bits_per_byte']:.4f} bits per byte"
    yield f"  {result.checkpoint}"


class _FirstInterrupt:
    """Inside, the first Ctrl-C asks as SIGTERM does, and the second one interrupts."""

    def __init__(self) -> None:
        self.came = False
        self._former: Any = None

    def __enter__(self) -> None:
        self._former = signal.signal(signal.SIGINT, self._on_interrupt)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._former)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.came or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # nothing to finish yet
            signal.signal(signal.SIGINT, self._former)
            raise KeyboardInterrupt
        self.came = True
        print("finishing this step, then saving; Ctrl-C again stops at once", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)
