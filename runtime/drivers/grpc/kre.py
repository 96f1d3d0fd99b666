"""KRE's entrypoint, with its variables alone: its file of subjects, its streams, and both its wire versions.

| variable | meaning |
|---|---|
| KRT_NATS_SUBJECTS_FILE | JSON: by method, the stream and its subjects; or, on the first version, the first subject |
| KRT_BASE_PATH | folder of the `.proto` file, whose service is called `Entrypoint`; `/krt-files` by default |
| KRT_REQUEST_TIMEOUT | seconds for one call; 30 by default |
| KRT_WIRE | `v1` or `v2`, where the file does not tell |

Nothing is made on NATS: the streams are those of KRE's manager. One core subscription for each workflow sees all
answers, where KRE's entrypoint made a consumer for each call.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import pydantic

from runtime import log as logs
from runtime import wire, wire_v1
from runtime.bus.nats import NatsBus
from runtime.client import Route
from runtime.clock import Clock, SystemClock
from runtime.drivers.base import DriverState
from runtime.drivers.grpc.routes import KRE_SERVICE
from runtime.drivers.grpc_driver import PORT, GRPCDriver, GRPCParameters
from runtime.drivers.inference import WorkflowView
from runtime.drivers.runner import DriverRunner, DriverTerms
from runtime.errors import BusClosedError, ConfigError, DriverError
from runtime.message import FirstVersion, Message
from runtime.settings import DriverSettings
from runtime.spec import names

log = logging.getLogger(__name__)

# Where KRE's manager puts the files of a version, and where its services lead to.
BASE_PATH = Path("/krt-files")
KRE_TERMS = DriverTerms(ports={PORT: 9000}, listen="0.0.0.0")

Text = Annotated[str, pydantic.Field(min_length=1)]


class Subjects(pydantic.BaseModel):
    """What KRE's manager says of one workflow. output_subject: of requests. input_subject: of answers."""

    stream: Text
    input_subject: Text
    output_subject: Text


_FILE = pydantic.TypeAdapter(dict[str, Subjects | Text])


async def run_entrypoint(settings: DriverSettings, stop: asyncio.Event, *, terms: DriverTerms = KRE_TERMS) -> None:
    """Serve every method of the file until `stop` is set.

    Raises ConfigError, BusUnavailableError, BusClosedError, and DriverError when the driver has failed for good.
    """
    assert settings.subjects_file is not None
    clock = SystemClock()
    views = read_views(settings.subjects_file, settings.wire, clock)
    make = partial(
        GRPCDriver,
        find_proto(settings.base_path or BASE_PATH),
        services={KRE_SERVICE: {method: method for method in views}},
        parameters=GRPCParameters(timeout=settings.request_timeout_s),
        find_view=views.__getitem__,
    )
    bus = await NatsBus.of(settings.nats, names.ENTRYPOINT)
    try:
        runner = DriverRunner(names.ENTRYPOINT, make, bus, next(iter(views.values())), clock, terms=terms)
        await runner.start()
        logs.tell_ready(settings.ready_fd)
        log.info("ready", extra={"action": "ready"})
        await _serve(runner, bus, stop)
    finally:
        await bus.close()


def read_views(file: Path, stated_wire: str, clock: Clock) -> Mapping[str, WorkflowView]:
    """Return the workflows by the names of their methods. Raises ConfigError naming file and place."""
    try:
        methods = _FILE.validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"KRT_NATS_SUBJECTS_FILE: {file} cannot be read: {error.strerror}") from error
    except pydantic.ValidationError as error:
        places = sorted({".".join(map(str, fault["loc"][:1])) or "its start" for fault in error.errors()})
        expected = "by method a subject, or {stream, input_subject, output_subject}"
        raise ConfigError(
            f"KRT_NATS_SUBJECTS_FILE: {file} is wrong at {', '.join(places)}; expected {expected}"
        ) from error
    if not methods:
        raise ConfigError(f"KRT_NATS_SUBJECTS_FILE: {file} names no method")
    return {method: _view(method, given, stated_wire, clock) for method, given in methods.items()}


def find_proto(folder: Path) -> Path:
    """Return the one `.proto` file of a version's folder. Raises ConfigError for none, and for several."""
    found = sorted(folder.glob("*.proto"))
    if len(found) != 1:
        listed = ", ".join(file.name for file in found) or "none"
        raise ConfigError(f"the folder {folder} (KRT_BASE_PATH) has to hold one .proto file, and holds: {listed}")
    return found[0]


async def _serve(runner: DriverRunner, bus: NatsBus, stop: asyncio.Event) -> None:
    closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    ended = asyncio.create_task(runner.wait(), name="driver ended")
    try:
        await asyncio.wait([closed, stopped, ended], return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            raise BusClosedError("NATS has closed the connection for good")
        if runner.state is DriverState.FAILED:
            raise DriverError(f"the entrypoint has failed: {runner.reason}")
    finally:
        for task in (closed, stopped, ended):
            task.cancel()
        await asyncio.gather(closed, stopped, ended, return_exceptions=True)
        await runner.stop()


def _view(method: str, given: Subjects | str, stated_wire: str, clock: Clock) -> WorkflowView:
    if isinstance(given, str):
        stream = given.partition(".")[0]
        given = Subjects(stream=stream, input_subject=names.entrypoint_subject(stream), output_subject=given)
        version = stated_wire or "v1"
    else:
        version = stated_wire or "v2"
    encode, decode = (partial(_encode_first, clock), _decode_first) if version == "v1" else (_encode, wire.decode)
    route = Route(subject=given.output_subject, answers=given.input_subject, encode=encode, decode=decode)
    return WorkflowView(name=method, stream=given.stream, route=route)


def _encode(message: Message) -> bytes:
    """Return a request of the second version, without the fields that KRE does not know."""
    return wire.encode(Message(request_id=message.request_id, payload=message.payload, from_node=message.from_node))


def _encode_first(clock: Clock, message: Message) -> bytes:
    """Return a request of the first version, with the entrypoint's own entry in its tracking."""
    now_ns = clock.time_ns()
    first = FirstVersion(tracking_id=message.request_id, tracking=(), replied=False, early_exit=False, start_ns=now_ns)
    source = message._replace(first=first)
    return wire_v1.encode_output(source, message.payload, node=message.from_node, end_ns=now_ns, replied=False)


def _decode_first(data: bytes) -> Message:
    return wire_v1.decode(data, now_ns=0)
