"""The node's end of the channel on which a handler in a worker process asks for what only its node can do."""

import asyncio
import socket
from typing import Self, cast

from runtime.node.isolation_desk import ServiceDesk
from runtime.node.isolation_failures import told
from runtime.node.isolation_frames import Body, FrameBuffer, Frames, Head
from runtime.worker_child import LENGTH


class CallServer(asyncio.Protocol):
    """Reads calls, has the desk do them, and answers each as soon as it is done."""

    def __init__(self, desk: ServiceDesk, frames: Frames) -> None:
        """Made by `open`."""
        self._desk = desk
        self._frames = frames
        self._transport: asyncio.Transport | None = None
        self._received = FrameBuffer()
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, channel: socket.socket, desk: ServiceDesk, frames: Frames) -> Self:
        """Serve a channel, which belongs to the server from now on."""
        loop = asyncio.get_running_loop()
        _, server = await loop.create_unix_connection(lambda: cls(desk, frames), sock=channel)
        return server

    async def close(self) -> None:
        """Leave what is not done undone: the worker has ended, or is about to."""
        if self._transport is not None:
            self._transport.abort()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is none by its class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._received.add(data):
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        head, body = self._frames.unpack(frame)
        if "id" not in head:
            self._desk.note(head)
            return
        task = asyncio.create_task(self._answer(head, body), name=f"call of a worker: {head['call']}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, head: Head, body: Body) -> None:
        answer: Head = {"id": head["id"]}
        content: Body = b""
        try:
            answer["value"], content = await self._desk.answer(head, body)
        except Exception as error:  # it is raised where the handler has asked
            answer["failure"] = told(error)
        self._send(self._frames.pack(answer, content))

    def _send(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines((LENGTH.pack(len(frame)), frame))
