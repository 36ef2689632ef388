"""The filter expression of `mkmeta filter --where`.

    or:          and ("or" and)*
    and:         not ("and" not)*
    not:         "not" not | "(" or ")" | comparison
    comparison:  value (== != < <= > >=) value | value ["not"] "in" "[" value, ... "]" | value =~ string
    value:       column | `column` | number | 'string' | "string"

A quote or backquote is doubled inside its own kind; backslashes are plain characters.
"""

import operator
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

from avtools.errors import UsageError
from avtools.rows.formats import shown
from avtools.rows.keys import parse_number
from avtools.rows.writing import cell_text

DEPTH = 100  # of parentheses and "not"

_COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<name>[^\W\d]\w*(?:\.\w+)*)
    | `(?P<column>(?:[^`]|``)+)`
    | '(?P<single>(?:[^']|'')*)'
    | "(?P<double>(?:[^"]|"")*)"
    | (?P<sign>==|!=|<=|>=|=~|[<>()\[\],])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)

_SIGNS = {"=": "equality is ==", "&": "write and", "|": "write or", "!": "write not or !="}

Predicate = Callable[[dict], bool]


class _Token(NamedTuple):
    kind: str  # number, name, column, string, sign, end
    value: Any
    at: int


def names_in(expr: str) -> set[str]:
    """Return the names that stand in `expr`, the columns among them; raise UsageError where it has what no expression has."""
    return {token.value for token in _Parser(expr, None).tokens if token.kind in ("name", "column")}


def compile_where(expr: str, columns: list[str] | None) -> Predicate:
    """Return the function that says whether a row satisfies `expr`.

    Both sides are compared as numbers where both are numbers or spell one (`00123` equals `123`), else as the
    text of their CSV cells.  Where a side is empty (None, an empty cell) or not a number (a float NaN, or the
    text `nan` beside a number), every comparison is false, != and =~ too; so `not (x == 1)` is true for an empty
    x, and `x != 1` is false.  The empty string literal alone asks for emptiness: `x == ''`, `x != ''`,
    `x in ['', 'a']`.  Raise UsageError for an unknown column (where `columns` are given) and,
    with its position, for whatever is no expression.
    """
    return _Parser(expr, columns).parse()


class _Parser:
    def __init__(self, expr: str, columns: list[str] | None):
        self._expr, self._columns = expr, columns
        self.tokens = self._tokenize()
        self._next = 0
        self._depth = 0

    def _fail(self, at: int, reason: str):
        found = self._expr[at : at + 20]
        here = f"before {shown(found)!r}" if found else "at the end"
        raise UsageError(f"--where, character {at + 1}, {here}: {reason}")

    def _tokenize(self) -> list[_Token]:
        tokens, at = [], 0
        while not tokens or tokens[-1].kind != "end":
            match = _TOKEN.match(self._expr, at)
            if not match:
                at += len(self._expr[at:]) - len(self._expr[at:].lstrip())
                char = self._expr[at]
                if char in "'\"`":
                    self._fail(at, "this quote is never closed")
                self._fail(at, _SIGNS.get(char, "not understood; columns with odd names go in `backquotes`"))
            kind, value = match.lastgroup, match[match.lastgroup]
            if kind == "number":
                value = parse_number(value)
            elif kind == "column":
                value = value.replace("``", "`")
            elif kind in ("single", "double"):
                quote = "'" if kind == "single" else '"'
                kind, value = "string", value.replace(quote * 2, quote)
            start = match.start() + len(match[0]) - len(match[0].lstrip())
            tokens.append(_Token(kind, value, start))
            at = match.end()
        return tokens

    def _peek(self, *values: str) -> bool:
        """Say whether the next token is one of these signs or words."""
        token = self.tokens[self._next]
        return token.kind in ("sign", "name") and token.value in values

    def _take(self) -> _Token:
        token = self.tokens[self._next]
        self._next += 1
        return token

    def _accept(self, *values: str) -> bool:
        if self._peek(*values):
            self._next += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            self._fail(self.tokens[self._next].at, f"{value} is missing here")

    def parse(self) -> Predicate:
        result = self._or()
        token = self.tokens[self._next]
        if token.kind != "end":
            self._fail(token.at, "nothing more was expected, except and, or")
        return result

    def _or(self) -> Predicate:
        parts = [self._and()]
        while self._accept("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def _and(self) -> Predicate:
        parts = [self._not()]
        while self._accept("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _not(self) -> Predicate:
        if not self._peek("not", "("):
            return self._comparison()
        token = self._take()
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(token.at, f"nested more than {DEPTH} deep")
        if token.value == "not":
            inner = self._not()
            result = lambda row: not inner(row)  # noqa: E731
        else:
            result = self._or()
            self._expect(")")
        self._depth -= 1
        return result

    def _comparison(self) -> Predicate:
        left, left_empty = self._value()
        if self._accept("=~"):
            return self._regex(left)
        negated = self._accept("not")
        if self._accept("in"):
            return self._among(left, left_empty, negated)
        token = self._take()
        if negated or token.kind != "sign" or token.value not in _COMPARISONS:
            self._fail(token.at, "in is missing after not" if negated else "a comparison is missing here")
        right, right_empty = self._value()
        return _compare(token.value, left, right, left_empty or right_empty)

    def _value(self) -> tuple[Callable[[dict], Any], bool]:
        """Return what gives the value in a row, and whether it is the empty string literal."""
        token = self._take()
        value = token.value
        if token.kind in ("string", "number"):
            return (lambda row: value), value == ""
        if token.kind == "column" or (token.kind == "name" and value not in ("and", "or", "not", "in")):
            if self._columns is not None and value not in self._columns:
                near = get_close_matches(value, self._columns, 1, 0)
                hint = f"; did you mean {shown(near[0])}?" if near else ""
                quotes = "; text needs quotes" if token.kind == "name" else ""
                self._fail(token.at, f"there is no column {shown(value)}{hint}{quotes}")
            return (lambda row: row.get(value)), False
        self._fail(token.at, "a column, a number or a quoted text is missing here")

    def _regex(self, left: Callable[[dict], Any]) -> Predicate:
        token = self._take()
        if token.kind != "string":
            self._fail(token.at, "=~ needs a quoted regular expression")
        try:
            search = re.compile(token.value).search
        except (re.error, RecursionError, OverflowError) as error:
            self._fail(token.at, f"not a regular expression: {error}")

        def matches(row):
            value = left(row)
            return not _empty(value) and search(cell_text(value)) is not None

        return matches

    def _among(self, left: Callable[[dict], Any], left_empty: bool, negated: bool) -> Predicate:
        self._expect("[")
        choices = []
        while not self._peek("]"):
            value, empty = self._value()
            choices.append(_compare("!=" if negated else "==", left, value, left_empty or empty))
            if not self._accept(","):
                break
        self._expect("]")
        if not negated:
            return lambda row: any(choice(row) for choice in choices)
        if not choices:
            return lambda row: not _empty(left(row))
        return lambda row: all(choice(row) for choice in choices)


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value


def _compare(sign: str, left: Callable[[dict], Any], right: Callable[[dict], Any], asks_empty: bool) -> Predicate:
    """Return the comparison of two values; `asks_empty`: one is the empty string literal."""
    compare = _COMPARISONS[sign]
    if asks_empty:
        if sign not in ("==", "!="):
            return lambda row: False
        return lambda row: compare(_empty(left(row)) and _empty(right(row)), True)

    def test(row):
        a, b = left(row), right(row)
        if _empty(a) or _empty(b):
            return False
        x, y = parse_number(a), parse_number(b)
        if x is not None and y is not None and (x == x or y == y):
            return x == x and y == y and compare(x, y)
        return compare(cell_text(a), cell_text(b))

    return test
