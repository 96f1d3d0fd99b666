"""A workflow driven from Python.

    rt = init("debug")                                  # or init("nats", servers="nats://…")
    proc = rt.start_inference("workflow.yaml")
    proc.predict({"input": 1}, sid="cam-1").result()
    driver = proc.add_driver("webapi", FastAPIDriver)
    proc.remove_driver(driver.pid)
    rt.stop()

| | `init("debug")` | `init("nats")` |
|---|---|---|
| workflow | runs in this process, in memory | as child processes, or one that is deployed, by its name |
| driver | a thread or a task here; any callable | a child process; its callable is importable, its arguments are JSON |

Everything works from plain threads. From a running loop take the forms with an `a` before the name, and await them; a
prediction itself is awaitable on any loop. The runtime's own loop has a thread of its own.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, Self

from runtime.client import DEFAULT_TIMEOUT_S
from runtime.clock import SystemClock
from runtime.drivers.base import ENDED, DriverState
from runtime.drivers.control import DriverRecord
from runtime.drivers.inference import Inference, Prediction
from runtime.drivers.loop_thread import LoopThread
from runtime.drivers.process import PipelineDriverProcess
from runtime.errors import ConfigError, DriverExistsError, DriverNotFoundError, DriverStartError
from runtime.inference.host import Host
from runtime.inference.memory import MemoryHost
from runtime.spec import names
from runtime.spec.load import load
from runtime.spec.model import Workflow


def init(
    kind: Literal["debug", "nats"] = "debug",
    *,
    servers: str = "",
    credentials: Path | str | None = None,
    runtime_id: str = "local",
    store: Path | str = ".krt",
) -> "Runtime":
    """Return a runtime; nothing is connected or started yet.

    servers: of NATS, with commas between them. credentials: a folder, see `bus/credentials.py`. runtime_id: first part
    of the names on NATS. store: folder for what workflows save, when they are started here on NATS.
    """
    if kind not in ("debug", "nats"):
        raise ConfigError(f'there is no runtime "{kind}"; use "debug" or "nats"')
    if (kind == "nats") != bool(servers):
        raise ConfigError('init("nats") needs servers="nats://host:4222", and init("debug") takes none')
    return Runtime(
        servers=tuple(servers.split(",")) if servers else (),
        credentials=Path(credentials) if credentials else None,
        runtime_id=runtime_id,
        store=Path(store),
    )


class Runtime:
    """See `init`, which makes it. `stop` it, or use it in a `with` block."""

    def __init__(self, *, servers: tuple[str, ...], credentials: Path | None, runtime_id: str, store: Path) -> None:
        self._servers = servers
        self._credentials = credentials
        self._runtime_id = runtime_id
        self._store = store
        self._thread = LoopThread("krt runtime")
        self._processes: list[InferenceProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    def start_inference(self, workflow: "Path | str | Workflow", *, version: str = "") -> "InferenceProcess":
        """Start a workflow and return what drives it.

        workflow: a file or folder, or on NATS the name of a deployed one; its version, if it has several.
        Raises WorkflowError, HandlerLoadError, ConfigError, WorkflowStartError, BusUnavailableError, AccessError.
        """
        return self._thread.call(self._start(workflow, version))

    async def astart_inference(self, workflow: "Path | str | Workflow", *, version: str = "") -> "InferenceProcess":
        return await self._thread.acall(self._start(workflow, version))

    def stop(self) -> None:
        """Stop every workflow that was started here, with its drivers, and the runtime. Repeating it is fine."""
        if self._thread.is_alive:
            self._thread.call(self._stop_all())
            self._thread.stop()

    async def astop(self) -> None:
        if self._thread.is_alive:
            await self._thread.acall(self._stop_all())
            self._thread.stop()

    async def _start(self, workflow: "Path | str | Workflow", version: str) -> "InferenceProcess":
        process = InferenceProcess(self._host_of(workflow, version), self._thread)
        await process._open()
        self._processes.append(process)
        return process

    def _host_of(self, workflow: "Path | str | Workflow", version: str) -> Host:
        if not self._servers:
            return MemoryHost(_loaded(workflow), self._runtime_id)
        from runtime.inference.nats import NatsHost, Place  # a runtime in memory does without nats-py

        place = Place(
            servers=self._servers, credentials=self._credentials, runtime_id=self._runtime_id, store=self._store
        )
        is_name = isinstance(workflow, str) and names.is_name(workflow) and not Path(workflow).exists()
        return NatsHost(str(workflow) if is_name else _loaded(workflow), place, version=version)

    async def _stop_all(self) -> None:
        for process in self._processes:
            await process._close()


class InferenceProcess:
    """A workflow that runs, and its drivers. Made by `Runtime.start_inference`."""

    def __init__(self, host: Host, thread: LoopThread) -> None:
        self._host = host
        self._thread = thread
        self._stack = AsyncExitStack()
        self._inference: Inference | None = None
        # Refs of drivers that are being added.
        self._reserved: set[str] = set()

    @property
    def workflow(self) -> str:
        """Name of the workflow."""
        return self._host.view.name

    @property
    def stream(self) -> str:
        """Stream of the workflow on NATS."""
        return self._host.view.stream

    def predict(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Prediction:
        """Send one request; see `drivers.base.RestrictedInferenceProcess.predict`.

        Requests of one sid see one state, in the order of the calls; those without one share the default state.
        """
        assert self._inference is not None
        return self._inference.predict(inputs, sid, timeout=timeout, headers=headers, request_id=request_id)

    async def apredict(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Any:
        """Send one request and return its answer."""
        return await self.predict(inputs, sid, timeout=timeout, headers=headers, request_id=request_id)

    def add_driver(self, ref: str, make: Callable[..., object], *args: Any, **kwargs: Any) -> PipelineDriverProcess:
        """Make, start and return a driver. make: its class, or what returns one; called with the arguments.

        Raises DriverExistsError while another driver of this ref runs, DriverStartError when it cannot start; it then
        stays listed, with the reason, until it is removed or its ref is used again.
        """
        return self._thread.call(self._add(ref, make, args, kwargs))

    async def aadd_driver(
        self, ref: str, make: Callable[..., object], *args: Any, **kwargs: Any
    ) -> PipelineDriverProcess:
        return await self._thread.acall(self._add(ref, make, args, kwargs))

    def get_driver(self, ref: str) -> PipelineDriverProcess:
        """Return the driver of this ref. Raises DriverNotFoundError."""
        return self._handle(self._host.drivers.find(ref))

    def list_drivers(self) -> list[PipelineDriverProcess]:
        """Return every driver of the workflow, by ref; on NATS those of other machines, too."""
        return [self._handle(record) for record in self._host.drivers.records()]

    def remove_driver(self, pid: str) -> None:
        """Stop the driver of this pid and take it off the list. Raises DriverNotFoundError."""
        self._thread.call(self._remove(pid))

    async def aremove_driver(self, pid: str) -> None:
        await self._thread.acall(self._remove(pid))

    def stop(self) -> None:
        """Stop the drivers and the workflow, as far as they were started here. Repeating it is fine."""
        self._thread.call(self._close())

    async def astop(self) -> None:
        await self._thread.acall(self._close())

    # --- on the runtime's loop ---

    async def _open(self) -> None:
        async with AsyncExitStack() as stack:
            await self._host.start()
            stack.push_async_callback(self._host.stop)
            self._inference = await stack.enter_async_context(Inference(self._host.bus, self._host.view, SystemClock()))
            self._stack = stack.pop_all()

    async def _close(self) -> None:
        await self._stack.aclose()

    async def _add(
        self, ref: str, make: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PipelineDriverProcess:
        if not names.is_name(ref):
            raise DriverStartError(f'"{ref}" cannot be a ref; use a-z, 0-9 and "-": {names.suggest_name(ref)}')
        if ref in self._reserved:
            raise DriverExistsError(f'a driver "{ref}" is being added')
        self._reserved.add(ref)
        try:
            await self._make_room(ref)
            return await self._start_driver(ref, make, args, kwargs)
        finally:
            self._reserved.discard(ref)

    async def _make_room(self, ref: str) -> None:
        """Take an ended driver of this ref off the list. Raises DriverExistsError for one that runs."""
        for record in self._host.drivers.records():
            if record.ref != ref:
                continue
            if record.state not in ENDED:
                raise DriverExistsError(f'driver "{ref}" ({record.pid}) is {record.state}; remove it first')
            await self._remove(record.pid)

    async def _start_driver(
        self, ref: str, make: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PipelineDriverProcess:
        pid = await self._host.add_driver(ref, make, args, kwargs)
        record = self._host.drivers.find(pid)
        if record.state is DriverState.FAILED and not record.restarts:
            raise DriverStartError(f"driver {ref} cannot start: {record.reason}")
        return self._handle(record)

    async def _remove(self, pid: str) -> None:
        record = self._host.drivers.find(pid)
        if record.pid != pid:
            raise DriverNotFoundError(f'"{pid}" is a ref; the pid of driver "{pid}" is {record.pid}')
        await self._host.remove_driver(pid)

    def _handle(self, record: DriverRecord) -> PipelineDriverProcess:
        return PipelineDriverProcess(record, self._host.drivers, self._thread, self._remove)


def _loaded(workflow: "Path | str | Workflow") -> Workflow:
    return workflow if isinstance(workflow, Workflow) else load(workflow, check_handlers=True)
