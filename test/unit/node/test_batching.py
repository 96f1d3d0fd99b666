"""Handlers for batches: what goes into one call, when it goes, and whose result is whose."""

from typing import Any

import numpy
import pytest

from runtime.clock import settle
from runtime.node.metrics import MEAN_WEIGHT
from runtime.node.runner import TICK_S
from runtime.spec.batching import BatchingSpec
from runtime.spec.node import RetryPolicy
from test.support.node import RETRY, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

ONCE = RetryPolicy(attempts=1)
# Longer than every step of a test, so that only what the test does lets a batch go.
LONG_S = 5.0
DOUBLE = """
    calls = []

    def handler(ctx, data: list[int]) -> list[int]:
        calls.append(list(data))
        return [2 * each for each in data]
"""
POISON = """
    calls = []

    def handler(ctx, data: list[int]):
        calls.append(list(data))
        if 13 in data:
            raise ValueError("poison")
        return data
"""


def batching(most: int = 4, wait_s: float = LONG_S, *, retry: RetryPolicy = ONCE, **changes: Any) -> Any:
    """Return the spec of a node whose handler gets up to `most` messages."""
    own = {key: changes.pop(key) for key in ("by", "max_cost") if key in changes}
    spec = BatchingSpec(max_messages=most, wait_s=wait_s, **own)
    return node_spec(batching=spec, retry=retry, **changes)


async def send_all(node: NodeUnderTest, values: Any) -> None:
    for value in values:
        await node.send(value, request_id=f"r{value}")


async def test_a_full_batch_goes_without_waiting(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4))

    await send_all(node, range(4))
    await node.settled()

    assert node.module.calls == [[0, 1, 2, 3]]
    assert sorted(node.outputs()) == [0, 2, 4, 6]


async def test_each_output_carries_the_request_of_its_own_message(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4))

    await send_all(node, range(4))
    await node.settled()

    assert {m.request_id: v for m, v in zip(node.messages(), node.outputs(), strict=True)} == {
        "r0": 0, "r1": 2, "r2": 4, "r3": 6
    }  # fmt: skip


async def test_a_partial_batch_goes_when_its_first_message_has_waited(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4, wait_s=0.5))
    await node.send(1)
    await settle()
    await node.clock.advance(0.3)
    await node.send(2)
    await node.clock.advance(0.19)
    assert node.module.calls == []

    await node.clock.advance(0.02)
    await node.settled()

    assert node.module.calls == [[1, 2]]


async def test_a_poison_message_in_the_middle_fails_alone_at_its_only_attempt(start_node: StartNode) -> None:
    node = await start_node(POISON, spec=batching(32))

    await send_all(node, range(32))
    await node.settled()

    assert sorted(node.outputs()) == [each for each in range(32) if each != 13]
    assert node.the_dead_letter().error == "ValueError: poison"
    assert [error.request_id for error in node.errors()] == ["r13"]
    # The batch, its halves, and one by one the half with the poison.
    assert [len(call) for call in node.module.calls] == [32, 16, *[1] * 16, 16]


async def test_messages_behind_a_full_batch_make_the_next_one(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4, wait_s=0.5))

    await send_all(node, range(6))
    await settle()
    await node.clock.advance(0.6)
    await node.settled()

    assert node.module.calls == [[0, 1, 2, 3], [4, 5]]


async def test_while_all_calls_are_busy_messages_collect_and_then_go_at_once(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        calls, go = [], asyncio.Event()

        async def handler(ctx, data: list[int]):
            calls.append(list(data))
            await go.wait()
            return data
        """,
        spec=batching(4, wait_s=0.5),
    )
    await node.send(0)
    await node.clock.advance(0.6)
    for value in (1, 2, 3):
        await node.send(value)
        await node.clock.advance(0.3)
    assert node.module.calls == [[0]]

    node.module.go.set()
    await node.settled()

    assert node.module.calls == [[0], [1, 2, 3]]


async def test_concurrency_is_the_number_of_calls_at_once(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        running, most, go = 0, 0, asyncio.Event()

        async def handler(ctx, data: list[int]):
            global running, most
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
            return data
        """,
        spec=batching(2, concurrency=3),
    )

    await send_all(node, range(8))
    await node.until(lambda: node.module.running == 3)
    node.module.go.set()
    await node.settled()

    assert node.module.most == 3


