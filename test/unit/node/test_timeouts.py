"""Handlers that take too long: cancelled, replaced, counted; nothing else stands still for them."""

from functools import partial

import pytest

from runtime.spec.node import RetryPolicy
from test.support.node import NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

ONCE = RetryPolicy(attempts=1)


async def test_an_async_handler_is_cancelled_when_its_time_is_over(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        events = []

        async def handler(ctx, data):
            try:
                await asyncio.Event().wait()
            finally:
                events.append("cancelled")
        """,
        spec=node_spec(timeout_s=2.0, retry=ONCE),
    )
    await node.send()

    await node.clock.advance(1.9)
    assert node.module.events == []
    await node.clock.advance(0.2)
    await node.settled()

    assert node.module.events == ["cancelled"]
    letter = node.the_dead_letter()
    assert (letter.reason, letter.error) == ("timeout", "HandlerTimeoutError: the handler took longer than 2 s")
    assert node.errors()[0].outcome == "timeout"


@pytest.mark.parametrize(
    "swallow", ["return 'late'", "raise ValueError('mine')", "await ctx.send_output('after'); return 'late'"]
)
async def test_a_handler_that_swallows_its_cancellation_is_late_all_the_same(
    start_node: StartNode, swallow: str
) -> None:
    node = await start_node(
        f"""
        import asyncio
        counts = []

        async def handler(ctx, data: int):
            counts.append(asyncio.current_task().cancelling())
            if data == 1:
                return "second"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                {swallow}
        """,
        spec=node_spec(timeout_s=1.0, retry=ONCE, concurrency=1),
    )

    await node.send(0)
    await node.send(1)
    await node.clock.advance(1.5)
    await node.settled()

    assert node.the_dead_letter().reason == "timeout"
    assert node.outputs()[-1] == "second"
    assert node.module.counts == [0, 0]


async def test_task_groups_work_after_a_timeout(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data: int):
            if data == 0:
                await asyncio.Event().wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "its own timeout"
        """,
        spec=node_spec(timeout_s=1.0, retry=ONCE, concurrency=1),
    )

    await node.send(0)
    await node.send(1)
    await node.clock.advance(1.5)
    await node.settled()

    assert node.outputs() == ["its own timeout"]


async def test_a_plain_handler_that_never_returns_is_given_up_while_others_go_on(start_node: StartNode) -> None:
    node = await start_node(
        """
        import threading
        never = threading.Event()
        threads = []

        def handler(ctx, data: int):
            threads.append(threading.current_thread().name)
            if data == 0:
                never.wait()
            return data
        """,
        spec=node_spec(timeout_s=1.0, retry=ONCE),
    )
    await node.send(0)
    await node.until(lambda: len(node.module.threads) == 1)
    await node.send(1)
    await node.send(2)

    await node.clock.advance(1.5)
    await node.settled()

    assert node.outputs() == [1, 2]
    assert node.the_dead_letter().reason == "timeout"
    assert len(set(node.module.threads)) == 2
    assert node.process._threads is not None
    assert node.process._threads.stuck == 1
    node.module.never.set()
    await node.until(lambda: node.process._threads is not None and node.process._threads.stuck == 0)


async def test_an_abandoned_thread_can_send_nothing_any_more(start_node: StartNode) -> None:
    node = await start_node(
        """
        import threading
        go, errors, started = threading.Event(), [], []

        def handler(ctx, data):
            started.append(1)
            if ctx.attempt == 1:
                go.wait()
                try:
                    ctx.run(ctx.send_output("zombie"))
                except Exception as error:
                    errors.append(str(error))
            return "second attempt"
        """,
        spec=node_spec(timeout_s=1.0),
    )
    await node.send()
    await node.until(lambda: node.module.started == [1])
    await node.clock.advance(3)
    await node.settled()

    node.module.go.set()
    await node.until(lambda: len(node.module.errors) == 1)

    assert node.module.errors == ["ctx.send_output is only available while a message is handled"]
    assert node.outputs() == ["second attempt"]


def has_started(node: NodeUnderTest, number: int) -> bool:
    return len(node.module.started) == number


