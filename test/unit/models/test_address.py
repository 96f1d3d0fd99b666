"""The address of a cluster's server, from a host and a port; listeners are sockets of the test's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from runtime.errors import BusUnavailableError, InvalidCoordinatorUsageError
from runtime.models import address
from runtime.models.address import find_server
from test.support.actions import actions
from test.support.ports import free_port


@contextlib.asynccontextmanager
async def listener(greeting: bytes, *, hangs_up: bool = False, port: int = 0) -> AsyncIterator[int]:
    """Listen on a port, which is returned, say `greeting` to whoever comes, and see somebody go before the end."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if not hangs_up:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        left.release()

    left = asyncio.Semaphore(0)
    port = port or free_port()
    async with await asyncio.start_server(greet, "127.0.0.1", port):
        yield port
        async with asyncio.timeout(5):
            await left.acquire()


@pytest.mark.parametrize(
    ("host", "port", "found"),
    [
        ("nats://a", 4222, "nats://a:4222"),
        ("tls://a:1", 4222, "tls://a:1"),
        ("ws://a/", 8000, "ws://a:8000"),
        ("wss://a/nats", 443, "wss://a:443/nats"),
        ("wss://a", None, "wss://a"),
        (" nats://ada:s%40b@a ", 1, "nats://ada:s%40b@a:1"),
        ("nats://::1", 1, "nats://[::1]:1"),
        ("nats://[::1]", 1, "nats://[::1]:1"),
        ("nats://[::1]:2", 1, "nats://[::1]:2"),
    ],
)
async def test_a_scheme_is_kept_and_nobody_is_asked(host: str, port: int | None, found: str) -> None:
    assert await find_server(host, port) == found


@pytest.mark.parametrize(
    ("host", "port"),
    [("http://a", 1), ("", 1), ("nats://", 1), ("a", None), ("a", 70_000), ("a", 0), ("nats://a:x", None)],
)
async def test_what_is_no_address_is_refused(host: str, port: int | None) -> None:
    with pytest.raises(InvalidCoordinatorUsageError):
        await find_server(host, port)


async def test_a_wrong_address_does_not_show_a_password() -> None:
    with pytest.raises(InvalidCoordinatorUsageError) as refused:
        await find_server("nats://ada:secret@a:x")

    assert "secret" not in str(refused.value)


async def test_a_listener_that_greets_as_nats_does_is_one_for_tcp() -> None:
    async with listener(b'INFO {"server_id":"x"}\r\n') as port:
        assert await find_server("127.0.0.1", port) == f"nats://127.0.0.1:{port}"
        assert await find_server(f"ada:pw@127.0.0.1:{port}") == f"nats://ada:pw@127.0.0.1:{port}"


@pytest.mark.parametrize(("secure", "scheme"), [(False, "ws"), (True, "wss")])
async def test_a_listener_that_is_silent_is_one_for_websockets(
    monkeypatch: pytest.MonkeyPatch, secure: bool, scheme: str
) -> None:
    monkeypatch.setattr(address, "INFO_TIMEOUT_S", 0.05)
    async with listener(b"") as port:
        assert await find_server("127.0.0.1", port, secure=secure) == f"{scheme}://127.0.0.1:{port}"


@pytest.mark.parametrize("greeting", [b"", b"INF", b"220 mail ready\r\n"])
async def test_one_that_says_something_else_is_left_to_the_attempt_to_connect(greeting: bytes) -> None:
    async with listener(greeting, hangs_up=True) as port:
        assert await find_server("127.0.0.1", port) == f"ws://127.0.0.1:{port}"


async def test_a_listener_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "RETRY_S", 0.01)
    port = free_port()

    with actions() as logged:
        finding = asyncio.create_task(find_server("127.0.0.1", port))
        await logged.wait_for("wait-nats")

    async with listener(b"INFO {}\r\n", port=port), asyncio.timeout(5):
        assert await finding == f"nats://127.0.0.1:{port}"


async def test_a_listener_that_never_comes_is_given_up() -> None:
    port = free_port()

    with pytest.raises(BusUnavailableError, match=f"nothing listens on 127.0.0.1:{port}"):
        await find_server("127.0.0.1", port, limit_s=0.1)
