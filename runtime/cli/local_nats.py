"""The NATS server of a local run: one that is there already, or a child of this process that is kept running."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.bus.embedded import EmbeddedServer, find_binary
from runtime.children import describe_exit
from runtime.errors import ServerError

log = logging.getLogger(__name__)

# Seconds before a server that has ended is started again; doubled with every failure, up to the maximum.
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0


@asynccontextmanager
async def embedded_nats(store: Path, *, port: int = 0) -> AsyncIterator[EmbeddedServer]:
    """Start a server on the store, and stop it at the end; port 0 is a free one. Raises ServerError."""
    binary = await asyncio.to_thread(find_binary, os.environ.get("KRT_NATS_SERVER_BIN", ""))
    server = EmbeddedServer(store, binary=binary, port=port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def keep_running(server: EmbeddedServer) -> None:
    """Start the server again whenever it ends, with its port and its data; its clients wait meanwhile."""
    delay_s = FIRST_DELAY_S
    while True:
        if server.is_running():
            exit_code = await server.wait_for_exit()
            how = describe_exit(exit_code)
            log.error("the NATS server ended with %s and is started again; its log: %s", how, server.log_path)
        await asyncio.sleep(delay_s)
        try:
            await server.start()
            delay_s = FIRST_DELAY_S
        except ServerError as error:
            delay_s = min(2 * delay_s, MAX_DELAY_S)
            log.error("%s", error)
