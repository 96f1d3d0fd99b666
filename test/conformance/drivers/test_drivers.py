"""Drivers that come and go on a running workflow (D2-D4, D6-D8, D10), in memory and on NATS."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.drivers.base import DriverState
from runtime.drivers.process import PipelineDriverProcess
from runtime.errors import DriverExistsError, DriverNotFoundError, DriverStartError, InvalidParametersError
from runtime.inference import InferenceProcess, Runtime
from test.support.sample_drivers import Broken, Counts, Raises, Waits, make_waits

SERVED = Path(__file__).parent / "served"
# Seconds that something may take which happens by itself.
SOON_S = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a handle shows; it is told by the driver, so that there is nothing here to wait on."""
    end_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come"
        time.sleep(0.01)


def refs(proc: InferenceProcess) -> list[str]:
    return [driver.ref for driver in proc.list_drivers()]


def test_a_driver_is_added_found_listed_and_removed(proc: InferenceProcess) -> None:
    added = proc.add_driver("life", Waits)

    assert added == proc.get_driver("life") and added in proc.list_drivers()
    assert hash(added) == hash(proc.get_driver("life"))
    assert (added.ref, added.state) == ("life", DriverState.RUNNING)
    proc.remove_driver(added.pid)
    assert "life" not in refs(proc)
    assert added.state is DriverState.STOPPED


def test_any_callable_that_returns_a_driver_is_taken_with_its_arguments(proc: InferenceProcess) -> None:
    by_class, by_function = proc.add_driver("one", Waits, 2.0), proc.add_driver("two", make_waits, factor=3.0)

    assert by_class != by_function
    assert [driver.get_parameters().factor for driver in (by_class, by_function)] == [2.0, 3.0]
    by_class.stop()
    by_function.stop()


@pytest.mark.parametrize("unknown", ["nobody", "12345678"])
def test_a_driver_that_is_not_there_is_named(proc: InferenceProcess, unknown: str) -> None:
    for call in (proc.get_driver, proc.remove_driver):
        with pytest.raises(DriverNotFoundError, match=f'no driver "{unknown}"'):
            call(unknown)


def test_a_ref_is_free_again_after_the_removal_and_taken_until_then(proc: InferenceProcess) -> None:
    first = proc.add_driver("again", Waits)

    with pytest.raises(DriverExistsError, match="remove it first"):
        proc.add_driver("again", Waits)
    first.stop()
    second = proc.add_driver("again", Waits)
    assert second != first and second.state is DriverState.RUNNING
    with pytest.raises(DriverNotFoundError):
        first.stop()
    second.stop()


@pytest.mark.parametrize("ref", ["", "Web API", "a.b", "a" * 60])
def test_a_ref_is_a_name(proc: InferenceProcess, ref: str) -> None:
    with pytest.raises(DriverStartError, match="cannot be a ref"):
        proc.add_driver(ref, Waits)


def test_drivers_that_come_and_go_lose_no_message_of_another(proc: InferenceProcess, sid: str) -> None:
    driver = proc.add_driver("steady", Counts, sid=sid, predictions=100)

    for _ in range(3):
        proc.add_driver("passing", Waits).stop()
    wait_until(lambda: driver.state is not DriverState.RUNNING)

    assert (driver.state, driver.record.reason) == (DriverState.FINISHED, "")
    assert proc.predict({"input": 0}, sid=sid).result(SOON_S)["counter"] == 101
    driver.stop()


def test_a_service_is_listed_while_it_accepts_connections(proc: InferenceProcess) -> None:
    driver = proc.add_driver("served", Waits)

    service = driver.get_service("echo")
    place = service["taggedAddresses"]["wan"]
    socket.create_connection((place["address"], place["port"]), timeout=SOON_S).close()
    assert [each["name"] for each in driver.list_services()] == ["echo"]
    with pytest.raises(DriverNotFoundError, match='no service "http" now; it has none'):
        driver.stop()
        driver.get_service("http")

    assert driver.list_services() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place["address"], place["port"]), timeout=SOON_S)


def test_a_driver_without_a_service_lists_none(proc: InferenceProcess, sid: str) -> None:
    driver = proc.add_driver("plain", Counts, sid=sid, predictions=1)

    assert driver.list_services() == []
    driver.stop()