async def test_the_wait_shrinks_while_batches_fill_by_themselves_and_grows_back(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(2, wait_s=0.8))

    async def goes_after(value: int, wait_s: float) -> None:
        await node.send(value)
        await settle()
        await node.clock.advance(wait_s - 0.01)
        assert [value] not in node.module.calls
        await node.clock.advance(0.02)
        await node.settled()
        assert node.module.calls[-1] == [value]

    await goes_after(10, 0.8)
    await send_all(node, range(4))
    await node.settled()

    await goes_after(20, 0.2)
    await goes_after(30, 0.4)
    await goes_after(40, 0.8)


async def test_costs_limit_a_batch_and_a_message_beyond_the_limit_goes_alone(start_node: StartNode) -> None:
    node = await start_node(
        """
        calls = []

        def handler(ctx, data: list[dict]):
            calls.append([each["text"] for each in data])
            return [len(each["text"]) for each in data]
        """,
        spec=batching(10, wait_s=0.5, by="text", max_cost=4),
    )

    for text in ("aa", "bb", "c", "dddddddd", "e"):
        await node.send({"text": text})
    await settle()
    await node.clock.advance(1)
    await node.settled()

    assert node.module.calls == [["aa", "bb"], ["c"], ["dddddddd"], ["e"]]


async def test_a_message_without_a_cost_is_given_up_alone(start_node: StartNode) -> None:
    node = await start_node(
        "def handler(ctx, data: list[dict]): return data",
        spec=batching(2, wait_s=0.5, by="document.tokens", max_cost=10),
    )

    await send_all(node, [{"document": {"tokens": 3}}, {"document": {"tokens": True}}, {"document": {"tokens": 4}}])
    await node.settled()

    assert node.outputs() == [{"document": {"tokens": 3}}, {"document": {"tokens": 4}}]
    assert node.the_dead_letter().reason == "payload"


# --- results ---


async def test_every_result_decides_about_its_own_message(start_node: StartNode) -> None:
    node = await start_node(
        """
        from runtime.errors import Drop, Reject, Retry

        def handler(ctx, data: list[int]):
            return [1, None, [3, 4], Drop("no"), Reject("never"), Retry(60.0), ValueError("its own")]
        """,
        spec=batching(7, retry=RETRY),
    )

    await send_all(node, range(7))
    await node.released()

    assert node.outputs() == [1, 3, 4]
    assert node.the_dead_letter().error == "Reject: never"
    counts = node.process.metrics.counts
    assert (counts.taken, counts.ok, counts.retried, counts.dead, counts.batches) == (7, 4, 2, 1, 1)


async def test_a_handler_that_returns_none_has_no_output(start_node: StartNode) -> None:
    node = await start_node("def handler(ctx, data: list[int]): pass", spec=batching(2))

    await send_all(node, range(2))
    await node.settled()

    assert (node.outputs(), node.process.metrics.counts.ok) == ([], 2)


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ("data[1:]", "the handler got 3 messages and returned 2 results; return one for each message"),
        ("data + data", "the handler got 3 messages and returned 6 results; return one for each message"),
        ("{1: 2}", "the handler got 3 messages and returned dict; return a list with one result for each message"),
        ("'abc'", "the handler got 3 messages and returned str; return a list with one result for each message"),
    ],
)
async def test_too_few_or_too_many_results_fail_every_message_with_both_numbers(
    start_node: StartNode, returned: str, error: str
) -> None:
    node = await start_node(f"def handler(ctx, data: list[int]): return {returned}", spec=batching(3))

    await send_all(node, range(3))
    await node.settled()

    assert node.outputs() == []
    assert [letter.error.startswith(f"BatchResultError: {error}") for _, letter in node.dead_letters()] == [True] * 3


