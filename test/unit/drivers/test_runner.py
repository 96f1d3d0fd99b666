"""The life of one driver: made, run, stopped, failed and run again."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from runtime.bus.base import Bus
from runtime.clock import FakeClock, settle
from runtime.drivers.base import (
    DriverResources,
    DriverResourcesRequest,
    DriverState,
    PipelineDriver,
    RestrictedInferenceProcess,
)
from runtime.drivers.runner import DriverRunner, DriverTerms, RestartPolicy
from runtime.errors import BusClosedError, DriverStartError, InvalidParametersError
from test.support.drivers import WORKFLOW, echo_workflow, hosted
from test.support.sample_drivers import Stress, Waits, WaitsParameters

# Seconds that a test waits for what comes at once.
SOON_S = 5.0


class Idle(Waits):
    """Waits for its stop, without a port."""

    def resources_request(self) -> DriverResourcesRequest:
        return DriverResourcesRequest()

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        inference.stopping.wait()


class Steps(PipelineDriver):
    """Notes what is called, and in which thread."""

    def __init__(self, calls: list[tuple[str, str]]) -> None:
        self.calls = calls
        self._stopped = threading.Event()

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        self.calls.append(("run", threading.current_thread().name))
        self._stopped.wait()
        self.calls.append(("ran", threading.current_thread().name))

    def stop(self) -> None:
        self.calls.append(("stop", threading.current_thread().name))
        self._stopped.set()


class Failing(Idle):
    """Fails in its first runs; `number` counts the drivers that were made."""

    made: int = 0
    failures: int = 1

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.number = type(self).made

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        if self.number <= self.failures:
            raise ConnectionError("the camera went away")
        inference.stopping.wait()


async def state_is(runner: DriverRunner, *states: DriverState) -> None:
    """Wait until the driver is in one of the states."""
    async with asyncio.timeout(SOON_S):
        while runner.state not in states:
            changed = asyncio.Event()
            runner.on_change = changed.set
            await changed.wait()
    await settle()


async def test_a_driver_runs_until_it_is_stopped() -> None:
    async with hosted(Idle) as driver:
        assert (driver.state, driver.class_name) == (DriverState.RUNNING, "Idle")

    assert (driver.state, driver.reason) == (DriverState.STOPPED, "")


async def test_a_driver_that_returns_has_finished() -> None:
    async with hosted(lambda: Stress(predictions=3)) as driver:
        await driver.wait()

    assert (driver.state, driver.reason) == (DriverState.FINISHED, "")


async def test_run_and_stop_are_called_once_and_in_threads_of_their_own() -> None:
    calls: list[tuple[str, str]] = []

    async with hosted(lambda: Steps(calls)):
        await _until(lambda: bool(calls))

    assert calls == [("run", "driver tested"), ("stop", "driver tested stop"), ("ran", "driver tested")]


async def test_a_coroutine_runs_on_the_loop_and_its_stop_too() -> None:
    threads: list[int] = []

    class OnLoop(PipelineDriver):
        def __init__(self) -> None:
            self._stopped = asyncio.Event()

        async def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
            threads.append(threading.get_ident())
            assert await inference.predict({"n": 1}) == {"n": 1}
            await self._stopped.wait()

        def stop(self) -> None:
            threads.append(threading.get_ident())
            self._stopped.set()

    async with hosted(OnLoop) as driver:
        await settle()

    assert driver.state is DriverState.STOPPED
    assert threads == [threading.get_ident()] * 2


async def test_a_driver_that_is_stopped_before_it_ran_is_never_run() -> None:
    calls: list[tuple[str, str]] = []

    async with echo_workflow() as bus:
        runner = DriverRunner("tested", lambda: Steps(calls), bus, WORKFLOW, FakeClock())
        await runner.stop()
        await runner.start()

    assert (runner.state, calls) == (DriverState.STOPPED, [])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: 3, "the callable returned int, which is no PipelineDriver"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: next(iter(())), "StopIteration"),
        (lambda: exit(3), "the driver raised SystemExit(3)"),
    ],
)
async def test_a_driver_that_cannot_be_made_has_failed_for_good(make: Callable[[], object], reason: str) -> None:
    async with echo_workflow() as bus:
        runner = DriverRunner("tested", make, bus, WORKFLOW, FakeClock())

        with pytest.raises(DriverStartError, match="driver tested cannot start"):
            await runner.start()

    assert runner.state is DriverState.FAILED
    assert reason in runner.reason
    assert "Traceback" in runner.traceback


async def test_a_driver_that_ignores_its_stop_is_given_up_and_can_do_nothing_any_more() -> None:
    given: list[RestrictedInferenceProcess] = []

    class Deaf(Idle):
        def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
            given.append(inference)
            threading.Event().wait()

    async with hosted(Deaf, terms=DriverTerms(stop_timeout_s=0.05)) as driver:
        await _until(lambda: bool(given))

    assert driver.state is DriverState.STOPPED
    assert driver.reason == "run has not returned within 0.05 s of stop"
    with pytest.raises(BusClosedError):
        given[0].predict({})


async def test_a_coroutine_that_ignores_its_stop_is_cancelled() -> None:
    ended: list[str] = []

    class Deaf(Idle):
        async def run(  # type: ignore[override]  # either form is allowed
            self, inference: RestrictedInferenceProcess, resources: DriverResources
        ) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

    async with hosted(Deaf, terms=DriverTerms(stop_timeout_s=0.05)) as driver:
        await settle()

    assert (driver.state, ended) == (DriverState.STOPPED, ["cancelled"])


async def test_a_driver_whose_run_raises_is_made_anew_after_a_pause() -> None:
    clock = FakeClock()

    class Once(Failing):
        pass

    async with hosted(Once, clock=clock) as driver:
        await state_is(driver, DriverState.FAILED)
        failed = (driver.reason, driver.restarts, Once.made)
        await clock.advance(1.0)
        await state_is(driver, DriverState.RUNNING)

        assert failed == ("ConnectionError: the camera went away", 1, 1)
        assert Once.made == 2
    assert driver.state is DriverState.STOPPED


async def test_a_driver_that_goes_on_failing_is_given_up_with_its_reason() -> None:
    clock = FakeClock()

    class Always(Failing):
        failures = 100

    async with hosted(Always, clock=clock, terms=DriverTerms(policy=RestartPolicy(restarts=2))) as driver:
        for number, pause_s in ((1, 1.0), (2, 2.0)):
            await _until(lambda number=number: driver.restarts == number)  # type: ignore[misc]  # mypy reads no default of a lambda
            await clock.advance(pause_s / 2)
            assert Always.made == number
            await clock.advance(pause_s / 2)
        async with asyncio.timeout(SOON_S):
            await driver.wait()

    assert (driver.state, driver.reason) == (DriverState.FAILED, "ConnectionError: the camera went away")
    assert Always.made == 3


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await settle()
        await settle()


async def test_a_driver_that_is_made_anew_keeps_what_was_set_on_it() -> None:
    clock = FakeClock()
    go = threading.Event()

    class FailsLater(Failing):
        def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
            go.wait(SOON_S)
            super().run(inference, resources)

    async with hosted(FailsLater, clock=clock) as driver:
        driver.set_parameters({"factor": 7.0})
        go.set()
        await state_is(driver, DriverState.FAILED)
        await clock.advance(1.0)
        await state_is(driver, DriverState.RUNNING)

        assert driver.get_parameters()["factor"] == 7.0


async def test_stopping_a_driver_that_waits_for_its_next_run_ends_it() -> None:
    clock = FakeClock()

    class Once(Failing):
        pass

    async with hosted(Once, clock=clock) as driver:
        await state_is(driver, DriverState.FAILED)

    await clock.advance(60.0)
    assert Once.made == 1


async def test_parameters_are_read_and_set_live() -> None:
    async with hosted(Idle) as driver:
        before = driver.get_parameters()
        after = driver.set_parameters({"factor": 2.5})

    assert before == {"factor": 1.0, "label": ""}
    assert after == {"factor": 2.5, "label": ""}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"factor": "much"}, "factor: Input should be a valid number"),
        ({"factor": 1, "size": 2}, "size: there is no such parameter"),
        ({"factor": -1}, "factor is below 0"),
    ],
)
async def test_wrong_parameters_are_refused_and_the_old_ones_stay(values: dict[str, object], fault: str) -> None:
    async with hosted(lambda: Idle(factor=3.0)) as driver:
        with pytest.raises(InvalidParametersError, match=fault):
            driver.set_parameters(values)

        assert driver.get_parameters() == {"factor": 3.0, "label": ""}


async def test_a_driver_reads_parameters_of_its_own_class() -> None:
    made: list[Idle] = []

    def make() -> Idle:
        made.append(Idle())
        return made[0]

    async with hosted(make) as driver:
        driver.set_parameters({"label": "left"})

    assert made[0].get_parameters() == WaitsParameters(factor=1.0, label="left")


async def test_two_drivers_of_one_workflow_do_not_disturb_each_other() -> None:
    async with echo_workflow() as bus, hosted(Idle, bus) as other:
        await _run_and_fail(bus)

        assert other.state is DriverState.RUNNING


async def _run_and_fail(bus: Bus) -> None:
    class Once(Failing):
        pass

    async with hosted(Once, bus) as driver:
        await state_is(driver, DriverState.FAILED)


class Miscounting(Idle):
    """Cannot tell what it has counted."""

    asked: int = 0

    def counters(self) -> dict[str, int]:
        self.asked += 1
        raise RuntimeError("no counters")


async def test_counters_that_fail_are_told_once_and_not_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    driver = Miscounting()

    async with hosted(lambda: driver) as runner:
        counted = [dict(runner.counters) for _ in range(3)]

    assert counted == [{}, {}, {}]
    assert (driver.asked, len(caplog.records)) == (1, 1)
