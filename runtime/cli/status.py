"""`krt status`: what the nodes of the running workflows are doing, as a table or as JSON."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import exits, target
from runtime.cli.options import NatsOption, StreamOption
from runtime.clock import SystemClock
from runtime.spec import names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runtime.bus.base import Bus, StreamPlacement
    from runtime.bus.presence import PresenceSet, ServiceRecord
    from runtime.cli.status_look import FailingProcess, Look, NodeStatus, WorkflowStatus

# Seconds between two looks: rates are what happened between them.
LOOK_EVERY_S = 1.0
# Kinds of processes that have a line of their own below the nodes.
_SERVICES = (names.MANAGER, names.WRITER)

Statuses = dict[str, "WorkflowStatus"]


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("status")(status)


def status(
    workflow: Annotated[
        str, typer.Argument(metavar="[WORKFLOW]", help="Name, folder or file; every workflow of the run if left out.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each look.")] = False,
    monitoring: Annotated[
        str, typer.Option("--monitoring", metavar="URL", help="Monitoring of a NATS server, for what only it tells.")
    ] = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show for every node its replicas, what waits, what is in flight, its dead letters and its rate.

    Replicas are live/planned; one that was killed counts for up to 12 s. The rate is of messages handled, retries and
    dead letters included, over one second. The lines below are about processes that a local run does not get to work,
    with their last error, about manager, writer and measurements, with what the live processes have counted since their
    start, and about the GPUs of the nodes that have some. After a local run it tells, without --watch, what that has
    left.

    Exit codes: 0 shown, 2 wrong arguments, 5 not running or not reachable, 130 ended by Ctrl-C.

    Example: krt status hello --watch
    """
    if workflow or (nats and stream):
        targets = [target.find(workflow or stream, nats=nats, stream=stream, ended=not watch)]
    else:
        targets = target.find_all(nats=nats, stream=stream, ended=not watch)
    target.run(lambda: _show(targets, watch=watch, as_json=as_json, monitoring=monitoring))
    raise typer.Exit(exits.OK)


async def _show(targets: list[target.Target], *, watch: bool, as_json: bool, monitoring: str) -> None:
    """Print the statuses, once or until cancelled. Raises what `target.connected` raises."""
    async with AsyncExitStack() as stack:
        looks = _statuses([await _reach(each, stack) for each in targets], monitoring)
        if not watch:
            _print(await anext(looks), as_json)
        elif as_json or not sys.stdout.isatty():
            async for found in looks:
                _print(found, as_json)
        else:
            await _watch(looks)


@dataclass(frozen=True, slots=True)
class _Reached:
    """A workflow within reach, and the watch over its processes; None where its run has ended."""

    target: target.Target
    bus: "Bus"
    present: "PresenceSet | None"

    def live(self) -> "Iterable[ServiceRecord]":
        return self.present.records.values() if self.present is not None else ()


async def _reach(found: target.Target, stack: AsyncExitStack) -> _Reached:
    """Connect, and watch who is alive. Raises what `target.connected` raises."""
    from runtime.bus.presence import PresenceSet

    bus = await stack.enter_async_context(target.connected(found, name="krt status"))
    if found.store is not None:  # the records of processes that were killed have not expired, for there was no server
        return _Reached(found, bus, None)
    present = await PresenceSet.open(bus, names.PRESENCE_BUCKET, names.presence_keys(found.stream), SystemClock())
    stack.push_async_callback(present.close)
    return _Reached(found, bus, present)


async def _statuses(reached: list[_Reached], monitoring: str) -> AsyncIterator[Statuses]:
    """Yield the statuses of every workflow by name, first after two looks, then after each.

    Of runs that have ended there is one: without rates, for which nobody waits then.
    """
    from runtime.cli.status_look import compare

    before = await _look_at_all(reached, monitoring)
    if all(each.present is None for each in reached):
        yield {only.target.name: compare(only) for only in before}
        return
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await _look_at_all(reached, monitoring)
        yield _compare(now, before)
        before = now


async def _look_at_all(reached: list[_Reached], monitoring: str) -> "list[Look]":
    from runtime.cli.status_look import look

    loop = asyncio.get_running_loop()
    return [await look(each.bus, each.target, each.live(), loop.time(), monitoring) for each in reached]


