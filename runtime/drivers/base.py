"""Contracts of drivers: what joins a workflow to the outside. Start here to write one.

    @dataclass
    class StressParameters(DriverParameters):
        predictions: int = 10

    class Stress(PipelineDriver):
        def __init__(self, parameters: StressParameters | None = None) -> None:
            self._parameters = parameters or StressParameters()

        def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
            for number in range(self._parameters.predictions):
                if inference.stopping.is_set():
                    break
                print(inference.predict({"input": number}).result())

        def stop(self) -> None: ...             # `run` looks at `inference.stopping`

Only the runtime makes, starts and stops drivers: it is given the class, or any callable that returns a driver.
"""

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from runtime.bus.base import Bus
from runtime.client import Reply
from runtime.clock import Clock
from runtime.spec.driver import DEFAULT_STOP_TIMEOUT_S

# Seconds that `run` has to return after `stop`; then its process is ended. A driver's spec may say otherwise.
STOP_TIMEOUT_S = DEFAULT_STOP_TIMEOUT_S


class DriverState(StrEnum):
    """Where a driver is in its life.

    STARTING -> RUNNING -> STOPPING -> STOPPED; FINISHED when `run` returned by itself; FAILED with a reason.
    """

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


# States of a driver that runs no more; one that has failed may be made anew.
ENDED = (DriverState.STOPPED, DriverState.FINISHED, DriverState.FAILED)


@dataclass
class DriverParameters:
    """Parameters of a driver that can be read and set while it runs; a subclass adds fields with defaults.

    Every subclass is a dataclass. What is set from outside is checked against the types of its fields.
    """


@dataclass(frozen=True, slots=True)
class DriverResourcesRequest:
    """What a driver needs of its machine.

    ports: names of TCP ports, each of which it will listen on; or with the numbers that they have where nothing else is
    configured, 0 for a free one.
    """

    ports: Sequence[str] | Mapping[str, int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An endpoint of a driver that others can reach now. protocol: `http`, `grpc` and so on."""

    name: str
    protocol: str
    address: str
    port: int

    def describe(self) -> dict[str, Any]:
        """Return it as `list_services` gives it: with an address for this network and one for others."""
        place = {"address": self.address, "port": self.port}
        return {
            "name": self.name,
            "protocol": self.protocol,
            **place,
            "taggedAddresses": {"lan": dict(place), "wan": dict(place)},
        }


class DriverResources(Protocol):
    """What a driver was given; freed when it has stopped."""

    @property
    def ports(self) -> Mapping[str, int]:
        """The requested ports by name: the configured ones, or free ones."""
        ...

    @property
    def listen(self) -> str:
        """Address that the ports are bound to, for a server that opens them by their numbers."""
        ...

    def socket(self, name: str) -> socket.socket:
        """Return a listening socket bound to the port, for a server that takes one: nobody else can get the port."""
        ...

    def announce(self, name: str, *, protocol: str = "tcp") -> None:
        """List the port as a service; to be called once it accepts connections. Thread-safe."""
        ...

    def withdraw(self, name: str) -> None:
        """Take the service off the list; one that is not there is no error. Thread-safe."""
        ...


class PredictionFuture(Protocol):
    """The answer to one request: waited for by a thread with `result`, by a coroutine with `await`."""

    def result(self, timeout: float | None = None) -> Any:
        """Return the first answer. Raises PredictionError, TimeoutError after `timeout` s, CancelledError."""
        ...

    def exception(self, timeout: float | None = None) -> BaseException | None: ...

    def done(self) -> bool: ...

    def cancel(self) -> bool:
        """Forget the request; nodes that have not begun it skip it. False when it had ended."""
        ...

    def __await__(self) -> Generator[Any, None, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSchema:
    """JSON Schemas of what a workflow takes and answers; {} where a handler says nothing about it."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


class RestrictedInferenceProcess(Protocol):
    """A workflow as a driver sees it: it can be used, not managed. Every member may be called from any thread.

    A driver whose `run` is a coroutine works on the loop that the connection lives on: there `predict(...)` is
    awaited, which costs no switch between threads.
    """

    @property
    def driver(self) -> str:
        """Ref of the driver: the first part of the names of what it keeps on NATS."""
        ...

    @property
    def clock(self) -> Clock:
        """Time, for what waits; to be used on the loop only."""
        ...

    @property
    def workflow(self) -> str:
        """Name of the workflow."""
        ...

    @property
    def stream(self) -> str:
        """Stream of the workflow, for what reads it directly."""
        ...

    @property
    def output_subjects(self) -> Sequence[str]:
        """Subjects of the workflow's answers, and of the ERRORs in their place; as `Bus.scan` takes them."""
        ...

    @property
    def bus(self) -> Bus:
        """The connection, for what a driver keeps or reads on NATS by itself; to be used on the loop only."""
        ...

    @property
    def held(self) -> bool:
        """Whether requests wait in this process, because the stream is full or NATS is away."""
        ...

    @property
    def schema(self) -> WorkflowSchema: ...

    @property
    def stopping(self) -> threading.Event:
        """Set when the driver is to stop."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests of this driver that have no answer yet."""
        ...

    def predict(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> PredictionFuture:
        """Send one request. sid: its state id. timeout: seconds, which become the request's deadline; None for
        those of the driver.

        Cancelling it, or the task that awaits it, cancels the request: nodes that have not begun skip it.
        Raises at once, with nothing sent: EncodeError, MessageTooLargeError, ValueError, BusClosedError.
        """
        ...

    def predict_all(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        comes_again: bool = False,
    ) -> AsyncIterator[Reply]:
        """Send one request and yield every answer until the last, as `client.Workflow.predict_all`; on the loop."""
        ...


@dataclass(frozen=True, slots=True)
class ValueProblem:
    """One fault of what a workflow file gives a driver. path: the keys that lead to it: ("sources", "in", "rate")."""

    path: tuple[str, ...]
    what: str


class PipelineDriver(ABC):
    """Joins a workflow to the outside, from `run` to `stop`."""

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Iterable[ValueProblem]:
        """Return what is wrong with the values of a workflow file beyond their names; nothing is opened.

        values: arguments and parameters, by name. `krt check` calls it in a process of its own, in the workflow's
        folder, where the driver's secrets are set to any text. Nobody else does: `__init__` checks as well.
        """
        return ()

    def resources_request(self) -> DriverResourcesRequest:
        """Return what is needed before `run`; nothing by default."""
        return DriverResourcesRequest()

    @abstractmethod
    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> Awaitable[None] | None:
        """Work until done or stopped. A plain method has a thread of its own, a coroutine runs on the loop."""

    @abstractmethod
    def stop(self) -> None:
        """Make `run` return soon. Called once, from another thread than `run`'s; for a coroutine on the loop.

        After it the runtime waits `STOP_TIMEOUT_S`. A driver that is stopped before its `run` began is never run.
        """

    def get_parameters(self) -> DriverParameters:
        """Return the parameters that hold now."""
        return DriverParameters()

    def set_parameters(self, parameters: Any) -> None:
        """Take over checked parameters, of the class that `get_parameters` gives.

        Raises ValueError for a value that the types cannot tell to be wrong; the old ones then stay.
        """
        raise ValueError(f"{type(self).__name__} has no parameters")

    def counters(self) -> Mapping[str, int]:
        """Return totals since `run` began, for `krt driver ls`; asked for every two seconds, on any thread."""
        return {}
