"""What tasks need beside marin: the extra `evaluation`, and more that nobody should have to install for the others.

A task that lacks something is skipped like one without data, with the command that brings it. Nothing is installed or
downloaded here, and nothing is imported only to see whether it is there.
"""

from importlib import metadata, util
from pathlib import Path

from marin.evaluation.tasks.data import MissingPackageError

LM_EVAL_VERSION = "0.4.13"
"""The version of lm-evaluation-harness whose tasks ours are."""


def require_lm_eval(task: str, extra: str | None = None, *packages: str) -> None:
    """Raise MissingPackageError unless lm-eval is installed in our version, with the packages of one of its extras.

    `packages` are names of modules.
    """
    command = (
        "pip install 'marin[evaluation]'" if extra is None else f"pip install 'lm-eval[{extra}]=={LM_EVAL_VERSION}'"
    )
    missing = [name for name in ("lm_eval", *packages) if util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"task '{task}' needs {', '.join(missing)}, not installed here", command)
    installed = metadata.version("lm-eval")
    if installed != LM_EVAL_VERSION:
        raise MissingPackageError(
            f"task '{task}' is that of lm-eval {LM_EVAL_VERSION}, of which it takes a part; {installed} is installed",
            command,
        )


def lm_eval_folder() -> Path:
    """Where lm-eval is installed, which must be so; it is not imported."""
    spec = util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations, "require_lm_eval comes first"
    return Path(next(iter(spec.submodule_search_locations)))
