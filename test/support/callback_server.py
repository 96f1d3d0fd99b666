"""A server that is called back, and answers as badly as it is told to.

async with CallbackServer(status(500), status(200)) as server:
    ...
assert server.requests[0].headers["idempotency-key"] == "7_flood_0:starting"
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Self

# Seconds after which a request that has to come is taken for lost.
PATIENCE_S = 10.0

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request. headers: by their names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class CallbackServer:
    """Gives each request the next of its answers, and the last one for ever."""

    def __init__(self, *answers: Answering) -> None:
        self.requests: list[Received] = []
        self._answers = list(answers)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._received = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def wait_for(self, count: int) -> None:
        """Return when so many requests have come."""
        async with asyncio.timeout(PATIENCE_S), self._received:
            await self._received.wait_for(lambda: len(self.requests) >= count)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of its own: asyncio complains of its tasks when they are cancelled.
        self._serving.add(asyncio.create_task(self._serve(reader, writer), name="callback"))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append(Received(line, headers, body))
            async with self._received:
                self._received.notify_all()
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            await answer(writer)


def status(code: int, body: bytes = b"", *headers: str) -> Answering:
    """Answer as a server does that works."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = (f"HTTP/1.1 {code} Because", *headers, f"Content-Length: {len(body)}", "", "")
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return answer


def raw(data: bytes) -> Answering:
    """Answer with these bytes, and close the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def never(writer: asyncio.StreamWriter) -> None:
    """Take the request and say nothing for as long as it is waited for."""
    await writer.wait_closed()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte of an endless answer again and again."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Send an answer without end, as fast as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()
