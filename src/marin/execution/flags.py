"""The flags by which a person decides about a run: the same for `python FILE.py`, `marin run` and `marin plan`."""

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from marin.execution.plan import Choices, check_patterns

CLUSTER_VARIABLE = "MARIN_CLUSTER"

_DECISIONS = {
    "force-run-failed": "run again what failed in an earlier run",
    "allow-tainted": "use outputs that are struck out or built on such; the records say so",
    "accept-drift": "take stored outputs of pinned versions for today's recipes; recorded",
    "strict-code": "run again what was made by other code than today's",
    "takeover": "take steps from other runners, although they may be alive",
}


def add_decisions(parser: ArgumentParser, *, forced: str = "REGEX") -> None:
    """The flags that become `Choices`, in both spellings of a dash; `forced` says how steps to force are named."""
    parser.add_argument(
        "--force", action="append", default=[], metavar=forced, help="run this step again although it is cached"
    )
    parser.add_argument(
        "--expect-cached",
        "--expect_cached",
        action="append",
        default=[],
        metavar="REGEX",
        help="refuse to run if one of these steps would have to run",
    )
    for name, text in _DECISIONS.items():
        _add_switch(parser, name, text)


def decisions(given: Namespace, run_only: tuple[str, ...] = (), *, forced: str = "REGEX") -> Choices:
    """The choices that the flags say; SelectionError for what is no regular expression."""
    check_patterns("--expect-cached", given.expect_cached)
    if forced == "REGEX":
        check_patterns("--force", given.force)
    said = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name in _DECISIONS}
    return Choices(run_only=run_only, force=tuple(given.force), expect_cached=tuple(given.expect_cached), **said)


def words_of(given: Namespace) -> list[str]:
    """The flags of `add_decisions` as they would be typed, so that a suggested command decides the same."""
    valued = (("--force", "force"), ("--expect-cached", "expect_cached"))
    words = [word for flag, name in valued for value in getattr(given, name, ()) for word in (flag, value)]
    return words + [f"--{name}" for name in _DECISIONS if getattr(given, name.replace("-", "_"), False)]


def check_flags(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Exit as for any wrong flag, but name the flag that may have been meant."""
    import difflib

    known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    for word in arguments:
        if word == "--":
            return
        name = word.partition("=")[0]
        if word.startswith("--") and " " not in name and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"unrecognized arguments: {word}" + (f"; did you mean {near[0]}?" if near else ""))


def add_cluster(parser: ArgumentParser) -> None:
    """Where jobs run."""
    parser.add_argument(
        "--cluster",
        metavar="local|ray[:ADDRESS]",
        help="where steps with resources run: this machine, or a Ray cluster ($MARIN_CLUSTER, else local)",
    )


def add_single_runner(parser: ArgumentParser) -> None:
    """That a store without conditional writes will do."""
    _add_switch(
        parser, "single-runner", "accept an object store without conditional writes: nobody else runs on it meanwhile"
    )


def _add_switch(parser: ArgumentParser, name: str, text: str) -> None:
    """In both spellings of a dash, if it has one."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
    parser.add_argument(*spellings, action="store_true", help=text)


@contextlib.contextmanager
def chosen_cluster(name: str | None) -> Iterator[None]:
    """Inside, jobs go to the cluster of this name, else of $MARIN_CLUSTER, else where they went before."""
    name = name or os.environ.get(CLUSTER_VARIABLE)
    if not name:
        yield
        return
    from marin.cluster.current import use_cluster

    kind, _, address = name.partition(":")
    if kind == "local" and not address:
        from marin.cluster.local import LocalCluster

        cluster = LocalCluster()
    elif kind == "ray":
        from marin.cluster.ray import RayCluster

        cluster = RayCluster(address or None)
    else:
        raise ClusterNameError(f"no cluster {name!r}; there are 'local', 'ray' and 'ray:HOST:PORT'")
    with use_cluster(cluster):
        yield


class ClusterNameError(ValueError):
    """A cluster was named that does not exist."""
