"""The model's process as its host sees it: kept running, asked one thing at a time, killed when it hangs.

What runs in the process is `child.py`; who asks, and over what, is the host's.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator

from runtime.children import describe_exit
from runtime.clock import Clock
from runtime.errors import WorkerEndedError
from runtime.models import child
from runtime.models.wire import HostState, ServiceError
from runtime.spec.model_host import ModelHostSpec
from runtime.workers import Worker

log = logging.getLogger(__name__)

# Seconds that the process may take until it waits for its first request.
START_LIMIT_S = 60.0
# Seconds before the first restart; doubled with every further one, up to the maximum.
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 30.0


class RefusalError(Exception):
    """A request that is not worked on. code: of the service error that answers it."""

    def __init__(self, code: ServiceError, message: str) -> None:
        super().__init__(message)
        self.code = code


class RestartLimit:
    """When a process that has ended is started again: `max_restarts` times within a window at most. No I/O."""

    def __init__(self, max_restarts: int, window_s: float) -> None:
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._restarts_s: list[float] = []

    def note(self, at_s: float) -> float | None:
        """Note an end, and return the seconds until the next start; None when there is none. at_s: monotonic time."""
        recent = [each for each in self._restarts_s if each > at_s - self._window_s]
        if len(recent) >= self._max_restarts:
            return None
        self._restarts_s = [*recent, at_s]
        return min(FIRST_DELAY_S * 2.0 ** len(recent), MAX_DELAY_S)


class ModelProcess:
    """One model's process, from its first start until it is closed. `run` keeps it running."""

    def __init__(self, spec: ModelHostSpec, clock: Clock, on_change: Callable[[], None]) -> None:
        """on_change: called on the loop after every change of what this tells."""
        self.state = HostState.INITIALIZING
        # These three as in `wire.HostRecord`.
        self.instance = 0
        self.restarts = 0
        self.reason = ""
        self._spec = spec
        self._clock = clock
        self._on_change = on_change
        self._limit = RestartLimit(spec.max_restarts, spec.restart_window_s)
        self._worker: Worker | None = None
        # Why the present one was killed from here.
        self._killed_for = ""
        self._busy_since_s: float | None = None
        self._closing = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    @property
    def is_running(self) -> bool:
        """Whether it can be asked, now or after the request that it works on."""
        return self.state is HostState.RUNNING and self.is_alive and not self.is_closing

    @property
    def busy_for_ms(self) -> int:
        """How long the present request is being worked on, 0 for none."""
        if self._busy_since_s is None:
            return 0
        return max(1, round(1000 * (self._clock.monotonic() - self._busy_since_s)))

    async def run(self) -> None:
        """Start the process, and again whenever it ends; returns when it is closed, or its restarts are used up."""
        while not self.is_closing:
            how = await self._live()
            if self.is_closing:
                return
            delay_s = self._limit.note(self._clock.monotonic())
            self.reason = self._killed_for or how
            if delay_s is None:
                log.error("the model has failed: %s; it stays down", self.reason, extra={"action": "model-failed"})
                self._enter(HostState.FAILED)
                return
            await self._pause(delay_s)

    @contextlib.contextmanager
    def turn(self, limit_s: float) -> Iterator[None]:
        """Have the process for one request; it is killed when the block has not ended `limit_s` seconds from now.

        Raises RefusalError where it works on another one, or is not there.
        """
        self._check_running()
        if self._busy_since_s is not None:
            raise RefusalError(ServiceError.BUSY, f"the model works on a request since {self.busy_for_ms} ms")
        self._busy_since_s = self._clock.monotonic()
        timer = self._clock.call_later(limit_s, lambda: self.kill(f"it has not answered for {limit_s:.1f} s"))
        try:
            yield
        finally:
            timer.cancel()
            self._busy_since_s = None

    async def ask(self, action: str, body: bytes) -> bytes:
        """Return the process's answer; only within a turn. Raises WorkerEndedError; RefusalError: it was not asked."""
        self._check_running()
        assert self._worker is not None, "a process that runs"
        return await self._worker.ask(child.request(action, body))

    def note_new_instance(self) -> None:
        """Tell that the instance that was set up is not there any more, but perhaps another one."""
        self.instance += 1
        self._on_change()

    def kill(self, reason: str) -> None:
        """End the process, to be started again."""
        if self._worker is not None and self._worker.is_alive:
            self._killed_for = reason
            log.warning("the process of the model is killed: %s", reason, extra={"action": "model-killed"})
            self._worker.kill()

    async def close(self, grace_s: float) -> None:
        """End the process for good: after the request it works on, or killed when that takes longer."""
        self._closing.set()
        if self._worker is not None:
            await self._worker.close(grace_s)

    async def _live(self) -> str:
        """Run the process to its end, and say how it ended."""
        spec = self._spec
        self._killed_for = ""
        try:
            self._worker = worker = await Worker.start(
                child.JOB,
                on_line=_log_line,
                environment={**child.environment(spec.code, spec.resources), **spec.environment},
                folder=spec.code,
                memory_bytes=spec.memory_bytes,
            )
        except OSError as error:
            return f"its process cannot be started: {error}"
        try:
            if self.is_closing:
                worker.kill()
            await self._start(worker)
            return f"its process has ended with {describe_exit(await worker.wait())}"
        except WorkerEndedError as error:
            return str(error)
        finally:
            worker.kill()

    async def _start(self, worker: Worker) -> None:
        told = {"code": str(self._spec.code), "class_name": self._spec.class_name}
        timer = self._clock.call_later(START_LIMIT_S, lambda: self.kill(f"it is not ready after {START_LIMIT_S:g} s"))
        try:
            await worker.ask(child.request(child.START, json.dumps(told).encode()))
        finally:
            timer.cancel()
        self.instance += 1
        self._enter(HostState.RUNNING)

    async def _pause(self, delay_s: float) -> None:
        self.restarts += 1
        text = "the process of the model is started again in %.1f s: %s"
        log.warning(text, delay_s, self.reason, extra={"action": "model-restart"})
        self._enter(HostState.RECOVERING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()

    def _check_running(self) -> None:
        if not self.is_running:
            state = HostState.STOPPING if self.is_closing else self.state
            raise RefusalError(ServiceError.UNAVAILABLE, f"the process of the model is not there, the host is {state}")

    def _enter(self, state: HostState) -> None:
        self.state = state
        self._on_change()


def _log_line(line: str) -> None:
    log.info("%s", line, extra={"action": "model-output"})
