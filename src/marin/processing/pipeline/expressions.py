"""Conditions over columns, as values: `col("gopher.num_words").is_between(50, 100_000) & (col("lz4") > 0.65)`.

An expression is a small tree that can be written down (JSON, or text that `parse` reads back) and so stand in a config,
in a plan's identity and in a report; `evaluate` computes it for a record batch. Dotted column names need no quotes in
text. The price of an own tree over Arrow's or Polars' is this file; what it buys is one spelling that no library's
version changes.

A comparison with null is null. `and` and `or` are Kleene's: `false and null` is false. What a null condition means for
a row is for whoever filters to say.
"""

import ast
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Value = None | bool | int | float | str

# operation -> (least, most) number of arguments
OPERATIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "div"), (2, 2)),
    **dict.fromkeys(("and", "or"), (2, 2)),
    **dict.fromkeys(("not", "neg", "abs", "is_null", "length"), (1, 1)),
    **dict.fromkeys(("starts_with", "ends_with", "contains", "matches"), (2, 2)),
    "is_between": (3, 3),
    "is_in": (1, 1_000_000),
}
_METHODS = ("is_between", "is_in", "is_null", "starts_with", "ends_with", "contains", "matches", "length", "abs")
_SYMBOLS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "and": "and",
    "or": "or",
}


@dataclass(frozen=True, eq=False, repr=False)
class Expression:
    """A node of the tree: "col" with a name, "lit" with a value, or an operation of expressions."""

    operation: str
    arguments: tuple["Expression", ...] = ()
    value: Value = None  # a column's name, or a literal

    def __eq__(self, other: Any) -> "Expression":  # type: ignore[override]
        return _call("eq", self, other)

    def __ne__(self, other: Any) -> "Expression":  # type: ignore[override]
        return _call("ne", self, other)

    def __lt__(self, other: Any) -> "Expression":
        return _call("lt", self, other)

    def __le__(self, other: Any) -> "Expression":
        return _call("le", self, other)

    def __gt__(self, other: Any) -> "Expression":
        return _call("gt", self, other)

    def __ge__(self, other: Any) -> "Expression":
        return _call("ge", self, other)

    def __add__(self, other: Any) -> "Expression":
        return _call("add", self, other)

    def __radd__(self, other: Any) -> "Expression":
        return _call("add", other, self)

    def __sub__(self, other: Any) -> "Expression":
        return _call("sub", self, other)

    def __rsub__(self, other: Any) -> "Expression":
        return _call("sub", other, self)

    def __mul__(self, other: Any) -> "Expression":
        return _call("mul", self, other)

    def __rmul__(self, other: Any) -> "Expression":
        return _call("mul", other, self)

    def __truediv__(self, other: Any) -> "Expression":
        return _call("div", self, other)

    def __rtruediv__(self, other: Any) -> "Expression":
        return _call("div", other, self)

    def __and__(self, other: Any) -> "Expression":
        return _call("and", self, other)

    def __or__(self, other: Any) -> "Expression":
        return _call("or", self, other)

    def __invert__(self) -> "Expression":
        return _call("not", self)

    def __neg__(self) -> "Expression":
        return _call("neg", self)

    def __abs__(self) -> "Expression":
        return _call("abs", self)

    def abs(self) -> "Expression":
        """The absolute value."""
        return _call("abs", self)

    def is_between(self, low: Any, high: Any) -> "Expression":
        """low <= value <= high, both ends included."""
        return _call("is_between", self, low, high)

    def is_in(self, values: Sequence[Value]) -> "Expression":
        """Whether the value is one of these."""
        return _call("is_in", self, *values)

    def is_null(self) -> "Expression":
        """Whether there is no value; never null itself."""
        return _call("is_null", self)

    def starts_with(self, text: str) -> "Expression":
        """Whether a string begins so."""
        return _call("starts_with", self, text)

    def ends_with(self, text: str) -> "Expression":
        """Whether a string ends so."""
        return _call("ends_with", self, text)

    def contains(self, text: str) -> "Expression":
        """Whether a string has this in it, letter for letter."""
        return _call("contains", self, text)

    def matches(self, pattern: str) -> "Expression":
        """Whether a regular expression (RE2) is found anywhere in a string."""
        return _call("matches", self, pattern)

    def length(self) -> "Expression":
        """Characters of a string (code points), or items of a list."""
        return _call("length", self)

    def columns(self) -> tuple[str, ...]:
        """Names of the columns it looks at, each once, in the order of their appearance."""
        return tuple(dict.fromkeys(self._names()))

    def _names(self) -> Iterator[str]:
        if self.operation == "col":
            yield str(self.value)
        for argument in self.arguments:
            yield from argument._names()

    def to_json(self) -> list[Any]:
        """Lists as `["gt", ["col", "lz4"], ["lit", 0.65]]`, for `from_json`."""
        if self.operation in ("col", "lit"):
            return [self.operation, self.value]
        return [self.operation, *(argument.to_json() for argument in self.arguments)]

    def __str__(self) -> str:
        """As text that `parse` reads back."""
        return _text(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json()))

    def __bool__(self) -> bool:
        raise TypeError(
            f"the truth of {self} is known only for a row: write & for and, | for or, ~ for not, with parentheses "
            "around comparisons, and a.is_between(low, high) for low <= a <= high"
        )