def test_parameters_are_read_and_set_live_and_wrong_ones_are_refused(proc: InferenceProcess) -> None:
    driver = proc.add_driver("tuned", Waits)

    parameters = driver.get_parameters()
    parameters.factor = 7
    driver.set_parameters(parameters)
    driver.set_parameters({"label": "left"})
    with pytest.raises(InvalidParametersError, match="factor: Input should be a valid number"):
        driver.set_parameters({"factor": "much", "label": "right"})
    with pytest.raises(InvalidParametersError, match="factor is below 0"):
        driver.set_parameters({"factor": -1})

    assert vars(driver.get_parameters()) == {"factor": 7.0, "label": "left"}
    driver.stop()


def instance() -> Any:
    return Waits()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Broken, "RuntimeError: no such camera"),
        (dict, "the callable returned dict, which is no PipelineDriver"),
        (instance(), "only the runtime makes drivers"),
    ],
)
def test_a_driver_that_cannot_start_says_why(proc: InferenceProcess, make: Any, reason: str) -> None:
    with pytest.raises(DriverStartError, match=reason):
        proc.add_driver("broken", make)

    assert all(reason in driver.record.reason for driver in proc.list_drivers() if driver.ref == "broken")
    assert proc.predict({"input": 1}).result(SOON_S)["output"] == 2


def test_a_failed_driver_stays_listed_with_its_reason_until_its_ref_is_used_again(proc: InferenceProcess) -> None:
    with pytest.raises(DriverStartError):
        proc.add_driver("listed", Broken)

    failed = proc.get_driver("listed")
    assert (failed.state, failed.record.reason) == (DriverState.FAILED, "RuntimeError: no such camera")
    assert "sample_drivers.py" in failed.record.traceback
    working = proc.add_driver("listed", Waits)
    assert [driver for driver in proc.list_drivers() if driver.ref == "listed"] == [working]
    working.stop()


def test_a_driver_whose_run_raises_is_listed_with_its_reason_and_made_anew(proc: InferenceProcess) -> None:
    driver = proc.add_driver("raises", Raises)

    wait_until(lambda: driver.record.restarts >= 2)
    assert driver.record.reason == "ConnectionError: the camera went away"
    assert proc.predict({"input": 1}).result(SOON_S)["output"] == 2
    driver.stop()


def test_a_driver_that_is_done_stays_listed_until_it_is_removed(proc: InferenceProcess, sid: str) -> None:
    driver = proc.add_driver("done", Counts, sid=sid, predictions=2)

    wait_until(lambda: driver.state is DriverState.FINISHED)
    assert driver in proc.list_drivers()
    proc.remove_driver(driver.pid)
    assert driver not in proc.list_drivers()


async def test_all_calls_have_forms_for_a_running_loop(proc: InferenceProcess) -> None:
    driver: PipelineDriverProcess = await proc.aadd_driver("awaited", Waits)

    async with asyncio.timeout(SOON_S):
        service = await driver.aget_service("echo")
        parameters = await driver.aget_parameters()
        await driver.aset_parameters({"factor": 2})
        await proc.aremove_driver(driver.pid)

    assert (service["name"], parameters.factor) == ("echo", 1.0)
    with pytest.raises(DriverNotFoundError):
        await driver.astop()


def test_drivers_of_the_workflow_file_start_with_it_and_one_that_fails_harms_nobody(runtime: Runtime) -> None:
    served = runtime.start_inference(SERVED)

    drivers = {driver.ref: driver for driver in served.list_drivers()}
    assert {ref: driver.state for ref, driver in drivers.items()} == {
        "broken": DriverState.FAILED,
        "waits": DriverState.RUNNING,
    }
    assert drivers["broken"].record.reason == "RuntimeError: no such camera"
    assert vars(drivers["waits"].get_parameters()) == {"factor": 4.0, "label": "left"}
    assert served.predict({"input": 1}).result(SOON_S)["output"] == 2
    served.remove_driver(drivers["waits"].pid)
    assert [driver.ref for driver in served.list_drivers()] == ["broken"]
    served.stop()
