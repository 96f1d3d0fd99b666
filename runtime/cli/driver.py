"""`krt driver`: the drivers of a running workflow, to be added, looked at, changed and removed."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import JsonOption, NatsOption, StreamOption, WorkflowArgument

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.drivers.control import DriverRecord, Drivers
    from runtime.spec.driver import DriverRequest

RefArgument = Annotated[str, typer.Argument(metavar="REF", help="As `krt driver ls` shows it.")]
ClassArgument = Annotated[str, typer.Argument(metavar="CLASS", help="http, grpc, source-sink, or module:Class.")]

# Built-in classes that always have a service; seconds to wait for it, so that its address is told.
SERVERS = ("http", "grpc")
SERVICE_LIMIT_S = 5.0
# Seconds until a driver that ignores its stop is killed and off the list.
KILL_LIMIT_S = 20.0
MAX_PORT = 65535


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    from runtime.cli import driver_docs, driver_serve  # neither imports anything heavy at its top

    group = typer.Typer(help="Look at the drivers of a workflow, add, change and remove them.", no_args_is_help=True)
    group.command("add")(add)
    group.command("rm")(remove)
    group.command("ls")(list_drivers)
    group.command("params")(params)
    group.command("services")(services)
    group.command("serve")(driver_serve.serve)
    group.command("docs")(driver_docs.docs)
    app.add_typer(group, name="driver")


def add(
    workflow: WorkflowArgument,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Name of the new driver.")],
    driver: ClassArgument,
    arguments: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="Argument of the class; again for more.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="Parameter; again for more.")
    ] = None,
    ports: Annotated[
        list[str] | None, typer.Option("--port", metavar="NAME=NUMBER", help="Port to listen on; again for more.")
    ] = None,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Start a driver beside those that run, in `krt run` or `krt driver serve`. Values are JSON, else text.

    Exit codes: 0 it runs, 1 it failed, and the reason is told, 2 wrong arguments, 5 not running or not reachable.

    Example: krt driver add hello web http --port http=8081 --param task_ttl=60s
    """
    request = _request(ref, driver, arguments or [], parameters or [], ports or [])
    found = target.find(workflow, nats=nats, stream=stream)
    raise typer.Exit(target.run(lambda: _add(found, request)))


