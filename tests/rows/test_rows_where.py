"""The filter expression."""

import pytest

from avtools.errors import UsageError
from avtools.rows import compile_where

ROW = {
    "n": "25",
    "f": 2.5,
    "s": "dog bark",
    "z": "00123",
    "e": "",
    "none": None,
    "nan": float("nan"),
    "nantext": "nan",
    "odd name": "x",
    "a.b": "1",
    "l": [1, 2],
    "t": True,
    "and": "kw",
    "été": "1",
    "q": "it's",
    "big": "12345678901234567890",
}


@pytest.mark.parametrize(
    "expr",
    [
        "n == 25",
        "n == '25.0'",
        "25 == n",
        "n>=25 and n<=25 and not n < 25",
        "f < n",
        "f == 25e-1",
        "n > 3",  # as numbers, though '25' < '3' as text
        "n > -3.5",
        "s == 'dog bark'",
        's == "dog bark"',
        "s > 'cat'",
        "s > 5",  # as text
        "z == 123 and z =~ '^00'",
        "n in [1, 25]",
        "n in [1, 25,]",
        "s not in ['cat', 'cow']",
        "not (n in [])",
        "n not in []",
        "s =~ 'b.rk$'",
        r"n =~ '^\d+$'",
        "l == '[1,2]'",
        "t == 'true'",
        "`odd name` == 'x'",
        "`and` == 'kw'",
        "a.b == 1",
        "été == 1",
        "q == 'it''s' and q == \"it's\"",
        "e == ''",
        "'' == none",
        "s != ''",
        "not (e == 1)",
        "e in ['', 'a']",
        "s not in ['']",
        "n == 1 or n == 2 or s =~ 'dog' and f > 2",
        "(n == 25 or n == 1) and (((f > 2)))",
        "not not n == 25",
        "nantext == 'nan'",
        "big == 12345678901234567890",
        "big != 12345678901234567891",
        "1 == 1",
    ],
)
def test_true(expr):
    assert compile_where(expr, list(ROW))(ROW) is True


@pytest.mark.parametrize(
    "expr",
    [
        "n != 25",
        "n == '25x'",
        "t == 1",
        "e == 1",
        "e != 1",
        "e < 1",
        "e == none",
        "e =~ ''",
        "e in [1]",
        "e not in [1]",
        "e not in []",
        "e not in ['']",
        "none != 'x'",
        "nan == nan",
        "nan != 1",
        "nantext > 1",
        "nantext != 1",
        "n not in [1, 25]",
        "s < ''",
        "e != ''",
        "n == 25 and (n == 1 or n == 2)",
        "not n == 25 and n == 25",
    ],
)
def test_false(expr):
    assert compile_where(expr, list(ROW))(ROW) is False


@pytest.mark.parametrize(
    "expr, message",
    [
        ("", "character 1, at the end: a column, a number or a quoted text is missing"),
        ("n", "a comparison is missing"),
        ("n = 25", "character 3, before '= 25': equality is =="),
        ("n == ", "character 6, at the end"),
        ("n == 25 s", "character 9.*nothing more"),
        ("1 < n < 3", "nothing more"),
        ("(n == 25", r"\) is missing"),
        ("n == 25)", "nothing more"),
        ("n in 25", r"\[ is missing"),
        ("n in [25", r"\] is missing"),
        ("n not 25", "in is missing"),
        ("n == 'x", "never closed"),
        ("`n == 1", "never closed"),
        ("n && f", "write and"),
        ("nn == 1", "no column nn; did you mean n"),
        ("dur == 1", "no column dur; did you mean"),
        ("n == dog", "no column dog.*text needs quotes"),
        ("s =~ '('", "character 6.*not a regular expression"),
        ("s =~ n", "quoted regular expression"),
        ("n-fps > 1", "character 2, before '-fps > 1': not understood; .*`backquotes`"),
        ("n-1 > 1", "a comparison is missing"),
        ("1x == 1", "not understood"),
        ("n == and", "missing"),
        ("not", "missing"),
        ("not " * 5000 + "n == 1", "nested"),
        ("(" * 5000 + "n == 1" + ")" * 5000, "nested"),
        ("s =~ '" + "(" * 5000 + ")" * 5000 + "'", "not a regular expression"),
    ],
)
def test_wrong(expr, message):
    with pytest.raises(UsageError, match=message) as error:
        compile_where(expr, list(ROW))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_no_columns():
    with pytest.raises(UsageError, match="no column n; text"):
        compile_where("n == 1", [])


def test_long_and_deep_expressions():
    many = compile_where(" or ".join(f"n == {i}" for i in range(5000)), ["n"])
    assert many({"n": "4999"}) and not many({"n": "5000"})
    deep = compile_where("(n == 0 or " * 99 + "n == 1" + ")" * 99, ["n"])
    assert deep({"n": "1"}) and not deep({"n": "2"})
    assert compile_where("not " * 100 + "n == 1", ["n"])({"n": 1})
