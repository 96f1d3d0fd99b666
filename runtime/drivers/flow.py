"""Contracts of sources and sinks, the ends of a `SourceSinkDriver`. Start here to write one.

    class TemperatureParameters(SourceParameters):
        port: str = Field(description="Serial port of the sensor.")

    class Temperature(Source):
        parameters = TemperatureParameters
        params: TemperatureParameters

        def open(self) -> None:
            self._port = connect(self.params.port)          # NotConnected: it is tried again later

        def read(self) -> Iterator[Item]:
            for line in self._port:
                yield Item({"celsius": float(line)}, metadata={"unit": "C"})

        def close(self) -> None:
            self._port.close()

A component never sleeps and never retries: the driver owns back-off, rate, predict and retries. Each method may be
plain or async; the plain ones of one component run one after the other, in a thread of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from runtime.bus.base import Bus
from runtime.client import DEFAULT_TIMEOUT_S
from runtime.clock import Clock
from runtime.drivers.base import DriverResources
from runtime.errors import DriverError
from runtime.spec.values import BYTES, DURATION, SECONDS, SIZE

# Items of one source that are sent and not done, unless it says otherwise.
MAX_IN_FLIGHT = 64


class NotConnected(DriverError):
    """The outside cannot be reached now. `open` is called again after a growing pause, and nothing is lost.

    retry_after_s: the pause in seconds that the outside has asked for; 0 when it did not say.
    """

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overflow(StrEnum):
    """What happens to an input that comes while `max_in_flight` others are not done.

    BLOCK: the source is not read until there is room. DROP_OLDEST: it waits, and the next one takes its place.
    DROP_NEWEST: it is dropped. What is dropped is counted.
    """

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


# Outcome of an item that the overflow rule has dropped; the others are those of `message.ReplyOutcome`.
DROPPED = "dropped"

# Told how an item ended. Called once, on the event loop, after the last sink; never when the driver ends before that.
Done = Callable[[str], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Item:
    """One input. A source yields it, a sink gets it again with the outputs.

    inputs: what the workflow is given. state_id: "" leaves it to the source. metadata: headers of the request. done:
    acknowledges the item upstream. position: JSON; a source that was given it by `resume` goes on after this item. It
    makes the request's id too, so that an item which is sent again after a crash is handled once.
    fault: why there are no inputs; the item is not sent, and counts as failed.

    Set by the driver: source (its ref, "" for a sink that reads the workflow), request_id; for a sink also number (of
    the output among those of the request, from 0) and error (text of an ERROR answer, "" for an output).
    """

    inputs: Any
    _: KW_ONLY
    state_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    done: Done | None = field(default=None, repr=False)
    position: Any = None
    fault: str = ""
    source: str = ""
    request_id: str = ""
    number: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a source yields instead of sleeping: there is nothing now, read on in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the driver lends to a component, from before its first `open`. bus and clock: on the event loop only.

    ref: of the component. resources: hold the port of a source with `needs_port`, under its ref.
    """

    ref: str
    driver: str
    stream: str
    bus: Bus
    clock: Clock
    resources: DriverResources


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = DURATION.fullmatch(value)
        if match is None:
            raise ValueError("write a number and ms, s, m, h or d: 30s")
        return int(match[1]) * SECONDS[match[2]]
    return value


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        match = SIZE.fullmatch(value)
        if match is None:
            raise ValueError("write a whole number and Ki, Mi, Gi or Ti: 10Mi")
        return int(match[1]) * BYTES[match[2]]
    return value


# Seconds as a number, or a duration as workflow files have it: 500ms, 30s.
Seconds = Annotated[float, BeforeValidator(_seconds)]
# Bytes as a number, or a size as workflow files have it: 10Mi.
Bytes = Annotated[int, BeforeValidator(_bytes)]


class Parameters(BaseModel):
    """Parameters of a component: fields with types, defaults and descriptions, of which its documentation is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class SourceParameters(Parameters):
    """What every source takes."""

    rate: float | None = Field(None, gt=0, description="Inputs per second at most; without it, as they come.")
    state_id: str = Field("", description="State id of inputs without one; the source's ref by default.")
    max_in_flight: int = Field(MAX_IN_FLIGHT, ge=1, description="Inputs that are sent and not yet in every sink.")
    overflow: Overflow = Field(Overflow.BLOCK, description="What happens to an input while there is no room.")
    timeout: Seconds = Field(DEFAULT_TIMEOUT_S, gt=0, description="How long the workflow may take for one input.")


class SinkParameters(Parameters):
    """What every sink takes."""

    errors: bool = Field(False, description="Also write ERROR answers, as {error, request_id, source}.")


class Source(ABC):
    """Where inputs come from."""

    parameters: ClassVar[type[SourceParameters]] = SourceParameters
    # Whether the driver is to bind a port for it, under its ref.
    needs_port: ClassVar[bool] = False
    params: SourceParameters = SourceParameters()
    site: Site

    def __init__(self, params: SourceParameters | None = None, **values: Any) -> None:
        """Take the parameters, or their values: `FileSource(path="in.jsonl", rate=10)`. Raises ValueError."""
        self.params = self.parameters(**values) if params is None else params

    def resume(self, position: Any) -> Awaitable[None] | None:
        """Take the position of the last item that was done before a restart; called before the first `open`."""
        return None

    def open(self) -> Awaitable[None] | None:
        """Connect. Raises NotConnected to be called again; anything else fails the driver. `close` comes after."""
        return None

    @abstractmethod
    def read(self) -> Iterator[Any] | AsyncIterator[Any]:
        """Yield inputs as they are, `Item`s, or `Wait`; called after every `open`. The end means: drained for good.

        Raises NotConnected like `open`. After that it goes on behind what it has yielded.
        """

    def close(self) -> Awaitable[None] | None:
        """Free what `open` took, once every item is done; also called after an `open` or `read` that failed.

        Called from another thread if `read` hangs in one.
        """
        return None


class Sink(ABC):
    """Where outputs go."""

    parameters: ClassVar[type[SinkParameters]] = SinkParameters
    params: SinkParameters = SinkParameters()
    site: Site

    def __init__(self, params: SinkParameters | None = None, **values: Any) -> None:
        """Take the parameters, or their values. Raises ValueError."""
        self.params = self.parameters(**values) if params is None else params

    def open(self) -> Awaitable[None] | None:
        """Connect; see `Source.open`."""
        return None

    @abstractmethod
    def write(self, outputs: Any, item: Item) -> Awaitable[None] | None:
        """Store one output durably. Called for one at a time; the same output may come again after a crash.

        item: the input that it belongs to. Raises NotConnected to be opened and called again without limit; after
        any other exception it is called again a few times, and then the output becomes a dead letter.
        """

    def close(self) -> Awaitable[None] | None:
        """Free what `open` took; also called after an `open` or `write` that is not connected."""
        return None


def record_of(outputs: Any, item: Item) -> dict[str, Any]:
    """Return an output with what it belongs to, for sinks that keep both; the item's inputs are left out."""
    return {
        "request_id": item.request_id,
        "number": item.number,
        "source": item.source,
        "state_id": item.state_id,
        "metadata": dict(item.metadata),
        "error": item.error,
        "output": None if item.error else outputs,
    }


def output_of(value: Any, item: Item) -> Any:
    """Return what a sink is given: an output as it is, an ERROR answer as an object that says what it belongs to."""
    return {"error": item.error, "request_id": item.request_id, "source": item.source} if item.error else value
