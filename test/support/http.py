"""An HTTP driver in a test: hosted on a bus, with a client of plain HTTP and, where it matters, raw connections.

async with serving() as web:
    answer = await web.http.post("/predict", json={"a": 1})
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from runtime.bus.base import Bus
from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.drivers.inference import WorkflowView
from runtime.drivers.runner import DriverRunner
from test.support.drivers import WORKFLOW, hosted
from test.support.waiting import until

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 10.0
JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Web:
    """A running driver."""

    runner: DriverRunner
    http: httpx.AsyncClient
    port: int

    @property
    def driver(self) -> FastAPIDriver:
        made = self.runner._driver
        assert isinstance(made, FastAPIDriver)
        return made

    async def task(self, inputs: Any, **said: Any) -> str:
        """Start a task and return its id."""
        answer = await self.http.post("/tasks", json={"inputs": inputs, **said})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    async def send_raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and write to it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def serving(
    make: Callable[[], FastAPIDriver] = FastAPIDriver, bus: Bus | None = None, *, view: WorkflowView = WORKFLOW
) -> AsyncIterator[Web]:
    """Run a driver inside the block. bus: by default that of an echo workflow."""
    async with hosted(make, bus, view=view) as runner:
        await until(lambda: bool(runner.services))
        service = runner.services[0]
        url = f"{service.protocol}://127.0.0.1:{service.port}"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, verify=False) as http:
            yield Web(runner, http, service.port)


def predict_bytes(inputs: Any, *headers: str) -> bytes:
    """Return the bytes of a request to `/predict`."""
    body = json.dumps(inputs).encode()
    lines = ("POST /predict HTTP/1.1", "Host: test", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body
