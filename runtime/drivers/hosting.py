"""Asking for drivers: the requests to those who start them as processes, and their answers.

    krt driver add ── add_driver ──▶ `drivers.<stream>.add` ──▶ a driver host: `krt run`, `krt driver serve`

One host answers an `add`. A `remove` reaches every host; the one that has the driver answers at once, and ends it.
"""

from dataclasses import dataclass
from typing import Any

import orjson
import pydantic

from runtime.bus.base import Bus
from runtime.drivers.base import DriverState
from runtime.errors import (
    BusUnavailableError,
    DriverError,
    DriverExistsError,
    DriverNotFoundError,
    DriverStartError,
    NoRespondersError,
)
from runtime.spec import names
from runtime.spec.driver import DriverRequest

ADD, REMOVE = "add", "remove"

# Seconds that a driver may take until it runs or has failed: its process has to import what it needs.
START_LIMIT_S = 60.0
# Seconds beyond that for the answer.
ANSWER_S = 5.0
# Seconds for a host to say that it has a driver to remove; those that have not stay silent.
HAVE_LIMIT_S = 2.0

_KINDS = {kind.__name__: kind for kind in (DriverExistsError, DriverNotFoundError, DriverStartError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A driver that was started. reason: of one that has failed, and is on the list with it."""

    pid: str
    state: DriverState
    reason: str = ""


async def add_driver(bus: Bus, stream: str, request: DriverRequest) -> Added:
    """Start a driver, and return once it runs, has finished or has failed.

    Raises DriverStartError when nobody starts drivers for this workflow, or the process dies at once;
    DriverExistsError; BusUnavailableError.
    """
    data = request.model_dump_json().encode()
    try:
        told = await _ask(bus, names.driver_host_subject(stream, ADD), data, START_LIMIT_S + ANSWER_S)
    except NoRespondersError as error:
        raise DriverStartError(
            f"nobody starts drivers for {stream}: `krt run` does, and `krt driver serve WORKFLOW`"
        ) from error
    return Added(pid=told["pid"], state=DriverState(told["state"]), reason=told["reason"])


async def remove_driver(bus: Bus, stream: str, ref: str) -> None:
    """Have the process ended of a driver that does not answer by itself; it may last its stop timeout.

    Raises DriverNotFoundError where no host has it.
    """
    try:
        await _ask(bus, names.driver_host_subject(stream, REMOVE), ref.encode(), HAVE_LIMIT_S)
    except (NoRespondersError, BusUnavailableError) as error:
        raise DriverNotFoundError(f'there is no driver "{ref}" on {stream}, and nobody has a process of it') from error


def read_request(data: bytes) -> DriverRequest:
    """Return the request of `add_driver`. Raises DriverStartError with every fault."""
    try:
        return DriverRequest.model_validate_json(data)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'its start'}: {fault['msg']}" for fault in error.errors()]
        raise DriverStartError(f"the request for a driver is wrong at {'; '.join(faults)}") from error


def answer(result: dict[str, Any]) -> bytes:
    """Return the answer of a host to what worked."""
    return orjson.dumps({"result": result})


def refusal(error: Exception) -> bytes:
    """Return the answer of a host to what did not."""
    return orjson.dumps({"error": str(error) or repr(error), "kind": type(error).__name__})


async def _ask(bus: Bus, subject: str, data: bytes, timeout_s: float) -> dict[str, Any]:
    told = orjson.loads((await bus.request(subject, data, timeout_s=timeout_s)).data)
    if "error" in told:
        raise _KINDS.get(told["kind"], DriverError)(told["error"])
    result: dict[str, Any] = told["result"]
    return result
