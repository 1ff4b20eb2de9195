"""What makes an operation another one, and what does not."""

import array
import collections
import dataclasses
import datetime
import enum
import functools
import json
import logging
import operator
import os
import re
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(low, high): return low - high", "def f(high, low): return low - high"),
        ("def f(a, b): return a", "def f(a, *b): return a"),
        ("def f(a, b): return a", "def f(a, *, b): return a"),
        ("def f(a, b): return a", "def f(a, b, /): return a"),
        ("def f(a, *b): return a", "def f(a, **b): return a"),
        ("def f(a): return h(x=1, y=2)\ndef h(x, y): return x", "def f(a): return h(x=1, y=2)\ndef h(y, x): return y"),
        ("def f(a): return (lambda x, y: x)(x=1, y=2)", "def f(a): return (lambda y, x: y)(x=1, y=2)"),
        ("def f(a): return h(a)\ndef h(a, b=1): return b", "def f(a): return h(a)\ndef h(a, b=2): return b"),
    ],
)
def test_signatures_count(one: str, other: str):
    def digest(source: str) -> str:
        module: dict[str, Any] = {"__name__": "made"}
        exec(source, module)
        return digest_of(module["f"])

    assert digest(one) == digest(one) != digest(other)


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
    values: list[Any] = [
        1,
        1.0,
        "1",
        b"1",
        True,
        None,
        [1],
        (1,),
        {"a": 1},
        {1, 2},
        Path("1"),
        re.compile("1"),
        col("a") > 1,
    ]
    texts = [repr(identity_of(value)) for value in values]
    assert len(set(texts)) == len(texts)
    assert identity_of({"b": 1, "a": 2}) != identity_of({"a": 2, "b": 1})  # a function may go through it


def test_what_cannot_be_told_is_refused():
    with pytest.raises(TypeError, match="cannot tell what <object object"):
        digest_of(object())


