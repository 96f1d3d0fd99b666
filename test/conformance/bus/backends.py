"""What the suite needs beyond the contract: connections, faults, and short ways to publish, take and wait."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import pytest

from runtime.bus.base import Bus, Confirm, ConsumerConfig, Delivery, Publisher, Reader, StreamConfig
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.errors import BusError

T = TypeVar("T")

STREAM = "orders"
DURABLE = "packer"

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 5.0
# Seconds without a delivery after which none is taken to be on its way.
SILENCE_S = 0.2


class Backend(Protocol):
    """One implementation of the bus, with the faults that the suite causes."""

    async def connect(self) -> Bus:
        """Open a further connection; it is closed after the test."""
        ...

    async def delete_consumer(self) -> None:
        """Delete the durable under its readers, from outside."""
        ...

    async def redeliver(self, delivery: Delivery) -> None:
        """Make the server deliver the message again while somebody still works on it."""
        ...

    async def corrupt_object(self, store: str, name: str, data: bytes) -> None:
        """Put other bytes in the place of an object's, and leave its hash."""
        ...

    async def stored_bytes(self, store: str) -> int:
        """Return what a store takes up, with whatever belongs to no object."""
        ...

    async def leave_chunks(self, store: str, nuid: str) -> int:
        """Leave what a process does that dies while it puts an object; returns how many of these there are."""
        ...

    async def close(self) -> None: ...


class MemoryBackend:
    def __init__(self) -> None:
        self._broker = MemoryBroker(SystemClock())
        self._buses: list[Bus] = []

    async def connect(self) -> Bus:
        bus = self._broker.connect()
        self._buses.append(bus)
        return bus

    async def delete_consumer(self) -> None:
        self._broker.delete_consumer(STREAM, DURABLE)

    async def redeliver(self, delivery: Delivery) -> None:
        self._broker.redeliver(STREAM, DURABLE, delivery.sequence)

    async def corrupt_object(self, store: str, name: str, data: bytes) -> None:
        self._broker.object_stores[store].corrupt(name, data)

    async def stored_bytes(self, store: str) -> int:
        return self._broker.object_stores[store].size_bytes

    async def leave_chunks(self, store: str, nuid: str) -> int:
        return 0  # an object is stored at once

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


class NatsBackend:
    def __init__(self, url: str) -> None:
        self._url = url
        self._buses: list[Bus] = []

    async def connect(self) -> Bus:
        bus = await NatsBus.connect(servers=[self._url], name="conformance", clock=SystemClock())
        self._buses.append(bus)
        return bus

    async def delete_consumer(self) -> None:
        bus = await self.connect()
        answer = await bus.request(f"$JS.API.CONSUMER.DELETE.{STREAM}.{DURABLE}", b"", timeout_s=PATIENCE_S)
        assert b'"success":true' in answer.data

    async def redeliver(self, delivery: Delivery) -> None:
        bus = await self.connect()
        bus.send(delivery.reply, b"-NAK")

    async def corrupt_object(self, store: str, name: str, data: bytes) -> None:
        bus = await self.connect()
        subject = f"$O.{store}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
        asked = json.dumps({"last_by_subj": subject}).encode()
        answer = await bus.request(f"$JS.API.STREAM.MSG.GET.OBJ_{store}", asked, timeout_s=PATIENCE_S)
        description = json.loads(base64.b64decode(json.loads(answer.data)["message"]["data"]))
        chunks = f"$O.{store}.C.{description['nuid']}"
        purge = json.dumps({"filter": chunks}).encode()
        await bus.request(f"$JS.API.STREAM.PURGE.OBJ_{store}", purge, timeout_s=PATIENCE_S)
        await bus.request(chunks, data, timeout_s=PATIENCE_S)

    async def stored_bytes(self, store: str) -> int:
        return (await (await self.connect()).stream_state(f"OBJ_{store}")).size_bytes

    async def leave_chunks(self, store: str, nuid: str) -> int:
        await (await self.connect()).request(f"$O.{store}.C.{nuid}", b"half of it", timeout_s=PATIENCE_S)
        return 1

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


class Confirms:
    """Records every confirm of a test, in order."""

    def __init__(self) -> None:
        self.errors: list[BusError | None] = []
        self.ids: list[str] = []

    def of(self, message_id: str) -> Confirm:
        def confirm(error: BusError | None) -> None:
            self.ids.append(message_id)
            self.errors.append(error)

        return confirm


def stream(**changes: object) -> StreamConfig:
    """Return the stream of most tests; `changes` are its fields."""
    fields: dict[str, object] = {"name": STREAM, "subjects": (f"{STREAM}.>",), "storage": "memory", **changes}
    return StreamConfig(**fields)  # type: ignore[arg-type]  # the fields are checked by the test that uses them


def consumer(**changes: object) -> ConsumerConfig:
    """Return the consumer of most tests; `changes` are its fields."""
    fields: dict[str, object] = {"stream": STREAM, "durable": DURABLE, "filter_subjects": (f"{STREAM}.>",), **changes}
    return ConsumerConfig(**fields)  # type: ignore[arg-type]  # the fields are checked by the test that uses them


async def started_reader(bus: Bus, *, prefetch: int = 0, **changes: object) -> Reader:
    reader = bus.reader(consumer(**changes), create=True)
    reader.prefetch = prefetch
    await reader.start()
    return reader


async def store(bus: Bus, *payloads: str, subject: str = f"{STREAM}.new") -> None:
    """Publish each payload under an id of its own, and see it confirmed."""
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    for payload in payloads:
        await publish(publisher, payload, confirms, subject=subject)
    await soon(publisher.flush())
    assert confirms.errors == [None] * len(payloads)
    await publisher.close()


async def publish(publisher: Publisher, payload: str, confirms: Confirms, *, subject: str = f"{STREAM}.new") -> None:
    """Publish a text under its first 20 characters as the id."""
    message_id = payload[:20]
    await soon(publisher.publish(subject, payload.encode(), message_id=message_id, confirm=confirms.of(message_id)))


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what has to come."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable


async def take(reader: Reader) -> Delivery:
    return await soon(reader.take())


async def take_texts(reader: Reader, count: int) -> list[str]:
    """Take and ack `count` deliveries; return their payloads."""
    texts = []
    for _ in range(count):
        delivery = await take(reader)
        reader.ack(delivery)
        texts.append(delivery.data.decode())
    return texts


async def expect_silence(reader: Reader, seconds: float = SILENCE_S) -> None:
    """Fail if the reader gets anything within the time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            delivery = await reader.take()
            raise AssertionError(f"nothing was to come, but {delivery} did")


async def eventually(read: Callable[[], Awaitable[T]], expected: T) -> None:
    """Wait until the server's state is as expected; it is read again every 10 ms, for nobody announces it."""
    seen = await read()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while seen != expected:
                await asyncio.sleep(0.01)
                seen = await read()
    except TimeoutError:
        raise AssertionError(f"expected {expected}, still is {seen}") from None


async def settled(bus: Bus) -> tuple[int, int, int]:
    """Return the consumer's pending, ack_pending and ack_floor."""
    [state] = await bus.consumer_states(STREAM)
    return state.pending, state.ack_pending, state.ack_floor
