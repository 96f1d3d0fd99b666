"""Schemas of types: the same for arguments of algorithms and for messages between nodes."""

import pydantic

from runtime.algorithms.signatures import signature_of
from runtime.node.handler_types import edge_type
from runtime.spec.type_schema import type_schema


class Order(pydantic.BaseModel):
    count: int
    note: str = ""
    ratio: float = float("nan")


def test_what_is_read_may_leave_out_what_is_sent_always() -> None:
    read, sent = type_schema(Order, "validation"), type_schema(Order, "serialization")

    assert read["required"] == ["count"]
    assert sent["required"] == ["count", "note", "ratio"]


def test_a_default_that_is_no_json_is_left_out_in_silence() -> None:
    assert "default" not in type_schema(Order, "validation")["properties"]["ratio"]


def test_algorithms_and_handlers_describe_a_type_alike() -> None:
    def run_one(order: Order) -> Order:
        return order

    signature = signature_of(run_one, "Request")

    assert signature.response == edge_type(Order, "serialization").json_schema
    assert signature.request["$defs"]["Order"] == edge_type(Order, "validation").json_schema