def _compare(now: "list[Look]", before: "list[Look]") -> Statuses:
    from runtime.cli.status_look import compare

    return {after.target.name: compare(after, first) for after, first in zip(now, before, strict=True)}


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
    return {name: asdict(workflow) for name, workflow in found.items()}


def _tables(found: Statuses) -> "RenderableType":
    from rich.console import Group

    return Group(*(part for name, workflow in found.items() for part in _parts(name, workflow)))


def _parts(name: str, workflow: "WorkflowStatus") -> "Iterator[RenderableType]":
    from rich.text import Text

    from runtime.cli.status_gpus import gpu_table

    yield _table(name, workflow)
    # Not as plain strings: rich takes brackets in them for its markup.
    yield from map(Text, _lines(workflow))
    if workflow.gpus:
        yield gpu_table(workflow.gpus)


def _table(name: str, workflow: "WorkflowStatus") -> "RenderableType":
    from rich.table import Table

    table = Table(title=name, title_justify="left", box=None, pad_edge=False)
    table.add_column("node")
    for heading in ("replicas", "pending", "in flight", "redelivered", "dead letters", "rate"):
        table.add_column(heading, justify="right")
    for node in workflow.nodes:
        counts = (node.pending, node.in_flight, node.redelivered, node.dead_letters)
        table.add_row(_name(node), _replicas(node), *(f"{count:,}" for count in counts), _rate(node))
    return table


def _lines(workflow: "WorkflowStatus") -> list[str]:
    """Return what stands below the nodes: what does not work, where the stream is, manager, writer and so on."""
    services = [_service(kind, [each for each in workflow.services if each.kind == kind]) for kind in _SERVICES]
    return [
        *map(_describe_failing, workflow.failing),
        describe_stream(workflow.placement, workflow.sync),
        *services,
        f"measurements: {_counted([asdict(node.points) for node in workflow.nodes]) or 'none'}",
        *_left_out(workflow),
    ]


def _describe_failing(process: "FailingProcess") -> str:
    """Return `failing: score (crash-looping, 4 restarts): the node has failed: KeyError: 'model'`."""
    restarts = f", {process.restarts:,} restart{'' if process.restarts == 1 else 's'}" if process.restarts else ""
    return f"failing: {process.name} ({process.state}{restarts}): {process.error}"


def _left_out(workflow: "WorkflowStatus") -> list[str]:
    """Return a line about the messages that did not fit `when`, if there are some: `left out: 1,204 by ocr`."""
    counts = [f"{node.left_out:,} by {node.node}" for node in workflow.nodes if node.left_out]
    return [f"left out: {', '.join(counts)}"] if counts else []


def describe_stream(placement: "StreamPlacement", sync: str) -> str:
    """Return how safe the stream is: `stream: file on 3 servers, led by n1; behind: n2 offline; synced every 120 s`."""
    servers = "1 server" if placement.replicas == 1 else f"{placement.replicas} servers"
    led = f", led by {placement.leader}" if placement.leader else ""
    if not led and placement.replicas > 1:
        led = ", without a leader"
    behind = ", ".join(
        f"{one.name} offline" if one.offline else f"{one.name} lags by {one.lag:,}" for one in placement.behind()
    )
    synced = sync and f"; synced {sync}"
    kept = synced if placement.storage == "file" else "; lost when its servers end"
    return f"stream: {placement.storage} on {servers}{led}{behind and f'; behind: {behind}'}{kept}"


def _service(kind: str, live: "list[ServiceRecord]") -> str:
    documents = _counted([each.counters for each in live])
    return f"{kind}: {len(live) or 'none'} alive{documents and f'; documents: {documents}'}"


def _counted(counters: "list[Mapping[str, int]]") -> str:
    """Return the sums of some counters that are not zero: `5,000 stored, 3 refused`."""
    totals: Counter[str] = sum(map(Counter, counters), Counter())
    return ", ".join(f"{count:,} {name}" for name, count in totals.items())


def _name(node: "NodeStatus") -> str:
    return f"{node.node} (fused with {node.fused_with})" if node.fused_with else node.node


def _replicas(node: "NodeStatus") -> str:
    return str(len(node.live)) if node.planned is None else f"{len(node.live)}/{node.planned}"


def _rate(node: "NodeStatus") -> str:
    return "-" if node.rate is None else f"{node.rate:,.1f}/s"
