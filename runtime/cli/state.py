"""`krt state`: what the nodes of a workflow keep for each state id; its run may have ended."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import JsonOption, NatsOption, NodeOption, StreamOption, WorkflowOption
from runtime.spec import names

if TYPE_CHECKING:
    from runtime.bus.base import Bus, KeyValue
    from runtime.node.state import StateEntry

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A node with `state:`.")]
IdArgument = Annotated[str, typer.Argument(metavar="STATE_ID", help='"" is the state of messages without an id.')]


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(
        help="Look at the states that nodes keep, and remove them; after a local run, too.", no_args_is_help=True
    )
    group.command("ls")(list_states)
    group.command("get")(get)
    group.command("rm")(remove)
    app.add_typer(group, name="state")


def list_states(
    node: NodeOption = "",
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """List the state ids of every node with the time of their last message; with --json one line of JSON each.

    Exit codes: 0 listed, 2 wrong arguments, 5 not running or not reachable.

    Example: krt state ls --node count
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    target.run(lambda: _list(found, node, as_json))


def get(
    node: NodeArgument,
    state_id: IdArgument,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Print one state as JSON.

    Exit codes: 0 printed, 1 there is no such state, 2 wrong arguments, 5 not running or not reachable.

    Example: krt state get count cam-1
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    raise typer.Exit(target.run(lambda: _get(found, node, state_id)))


def remove(
    node: NodeArgument,
    state_id: IdArgument,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Remove one state: the next message of its id begins with the default.

    A message that is being handled meanwhile is handled again, with the default too.

    Exit codes: 0 removed, 1 there is no such state, 2 wrong arguments, 5 not running or not reachable.

    Example: krt state rm count cam-1
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    raise typer.Exit(target.run(lambda: _remove(found, node, state_id)))


async def _list(found: target.Target, only: str, as_json: bool) -> None:
    from runtime.cli.outputs import json_line

    async with target.connected(found, name="krt state") as bus:
        for bucket in await bus.buckets():
            node = names.node_of_state_bucket(found.stream, bucket)
            if not node or only not in ("", node):
                continue
            async for entry in _entries(await bus.key_value(bucket)):
                last = datetime.fromtimestamp(entry.stored_ns / 1e9, UTC).isoformat(timespec="milliseconds")
                if as_json:
                    typer.echo(json_line({"node": node, "state_id": entry.state_id, "last": last}))
                else:
                    typer.echo(f"{node}  {entry.state_id or '(no id)'}  {last}")


async def _entries(bucket: "KeyValue") -> "AsyncIterator[StateEntry]":
    from runtime.node.state import StateEntry

    for key in await bucket.keys():
        try:
            yield StateEntry.decode((await bucket.get(key)).value)
        except errors.NotFoundError:  # removed or expired since the keys were listed
            continue


async def _get(found: target.Target, node: str, state_id: str) -> int:
    from runtime.cli.outputs import json_line
    from runtime.node.state import StateEntry
    from runtime.payload import decode_value

    async with target.connected(found, name="krt state") as bus:
        try:
            stored = await (await _bucket(bus, found, node)).get(names.state_key(state_id))
        except errors.NotFoundError:
            return _missing(node, state_id)
        typer.echo(json_line(decode_value(StateEntry.decode(stored.value).payload)))
        return exits.OK


async def _remove(found: target.Target, node: str, state_id: str) -> int:
    key = names.state_key(state_id)
    async with target.connected(found, name="krt state") as bus:
        bucket = await _bucket(bus, found, node)
        try:
            await bucket.get(key)
        except errors.NotFoundError:
            return _missing(node, state_id)
        await bucket.delete(key)
        return exits.OK


async def _bucket(bus: "Bus", found: target.Target, node: str) -> "KeyValue":
    """Raises ConfigError for a node that keeps no states."""
    try:
        return await bus.key_value(names.state_bucket(found.stream, node))
    except errors.NotFoundError as error:
        raise errors.ConfigError(f'"{node}" is no node with a state; see `krt state ls`') from error


def _missing(node: str, state_id: str) -> int:
    typer.echo(f'node "{node}" has no state for "{state_id}"', err=True)
    return exits.FAILED
