"""The life of one driver inside a process: made, given its ports, run, stopped, and run again when it fails.

    make ─▶ bind ports ─▶ parameters ─▶ run ─▶ FINISHED
                                         │ raises: FAILED, made anew after a pause, so often as the policy allows
                                         └ stop: services withdrawn ─▶ stop() ─▶ `run` returns ─▶ STOPPED

A plain `run` has a thread of its own, a coroutine runs on the loop. What the driver does with the workflow ends with
it: its requests in flight fail, and nobody else's.
"""

import asyncio
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.drivers.base import DriverState, PipelineDriver, Service
from runtime.drivers.inference import Inference, WorkflowView
from runtime.drivers.load import checked_driver
from runtime.drivers.parameters import set_values, values_of
from runtime.drivers.resources import Resources
from runtime.errors import DriverError, DriverStartError
from runtime.spec.driver import DEFAULT_STOP_TIMEOUT_S, LOOPBACK

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds that a cancelled `run` has to end; one that ignores this too is left to the end of its process.
CANCEL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often a driver whose `run` raises is made anew, and after which pause: it doubles each time."""

    restarts: int = 4
    window_s: float = 24 * 3600.0
    first_delay_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverTerms:
    """What a driver runs with. All times in seconds.

    ports: configured numbers by name; others are free ones. listen: address that ports are bound to. address: under
    which others reach them.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    listen: str = LOOPBACK
    address: str = LOOPBACK
    stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S
    policy: RestartPolicy = RestartPolicy()