async def test_arrays_of_numpy_are_results(start_node: StartNode) -> None:
    node = await start_node(
        """
        import numpy

        def handler(ctx, data: list[list[float]]):
            return numpy.asarray(data) * 2
        """,
        spec=batching(2),
    )

    await node.send([1.0, 2.0])
    await node.send([3.0, 4.0])
    await node.settled()

    assert [list(output) for output in node.outputs()] == [[2.0, 4.0], [6.0, 8.0]]


async def test_messages_that_are_arrays_are_stacked_by_the_handler(start_node: StartNode) -> None:
    node = await start_node(
        """
        import numpy

        def handler(ctx, data: list[numpy.ndarray]) -> list[numpy.ndarray]:
            return numpy.stack(data).cumsum(axis=1)
        """,
        spec=batching(2),
    )

    await node.send(numpy.asarray([1.0, 2.0]))
    await node.send(numpy.asarray([3.0, 4.0]))
    await node.settled()

    assert [output.tolist() for output in node.outputs()] == [[1.0, 3.0], [3.0, 7.0]]


# --- failures ---


async def test_a_message_that_cannot_be_read_never_reaches_the_batch(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(2))

    await send_all(node, [1, "two", 3])
    await node.settled()

    assert node.module.calls == [[1, 3]]
    assert node.the_dead_letter().reason == "payload"


@pytest.mark.parametrize("raised", ["Reject('all')", "Drop('all')", "SystemExit(3)", "asyncio.CancelledError()"])
async def test_whatever_a_call_of_several_raises_is_laid_on_none_of_the_neighbours(
    start_node: StartNode, raised: str
) -> None:
    node = await start_node(
        f"""
        import asyncio
        from runtime.errors import Drop, Reject

        async def handler(ctx, data: list[int]):
            if 2 in data:
                raise {raised}
            return data
        """,
        spec=batching(4),
    )

    await send_all(node, range(4))
    await node.settled()

    assert sorted(node.outputs()) == [0, 1, 3]


async def test_what_a_failed_call_has_sent_is_sent_once(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: list[int]):
            for item, each in zip(ctx.items, data):
                await item.send_output(f"early {each}")
            if 1 in data:
                raise ValueError("poison")
            return [f"result {each}" for each in data]
        """,
        spec=batching(4),
    )

    await send_all(node, range(4))
    await node.settled()

    results = [f"result {each}" for each in (0, 2, 3)]
    assert sorted(node.outputs()) == [f"early {each}" for each in range(4)] + results


async def test_a_repeated_call_gets_the_messages_as_they_came(start_node: StartNode) -> None:
    node = await start_node(
        """
        def handler(ctx, data: list[dict]):
            for each in data:
                each["seen"] = each.get("seen", 0) + 1
            if any("poison" in each for each in data):
                raise ValueError("poison")
            return data
        """,
        spec=batching(2),
    )

    await node.send({"poison": True})
    await node.send({"id": 1})
    await node.settled()

    assert node.outputs() == [{"id": 1, "seen": 1}]


async def test_an_atomic_node_leaves_nothing_of_a_failed_call(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: list[int]):
            for item, each in zip(ctx.items, data):
                await item.send_output(f"early {each}")
            if 1 in data:
                raise ValueError("poison")
            return data
        """,
        spec=batching(2, atomic=True),
    )

    await send_all(node, range(2))
    await node.settled()

    assert sorted(map(str, node.outputs())) == ["0", "early 0"]