def remove(
    workflow: WorkflowArgument,
    ref: Annotated[str, typer.Argument(metavar="REF|PID", help="As `krt driver ls` shows them.")],
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Stop a driver: it finishes what it has begun. The others go on, and so does every message in flight.

    One of the workflow file comes back with the next `krt run`.

    Exit codes: 0 removed, 1 there is no such driver, 2 wrong arguments, 5 not running or not reachable.

    Example: krt driver rm hello web
    """
    found = target.find(workflow, nats=nats, stream=stream)
    target.run(lambda: _remove(found, ref))


def list_drivers(
    workflow: WorkflowArgument, as_json: JsonOption = False, nats: NatsOption = "", stream: StreamOption = ""
) -> None:
    """List drivers: ref, pid, class, state, and services or the reason of a failure; --json: a line for each.

    Exit codes: 0 listed, 2 wrong arguments, 5 not running or not reachable.

    Example: krt driver ls hello
    """
    found = target.find(workflow, nats=nats, stream=stream)
    target.run(lambda: _list(found, as_json))


def params(
    workflow: WorkflowArgument,
    ref: RefArgument,
    values: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values to set.")] = None,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Print the parameters of a driver as JSON, after setting those that are given. Values are JSON, else text.

    Exit codes: 0 printed, 1 there is no such driver, 2 wrong arguments or values (nothing has changed), 5 not running
    or not reachable.

    Example: krt driver params hello web task_ttl=10s
    """
    wanted = parse_values(values or [])
    found = target.find(workflow, nats=nats, stream=stream)
    raise typer.Exit(target.run(lambda: _params(found, ref, wanted)))


def services(
    workflow: WorkflowArgument,
    ref: Annotated[str, typer.Argument(metavar="[REF]", help="Only of this driver.")] = "",
    as_json: JsonOption = False,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """List where drivers can be reached now: ref, name of the service, address; --json: a line for each.

    Exit codes: 0 listed, 1 there is no such driver, 2 wrong arguments, 5 not running or not reachable.

    Example: krt driver services hello
    """
    found = target.find(workflow, nats=nats, stream=stream)
    target.run(lambda: _services(found, ref, as_json))


def parse_values(texts: list[str]) -> dict[str, Any]:
    """Return the values of `key=value` texts: JSON where it is some, else text. Raises ConfigError."""
    return {key: _value(text) for key, text in _pairs(texts)}


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise errors.ConfigError(f'"{text}" is no value; write KEY=VALUE')
        pairs.append((key, value))
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ports(texts: list[str]) -> dict[str, int]:
    """Return ports by name. Raises ConfigError."""
    for name, number in (pairs := _pairs(texts)):
        if not number.isdecimal() or int(number) > MAX_PORT:
            raise errors.ConfigError(f'"{number}" is no number of the port {name}; write {name}=8080')
    return {name: int(number) for name, number in pairs}


def _request(ref: str, driver: str, arguments: list[str], parameters: list[str], ports: list[str]) -> "DriverRequest":
    """Raises ConfigError."""
    from runtime.spec import names
    from runtime.spec.driver import DriverRequest, driver_class

    if not names.is_name(ref):
        remedy = names.suggest_name(ref) or "web"
        raise errors.ConfigError(f'"{ref}" is no name of a driver; use a-z, 0-9 and "-": {remedy}')
    return DriverRequest(
        ref=ref,
        driver=driver_class(driver),
        arguments=parse_values(arguments),
        parameters=parse_values(parameters),
        ports=_ports(ports),
    )


@asynccontextmanager
async def _connected(found: target.Target) -> "AsyncIterator[tuple[Bus, Drivers]]":
    from runtime.cli.local_drivers import watched

    async with target.connected(found, name="krt driver") as bus, watched(bus, found.stream) as drivers:
        yield bus, drivers


async def _add(found: target.Target, request: "DriverRequest") -> int:
    from runtime.cli.driver_text import driver_lines
    from runtime.drivers.base import DriverState
    from runtime.drivers.hosting import add_driver

    async with _connected(found) as (bus, drivers):
        added = await add_driver(bus, found.stream, request)
        if added.state is DriverState.FAILED:
            remedy = f"`krt driver rm {found.name} {request.ref}` takes it off the list"
            typer.echo(f"driver {request.ref} has failed: {added.reason} ({remedy})", err=True)
            return exits.FAILED
        record = await _listed(drivers, added.pid, with_service=request.driver in SERVERS or bool(request.ports))
        typer.echo("\n".join(driver_lines([record])))
    return exits.OK


async def _listed(drivers: "Drivers", pid: str, *, with_service: bool) -> "DriverRecord":
    """Return the record of a driver that was added, once it tells its services if it has some."""
    import asyncio
    import contextlib

    def is_complete(records: "list[DriverRecord]") -> bool:
        return any(record.pid == pid and (record.services or not with_service) for record in records)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SERVICE_LIMIT_S):
            await drivers.wait_until(is_complete)
    return drivers.find(pid)


async def _remove(found: target.Target, ref: str) -> None:
    from runtime.drivers.hosting import remove_driver

    async with _connected(found) as (bus, drivers):
        pids = [record.pid for record in drivers.records() if ref in (record.ref, record.pid)]
        if not pids:
            # A process that ends again and again is not on the list.
            await remove_driver(bus, found.stream, ref)
        for pid in pids:
            await _stop(bus, drivers, pid)


async def _stop(bus: "Bus", drivers: "Drivers", pid: str) -> None:
    """Stop a driver by its own word, or by its host when it does not answer."""
    import asyncio

    from runtime.drivers.hosting import remove_driver

    ref = drivers.find(pid).ref
    try:
        await drivers.stop(pid)
    except (errors.DriverNotFoundError, errors.BusUnavailableError) as error:
        try:
            await remove_driver(bus, drivers.stream, ref)
        except errors.DriverNotFoundError:
            raise error from None
        async with asyncio.timeout(KILL_LIMIT_S):
            await drivers.wait_until(lambda records: all(record.pid != pid for record in records))


async def _list(found: target.Target, as_json: bool) -> None:
    from runtime.cli.driver_text import driver_fields, driver_lines
    from runtime.cli.outputs import json_line

    async with _connected(found) as (_, drivers):
        records = drivers.records()
    lines = [json_line(driver_fields(record)) for record in records] if as_json else driver_lines(records)
    for line in lines:
        typer.echo(line)


async def _params(found: target.Target, ref: str, wanted: dict[str, Any]) -> int:
    from runtime.cli.outputs import json_line

    async with _connected(found) as (_, drivers):
        pid = drivers.find(ref).pid
        try:
            values = await (drivers.set_parameters(pid, wanted) if wanted else drivers.get_parameters(pid))
        except errors.InvalidParametersError as error:
            typer.echo(f"krt: {error}", err=True)
            return exits.CONFIG
        typer.echo(json_line(values))
    return exits.OK


async def _services(found: target.Target, ref: str, as_json: bool) -> None:
    from runtime.cli.driver_text import service_url
    from runtime.cli.outputs import json_line

    async with _connected(found) as (_, drivers):
        records = [drivers.find(ref)] if ref else drivers.records()
    for record in records:
        for service in record.services:
            fields = {"ref": record.ref, **service}
            typer.echo(json_line(fields) if as_json else f"{record.ref}  {service['name']}  {service_url(service)}")
