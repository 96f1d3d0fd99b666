"""Deliveries come late, or after those of later messages: each input gives one output, and a state keeps its order."""

import asyncio
import contextlib
import json
from contextlib import AsyncExitStack

import pytest

from runtime.bus.base import ConsumerConfig
from runtime.spec.node import NodeSpec
from test.integration.conftest import OpenWorkbench
from test.support.children import NodeChild, Workbench
from test.support.counter import COUNTER, IDS, by_id, counts, expected, id_of, messages, stateful
from test.support.late_proxy import LateProxy
from test.support.node import DURABLE, ENTRYPOINT, STREAM, consumers_of, node_spec

pytestmark = [pytest.mark.attack, pytest.mark.timeout(120)]

# Seconds: what the server sends arrives after it has given up the delivery, and sent the message again.
ACK_WAIT_S = 0.4
DELAY_S = 0.6
TOTAL = 300
# Messages of each id where there is a state.
PER_ID = 20

ECHO = """
    async def handler(ctx, data: int):
        return data
"""


# --- late ---


async def test_deliveries_that_come_after_their_ack_wait_give_each_output_once(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(ECHO, ack_wait_s=ACK_WAIT_S)

    async with LateProxy(bench.url, DELAY_S).running() as late:
        await start_behind(bench, late, node_spec())
        await bench.feed(range(TOTAL))
        seen = await bench.see(TOTAL)
        await bench.settled()

    assert sorted(seen) == list(range(TOTAL))
    assert await deliveries(bench, DURABLE) > TOTAL
    assert (await bench.stored(), await bench.dead_letters()) == (TOTAL, 0)


async def test_a_late_replica_repeats_what_another_has_counted_and_no_state_counts_twice(
    open_workbench: OpenWorkbench,
) -> None:
    """What reaches the late replica was given to the other one meanwhile, which went on to the messages behind it."""
    bench = await open_workbench(COUNTER, ack_wait_s=ACK_WAIT_S, spec=stateful())

    async with LateProxy(bench.url, DELAY_S).running() as late:
        await start_behind(bench, late, stateful())
        await bench.feed(messages(PER_ID), state_id=id_of)
        await bench.start_child(stateful())
        seen = await bench.see(len(IDS) * PER_ID, patience_s=60.0)
        await bench.settled()

    assert by_id(seen) == expected(PER_ID)
    assert sum([await deliveries(bench, durable) for durable in bench.durables]) > len(IDS) * PER_ID
    assert await counts(bench) == dict.fromkeys(IDS, PER_ID)
    assert (await bench.stored(), await bench.dead_letters()) == (len(IDS) * PER_ID, 0)


# --- in another order ---


async def test_messages_that_come_after_their_successors_give_each_output_once(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(ECHO)
    held = 50

    await bench.feed(range(TOTAL))
    async with AsyncExitStack() as stack:
        assert await hold_back(bench, stack, bench.consumer, held) == held
        await bench.start_child(node_spec())
        before = list(await bench.see(TOTAL - held))
    seen = await bench.see(TOTAL)
    await bench.settled()

    assert sorted(before) == list(range(held, TOTAL))
    assert sorted(seen[len(before) :]) == list(range(held))
    assert (await bench.stored(), await bench.dead_letters()) == (TOTAL, 0)


async def test_a_message_that_comes_again_goes_before_its_successors_where_there_is_a_state(
    open_workbench: OpenWorkbench,
) -> None:
    bench = await open_workbench(COUNTER, spec=stateful())
    consumers = consumers_of(stateful(), (ENTRYPOINT,), ack_wait_s=2.0)
    held = 0

    await bench.feed(messages(PER_ID), state_id=id_of)
    for number in range(5):
        await bench.see(number * len(IDS))
        async with AsyncExitStack() as stack:
            for consumer in consumers:
                held += await hold_back(bench, stack, consumer, 1, patience_s=0.3)
            if number == 0:
                await bench.start_child(stateful())
    seen = await bench.see(len(IDS) * PER_ID)
    await bench.settled()

    assert by_id(seen) == expected(PER_ID)
    assert held > 0
    assert sum([await deliveries(bench, durable) for durable in bench.durables]) >= len(IDS) * PER_ID + held
    assert await counts(bench) == dict.fromkeys(IDS, PER_ID)
    assert (await bench.stored(), await bench.dead_letters()) == (len(IDS) * PER_ID, 0)


# --- what they are made of ---


async def start_behind(bench: Workbench, late: LateProxy, spec: NodeSpec) -> NodeChild:
    """Start a replica that everything reaches late."""
    direct, bench.url = bench.url, late.url
    try:
        return await bench.start_child(spec)
    finally:
        bench.url = direct


async def deliveries(bench: Workbench, durable: str) -> int:
    """Return how often the server has delivered to a consumer, repeated deliveries included."""
    answer = await bench.bus.request(f"$JS.API.CONSUMER.INFO.{STREAM}.{durable}", b"", timeout_s=5)
    return int(json.loads(answer.data)["delivered"]["consumer_seq"])


async def hold_back(
    bench: Workbench, stack: AsyncExitStack, consumer: ConsumerConfig, count: int, patience_s: float = 10.0
) -> int:
    """Take messages as another replica would, and give them back, to be delivered again, when the stack ends.

    Returns how many came within `patience_s`.
    """
    reader = bench.bus.reader(consumer, create=False)
    await reader.start()
    stack.push_async_callback(reader.close)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            for _ in range(count):
                await reader.take()
    return reader.in_hand
