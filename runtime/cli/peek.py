"""`krt peek`: what a node sends or reads, decoded for people, without disturbing anybody."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import JsonOption, NatsOption, StreamOption, WorkflowOption

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.bus.stored import StoredMessage

# Messages that are shown when nobody says how many.
DEFAULT_COUNT = 10

CountOption = Annotated[int, typer.Option("--last", metavar="N", min=0, help="The newest N messages.")]
FirstOption = Annotated[int, typer.Option("--first", metavar="N", min=0, help="The oldest N that are kept, instead.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What to show. source: `node`, `node.channel` or `entrypoint`. first: 0 for the newest ones."""

    source: str
    reads: bool
    first: int
    last: int
    follow: bool
    as_json: bool


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("peek")(peek)


def peek(
    source: Annotated[str, typer.Argument(metavar="NODE", help="node, node.channel, or entrypoint.")],
    reads: Annotated[bool, typer.Option("--input", help="What the node reads, not what it sends.")] = False,
    count: CountOption = DEFAULT_COUNT,
    first: FirstOption = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show messages of a node as they lie in the stream; with --json one line of JSON each.

    Nothing is taken from anybody: no consumer is moved, and none holds back the purge. Without --follow it reads what a
    local run has left, too.

    Exit codes: 0 shown, 1 no such node, 2 wrong arguments, 5 not running or not reachable, 130 ended by Ctrl-C.

    Example: krt peek score --last 3 --follow
    """
    wish = _Wish(source=source, reads=reads, first=first, last=count, follow=follow, as_json=as_json)
    # Nothing more comes from a run that has ended.
    found = target.find_one(workflow, nats=nats, stream=stream, ended=not follow)
    raise typer.Exit(target.run(lambda: _peek(found, wish)))


async def _peek(found: target.Target, wish: _Wish) -> int:
    from runtime.inspection import peek as look

    async with target.connected(found, name="krt peek") as bus:
        subjects = await _subjects(bus, found, wish)
        # Read before the messages: what comes in between is shown by the follower.
        end = (await bus.stream_state(found.stream)).last_sequence
        if wish.first:
            shown = await look.first(bus, found.stream, subjects, wish.first)
        else:
            shown = await look.last(bus, found.stream, subjects, wish.last) if wish.last else []
        for message in shown:
            await _show(bus, found.stream, message, wish)
        if wish.follow:
            after = max([end, *(message.sequence for message in shown)])
            async for message in look.follow(bus, found.stream, subjects, after):
                await _show(bus, found.stream, message, wish)
    if not shown:
        typer.echo(f"no messages of {wish.source} are kept", err=True)
    return exits.OK


async def _subjects(bus: "Bus", found: target.Target, wish: _Wish) -> list[str]:
    """Return what to read. Raises BusError for a node that the workflow does not have."""
    from runtime.inspection import peek as look
    from runtime.spec import names

    if not wish.reads and wish.source == names.ENTRYPOINT:
        return look.output_subjects(found.stream, wish.source)
    node = wish.source.partition(".")[0]
    try:
        read = await look.input_subjects(bus, found.stream, node)
    except errors.NotFoundError as error:
        known = sorted({names.node_of(state.name) for state in await bus.consumer_states(found.stream)})
        nodes = ", ".join(known) or "none"
        raise errors.BusError(f'workflow "{found.name}" has no node "{node}"; its nodes: {nodes}') from error
    return read if wish.reads else look.output_subjects(found.stream, wish.source)


async def _show(bus: "Bus", stream: str, message: "StoredMessage", wish: _Wish) -> None:
    from runtime.cli.message_text import message_record, message_text
    from runtime.cli.outputs import json_line
    from runtime.inspection.payloads import look_up
    from runtime.inspection.seen import see

    seen = await look_up(bus, stream, see(message))
    typer.echo(json_line(message_record(seen)) if wish.as_json else message_text(seen, time.time_ns()))
