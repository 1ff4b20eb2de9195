"""Asks a model tasks and scores its answers, each score with its standard error and the number of questions.

The model (DIR|STEP) is a folder in the Hugging Face format, a training run or one of its checkpoints, or the address
of a step that made one. Of a folder from elsewhere, without parity.json, the results say that nobody verified it.

NAMES are tasks, groups and lists, separated by commas: core, core_plus_mmlu, key_generation, key_multiple_choice,
base_generation; mmlu; arc_easy, gsm8k, ...; TASK@SHOTS asks one at so many solved examples. Their data is read from a
folder, never fetched: a task without data is skipped and counted, and the command that fetches it is shown. A path that
ends in .jsonl (.gz, .zst), .json, .parquet or .arrow is a file of your own questions, a row each: {"query": text,
"choices": [texts], "gold": index of the right one}; NAME=PATH gives it a name.

Scores are kept in evaluations/MODEL/TASKS-IDENTITY, by what identifies the evaluation: the model's files, the tasks'
questions, all settings, and the version of marin's scoring. Another evaluation stands beside it. The same command
typed again goes on behind the last task that was done, or says that all are.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from marin.cli.eval_report import checkpoints_table, scores_table, tell_of
from marin.cli.experiment import add_prefix_argument
from marin.cli.models import find_model
from marin.cli.output import RefusedError, UsageError, error_line, note, print_json

EXAMPLES = """\
  marin eval models/gpt2 --tasks core,mmlu,gsm8k
  marin eval checkpoints/quickstart --tasks arc_easy@10 --limit 200      a training step's last checkpoint
  marin eval checkpoints/quickstart --tasks core --all-checkpoints       a table and a curve
  marin eval models/gpt2 --tasks arc_easy,mine=questions.jsonl@5         your own questions too
  marin eval models/gpt2 --tasks arc_easy --harness                      lm-evaluation-harness's own task, on our engine
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR|STEP", help="a model, run or checkpoint, or a step's address")
    parser.add_argument("--tasks", metavar="NAMES", default="core", help="tasks, groups and lists, by commas (core)")
    parser.add_argument(
        "--shots", type=int, metavar="N", help="solved examples of every task without its own @N (else the task's own)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each task")
    parser.add_argument(
        "--data", metavar="DIR", help="the tasks' data ($MARIN_EVAL_DATA, else $MARIN_SHARED_DATA/eval)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="for results.json, samples.jsonl; not of another evaluation (evaluations/MODEL/TASKS-IDENTITY)",
    )
    parser.add_argument("--metrics", choices=("lm_eval", "core"), default="lm_eval", help="core adds the CORE average")
    parser.add_argument("--seed", type=int, default=1234, metavar="N", help="draws solved examples (1234)")
    parser.add_argument("--checkpoint", metavar="NAME", help="of a run: checkpoints/step-... or a number of steps")
    parser.add_argument("--all-checkpoints", action="store_true", help="of a run: every one, with a curve")
    parser.add_argument(
        "--every", type=int, metavar="N", help="with --all-checkpoints: steps that N divides, and the last"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="of a checkpoint (else that of the run's config or of its token stores' record)",
    )
    parser.add_argument("--average", action="store_true", help="of a run: the running average of its parameters")
    parser.add_argument("--allow-unverified", action="store_true", help="also an export changed since it was verified")
    parser.add_argument(
        "--harness",
        action="store_true",
        help="tasks of lm-evaluation-harness, on our engine; it reads its data from the hub, not --data",
    )
    parser.add_argument("--include", metavar="DIR", help="with --harness: YAML files of tasks, instead of its own")
    parser.add_argument("--chat", action="store_true", help="ask in the chat template of the model")
    parser.add_argument("--single-turn", action="store_true", help="with --chat: solved examples in the user's turn")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system's turn, before a task's description")
    parser.add_argument(
        "--allow-code-execution", action="store_true", help="run what the model writes for tasks named in --tasks"
    )
    parser.add_argument("--subtasks", action="store_true", help="print the tasks of groups too, as mmlu's 57")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="the results as one JSON object")


def run(arguments: Namespace) -> int:
    from marin.config import ConfigError

    _check(arguments)
    path, name = find_model(arguments)
    try:
        if arguments.harness:
            return _with_harness(arguments, path, name)
        config = _config(arguments, path, name)
        if arguments.all_checkpoints:
            return _all_checkpoints(arguments, config)
        return _one_model(arguments, config)
    except (ValueError, FileNotFoundError, ImportError, ConfigError) as error:
        raise UsageError(str(error)) from error


