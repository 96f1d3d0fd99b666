"""Workflows under the permissions that `krt permissions` prints: they run, and what is not theirs is refused."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from runtime.bus.base import Confirmation, ConsumerConfig, StreamConfig
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_service import read_manager_spec
from runtime.deploy.plan import Target, plan
from runtime.errors import AccessError, BusError
from runtime.spec import names
from runtime.spec.load import load
from test.support.actions import actions
from test.support.guarded_nats import ROOT, GuardedServer, environment, guarded_server, krt
from test.support.run_process import RunProcess

EXAMPLES = sorted(path.parent for path in (ROOT / "workflows").glob("*/workflow.yaml"))

WORKFLOW = """
name: {name}
config: {{greeting: hello}}
nodes:
  - {{name: first, handler: first.py, retry: {{attempts: 3, first: 50ms}}}}
  - {{name: second, handler: second.py}}
drivers:
  asks: {{class: "own:Asks"}}
  web: http
"""
OWN = """
from runtime.drivers import PipelineDriver

class Asks(PipelineDriver):
    def run(self, inference, resources):
        print("the driver got", inference.predict({"number": 1}).result(), flush=True)
        inference.stopping.wait()

    def stop(self): ...
"""
FIRST = """
async def handler(ctx, data: dict):
    if ctx.attempt == 1:
        raise ValueError("once")
    if data.get("bad"):
        raise ValueError("always")
    await ctx.db.save("seen", data)
    await ctx.configuration.set("last", str(data["number"]))
    greeting = await ctx.configuration.get("greeting")
    return {**data, "greeting": greeting, "project": await value(ctx)}

async def value(ctx):
    try:
        return await ctx.configuration.get("shared", "project")
    except Exception:
        return "none"
"""
SECOND = """
async def handler(ctx, data: dict):
    return data
