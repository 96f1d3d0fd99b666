"""Edges: which types fit, and how a mismatch is worded."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from runtime.spec.edges import EdgeType, HandlerTypes, Verdict, compare, edge_schema, part_type


class Full(BaseModel):
    name: str
    amount: int = 0


class NameOnly(BaseModel):
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Nested(BaseModel):
    items: list[Full]


class NestedText(BaseModel):
    items: list[dict[str, str]]


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


class OtherTree(BaseModel):
    label: str
    children: list["OtherTree"] = []


class NumberTree(BaseModel):
    label: int
    children: list["NumberTree"] = []


def compared(sent: Any, read: Any) -> Verdict:
    return compare(
        EdgeType(kind="json", json_schema=TypeAdapter(sent).json_schema(mode="serialization")),
        EdgeType(kind="json", json_schema=TypeAdapter(read).json_schema(mode="validation")),
    )


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (str, str),
        (int, float),
        (str, str | int),
        (Full, NameOnly),
        (Full, Full),
        (Full, dict),
        (list[int], list[float]),
        (Literal["a"], Literal["a", "b"]),
        (Literal["a"], str),
        (Nested, Nested),
        (Tree, OtherTree),
        (int | None, int | None),
        (dict[str, int], dict[str, float]),
    ],
)
def test_fits(sent: Any, read: Any) -> None:
    assert compared(sent, read).mismatch == ""


@pytest.mark.parametrize(
    ("sent", "read", "mismatch"),
    [
        (str, int, "it is text and a whole number here"),
        (float, int, "it is a number and a whole number here"),
        (dict, str, "it is a mapping and text here"),
        (str | int, str, "it is a whole number and text here"),
        (str | None, str, "it is nothing and text here"),
        (bool, str | int, "it is true or false and text or a whole number here"),
        (Literal["a", "c"], Literal["a", "b"], "it is 'a' or 'c' and 'a' or 'b' here"),
        (str, Literal["a", "b"], "it is text and 'a' or 'b' here"),
        (NameOnly, Full | int, ""),
        (Full, Strict, '"amount" is sent and refused here'),
        (Nested, NestedText, '"items[].amount" is a whole number and text here'),
        (list[str], list[int], '"[]" is text and a whole number here'),
        (Tree, NumberTree, '"label" is text and a whole number here'),
        (dict[str, str], dict[str, int], '"*" is text and a whole number here'),
    ],
)
def test_does_not_fit(sent: Any, read: Any, mismatch: str) -> None:
    assert compared(sent, read).mismatch == mismatch


def test_a_required_field_has_to_be_sent() -> None:
    read = EdgeType(kind="json", json_schema={"type": "object", "required": ["id"], "properties": {"id": {}}})
    fields = {"name": {"type": "string"}}
    closed = {"type": "object", "properties": fields, "additionalProperties": False}
    optional = {"type": "object", "properties": {"id": {"type": "string"}}}

    assert compare(EdgeType(kind="json", json_schema=closed), read).mismatch == '"id" is not sent and is required here'
    assert (
        compare(EdgeType(kind="json", json_schema=optional), read, "a.py:1", "b.py:2").mismatch
        == '"id" may be left out (a.py:1) and is required here (b.py:2)'
    )


def test_a_mapping_without_known_fields_is_unchecked() -> None:
    assert compared(dict, Full) == Verdict(checked=False)
    assert compared(Any, Full) == Verdict(checked=False)
    assert compared(Full, Full) == Verdict(checked=True)


@pytest.mark.parametrize(
    ("sent", "read", "expected"),
    [
        ("raw", "json", Verdict(checked=False)),
        ("json", "raw", Verdict()),
        ("unknown", "raw", Verdict()),
        ("unknown", "json", Verdict(checked=False)),
        ("bytes", "unknown", Verdict(checked=False)),
        ("bytes", "bytes", Verdict()),
        ("json", "bytes", Verdict("it is JSON and bytes here")),
        ("bytes", "json", Verdict("it is bytes and JSON here")),
        ("array", "json", Verdict("it is an array and JSON here")),
        ("json", "table", Verdict("it is JSON and a table here")),
        ("file", "bytes", Verdict("it is a file and bytes here")),
        ("bytes", "file", Verdict()),
        ("array", "array", Verdict()),
        ("table", "table", Verdict()),
        ("file", "unknown", Verdict(checked=False)),
    ],
)
def test_kinds(sent: Any, read: Any, expected: Verdict) -> None:
    assert compare(EdgeType(kind=sent), EdgeType(kind=read)) == expected


@pytest.mark.parametrize(
    ("sent", "read", "expected"),
    [
        ("float32", "float32", Verdict()),
        ("float32", "", Verdict()),
        ("", "float32", Verdict(checked=False)),
        ("float64", "float32", Verdict("it is an array of float64 and an array of float32 here")),
    ],
)
def test_arrays_fit_by_their_dtype(sent: str, read: str, expected: Verdict) -> None:
    assert compare(EdgeType(kind="array", dtype=sent), EdgeType(kind="array", dtype=read)) == expected


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        (EdgeType(kind="array"), {"description": "An array", "format": "array"}),
        (
            EdgeType(kind="array", dtype="uint8"),
            {"description": "An array of uint8", "format": "array", "dtype": "uint8"},
        ),
        (EdgeType(kind="table"), {"description": "A table", "format": "table"}),
        (EdgeType(kind="file"), {"description": "A file", "format": "file"}),
        (EdgeType(kind="bytes"), {"type": "string", "format": "binary"}),
        (EdgeType(kind="unknown"), {}),
    ],
)
def test_what_is_no_json_is_named_in_schemas(edge: EdgeType, expected: Any) -> None:
    assert edge_schema(edge) == expected


def test_protobuf_messages_fit_by_their_full_name() -> None:
    one, other = (EdgeType(kind="protobuf", message=name) for name in ("shop.Order", "shop.Offer"))

    assert compare(one, one) == Verdict()
    assert (
        compare(one, other).mismatch == "it is the protobuf message shop.Order and the protobuf message shop.Offer here"
    )


def test_the_input_for_a_node_is_its_own_or_that_for_all_others() -> None:
    text, data = EdgeType(kind="json", json_schema={"type": "string"}), EdgeType(kind="bytes")
    types = HandlerTypes(inputs={"": text, "camera": data})

    assert (types.input_from("camera"), types.input_from("other")) == (data, text)
    assert HandlerTypes(inputs={"camera": data}).input_from("other").kind == "unknown"


def test_a_part_of_a_join_is_compared_with_the_field_of_its_name() -> None:
    class Parts(BaseModel):
        page: Nested
        scan: bytes
        label: str | None = None

    whole = EdgeType(kind="json", json_schema=TypeAdapter(Parts).json_schema())
    sent = EdgeType(kind="json", json_schema=TypeAdapter(Nested).json_schema(mode="serialization"))
    text = EdgeType(kind="json", json_schema={"type": "string"})

    assert compare(sent, part_type(whole, "page")) == Verdict()
    assert compare(text, part_type(whole, "page")).mismatch == "it is text and a mapping here"
    assert compare(text, part_type(whole, "label")) == Verdict()
    assert part_type(whole, "scan") == EdgeType(kind="bytes")
    assert part_type(whole, "other") == part_type(EdgeType(kind="bytes"), "page") == EdgeType(kind="unknown")
