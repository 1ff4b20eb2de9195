"""What makes two evaluations the same one, where an evaluation is kept, and whether it is done.

An evaluation is known before a question is asked: by the model (its files by hash), the settings, the rules by which it
is scored, with `EVALUATION_VERSION` among them, and the hash of each task's questions. The sha256 over all that is its
identity. It stands in results.json and in the name of the folder where nobody names one. So another evaluation stands
beside this one, the same one is found done, and the same command on changed data is another evaluation. The price: a
model or a task that changes has to be read before it is known where its scores are.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from marin.evaluation.compare_read import read_run
from marin.evaluation.results import RESULTS_FILE, as_json, read_results
from marin.evaluation.tasks.catalog import LISTS
from marin.evaluation.tasks.lists import EvalTaskConfig

EVALUATION_VERSION = 4
"""Raised whenever the same questions, asked of the same model, would get other log-likelihoods, texts, scores or errors
than before. What was scored under another version is not taken for done. 2: bits_per_byte divides by all that was
scored, delimiter and moved whitespace too; so is that whitespace what acc_mutual_info subtracts. 3: the
error of CORE counts that a task at two numbers of shots asks the same documents. 4: a program that closes its output
may pass; an empty choice is never the best by its length."""

_VERSION = "evaluation_version"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What an evaluation is, before it is made."""

    model: Mapping[str, Any]
    """The model, by content."""
    config: Mapping[str, Any]
    """What was asked for."""
    policy: Mapping[str, Any]
    """By which rules it is scored."""
    asked: Mapping[str, str]
    """Key of each task that can be asked -> sha256 over its questions and what is told of them."""

    @property
    def identity(self) -> str:
        """sha256 over all of it, 64 hex digits."""
        return hashlib.sha256(json.dumps(as_json(asdict(self)), sort_keys=True).encode()).hexdigest()

    def answering_conditions(self) -> dict[str, Any] | None:
        """On what the answer to a question depends but for the question, for what a run that was stopped has kept.

        That is the model, the rules with EVALUATION_VERSION, and the source of marin's code that asks. The version is
        raised by a person who knows that scores change; the source notices what nobody thought of: an edit of a comment
        there asks again, which costs less than a score of two programs. None of a model that is not known by the
        content of its weights, which may have changed in the meantime.
        """
        if not self.model.get("weights_sha256"):
            return None
        return as_json({**self.model, **self.policy, "source_sha256": _source_digest()})


def default_folder(base: str | Path, tasks: Sequence[EvalTaskConfig], identity: str) -> Path:
    """Where an evaluation is kept if nobody says: below `base` by its tasks, in words, and its identity."""
    return Path(base) / f"{_in_words(tasks)}-{identity[:8]}"


def _in_words(tasks: Sequence[EvalTaskConfig]) -> str:
    """`core-gsm8k`: lists by their name, other tasks by theirs."""
    words: list[str] = []
    rest = tuple(tasks)
    while rest:
        name, size = rest[0].name, 1
        for each, members in LISTS.items():
            if len(members) > size and rest[: len(members)] == members:
                name, size = each, len(members)
        words.append(name)
        rest = rest[size:]
    return re.sub(r"[^\w.-]+", "-", "-".join(dict.fromkeys(words)))[:40].strip("-.")


def find_done(folder: str | Path, record: EvaluationRecord, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """results.json in a folder, where it is of this evaluation; None where it is still to be made.

    Results in the folder that an earlier EVALUATION_VERSION scored, or that lack tasks which have data now, are to be
    made again, and so are damaged ones; `tell` gets the reason. Raises ValueError for those of another evaluation:
    another model, other settings, or other questions; they would be overwritten.
    """
    if not (Path(folder) / RESULTS_FILE).is_file():
        return None
    try:
        before = read_results(folder)
        if before.get("identity") == record.identity:
            read_run(folder)
            return before
    except (ValueError, FileNotFoundError) as error:
        tell(f"scored again: {error}")
        return None
    version, others = _differences(before, record)
    if others:
        raise ValueError(
            f"{folder} has the results of another evaluation ({'; '.join(others)}). Give another folder to write to, "
            "or take that one away"
        )
    new = [key for key in record.asked if key not in before["tasks"]]
    if version is not None:
        tell(f"{folder}: scored again, {version}")
    elif new:
        tell(f"{folder}: scored again, it lacks {', '.join(new[:5])}{' and others' * (len(new) > 5)}")
    return None


def tell_of_others(folder: Path, record: EvaluationRecord, tell: Callable[[str], None]) -> None:
    """Say why an evaluation that is still to be made is not one that stands beside its folder: one of the same model
    with the same settings, under another EVALUATION_VERSION or of other questions."""
    for path in sorted(folder.parent.glob(f"*/{RESULTS_FILE}")):
        try:
            before = read_results(path)
        except ValueError:  # damaged, or of another format: nothing is known of it, and it is not in the way
            continue
        same = before["model"] == as_json(record.model) and before["config"] == as_json(record.config)
        version, others = _differences(before, record)
        if same and path.parent != folder:
            reasons = [*others, *([] if version is None else [version])]
            tell(f"not the evaluation in {path.parent}: {'; '.join(reasons) or 'other tasks have data'}")


def _differences(before: Mapping[str, Any], record: EvaluationRecord) -> tuple[str | None, list[str]]:
    """(how the versions of the evaluation differ, what else differs) between results.json and an evaluation."""
    parts = as_json(asdict(record))
    now, then = parts["policy"], before["policy"]
    version = None
    if then.get(_VERSION) != now.get(_VERSION):
        version = f"as it was scored by evaluation version {then.get(_VERSION, 'unknown')} and this is {now[_VERSION]}"
    then = {name: then.get(name) for name in now if name != _VERSION}  # results add counts to the rules
    now = {name: now[name] for name in then}
    differing = [
        *(f"model: {each}" for each in differences(before["model"], parts["model"])),
        *(f"config: {each}" for each in differences(before["config"], parts["config"])),
        *(f"policy: {each}" for each in differences(then, now)),
    ]
    for key, task in before["tasks"].items():
        if key not in record.asked:
            differing.append(f"task '{key}' is there, and not asked now")
        elif "result_hash" in task and task["result_hash"] != record.asked[key]:
            differing.append(f"task '{key}' asked other questions")
    return version, differing


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`limit 4, now 3` for every name under which two mappings of JSON values differ."""
    return [
        f"{name} {_short(then.get(name))}, now {_short(now.get(name))}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"


_ASKING_PACKAGES = ("evaluation", "inference", "models", "processing/tokenize")


def _source_digest() -> str:
    """sha256 over the Python source that a score comes from."""
    root = Path(str(files("marin")))
    digest = hashlib.sha256()
    for package in _ASKING_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            digest.update(f"{name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