"""


def write_workflow(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW.format(name=name))
    (folder / "first.py").write_text(FIRST)
    (folder / "second.py").write_text(SECOND)
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture
def workflows(tmp_path: Path) -> list[Path]:
    return [write_workflow(tmp_path / name, name) for name in ("mine", "theirs")]


@pytest.fixture
async def server(
    tmp_path: Path, nats_server_binary: Path, workflows: list[Path]
) -> AsyncIterator[tuple[GuardedServer, Path]]:
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, workflows)
    await guarded.start()
    yield guarded, credentials
    await guarded.stop()
    print(f"log of the nats-server:\n{guarded.log_tail(lines=50)}")


# --- allowed ---


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_the_server_accepts_what_is_printed(folder: Path, tmp_path: Path, nats_server_binary: Path) -> None:
    guarded, _ = guarded_server(tmp_path, nats_server_binary, [folder])

    checked = subprocess.run(
        [nats_server_binary, "-t", "-c", guarded._configuration], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_without_a_folder_passwords_are_variables_of_the_servers_environment(
    workflows: list[Path], tmp_path: Path, nats_server_binary: Path
) -> None:
    printed = krt(tmp_path, "permissions", str(workflows[0]))
    configuration = tmp_path / "permissions.conf"
    configuration.write_text(printed.stdout)

    variables = [f"PASSWORD_local_dev_mine_{name}" for name in ("first", "second")]
    others = ("manager", "writer", "driver_asks", "driver_web", "client", "drivers", "operator")
    variables += [f"PASSWORD_local_dev_mine_krt_{name}" for name in others]
    checked = subprocess.run(
        [nats_server_binary, "-t", "-c", configuration],
        env=environment(**dict.fromkeys(variables, "secret")),
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


@pytest.mark.timeout(120)
async def test_a_workflow_runs_under_its_permissions(
    server: tuple[GuardedServer, Path], workflows: list[Path], tmp_path: Path
) -> None:
    guarded, credentials = server
    client = credentials / "local_dev_mine" / "krt.client"
    operator = credentials / "local_dev_mine" / "krt.operator"
    run = await RunProcess.start(
        tmp_path, str(workflows[0]), "--nats", guarded.url, KRT_NATS_CREDENTIALS=str(credentials)
    )
    try:
        await run.wait_for("ready in")
        sent = await asyncio.to_thread(krt, tmp_path, "send", "mine", '{"number": 7}', KRT_NATS_CREDENTIALS=str(client))
        bad = await asyncio.to_thread(
            krt, tmp_path, "send", "mine", '{"number": 8, "bad": true}', KRT_NATS_CREDENTIALS=str(client)
        )
        status = await asyncio.to_thread(krt, tmp_path, "--nats-credentials", str(client), "status", "--json")
        drivers = await asyncio.to_thread(krt, tmp_path, "driver", "ls", "mine", KRT_NATS_CREDENTIALS=str(client))
        removed = await asyncio.to_thread(
            krt, tmp_path, "driver", "rm", "mine", "asks", KRT_NATS_CREDENTIALS=str(client)
        )
        letters = await asyncio.to_thread(krt, tmp_path, "dlq", "ls", KRT_NATS_CREDENTIALS=str(operator))
        redriven = await asyncio.to_thread(krt, tmp_path, "dlq", "redrive", "--all", KRT_NATS_CREDENTIALS=str(operator))
    finally:
        code = await run.stop()

    assert json.loads(sent.stdout) == {"number": 7, "greeting": "hello", "project": "none"}, sent.stderr
    assert bad.returncode != 0 and "always" in bad.stderr
    assert status.returncode == 0, status.stderr
    assert "running" in drivers.stdout, drivers.stderr
    assert removed.returncode == 0, removed.stderr
    assert any("the driver got {'number': 1" in line for line in run.lines)
    assert letters.returncode == 0 and "first" in letters.stdout, letters.stderr
    assert redriven.returncode == 0, redriven.stderr
    assert code == 0
    assert "Violation" not in guarded.log_tail(lines=2_000)
    assert [line for line in run.lines if "forbids" in line] == []


async def test_a_node_without_credentials_ends_as_wrongly_configured(
    server: tuple[GuardedServer, Path], workflows: list[Path], tmp_path: Path
) -> None:
    run = await RunProcess.start(tmp_path, str(workflows[0]), "--nats", server[0].url)
    try:
        line = await run.wait_for("does not let us in")
    finally:
        await run.stop()

    assert "Authorization Violation" in line and "KRT_NATS_CREDENTIALS" in line


# --- refused ---

STREAM, THEIRS = "local_dev_mine", "local_dev_theirs"
# Stores that no process of these tests opens.
NOWHERE = "sqlite:///nowhere.db"

Attempt = Callable[[NatsBus], Awaitable[object]]


async def _publish(bus: NatsBus, stream: str, subject: str) -> None:
    publisher = bus.publisher(stream, give_up_s=0.3)
    stored = Confirmation()
    try:
        await publisher.publish(subject, b"x", message_id="1", confirm=stored)
        await stored
    finally:
        await publisher.close()


async def _read(bus: NatsBus, stream: str, durable: str, subject: str, *, create: bool = False) -> None:
    reader = bus.reader(ConsumerConfig(stream=stream, durable=durable, filter_subjects=(subject,)), create=create)
    try:
        await reader.start()
    finally:
        await reader.close()


async def _write(bus: NatsBus, bucket: str) -> None:
    await (await bus.key_value(bucket)).put("key", b"x")


REFUSED: dict[str, Attempt] = {
    "reads another workflow's stream": lambda bus: _read(bus, THEIRS, "first__entrypoint", f"{THEIRS}.entrypoint"),
    "makes a consumer of another workflow": lambda bus: _read(bus, THEIRS, "spy", f"{THEIRS}.>", create=True),
    "makes a consumer of its own stream": lambda bus: _read(bus, STREAM, "spy", f"{STREAM}.>", create=True),
    "reads the consumer of another node": lambda bus: _read(bus, STREAM, "second__first", f"{STREAM}.first"),
    "reads a message of another workflow": lambda bus: bus.get_message(THEIRS, 1),
    "reads any message of its own": lambda bus: bus.get_message(STREAM, 1),
    "listens to another workflow": lambda bus: bus.subscribe(f"{THEIRS}.>", print),
    "listens to everything": lambda bus: bus.subscribe(">", print),
    "reads answers of the client": lambda bus: bus.subscribe(f"{names.inbox_prefix(STREAM, names.CLIENT)}.>", print),
    "publishes for another workflow": lambda bus: _publish(bus, THEIRS, f"{THEIRS}.entrypoint"),
    "publishes for another node": lambda bus: _publish(bus, STREAM, f"{STREAM}.second"),
    "publishes requests": lambda bus: _publish(bus, STREAM, f"{STREAM}.entrypoint"),
    "writes another workflow's configuration": lambda bus: _write(bus, "key-store_local_dev_theirs"),
    "writes another node's configuration": lambda bus: _write(bus, "key-store_local_dev_mine_second"),
    "writes the project's configuration": lambda bus: _write(bus, "key-store_local_dev"),
    "purges its stream": lambda bus: bus.purge(STREAM, below=10),
    "changes its stream": lambda bus: bus.ensure_stream(StreamConfig(name=STREAM, subjects=(f"{STREAM}.>", "more"))),
    "deletes a message": lambda bus: bus.delete_message(STREAM, 1),
    "deletes its consumer": lambda bus: bus.delete_consumer(STREAM, "first__entrypoint"),
}


@pytest.fixture
async def deployed(server: tuple[GuardedServer, Path], workflows: list[Path]) -> None:
    """Make what the managers of both workflows make on NATS, with their credentials."""
    guarded, credentials = server
    for folder in workflows:
        target = Target(nats_servers=(guarded.url,), mongo_uri=NOWHERE, influx_uri=NOWHERE, base_path=str(folder))
        [manager] = [process for process in plan(load(folder), target) if process.name == "krt.manager"]
        spec = read_manager_spec(manager.environment["KRT_MANAGER_SPEC"])
        bus = await NatsBus.connect([guarded.url], name="manager", credentials=credentials / spec.stream / manager.name)
        await Manager(bus, spec, SystemClock()).apply()
        await bus.close()


@pytest.mark.timeout(120)
async def test_a_node_may_do_nothing_but_its_own_and_every_attempt_is_logged(
    server: tuple[GuardedServer, Path], deployed: None
) -> None:
    guarded, credentials = server
    bus = await NatsBus.connect(
        [guarded.url], name="first", credentials=credentials / STREAM / "first", request_timeout_s=0.3
    )

    granted = []
    for what, attempt in REFUSED.items():
        with actions() as logged:
            try:
                await attempt(bus)
                granted.append(what)
            except BusError:
                await logged.wait_for("nats-refused")

    assert granted == []
    assert guarded.log_tail(lines=2_000).count("Violation") >= len(REFUSED)
    await bus.close()


@pytest.mark.timeout(120)
async def test_what_a_start_needs_and_is_forbidden_fails_it_at_once(
    server: tuple[GuardedServer, Path], deployed: None
) -> None:
    guarded, credentials = server
    bus = await NatsBus.connect(
        [guarded.url], name="second", credentials=credentials / STREAM / "second", request_timeout_s=0.3
    )

    with pytest.raises(AccessError, match=r"consumer\.info.*krt permissions"):
        await _read(bus, STREAM, "first__entrypoint", f"{STREAM}.entrypoint")
    with pytest.raises(AccessError, match="krt permissions"):
        await bus.subscribe(f"{STREAM}.>", print)
    await bus.close()