async def test_a_late_call_fails_none_of_the_neighbours(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data: list[int]):
            if 2 in data:
                await asyncio.Event().wait()
            return data
        """,
        spec=batching(4, timeout_s=2.0),
    )

    await send_all(node, range(4))
    await settle()
    await node.clock.advance(1.9)
    assert node.outputs() == []
    await node.clock.advance(4.5)
    await node.settled()

    assert sorted(node.outputs()) == [0, 1, 3]
    letter = node.the_dead_letter()
    assert (letter.reason, letter.error) == ("timeout", "HandlerTimeoutError: the handler took longer than 2 s")


async def test_waiting_for_a_batch_uses_up_none_of_the_timeout(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(2, wait_s=10.0, timeout_s=1.0))
    await node.send(1)
    await settle()
    await node.clock.advance(9)

    await node.send(2)
    await node.settled()

    assert sorted(node.outputs()) == [2, 4]


async def test_the_time_of_a_message_is_that_of_its_call(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        go = asyncio.Event()

        async def handler(ctx, data: list[int]):
            await go.wait()
            return data
        """,
        spec=batching(4, wait_s=1.0),
    )
    await node.send(1)
    await settle()
    await node.clock.advance(1.0)
    await node.clock.advance(0.25)

    node.module.go.set()
    await node.settled()
    await node.clock.advance(TICK_S)

    assert node.process.metrics.mean_s == pytest.approx(0.25 * MEAN_WEIGHT)


async def test_a_shortage_of_memory_halves_the_batches_for_a_while(start_node: StartNode) -> None:
    node = await start_node(
        """
        calls, room = [], 3

        class OutOfMemoryError(RuntimeError): ...

        def handler(ctx, data: list[int]):
            calls.append(len(data))
            if len(data) > room:
                raise OutOfMemoryError("CUDA out of memory")
            return data
        """,
        spec=batching(8),
    )

    await send_all(node, range(8))
    await node.settled()
    assert node.module.calls == [8, 4, 2, 2, 4, 2, 2]

    # From two, one more after each call that had as many as was tried.
    node.module.calls.clear()
    vars(node.module)["room"] = 100
    for most in (3, 4, 5):
        await send_all(node, range(most))
        await node.settled()

    assert node.module.calls == [3, 4, 5]


async def test_one_message_that_is_too_large_for_the_memory_fails_alone(start_node: StartNode) -> None:
    node = await start_node(
        """
        def handler(ctx, data: list[int]):
            if 2 in data:
                raise MemoryError("too large")
            return data
        """,
        spec=batching(4),
    )

    await send_all(node, range(4))
    await node.settled()

    assert sorted(node.outputs()) == [0, 1, 3]
    assert node.the_dead_letter().error == "MemoryError: too large"


async def test_a_message_that_comes_again_has_batches_of_half_the_size(start_node: StartNode) -> None:
    node = await start_node(
        """
        from runtime.errors import Retry
        calls = []

        def handler(ctx, data: list[int]):
            calls.append(len(data))
            return [Retry(1.0) if item.attempt < 4 else each for item, each in zip(ctx.items, data)]
        """,
        spec=batching(8, wait_s=0.1, retry=RetryPolicy(attempts=4)),
    )

    await send_all(node, range(8))
    for _ in range(3):
        await node.until(lambda: node.in_hand == 0)
        await node.clock.advance(1.5)
    await node.settled()

    assert node.module.calls == [8, 4, 4, 2, 2, 2, 2, *[1] * 8]


# --- deadlines, cancelling, stopping ---


async def test_a_batch_goes_before_the_deadline_of_one_of_its_messages(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4, wait_s=5.0))
    await node.send(1)
    await settle()

    await node.send(2, deadline_ms=node.clock.time_ns() // 1_000_000 + 700)
    await settle()
    await node.clock.advance(0.6)
    assert node.module.calls == []
    await node.clock.advance(0.2)
    await node.settled()

    assert node.module.calls == [[1, 2]]


async def test_a_message_past_its_deadline_is_not_held_back(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4, wait_s=5.0))

    await node.send(1, deadline_ms=5)
    await node.settled()

    assert node.module.calls == [[1]]


async def test_a_stopping_node_lets_go_what_has_been_gathered(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(4, wait_s=3600.0))
    await send_all(node, range(3))
    await node.until(lambda: node.process.gathering == 3)
    module = node.module

    await node.process.stop()

    assert module.calls == [[0, 1, 2]]
    assert len(node.outputs()) == 3


