"""Driver processes on a real NATS: killed, deaf, seen and controlled from another machine, and gone at the end."""

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.drivers.base import DriverState
from runtime.errors import BusClosedError, ConfigError, DriverStartError
from runtime.inference import InferenceProcess, Runtime, init
from test.support.sample_drivers import Counts, IgnoresStop, Waits
from test.support.threads import left_behind

COUNTER = Path(__file__).parents[1] / "conformance" / "drivers" / "counter"
# Seconds that something may take which happens by itself.
SOON_S = 30.0


@pytest.fixture
def runtime(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Runtime]:
    with init("nats", servers=nats_server.url, store=tmp_path / "store") as runtime:
        yield runtime


@pytest.fixture
def proc(runtime: Runtime) -> InferenceProcess:
    return runtime.start_inference(COUNTER)


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come"
        time.sleep(0.02)


def is_alive(os_pid: int) -> bool:
    try:
        os.kill(os_pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_driver_comes_back_under_its_pid_and_nobody_else_notices(proc: InferenceProcess) -> None:
    driver = proc.add_driver("killed", Waits)
    steady = proc.add_driver("steady", Counts, sid="s", predictions=200)
    before = driver.record.os_pid

    os.kill(before, signal.SIGKILL)
    wait_until(lambda: driver.record.os_pid != before and driver.state is DriverState.RUNNING)
    wait_until(lambda: steady.state is DriverState.FINISHED)

    assert driver == proc.get_driver("killed")
    assert driver.get_parameters().factor == 1.0


def test_a_driver_that_ignores_its_stop_is_ended_after_its_limit(proc: InferenceProcess) -> None:
    driver = proc.add_driver("deaf", IgnoresStop)
    os_pid = driver.record.os_pid

    started_s = time.monotonic()
    driver.stop()

    assert time.monotonic() - started_s < 20
    assert not is_alive(os_pid)
    assert proc.list_drivers() == []


def test_another_machine_lists_and_controls_the_drivers(proc: InferenceProcess, nats_server: EmbeddedServer) -> None:
    ours = proc.add_driver("shared", Waits)

    with init("nats", servers=nats_server.url) as elsewhere:
        attached = elsewhere.start_inference("counter")
        theirs = attached.get_driver("shared")
        theirs.set_parameters({"label": "far"})
        answer = attached.predict({"input": 1}, sid="far").result(SOON_S)
        service = theirs.get_service("echo")
        added = attached.add_driver("from-afar", Waits)
        wait_until(lambda: added in proc.list_drivers())
        theirs.stop()

        assert (theirs, answer["counter"]) == (ours, 1)
        assert service == {**service, "protocol": "tcp", "address": "127.0.0.1"}
    wait_until(lambda: proc.list_drivers() == [])
    assert ours.state is DriverState.STOPPED
    # The workflow itself is not theirs to stop.
    assert proc.predict({"input": 1}, sid="far").result(SOON_S)["counter"] == 2


def test_a_removed_driver_is_not_started_again(proc: InferenceProcess, nats_server: EmbeddedServer) -> None:
    driver = proc.add_driver("removed", Waits)
    os_pid = driver.record.os_pid

    with init("nats", servers=nats_server.url) as elsewhere:
        elsewhere.start_inference("counter").remove_driver(driver.pid)

    wait_until(lambda: not is_alive(os_pid))
    assert proc.add_driver("removed", Waits) != driver


def test_a_workflow_that_is_not_deployed_is_named(nats_server: EmbeddedServer) -> None:
    with (
        init("nats", servers=nats_server.url) as runtime,
        pytest.raises(ConfigError, match='no workflow "nobody" of runtime "local" is deployed; there are: none'),
    ):
        runtime.start_inference("nobody")


def test_arguments_that_are_no_json_are_refused(proc: InferenceProcess) -> None:
    with pytest.raises(DriverStartError, match="have to be JSON"):
        proc.add_driver("bad", Waits, object())

    assert proc.list_drivers() == []


@pytest.mark.parametrize("stop", ["process", "runtime"])
def test_nothing_is_left_behind(start_nats_server: Callable[..., EmbeddedServer], tmp_path: Path, stop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monitoring = f"127.0.0.1:{probe.getsockname()[1]}"
    server = start_nats_server(http=monitoring)
    threads = threading.enumerate()
    runtime = init("nats", servers=server.url, store=tmp_path / "store")
    proc = runtime.start_inference(COUNTER)
    drivers = [proc.add_driver("one", Waits), proc.add_driver("two", Counts, sid="s", predictions=5)]
    port = drivers[0].get_service("echo")["port"]
    os_pids = [driver.record.os_pid for driver in drivers]
    pending = proc.predict({"input": 1})

    (proc if stop == "process" else runtime).stop()

    assert [is_alive(os_pid) for os_pid in os_pids] == [False, False]
    assert looked_up(monitoring, "connz")["num_connections"] == 0
    # The server keeps the consumer of a watch for some seconds after its connection.
    wait_until(lambda: consumers(monitoring) == OWN_CONSUMERS)
    socket.create_server(("127.0.0.1", port)).close()
    assert pending.done()
    with pytest.raises(BusClosedError):
        proc.predict({"input": 1})
    runtime.stop()
    assert left_behind(threads) == []


# Durable consumers of the workflow, which the next start goes on with.
OWN_CONSUMERS = ["count_p0__entrypoint", "count_p1__entrypoint"]


def looked_up(monitoring: str, what: str) -> Any:
    with urllib.request.urlopen(f"http://{monitoring}/{what}", timeout=SOON_S) as answer:
        return json.load(answer)


def consumers(monitoring: str) -> list[str]:
    """Return every consumer of the server."""
    accounts = looked_up(monitoring, "jsz?consumers=true")["account_details"]
    streams = [stream for account in accounts for stream in account["stream_detail"]]
    return sorted(each["name"] for stream in streams for each in stream.get("consumer_detail") or ())
