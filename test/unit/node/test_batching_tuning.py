"""Batches retuned at run time, through the node's scope of the configuration."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.bus.base import KeyValue
from runtime.clock import settle
from runtime.node.batching_tuning import LOOK_S
from test.support.node import NodeUnderTest
from test.unit.node.test_batching import DOUBLE, batching, send_all


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    """A node with up to 4 messages in a call that has a bucket, and is not started."""
    made = NodeUnderTest(
        tmp_path, DOUBLE, spec=batching(4, wait_s=0.1), variables={"NATS_KEY_VALUE_STORE_NODE": "config"}
    )
    await made.outside.key_value("config", create=True)
    yield made
    await made.stop()


@pytest.fixture
async def config(node: NodeUnderTest) -> KeyValue:
    return await node.outside.key_value("config")


async def calls_of(node: NodeUnderTest, messages: int) -> list[int]:
    """Send messages at once, and return how many each call got."""
    node.module.calls.clear()
    await send_all(node, range(messages))
    await settle()
    await node.clock.advance(0.2)
    await node.settled()
    return [len(call) for call in node.module.calls]


async def test_values_that_are_there_hold_from_the_first_batch(node: NodeUnderTest, config: KeyValue) -> None:
    await config.put("batch.max", b"2")
    await node.start()

    assert await calls_of(node, 4) == [2, 2]


async def test_a_change_holds_for_the_batches_after_the_next_look(node: NodeUnderTest, config: KeyValue) -> None:
    await node.start()
    assert await calls_of(node, 4) == [4]
    await config.put("batch.max", b"3")
    await config.put("batch.wait", b"2s")

    await node.clock.advance(LOOK_S)
    await calls_of(node, 4)
    node.module.calls.clear()
    await send_all(node, range(4))
    # The handler runs in a thread.
    await node.until(lambda: bool(node.module.calls), "a full batch")

    assert [len(call) for call in node.module.calls] == [3]
    await node.clock.advance(2.1)
    await node.settled()


async def test_a_value_that_is_taken_away_leaves_what_the_file_says(node: NodeUnderTest, config: KeyValue) -> None:
    await config.put("batch.max", b"1")
    await node.start()
    await config.delete("batch.max")

    await node.clock.advance(LOOK_S)
    await calls_of(node, 1)

    assert await calls_of(node, 4) == [4]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch.max", b"5", "give a whole number from 1 to 4, the file's own 'max'"),
        ("batch.max", b"many", "give a whole number from 1 to 4, the file's own 'max'"),
        ("batch.wait", b"5", "give a duration such as 5ms"),
    ],
)
async def test_a_wrong_value_is_refused_once_in_the_log(
    node: NodeUnderTest, config: KeyValue, caplog: pytest.LogCaptureFixture, key: str, value: bytes, expected: str
) -> None:
    await config.put(key, value)
    await node.start()

    assert await calls_of(node, 4) == [4]
    await node.clock.advance(LOOK_S)
    assert await calls_of(node, 4) == [4]

    refused = [record for record in caplog.records if getattr(record, "action", "") == "refused"]
    assert [record.getMessage() for record in refused] == [
        f"'{key}' of the configuration is {value.decode()!r}; {expected}"
    ]
    assert refused[0].levelno == logging.WARNING