def test_hashes_of_strings_do_not_matter(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import dataclasses, enum, re\n"
        "from marin.processing.pipeline.identity import digest_of\n"
        "WORDS = {'p', 'q', 'r', re.compile('x'), len, dataclasses.replace}\n"
        "class Color(enum.Enum):\n    RED = frozenset('abc')\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Operation:\n"
        "    words: object = frozenset('xyz')\n"
        "    def __call__(self, row): return self.other(row) in WORDS\n"
        "    def other(self, row): return row in {'x', 'y', 'z'} or Color.RED\n"
        "print(digest_of(lambda row: row['a'] in {'x', 'y', 'z', 'w'} | WORDS), digest_of({'p', 'q', 'r'}))\n"
        "print(digest_of(Operation()), digest_of(lambda row: Operation()), digest_of(Operation))\n"
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


WORDS = {"a", "b"}
LIMITS = {"lines": [3, 4]}
ORDER = ["x"]
PATTERN = re.compile("a+")
TABLE = np.arange(3)
SCHEMA = pa.schema([pa.field("a", pa.int64())])
DAY = datetime.date(2024, 1, 1)
LOGGER = logging.getLogger("a logger")
CACHE: dict[str, int] | None = None


class Color(enum.Enum):
    RED = 1


class Counter:
    """No dataclass."""

    step = 1

    def __init__(self, start: int):
        self.start = start

    def next(self) -> int:
        return self.start + self.step


COUNTER = Counter(1)


@dataclasses.dataclass(frozen=True)
class Cleaner:
    """Helps an operation; not one itself."""

    word: str

    def clean(self, text: str) -> str:
        return text.replace(self.word, "")

    @property
    def size(self) -> int:
        return len(self.word)


CLEANER = Cleaner("a")


@functools.cache
def cached(x: int) -> int:
    return helper(x)


def uses_words(x: str) -> bool:
    return x in WORDS


def uses_limits(x: str) -> Any:
    return [LIMITS[key] for key in x]


def uses_order(x: str) -> Any:
    return lambda: ORDER + [x]


def uses_pattern(x: str) -> Any:
    return PATTERN.match(x)


def uses_table(x: int) -> Any:
    return TABLE[x]


def uses_schema(x: Any) -> Any:
    return x.cast(SCHEMA)


def uses_day(x: Any) -> bool:
    return x < DAY


def uses_enum(x: int) -> bool:
    return x == Color.RED.value


def uses_class(x: int) -> int:
    return Counter(x).next()


def uses_object(x: int) -> int:
    return COUNTER.next() + x


def uses_cleaner(x: str) -> str:
    return CLEANER.clean(x)


def uses_cached(x: int) -> int:
    return cached(x)


def uses_logger(x: int) -> int:
    LOGGER.info("a row")
    return x


def fills_cache(x: str) -> int:
    global CACHE
    if CACHE is None:
        CACHE = {}
    return CACHE.setdefault(x, 1)


@pytest.mark.parametrize(
    ("function", "name", "other"),
    [
        (uses_words, "WORDS", {"a", "c"}),
        (uses_limits, "LIMITS", {"lines": [3, 5]}),
        (uses_order, "ORDER", ["y"]),
        (uses_pattern, "PATTERN", re.compile("a+", re.IGNORECASE)),
        (uses_table, "TABLE", np.arange(3) * 2),
        (uses_schema, "SCHEMA", pa.schema([pa.field("a", pa.int32())])),
        (uses_day, "DAY", datetime.date(2024, 1, 2)),
        (uses_enum, "Color", enum.Enum("Color", {"RED": 2})),
        (uses_object, "COUNTER", Counter(2)),
        (uses_cleaner, "CLEANER", Cleaner("b")),
        (uses_class, "helper", None),
        (uses_cached, "LIMIT", 4),
        (uses_logger, "LOGGER", logging.getLogger("another logger")),
    ],
)
def test_values_of_the_module_count_for_the_functions_that_use_them(
    monkeypatch: pytest.MonkeyPatch, function: Any, name: str, other: Any
):
    before = digest_of(function)
    assert digest_of(function) == before
    monkeypatch.setattr(sys.modules[__name__], name, other)
    assert (digest_of(function) != before) == (name != "helper")  # which the function does not use


def test_classes_of_the_module_count_with_their_methods_and_attributes(monkeypatch: pytest.MonkeyPatch):
    before = {function: digest_of(function) for function in (uses_class, uses_object)}
    with monkeypatch.context() as changed:
        changed.setattr(Counter, "step", 2)
        assert all(digest_of(function) != said for function, said in before.items())
    with monkeypatch.context() as changed:
        changed.setattr(Counter, "next", lambda self: self.start)
        assert all(digest_of(function) != said for function, said in before.items())
    assert all(digest_of(function) == said for function, said in before.items())


def test_a_helper_object_that_a_function_holds_counts_with_its_code(monkeypatch: pytest.MonkeyPatch):
    cleaner = Cleaner("a")
    holding: list[Any] = [
        uses_cleaner,
        lambda text: cleaner.clean(text),
        cleaner.clean,
        functools.partial(map, cleaner.clean),
    ]
    before = [digest_of(one) for one in holding]
    monkeypatch.setattr(Cleaner, "size", property(lambda self: 0))
    assert all(digest_of(one) != said for one, said in zip(holding, before, strict=True))


def test_what_a_function_sets_itself_is_state(monkeypatch: pytest.MonkeyPatch):
    before = digest_of(fills_cache)
    monkeypatch.setattr(sys.modules[__name__], "CACHE", {"a": 1})
    assert digest_of(fills_cache) == before


OPERATION = """
import dataclasses
class Base:
    def base(self, x): return x {base}
@dataclasses.dataclass(frozen=True)
class Operation(Base):
    field: int = {default}
    limit = {limit}
    def __call__(self, x): return self.helper(x) + self.base(x)
    def helper(self, x): return x {helper}
    @staticmethod
    def other(x): return x {other}
"""


def operation_of(**changes: Any) -> Any:
    said = {"base": "+ 1", "default": 1, "limit": 1, "helper": "+ 1", "other": "+ 1", **changes}
    return made_of(OPERATION.format(**said) + "f = Operation(5)")


def test_methods_that_call_each_other_are_all_part_of_an_operation():
    before = digest_of(operation_of())
    assert digest_of(operation_of()) == before
    assert digest_of(operation_of(default=2)) == before  # the field is what counts
    for name, change in [("base", "+ 2"), ("limit", 2), ("helper", "- 1"), ("other", "+ 2")]:
        assert digest_of(operation_of(**{name: change})) != before, name


class Stricter(Rule):
    """It inherits a version, which says nothing of it."""

    def __call__(self, row: Any) -> Any:
        return row[:2]


def test_a_version_that_is_inherited_does_not_hide_a_change(monkeypatch: pytest.MonkeyPatch):
    before = digest_of(Stricter(0.5))
    monkeypatch.setattr(Stricter, "__call__", lambda self, row: row[:3])
    assert digest_of(Stricter(0.5)) != before


def test_helpers_that_share_helpers_are_told_once():
    lines = ["def f0(x): return x"]
    lines += [f"def f{n}(x): return f{n - 1}(x) + f{n - 1}(-x) + f{max(n - 2, 0)}(x)" for n in range(1, 60)]
    deep = made_of("\n".join([*lines, "def f(x): return f59(x)"]))
    changed = made_of("\n".join([lines[0] + " + 1", *lines[1:], "def f(x): return f59(x)"]))
    assert digest_of(deep) != digest_of(changed)


def test_functions_that_are_made_by_one_maker_are_told_apart_by_what_they_hold():
    assert digest_of(made_of("def f(x): return g(x)", g=adder(1))) == digest_of(
        made_of("def f(x): return g(x)", g=adder(1))
    )
    assert digest_of(made_of("def f(x): return g(x)", g=adder(1))) != digest_of(
        made_of("def f(x): return g(x)", g=adder(2))
    )


def test_what_is_imported_counts_by_its_name():
    one = digest_of(made_of("def f(x): return g(x)", g=json.dumps))
    assert one != digest_of(made_of("def f(x): return g(x)", g=json.loads))
    assert one == digest_of(made_of("def f(x): return g(x)", g=json.dumps))


VALUE: Any = None


def uses_value(row: Any) -> Any:
    return VALUE


class Slotted:
    """Keeps its state outside of `__dict__`."""

    __slots__ = ("limit",)

    def __init__(self, limit: int):
        self.limit = limit


class Words(list):
    """A list with a name."""

    def __init__(self, words: list[str], name: str):
        super().__init__(words)
        self.name = name


def with_itself(number: int) -> types.SimpleNamespace:
    made = types.SimpleNamespace(number=number)
    made.itself = made
    return made


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (pa.array, ["a", None], ["b", None]),
        (lambda value: pa.chunked_array([value, ["z"]]), ["a"], ["b"]),
        (pa.scalar, 1, 2),
        (lambda value: pa.table({"a": value}), [1], [2]),
        (lambda value: pa.record_batch({"a": value}), [1], [2]),
        (operator.itemgetter, "a", "b"),
        (operator.attrgetter, "a", "b"),
        (collections.deque, [1], [2]),
        (lambda size: collections.deque([1], size), 2, 3),
        (lambda value: collections.defaultdict(value), int, list),
        (lambda value: array.array("i", value), [1], [2]),
        (lambda value: types.SimpleNamespace(a=value), 1, 2),
        (with_itself, 1, 2),
        (lambda value: np.array([value, None], dtype=object), "a", "b"),
        (lambda name: np.zeros(1, dtype=[(name, "i4")]), "a", "b"),
        (lambda mask: np.ma.masked_array([1, 2], mask), [0, 1], [1, 0]),
        (Slotted, 1, 2),
        (lambda name: Words(["a"], name), "a", "b"),
        (dict, [("a", 1), ("b", 2)], [("b", 2), ("a", 1)]),
        (lambda kind: kind([1, 2]), list, tuple),
        (lambda text: text.join, "-", "+"),
        (lambda module: module, operator, array),
    ],
)
def test_objects_of_a_module_count_by_what_they_hold(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, make: Any, one: Any, other: Any
):
    def digest(value: Any) -> str:
        monkeypatch.setattr(sys.modules[__name__], "VALUE", make(value))
        return digest_of(uses_value)

    assert digest(one) == digest(one) != digest(other)
    assert not recwarn.list


def test_chunks_are_no_part_of_an_arrow_array():
    whole, parts = pa.chunked_array([[1, 2]]), pa.chunked_array([[1], [2]])
    assert digest_of(whole) == digest_of(parts)
    assert digest_of(pa.array([0, 1, 2])[1:]) == digest_of(pa.array([1, 2])) != digest_of(whole)


def test_what_cannot_be_taken_apart_counts_by_its_type_and_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "VALUE", threading.Lock())
    with pytest.warns(UserWarning, match=r"test_identity:VALUE holds <unlocked _thread.lock.*only the type"):
        before = digest_of(uses_value)
    monkeypatch.setattr(sys.modules[__name__], "VALUE", threading.Lock())
    with pytest.warns(UserWarning):
        assert digest_of(uses_value) == before
