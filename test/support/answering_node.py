"""A stand-in for a workflow: one node that reads the entrypoint and answers `reply_to`, as an exit node does.

| input | answers |
|---|---|
| {"error": TEXT} | ERROR with the text and the outcome `failed` |
| {"silent": true} | none |
| {"twice": true} | the input twice, the second time with the outcome |
| {"early": VALUE} | EARLY_REPLY with the value, then the input, then an empty OK with the outcome |
| {"nothing": true} | an empty OK with the outcome |
| {"begun": true} | the input, and no outcome after it |
| anything else | the input, with the outcome `ok` |
"""

import asyncio
from typing import Any, Literal

from runtime import payload, wire
from runtime.bus.base import Bus, ConsumerConfig, ReaderClosed, StreamConfig
from runtime.message import Message, MessageType
from runtime.spec import names

NODE = "echo"


def stream_config(stream: str, *, max_bytes: int = 0, storage: Literal["file", "memory"] = "memory") -> StreamConfig:
    subjects = tuple(names.stream_subjects(stream))
    return StreamConfig(name=stream, subjects=subjects, storage=storage, max_bytes=max_bytes)


def consumer_config(stream: str) -> ConsumerConfig:
    durable = names.durable(NODE, [names.ENTRYPOINT])
    return ConsumerConfig(stream=stream, durable=durable, filter_subjects=(names.entrypoint_subject(stream),))


class AnsweringNode:
    """Use it with `async with`; `received` holds every message in the order of arrival."""

    def __init__(self, bus: Bus, stream: str) -> None:
        self.received: list[Message] = []
        self._bus = bus
        self._reader = bus.reader(consumer_config(stream), create=True)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "AnsweringNode":
        await self._reader.start()
        self._task = asyncio.create_task(self._answer_all(), name="answering node")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        await self._reader.close()
        await self._task

    async def _answer_all(self) -> None:
        while True:
            try:
                delivery = await self._reader.take()
            except ReaderClosed:
                return
            message = wire.decode(delivery.data)
            self.received.append(message)
            for answer in answers_to(message):
                self._bus.send(message.reply_to, wire.encode(answer))
            self._reader.ack(delivery)


def answers_to(message: Message) -> list[Message]:
    """Return what the node says to a message."""
    value: Any = payload.decode_value(message.payload)
    wanted = value if isinstance(value, dict) else {}
    answer = message._replace(from_node=NODE, outcome="ok")
    if "error" in wanted:
        return [answer._replace(payload=b"", type=MessageType.ERROR, error=wanted["error"], outcome="failed")]
    if "silent" in wanted:
        return []
    if "nothing" in wanted:
        return [answer._replace(payload=b"")]
    if "begun" in wanted:
        return [answer._replace(outcome="")]
    if "twice" in wanted:
        return [answer._replace(outcome=""), answer]
    if "early" in wanted:
        early = answer._replace(type=MessageType.EARLY_REPLY, payload=payload.encode_value(wanted["early"]), outcome="")
        return [early, answer._replace(outcome=""), answer._replace(payload=b"")]
    return [answer]
