"""The connection to a server that comes and goes."""

import asyncio

import uvloop

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus


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
