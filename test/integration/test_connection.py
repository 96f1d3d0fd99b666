"""The connection to a server that comes and goes."""

import asyncio
import logging
import socket
from typing import Any

import pytest
import uvloop
from nats.aio.client import Client

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from test.support.waiting import until


def test_closing_while_nats_is_away_raises_nothing_under_uvloop(nats_server: EmbeddedServer) -> None:
    async def close_while_away() -> None:
        bus = await NatsBus.connect([nats_server.url], name="test")
        away = asyncio.Event()
        bus._connection.listen(on_disconnect=away.set, on_reconnect=away.clear)

        nats_server.kill()
        async with asyncio.timeout(10):
            await away.wait()
            # nats-py keeps the protocol lines of a subscription for after the reconnect.
            await bus._connection.client.subscribe("while.away")
            await bus._connection.client.publish("while.away", b"kept back")
            await bus.close()
            await bus.wait_closed()

    uvloop.run(close_while_away())


async def test_a_closed_bus_connects_no_more_though_the_cancellation_of_its_last_try_was_lost(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await NatsBus.connect([nats_server.url], name="test")
    trying = asyncio.Event()

    async def refuse_at_last(client: Any, server: Any) -> None:
        is_first = not trying.is_set()
        trying.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if is_first:
                raise ConnectionRefusedError from None
            raise

    monkeypatch.setattr(Client, "_connect_to_server", refuse_at_last)
    nats_server.kill()
    await asyncio.wait_for(trying.wait(), 10)
    await bus.close()

    _, going_on = await asyncio.wait([bus._connection.client._reconnection_task], timeout=5)
    assert not going_on


async def test_a_server_that_is_gone_is_told_once_and_that_it_is_back(
    nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "runtime.bus.connection")
    bus = await NatsBus.connect([nats_server.url], name="test")

    nats_server.kill()
    await until(lambda: [record.levelname for record in caplog.records].count("DEBUG") >= 2)
    await nats_server.start()
    await until(lambda: bus._connection.is_connected)
    await bus.close()

    told = [(record.levelname, getattr(record, "action", "")) for record in caplog.records]
    assert [each for each in told if each[0] != "DEBUG"] == [("WARNING", "disconnect"), ("INFO", "reconnect")]


async def test_a_reason_why_nats_does_not_come_back_is_told(
    nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_no_address(client: Any, server: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    caplog.set_level(logging.WARNING, "runtime.bus.connection")
    bus = await NatsBus.connect([nats_server.url], name="test")

    monkeypatch.setattr(Client, "_connect_to_server", find_no_address)
    nats_server.kill()
    await until(lambda: len(caplog.records) >= 2)
    await bus.close()

    told = [record.getMessage() for record in caplog.records]
    assert told == ["NATS is away; what runs goes on", "NATS: [Errno -2] Name or service not known"]
