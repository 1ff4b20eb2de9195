# pyright: reportAttributeAccessIssue=false
"""The values of an expression for the rows of a record batch, by Arrow's compute functions."""

import difflib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made when it is imported, unknown to type checkers

from marin.processing.pipeline.expressions import Expression


def evaluate(expression: Expression, batch: pa.RecordBatch) -> pa.Array:
    """One value a row. ValueError where a column is not there, or the types do not go together."""
    try:
        value = _value(expression, batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        types = ", ".join(f"{name} is {batch.schema.field(name).type}" for name in expression.columns())
        raise ValueError(f"cannot compute {expression}: {error} ({types})") from error
    if isinstance(value, pa.Scalar):
        return pa.array([value.as_py()] * batch.num_rows, value.type)
    return value


def check_columns(wanted: tuple[str, ...], names: list[str], what: str) -> None:
    """ValueError naming the first wanted column that is not there, and the one that may have been meant."""
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no column {name!r}, which {what} needs{hint} (the columns are {', '.join(names)})")


def _value(node: Expression, batch: pa.RecordBatch) -> Any:
    if node.operation == "col":
        check_columns((str(node.value),), batch.schema.names, "an expression")
        return batch.column(str(node.value))
    if node.operation == "lit":
        return pa.scalar(node.value)
    if node.operation == "is_in":
        return _is_in(node, batch)
    arguments = [_value(argument, batch) for argument in node.arguments]
    return _COMPUTE[node.operation](*arguments)


def _is_in(node: Expression, batch: pa.RecordBatch) -> Any:
    value = _value(node.arguments[0], batch)
    members = pa.array([argument.value for argument in node.arguments[1:]])
    if not len(members):
        members = pa.array([], value.type)
    found = pc.is_in(value, value_set=members.cast(value.type) if members.type != value.type else members)
    return pc.if_else(pc.is_null(value), pa.scalar(None, pa.bool_()), found)  # Arrow calls null in no set


def _length(value: Any) -> Any:
    if pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        return pc.list_value_length(value)
    return pc.utf8_length(value)


def _divide(left: Any, right: Any) -> Any:
    return pc.divide(left.cast(pa.float64()), right.cast(pa.float64()))


def _plain_text(value: Any) -> str:
    text = value.as_py() if isinstance(value, pa.Scalar) else None
    if not isinstance(text, str):
        raise ValueError("starts_with, ends_with, contains and matches compare with one given string")
    return text


_COMPUTE: dict[str, Any] = {
    "eq": pc.equal,
    "ne": pc.not_equal,
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
    "add": pc.add_checked,
    "sub": pc.subtract_checked,
    "mul": pc.multiply_checked,
    "div": _divide,
    "and": pc.and_kleene,
    "or": pc.or_kleene,
    "not": pc.invert,
    "neg": pc.negate_checked,
    "abs": pc.abs_checked,
    "is_null": pc.is_null,
    "is_between": lambda value, low, high: pc.and_kleene(pc.greater_equal(value, low), pc.less_equal(value, high)),
    "length": _length,
    "starts_with": lambda value, text: pc.starts_with(value, pattern=_plain_text(text)),
    "ends_with": lambda value, text: pc.ends_with(value, pattern=_plain_text(text)),
    "contains": lambda value, text: pc.match_substring(value, pattern=_plain_text(text)),
    "matches": lambda value, text: pc.match_substring_regex(value, pattern=_plain_text(text)),
}
