"""Tasks of the installed lm-evaluation-harness over a few rows of our own, to compare ours with."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from marin.evaluation.tasks.shots import FEWSHOT_SEED

Rows = Sequence[Mapping[str, Any]]


@cache
def _config(file: str) -> dict[str, Any]:
    return load_yaml(Path(lm_eval.tasks.__file__).parent / file)


def harness_task(file: str, rows: Rows, pool: Rows = (), *, split: str, pool_split: str = "train") -> ConfigurableTask:
    """The task of a YAML file of the harness, asking `rows` with examples from `pool`; all else is the harness's."""
    found = {split: rows} | ({pool_split: pool} if pool else {})
    given = {name: datasets.Dataset.from_list([dict(row) for row in some]) for name, some in found.items()}
    own = {"dataset_path": "rows", "custom_dataset": lambda **_: datasets.DatasetDict(given)}
    config = {**_config(file), **own}
    for name in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(name) not in given:
            config[name] = None
    return ConfigurableTask(config=config)


def harness_requests(
    task: ConfigurableTask, num_fewshot: int, chat_template: Callable[..., str] | None = None, **chat: Any
) -> list[list[tuple]]:
    """The arguments of the requests of each row."""
    task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    task.build_all_requests(apply_chat_template=chat_template is not None, chat_template=chat_template, **chat)
    by_row: dict[int, list[tuple]] = {}
    for instance in task.instances:
        by_row.setdefault(instance.doc_id, []).append(instance.args)
    return list(by_row.values())
