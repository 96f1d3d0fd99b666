"""A node's process: start and stop in order, and what a failure of either leaves behind."""

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

from runtime.clock import settle
from runtime.errors import NotFoundError, SettingsError
from runtime.node.dead_letters import shown_of
from runtime.node.process import read_spec
from runtime.settings import read_node
from runtime.spec.node import RetryPolicy
from test.support.node import OUTPUT, NodeUnderTest, environment, node_spec
from test.unit.node.conftest import StartNode

TEARDOWN = """
    events = []

    {init}

    async def handler(ctx, data):
        return data

    def teardown(ctx):
        events.append("teardown")
"""


async def test_init_ends_before_the_first_message_is_taken(tmp_path: Path) -> None:
    node = NodeUnderTest(
        tmp_path,
        """
        import asyncio
        events, go = [], asyncio.Event()

        async def init(ctx):
            events.append("init begins")
            await go.wait()
            events.append("init ends")

        async def handler(ctx, data):
            events.append("handler")
        """,
    )
    await node.prepare()
    await node.send()
    starting = asyncio.create_task(node.start())
    await node.until(lambda: getattr(node.module, "events", []) == ["init begins"])
    node.module.go.set()
    await starting
    await node.settled()

    assert node.module.events == ["init begins", "init ends", "handler"]
    await node.stop()


async def test_a_failing_init_fails_the_start_and_is_not_torn_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init = "def init(ctx): raise ValueError('no model')"
    node = NodeUnderTest(tmp_path, TEARDOWN.format(init=init))

    with pytest.raises(ValueError, match="no model"):
        await node.start()
    await node.stop()

    assert node.module.events == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_failing_init_is_shown_from_its_own_lines_on(tmp_path: Path) -> None:
    init = "def init(ctx): raise ValueError('no model')"
    node = NodeUnderTest(tmp_path, TEARDOWN.format(init=init))

    with pytest.raises(ValueError, match="no model") as failed:
        await node.start()
    await node.stop()
    # The frames of pytest and of this test are not there when a process starts the node.
    while failed.value.__traceback__ and "/test/" in failed.value.__traceback__.tb_frame.f_code.co_filename:
        failed.value.__traceback__ = failed.value.__traceback__.tb_next

    shown = shown_of(failed.value)

    assert shown is not None
    assert [frame.name for frame in traceback.extract_tb(shown.__traceback__)] == ["init"]


def test_an_error_of_ours_needs_no_traceback_and_any_other_without_lines_of_the_user_has_its_whole_one() -> None:
    ours, another = NotFoundError("consumer a of stream s is missing"), ValueError("a mistake of ours")

    assert shown_of(ours) is None
    assert shown_of(another) is another


async def test_a_start_that_finds_no_bucket_stops_without_noise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = NodeUnderTest(tmp_path, TEARDOWN.format(init=""), variables={"NATS_KEY_VALUE_STORE_NODE": "missing"})

    with pytest.raises(NotFoundError, match="missing"):
        await node.start()
    await node.stop()

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_consumer_that_stays_missing_fails_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = NodeUnderTest(tmp_path, TEARDOWN.format(init=""), spec=node_spec(durable="nobody-made-it"))
    await node.prepare()
    node.broker.delete_consumer("prod_v1_greeter", "nobody-made-it")
    monkeypatch.setattr(node, "prepare", settle)
    starting = asyncio.create_task(node.start())
    for _ in range(80):
        await node.clock.advance(0.5)

    with pytest.raises(NotFoundError, match="nobody-made-it"):
        await starting
    await node.stop()


async def test_teardown_runs_after_the_last_message_and_its_failure_ends_nothing(start_node: StartNode) -> None:
    node = await start_node(
        """
        events = []

        async def handler(ctx, data):
            events.append("handler")

        async def teardown(ctx):
            events.append("teardown")
            raise ValueError("forgot something")
        """
    )
    await node.send()
    await node.settled()
    module = node.module

    await node.stop()

    assert module.events == ["handler", "teardown"]


async def test_a_stopping_node_finishes_what_runs_and_gives_back_the_rest(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        taken, go = [], asyncio.Event()

        async def handler(ctx, data: int):
            taken.append(data)
            await go.wait()
            return data
        """,
        spec=node_spec(concurrency=2, timeout_s=None),
    )
    node.process._readers[0].prefetch = 3
    for number in range(10):
        await node.send(number)
    await node.until(lambda: node.in_hand == 5)
    module, consumer = node.module, node.broker.streams.stream("prod_v1_greeter").consumers["work__entrypoint"]

    stopping = asyncio.create_task(node.process.stop())
    await asyncio.sleep(0)
    module.go.set()
    await stopping

    assert module.taken == [0, 1]
    assert node.outputs() == [0, 1]
    assert len(consumer._pending) == len(consumer._again) == 3  # given back: due now, not after the ack wait
    assert len(consumer._queue) == 5


async def test_what_is_unconfirmed_at_the_end_is_given_back_and_no_dead_letter(start_node: StartNode) -> None:
    node = await start_node(
        "async def handler(ctx, data: int): return data",
        spec=node_spec(retry=RetryPolicy(attempts=1)),
        variables={"SHUTDOWN_GRACE": "0.1"},
    )
    node.process._readers[0].hold(True)
    for number in range(3):
        await node.send(number)
    node.broker.fail_publishes(1_000_000)
    node.process._readers[0].hold(False)
    await node.until(lambda: node.process._publisher.held)
    consumer = node.broker.streams.stream("prod_v1_greeter").consumers["work__entrypoint"]

    await node.process.stop()
    await asyncio.sleep(0)

    assert len(consumer._again) == 3
    assert node.dead_letters() == []
    assert node.stored(OUTPUT) == []


async def test_a_handler_that_swallows_its_end_does_not_hold_up_the_stop(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        go, started = asyncio.Event(), []

        async def handler(ctx, data):
            started.append(1)
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    pass
        """,
        spec=node_spec(timeout_s=None),
        variables={"SHUTDOWN_GRACE": "0.05"},
    )
    await node.send()
    await node.until(lambda: node.module.started == [1])

    async with asyncio.timeout(5):
        await node.process.stop()

    node.module.go.set()
    await asyncio.sleep(0)


async def test_the_death_of_a_slot_ends_the_process(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start_node("async def handler(ctx, data): ...")
    runner: Any = node.process._runner

    def broken(*_: Any) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(runner._metrics, "tick", broken)
    await node.clock.advance(0.2)

    with pytest.raises(RuntimeError, match="a defect of ours"):
        node.process.failed.result()


def test_a_spec_with_faults_is_refused_with_all_of_them(tmp_path: Path) -> None:
    variables = environment(tmp_path, NODE_SPEC='{"durable": 3, "speed": 1}')

    with pytest.raises(SettingsError) as raised:
        read_spec(read_node(variables))

    assert raised.value.problems == (
        "the 'KRT_NODE_SPEC' env var is wrong at durable: Input should be a valid string",
        "the 'KRT_NODE_SPEC' env var is wrong at speed: Extra inputs are not permitted",
    )


def test_a_spec_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the 'KRT_NODE_SPEC' env var is no JSON"):
        read_spec(read_node(environment(tmp_path, NODE_SPEC="{")))


def test_a_bare_runner_has_one_attempt_and_no_timeout(tmp_path: Path) -> None:
    spec = read_spec(read_node(environment(tmp_path, IS_EXITPOINT="true")))

    assert (spec.retry.attempts, spec.timeout_s, spec.concurrency, spec.exit_channel) == (1, None, 1, "main")
