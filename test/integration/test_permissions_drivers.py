"""The examples with a driver of ours, under the permissions that `krt permissions` prints, on a real nats-server."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import httpx
import pytest

from runtime.bus.base import Confirmation
from runtime.bus.nats import NatsBus
from runtime.errors import BusError
from runtime.spec import names
from test.support.actions import actions
from test.support.guarded_nats import ROOT, GuardedServer, guarded_server
from test.support.rpc_reflection import call
from test.support.run_process import RunProcess

pytestmark = pytest.mark.timeout(120)

GREETER, DIGITS, ALGORITHMS = (ROOT / "workflows" / name for name in ("greeter", "digits", "algorithms"))
# Seconds that an answer may take: the model of the digits is trained meanwhile.
PATIENCE_S = 30.0


class GuardedRun:
    """A workflow that runs under its permissions."""

    def __init__(self, folder: Path, server: GuardedServer, credentials: Path, run: RunProcess) -> None:
        self.stream = names.stream("local", "dev", folder.name)
        self.run = run
        self._server = server
        self._credentials = credentials / self.stream

    async def publish_as(self, process: str, subject: str) -> tuple[bool, bool]:
        """Return whether a message was stored, and whether our log tells that NATS forbids it."""
        bus = await NatsBus.connect(
            [self._server.url], name=process, credentials=self._credentials / process, request_timeout_s=0.3
        )
        publisher = bus.publisher(self.stream, give_up_s=0.3)
        stored = Confirmation()
        with actions() as logged:
            try:
                await publisher.publish(subject, b"x", message_id=f"{process}-{subject}", confirm=stored)
                await stored
                return True, False
            except BusError:
                await logged.wait_for("nats-refused")
                return False, True
            finally:
                await publisher.close()
                await bus.close()

    def violations(self) -> list[str]:
        """Return what the server says that it has refused."""
        return [line for line in self._server.log_tail(lines=2_000).splitlines() if "Violation" in line]

    def complaints(self) -> list[str]:
        """Return the lines of the workflow's processes that tell of something forbidden."""
        return [line for line in self.run.lines if "forbids" in line]


StartRun = Callable[[Path], Awaitable[GuardedRun]]


@pytest.fixture
async def start_run(tmp_path: Path, nats_server_binary: Path) -> AsyncIterator[StartRun]:
    """Run an example on a server of its own; it has to stop in order behind the test."""
    started: list[tuple[GuardedServer, RunProcess]] = []

    async def start(folder: Path) -> GuardedRun:
        server, credentials = guarded_server(tmp_path, nats_server_binary, [folder])
        await server.start()
        run = await RunProcess.start(tmp_path, str(folder), "--nats", server.url, KRT_NATS_CREDENTIALS=str(credentials))
        started.append((server, run))
        return GuardedRun(folder, server, credentials, run)

    yield start
    for server, run in started:
        try:
            assert await run.stop() == 0
        finally:
            print("\n".join([*run.lines, "log of the nats-server:", server.log_tail(lines=50)]))
            await server.stop()


async def test_the_greeter_answers_over_grpc_and_what_is_not_its_own_is_refused_and_logged(
    start_run: StartRun,
) -> None:
    guarded = await start_run(GREETER)
    address = re.search(r"grpc://(\S+)", await guarded.run.wait_for("rpc: grpc://"))
    assert address is not None

    async with grpc.aio.insecure_channel(address[1]) as channel:
        answer = await call(channel, "greeter.Greeter", "Greet", {"name": "Ada", "language": "fr"})
    before = guarded.violations()
    stored_by_node = await guarded.publish_as("greet", names.entrypoint_subject(guarded.stream))
    stored_by_driver = await guarded.publish_as("krt.driver.rpc", names.node_subject(guarded.stream, "greet"))

    assert answer == {"greeting": "Bonjour, Ada !"}
    assert (before, guarded.complaints()) == ([], [])
    assert (stored_by_node, stored_by_driver) == ((False, True), (False, True))
    assert len(guarded.violations()) >= 2


async def test_the_digits_are_read_over_http_and_what_is_not_their_own_is_refused_and_logged(
    start_run: StartRun,
) -> None:
    guarded = await start_run(DIGITS)
    address = re.search(r"http://\S+", await guarded.run.wait_for("api: http://"))
    assert address is not None
    sample = json.loads((DIGITS / "sample.json").read_text())

    async with httpx.AsyncClient(base_url=address[0], timeout=PATIENCE_S) as client:
        read = await client.post("/predict", json=sample)
        accepted = await client.post("/tasks", json=sample)
        done = await client.get(accepted.headers["location"], params={"wait": f"{PATIENCE_S:g}s"})
    before = guarded.violations()
    stored_by_node = await guarded.publish_as("classify", names.node_subject(guarded.stream, "record"))
    stored_by_driver = await guarded.publish_as("krt.driver.api", names.node_subject(guarded.stream, "classify"))

    assert (read.status_code, read.json()["digit"]) == (200, "2"), read.text
    assert (done.status_code, done.json()["digit"]) == (200, "2"), done.text
    assert (before, guarded.complaints()) == ([], [])
    assert (stored_by_node, stored_by_driver) == ((False, True), (False, True))
    assert len(guarded.violations()) >= 2


async def test_algorithms_are_run_over_http_and_dispatched_under_their_permissions(start_run: StartRun) -> None:
    guarded = await start_run(ALGORITHMS)
    address = re.search(r"http://\S+", await guarded.run.wait_for("api: http://"))
    assert address is not None

    async with httpx.AsyncClient(base_url=address[0], timeout=PATIENCE_S) as http:
        direct = await http.post("/run/count_words", json={"text": "plug and play"})
        job = {"algorithm": "count_words", "payload": {"text": "plug and play"}}
        dispatched = await http.post("/predict", json=job)

    assert direct.json() == {"result": 3}
    assert dispatched.json()["result"] == 3
    assert guarded.violations() == guarded.complaints() == []
