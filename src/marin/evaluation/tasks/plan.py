"""Which tasks a run asks, each once for a number of solved examples, and under which names their scores are listed."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from marin.evaluation.tasks.catalog import GROUPS, task_names
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.lists import EvalTaskConfig

_Asking = tuple[str, int]  # name of a task or group, number of examples

_CORE_NAME = re.compile(r"CORE-\d+")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A task as one run asks it."""

    key: str
    """What its scores are listed under."""
    definition: TaskDefinition
    num_fewshot: int


@dataclass(frozen=True, kw_only=True)
class AskedGroup:
    """A group over tasks of one run."""

    key: str
    """What its score is listed under."""
    name: str
    num_fewshot: int
    members: tuple[str, ...]
    """Keys of its tasks."""


def planned(
    configs: Sequence[EvalTaskConfig], known: Mapping[str, TaskDefinition]
) -> tuple[list[Asked], list[AskedGroup]]:
    """Tasks in their order, each once for a number of examples, and the groups over them with the groups within.

    A task or group is listed under its alias, else its name, with @SHOTS behind it where one run has it at several.

    Raises ValueError for an unknown name, for two aliases of one task or group, and where two would be listed under
    the same key.
    """
    tasks: dict[_Asking, list[str]] = {}
    groups: dict[_Asking, list[str]] = {}
    for config in configs:
        shots = config.num_fewshot
        if config.name in known:
            tasks.setdefault((config.name, shots), []).extend(_given(config))
            continue
        for task in task_names(config.name):
            tasks.setdefault((task, shots), [])
        for group in _with_subgroups(config.name):
            groups.setdefault((group, shots), []).extend(_given(config) if group == config.name else ())
    task_keys, group_keys = _keys(tasks), _keys(groups)
    doubled = [key for key, count in Counter([*task_keys.values(), *group_keys.values()]).items() if count > 1]
    if doubled:
        raise ValueError(
            f"two tasks or groups would be listed under '{doubled[0]}'; give one of them another task_alias"
        )
    taken = [key for key in (*task_keys.values(), *group_keys.values()) if _CORE_NAME.fullmatch(key)]
    if taken:
        raise ValueError(f"task_alias '{taken[0]}' is what a CORE average is listed under; give another one")
    return (
        [Asked(key=key, definition=known[name], num_fewshot=shots) for (name, shots), key in task_keys.items()],
        [
            AskedGroup(
                key=key,
                name=name,
                num_fewshot=shots,
                members=tuple(task_keys[task, shots] for task in task_names(name)),
            )
            for (name, shots), key in group_keys.items()
        ],
    )


def _given(config: EvalTaskConfig) -> tuple[str, ...]:
    return () if config.task_alias is None else (config.task_alias,)


def _keys(aliases: Mapping[_Asking, Iterable[str]]) -> dict[_Asking, str]:
    times = Counter(name for name, _ in aliases)
    keys = {}
    for (name, shots), given in aliases.items():
        different = list(dict.fromkeys(given))
        if len(different) > 1:
            raise ValueError(
                f"'{name}' at {shots} examples has two names, task_alias '{different[0]}' and '{different[1]}'; it is "
                "asked once, so give one"
            )
        keys[name, shots] = different[0] if different else f"{name}@{shots}" if times[name] > 1 else name
    return keys


def _with_subgroups(name: str) -> list[str]:
    return [name, *(inner for member in GROUPS[name] if member in GROUPS for inner in _with_subgroups(member))]
