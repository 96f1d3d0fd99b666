"""Answers bare requests with plain nats-py: `python -m test.bench.peers.echo_service SERVER SUBJECT`."""

import asyncio
import os
import signal
import sys

import nats
import uvloop
from nats.aio.msg import Msg


async def main(server: str, subject: str) -> None:
    """Answer every request with its own body until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    client = await nats.connect(server)

    async def answer(request: Msg) -> None:
        await request.respond(request.data)

    await client.subscribe(subject, cb=answer)
    await client.flush()
    os.write(int(os.environ["KRT_READY_FD"]), b"ready\n")
    await stopped.wait()
    await client.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