def col(name: str) -> Expression:
    """The value of a column."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a column has a name: col({name!r})")
    return Expression("col", value=name)


def lit(value: Value) -> Expression:
    """A value that is the same for all rows."""
    if not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(
            f"{value!r} ({type(value).__name__}) in an expression: null, true, false, numbers and strings are"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} in an expression: JSON has no such number, and no comparison with it says anything")
    return Expression("lit", value=value)


def _call(operation: str, *arguments: Any) -> Expression:
    least, most = OPERATIONS[operation]
    if not least <= len(arguments) <= most:
        raise ValueError(f"{operation} takes {least} arguments, got {len(arguments)}")
    parts = tuple(a if isinstance(a, Expression) else lit(a) for a in arguments)
    if operation == "neg" and parts[0].operation == "lit" and type(parts[0].value) in (int, float):
        return lit(-parts[0].value)  # type: ignore[operator]  # one form for -1
    return Expression(operation, parts)


def from_json(value: Any) -> Expression:
    """The expression that `to_json` wrote. ValueError where it is none."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise ValueError(f'no expression: {value!r}; one is a list such as ["gt", ["col", "lz4"], ["lit", 0.65]]')
    operation, *arguments = value
    if operation in ("col", "lit"):
        if len(arguments) != 1:
            raise ValueError(f"no expression: {value!r}; {operation!r} has one value")
        return col(arguments[0]) if operation == "col" else lit(arguments[0])
    if operation not in OPERATIONS:
        raise ValueError(f"no operation {operation!r}; there are {', '.join(OPERATIONS)}")
    return _call(operation, *(from_json(argument) for argument in arguments))


# -- text -------------------------------------------------------------------------------------------------------------


def _text(node: Expression) -> str:
    if node.operation == "col":
        name = str(node.value)
        plain = all(part.isidentifier() and part not in _RESERVED for part in name.split("."))
        return name if plain else f"col({name!r})"
    if node.operation == "lit":
        return repr(node.value)
    parts = [_text(argument) for argument in node.arguments]
    first = parts[0] if node.arguments[0].operation == "col" else f"({parts[0]})"
    if node.operation in _SYMBOLS:
        is_closed = [a.operation not in _SYMBOLS and a.operation not in ("not", "neg") for a in node.arguments]
        sides = [part if closed else f"({part})" for closed, part in zip(is_closed, parts, strict=True)]
        return f"{sides[0]} {_SYMBOLS[node.operation]} {sides[1]}"
    if node.operation == "not":
        return f"not {first}"
    if node.operation == "neg":
        return f"-{first}"
    if node.operation == "is_in":
        return f"{first}.is_in([{', '.join(parts[1:])}])"
    return f"{first}.{node.operation}({', '.join(parts[1:])})"


_RESERVED = {"and", "or", "not", "in", "is", "None", "True", "False", "col", "lit", "if", "else", "lambda", "for"}
_RESERVED |= {"import", "class", "def", "return", "while", "with", "from", "global", "pass", "raise", "try", "yield"}
_RESERVED |= {"as", "assert", "async", "await", "break", "continue", "del", "elif", "except", "finally", "nonlocal"}

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.BitAnd: "and", ast.BitOr: "or"}
_COMPARISONS = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}


