# ruff: noqa: E501, F401, PIE796, UP045 - the names are used by the expressions, which are data
"""The values of tests/golden/canonical_v1.json, each written as an expression over this module's names.

`python tests/execution/canonical_cases.py` adds the vectors of new expressions to the file. It never changes one that
is there: a difference means that the format changed, and with it the identity of every output ever made.
"""

import enum
import functools
import hashlib
import json
import sys
import typing
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, NewType, Optional
from uuid import UUID

import numpy as np

from marin.execution.canonical import canonical_json
from marin.execution.graph import build_graph
from marin.execution.step import (
    THIS_OUTPUT_PATH,
    ExecutorStep,
    InputName,
    VersionedValue,
    output_path_of,
    runtime,
    this_output_path,
    unversioned,
    version_meta,
    versioned,
)

nan, inf = float("nan"), float("inf")


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"
    CRIMSON = 1  # an alias of RED


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    ADAM = "adam"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Tagged(enum.Enum):
    __version_tag__ = "Shade"
    DARK = 1


@dataclass(frozen=True)
class Empty:
    pass


@dataclass(frozen=True)
class Point:
    x: Any = 0
    y: Any = 0


@dataclass
class Mutable:
    x: Any = 0


@dataclass(frozen=True)
class YThenX:
    __version_tag__ = "Point"
    y: Any = 0
    x: Any = 0


@dataclass(frozen=True)
class Child(Point):
    z: Any = 0


Rate = NewType("Rate", float)


@dataclass(frozen=True)
class Numbers:
    plain: float = 1
    maybe: float | None = 1
    optional: Optional[float] = 1
    either: int | float = 1
    many: list[float] = field(default_factory=lambda: [1, 2.5])
    pair: tuple[float, int] = (1, 2)
    any_length: tuple[float, ...] = (1, 2)
    by_name: dict[str, float] = field(default_factory=lambda: {"a": 1})
    mapping: Mapping[str, float] = field(default_factory=lambda: {"a": 1})
    deep: dict[str, list[float]] = field(default_factory=lambda: {"a": [1]})
    new_type: Rate = 1  # type: ignore[assignment]
    annotated: Annotated[float, "per step"] = 1
    marked: VersionedValue[float] | float = 1
    integer: int = 1


@dataclass(frozen=True)
class NumbersAsText:
    __version_tag__ = "Numbers"
    plain: "float" = 1
    maybe: "float | None" = 1
    optional: "Optional[float]" = 1
    either: "int | float" = 1
    many: "list[float]" = field(default_factory=lambda: [1, 2.5])
    pair: "tuple[float, int]" = (1, 2)
    any_length: "tuple[float, ...]" = (1, 2)
    by_name: "dict[str, float]" = field(default_factory=lambda: {"a": 1})
    mapping: "typing.Mapping[str, float]" = field(default_factory=lambda: {"a": 1})
    deep: "dict[str, list[float]]" = field(default_factory=lambda: {"a": [1]})
    new_type: "Rate" = 1  # type: ignore[assignment]
    annotated: "Annotated[float, 'per step']" = 1
    marked: "VersionedValue[float] | float" = 1
    integer: "int" = 1


@dataclass(frozen=True)
class Items:
    items: Sequence[Any] = ()
    rates: Sequence[float] = ()
    several: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Rules:
    kept: Any = 0
    workers: Any = field(default=4, metadata=version_meta(exclude=True))
    late: Any = field(default=None, metadata=version_meta(omit_when=None))
    rate: float = field(default=0.5, metadata=version_meta(omit_when=0))
    renamed: Any = field(default=1, metadata=version_meta(alias="old_name"))
    plain: Any = field(default=2, metadata={"version": {"alias": "older_name"}})


@dataclass(frozen=True)
class Logger:
    __unversioned__ = True
    url: Any = "here"


class Pair(NamedTuple):
    a: float
    b: Any = None


Loose = namedtuple("Loose", ["b", "a"])


@dataclass(frozen=True)
class Data:
    path: Any = None
    output_path: Any = THIS_OUTPUT_PATH
    more: Any = None


def function_of(config: Any) -> Any:
    return config


def step(name: str = "data", config: Any = None, **options: Any) -> ExecutorStep:
    return ExecutorStep(name=name, fn="package.module:function", config=config, **options)


def shared_twice() -> ExecutorStep:
    data = step()
    return step("use", Data(path=data / "train", more=[data, data / "test"]))


def equal_steps() -> ExecutorStep:
    return step("use", Data(path=step() / "train", more=[step(), step() / "test"]))


def chain(length: int) -> ExecutorStep:
    last = step("s0", Data())
    for i in range(1, length):
        last = step(f"s{i}", Data(path=last))
    return last


def a_set_of_steps() -> ExecutorStep:
    return step("use", Data(path={step("a"), step("b", 1), step("c") / "x", step("d")}, more=step("d")))


