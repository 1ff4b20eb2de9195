"""Expressions: written as text and JSON and read back, computed as Python would, with nulls as SQL has them."""

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.pipeline import col, lit, parse
from marin.processing.pipeline.evaluate import evaluate
from marin.processing.pipeline.expressions import Expression, from_json

numbers = st.integers(-1000, 1000) | st.floats(-1e6, 1e6)
number_columns = st.sampled_from(["a", "b.c", "gopher.num_words", "no name"]).map(col)
arithmetic: st.SearchStrategy[Expression] = st.recursive(
    number_columns | numbers.map(lit),
    lambda inner: (
        st.builds(lambda o, x, y: {"+": x + y, "-": x - y, "*": x * y}[o], st.sampled_from("+-*"), inner, inner)
        | inner.map(lambda x: -x)
    ),
    max_leaves=4,
)
comparisons = st.builds(
    lambda o, x, y: {"<": x < y, "<=": x <= y, "==": x == y, "!=": x != y, ">": x > y, ">=": x >= y}[o],
    st.sampled_from(["<", "<=", "==", "!=", ">", ">="]),
    arithmetic,
    arithmetic,
) | st.builds(lambda x, values: x.is_in(values), number_columns, st.lists(st.integers(0, 5), max_size=3))
conditions: st.SearchStrategy[Expression] = st.recursive(
    comparisons | number_columns.map(lambda c: c.is_null()) | number_columns.map(lambda c: c.is_between(0, 3)),
    lambda inner: (
        st.builds(lambda x, y: x & y, inner, inner)
        | st.builds(lambda x, y: x | y, inner, inner)
        | inner.map(lambda x: ~x)
    ),
    max_leaves=6,
)
rows = st.fixed_dictionaries(
    {name: st.none() | st.integers(-5, 5) for name in ("a", "b.c", "gopher.num_words", "no name")}
)


def reference(node: Expression, row: dict[str, Any]) -> Any:
    """The value of an expression for one row, in plain Python with None for null."""
    if node.operation == "col":
        return row[str(node.value)]
    if node.operation == "lit":
        return node.value
    values = [reference(argument, row) for argument in node.arguments]
    if node.operation == "is_null":
        return values[0] is None
    if node.operation == "and":
        return False if False in values else None if None in values else True
    if node.operation == "or":
        return True if True in values else None if None in values else False
    if None in values:
        return None
    if node.operation == "is_in":
        return values[0] in values[1:]
    return {
        "not": lambda x: not x,
        "neg": lambda x: -x,
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "lt": lambda x, y: x < y,
        "le": lambda x, y: x <= y,
        "gt": lambda x, y: x > y,
        "ge": lambda x, y: x >= y,
        "eq": lambda x, y: x == y,
        "ne": lambda x, y: x != y,
        "is_between": lambda x, low, high: low <= x <= high,
    }[node.operation](*values)


def batch_of(given_rows: list[dict[str, Any]]) -> pa.RecordBatch:
    names = ["a", "b.c", "gopher.num_words", "no name"]
    return pa.record_batch({name: pa.array([row[name] for row in given_rows], pa.int64()) for name in names})


@given(conditions | arithmetic)
def test_text_and_json_are_read_back_as_the_same_expression(expression: Expression):
    assert parse(str(expression)).to_json() == expression.to_json()
    assert from_json(expression.to_json()).to_json() == expression.to_json()


@given(conditions, st.lists(rows, min_size=1, max_size=5))
def test_conditions_are_computed_as_the_reference_does_row_by_row(expression: Expression, given_rows):
    values = evaluate(expression, batch_of(given_rows)).to_pylist()
    assert values == [reference(expression, row) for row in given_rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name.starts_with("ab")', [True, False, None]),
        ('name.ends_with("c")', [True, False, None]),
        ('name.contains("b")', [True, True, None]),
        ('name.matches("^[a-c]+$")', [True, False, None]),
        ("name.length() == 3", [True, False, None]),
        ("length(name) == 3", [True, False, None]),
        ("name is None", [False, False, True]),
        ("name is not None", [True, True, False]),
        ('name in ["abc"]', [True, False, None]),
        ('name not in ("abc", "x")', [False, True, None]),
        ("1 < n <= 3", [False, True, True]),
        ("n / 2 == 0.5", [True, False, False]),
        ("not n == 1 or name is None", [False, True, True]),
        ("abs(n - 3) <= 1", [False, True, True]),
        ("tags.length() > 0", [True, False, None]),
    ],
)
def test_the_language_of_conditions(text: str, expected: list[bool | None]):
    batch = pa.record_batch(
        {"name": ["abc", "ébcd", None], "n": [1, 2, 3], "tags": pa.array([["x"], [], None], pa.list_(pa.string()))}
    )
    assert evaluate(parse(text), batch).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a >", "no expression"),
        ("__import__('os')", "no such function"),
        ("a.b()", "no such function"),
        ("[x for x in y]", "ListComp is not in the language"),
        ("a is b", "`is` is for None alone"),
        ("a in b", "wants a list"),
        ("a if b else c", "IfExp is not in the language"),
        ("f'{a}'", "JoinedStr is not in the language"),
        ("a[0] > 1", "Subscript is not in the language"),
        ("a ** 2 > 1", "BinOp is not in the language"),
        ("a.is_between(1)", "is_between takes 2 arguments"),
        ("b'a' == a", "a bytes is no value"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place(text: str, said: str):
    with pytest.raises(ValueError, match="no expression") as caught:
        parse(text)
    assert said in str(caught.value)


def test_an_unknown_column_is_named_with_a_near_miss():
    with pytest.raises(ValueError, match=r"no column 'gopher.num_word'.*did you mean 'gopher.num_words'\?"):
        evaluate(col("gopher.num_word") > 1, batch_of([]))


def test_types_that_do_not_go_together_are_named():
    batch = pa.record_batch({"n": [1], "s": ["a"]})
    with pytest.raises(ValueError, match=r"cannot compute n > s.*n is int64, s is string"):
        evaluate(parse("n > s"), batch)


def test_a_condition_has_no_truth_of_its_own():
    with pytest.raises(TypeError, match="write & for and"):
        bool((col("a") > 1) and (col("b") > 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_has_not_are_refused(value: float):
    with pytest.raises(ValueError, match="JSON has no such number"):
        lit(value)
