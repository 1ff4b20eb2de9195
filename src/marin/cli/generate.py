"""Completes prompts with a model.

MODEL is a folder in the Hugging Face format, a training run or one of its checkpoints, or the address of a step that
made one. Prompts are read from --prompts FILE: of a .jsonl file each line's "prompt", of another file each line; - is
stdin.
A prompt longer than the model can read and write on from loses tokens on its left, which is said.
"""

import json
import math
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.experiment import add_prefix_argument
from marin.cli.models import find_model
from marin.cli.output import UsageError, note, print_json, table

EXAMPLES = """\
  marin generate exports/quickstart --prompt 'def add(a, b):'
  marin generate models/gpt2 --prompts prompts.jsonl --temperature 0.8 --top-p 0.95 --samples 4 --json
  marin generate models/gpt2 --prompt 'Once upon a time' --stop '\\n' --log-probs
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_model_arguments(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be given several times")
    prompts.add_argument("--prompts", metavar="FILE", help="prompts, one a line, or .jsonl; - is stdin")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help=r"ends a completion; \n is a newline"
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="completions of each prompt (1)")
    add_sampling_arguments(parser, temperature=0.0)
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="completions at a time (16)")
    parser.add_argument("--log-probs", action="store_true", help="with the log-probability of every token")
    parser.add_argument("--json", action="store_true", help="the completions as one JSON object")


def add_model_arguments(parser: ArgumentParser) -> None:
    """Which model: what `generate` and `chat` have in common."""
    parser.add_argument("model", metavar="MODEL", help="folder of a model, a run or a checkpoint, or a step's address")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="of a checkpoint (else that of the run's config or of its token stores' record)",
    )
    parser.add_argument("--allow-unverified", action="store_true", help="also an export changed since it was verified")
    add_prefix_argument(parser)


def add_sampling_arguments(parser: ArgumentParser, *, temperature: float) -> None:
    """How tokens are chosen."""
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="most tokens of each (128)")
    parser.add_argument(
        "--temperature", type=float, default=temperature, metavar="X", help=f"0 is greedy ({temperature:g})"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="only the N most probable tokens")
    parser.add_argument("--top-p", type=float, metavar="X", help="only the most probable tokens that sum to X")
    parser.add_argument("--min-p", type=float, metavar="X", help="only tokens X times as probable as the first")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: repeat less (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (0)")


def run(arguments: Namespace) -> int:
    from marin.inference.text import generate_text

    prompts = _prompts(arguments)
    model = open_model_of(arguments)
    sampling = sampling_of(arguments)
    streams = sys.stdout.isatty() and len(prompts) == 1 and arguments.samples == 1 and not arguments.json
    if streams:
        print(prompts[0], end="", flush=True)
    try:
        completions = generate_text(
            model.loaded,
            model.tokenizer,
            prompts,
            max_new_tokens=new_tokens_of(arguments, model),
            stop=[text.replace("\\n", "\n").replace("\\t", "\t") for text in arguments.stop],
            sampling=sampling,
            num_samples=arguments.samples,
            seed=arguments.seed,
            document_prefix=model.document_prefix,
            batch_size=arguments.batch_size,
            on_text=(lambda _, text: print(text, end="", flush=True)) if streams else None,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    rows = [(prompts[i // arguments.samples], completion) for i, completion in enumerate(completions)]
    if arguments.json:
        print_json({"completions": [_as_json(p, c, arguments.log_probs) for p, c in rows], "model": model.description})
    elif streams:
        print()
    for number, (prompt, completion) in enumerate(rows):
        if not arguments.json and not streams:
            print(("\n" if number else "") + prompt + completion.text)
        if arguments.log_probs and not arguments.json:
            print(token_table(model.tokenizer, completion))
    num_cut = sum(completion.num_prompt_tokens_cut > 0 for completion in completions[:: arguments.samples])
    if num_cut:
        note(f"{num_cut} of {len(prompts)} prompts were cut on the left: the model reads {model.loaded.config.seq_len}")
    return 0


def open_model_of(arguments: Namespace) -> Any:
    """The model that the command line names, a `marin.evaluation.exported.ExportedModel`. UsageError without one."""
    from marin.cli.recorded import tokenizer_of_run
    from marin.config import ConfigError
    from marin.evaluation.models import open_model

    path, _ = find_model(arguments)
    try:
        model = open_model(
            path, tokenizer=arguments.tokenizer or tokenizer_of_run(path), allow_unverified=arguments.allow_unverified
        )
    except (ValueError, FileNotFoundError, ConfigError) as error:
        raise UsageError(str(error)) from error
    if model.description.get("verified") is not True:
        note("nobody verified that this model computes what its checkpoint did")
    return model


def sampling_of(arguments: Namespace) -> Any:
    """The sampling that the command line asks for. UsageError for one that makes no sense."""
    from marin.inference.sampling import Sampling

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    try:
        sampling = Sampling(**{name: getattr(arguments, name) for name in names})
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from error
    if arguments.temperature == 0:
        ignored = [f"--{name.replace('_', '-')}" for name in ("top_k", "top_p", "min_p") if getattr(arguments, name)]
        ignored += ["--samples"] if getattr(arguments, "samples", 1) > 1 else []
        if ignored:
            raise UsageError(
                f"--temperature 0 takes the most probable token each time, so {' and '.join(ignored)} would change "
                "nothing: give --temperature 0.8, or leave out what needs draws"
            )
    return sampling


def new_tokens_of(arguments: Namespace, model: Any) -> int:
    """--max-new-tokens, or half of what the model reads if that is less: the other half is the prompt's."""
    if arguments.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {arguments.max_new_tokens}: expected 1 or more")
    most = max(1, model.loaded.config.seq_len // 2)
    if arguments.max_new_tokens > most:
        note(f"at most {most} new tokens: the model reads {model.loaded.config.seq_len}, and half is for the prompt")
    return min(arguments.max_new_tokens, most)


def token_table(tokenizer: Any, completion: Any) -> str:
    """Every token of a completion with its probability."""
    pairs = zip(completion.tokens, completion.log_probs.tolist(), strict=True)
    rows = [(repr(tokenizer.decode([token])), f"{value:.4f}", f"{math.exp(value):.4f}") for token, value in pairs]
    return table(rows, ("token", "log p", "p"), right=(1, 2))


def _as_json(prompt: str, completion: Any, with_log_probs: bool) -> dict[str, Any]:
    row = {
        "prompt": prompt,
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_prompt_tokens_cut": completion.num_prompt_tokens_cut,
    }
    return row | ({"log_probs": completion.log_probs.tolist()} if with_log_probs else {})


def _prompts(arguments: Namespace) -> list[str]:
    for name in ("samples", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: expected 1 or more")
    if not all(arguments.stop):
        raise UsageError("--stop '': expected some text")
    if arguments.prompt is not None:
        return arguments.prompt
    try:
        text = sys.stdin.read() if arguments.prompts == "-" else Path(arguments.prompts).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {arguments.prompts}: {error}") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    if arguments.prompts.endswith(".jsonl"):
        lines = [_prompt_of(line, f"{arguments.prompts}:{number}") for number, line in enumerate(lines, 1)]
    if not lines:
        raise UsageError(f"--prompts {arguments.prompts}: no prompt in it")
    return lines


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UsageError(f'{where}: expected an object like {{"prompt": "..."}}, got {line[:80]}')
    return row["prompt"]
