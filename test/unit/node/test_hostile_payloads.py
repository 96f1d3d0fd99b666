"""Messages that are made to harm: each becomes a dead letter, and the node goes on with the next one."""

import gzip
import tracemalloc
from pathlib import Path

import pytest
from google.protobuf import struct_pb2

from runtime import wire
from runtime.message import Message
from runtime.proto import varint
from test.support.node import NodeUnderTest

LIMIT_BYTES = 1024 * 1024
# What a node needs beside the unpacked bytes: the packed ones, its own objects, the test's.
MARGIN_BYTES = 8 * 1024 * 1024

ANNOTATIONS = ["dict", "list", "Tree", "Node", "list[list[int]]", "struct_pb2.Struct", "str", "int"]
HANDLER = """
from __future__ import annotations
from dataclasses import dataclass
import pydantic
from google.protobuf import struct_pb2

class Tree(pydantic.BaseModel):
    children: list[Tree] = []

@dataclass
class Node:
    child: Node | None = None

async def handler(ctx, data: {annotation}):
    return "handled"
"""
TYPE = b"type.googleapis.com/"


def packed(type_name: bytes, content: bytes) -> bytes:
    """Return the bytes of an Any, whatever its content is."""
    url = TYPE + type_name
    return b"\x0a" + varint(len(url)) + url + b"\x12" + varint(len(content)) + content


def json_payload(text: bytes) -> bytes:
    return packed(b"krt.Json", b"\x0a" + varint(len(text)) + text)


def nested_struct(depth: int) -> bytes:
    """Return a protobuf Struct in a Struct in a Struct, written by hand: the library refuses to."""
    content = b""
    for _ in range(depth):
        value = b"\x2a" + varint(len(content)) + content
        entry = b"\x0a\x01k\x12" + varint(len(value)) + value
        content = b"\x0a" + varint(len(entry)) + entry
    return packed(struct_pb2.Struct.DESCRIPTOR.full_name.encode(), content)


HOSTILE = {
    "100,000 lists in lists": json_payload(b"[" * 100_000 + b"]" * 100_000),
    "50,000 objects in objects": json_payload(b'{"children":[' * 50_000 + b"]}" * 50_000),
    "lists that are never closed": json_payload(b"[" * 100_000),
    "1,000 messages in messages": nested_struct(1_000),
    "a number of 100,000 digits": json_payload(b'{"child":' + b"9" * 100_000 + b"}"),
    "no JSON": json_payload(b"\xff\xfe"),
    "no type": b"\x12\x01a",
    "no Any": b"\xff" * 50,
}


@pytest.mark.parametrize("annotation", ANNOTATIONS)
async def test_a_payload_that_is_made_to_harm_is_a_dead_letter(tmp_path: Path, annotation: str) -> None:
    node = await NodeUnderTest(tmp_path, HANDLER.replace("{annotation}", annotation)).start()

    for payload in HOSTILE.values():
        await node.send_bytes(wire.encode(Message(request_id="r", payload=payload, from_node="entrypoint")))
    await node.settled()

    assert len(node.dead_letters()) == len(HOSTILE)
    assert {letter.reason for _, letter in node.dead_letters()} <= {"payload", "payload-type"}
    await node.stop()


async def test_a_value_that_is_nested_too_deeply_to_be_sent_fails_its_message_only(tmp_path: Path) -> None:
    node = await NodeUnderTest(
        tmp_path,
        """
        async def handler(ctx, data: int):
            value = []
            for _ in range(data):
                value = [value]
            return {"value": value}
        """,
    ).start()

    await node.send(100_000)
    await node.send(1)
    await node.until(lambda: node.outputs() == [{"value": [[]]}] and len(node.dead_letters()) == 1)

    assert "nested too deeply" in node.the_dead_letter().error
    await node.stop()


async def test_a_zip_bomb_is_a_dead_letter_that_never_filled_the_memory(tmp_path: Path) -> None:
    node = await NodeUnderTest(
        tmp_path,
        "async def handler(ctx, data: dict):\n    return 'handled'",
        variables={"MAX_INFLATED_BYTES": str(LIMIT_BYTES)},
    ).start()
    bomb = gzip.compress(bytes(300 * LIMIT_BYTES))
    tracemalloc.start()

    try:
        await node.send_bytes(bomb)
        await node.settled()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert node.the_dead_letter().reason == "gzip"
    assert peak_bytes < LIMIT_BYTES + MARGIN_BYTES
    await node.send({})
    await node.settled()
    assert node.outputs() == ["handled"]
    await node.stop()
