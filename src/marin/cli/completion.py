"""Prints a script that makes bash, zsh or fish complete marin's commands, flags, steps, runs, refs and experiments.

The script asks `marin completion SHELL -- WORDS...` for what can come next, so it never needs to be renewed.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from marin.cli.output import UsageError, note

EXAMPLES = """\
  marin completion bash >> ~/.bashrc
  marin completion zsh >> ~/.zshrc
  marin completion fish > ~/.config/fish/completions/marin.fish
"""

_SCRIPTS = {
    "bash": """\
_marin() {
    local IFS=$'\\n'
    COMPREPLY=($(marin completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    case "${COMPREPLY[0]}" in */) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _marin marin
""",
    "zsh": """\
_marin() {
    local -a found
    found=("${(@f)$(marin completion zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${#found} )) && [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _marin marin
""",
    "fish": """\
function __marin_complete
    set -l words (commandline -opc) (commandline -ct)
    marin completion fish -- $words[2..-1] 2>/dev/null
end
complete -c marin -f -a '(__marin_complete)'
""",
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", metavar="bash|zsh|fish", help="the shell")
    parser.add_argument(
        "words", metavar="WORD", nargs="*", default=[], help="after --: the words typed so far, the last unfinished"
    )


def run(arguments: Namespace) -> int:
    if arguments.shell not in _SCRIPTS:
        raise UsageError(f"no completion for {arguments.shell!r}; there is {', '.join(_SCRIPTS)}")
    if arguments.words or "--" in arguments.typed:
        for word in candidates(arguments.words or [""]):
            print(word)
        return 0
    print(_SCRIPTS[arguments.shell], end="")
    if sys.stdout.isatty():
        note(f"Next: add this to your shell's start-up file, as by `marin completion {arguments.shell} >> FILE`")
    return 0


def candidates(words: list[str]) -> list[str]:
    """What the last of the words, which may be empty, can be completed to; [] leaves it to the shell."""
    from marin.cli.main import COMMANDS, GROUPS, find_command

    *before, start = words
    if not before:
        return _beginning(start, [*COMMANDS, "--help", "--version"])
    if before[0] not in COMMANDS:
        return []
    name, given = find_command(before)
    if name in GROUPS:
        return [] if given else _beginning(start, [*_module(name).VERBS, "--help"])
    parser = _parser(name)
    options = {text: action for action in parser._actions for text in action.option_strings}
    if start.startswith("-"):
        return _flags(parser, start)
    option = options.get(before[-1])
    if option is not None and option.choices is not None:
        return _beginning(start, map(str, option.choices))
    if option is not None and option.nargs != 0:
        return _of_kind(str(option.metavar or ""), start, before)
    return _of_kind(_positional(parser, options, given), start, before)


def _parser(command: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"marin {command}")
    _module(command).add_arguments(parser)
    return parser


def _module(command: str) -> Any:
    import importlib

    return importlib.import_module("marin.cli." + command.replace("-", "_").replace(" ", "."))


def _positional(parser: ArgumentParser, options: dict[str, Any], given: list[str]) -> str:
    """The metavar of the argument that comes next, after the words of a command that were given."""
    kinds = [action for action in parser._actions if not action.option_strings]
    number, takes_value = 0, False
    for word in given:
        if takes_value:
            takes_value = False
        elif word.startswith("-"):
            takes_value = word in options and options[word].nargs != 0
        else:
            number += 1
    if number < len(kinds):
        return str(kinds[number].metavar)
    return str(kinds[-1].metavar) if kinds and kinds[-1].nargs in ("*", "+") else ""


def _of_kind(kind: str, start: str, words: list[str]) -> list[str]:
    """Candidates for an argument by its metavar, like STEP or FILE.py|RUN."""
    if kind and kind == kind.lower():  # literal words: steps|runs
        return _beginning(start, kind.split("|"))
    found: list[str] = []
    for part in kind.split("|"):
        if part == "FILE.py":
            found += _files(start)
        elif part == "STEP":
            found += _beginning(start, _steps(words))
        elif part in ("ADDRESS", "A", "B"):
            found += _beginning(start, [*_steps(words), *_refs(words)])
        elif part == "RUN" and (start or "ADDRESS" not in kind):  # there are too many to list beside everything else
            found += _beginning(start, _runs(words))
        elif part == "REF":
            found += _beginning(start, _refs(words))
    return list(dict.fromkeys(found))


def _flags(parser: ArgumentParser, start: str) -> list[str]:
    """Flags that begin like this; of two spellings of one, the first."""
    found: list[str] = []
    for action in parser._actions:
        matches = _beginning(start, action.option_strings)
        found += [text for text in matches if not text.startswith("--")]
        found += [text for text in matches if text.startswith("--")][:1]
    return found


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(start)]


def _files(start: str) -> list[str]:
    """Python files and folders."""
    folder, base = os.path.split(start)
    try:
        items = sorted(os.scandir(folder or "."), key=lambda item: item.name)
    except OSError:
        return []
    found = []
    for item in items:
        if item.name.startswith(base) and (base or not item.name.startswith((".", "_"))):
            path = os.path.join(folder, item.name)
            if item.is_dir():
                found.append(path + "/")
            elif item.name.endswith(".py"):
                found.append(path)
    return found


def _store(words: list[str]) -> Any:
    from marin.execution.catalog import existing_store
    from marin.execution.executor import default_prefix

    given = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--prefix"]
    given += [word.partition("=")[2] for word in words if word.startswith("--prefix=")]
    return existing_store(given[-1] if given else default_prefix())


def _steps(words: list[str]) -> list[str]:
    from marin.execution.catalog import steps_of
    from marin.execution.status import RUNNING

    steps = steps_of(_store(words))
    if words[0] == "cancel":
        steps = [step for step in steps if step.status == RUNNING]
    return list(dict.fromkeys(step.name for step in steps))


def _runs(words: list[str]) -> list[str]:
    from marin.execution.catalog import runs_of
    from marin.execution.status import RUNNING

    runs = runs_of(_store(words))
    return [run.run_id for run in runs if words[0] != "cancel" or run.record.get("status") == RUNNING]


def _refs(words: list[str]) -> list[str]:
    from marin.execution.refs import ref_names

    return ref_names(_store(words))
