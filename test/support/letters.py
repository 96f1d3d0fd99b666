"""A workflow of two nodes that read the same subject, with readers in place of runners, for tests of dead letters."""

import asyncio
from dataclasses import replace

from runtime import wire
from runtime.bus.base import Bus, Confirmation, ConsumerConfig, Delivery, Reader, StreamConfig
from runtime.bus.dead_letters import store_dead_letter
from runtime.deadletter import Attempt, DeadLetter
from runtime.inspection import letters
from runtime.inspection.letters import Letter, Wanted
from runtime.message import Message
from runtime.payload import encode_value
from runtime.spec import names

STREAM = "local_dev_flow"
ENTRYPOINT = names.entrypoint_subject(STREAM)
# Seconds after which something that has to happen is taken for lost, and without a delivery, for not coming.
PATIENCE_S, SILENCE_S = 5.0, 0.2

LETTER = DeadLetter(
    node="score", reason="failed", error="ValueError: wrong", traceback="Traceback …\nValueError: wrong\n",
    request_id="r1", stream=STREAM, subject=ENTRYPOINT, sequence=1, stored_ns=0, handler_version="63a1f5",
    attempts=(Attempt(attempt=1, time_s=1.5, error="ValueError: wrong"),), headers={},
)  # fmt: skip


def consumer(node: str, *, redrives: bool = True) -> ConsumerConfig:
    """Return the consumer of a node that reads the entrypoint; without `redrives`, as a bare runner makes it."""
    own = (names.redrive_subject(node, ENTRYPOINT),) if redrives else ()
    durable = names.durable(node, [names.ENTRYPOINT])
    return ConsumerConfig(stream=STREAM, durable=durable, filter_subjects=(ENTRYPOINT, *own))


def envelope(value: object, request_id: str = "r1") -> bytes:
    return wire.encode(Message(request_id=request_id, payload=encode_value(value), from_node="entrypoint"))


class Flow:
    """The streams of the workflow, the consumers of its nodes `score` and `audit`, and what tests do with them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.readers: dict[str, Reader] = {}

    async def open(self, *, redrives: bool = True, window_s: float = 120.0) -> "Flow":
        await self.bus.ensure_stream(
            StreamConfig(name=STREAM, subjects=tuple(names.stream_subjects(STREAM)), duplicate_window_s=window_s)
        )
        dead = names.dead_letter_stream(STREAM)
        await self.bus.ensure_stream(StreamConfig(name=dead, subjects=tuple(names.stream_subjects(dead))))
        for node in ("score", "audit"):
            config = consumer(node, redrives=redrives)
            await self.bus.ensure_consumer(config)
            self.readers[node] = self.bus.reader(config, create=False)
            await self.readers[node].start()
        return self

    async def close(self) -> None:
        for reader in self.readers.values():
            await reader.close()

    async def send(self, data: bytes, message_id: str = "r1") -> None:
        """Store an input of the workflow."""
        publisher = self.bus.publisher(STREAM)
        stored = Confirmation()
        await publisher.publish(ENTRYPOINT, data, message_id=message_id, confirm=stored)
        await stored
        await publisher.close()

    async def die(self, delivery: Delivery, node: str = "score", **fields: object) -> None:
        """Make a dead letter of a delivery, as the node's runner does."""
        died = replace(
            LETTER,
            node=node,
            sequence=delivery.sequence,
            stored_ns=delivery.time_ns,
            headers=dict(delivery.headers or {}),
            **fields,  # type: ignore[arg-type]  # fields of the letter
        )
        publisher = self.bus.publisher(names.dead_letter_stream(STREAM))
        subject = names.dead_letter_subject(STREAM, node)
        message_id = names.dead_letter_id(node, died.origin or died.sequence, died.redrive)
        await store_dead_letter(publisher, subject, delivery.data, died, message_id=message_id)
        await publisher.close()
        self.readers[node].term(delivery)

    async def take(self, node: str) -> Delivery:
        async with asyncio.timeout(PATIENCE_S):
            return await self.readers[node].take()

    async def handle(self, node: str) -> Delivery:
        delivery = await self.take(node)
        self.readers[node].ack(delivery)
        return delivery

    async def expect_nothing(self, node: str) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                delivery = await self.readers[node].take()
        except TimeoutError:
            return
        raise AssertionError(f"{node} was to get nothing, but {delivery} came")

    async def letters(self, wanted: Wanted = Wanted()) -> list[Letter]:  # noqa: B008 - frozen
        return [letter async for letter in letters.find(self.bus, STREAM, wanted)]

    async def the_letter(self) -> Letter:
        [letter] = await self.letters()
        return letter