def _output(arguments: Namespace, config: Any, identity: str) -> str:
    """The folder that is named, or that of the evaluation below what the config has."""
    from marin.evaluation.identity import default_folder

    if arguments.output and os.path.isfile(arguments.output):
        raise UsageError(f"-o {arguments.output} is a file; name a folder for results.json and samples.jsonl")
    if arguments.output and os.path.realpath(arguments.output) == os.path.realpath(config.model_path):
        raise UsageError(f"-o {arguments.output} is the model's own folder; results stand in another one")
    return arguments.output or str(default_folder(config.output_path, config.tasks, identity))


def _check(arguments: Namespace) -> None:
    for name in ("limit", "every"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if arguments.shots is not None and arguments.shots < 0:
        raise UsageError(f"--shots {arguments.shots}: expected 0 or more")
    if arguments.every is not None and not arguments.all_checkpoints:
        raise UsageError("--every goes with --all-checkpoints")
    if arguments.all_checkpoints and (arguments.checkpoint or arguments.harness):
        raise UsageError("--all-checkpoints goes neither with --checkpoint nor with --harness")
    if arguments.harness and (arguments.average or arguments.metrics != "lm_eval"):
        raise UsageError("--average and --metrics core do not go with --harness")
    if arguments.include and not arguments.harness:
        raise UsageError("--include goes with --harness")
    if (arguments.single_turn or arguments.system is not None) and not arguments.chat:
        raise UsageError("--single-turn and --system go with --chat")


def _config(arguments: Namespace, path: str, name: str) -> Any:
    """What is asked; its output_path is the folder of all evaluations of the model."""
    from marin.cli.recorded import tokenizer_of_run
    from marin.evaluation.config import TaskEvaluationConfig
    from marin.evaluation.tasks.catalog import resolve_tasks

    return TaskEvaluationConfig(
        model_path=path,
        output_path=os.path.join("evaluations", name),
        tasks=resolve_tasks(arguments.tasks, arguments.shots),
        data_path=arguments.data,
        checkpoint=_checkpoint(arguments.checkpoint),
        tokenizer_path=arguments.tokenizer or tokenizer_of_run(path),
        average=arguments.average,
        limit=arguments.limit,
        fewshot_seed=arguments.seed,
        metrics=arguments.metrics,
        apply_chat_template=arguments.chat,
        fewshot_as_multiturn=not arguments.single_turn,
        system_instruction=arguments.system,
        allow_code_execution=_may_run_code(arguments),
        allow_unverified=arguments.allow_unverified,
    )


def _may_run_code(arguments: Namespace) -> tuple[str, ...]:
    """Tasks that were typed by their own name; one that comes in a list or group only may not run code."""
    words = [word.partition("@")[0].strip() for word in arguments.tasks.split(",")]
    return tuple(words) if arguments.allow_code_execution else ()


def _checkpoint(given: str | None) -> str | None:
    if given is None:
        return None
    if given.isdecimal():
        return f"checkpoints/step-{int(given):08d}"
    return given if "/" in given else f"checkpoints/{given}"


_FEW_UNUSED = 1024
"""Rows of a model's vocabulary beyond its tokenizer's, and beyond a tenth of them, that no padding would explain."""


def _one_model(arguments: Namespace, config: Any) -> int:
    from marin.evaluation.task_step import (
        configured_chat,
        evaluate_model,
        open_configured,
        plan_configured,
        record_configured,
    )

    model = open_configured(config)
    unused = model.scored.vocab_size - model.tokenizer.vocab_size
    if unused > _FEW_UNUSED + model.scored.vocab_size // 10:
        note(
            f"the tokenizer has {model.tokenizer.vocab_size:,} tokens and the model {model.scored.vocab_size:,}: is it "
            "the one that the model was trained with? (--tokenizer)"
        )
    plan = plan_configured(config, configured_chat(config, model.tokenizer))
    record = record_configured(model, config, plan)
    output = _output(arguments, config, record.identity)
    results = _done_or_made(
        output, record, lambda: evaluate_model(model, config, plan, output, quiet=True), beside=not arguments.output
    )
    _show(arguments, results)
    if not results["tasks"]:
        if arguments.data is None and not {"MARIN_EVAL_DATA", "MARIN_SHARED_DATA"} & os.environ.keys():
            note("data are looked for in ./eval_data, for there is no --data, MARIN_EVAL_DATA or MARIN_SHARED_DATA")
        error_line(f"none of the {len(results['skipped'])} tasks could be asked")
        return 1
    note(f"Next: {Path(output) / 'samples.jsonl'} has every question and answer")
    return 0


def _done_or_made(output: str, record: Any, make: Callable[[], object], *, beside: bool) -> Any:
    """results.json of an evaluation: what is there, or what `make` writes. `beside`: others' are in the same folder."""
    from marin.evaluation.identity import find_done, tell_of_others
    from marin.evaluation.results import read_results

    done = find_done(output, record, lambda reason: None)
    if done is not None:
        note(f"done already, nothing is asked again: {output}")
        return done
    note(f"results go to {output}")
    if beside:
        tell_of_others(Path(output), record, note)
    make()
    return read_results(output)


def _show(arguments: Namespace, results: Any) -> None:
    if arguments.json:
        print_json({"results": results})
    else:
        print(scores_table(results, members=arguments.subtasks))
    tell_of(results)
    if arguments.metrics == "core" and not any(entry["group"] == "core" for entry in results["groups"].values()):
        note("no CORE average: none of its tasks was asked at its number of examples; --tasks dclm_core asks them all")


def _all_checkpoints(arguments: Namespace, config: Any) -> int:
    import json

    from marin.evaluation.checkpoints import identity_of_all, plan_all, run
    from marin.evaluation.config import CheckpointsConfig
    from marin.evaluation.results import read_results

    plan = plan_all(config)
    output = _output(arguments, config, identity_of_all(config, plan, arguments.every))
    note(f"results go to {output}")
    whole = CheckpointsConfig(evaluation=replace(config, output_path=output), every=arguments.every)
    path = run(whole, quiet=True, plan=plan)
    summary = json.loads(path.read_text(encoding="utf-8"))
    if arguments.json:
        print_json({"checkpoints": summary})
    else:
        print(checkpoints_table(summary))
    tell_of(read_results(path.parent / f"step-{summary['steps'][-1]:08d}"))
    note(f"Next: {path.parent / 'curve.svg'} has the curves")
    return 0


def _with_harness(arguments: Namespace, path: str, name: str) -> int:
    from marin.cli.recorded import tokenizer_of_run
    from marin.evaluation.config import LmHarnessConfig
    from marin.evaluation.lm_harness_step import own_shots, prepare, task_manager
    from marin.evaluation.tasks import EvalTaskConfig

    given: list[tuple[str, int | None]] = []
    for word in arguments.tasks.split(","):
        task, mark, shots = word.strip().partition("@")
        if mark and not shots.isdecimal():
            raise UsageError(f"'{word}': expected a number of examples behind @, as in {task}@5")
        given.append((task, int(shots) if mark else arguments.shots))
    try:
        with _stdout_to_stderr():
            manager = task_manager(arguments.include, arguments.include is None)
            config = LmHarnessConfig(
                model_path=path,
                output_path=os.path.join("evaluations", name),
                tasks=tuple(
                    EvalTaskConfig(task, own_shots(task, manager) if shots is None else shots) for task, shots in given
                ),
                include_path=arguments.include,
                include_defaults=arguments.include is None,
                checkpoint=_checkpoint(arguments.checkpoint),
                tokenizer_path=arguments.tokenizer or tokenizer_of_run(path),
                limit=arguments.limit,
                apply_chat_template=arguments.chat,
                fewshot_as_multiturn=not arguments.single_turn,
                system_instruction=arguments.system,
                fewshot_seed=arguments.seed,
                allow_unverified=arguments.allow_unverified,
            )
            evaluation = prepare(config, manager)
            output = _output(arguments, config, evaluation.record.identity)
            again = not arguments.output
            results = _done_or_made(output, evaluation.record, lambda: evaluation.run(output), beside=again)
    except ConnectionError as error:
        reason = str(error).partition("\n")[0]
        raise RefusedError(
            f"the harness could not fetch the data of its tasks from the hub: {reason}. Fetch them where there is a "
            "network (they are kept in the hub's cache), or leave --harness out: marin's own tasks read --data"
        ) from error
    _show(arguments, results)
    return 0


def _stdout_to_stderr() -> Any:
    """What a library prints is not the command's data."""
    import contextlib

    return contextlib.redirect_stdout(sys.stderr)
