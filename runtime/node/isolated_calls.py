"""A worker process's end of the channel on which a handler asks its node for what only the node can do."""

import asyncio
import itertools
import socket
import threading
from concurrent.futures import Future
from typing import Any

from runtime.errors import BusClosedError
from runtime.node.isolation_failures import raised
from runtime.node.isolation_frames import Body, Call, CallAnswer, FrameBuffer, Frames, Head
from runtime.worker_child import CHUNK_BYTES, LENGTH


class NodeCalls:
    """Thread-safe: calls are awaited on a loop, notes may come from anywhere."""

    def __init__(self, channel: socket.socket, frames: Frames) -> None:
        self._channel = channel
        self._frames = frames
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[CallAnswer]] = {}
        threading.Thread(target=self._read, name="answers of the node", daemon=True).start()

    async def call(self, call: Call, *body: Body, **head: Any) -> CallAnswer:
        """Ask the node for something; return the value and the body of its answer, or raise what it raises."""
        number = next(self._numbers)
        answer: Future[CallAnswer] = Future()
        self._waiting[number] = answer
        try:
            self._send({"call": call, "id": number, **head}, *body)
            return await asyncio.wrap_future(answer)
        finally:
            self._waiting.pop(number, None)

    def note(self, call: Call, **head: Any) -> None:
        """Tell the node something that needs no answer."""
        self._send({"call": call, **head})

    def _send(self, head: Head, *body: Body) -> None:
        frame = self._frames.pack(head, *body)
        try:
            with self._sending:
                self._channel.sendall(LENGTH.pack(len(frame)) + frame)
        except OSError as error:  # this process is about to be ended, too
            raise BusClosedError("the node of this worker is gone") from error

    def _read(self) -> None:
        """Hand every answer to whoever waits for it, until the channel ends."""
        received = FrameBuffer()
        while chunk := self._receive():
            for frame in received.add(chunk):
                self._settle(frame)

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(CHUNK_BYTES)
        except OSError:  # reset, by a node that was killed
            return b""

    def _settle(self, frame: bytes) -> None:
        head, body = self._frames.unpack(frame)
        waiting = self._waiting.get(head["id"])
        if waiting is None or not waiting.set_running_or_notify_cancel():  # nobody waits any more
            return
        if "failure" in head:
            waiting.set_exception(raised(head["failure"]))
        else:
            waiting.set_result((head["value"], body))
