"""Compares the scores of two models question by question: differences with their paired errors, McNemar's exact p.

A and B: a folder with results.json and samples.jsonl, or the address of an evaluation step: its name, name@digits, a
ref (marin pin), the first digits of a digest. Several with commas between them are seeds of one recipe. A task that is
another task on the other side (prompt, version, shots) is refused, and the exit code is then 3. What two outputs are
made of is compared by `marin diff`.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.experiment import add_prefix_argument, prefix_of
from marin.cli.output import RefusedError, UsageError, error_line, note, print_json, table

EXAMPLES = """\
  marin compare evals/base evals/tuned                                   every task that both have
  marin compare evals/base evals/tuned --tasks 'mmlu_*,arc_easy' --metrics acc
  marin compare a/seed0,a/seed1,a/seed2 b/seed0,b/seed1,b/seed2          seeds of two recipes
  marin compare evals/base evals/tuned --tasks gsm8k --disagreements 5   what one of them got right
"""

_SHOWN = 4  # folders of evaluations that an error names


def add_arguments(parser: ArgumentParser) -> None:
    what = "folder of an evaluation or address of its step; several with commas: seeds"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help="the other model's")
    parser.add_argument("--tasks", metavar="NAMES", help="only these, with commas; patterns like 'mmlu_*' too")
    parser.add_argument(
        "--metrics", metavar="NAMES", help="these, with commas, or all (default: what each task is known by)"
    )
    parser.add_argument(
        "--disagreements",
        type=int,
        default=0,
        metavar="N",
        help="list N questions of each task that A did better on, and N that B did",
    )
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.cli.main import OK, REFUSED
    from marin.evaluation.compare import compare
    from marin.evaluation.compare_report import (
        disagreement_lines,
        notes,
        refusals,
        summary,
        table_header,
        table_rows,
        to_json,
    )

    sides = [_runs(arguments, text) for text in (arguments.a, arguments.b)]
    try:
        found = compare(
            sides[0],
            sides[1],
            tasks=_names(arguments.tasks),
            metrics=_names(arguments.metrics),
            num_disagreements=arguments.disagreements,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.json:
        print_json(to_json(found))
    elif found.metrics:
        for side, labels in (("A", found.a), ("B", found.b)):
            print(f"{side}  {'  '.join(labels)}")
        header, right = table_header()
        print(table(table_rows(found), header, right))
        for line in disagreement_lines(found):
            print(line)
    for line in [*summary(found), *notes(found)]:
        note(line)
    for line in refusals(found):
        error_line(f"not compared, not the same task: {line}")
    if found.refused:
        return REFUSED
    if not found.metrics:
        raise UsageError("there is nothing to compare: no score of a task that both have")
    return OK


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"{text!r} has an empty name between its commas")
    return names


def _runs(arguments: Namespace, text: str) -> list[Any]:
    """The evaluations that one side of the command line means."""
    from marin.evaluation.compare import read_run

    places = [text] if os.path.exists(text) else [place.strip() for place in text.split(",")]
    if not all(places):
        raise UsageError(f"{text!r} has an empty address between its commas")
    if len(set(places)) < len(places):
        raise UsageError(f"{text!r} names an evaluation twice: it would count as two seeds")
    folders = [_folder(arguments, place) for place in places]
    try:
        return [read_run(folder, place) for folder, place in zip(folders, places, strict=True)]
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error


def _folder(arguments: Namespace, place: str) -> str:
    """Where the evaluation lies: a path as it is, or the output of a step.

    RefusedError for an output that was struck out, or was built on one: nobody should quote its scores.
    """
    if os.path.isfile(place) or os.path.isfile(os.path.join(place, "results.json")):
        return place
    below = sorted(path.parent for path in Path(place).glob("*/results.json"))
    if below:
        shown = ", ".join(map(str, below[:_SHOWN])) + (
            f" and {len(below) - _SHOWN} more" if len(below) > _SHOWN else ""
        )
        raise UsageError(f"no results.json in {place!r} itself; it has those of {shown}: name one of them")
    from marin.execution.catalog import AddressError, NoStoreError, existing_store
    from marin.execution.invalidation import Taint
    from marin.execution.outputs import find_output

    try:
        store = existing_store(prefix_of(arguments))
    except NoStoreError as error:
        raise UsageError(f"no results.json in {place!r}, and {error}") from error
    try:
        output = find_output(store, place).output
    except AddressError as error:
        if os.path.exists(place):
            raise UsageError(f"no results.json in {place!r}: it is no folder of an evaluation") from error
        raise
    trouble = Taint(store).trouble(output.state)
    if trouble is not None:
        raise RefusedError(f"{output.address} was {trouble}. Compare its folder, {output.data_path}, if you must")
    if not store.is_local:
        raise UsageError(f"{output.address} lies in {store.prefix}, and this command reads files from disk")
    return output.data_path
