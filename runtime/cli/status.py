"""`krt status`: what the nodes of the running workflows are doing, as a table or as JSON."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import exits, target
from runtime.cli.options import NatsOption, StreamOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runtime.bus.base import Bus
    from runtime.cli.status_look import Look, NodeStatus

# Seconds between two looks: rates are what happened between them.
LOOK_EVERY_S = 1.0

Statuses = dict[str, "list[NodeStatus]"]


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("status")(status)


def status(
    workflow: Annotated[
        str, typer.Argument(metavar="[WORKFLOW]", help="Name, folder or file; every workflow of the run if left out.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each look.")] = False,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show for every node its replicas, what waits, what is in flight, its dead letters and its rate.

    Replicas are ready/planned. The rate is of messages handled, retries and dead letters included, over one second.

    Exit codes: 0 shown, 2 wrong arguments, 5 not running or not reachable, 130 ended by Ctrl-C.

    Example: krt status hello --watch
    """
    if workflow or (nats and stream):
        targets = [target.find(workflow or stream, nats=nats, stream=stream)]
    else:
        targets = target.find_all(nats=nats, stream=stream)
    target.run(lambda: _show(targets, watch=watch, as_json=as_json))
    raise typer.Exit(exits.OK)


async def _show(targets: list[target.Target], *, watch: bool, as_json: bool) -> None:
    """Print the statuses, once or until cancelled. Raises what `target.connected` raises."""
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(target.connected(each, name="krt status")) for each in targets]
        looks = _statuses(list(zip(targets, buses, strict=True)))
        if not watch:
            _print(await anext(looks), as_json)
        elif as_json or not sys.stdout.isatty():
            async for found in looks:
                _print(found, as_json)
        else:
            await _watch(looks)


async def _statuses(reached: "list[tuple[target.Target, Bus]]") -> AsyncIterator[Statuses]:
    """Yield the statuses of every workflow by name, first after two looks, then after each."""
    before = await _look_at_all(reached)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await _look_at_all(reached)
        yield _compare(now, before)
        before = now


async def _look_at_all(reached: "list[tuple[target.Target, Bus]]") -> "list[Look]":
    from runtime.cli.status_look import look

    loop = asyncio.get_running_loop()
    return [await look(bus, each, loop.time()) for each, bus in reached]


def _compare(now: "list[Look]", before: "list[Look]") -> Statuses:
    from runtime.cli.status_look import statuses

    return {after.target.name: statuses(after, first) for after, first in zip(now, before, strict=True)}


async def _watch(looks: AsyncIterator[Statuses]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=True) as live:
        async for found in looks:
            live.update(_tables(found), refresh=True)


def _print(found: Statuses, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_as_json(found)))
        return
    from rich.console import Console

    Console(highlight=False).print(_tables(found))


def _as_json(found: Statuses) -> dict[str, Any]:
    return {name: [asdict(node) for node in nodes] for name, nodes in found.items()}


def _tables(found: Statuses) -> "RenderableType":
    from rich.console import Group

    return Group(*(_table(name, nodes) for name, nodes in found.items()))


def _table(name: str, nodes: "list[NodeStatus]") -> "RenderableType":
    from rich.table import Table

    table = Table(title=name, title_justify="left", box=None, pad_edge=False)
    table.add_column("node")
    for heading in ("replicas", "pending", "in flight", "redelivered", "dead letters", "rate"):
        table.add_column(heading, justify="right")
    for node in nodes:
        counts = (node.pending, node.in_flight, node.redelivered, node.dead_letters)
        table.add_row(node.node, _replicas(node), *(f"{count:,}" for count in counts), _rate(node))
    return table


def _replicas(node: "NodeStatus") -> str:
    if node.planned is None:
        return "-" if node.ready is None else str(node.ready)
    return str(node.planned) if node.ready is None else f"{node.ready}/{node.planned}"


def _rate(node: "NodeStatus") -> str:
    return "-" if node.rate is None else f"{node.rate:,.1f}/s"
