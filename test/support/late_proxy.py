"""A way to a nats-server on which everything arrives late that the server sends; what a client sends does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from test.support.ports import free_port

Chunk = tuple[float, bytes]


class LateProxy:
    """Forwards TCP connections, and hands on the server's bytes `delay_s` seconds after they came, in their order."""

    def __init__(self, server_url: str, delay_s: float) -> None:
        self._target_port = urlsplit(server_url).port
        self._delay_s = delay_s
        self._port = free_port()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LateProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        try:
            yield self
        finally:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer), name="late connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        late: asyncio.Queue[Chunk] = asyncio.Queue()
        ways = (_copy(client, to_server), self._collect(server, late), _hand_on(late, to_client))
        tasks = [asyncio.create_task(way, name="late way") for way in ways]
        try:
            # The end of one way is the end of the connection.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in (to_client, to_server):
                writer.transport.abort()

    async def _collect(self, server: asyncio.StreamReader, late: asyncio.Queue[Chunk]) -> None:
        while data := await server.read(65_536):
            late.put_nowait((asyncio.get_running_loop().time() + self._delay_s, data))


async def _hand_on(late: asyncio.Queue[Chunk], to_client: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, data = await late.get()
        await asyncio.sleep(due_s - loop.time())
        to_client.write(data)
        await to_client.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