def parse(text: str) -> Expression:
    """The expression that a text means: `gopher.num_words >= 50 and 0.65 <= lz4 <= 0.9 and lang in ["en", "de"]`.

    It is Python's grammar of comparisons, `and or not`, `+ - * /`, `in`, `is None`, names with dots for columns,
    `col("a b")` for other names, and the methods of `Expression`. Nothing is executed. Raises ValueError that says
    where the text is no such thing.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no expression: {text!r}: {getattr(error, 'msg', error)}") from error
    return _Parser(text.strip()).expression(tree.body)


class _Parser:
    def __init__(self, text: str):
        self._text = text

    def fail(self, node: ast.AST, why: str) -> ValueError:
        at = ast.get_source_segment(self._text, node) or ast.dump(node)  # type: ignore[arg-type]
        return ValueError(f"no expression: {self._text!r}: at {at!r}: {why}")

    def expression(self, node: ast.expr) -> Expression:
        if isinstance(node, ast.Constant):
            if not (node.value is None or isinstance(node.value, bool | int | float | str)):
                raise self.fail(node, f"a {type(node.value).__name__} is no value here")
            return lit(node.value)
        if isinstance(node, ast.Name | ast.Attribute):
            return col(self.name(node))
        if isinstance(node, ast.BoolOp):
            operation = "and" if isinstance(node.op, ast.And) else "or"
            return self.folded(operation, [self.expression(value) for value in node.values])
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return _call(_BINARY[type(node.op)], self.expression(node.left), self.expression(node.right))
        if isinstance(node, ast.Compare):
            return self.comparison(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.fail(node, f"{type(node).__name__} is not in the language of expressions")

    def folded(self, operation: str, parts: list[Expression]) -> Expression:
        result = parts[0]
        for part in parts[1:]:
            result = _call(operation, result, part)
        return result

    def name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self.name(node.value)}.{node.attr}"
        raise self.fail(node, "a column's name is names with dots")

    def unary(self, node: ast.UnaryOp) -> Expression:
        inner = self.expression(node.operand)
        if isinstance(node.op, ast.Not | ast.Invert):
            return _call("not", inner)
        if isinstance(node.op, ast.USub):
            return _call("neg", inner)
        raise self.fail(node, "of unary operators there are `not` and `-`")

    def comparison(self, node: ast.Compare) -> Expression:
        parts = []
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            parts.append(self.one_comparison(left, operator, right))
        return self.folded("and", parts)

    def one_comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Expression:
        if isinstance(operator, ast.In | ast.NotIn):
            found = _call("is_in", self.expression(left), *self.literals(right))
            return found if isinstance(operator, ast.In) else _call("not", found)
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self.fail(right, "`is` is for None alone")
            null = _call("is_null", self.expression(left))
            return null if isinstance(operator, ast.Is) else _call("not", null)
        return _call(_COMPARISONS[type(operator)], self.expression(left), self.expression(right))

    def literals(self, node: ast.expr) -> list[Expression]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self.fail(node, "`in` wants a list of values, as in [1, 2]")
        values = [self.expression(item) for item in node.elts]
        if any(value.operation != "lit" for value in values):
            raise self.fail(node, "a list has plain values")
        return values

    def call(self, node: ast.Call) -> Expression:
        if node.keywords:
            raise self.fail(node, "arguments have no names here")
        function = node.func
        if isinstance(function, ast.Name) and function.id == "col":
            if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                return col(node.args[0].value)
            raise self.fail(node, 'a column is col("its name")')
        if isinstance(function, ast.Name) and function.id in _METHODS and node.args:  # length(text) as text.length()
            operation, arguments = function.id, node.args
        elif isinstance(function, ast.Attribute) and function.attr in _METHODS:
            operation, arguments = function.attr, [function.value, *node.args]
        else:
            raise self.fail(node, f"no such function; there are {', '.join(_METHODS)}")
        if operation == "is_in":
            if len(arguments) != 2:
                raise self.fail(node, "is_in takes one list")
            return _call("is_in", self.expression(arguments[0]), *self.literals(arguments[1]))
        least, most = OPERATIONS[operation]
        if not least <= len(arguments) <= most:
            raise self.fail(node, f"{operation} takes {least - 1} arguments, not {len(arguments) - 1}")
        return _call(operation, *(self.expression(argument) for argument in arguments))
