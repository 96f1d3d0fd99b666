"""`krt dlq redrive` as a process that is stopped, or killed, in the middle: every message comes back exactly once."""

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bus.base import ConsumerConfig, StreamConfig
from runtime.bus.dead_letters import store_dead_letter
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits
from runtime.spec import names
from test.acceptance.test_run import environment
from test.support.letters import ENTRYPOINT, LETTER, STREAM, consumer, envelope

COUNT = 2_000
DEAD = names.dead_letter_stream(STREAM)
REDRIVEN = names.redrive_subject("score", ENTRYPOINT)
PATIENCE_S = 30.0


async def fill(bus: NatsBus) -> None:
    """Make the streams, the node's consumer and its dead letters."""
    for stream in (STREAM, DEAD):
        await bus.ensure_stream(StreamConfig(name=stream, subjects=tuple(names.stream_subjects(stream))))
    config: ConsumerConfig = consumer("score")
    await bus.ensure_consumer(config)
    publisher = bus.publisher(DEAD)
    subject = names.dead_letter_subject(STREAM, "score")

    async def store(number: int) -> None:
        letter = replace(LETTER, sequence=number)
        message_id = names.dead_letter_id("score", number)
        await store_dead_letter(publisher, subject, envelope({"n": number}), letter, message_id=message_id)

    await asyncio.gather(*map(store, range(1, COUNT + 1)))
    await publisher.close()


async def redriven(bus: NatsBus) -> int:
    return (await bus.stream_state(STREAM)).subjects.get(REDRIVEN, 0)


async def left(bus: NatsBus) -> int:
    return (await bus.stream_state(DEAD)).messages


async def start(url: str, folder: Path) -> asyncio.subprocess.Process:
    arguments = ("dlq", "redrive", "--all", "--nats", url, "--stream", STREAM)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime", *arguments, cwd=folder, env=environment(), stdout=asyncio.subprocess.PIPE
    )


async def interrupt(process: asyncio.subprocess.Process, bus: NatsBus, number: signal.Signals, after: int) -> str:
    """Send a signal once `after` messages are redriven; return what the process has printed."""
    async with asyncio.timeout(PATIENCE_S):
        while await redriven(bus) < after:  # noqa: ASYNC110 - the process tells nobody how far it is
            await asyncio.sleep(0.005)
        process.send_signal(number)
        return (await process.communicate())[0].decode()


@pytest.mark.timeout(120)
async def test_a_redrive_that_is_stopped_and_killed_and_repeated_gives_every_message_back_once(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    bus = await NatsBus.connect([nats_server.url], name="test")
    await fill(bus)

    first = await start(nats_server.url, tmp_path)
    printed = await interrupt(first, bus, signal.SIGINT, COUNT // 10)
    told, done_first, left_first = int(printed.split()[1]), await redriven(bus), await left(bus)
    second = await start(nats_server.url, tmp_path)
    await interrupt(second, bus, signal.SIGKILL, COUNT // 2)
    done_second, left_second = await redriven(bus), await left(bus)
    last = await start(nats_server.url, tmp_path)
    async with asyncio.timeout(PATIENCE_S):
        await last.communicate()

    assert (first.returncode, second.returncode, last.returncode) == (exits.INTERRUPTED, -signal.SIGKILL, exits.OK)
    # One may be in the middle: stored, and its letter not deleted yet.
    assert 0 < told <= done_first <= told + 1
    assert done_first < done_second < COUNT
    for done, letters in ((done_first, left_first), (done_second, left_second)):
        assert COUNT <= done + letters <= COUNT + 1
    assert (await redriven(bus), await left(bus)) == (COUNT, 0)
    await bus.close()
