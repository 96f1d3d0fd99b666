"""A runner without a plan: what it finds, what it makes, and what it leaves alone on somebody else's NATS."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.bus.base import ConsumerConfig, StreamConfig
from runtime.clock import settle
from runtime.errors import NotFoundError, SettingsError
from runtime.node.bare import DEAD_LETTER_KEEP_S
from test.support.node import DEAD_LETTERS, DURABLE, ENTRYPOINT, STREAM, NodeUnderTest

ECHO = "async def handler(ctx, data): return data"
SUBJECTS = StreamConfig(name=STREAM, subjects=(f"{STREAM}.>",))

Prepare = Callable[[NodeUnderTest], Awaitable[None]]


def bare_node(folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, **variables: str) -> NodeUnderTest:
    """Return a bare node whose surroundings are made by `prepare` alone."""
    node = NodeUnderTest(folder, ECHO, bare=True, variables=variables)
    monkeypatch.setattr(node, "prepare", lambda: prepare(node))
    return node


async def stream_only(node: NodeUnderTest) -> None:
    await node.outside.ensure_stream(SUBJECTS)


async def test_consumer_and_dead_letter_stream_are_made_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = bare_node(tmp_path, stream_only, monkeypatch)
    await node.outside.ensure_stream(SUBJECTS)
    await node.send("sent before the consumer was there")

    await node.start()
    await node.settled()

    assert node.outputs() == ["sent before the consumer was there"]
    streams = node.broker.streams._streams
    assert sorted(streams) == [STREAM, DEAD_LETTERS]
    assert streams[DEAD_LETTERS].config.max_age_s == DEAD_LETTER_KEEP_S
    consumer = streams[STREAM].consumers[DURABLE].config
    assert (consumer.filter_subjects, consumer.ack_wait_s) == ((ENTRYPOINT,), 30.0)
    assert node.broker.buckets == {}
    await node.stop()


async def test_a_dead_letter_stream_that_exists_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare(node: NodeUnderTest) -> None:
        await stream_only(node)
        await node.outside.ensure_stream(
            StreamConfig(name=DEAD_LETTERS, subjects=(f"{DEAD_LETTERS}.>",), max_age_s=99.0)
        )

    node = bare_node(tmp_path, prepare, monkeypatch)
    await node.start()

    assert node.broker.streams.stream(DEAD_LETTERS).config.max_age_s == 99.0
    await node.stop()


async def test_a_consumer_that_differs_is_updated_and_each_field_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def prepare(node: NodeUnderTest) -> None:
        await stream_only(node)
        await node.outside.ensure_consumer(
            ConsumerConfig(stream=STREAM, durable=DURABLE, filter_subjects=(ENTRYPOINT,), max_ack_pending=5)
        )

    node = bare_node(tmp_path, prepare, monkeypatch, NATS_MAX_ACK_PENDING="7")
    await node.start()

    assert node.broker.streams.stream(STREAM).consumers[DURABLE].config.max_ack_pending == 7
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert told.getMessage().endswith("max_ack_pending: 5 -> 7")
    await node.stop()


async def test_a_missing_stream_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(node: NodeUnderTest) -> None: ...

    node = bare_node(tmp_path, nothing, monkeypatch)
    starting = asyncio.create_task(node.start())
    await settle()
    await node.clock.advance(20)
    await node.outside.ensure_stream(SUBJECTS)
    await node.clock.advance(1)

    await starting
    await node.stop()


async def test_a_stream_that_stays_missing_fails_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(node: NodeUnderTest) -> None: ...

    node = bare_node(tmp_path, nothing, monkeypatch)
    starting = asyncio.create_task(node.start())
    await settle()
    await node.clock.advance(31)

    with pytest.raises(NotFoundError, match="stream 'prod_v1_greeter' is missing for 30 s; check KRT_NATS_STREAM"):
        await starting
    await node.stop()


async def test_subjects_that_the_stream_does_not_hold_are_all_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = bare_node(
        tmp_path, stream_only, monkeypatch, NATS_INPUT="a.b", NATS_OUTPUT="a.c", NATS_ENTRYPOINT_SUBJECT="a.d"
    )

    with pytest.raises(SettingsError) as raised:
        await node.start()

    holds = "which stream 'prod_v1_greeter' does not hold; it holds prod_v1_greeter.>"
    assert raised.value.problems == (
        f"the 'KRT_NATS_ENTRYPOINT_SUBJECT' env var is 'a.d', {holds}",
        f"the 'KRT_NATS_INPUT' env var is 'a.b', {holds}",
        f"the 'KRT_NATS_OUTPUT' env var is 'a.c', {holds}",
    )
    await node.stop()


async def test_an_exception_is_final_at_the_first_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = bare_node(tmp_path, stream_only, monkeypatch)
    (tmp_path / "handler.py").write_text("async def handler(ctx, data): raise ValueError('no')")
    await node.start()

    await node.send()
    await node.settled()

    assert len(node.errors()) == 1
    assert node.the_dead_letter().attempts[0].error == "ValueError: no"
    await node.stop()


async def test_an_infrastructure_failure_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = bare_node(tmp_path, stream_only, monkeypatch)
    await node.start()
    await node.send("kept")
    node.broker.fail_publishes(1_000)
    await node.clock.advance(40)
    node.broker.fail_publishes(0)
    await node.clock.advance(60)
    await node.settled()

    assert node.outputs() == ["kept"]
    assert node.dead_letters() == []
    await node.stop()
