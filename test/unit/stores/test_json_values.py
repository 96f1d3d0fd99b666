"""What a document may hold, and how a value that it may not hold is named."""

import enum
from collections import OrderedDict, namedtuple
from datetime import UTC, datetime
from typing import Any

import pytest

from runtime.errors import DocumentError
from runtime.stores.json_values import MAX_DEPTH, plain


class Colour(str, enum.Enum):  # noqa: UP042  # as handlers write it that were made for older Pythons
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Score(float):
    """A float of another class, as numpy's float64 is."""


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 1.0, -0.0, "", "é\U0001f600", [], {}, {"b": [1, {"a": None}]}, 2**63 - 1, -(2**63)],
    ids=repr,
)
def test_json_values_stay_what_they_are(value: Any) -> None:
    assert repr(plain(value, DocumentError)) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (Pair(1, "x"), [1, "x"]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Colour.RED, "red"),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
        (Score(1.5), 1.5),
    ],
    ids=repr,
)
def test_subclasses_become_what_json_makes_of_them(value: Any, expected: Any) -> None:
    result = plain(value, DocumentError)

    assert repr(result) == repr(expected)


def test_the_value_passed_is_not_changed() -> None:
    document = {"a": (1, 2), "b": {"c": [1]}}

    result = plain(document, DocumentError)
    result["b"]["c"].append(2)

    assert document == {"a": (1, 2), "b": {"c": [1]}}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": {"b": [0, float("nan")]}}, "'a.b.1' is nan, which JSON cannot hold; send None or text"),
        ({"a": float("-inf")}, "'a' is -inf, which JSON cannot hold"),
        ({"a": [{"n": 2**63}]}, "'a.0.n' is 9223372036854775808, an integer beyond 64 bits; send it as text"),
        ({"a": -(2**63) - 1}, "'a' is -9223372036854775809, an integer beyond 64 bits"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "'a' is of type 'datetime', expected JSON: text, number,"),
        ({"a": {1, 2}}, "'a' is of type 'set', expected JSON"),
        ({"a": b"x"}, "'a' is of type 'bytes', expected JSON"),
        ({"a": {5: 1}}, "'a' has the key 5 of type 'int', expected text"),
        ({5: 1}, "the value has the key 5 of type 'int', expected text"),
        ({"a": ["\ud800"]}, "'a.0' holds a lone surrogate, which is no valid Unicode text"),
        ({"\ud800": 1}, r"'\ud800' holds a lone surrogate"),
    ],
    ids=ascii,
)
def test_a_value_that_no_store_keeps_is_named_by_its_key_path(document: Any, message: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        plain(document, DocumentError)

    assert str(refusal.value).startswith(message)


def test_a_refused_document_is_a_type_error_as_with_json_dumps() -> None:
    with pytest.raises(TypeError):
        plain({"a": object()}, DocumentError)


def test_nesting_is_limited_so_that_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]

    assert plain(deepest, DocumentError) == deepest
    with pytest.raises(DocumentError, match="is nested deeper than 100 levels"):
        plain([deepest], DocumentError)
    with pytest.raises(DocumentError, match="is nested deeper than 100 levels"):
        plain(endless, DocumentError)