class DriverRunner:
    """One driver. All members are to be used on the loop of the bus."""

    def __init__(
        self,
        ref: str,
        make: Callable[[], object],
        bus: Bus,
        view: WorkflowView,
        clock: Clock,
        *,
        terms: DriverTerms | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing is made yet.

        make: called in a thread, once for every start. on_change: called on the loop after every change of the state
        and of the services.
        """
        self.ref = ref
        self.state = DriverState.STARTING
        # Why it failed: one line, and the whole traceback; kept while it is made anew.
        self.reason = ""
        self.traceback = ""
        self.on_change = on_change
        self._make = make
        self._bus = bus
        self._view = view
        self._clock = clock
        self._terms = terms or DriverTerms()
        self._ports = self._terms.ports
        self._parameters: dict[str, Any] = {}
        self._failures_s: list[float] = []
        self._driver: PipelineDriver | None = None
        self._cannot_count = False
        self._resources: Resources | None = None
        self._stop_requested = asyncio.Event()
        self._stopping = threading.Event()
        self._runs = False
        self._living: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<DriverRunner {self.ref} {self.state}>"

    @property
    def class_name(self) -> str:
        """Class of the driver, "" before it was made."""
        return type(self._driver).__name__ if self._driver is not None else ""

    @property
    def counters(self) -> Mapping[str, int]:
        """What the driver counts; nothing any more, once that has failed."""
        if self._driver is None or self._cannot_count:
            return {}
        try:
            return dict(self._driver.counters())
        except Exception:  # the driver's own; its record is still told
            self._cannot_count = True
            log.exception("counters of driver %s have failed", self.ref, extra={"action": "driver-counters"})
            return {}

    @property
    def services(self) -> list[Service]:
        """What of it can be reached now."""
        return self._resources.services if self._resources is not None else []

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports that it was given, by name."""
        return self._resources.ports if self._resources is not None else {}

    @property
    def stop_timeout_s(self) -> float:
        """Seconds that `run` has after a stop."""
        return self._terms.stop_timeout_s

    @property
    def restarts(self) -> int:
        """How often it was made anew, or will be after a pause, within the policy's window."""
        return min(len(self._failures_s), self._terms.policy.restarts)

    async def start(self) -> None:
        """Make the driver and let it run; it is RUNNING when this returns, unless it was stopped. To be called once.

        Raises DriverStartError; then it is FAILED for good.
        """
        await self._prepare()
        if not self._stop_requested.is_set():
            self._enter(DriverState.RUNNING)
            self._living = asyncio.create_task(self._live(), name=f"driver {self.ref}")

    async def wait(self) -> None:
        """Return once it is STOPPED, FINISHED or FAILED for good. Cancelling is safe."""
        if self._living is not None:
            await asyncio.wait([self._living])

    async def stop(self) -> None:
        """End the driver within its stop timeout, and free what it has. Repeating it is fine.

        A coroutine that ignores its stop is cancelled; a thread cannot be, and is left behind without ports and
        without the workflow, until its process ends.
        """
        self._stop_requested.set()
        self._stopping.set()
        if self._living is not None and not self._living.done():
            await self._end(self._living)
        if self._resources is not None:
            self._resources.close()
        if self.state not in (DriverState.FINISHED, DriverState.FAILED):
            self._enter(DriverState.STOPPED)

    def get_parameters(self) -> dict[str, Any]:
        """Return the parameters that hold now, as JSON. Raises DriverError while there is no driver."""
        return values_of(self._made().get_parameters())

    def set_parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set some parameters, and return all. Raises InvalidParametersError, and the old ones stay; DriverError."""
        # Kept for the driver that takes its place after a failure.
        self._parameters = set_values(self._made(), values)
        log.info("driver %s has new parameters", self.ref, extra={"action": "parameters"})
        return self._parameters

    # --- life ---

    async def _prepare(self) -> None:
        """Make the driver and bind its ports. Raises DriverStartError."""
        try:
            self._driver = await in_thread(f"driver {self.ref} made", lambda: checked_driver(self._make()))
            self._resources = Resources.bind(
                self._driver.resources_request(),
                self._ports,
                listen=self._terms.listen,
                address=self._terms.address,
                on_change=self._tell,
            )
            # A driver that is made anew keeps its free ports too: clients know them.
            self._ports = self._resources.ports
            if self._parameters:
                set_values(self._driver, self._parameters)
        except Exception as error:  # the driver's own code; it says why it cannot start
            self._fail(error)
            if self._resources is not None:
                self._resources.close()
            raise DriverStartError(f"driver {self.ref} cannot start: {self.reason}") from error

    async def _live(self) -> None:
        """Run the driver, and make it anew when it fails."""
        while not self._stop_requested.is_set():
            try:
                await self._run()
            except Exception as error:  # the driver's own; it harms nobody else
                self._fail(error)
            else:
                self._enter(DriverState.STOPPED if self._stop_requested.is_set() else DriverState.FINISHED)
                return
            if not await self._pause():
                return
            try:
                await self._prepare()
            except DriverStartError:
                return
            self._enter(DriverState.RUNNING)

    async def _run(self) -> None:
        """Run the driver once, and take back what it was given."""
        assert self._driver is not None and self._resources is not None
        try:
            async with Inference(
                self._bus, self._view, self._clock, driver=self.ref, stopping=self._stopping
            ) as inference:
                self._runs = True
                await self._call_run(self._driver, inference, self._resources)
        finally:
            self._runs = False
            self._resources.close()

    async def _call_run(self, driver: PipelineDriver, inference: Inference, resources: Resources) -> None:
        if _is_coroutine(driver):
            working: Awaitable[None] | None = driver.run(inference, resources)
        else:
            working = await in_thread(f"driver {self.ref}", lambda: driver.run(inference, resources))
        if working is not None:
            await working

    async def _pause(self) -> bool:
        """Wait until the driver is to be made anew; False when it is not."""
        policy, now_s = self._terms.policy, self._clock.monotonic()
        self._failures_s = [*(each for each in self._failures_s if each > now_s - policy.window_s), now_s]
        if self._stop_requested.is_set() or len(self._failures_s) > policy.restarts:
            return False
        delay_s = policy.first_delay_s * 2.0 ** (len(self._failures_s) - 1)
        log.warning("driver %s starts again in %g s", self.ref, delay_s, extra={"action": "driver-restart"})
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        stopped = asyncio.ensure_future(self._stop_requested.wait())
        try:
            await asyncio.wait([sleeping, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopped.cancel()
        return not self._stop_requested.is_set()

    # --- stop ---

    async def _end(self, living: "asyncio.Task[None]") -> None:
        self._enter(DriverState.STOPPING)
        if self._resources is not None:
            for service in self._resources.services:
                self._resources.withdraw(service.name)
        try:
            async with asyncio.timeout(self._terms.stop_timeout_s):
                await self._ask_to_stop()
                await asyncio.wait([living])
        except TimeoutError:
            self.reason = f"run has not returned within {self._terms.stop_timeout_s:g} s of stop"
            log.error("driver %s is given up: %s", self.ref, self.reason, extra={"action": "driver-killed"})
        finally:
            living.cancel()
            await asyncio.wait([living], timeout=CANCEL_S)

    async def _ask_to_stop(self) -> None:
        driver = self._driver
        if driver is None or not self._runs:
            return
        try:
            if _is_coroutine(driver):
                driver.stop()
            else:
                await in_thread(f"driver {self.ref} stop", driver.stop)
        except Exception:  # the driver's own; `run` may end all the same, and is waited for
            log.exception("stop of driver %s has failed", self.ref, extra={"action": "driver-stop"})

    # --- state ---

    def _made(self) -> PipelineDriver:
        if self._driver is None:
            raise DriverError(f"driver {self.ref} has not been made")
        return self._driver

    def _fail(self, error: Exception) -> None:
        self.reason = _in_one_line(error)
        self.traceback = "".join(traceback.format_exception(error))
        # What keeps a driver from its start (a port that is taken) is not found in its code.
        shown = None if isinstance(error, DriverStartError) else error
        log.error("driver %s has failed: %s", self.ref, self.reason, exc_info=shown, extra={"action": "driver-failed"})
        self._enter(DriverState.FAILED)

    def _enter(self, state: DriverState) -> None:
        if state is not self.state:
            self.state = state
            self._tell()

    def _tell(self) -> None:
        self.on_change()


async def in_thread(name: str, function: Callable[[], T]) -> T:
    """Call blocking code of a driver in a thread of its own, and return what it returns or raises.

    Cancelling leaves the thread behind; it is a daemon, so that one that hangs cannot keep the process.
    """
    loop = asyncio.get_running_loop()
    # Not a future's exception: StopIteration, which a `next()` too many raises, cannot be set as one.
    outcome: asyncio.Future[tuple[list[T], BaseException | None]] = loop.create_future()

    def work() -> None:
        try:
            ended: tuple[list[T], BaseException | None] = ([function()], None)
        except BaseException as error:  # also SystemExit: a driver's thread cannot end the process
            ended = ([], error)
        try:
            loop.call_soon_threadsafe(lambda: None if outcome.done() else outcome.set_result(ended))
        except RuntimeError:  # the loop has ended before a thread that ignored its stop
            pass

    threading.Thread(target=work, name=name, daemon=True).start()
    values, error = await outcome
    if error is None:
        return values[0]
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(f"the driver raised {error!r}") from error


def _is_coroutine(driver: PipelineDriver) -> bool:
    return inspect.iscoroutinefunction(driver.run)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, DriverError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
