"""What a step gives to whoever reads it from Python: a folder with a record, or a typed value.

    class TokenStats(Artifact):
        REQUIRED_FILES = ("stats.json",)

    stats = ExecutorStep(name="stats", fn=count, config=..., output_type=TokenStats)
    stats.load().path

A step whose `output_type` is a dataclass returns an instance of it, and `load` gives an equal one back: the value lies
in the step's record as plain JSON, so it must be small (64 KiB) and hold plain values. The type is checked when the
step ends, before its output counts, and again when it is loaded. It is not part of the step's identity.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

_PLAIN = (dict, list, str, int, float, bool)


class OutputError(ValueError):
    """A step's output is not what its output_type says."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A committed output: where it is and how it came to be. Subclass it to give kinds of outputs names and checks."""

    REQUIRED_FILES: ClassVar[tuple[str, ...]] = ()  # paths in the output without which it does not count

    path: str  # folder of the data on this machine
    record: Mapping[str, Any]  # the step's record

    @classmethod
    def check(cls, path: str) -> None:
        """Raise OutputError unless the folder holds what this kind of output must hold. Subclasses may add to it."""
        missing = [name for name in cls.REQUIRED_FILES if not os.path.exists(os.path.join(path, name))]
        if missing:
            there = ", ".join(sorted(os.listdir(path))[:10]) or "nothing"
            raise OutputError(
                f"an output of type {cls.__qualname__} must have {', '.join(missing)}; its folder holds {there}"
            )


def check_output_type(output_type: Any) -> None:
    """Raise TypeError unless steps can have this output_type."""
    if not isinstance(output_type, type) or not (output_type in _PLAIN or is_dataclass(output_type)):
        raise TypeError(
            f"output_type must be Artifact or a subclass of it, a dataclass, or one of "
            f"{', '.join(t.__name__ for t in _PLAIN)}; got {output_type!r}"
        )


def check_output(output_type: type, path: str, value: Any) -> None:
    """Raise OutputError unless a step's folder and returned value (as plain JSON values) fit its output_type."""
    if issubclass(output_type, Artifact):
        output_type.check(path)
    else:
        _typed(output_type, value)


def load_output(output_type: type, path: str, record: Mapping[str, Any]) -> Any:
    """The output of a committed step as its output_type."""
    if issubclass(output_type, Artifact):
        output_type.check(path)
        return output_type(path=path, record=record)
    return _typed(output_type, record.get("result"))


def _typed(output_type: type, value: Any) -> Any:
    if output_type in _PLAIN:
        if type(value) is int and output_type is float:
            return float(value)
        if type(value) is not output_type:
            raise OutputError(
                f"the step should return {output_type.__name__}, and returned {_shown(value)} (what has no plain form, "
                "or one over 64 KiB, counts as None)"
            )
        return value
    from marin.config import ConfigError, decode

    try:
        return decode(output_type, value)
    except ConfigError as error:
        raise OutputError(
            f"the step should return a {output_type.__qualname__}, and returned {_shown(value)}: {error}"
        ) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
