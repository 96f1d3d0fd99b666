"""Every built-in source with somebody who feeds it: what the conformance suite of sources runs on."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import httpx

from runtime.bus.base import Bus, Confirmation, StreamConfig
from runtime.drivers.flow import Item, NotConnected, Source, Wait
from runtime.drivers.runner import DriverRunner
from runtime.drivers.sources.dummy import DummySource
from runtime.drivers.sources.file import FileSource
from runtime.drivers.sources.folder import FolderSource
from runtime.drivers.sources.http_poll import HttpPollSource
from runtime.drivers.sources.mqtt import MqttSource
from runtime.drivers.sources.nats_subject import NatsSource
from runtime.drivers.sources.timer import CronSource, TimerSource
from runtime.drivers.sources.webhook import WebhookSource
from test.support.ports import free_port

# Inputs that every case sends.
COUNT = 3
# Stream and subject of somebody else.
ORDERS, SUBJECT = "orders", "orders.new"
# Ref of the source in the driver.
REF = "tested"

Feed = Callable[[DriverRunner], Awaitable[None]]


async def nothing(runner: DriverRunner) -> None:
    """Feed a source that has its inputs already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCase:
    """A source, and what makes its inputs come: `feed`, which returns once all are sent, or acknowledged.

    expected: the inputs in order; None where only their number is known. is_finite: it ends by itself.
    """

    source: Source
    feed: Feed = nothing
    expected: list[Any] | None = field(default_factory=lambda: [{"n": number} for number in range(COUNT)])
    is_finite: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a case may use. mqtt_port: of a broker, 0 where the test has none."""

    folder: Path
    bus: Bus
    mqtt_port: int = 0


class CountingSource(Source):
    """A user's own source, with plain methods: it is away at first, waits in between, and hands out items."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.outcomes: list[str] = []
        self._numbers = iter(range(COUNT))

    def open(self) -> None:
        self.opened += 1
        if self.opened == 1:
            raise NotConnected("not yet")

    def read(self) -> Iterator[Any]:
        for number in self._numbers:
            yield Wait(0.001)
            yield Item({"n": number}, done=self.outcomes.append)


async def dummy(place: Surroundings) -> SourceCase:
    source = DummySource(format={"n": int}, count=COUNT, rate=None)
    return SourceCase(source=source, expected=None, is_finite=True)


async def own(place: Surroundings) -> SourceCase:
    return SourceCase(source=CountingSource(), is_finite=True)


async def json_lines(place: Surroundings) -> SourceCase:
    path = place.folder / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(COUNT)))
    return SourceCase(source=FileSource(path=path), is_finite=True)


async def csv(place: Surroundings) -> SourceCase:
    path = place.folder / "in.csv"
    path.write_text("n,text\n" + "".join(f'{number},"a\n""b"" {number}"\n' for number in range(COUNT)))
    expected = [{"n": number, "text": f'a\n"b" {number}'} for number in range(COUNT)]
    return SourceCase(source=FileSource(path=path), expected=expected, is_finite=True)


async def lines(place: Surroundings) -> SourceCase:
    path = place.folder / "in.txt"
    path.write_text("one\r\ntwo\n\nthree")
    return SourceCase(source=FileSource(path=path, format="lines"), expected=["one", "two", "three"], is_finite=True)


async def followed_file(place: Surroundings) -> SourceCase:
    path = place.folder / "tail.jsonl"
    path.touch()

    async def feed(runner: DriverRunner) -> None:
        with path.open("a") as file:
            for number in range(COUNT):
                file.write(f'{{"n": {number}')
                file.flush()
                await asyncio.sleep(0)
                file.write("}\n")
                file.flush()

    return SourceCase(source=FileSource(path=path, follow=True, poll=0.005), feed=feed)


async def folder(place: Surroundings) -> SourceCase:
    path = place.folder / "frames"
    path.mkdir()
    for number in range(COUNT):
        (path / f"frame-{number}.png").write_bytes(bytes([number]))
    source = FolderSource(path=path, pattern="*.png")
    return SourceCase(source=source, expected=[b"\0", b"\1", b"\2"], is_finite=True)


