"""Compares outputs with their records: every file there, of the recorded size, and none too many.

With --deep every byte is read again and compared by SHA-256. An output that differs is struck out: it is not served any
more, nor is what was built on it. The exit code is 4 if anything differs or a register cannot be read. Outputs that a
later one replaced are looked at too, and only told of; not those that were struck out before.

ADDRESS: a step's name (all outputs of that name), name@digits, a ref, the first digits of a digest, or a path.
Without one, everything in the store.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_writing_arguments, hint, store_to_write
from marin.cli.output import UsageError, note, paint, print_json, size

EXAMPLES = """\
  marin verify                                  names and sizes of everything in the store
  marin verify checkpoints/quickstart --deep    every byte of one step's outputs
  marin verify --deep --dry-run                 look, but strike nothing out
"""

_EVERY_S = 0.5
_EVERY_S_PIPED = 30.0
_MAX_SHOWN = 10


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "addresses", metavar="ADDRESS", nargs="*", default=[], help="step name, name@digits, ref, digest, or path"
    )
    parser.add_argument("--deep", action="store_true", help="read every byte")
    parser.add_argument("--dry-run", action="store_true", help="write nothing down and strike nothing out")
    add_writing_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.status import current_user
    from marin.execution.store import PrefixError
    from marin.execution.verify import verify

    try:
        store = store_to_write(arguments, writes=not arguments.dry_run)
    except PrefixError as error:
        raise UsageError(f"{error}; or have a look without writing down what is found: --dry-run") from None
    entries, num_unreadable = _chosen(store, arguments.addresses)
    expected = sum(entry.num_bytes or 0 for entry in entries) if arguments.deep else 0
    progress = _Progress(expected)
    found = []
    for one in verify(
        store,
        entries,
        deep=arguments.deep,
        dry_run=arguments.dry_run,
        user=current_user(),
        on_progress=progress.read,
    ):
        found.append(one)
        if not arguments.json:
            progress.clear()
            _show(one)
    progress.clear()
    broken = [one for one in found if not one.is_ok]
    is_ok = not broken and not num_unreadable
    if arguments.json:
        print_json({"ok": is_ok, "unreadable": num_unreadable, "outputs": [one.to_json() for one in found]})
    else:
        note(_summary(found, broken, num_unreadable, arguments))
    return 0 if is_ok else 4


def _chosen(store: Any, addresses: list[str]) -> tuple[list[Any], int]:
    """(the steps that are meant; of a bare name all of that name, how many have a register that cannot be read).

    Raises AddressError, RegisterError.
    """
    from marin.execution.catalog import find_step, steps_of

    steps = steps_of(store)
    if not addresses:
        unreadable = [step for step in steps if step.trouble is not None]
        for step in unreadable:
            note(f"{paint('unreadable', 'red')}  {step.trouble}")
        return steps, len(unreadable)
    chosen = {}
    for address in addresses:
        named = [step for step in steps if step.name == address]
        for step in named or [find_step(store.prefix, address)]:
            chosen[step.paths.root] = None
    return [step for step in steps if step.paths.root in chosen], 0


def _show(one: Any) -> None:
    head = f"{one.name} @{one.digest[:6]}{'' if one.is_current else f' attempt {one.attempt}, replaced since'}"
    if one.is_ok:
        read = f", {size(one.num_bytes)} read" if one.deep else ""
        print(f"{paint('ok', 'green')}       {head}  {one.num_files} file{'s' * (one.num_files != 1)}{read}")
        return
    print(f"{paint('differs', 'red')}  {head}")
    for difference in one.differences[:_MAX_SHOWN]:
        print(f"         {difference.text}")
    if len(one.differences) > _MAX_SHOWN:
        print(f"         ... and {len(one.differences) - _MAX_SHOWN} more")


def _summary(found: list[Any], broken: list[Any], num_unreadable: int, arguments: Namespace) -> str:
    how = "every byte" if arguments.deep else "names and sizes"
    if num_unreadable:
        unreadable = f"{num_unreadable} register{'s' * (num_unreadable != 1)} cannot be read"
        return f"{unreadable}; {len(broken)} of {len(found)} outputs differ ({how})"
    if not found:
        return "no outputs to verify"
    if not broken:
        text = f"{len(found)} output{'s' * (len(found) != 1)} verified ({how})"
        words = ["marin", "ls"] if arguments.deep else ["marin", "verify", *arguments.addresses, "--deep"]
        return f"{text}\nNext: {hint(words, arguments)}"
    struck = "" if arguments.dry_run else "; what differs is not served any more"
    words = ["marin", "show", f"{broken[0].name}@{broken[0].digest[:6]}"]
    return f"{len(broken)} of {len(found)} outputs differ ({how}){struck}\nNext: {hint(words, arguments)}"


class _Progress:
    """How many bytes were read: one line that redraws itself on a terminal, else a line now and then."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._read = 0
        self._is_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._is_drawn = False

    def read(self, name: str, num_bytes: int) -> None:
        self._read += num_bytes
        now = time.monotonic()
        if now - self._shown < (_EVERY_S if self._is_terminal else _EVERY_S_PIPED):
            return
        self._shown = now
        rate = size(int(self._read / (now - self._started)))
        text = f"{size(self._read)} of {size(self._expected)} read, {rate}/s  {name}"
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._is_drawn = True
        else:
            note(text)

    def clear(self) -> None:
        if self._is_drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._is_drawn = False
