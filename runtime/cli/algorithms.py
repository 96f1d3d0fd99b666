"""`krt algorithms`: serve the functions of an adapter, list what is served, and call it."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import JsonOption, StreamOption, TimeoutOption, WorkflowArgument, parse_duration_s

if TYPE_CHECKING:
    from runtime.algorithms import Algorithms
    from runtime.algorithms.registry import ServedAlgorithm
    from runtime.bus.base import Bus

DEFAULT_NATS = "nats://localhost:4222"

ServersOption = Annotated[
    str, typer.Option("--nats", metavar="URL", envvar="KRT_NATS_SERVER", help="NATS server; several with commas.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the algorithm, without `run_`.")]
PayloadArgument = Annotated[
    str, typer.Argument(metavar="JSON", help="Object of the arguments, @FILE, or - for the standard input.")
]

# What the exit code says of a call that ended without a result; any other outcome is FAILED.
OUTCOME_EXITS: dict[str, int] = {
    "invalid": exits.INVALID,
    "timeout": exits.TIMEOUT,
    "unknown": exits.UNAVAILABLE,
    "unavailable": exits.UNAVAILABLE,
    "busy": exits.UNAVAILABLE,
}


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(help="Serve and call algorithms: functions `run_<name>` of an adapter.", no_args_is_help=True)
    group.command("serve")(serve)
    group.command("ls")(list_algorithms)
    group.command("schemas")(schemas)
    group.command("run")(run)
    group.command("produce")(produce)
    app.add_typer(group, name="algorithms")


def serve(
    adapter: Annotated[
        str, typer.Argument(metavar="[ADAPTER]", help="Module, file, or folder that holds runner_adapter.py.")
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the runner; that of its folder.")] = "",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=0, metavar="N", help="Calls of each algorithm that run at once.")
    ] = 0,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="Longest run of a call: 60s.")] = "",
    isolation: Annotated[
        str, typer.Option("--isolation", metavar="KIND", help="thread, or process: calls that overrun are killed.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Win against runners that have a name with another signature.")
    ] = False,
    nats: ServersOption = "",
) -> None:
    """Serve the functions `run_<name>` of an adapter until Ctrl-C ends it.

    Options that are left out are taken from the KRT_* variables. The adapter imports nothing of the runtime; its
    functions are found by themselves, and called by name from everywhere as soon as this runs.

    Exit codes: 0 stopped in order, 1 it failed, 2 an adapter that cannot be served, or another signature of a name.

    Example: krt algorithms serve algorithms/images --concurrency 2
    """
    from functools import partial

    from runtime import settings
    from runtime.algorithms.process import run_algorithms
    from runtime.cli import processes

    given = {
        "KRT_ADAPTER": adapter,
        "KRT_RUNNER_NAME": name,
        "KRT_ALGORITHMS_CONCURRENCY": str(concurrency or ""),
        "KRT_ALGORITHMS_TIMEOUT": timeout,
        "KRT_ALGORITHMS_ISOLATION": isolation,
        "KRT_ALGORITHMS_REPLACE": "true" if replace else "",
        "KRT_NATS_SERVER": _servers(nats),
    }
    read = settings.read_algorithms({**os.environ, **{key: value for key, value in given.items() if value}})
    raise typer.Exit(processes.keep(read.log, partial(run_algorithms, read)))


def list_algorithms(as_json: JsonOption = False, nats: ServersOption = "") -> None:
    """List what is served now: algorithm, version, number of instances, runners, first line of its documentation.

    Exit codes: 0 listed, 5 NATS does not answer.
    """

    async def main(client: "Algorithms") -> None:
        served = await client.list()
        if as_json:
            from dataclasses import asdict

            from runtime.cli.outputs import json_line

            typer.echo(json_line({name: asdict(each) for name, each in served.items()}))
        else:
            _print_table(list(served.values()))

    _with_client(nats, main)


def schemas(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One algorithm, with the schema of its result.")] = "",
    nats: ServersOption = "",
) -> None:
    """Print the JSON Schema of every request, or what one algorithm takes and gives.

    Exit codes: 0 printed, 5 nobody serves it, or NATS does not answer.
    """

    async def main(client: "Algorithms") -> None:
        import orjson

        found: Any = await client.describe(name) if name else await client.schemas()
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())

    _with_client(nats, main)


def run(
    name: NameArgument,
    payload: PayloadArgument = "{}",
    timeout: TimeoutOption = "60s",
    nats: ServersOption = "",
) -> None:
    """Call an algorithm and print its result as one line of JSON; what went wrong is on the standard error.

    Exit codes: 0 a result, 1 the algorithm failed, 2 wrong arguments, 3 no result in time, 4 the payload was refused,
    5 nobody serves it, all who do are busy, or NATS does not answer.

    Example: krt algorithms run ocr '{"image_url": "https://example.org/a.png"}' --timeout 5s
    """
    from runtime.cli.inputs import read_argument

    arguments = _object(read_argument(payload))
    timeout_s = parse_duration_s(timeout)

    async def main(client: "Algorithms") -> None:
        from runtime.cli.outputs import json_line

        typer.echo(json_line(await client.run(name, arguments, timeout=timeout_s)))

    _with_client(nats, main)


def produce(
    workflow: WorkflowArgument,
    name: NameArgument,
    payload: PayloadArgument = "{}",
    nats: ServersOption = "",
    stream: StreamOption = "",
) -> None:
    """Put a call into the queue of a workflow that dispatches algorithms, and print its request id.

    Nobody waits for the result, which goes on through the workflow. The algorithm may be served later.

    Exit codes: 0 stored, 2 wrong arguments, 5 not running or not reachable.

    Example: krt algorithms produce images ocr '{"image_url": "https://example.org/a.png"}'
    """
    from runtime.cli.inputs import read_argument

    call = {"algorithm": name, "payload": _object(read_argument(payload))}
    found = target.find(workflow, nats=nats if stream else "", stream=stream)
    typer.echo(target.run(lambda: _put(found, call)))


async def _put(found: target.Target, call: dict[str, Any]) -> str:
    """Store a message at the entrypoint of a workflow, and return its request id. Raises BusError."""
    from runtime import wire
    from runtime.bus.base import Confirmation
    from runtime.message import Message, new_request_id
    from runtime.payload import encode_value
    from runtime.spec import names
    from runtime.spec.node import Partitions

    message = Message(request_id=new_request_id(), payload=encode_value(call), from_node=names.ENTRYPOINT)
    async with target.connected(found, name="krt algorithms") as bus:
        publisher = bus.publisher(found.stream)
        subject = names.entrypoint_subject(found.stream)
        if partitions := (await bus.stream_state(found.stream)).metadata.get(names.ENTRYPOINT_METADATA):
            subject = Partitions.model_validate_json(partitions).subject(subject, "", message.request_id)
        stored = Confirmation()
        data = wire.fit(wire.encode(message), publisher.limit_bytes)
        await publisher.publish(subject, data, message_id=message.request_id, confirm=stored)
        await stored
        await publisher.close()
    return message.request_id


def _with_client(nats: str, main: "Callable[[Algorithms], Coroutine[Any, Any, None]]") -> None:
    """Run a command with a client, and end with the code of what became of it."""

    async def connected() -> None:
        from runtime.algorithms import Algorithms

        async with _connected(_servers(nats)) as bus, Algorithms(bus) as client:
            await main(client)

    try:
        target.run(connected)
    except errors.AlgorithmError as error:
        typer.echo(f"{error.outcome}: {error.detail}", err=True)
        if error.traceback:
            typer.echo(error.traceback, err=True)
        raise typer.Exit(OUTCOME_EXITS.get(error.outcome, exits.FAILED)) from error


@asynccontextmanager
async def _connected(servers: str) -> "AsyncIterator[Bus]":
    from runtime.bus.nats import NatsBus
    from runtime.settings import read_credentials_folder, redact

    try:
        bus = await NatsBus.connect(
            servers.split(","),
            name="krt algorithms",
            credentials=read_credentials_folder(),
            limit_s=target.CONNECT_LIMIT_S,
        )
        try:
            yield bus
        finally:
            await bus.close()
    except errors.BusUnavailableError as error:
        raise target.NotRunningError(f"NATS at {redact(servers)} cannot be reached: {error}; give --nats") from error


def _servers(nats: str) -> str:
    """Return the servers that were given, else that of a `krt run` of this folder, else the usual one."""
    if nats:
        return nats
    try:
        return target.find_all()[0].nats
    except target.NotRunningError:
        return DEFAULT_NATS


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.ConfigError('the arguments are no JSON object; write {"name": value}')
    return value


def _print_table(served: "list[ServedAlgorithm]") -> None:
    from rich.console import Console
    from rich.table import Table

    if not served:
        typer.echo("nobody serves an algorithm now: krt algorithms serve DIR")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("ALGORITHM", "VERSION", "INSTANCES", "RUNNERS", "DESCRIPTION"):
        table.add_column(title, justify="right" if title == "INSTANCES" else "left", overflow="fold")
    for each in served:
        table.add_row(each.name, each.version, str(len(each.instances)), ", ".join(each.runners), each.doc)
    Console(highlight=False, markup=False).print(table)