async def removing_folder(place: Surroundings) -> SourceCase:
    path = place.folder / "inbox"
    path.mkdir()

    async def feed(runner: DriverRunner) -> None:
        for number in range(COUNT):
            made = path / f".{9 - number}.json"
            made.write_text(f'{{"n": {number}}}')
            made.rename(path / f"{9 - number}.json")
            while any(path.iterdir()):  # noqa: ASYNC110 - a folder has no event
                await asyncio.sleep(0.005)

    source = FolderSource(path=path, format="json", follow=True, remove=True, poll=0.005)
    return SourceCase(source=source, feed=feed)


async def timer(place: Surroundings) -> SourceCase:
    source = TimerSource(interval="10ms", inputs={"n": 0}, count=COUNT)
    return SourceCase(source=source, expected=[{"n": 0}] * COUNT, is_finite=True)


async def cron(place: Surroundings) -> SourceCase:
    return SourceCase(source=CronSource(expression="* * * * * *", inputs="tick"), expected=["tick"] * COUNT)


async def nats_subject(place: Surroundings) -> SourceCase:
    async def feed(runner: DriverRunner) -> None:
        for number in range(COUNT):
            place.bus.send(SUBJECT, json.dumps({"n": number}).encode())

    return SourceCase(source=NatsSource(subject=SUBJECT), feed=feed)


async def nats_stream(place: Surroundings) -> SourceCase:
    await place.bus.ensure_stream(StreamConfig(name=ORDERS, subjects=(SUBJECT,), storage="memory"))
    publisher = place.bus.publisher(ORDERS)
    for number in range(COUNT):
        stored = Confirmation()
        await publisher.publish(SUBJECT, b'{"n": %d}' % number, message_id=str(number), confirm=stored)
        await stored
    await publisher.close()

    async def feed(runner: DriverRunner) -> None:
        while (await place.bus.consumer_states(ORDERS))[0].ack_floor < COUNT:  # noqa: ASYNC110 - a stream has none
            await asyncio.sleep(0.005)

    return SourceCase(source=NatsSource(subject=SUBJECT, stream=ORDERS), feed=feed)


async def webhook(place: Surroundings) -> SourceCase:
    async def feed(runner: DriverRunner) -> None:
        async with httpx.AsyncClient() as client:
            for number in range(COUNT):
                url = f"http://127.0.0.1:{runner.services[0].port}/in"
                answer = await client.post(url, json={"n": number}, headers={"Authorization": "Bearer secret"})
                assert (answer.status_code, answer.json()) == (200, {"outcome": "ok"})

    return SourceCase(source=WebhookSource(path="/in", token="secret"), feed=feed)


async def http_poll(place: Surroundings) -> SourceCase:
    port = free_port()

    async def feed(runner: DriverRunner) -> None:
        answers, answered = iter(range(COUNT)), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            number = next(answers, None)
            body = b"" if number is None else b'{"n": %d}' % number
            status = b"204 No Content" if number is None else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body)
            await writer.drain()
            writer.close()
            if number is None:
                answered.set()

        async with await asyncio.start_server(answer, "127.0.0.1", port):
            await answered.wait()

    return SourceCase(source=HttpPollSource(url=f"http://127.0.0.1:{port}/", interval="10ms"), feed=feed)


async def mqtt(place: Surroundings) -> SourceCase:
    source = MqttSource(host="127.0.0.1", port=place.mqtt_port, topics=["sensors/+"])

    async def feed(runner: DriverRunner) -> None:
        async with aiomqtt.Client("127.0.0.1", place.mqtt_port, identifier="sender") as client:
            for number in range(COUNT):
                await client.publish(f"sensors/{number}", json.dumps({"n": number}), qos=1)

    return SourceCase(source=source, feed=feed)


CASES: dict[str, Callable[[Surroundings], Awaitable[SourceCase]]] = {
    "dummy": dummy,
    "own": own,
    "file-jsonl": json_lines,
    "file-csv": csv,
    "file-lines": lines,
    "file-follow": followed_file,
    "folder": folder,
    "folder-remove": removing_folder,
    "timer": timer,
    "cron": cron,
    "nats": nats_subject,
    "nats-stream": nats_stream,
    "webhook": webhook,
    "http-poll": http_poll,
    "mqtt": mqtt,
}