# Kept in the order in which they were added: add new ones at the end.
EXPRESSIONS = """
None | True | False | 0 | 1 | -1 | 42 | 10**18 | -(10**30) | 2**2047 | 2**2048 | -(2**3000)
0.0 | -0.0 | 1.0 | 0.1 | 1e-3 | 3e-4 | 1e16 | 1e22 | 1e-7 | 123456789.123 | 5e-324 | 1.7976931348623157e308 | 2/3
nan | inf | -inf | float(2**53)
'' | 'a' | 'Hello, world' | 'caf\\u00e9' | 'cafe\\u0301' | '\\U0001f600' | '\\n\\t\\r' | '\\x00\\x1f\\x7f' | '"\\\\/' | '\\u2028'
'1' | 'null' | '$c' | '{"a":1}' | '\\ud7ff\\ue000'
[] | [1] | [1, 2] | [2, 1] | [[]] | [[], []] | [1, [2, [3, [4]]]] | [None] | [True, 1, 1.0, '1'] | ['a', b'a']
() | (1,) | (1, 2) | ((),) | ([],) | [()] | (1, (2, (3,)))
{} | {'a': 1} | {'b': 1, 'a': 2} | {'a': 2, 'b': 1} | {'': 0} | {'$c': 'Point'} | {'$m': {}} | {'a': {'b': {'c': []}}}
{'\\u00e9': 1, 'z': 2} | {'\\uffff': 1, '\\U00010000': 2} | {'x': unversioned(1), 'y': 2}
{1: 'a'} | {2: 'b', 1: 'a'} | {10: 0, 9: 0} | {(1, 2): 'a', (1,): 'b'} | {None: 1, 'a': 2} | {True: 1} | {1.5: 1, 1: 2}
{Color.RED: 1} | {b'k': 1} | {frozenset({1}): 2}
OrderedDict([('b', 1), ('a', 2)]) | defaultdict(list, {'a': [1]}) | MappingProxyType({'a': 1})
set() | {1} | {3, 1, 2} | {'b', 'a'} | {1, 'a', None, 2.5} | frozenset({2, 1}) | {(1, 2), (0, 9)} | {frozenset({1}), frozenset()}
{10, 9, 100}
Empty() | Point() | Point(1, 2) | Point(x=2, y=1) | YThenX(x=2, y=1) | Point([1], {'a': (1,)}) | Point(Point(Point(1)))
Mutable(1) | Child(1, 2, 3) | Point(None, None) | [Point(), Point()] | {'p': Point()} | Point(x=True, y=1.0)
Numbers() | NumbersAsText() | Numbers(plain=1.0, maybe=None) | Numbers(plain=True) | Numbers(plain=2**53 + 1)
Numbers(plain=10**400) | Numbers(maybe=2, either=2.0) | Numbers(marked=versioned(1)) | Numbers(many=(1, 2))
Numbers(plain=-0.0) | Numbers(plain=0) | Numbers(plain=nan) | Numbers(deep={'a': [1, 2], 'b': []}) | Numbers(pair=(1.5, 2))
Items() | Items((1, 2)) | Items([1, 2]) | Items(rates=(1, 2)) | Items(several=((1,), [2])) | Items(items=((1,),))
Rules() | Rules(kept=1) | Rules(workers=8) | Rules(late=0) | Rules(late='x') | Rules(rate=0) | Rules(rate=0.0) | Rules(rate=1)
Rules(renamed=5) | Rules(plain=6) | Rules(workers=versioned(8)) | Rules(workers=[1, versioned(2), {'k': versioned('v')}])
Rules(late=versioned(None)) | Rules(workers=Point(versioned(1), 2)) | Rules(workers={'a b': versioned(1)})
Logger() | Logger('there') | [Logger(), 1] | Point(Logger(), 1) | Point(Logger(versioned(3)), 1) | {'log': Logger()}
versioned(1) | versioned([1, versioned(2)]) | unversioned(1) | runtime(1) | [unversioned(1), 2] | (unversioned(1),)
unversioned(versioned(1)) | Point(unversioned(1), 2) | Point(versioned(unversioned(1)), 2) | Point(unversioned({'a': versioned(1)}))
Pair(1) | Pair(1, 2) | Pair(1.5, Pair(2)) | Loose(1, 2) | (1, None) | [Pair(2)]
Color.RED | Color.CRIMSON | Color.BLUE | Level.LOW | Word.ADAM | Access.READ | Access.READ | Access.WRITE
Access(0) | Tagged.DARK | [Color.RED, Color.BLUE] | Access(3) | Decimal | enum.Enum
len | print | int | str.upper | dict.fromkeys | json.dumps | json.JSONEncoder | object
functools.partial(json.dumps, indent=2) | functools.partial(int, '10', base=2) | functools.partial(len) | 'abc'.upper
functools.partial(functools.partial(json.dumps, indent=1), sort_keys=True) | PurePosixPath('/a').joinpath
Path('/a/b') | Path('a/../b') | PurePosixPath('a//b/.') | Path('.') | [Path('a'), 'a']
date(2026, 1, 31) | datetime(2026, 1, 31, 12) | datetime(2026, 1, 31, 12, 0, 0, 5) | datetime(2026, 1, 31, 12, tzinfo=UTC)
datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1))) | datetime(2026, 10, 25, 2, 30, fold=1)
timedelta(0) | timedelta(days=1) | timedelta(hours=24) | timedelta(seconds=-1) | timedelta(microseconds=7)
Decimal('1') | Decimal('1.0') | Decimal('1E+3') | Decimal('NaN') | UUID(int=0) | UUID('12345678123456781234567812345678')
b'' | b'a' | b'\\x00\\xff' | bytes(3)
np.dtype('float32') | np.float32 | np.dtype('>f4') | np.dtype('int64') | np.dtype('bool') | np.dtype('<U5') | [np.float64]
np.dtype('datetime64[ns]') | np.float32(1.5) | np.float64(1.5) | np.int64(3) | np.int8(3) | np.bool_(True) | np.str_('a')
np.float32('nan') | np.complex64(1 + 2j) | np.datetime64('2026-01-31') | np.bytes_(b'a') | np.uint16(7) | np.float64(-0.0)
np.zeros(0) | np.zeros(3) | np.zeros((3, 1)) | np.arange(6).reshape(2, 3) | np.arange(6).reshape(2, 3).T | np.array(1.5)
np.arange(3, dtype='>i4') | np.arange(3, dtype='<i4') | np.array([True, False]) | np.array(['a', 'bc']) | np.zeros(3, 'float32')
this_output_path() | this_output_path('a/b') | this_output_path('a/./b/') | InputName.hardcoded('raw/x') | Point(THIS_OUTPUT_PATH)
InputName.hardcoded('/data/x')
step() | step('a/b') | step(config={'a': 1}) | step(config=Point(1, 2)) | step(code_version='2') | step(description='words')
step(config=versioned(1)) | step(config=unversioned(Point())) | step(config=Data()) | step(override_output_path='here')
step(tags=frozenset({'x'}), resources=Point(), publish='inplace', pip_dependency_groups=['gpu'])
step('use', step()) | step('use', output_path_of(step())) | step('use', step() / 'a') | step('use', step() / 'a/./b')
step('use', Data(path=step())) | step('use', output_path_of(step(), 'a').nonblocking()) | shared_twice() | equal_steps()
step('use', [step('a'), step('b')]) | step('use', [step('b'), step('a')]) | step('use', {'b': step('a'), 'a': step('b')})
a_set_of_steps() | chain(2) | chain(5) | step('use', [step(), (step() / 'x').nonblocking()])
step('use', Data(path=unversioned(step()))) | step('use', Rules(workers=step(), kept=step('b')))
step(config=Data(path=versioned('x'), more=2), versioning='marked') | step(config=Data(path='x', more=2), versioning='marked')
step('use', Data(path=step() / 'x', more=[{'k': versioned(1)}, len]), versioning='marked')
step('use', Data(path={versioned(2), versioned(1), 3}), versioning='marked') | step('use', {step('b'): 1, step('a'): 2})
versioned(Logger(3)) | Point(versioned(Logger(3)))
[2, unversioned(1)] | (unversioned(1), 2) | (2, unversioned(1)) | [unversioned(1)] | [unversioned(versioned(3)), 2]
defaultdict(None, {'a': 1}) | defaultdict(int, {'a': 1}) | defaultdict(int) | {unversioned(1), 2}
"""


def cases() -> list[str]:
    found = [part.strip() for line in EXPRESSIONS.strip().splitlines() for part in line.split(" | ")]
    return list(dict.fromkeys(found))


def vector(expression: str) -> dict[str, str]:
    """The vector of one expression. A step's is its recipe and its digest."""
    value = eval(expression, dict(globals()))
    if isinstance(value, ExecutorStep):
        node = build_graph([value]).nodes[-1]
        return {"value": expression, "canonical": node.canonical, "sha256": node.digest}
    text = canonical_json(value)
    return {"value": expression, "canonical": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def main(file: Path) -> None:
    golden = json.loads(file.read_text(encoding="utf-8"))["vectors"] if file.exists() else []
    known = {entry["value"] for entry in golden}
    new = [vector(expression) for expression in cases() if expression not in known]
    lines = ",\n".join(json.dumps(entry) for entry in golden + new)
    file.write_text(f'{{"format": "canonical v1", "vectors": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(new)} added, {len(golden)} kept", file=sys.stderr)


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "golden" / "canonical_v1.json")
