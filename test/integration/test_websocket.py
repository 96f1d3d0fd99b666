"""NATS over WebSocket: what goes through it, what ends it, and every way to be refused, beside those over TCP."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Bus, CoreMessage, StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import AccessError, BusUnavailableError, SettingsError
from runtime.models.address import find_server
from runtime.models.credentials import SecureCredentials
from test.support.certificates import Authority, folder_with, tls_options
from test.support.ports import free_port

pytest.importorskip("aiohttp", reason="the package aiohttp is not installed")

StartServer = Callable[..., EmbeddedServer]

PASSWORD = "correct-horse"
USERS = {"users": [{"user": "ada", "password": PASSWORD}]}
PAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 10.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "pki")


def start_websocket(
    start: StartServer, tls: dict[str, Any] | None = None, **options: Any
) -> tuple[EmbeddedServer, str]:
    """Start a server, with TLS on both its ports if given; return it and its address for WebSockets."""
    port = free_port()
    listener: dict[str, Any] = {"host": "127.0.0.1", "port": port, **(tls or {"no_tls": True})}
    server = start(websocket=listener, **(tls or {}), **options)
    return server, f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"


async def connect(address: str, credentials: Path | None = None, limit_s: float = 3.0) -> NatsBus:
    return await NatsBus.connect(
        [address], name="test", credentials=credentials, request_timeout_s=2.0, limit_s=limit_s
    )


async def echo(bus: Bus, sizes: list[int]) -> list[int]:
    """Send messages of these sizes from the bus to itself, all at once; return the sizes that arrive."""
    arrived: list[int] = []
    done = asyncio.Event()

    def take(message: CoreMessage) -> None:
        arrived.append(len(message.data))
        if len(arrived) == len(sizes):
            done.set()

    subscription = await bus.subscribe("echo", take)
    for size in sizes:
        bus.send("echo", b"x" * size, headers={"Krt-Test": "1"})
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    await subscription.unsubscribe()
    return arrived


# --- what goes through ---


async def test_messages_of_all_sizes_go_through_in_their_order(start_nats_server: StartServer) -> None:
    _, address = start_websocket(start_nats_server)
    sizes = [0, 1, 125, 126, 65_535, 65_536, 1_000_000] * 20
    bus = await connect(address)

    assert await echo(bus, sizes) == sizes
    await bus.close()


async def test_jetstream_and_object_stores_work(start_nats_server: StartServer) -> None:
    _, address = start_websocket(start_nats_server)
    bus = await connect(address)
    await bus.ensure_stream(StreamConfig(name="s", subjects=("s",)))
    publisher = bus.publisher("s")
    confirmed: list[object] = []

    for number in range(1_000):
        await publisher.publish("s", b"x" * 1_000, message_id=str(number), confirm=confirmed.append)
    await publisher.flush()

    assert confirmed == [None] * 1_000
    assert (await bus.stream_state("s")).messages == 1_000
    await publisher.close()
    await bus.close()


async def test_it_survives_a_restart_of_the_server(start_nats_server: StartServer) -> None:
    server, address = start_websocket(start_nats_server)
    bus = await connect(address)
    back = asyncio.Event()
    bus._connection.listen(on_disconnect=lambda: None, on_reconnect=back.set)

    server.kill()
    server.start_blocking()

    async with asyncio.timeout(PATIENCE_S):
        await back.wait()
    assert await echo(bus, [10, 100_000]) == [10, 100_000]
    await bus.close()


@pytest.mark.parametrize("has_tls", [False, True])
async def test_another_server_of_the_cluster_takes_over(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path, has_tls: bool
) -> None:
    tls = tls_options(authority) if has_tls else None
    ports = [free_port(), free_port()]
    routes = [f"nats://127.0.0.1:{port}" for port in ports]
    clusters = [{"name": "c", "listen": f"127.0.0.1:{port}", "routes": routes} for port in ports]
    first, address = start_websocket(start_nats_server, tls, server_name="first", cluster=clusters[0])
    start_websocket(start_nats_server, tls, server_name="second", cluster=clusters[1])
    folder = folder_with(tmp_path / "c", ca_crt=authority.certificate) if has_tls else None
    bus = await connect(address.replace("127.0.0.1", "localhost"), folder)
    back = asyncio.Event()
    bus._connection.listen(on_disconnect=lambda: None, on_reconnect=back.set)
    async with asyncio.timeout(PATIENCE_S):
        while bus._connection.server_count < 2:  # noqa: ASYNC110 - nobody announces what the server tells
            await asyncio.sleep(0.01)

    first.kill()

    async with asyncio.timeout(PATIENCE_S):
        await back.wait()
    assert await echo(bus, [10, 100_000]) == [10, 100_000]
    await bus.close()


async def test_a_bus_whose_server_is_gone_closes_at_once(start_nats_server: StartServer) -> None:
    server, address = start_websocket(start_nats_server)
    bus = await connect(address)
    away = asyncio.Event()
    bus._connection.listen(on_disconnect=away.set, on_reconnect=lambda: None)
    server.kill()
    async with asyncio.timeout(PATIENCE_S):
        await away.wait()

    started_s = time.monotonic()
    await bus.close()

    assert time.monotonic() - started_s < 3.0


async def test_a_bus_whose_server_is_frozen_closes_soon(start_nats_server: StartServer) -> None:
    server, address = start_websocket(start_nats_server)
    bus = await connect(address)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        await bus.close()

        # 2 s for the flush that nobody answers, 1 s for the farewell.
        assert time.monotonic() - started_s < 5.0
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_server_that_is_not_there_yet_is_waited_for(start_nats_server: StartServer) -> None:
    with pytest.raises(BusUnavailableError, match="no NATS server answers at ws://127"):
        await connect(f"ws://127.0.0.1:{free_port()}", limit_s=1.0)


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", port):
        with pytest.raises(BusUnavailableError):
            await connect(f"ws://127.0.0.1:{port}", limit_s=1.0)


# --- who is let in ---


def full_folder(folder: Path, authority: Authority, **changes: str | Path) -> Path:
    certificate, key = authority.sign("client")
    files: dict[str, str | Path] = {
        "ca_crt": authority.certificate,
        "tls_crt": certificate,
        "tls_key": key,
        "user": "ada",
        "password": PASSWORD,
    }
    return folder_with(folder, **(files | changes))


@pytest.fixture(params=["tls", "wss"])
def guarded(request: pytest.FixtureRequest, start_nats_server: StartServer, authority: Authority) -> Iterator[str]:
    """The address, over TCP and over WebSocket, of a server that wants a certificate and a user."""
    server, address = start_websocket(start_nats_server, tls_options(authority, verify=True), authorization=USERS)
    yield address if request.param == "wss" else f"tls://127.0.0.1:{server.port}"


async def refusal_of(address: str, credentials: Path | None = None) -> str:
    """Return the text of a refusal, which has to come at once: no waiting helps."""
    started_s = time.monotonic()
    with pytest.raises(AccessError) as refused:
        await connect(address, credentials)
    assert time.monotonic() - started_s < 2.5
    assert PASSWORD not in str(refused.value)
    return str(refused.value)


async def test_a_certificate_and_a_user_let_in(guarded: str, authority: Authority, tmp_path: Path) -> None:
    bus = await connect(guarded, full_folder(tmp_path / "c", authority))

    assert await echo(bus, [10, 500_000]) == [10, 500_000]
    await bus.close()


async def test_a_coordinator_needs_only_host_port_and_folder(
    guarded: str, authority: Authority, tmp_path: Path
) -> None:
    port = int(guarded.rpartition(":")[2])
    credentials = SecureCredentials.from_directory(full_folder(tmp_path / "c", authority))

    bus = await connect(await find_server("127.0.0.1", port, secure=True), credentials.path)

    assert await echo(bus, [1]) == [1]
    await bus.close()


async def test_a_client_without_credentials_is_told_that_the_server_asks_for_tls(guarded: str) -> None:
    assert "the server asks for TLS: put the certificate of its authority into" in await refusal_of(guarded)


async def test_a_foreign_authority_is_told(guarded: str, authority: Authority, tmp_path: Path) -> None:
    other = Authority.make(tmp_path / "other")
    folder = full_folder(tmp_path / "c", authority, ca_crt=other.certificate)

    assert "is not of the authority that signed the server's certificate" in await refusal_of(guarded, folder)


async def test_a_certificate_of_a_foreign_authority_is_refused(
    guarded: str, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = Authority.make(tmp_path / "other").sign("client")
    folder = full_folder(tmp_path / "c", authority, tls_crt=certificate, tls_key=key)

    text = await refusal_of(guarded, folder)

    assert "unknown ca" in text and "signed by an authority that the server knows" in text


async def test_a_certificate_that_has_expired_is_refused(guarded: str, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("late", valid=PAST)
    folder = full_folder(tmp_path / "c", authority, tls_crt=certificate, tls_key=key)

    text = await refusal_of(guarded, folder)

    assert "certificate" in text and "put tls.crt and tls.key into" in text


async def test_a_client_without_a_certificate_is_refused(guarded: str, authority: Authority, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "c", ca_crt=authority.certificate, user="ada", password=PASSWORD)

    text = await refusal_of(guarded, folder)

    assert "certificate required" in text and "put tls.crt and tls.key into" in text


async def test_a_user_who_is_not_known_is_refused(guarded: str, authority: Authority, tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "c", authority, password="wrong-battery")

    text = await refusal_of(guarded, folder)

    assert "Authorization Violation" in text and "correct the user in the folder of credentials" in text
    assert "wrong-battery" not in text


async def test_the_user_of_an_address_is_used_and_not_shown(start_nats_server: StartServer) -> None:
    _, address = start_websocket(start_nats_server, authorization=USERS)
    bus = await connect(address.replace("://", f"://ada:{PASSWORD}@"))
    await bus.close()

    text = await refusal_of(address.replace("://", "://ada:wrong-battery@"))

    assert "wrong-battery" not in text and "***@127.0.0.1" in text


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_server_whose_certificate_has_expired_is_told(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    certificate, key = authority.sign("late", valid=PAST)
    options = {"tls": {"cert_file": str(certificate), "key_file": str(key)}}
    server, address = start_websocket(start_nats_server, options)
    folder = folder_with(tmp_path / "c", ca_crt=authority.certificate)

    text = await refusal_of(address if scheme == "wss" else f"tls://127.0.0.1:{server.port}", folder)

    assert "certificate has expired" in text and "renew the server's certificate" in text


# --- the wrong way in ---


async def test_clear_words_to_a_listener_with_tls_are_told(
    start_nats_server: StartServer, authority: Authority
) -> None:
    _, address = start_websocket(start_nats_server, tls_options(authority))

    assert "use wss:// if the listener has TLS" in await refusal_of(address.replace("wss:", "ws:"))


async def test_tls_to_a_listener_without_it_is_told(start_nats_server: StartServer) -> None:
    _, address = start_websocket(start_nats_server)

    assert "does not speak TLS; use ws://" in await refusal_of(address.replace("ws:", "wss:"))


async def test_a_websocket_to_the_port_for_tcp_is_told(start_nats_server: StartServer) -> None:
    server = start_nats_server()

    assert "nats:// or tls:// if it is not one for WebSockets" in await refusal_of(f"ws://127.0.0.1:{server.port}")


async def test_credentials_are_not_sent_in_clear_where_tls_is_asked_for(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    server, address = start_websocket(start_nats_server, authorization=USERS, trace=True, debug=True)

    assert "TLS" in await refusal_of(address, full_folder(tmp_path / "c", authority))

    assert "CONNECT" not in server.log_tail(1_000)


async def test_websockets_beside_other_addresses_are_refused() -> None:
    with pytest.raises(SettingsError, match="all ws:// or wss://, or none of them"):
        await NatsBus.connect(["ws://a", "nats://b"], name="test")


async def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"ws://\*\*\*@a needs aiohttp: pip install 'krt-runtime\[websocket\]'"):
        await NatsBus.connect(["ws://ada:secret@a"], name="test")
