"""The one text that stands for a config: canonical encoder, format 1.

The identity of a step is a hash of this text, so it is the same in every process, on every machine and Python version,
and two different configs never share it. It is frozen: golden vectors in tests/golden/canonical_v1.json hold it still,
and a change of it would be a format 2 beside it. What cannot be written exactly is refused with the path of the field;
there is no fallback to `repr` or pickle, whose text changes from run to run or hides a difference. The cost: configs
hold plain values, and a value of a new type needs `register_canonical`.

    value                                   canonical form
    None, bool, int, str                    itself; an int of more than 2048 bits {"$i": hexadecimal}
    float                                   shortest repr; -0.0 is 0.0; {"$f": "nan" | "inf" | "-inf"}
    int where the annotation says float     the float, when it is exact
    list; tuple                             [...]; {"$t": [...]} ([...] too where the annotation says Sequence)
    dict                                    {"$m": {...}}; keys that are not all str: {"$mi": [[key, value], ...]}
    defaultdict                             {"$dd": [default_factory, dict]}
    set, frozenset                          {"$s": [...]}
    dataclass, NamedTuple, pydantic model   {"$c": qualname or __version_tag__, field: value, ...}
    Enum member                             {"$e": "Class.NAME"}
    function, class, builtin                {"$fn": "module:qualname"}
    functools.partial, method of a value    {"$partial": [function, args, kwargs]}, {"$method": [value, name]}
    path, bytes, UUID, Decimal              {"$path": ...}, {"$b": hex}, {"$uuid": ...}, {"$dec": ...}
    date, datetime, timedelta               {"$date": ISO}, {"$datetime": ISO}, {"$td": [days, seconds, microseconds]}
    numpy / jax dtype, scalar, array        {"$dtype": name}, {"$n": [dtype, value]}, {"$nd": [dtype, shape, sha256]}
    ExecutorStep, InputName                 {"$dep": i, "sub": path}, i counts in order of appearance; "pseudo": true
    InputName.hardcoded; this_output_path   {"$in": path}; {"$out": path}
    registered type                         {"$x": [tag, value]}
    versioned(x)                            as x
    unversioned(x), excluded field          absent, {"$u": null} in a list or tuple, where the place counts;
                                            what is versioned(...) within: {"$marked": {path: value}}

Objects are JSON with sorted keys, no spaces, UTF-8.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from marin.execution.annotations import Hint
from marin.execution.canonical_encoder import ABSENT, HANDLERS, REGISTERED, Encoder, Memo, UnversionableError
from marin.execution.canonical_forms import BUILT_IN, BY_NAME
from marin.execution.canonical_text import to_json
from marin.execution.step import ExecutorStep


def canonical_json(value: Any) -> str:
    """The canonical text of a value that refers to no step. Raises UnversionableError, naming the path.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"$m":{"a":null,"b":{"$t":[1,2.0]}}}'
    """
    encoding = Encoding(value, root="value")
    if encoding.uses:
        raise UnversionableError("cannot version a value that refers to steps by itself: build a graph of the steps")
    return to_json(encoding.tree)


def canonical_digest(value: Any) -> str:
    """sha256 of the UTF-8 canonical text of a value that refers to no step: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def register_canonical(cls: type, to_plain: Callable[[Any], Any], *, tag: str | None = None) -> None:
    """Make values of exactly `cls` versionable: `to_plain(value)` is everything that identifies one.

    They are written {"$x": [tag, to_plain(value)]}, with tag the class's qualified name unless given. Registering a
    class twice replaces the first; built-in types and placeholders cannot be replaced (ValueError). A value whose
    plain form holds a step, a path placeholder or a mark is refused when it is planned: nothing could replace it.

    >>> register_canonical(complex, lambda z: (z.real, z.imag))
    >>> canonical_json(1 + 2j)
    '{"$x":["complex",{"$t":[1.0,2.0]}]}'
    """
    if cls in BUILT_IN or f"{cls.__module__}.{cls.__qualname__}" in BY_NAME:
        raise ValueError(f"register_canonical: the form of {cls.__qualname__} is part of the format and cannot change")
    name = tag if tag is not None else cls.__qualname__

    def handler(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
        before = encoder.placeholders
        encoder.push(f"<{name}>", value)
        tree = encoder.encode(to_plain(value))
        encoder.check_rigid(value, before)
        encoder.path.pop()
        return {"$x": [name, tree]}

    HANDLERS[cls] = handler
    REGISTERED[cls] = (name, to_plain)


class Encoding:
    """The canonical tree of one config before the digests of the steps it refers to are known.

    Steps appear in the tree as {"$dep": ...} entries that `finish` fills in. Text that begins with `prefix` is refused.
    """

    __slots__ = ("needs_digests", "runtime", "tree", "uses")

    def __init__(
        self,
        config: Any,
        *,
        marked: bool = False,
        root: str = "config",
        memo: Memo | None = None,
        prefix: str | None = None,
        digest_of: Callable[[ExecutorStep], str] | None = None,
    ):
        encoder = Encoder(root, {} if memo is None else memo, prefix, digest_of)
        if marked:
            found: dict[str, Any] = {}
            encoder.collect(config, found, 0, steps_count=True)
            self.tree: Any = {"$marked": found}
        else:
            tree = encoder.encode(config)
            self.tree = None if tree is ABSENT else tree
        self.uses = encoder.uses  # (entry of the tree, step, is pseudo), in order of appearance
        self.runtime = encoder.runtime  # (step, is pseudo) in places that are not identity
        self.needs_digests = encoder.needs_digests  # a set of steps: encode again once their digests are known

    def references(self) -> list[ExecutorStep]:
        """The steps referred to, in order of appearance, as often as they appear."""
        used = [step for _, step, _ in self.uses]
        return used + [step for step, _ in self.runtime] if self.runtime else used

    def finish(self, digest_of: Callable[[ExecutorStep], str]) -> tuple[list[str], list[str], list[str], list[str]]:
        """Number the steps in the tree; returns digests (deps, pseudo) of identity, then those needed only to run."""
        blocking: dict[str, int] = {}
        following: dict[str, int] = {}
        for entry, step, pseudo in self.uses:
            table = following if pseudo else blocking
            entry["$dep"] = table.setdefault(digest_of(step), len(table))
        deps, pseudo_deps = list(blocking), list(following)
        if not self.runtime:
            return deps, pseudo_deps, [], []
        extra = sorted({digest_of(step) for step, pseudo in self.runtime if not pseudo} - set(deps))
        extra_pseudo = sorted({digest_of(step) for step, pseudo in self.runtime if pseudo} - set(pseudo_deps))
        return deps, pseudo_deps, extra, extra_pseudo
