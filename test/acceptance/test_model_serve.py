"""`krt model serve` and `python -m runtime model` as processes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.presence import PresenceSet
from runtime.clock import SystemClock
from runtime.models import wire
from runtime.models.wire import HostState
from runtime.spec import names
from test.support.model_host import CLUSTER, MODEL_ID, PATIENCE_S, HostClient, write_model
from test.support.waiting import until_gone

DEPLOYMENT = "d1"


class HostProcess:
    """A host as a process of its own; what it prints goes to a file."""

    def __init__(self, process: asyncio.subprocess.Process, client: HostClient, log: Path) -> None:
        self.process = process
        self.client = client
        self.log = log

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def host_process(url: str, folder: Path, *arguments: str, **variables: str) -> AsyncIterator[HostProcess]:
    """Start a host and watch it; it may still be starting."""
    bus = await NatsBus.connect([url], name="coordinator")
    client = HostClient(bus, DEPLOYMENT)
    keys = names.model_presence_keys(CLUSTER)
    present = await PresenceSet.open(bus, names.PRESENCE_BUCKET, keys, SystemClock(), on_change=client.on_change)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
    log = folder / "host.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runtime", *arguments,
            env={**environment, "KRT_NATS_SERVER": url, **variables}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield HostProcess(process, client, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await present.close()
        await bus.close()
        print(await asyncio.to_thread(log.read_text))


def spec_of(folder: Path, **told: Any) -> str:
    """Return the JSON of a host's spec."""
    spec = {**write_model(folder), "deployment": DEPLOYMENT, **told}
    return json.dumps(spec, default=str)


async def test_a_host_serves_its_model_and_ends_in_order(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path)) as host:
        await host.client.until_state(HostState.RUNNING)
        await host.client.set_up()
        assert await host.client.call("tick", {}) == 1
        pid = await host.client.do("pid")

        host.process.send_signal(signal.SIGTERM)

        assert await host.exit_code() == 0
        await host.client.until_gone()
        await until_gone(pid)
        assert host.client.states[-3:] == ["stopping", "stopped", "gone"]


async def test_health_is_told_while_the_model_holds_the_interpreter(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path)) as host:
        await host.client.until_state(HostState.RUNNING)
        await host.client.set_up()
        spinning = asyncio.create_task(host.client.do("spin"))
        health = await host.client.tell(wire.HEALTH)
        while not health["busy_for_ms"]:
            health = await host.client.tell(wire.HEALTH)

        async with asyncio.timeout(1):
            for _ in range(20):
                assert (await host.client.tell(wire.HEALTH))["child_alive"]

        spinning.cancel()
        await asyncio.gather(spinning, return_exceptions=True)


async def test_a_host_that_is_killed_takes_its_model_along(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path)) as host:
        await host.client.until_state(HostState.RUNNING)
        await host.client.set_up()
        pid = await host.client.do("pid")

        host.process.kill()

        await until_gone(pid)
        await host.client.until_gone()


async def test_a_model_keeps_its_state_while_nats_is_away(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path)) as host:
        await host.client.until_state(HostState.RUNNING)
        await host.client.set_up()
        await host.client.call("tick", {})

        await asyncio.to_thread(nats_server.stop_blocking)
        await host.client.until_gone()
        await asyncio.to_thread(nats_server.start_blocking)
        await host.client.until_state(HostState.RUNNING)

        assert await host.client.call("tick", {}) == 2


async def test_a_reported_model_ends_with_a_code_of_its_own(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path)) as host:
        await host.client.until_state(HostState.RUNNING)

        await host.client.tell(wire.REPORT, failure_code="MULTIPLE_FAILED", failure_reason="three times")

        assert await host.exit_code() == 3


async def test_one_model_is_served_from_the_command_line(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    told = write_model(tmp_path)
    arguments = ("--cluster", CLUSTER, "--model-id", MODEL_ID, "--code", str(told["code"]), "--memory", "2Gi")
    variables = {"PYTHONPATH": told["environment"]["PYTHONPATH"]}
    async with host_process(nats_server.url, tmp_path, "model", "serve", *arguments, **variables) as host:
        host.client.deployment = ""
        record = await host.client.until_state(HostState.RUNNING)
        host.client.deployment = record.deployment
        assert await host.client.set_up() == ("SUCCESS", "")
        assert await host.client.do("print") == "printed"

        host.process.send_signal(signal.SIGINT)

        assert await host.exit_code() == 0
        assert "INFO tweet action=model-output" in await asyncio.to_thread(host.log.read_text)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"cluster": "Bird Game"}, "the 'KRT_MODEL_SPEC' env var is wrong at cluster"),
        ({"model_id": "a.b"}, "the 'KRT_MODEL_SPEC' env var is wrong at model_id"),
        ({"code": "/nowhere/at/all"}, "the folder /nowhere/at/all of model m1 is not there"),
    ],
)
async def test_a_wrong_spec_is_told_at_once(
    nats_server: EmbeddedServer, tmp_path: Path, told: dict[str, str], text: str
) -> None:
    async with host_process(nats_server.url, tmp_path, "model", KRT_MODEL_SPEC=spec_of(tmp_path, **told)) as host:
        assert await host.exit_code() == 2
        assert text in await asyncio.to_thread(host.log.read_text)
