"""What one driver process is told: the JSON of `KRT_DRIVER_SPEC`, made by whoever starts it, read by `drivers/`."""

from typing import Annotated, Any

from pydantic import Field

from runtime.spec.node import Frozen

# Seconds that `run` of a driver has to return after its stop; then its process is ended.
DEFAULT_STOP_TIMEOUT_S = 10.0
LOOPBACK = "127.0.0.1"
# Drivers that come with the runtime: the word of the workflow file, and the name of the class.
BUILT_IN_DRIVERS = {"http": "FastAPIDriver", "grpc": "GRPCDriver", "source-sink": "SourceSinkDriver"}


def driver_class(text: str) -> str:
    """Return what names a driver's class in specs: the word of a built-in one, also for the name of its class."""
    return next((word for word, name in BUILT_IN_DRIVERS.items() if text == name), text)


class DriverRequest(Frozen):
    """What a driver host is asked for; see `DriverSpec`."""

    ref: str
    driver: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    ports: dict[str, Annotated[int, Field(ge=0, le=65535)]] = Field(default_factory=dict)


class DriverSpec(Frozen):
    """One driver of a workflow.

    driver: `http`, `grpc`, `source-sink`, or `module:attr` of a callable that returns a driver.
    pid: of its handle; "" makes a new one at every start. output_subjects: of the workflow's answers, see
    `drivers/base.py`. args, arguments: for the callable. parameters: first those that the callable names as arguments,
    the rest is set on the driver. ports: configured numbers by name, others are free ones. listen: address that the
    ports are bound to. timeout_s: deadline of requests that say nothing about it, None for the class's own.
    """

    ref: str
    driver: str
    workflow: str
    stream: str
    output_subjects: tuple[str, ...] = ()
    pid: str = ""
    args: tuple[Any, ...] = ()
    arguments: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    ports: dict[str, Annotated[int, Field(ge=0, le=65535)]] = Field(default_factory=dict)
    listen: str = LOOPBACK
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    stop_timeout_s: Annotated[float, Field(gt=0)] = DEFAULT_STOP_TIMEOUT_S
