"""The laws of the canonical text: injective, the same in every process, and frozen."""

import functools
import json
import math
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import canonical_cases
import numpy as np
import pytest
from canonical_cases import Numbers, Point, Rules
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.execution.canonical import UnversionableError, canonical_digest, canonical_json, register_canonical
from marin.execution.step import unversioned, version_meta, versioned

GOLDEN = json.loads((Path(__file__).resolve().parent.parent / "golden" / "canonical_v1.json").read_text())["vectors"]


# -- frozen -----------------------------------------------------------------------------------------------------------


def test_the_format_is_held_still_by_at_least_200_vectors():
    assert len(GOLDEN) >= 200
    assert [entry["value"] for entry in GOLDEN] == canonical_cases.cases()


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda e: e["value"][:60].encode("unicode_escape").decode())
def test_a_golden_value_has_its_golden_text(entry: dict[str, str]):
    assert canonical_cases.vector(entry["value"]) == entry


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_the_text_is_the_same_in_another_process_with_another_hash_seed(seed: str):
    code = "import json, canonical_cases as c; print(json.dumps([c.vector(e) for e in c.cases()]))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == GOLDEN


# -- the value algebra ------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["$c", "$m", "$t", "$f", "nan", "1", ""]),
    st.binary(max_size=4),
)
keys = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.none(), st.sampled_from(["$m", "$c"]))


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "$c", "$m", "$dep", ""]), inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(st.one_of(st.integers(), st.text(max_size=2), st.tuples(st.booleans())), max_size=3),
        st.builds(Point, inner, inner),
    )


values = st.recursive(scalars, containers, max_leaves=8)


