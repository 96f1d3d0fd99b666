"""A source-sink driver that is killed while it works: from a file to a file nothing is skipped."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.spec.driver import DriverSpec
from test.support.answering_node import stream_config
from test.support.drivers import STREAM, WORKFLOW
from test.support.storing_node import StoringNode

pytestmark = pytest.mark.attack

ROOT = Path(__file__).parents[2]
COUNT = 600
# Inputs per second, so that a kill comes in the middle.
RATE = 300
# At most so many are written again after a kill: those of the 0.1 s between two writes of the position, on a machine
# that does other things as well.
REPEATED = 150


def start(spec: DriverSpec, server: EmbeddedServer) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KRT_NATS_SERVER": server.url.removeprefix("nats://"),
        "KRT_DRIVER_SPEC": spec.model_dump_json(),
    }
    return subprocess.Popen([sys.executable, "-m", "runtime", "driver"], env=environment, cwd=ROOT)


async def wait_until(path: Path, is_reached: Callable[[list[int]], bool]) -> list[int]:
    """Return the numbers that a file of outputs has, once they are as they should be."""
    async with asyncio.timeout(30):
        while not is_reached(lines := read(path)):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    return lines


def read(path: Path) -> list[int]:
    text = path.read_text() if path.exists() else ""
    return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


async def test_killed_twice_it_skips_nothing_and_repeats_only_what_it_had_in_hand(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{number}\n" for number in range(COUNT)))
    spec = DriverSpec(
        ref="lines",
        driver="source-sink",
        workflow="echo",
        stream=STREAM,
        output_subjects=WORKFLOW.output_subjects,
        parameters={
            "sources": {"in": {"class": "file", "path": str(source), "rate": RATE, "timeout": "2s"}},
            "sinks": {"out": {"class": "file", "path": str(out)}},
        },
    )
    bus = await NatsBus.connect(servers=[nats_server.url], name="test", clock=SystemClock())
    await bus.ensure_stream(stream_config(STREAM))
    lives: list[list[int]] = []

    async with StoringNode(bus) as node:
        for lines_before in (COUNT // 4, COUNT // 2):
            process = start(spec, nats_server)
            await wait_until(out, lambda lines: len(lines) >= lines_before)  # noqa: B023 - awaited at once
            process.kill()
            process.wait()
            lives.append(read(out)[sum(map(len, lives)) :])
        process = start(spec, nats_server)
        written = await wait_until(out, lambda lines: lines[-1:] == [COUNT - 1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        lives.append(written[sum(map(len, lives)) :])

    assert sorted(set(written)) == list(range(COUNT))
    for life in lives:
        assert life == list(range(life[0], life[-1] + 1))
    assert len(written) - COUNT <= 2 * REPEATED
    # The workflow has seen each input once: repeats have the id of the first time.
    assert len(node.handled) == COUNT
    assert set(node.handled.values()) == {1}
    await bus.close()
