"""What makes an operation another one, and what does not."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from marin.processing.pipeline import col
from marin.processing.pipeline.identity import digest_of, identity_of

LIMIT = 3


def helper(x: int) -> int:
    return x + LIMIT


def with_helper(x: int) -> int:
    """Words about it."""
    return helper(x)


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operation with fields."""

    version: ClassVar[int] = 1
    limit: float
    workers: int = dataclasses.field(default=1, compare=False)

    def __call__(self, row: Any) -> Any:
        return row


class NewRule(Rule):
    version: ClassVar[int] = 2


def adder(number: int) -> Any:
    return lambda x: x + number


def made_of(source: str, **names: Any) -> Any:
    namespace: dict[str, Any] = {"__name__": "made", **names}
    exec(source, namespace)
    return namespace["f"]


def test_fields_and_versions_of_a_dataclass_are_its_identity():
    assert digest_of(Rule(0.5)) == digest_of(Rule(0.5, workers=2))
    assert digest_of(Rule(0.5)) != digest_of(Rule(0.6))
    assert digest_of(Rule(0.5)) != digest_of(NewRule(0.5))


def test_functions_are_told_apart_by_what_they_would_do():
    assert digest_of(adder(1)) == digest_of(adder(1)) != digest_of(adder(2))
    plain = made_of("def f(x): return x + 1")
    assert digest_of(plain) == digest_of(made_of("def f(x):\n  # said\n  return x + 1"))
    assert digest_of(plain) != digest_of(made_of("def f(x): return x + 2"))
    assert digest_of(plain) != digest_of(made_of("def f(x): return x - 1"))
    assert digest_of(made_of("def f(x, y=1): return x")) != digest_of(made_of("def f(x, y=2): return x"))
    assert digest_of(made_of("def f(x, *, y=1): return x")) != digest_of(made_of("def f(x, *, y=2): return x"))
    assert digest_of(functools.partial(helper, 1)) != digest_of(functools.partial(helper, 2))


def test_words_about_a_function_are_no_part_of_it():
    one = made_of("def f(x):\n  'Says what it does.'\n  return x + 1")
    assert digest_of(one) == digest_of(made_of("def f(x):\n  'Says it better.'\n  return x + 1"))


def test_a_helper_and_a_constant_of_the_same_module_count(monkeypatch: pytest.MonkeyPatch):
    before = digest_of(with_helper)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 4)
    assert digest_of(with_helper) != before


def test_a_function_with_a_version_is_its_name_and_that(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(with_helper, "version", 1, raising=False)
    before = digest_of(with_helper)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 4)
    assert digest_of(with_helper) == before
    monkeypatch.setattr(with_helper, "version", 2)
    assert digest_of(with_helper) != before


def test_a_function_that_calls_itself_has_an_identity():
    again = made_of("def f(x): return f(x - 1) if x else 0")
    assert digest_of(again) == digest_of(made_of("def f(x): return f(x - 1) if x else 0"))


def test_values_of_other_types_differ():
    values: list[Any] = [1, 1.0, "1", b"1", True, None, [1], {"a": 1}, {1, 2}, Path("1"), re.compile("1"), col("a") > 1]
    texts = [repr(identity_of(value)) for value in values]
    assert len(set(texts)) == len(texts)
    assert identity_of({"b": 1, "a": 2}) == identity_of({"a": 2, "b": 1})


def test_what_cannot_be_told_is_refused():
    with pytest.raises(TypeError, match="cannot tell what <object object"):
        digest_of(object())


def test_hashes_of_strings_do_not_matter(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from marin.processing.pipeline.identity import digest_of\n"
        "print(digest_of(lambda row: row['a'] in {'x', 'y', 'z', 'w'}), digest_of({'p', 'q', 'r'}))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