async def test_too_many_stuck_threads_end_the_process(start_node: StartNode) -> None:
    node = await start_node(
        """
        import threading
        never, started = threading.Event(), []

        def handler(ctx, data):
            started.append(1)
            never.wait()
        """,
        spec=node_spec(timeout_s=0.5, retry=ONCE),
    )
    for _ in range(9):
        await node.send()

    for number in range(1, 9):
        await node.until(partial(has_started, node, number))
        await node.clock.advance(0.55)

    with pytest.raises(RuntimeError, match="8 handler calls never came back"):
        node.process.failed.result()
    node.module.never.set()


async def test_a_timeout_in_a_plain_generator_leaves_the_node_usable(start_node: StartNode) -> None:
    node = await start_node(
        """
        import threading
        never = threading.Event()

        def handler(ctx, data: int):
            yield data
            if data == 0:
                never.wait()
            yield "end"
        """,
        spec=node_spec(timeout_s=1.0, retry=ONCE),
    )
    await node.send(0)
    await node.until(lambda: node.outputs() == [0])
    await node.clock.advance(1.5)
    await node.send(1)
    await node.settled()

    assert node.outputs() == [0, 1, "end"]
    assert node.the_dead_letter().reason == "timeout"
    node.module.never.set()


async def test_without_a_timeout_a_handler_may_take_for_ever(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        go = asyncio.Event()

        async def handler(ctx, data):
            await go.wait()
            return str(ctx.deadline)
        """,
        spec=node_spec(timeout_s=None),
    )
    await node.send()
    await node.clock.advance(300)
    node.module.go.set()
    await node.settled()

    assert node.outputs() == ["None"]


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_progress_starts_the_timeout_anew(start_node: StartNode, kind: str) -> None:
    wait = "await go.wait()" if kind == "async def" else "plain_go.wait()"
    node = await start_node(
        f"""
        import asyncio, threading
        go, plain_go, contexts = asyncio.Event(), threading.Event(), []

        {kind} handler(ctx, data):
            contexts.append(ctx)
            {wait}
            return "done"
        """,
        spec=node_spec(timeout_s=2.0, retry=ONCE),
    )
    await node.send()
    await node.until(lambda: len(node.module.contexts) == 1)
    for _ in range(5):
        await node.clock.advance(1.5)
        node.module.contexts[0].progress("half way")
    await node.clock.advance(1.5)

    node.module.go.set()
    node.module.plain_go.set()
    await node.settled()

    assert node.outputs() == ["done"]
    assert node.dead_letters() == []


async def test_a_timeout_is_retried_like_any_failure(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data):
            if ctx.attempt == 1:
                await asyncio.Event().wait()
            return "in time"
        """,
        spec=node_spec(timeout_s=1.0),
    )
    await node.send()
    await node.clock.advance(5)
    await node.settled()

    assert node.outputs() == ["in time"]


async def test_progress_of_a_handler_that_was_given_up_changes_nothing(start_node: StartNode) -> None:
    """Its message waits for the next attempt, and an ack wait must not take the place of that delay."""
    node = await start_node(
        """
        import asyncio
        contexts = []

        async def handler(ctx, data):
            contexts.append(ctx)
            raise ValueError("wrong")
        """
    )
    await node.send()
    await node.released()

    node.module.contexts[0].progress()
    await node.clock.advance(1.1)

    assert [ctx.attempt for ctx in node.module.contexts] == [1, 2]


@pytest.mark.parametrize("jump_s", [-86_400, 86_400], ids=["back", "forward"])
async def test_a_jump_of_the_wall_clock_changes_neither_timeouts_nor_retries(
    start_node: StartNode, jump_s: float
) -> None:
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data):
            if ctx.attempt == 1:
                raise ValueError("once")
            await asyncio.Event().wait()
        """,
        spec=node_spec(timeout_s=2.0, retry=RetryPolicy(attempts=2, first_s=1.0, jitter=0.0)),
    )
    await node.send()

    node.clock.jump(jump_s)
    await node.clock.advance(2.9)
    assert node.dead_letters() == []
    await node.clock.advance(0.3)
    await node.settled()

    assert node.the_dead_letter().reason == "timeout"
