"""A handler that has to wait for something: its message comes again, uses up no attempt, and is given up in time."""

import pytest

from runtime.errors import Wait
from runtime.message import ReplyOutcome
from runtime.node.settle import Decision, decide
from runtime.spec.node import RetryPolicy
from test.support.node import node_spec
from test.unit.node.conftest import StartNode

POLICY = RetryPolicy(attempts=1)

WAITS = """
    from runtime.errors import Wait

    calls = []

    async def handler(ctx, data):
        calls.append(ctx.attempt)
        raise Wait("nobody is there", limit_s=10)
"""
WAITS_THEN_FAILS = """
    from runtime.errors import Wait

    calls = []

    async def handler(ctx, data):
        calls.append(ctx.attempt)
        if len(calls) <= 4:
            raise Wait("nobody is there", limit_s=10)
        if len(calls) == 5:
            raise ValueError("this is wrong")
        return {"after": len(calls)}
"""
BEFORE_THE_LIMIT = (0.0, 0.5, 1.5, 3.5, 7.5)


@pytest.mark.parametrize(
    ("waited_s", "delay_s"), [(0.0, 0.5), (0.5, 1.0), (1.5, 2.0), (3.5, 4.0), (7.5, 5.0), (12.5, 5.0), (29.0, 1.0)]
)
def test_a_wait_doubles_up_to_the_longest_pause_and_ends_at_its_limit(waited_s: float, delay_s: float) -> None:
    decision = decide(Wait("no runner", limit_s=30), POLICY, failures=0, delivery=1, waited_s=waited_s)

    assert decision == Decision("retry", delay_s=delay_s, waits=True)


def test_a_wait_beyond_its_limit_is_given_up() -> None:
    decision = decide(Wait("no runner", limit_s=30), POLICY, failures=0, delivery=9, waited_s=30.0)

    assert decision == Decision("dead", reason="unavailable")
    assert decision.reply_outcome is ReplyOutcome.UNAVAILABLE


@pytest.mark.parametrize(("delivery", "delay_s"), [(1, 0.5), (2, 1.0), (4, 4.0), (5, 5.0), (1_000_000, 5.0)])
def test_a_wait_without_a_limit_goes_on_for_ever(delivery: int, delay_s: float) -> None:
    decision = decide(Wait("busy"), POLICY, failures=0, delivery=delivery, waited_s=1e9)

    assert decision == Decision("retry", delay_s=delay_s)


async def test_a_waiting_message_is_given_up_after_its_limit(start_node: StartNode) -> None:
    node = await start_node(WAITS)
    await node.send()
    for waited_s in (*BEFORE_THE_LIMIT[1:], 10.0):
        await node.released()
        await node.clock.advance(waited_s - node.clock.monotonic() + 0.001)

    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, letter.error) == ("unavailable", "Wait: nobody is there")
    assert node.module.calls == [1, 2, 3, 4, 5, 6]
    assert letter.attempts == ()


async def test_waiting_uses_up_no_attempt(start_node: StartNode) -> None:
    node = await start_node(WAITS_THEN_FAILS, spec=node_spec())
    await node.send()

    for _ in range(30):
        await node.released()
        await node.clock.advance(0.5)
    await node.settled()

    assert node.outputs() == [{"after": 6}]
    assert node.dead_letters() == []


async def test_the_time_that_a_message_has_waited_outlives_its_process(start_node: StartNode) -> None:
    node = await start_node(WAITS)
    await node.send()
    await node.released()
    await node.clock.advance(0.6)
    await node.released()
    await node.stop()

    again = await start_node(WAITS, broker=node.broker)
    await again.clock.advance(9.0)
    await again.released()
    await again.clock.advance(0.5)
    await again.settled()

    assert again.the_dead_letter().reason == "unavailable"
