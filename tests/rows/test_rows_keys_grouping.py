"""Keys, numbers, paths and groups."""

import math

import pytest

from avtools.errors import RowError, UsageError
from avtools.rows import Record, consecutive_groups, key_of, number, path_of


def test_key_of():
    row = {"relpath": "a/b.mp4", "id": "b", "path": "/x/a/b.mp4", "text": "t"}
    assert key_of(row) == "a/b.mp4"
    assert key_of({**row, "relpath": ""}) == "b"
    assert key_of({**row, "relpath": None, "id": ""}) == "b.mp4"
    assert key_of({"path": "placeholder.mp4", "audio_path": "s/x.wav"}) == "x.wav"
    assert key_of({"path": "placeholder.mp4", "relpath": "placeholder.mp4", "id": "placeholder", "audio_path": "s/x.wav"}) == "x.wav"  # JavisDiT's own tables
    assert key_of({"path": "placeholder.mp4", "relpath": "placeholder.mp4", "text": "rain"}) == "placeholder.mp4"  # of captions alone
    assert key_of({"path": "a.mp4", "id": "placeholder"}) == "placeholder" and key_of({"path": "placeholder.mp4", "id": "b"}) == "b"
    assert key_of({"image_path": "i.png"}) == "i.png"
    assert key_of(row, "text") == "t"
    assert key_of({"n": 5}, "n") == key_of({"n": "5"}, "n") == "5"
    for column in (None, "id"):
        with pytest.raises(RowError, match="no key.*--key"):
            key_of({"id": "", "text": "t"}, column)


@pytest.mark.parametrize(
    "value, expected",
    [("", None), (None, None), ("12", 12), ("00123", 123), ("1e5", 1e5), (" -2.5 ", -2.5), (7, 7), (".5", 0.5)],
)
def test_number(value, expected):
    got = number({"n": value}, "n")
    assert got == expected and type(got) is type(expected)
    assert number({}, "n") is None


@pytest.mark.parametrize("value", ["NA", "nan", "inf", "1_000", "١٢", "0x10", True, [1], math.nan, "1 2", "9" * 5000])
def test_not_a_number(value):
    with pytest.raises(RowError, match="column n: .*not a number"):
        number({"n": value}, "n")


def test_path_of():
    assert path_of({"path": "-x y.mp4"}, "path") == "-x y.mp4"
    for value in ("", None):
        with pytest.raises(RowError, match="column path holds no path"):
            path_of({"path": value}, "path")
    for value in (5, "a\0b"):
        with pytest.raises(RowError, match="not a path"):
            path_of({"path": value}, "path")


def records(values):
    return [Record({"g": v, "n": n}, f"t:{n}") for n, v in enumerate(values)]


def test_consecutive_groups():
    groups = list(consecutive_groups(records(["a", "a", "b", "a", "", "", None]), "g"))
    assert [[r.row["n"] for r in g] for g in groups] == [[0, 1], [2], [3], [4], [5], [6]]
    assert list(consecutive_groups([], "g")) == []


def test_groups_are_taken_one_at_a_time():
    taken = []

    def stream():
        for record in records("aabbcc"):
            taken.append(record)
            yield record

    groups = consecutive_groups(stream(), "g")
    next(groups)
    assert len(taken) == 3


def test_endless_groups():
    with pytest.raises(UsageError, match="more than 3 rows.*--group-by"):
        list(consecutive_groups(records("aaaa"), "g", limit=3))
