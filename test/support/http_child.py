"""An HTTP driver as a process that a test can kill: `python -m test.support.http_child SERVER STREAM NODE`.

Prints the port once it accepts connections, and runs until it is ended.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.bus.nats import NatsBus
from runtime.children import die_with_parent
from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.drivers.inference import WorkflowView
from runtime.spec import names
from test.support.http import serving


@asynccontextmanager
async def http_child(server: str, stream: str, node: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start the process, and yield it with its port; it is killed at the end."""
    command = (sys.executable, "-m", "test.support.http_child", server, stream, node)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, preexec_fn=die_with_parent())
    try:
        assert child.stdout is not None
        yield child, int(await child.stdout.readline())
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def serve(server: str, stream: str, node: str) -> None:
    bus = await NatsBus.connect([server], name="driver")
    view = WorkflowView(name="echo", stream=stream, output_subjects=(names.node_subject(stream, node),))
    async with serving(FastAPIDriver, bus, view=view) as web:
        print(web.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