async def test_a_call_that_outlasts_the_stop_is_cancelled_and_its_messages_are_given_back(
    start_node: StartNode,
) -> None:
    node = await start_node(
        """
        import asyncio
        events = []

        async def handler(ctx, data: list[int]):
            events.append("called")
            try:
                await asyncio.Event().wait()
            finally:
                events.append("cancelled")
        """,
        spec=batching(2),
        variables={"SHUTDOWN_GRACE": "0.05"},
    )
    await send_all(node, range(2))
    await node.until(lambda: node.module.events == ["called"])
    module = node.module

    await node.process.stop()

    assert module.events == ["called", "cancelled"]
    assert (node.outputs(), node.dead_letters()) == ([], [])
    assert node.state.ack_pending + node.state.pending == 2


# --- the context ---


async def test_the_context_has_that_of_each_message(start_node: StartNode) -> None:
    node = await start_node(
        """
        def init(ctx):
            ctx.set("factor", 10)
            ctx.model = "m"

        def handler(ctx, data: list[int]):
            ctx.mine = len(data)
            assert [item.request_id for item in ctx.items] == [f"r{each}" for each in data]
            return [[ctx.get("factor") * each, ctx.model, ctx.mine][0] for each in data]
        """,
        spec=batching(3),
    )

    await send_all(node, range(3))
    await node.settled()

    assert sorted(node.outputs()) == [0, 10, 20]
    assert "mine" not in node.process._services.attributes  # type: ignore[union-attr]  # started


@pytest.mark.parametrize(
    ("use", "member"),
    [
        ("ctx.request_id", "request_id"),
        ("ctx.state", "state"),
        ("ctx.run(ctx.send_output(1))", "send_output"),
        ("ctx.run(ctx.db.save('c', {'a': 1}))", "db.save"),
        ("ctx.run(ctx.prediction.save('a', 'b'))", "prediction.save"),
    ],
)
async def test_what_belongs_to_one_message_says_where_it_is(start_node: StartNode, use: str, member: str) -> None:
    node = await start_node(f"def handler(ctx, data: list[int]): return [{use}]", spec=batching(1))

    await node.send(1)
    await node.settled()

    text = f"ContextError: ctx.{member} belongs to one message of the batch; use ctx.items[i].{member}"
    assert node.the_dead_letter().error == text


async def test_progress_lets_the_time_of_the_call_start_anew(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        steps = asyncio.Queue()

        async def handler(ctx, data: list[int]):
            await steps.get()
            ctx.progress("half")
            await steps.get()
            return [round(ctx.deadline.timestamp(), 1) for _ in data]
        """,
        spec=batching(1, timeout_s=2.0),
    )
    await node.send(1)
    await settle()
    began_s = node.clock.time_ns() / 1e9
    await node.clock.advance(1.5)
    node.module.steps.put_nowait(1)
    await settle()
    await node.clock.advance(1.5)
    node.module.steps.put_nowait(2)
    await node.settled()

    assert node.outputs() == [round(began_s + 3.5, 1)]


async def test_data_that_nobody_has_read_has_a_cost_if_it_is_json(start_node: StartNode) -> None:
    node = await start_node(
        """
        calls = []

        def handler(ctx, data):
            calls.append(len(data))
        """,
        spec=batching(10, wait_s=0.5, by="tokens", max_cost=4),
    )

    for tokens in (2, 2, 1):
        await node.send({"tokens": tokens})
    await settle()
    await node.clock.advance(1)
    await node.settled()

    assert node.module.calls == [2, 1]


async def test_batches_are_counted_and_measured(start_node: StartNode) -> None:
    node = await start_node(DOUBLE, spec=batching(2, wait_s=0.5))
    saved: list[Any] = []
    node.process._stores.points.save = saved.append  # type: ignore[method-assign, assignment]  # kept

    await send_all(node, range(3))
    await node.until(lambda: node.process.metrics.counts.ok == 2)
    await node.clock.advance(0.5)
    await node.until(lambda: node.process.metrics.counts.ok == 3)
    await node.clock.advance(0.7)

    assert node.process.metrics.totals()["batches"] == 2
    (point,) = (point for point in saved if point.measurement == "node_batch")
    assert point.fields == {"batches": 2, "messages": 3, "largest": 2, "wait_ms": pytest.approx(125)}