def decoded(tree: Any) -> Any:
    """The value of a canonical tree, for the part of the algebra that `values` draws from."""
    if isinstance(tree, list):
        return [decoded(v) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("$c") == "Point":
        return Point(decoded(tree["x"]), decoded(tree["y"]))
    ((tag, body),) = tree.items()
    return {
        "$t": lambda: tuple(decoded(v) for v in body),
        "$m": lambda: {k: decoded(v) for k, v in body.items()},
        "$mi": lambda: {decoded(k): decoded(v) for k, v in body},
        "$s": lambda: {decoded(v) for v in body},
        "$f": lambda: float(body),
        "$i": lambda: int(body, 16),
        "$b": lambda: bytes.fromhex(body),
    }[tag]()


def same(a: Any, b: Any) -> bool:
    """Equality that sees types: 1, 1.0 and True differ, nan equals nan, 0.0 equals -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        pairs = {(type(k), k): v for k, v in b.items()}
        return len(a) == len(b) and all((type(k), k) in pairs and same(v, pairs[type(k), k]) for k, v in a.items())
    if isinstance(a, set):
        return {(type(v), v) for v in a} == {(type(v), v) for v in b}
    if isinstance(a, Point):
        return same(a.x, b.x) and same(a.y, b.y)
    return a == b


@settings(max_examples=150, deadline=None)
@given(values)
def test_nothing_is_lost_in_the_text(value: Any):
    assert same(decoded(json.loads(canonical_json(value))), value)


@settings(max_examples=150, deadline=None)
@given(values, values)
def test_two_values_share_a_text_only_if_they_are_equal(a: Any, b: Any):
    assert (canonical_digest(a) == canonical_digest(b)) == same(a, b)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(keys, scalars, max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_which_a_dict_was_filled_does_not_matter(value: dict, rng: random.Random):
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def leaf_paths(value: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(value, list | tuple):
        found = [p for i, v in enumerate(value) for p in leaf_paths(v, (*path, i))]
    elif isinstance(value, dict):
        found = [p for k, v in value.items() for p in leaf_paths(v, (*path, k))]
    elif isinstance(value, Point):
        found = leaf_paths(value.x, (*path, "x")) + leaf_paths(value.y, (*path, "y"))
    else:
        return [path]
    return found or [path]


def changed(value: Any, path: tuple, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    head, *rest = path
    if isinstance(value, Point):
        return replace(value, **{head: changed(getattr(value, head), tuple(rest), change)})
    if isinstance(value, dict):
        return {
            k: changed(v, tuple(rest), change) if k == head and type(k) is type(head) else v for k, v in value.items()
        }
    return type(value)(changed(v, tuple(rest), change) if i == head else v for i, v in enumerate(value))


configs = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(configs, st.data())
def test_every_leaf_changes_the_digest_and_an_unversioned_one_does_not(config: Any, data: st.DataObject):
    path = data.draw(st.sampled_from(leaf_paths(config)))
    before = canonical_digest(config)
    assert canonical_digest(changed(config, path, lambda old: ("another", old))) != before
    assert canonical_digest(changed(config, path, versioned)) == before
    apart = [canonical_json(changed(config, path, lambda _, new=new: unversioned(new))) for new in (1, "x")]
    assert apart[0] == apart[1]


@settings(max_examples=100, deadline=None)
@given(configs, st.data())
def test_what_cannot_be_written_is_refused_wherever_it_stands_with_its_path(config: Any, data: st.DataObject):
    path = data.draw(st.sampled_from(leaf_paths(config)))
    with pytest.raises(UnversionableError) as raised:
        canonical_json(changed(config, path, lambda _: object()))
    message = str(raised.value)
    assert message.startswith("cannot version value")
    for part in path:  # each step of the path is named
        shown = str(part) if isinstance(part, int) or part.isidentifier() else json.dumps(part)
        assert shown in message


# -- rules of fields --------------------------------------------------------------------------------------------------


@given(st.integers(-(2**53), 2**53))
@settings(max_examples=50, deadline=None)
def test_an_int_in_a_float_field_is_that_float(number: int):
    assert canonical_json(Numbers(plain=number)) == canonical_json(Numbers(plain=float(number)))
    assert canonical_json(Numbers(integer=number)) != canonical_json(Numbers(integer=float(number)))  # type: ignore[arg-type]
    assert canonical_json(Point(number)) != canonical_json(Point(float(number)))


def test_an_int_that_no_float_equals_stays_an_int():
    assert '"plain":9007199254740993,' in canonical_json(Numbers(plain=2**53 + 1)).replace("}", ",")


def test_a_field_added_later_with_omit_when_leaves_old_identities_alone():
    before = make_dataclass("Config", ["a"], frozen=True)(1)
    after = make_dataclass(
        "Config", ["a", ("b", Any, field(default=None, metadata=version_meta(omit_when=None)))], frozen=True
    )
    later = make_dataclass(  # the default moved on; the literal did not
        "Config", ["a", ("b", Any, field(default=7, metadata=version_meta(omit_when=None)))], frozen=True
    )
    assert canonical_json(after(1)) == canonical_json(before)
    assert canonical_json(after(1, 5)) != canonical_json(before)
    assert canonical_json(later(1, None)) == canonical_json(before)
    assert canonical_json(later(1)) == canonical_json(after(1, 7)) != canonical_json(before)


def test_omit_when_tells_false_from_zero():
    config = make_dataclass("Config", [("b", Any, field(default=0, metadata=version_meta(omit_when=0)))], frozen=True)
    assert canonical_json(config(False)) == '{"$c":"Config","b":false}'


def test_a_renamed_field_with_an_alias_keeps_its_identity():
    before = make_dataclass("Config", ["lr"], frozen=True)(0.1)
    after = make_dataclass("Config", [("learning_rate", Any, field(metadata=version_meta(alias="lr")))], frozen=True)(
        0.1
    )
    assert canonical_json(after) == canonical_json(before)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"version": {"exlude": True}}, "exlude"),
        ({"version": {"alias": "not a name"}}, "not a name"),
        ({"version": {"alias": "b"}}, "both recorded as 'b'"),
    ],
)
def test_contradicting_field_rules_are_refused(metadata: dict, complaint: str):
    config = make_dataclass("Config", [("a", Any, field(default=1, metadata=metadata)), ("b", Any, 2)], frozen=True)
    with pytest.raises(ValueError, match=complaint):
        canonical_json(config())


def test_an_excluded_field_counts_only_where_something_in_it_is_versioned():
    assert canonical_json(Rules(workers=lambda: 0)) == canonical_json(Rules())
    assert canonical_json(Rules(workers=[versioned(1), object()])) != canonical_json(Rules(workers=[versioned(2)]))


def test_what_is_versioned_in_an_excluded_place_reads_the_same_wherever_it_stands():
    shared = Rules(workers=[versioned(1)])
    assert (
        canonical_json([shared, shared])
        == f"[{canonical_json(shared)},{canonical_json(Rules(workers=[versioned(1)]))}]"
    )


def test_the_order_of_a_class_definition_does_not_matter_but_its_name_does():
    ab = make_dataclass("Config", ["a", "b"], frozen=True)(1, 2)
    ba = make_dataclass("Config", ["b", "a"], frozen=True)(2, 1)
    other = make_dataclass("Other", ["a", "b"], frozen=True)(1, 2)
    assert canonical_json(ab) == canonical_json(ba) != canonical_json(other)


def test_a_subclass_does_not_inherit_the_tag_of_its_parent():
    child = make_dataclass("Child", [], bases=(canonical_cases.YThenX,), frozen=True)
    assert '"$c":"Child"' in canonical_json(child())


# -- what is refused --------------------------------------------------------------------------------------------------


def captures(number: int) -> Callable[[], int]:
    def inner() -> int:
        return number

    return inner


def local_function() -> Callable[[Any], Any]:
    def work(config: Any) -> Any:
        return config

    return work


@dataclass
class Open:
    x: Any = 0

    @functools.cached_property
    def doubled(self) -> Any:
        return 2 * self.x


def with_attribute(value: Any) -> Any:
    value.hidden = 1
    return value


@dataclass
class WithInitOnly:
    x: Any = 0
    secret: InitVar[Any] = None

    def __post_init__(self, secret: Any) -> None:
        if secret is not None:
            self.hidden = secret


class Text(str):
    pass


def endless() -> list:
    value: list = []
    value.append(value)
    return value


def nested(depth: int) -> list:
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (object(), "cannot version value: object"),
        ({"model": Point(y=[1, lambda x: x])}, r"value\.model\.y\[1\]: a lambda"),
        ({"a b": {1: object()}}, r'value\["a b"\]\[1\]: object'),
        (captures(3), "captures number"),
        (local_function(), "the local function .*local_function.<locals>.work has no name to find it by"),
        (defaultdict(lambda: 0), r"value\.default_factory: a lambda"),
        (with_attribute(Open(1)), "the attribute 'hidden' of this Open is no field of its class"),
        ([WithInitOnly(1, secret=2)], r"value\[0\]: the attribute 'hidden' of this WithInitOnly is no field"),
        (Text("x"), "a subclass of str"),
        (1 + 2j, "complex"),
        (range(3), "range"),
        ("\ud800", "not valid Unicode"),
        ({"\udfff": 1}, "not valid Unicode"),
        (endless(), "deeper than 200 levels at a list; does it contain itself"),
        (nested(201), "deeper than 200"),
        ({unversioned("k"): 1}, "a key of a dict cannot be unversioned"),
        (np.zeros(200_000), "1600000 bytes is more than"),
        (np.array([object()]), "has parts"),
        (np.zeros(1, dtype=[("a", "i4")]), "has parts"),
        ((x for x in ()), "generator"),
        (sys, "module"),
        (Exception("x"), "Exception"),
        (object().__str__, "method-wrapper"),
    ],
)
def test_a_value_without_an_exact_form_is_an_error_that_names_the_place(value: Any, complaint: str):
    with pytest.raises(UnversionableError, match=complaint):
        canonical_json(value)


def test_two_hundred_levels_are_fine_even_deep_in_a_call_stack():
    def deep(levels: int) -> str:
        return canonical_json(nested(199)) if levels == 0 else deep(levels - 1)

    assert deep(200).startswith("[[[")


def test_a_field_that_was_never_set_is_an_error():
    with pytest.raises(UnversionableError, match=r"cannot version value\.a: the field is not set on this Unset"):
        canonical_json(make_dataclass("Unset", [("a", Any, field(init=False))])())


# -- other types ------------------------------------------------------------------------------------------------------


def test_a_value_that_was_computed_from_the_fields_is_no_hidden_attribute():
    value = Open(2)
    before = canonical_json(value)
    assert value.doubled == 4
    assert canonical_json(value) == before
    assert canonical_json(WithInitOnly(1)) == '{"$c":"WithInitOnly","x":1}'


def test_an_unversioned_item_keeps_its_place_in_a_sequence():
    texts = [canonical_json(v) for v in ([unversioned(1), 2], [2, unversioned(1)], [2], [unversioned(9), 2])]
    assert len(set(texts[:3])) == 3
    assert texts[3] == texts[0]


def test_a_registered_type_is_written_by_its_own_function():
    class Vocabulary:
        def __init__(self, words: list[str]):
            self.words = words

    with pytest.raises(UnversionableError, match="register_canonical"):
        canonical_json(Vocabulary([]))
    register_canonical(Vocabulary, lambda v: v.words, tag="Vocabulary")
    assert canonical_json([Vocabulary(["a"])]) == '[{"$x":["Vocabulary",["a"]]}]'
    register_canonical(Vocabulary, lambda v: {"words": object()}, tag="Vocabulary")
    with pytest.raises(UnversionableError, match=r"value\[0\]<Vocabulary>\.words"):
        canonical_json([Vocabulary(["a"])])


def test_the_forms_of_built_in_types_cannot_be_replaced():
    with pytest.raises(ValueError, match="part of the format"):
        register_canonical(dict, len)


def test_a_jax_array_reads_as_the_numpy_array():
    jnp = pytest.importorskip("jax.numpy")
    assert canonical_json(jnp.arange(3, dtype="int32")) == canonical_json(np.arange(3, dtype="int32"))
    assert canonical_json([jnp.float32, jnp.bfloat16]) == '[{"$dtype":"float32"},{"$dtype":"bfloat16"}]'
    assert canonical_json(jnp.dtype("bfloat16")) == '{"$dtype":"bfloat16"}'


def test_a_jax_key_is_refused():
    jax = pytest.importorskip("jax")
    with pytest.raises(UnversionableError, match="cannot version value"):
        canonical_json(jax.random.key(0))


def test_a_pydantic_model_reads_as_its_fields():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", depth=(int, 2), rate=(float, 1))
    assert canonical_json(model()) == '{"$c":"Model","depth":2,"rate":1.0}'


def test_encoding_imports_neither_numpy_nor_jax():
    code = (
        "import sys; from marin.execution.canonical import canonical_json; canonical_json({'a': (1, {2})});"
        "print(sorted(sys.modules.keys() & {'numpy', 'jax', 'decimal', 'uuid', 'pathlib', 'datetime'}))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.stdout == "[]\n"


def test_a_function_of_a_script_is_named_as_if_it_were_imported(tmp_path: Path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "experiments").mkdir()
    script = tmp_path / "experiments" / "probe.py"
    script.write_text(
        "from marin.execution.canonical import canonical_json\n"
        "def work(config): pass\n"
        "class Kind: pass\n"
        "print(canonical_json([work, Kind]))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), *sys.path]))}

    def output(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    expected = '[{"$fn":"experiments.probe:work"},{"$fn":"experiments.probe:Kind"}]\n'
    assert output(str(script)) == expected
    assert output("experiments/probe.py") == expected
    assert output("-m", "experiments.probe") == expected
    assert output("-c", "import experiments.probe") == expected
    env["PYTHONPATH"] = os.pathsep.join([str(script.parent), env["PYTHONPATH"]])
    assert output("-m", "probe") == expected


def test_two_scripts_outside_any_project_do_not_share_names(tmp_path: Path):
    code = "from marin.execution.canonical import canonical_json\ndef work(config): pass\nprint(canonical_json(work))\n"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    texts = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hw.py").write_text(code)
        for arguments in (["hw.py"], ["-m", "hw"]):
            run = subprocess.run(
                [sys.executable, *arguments], cwd=tmp_path / folder, env=env, capture_output=True, text=True, check=True
            )
            texts.add(run.stdout.strip())
    assert texts == {f'{{"$fn":"{tmp_path}/{folder}/hw:work"}}' for folder in ("one", "two")}


@dataclass(frozen=True)
class Small:
    a: int = 1
    b: str = "x"


def test_a_shared_config_is_encoded_as_often_as_it_stands():
    shared = Small()
    assert canonical_json([shared, shared, Small()]) == canonical_json([Small(), Small(), Small()])
    assert [f.name for f in fields(shared)] == ["a", "b"]
