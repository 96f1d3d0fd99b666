"""`krt clean`: shows and removes what removed nodes, or a whole workflow that is gone, have left on NATS."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import FolderArgument, PickOption, RuntimeOption

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.deploy.leftovers import Leftovers
    from runtime.spec.manager import ManagerSpec


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("clean")(clean)


def clean(
    path: FolderArgument = Path("."),
    workflow: PickOption = "",
    nats: Annotated[str, typer.Option("--nats", metavar="URL", help="NATS server, if not that of the run.")] = "",
    runtime_id: RuntimeOption = "local",
    everything_of: Annotated[
        str, typer.Option("--all", metavar="STREAM", help="Everything of a workflow that is gone; no DIR is read.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Make dead letters of messages that were not handled.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Remove states, joins, runs, objects and streams too.")] = False,
) -> None:
    """Show what removed nodes have left on NATS, and remove it with --yes.

    A consumer of a removed node holds back the purge of its stream for ever. One that has not handled everything is
    left alone without --drop, which makes dead letters (reason: dropped) of its messages. States, open joins, records
    of batch runs and object stores that the file does not have any more are left alone without --data.

    --all STREAM is everything of a workflow, whose file may be gone: with --yes --data also its messages and dead
    letters, with --drop even those not handled. It is removed as a whole, and not while one of its processes lives.
    Without --nats it is that of the local run, alive or ended.

    Exit codes: 0 shown or removed, 1 something was left, as the output says, 2 wrong arguments, 5 not reachable.

    Example: krt clean workflows/hello --yes
    """
    requested = _Requested(yes=yes, drop=drop, data=data)
    if everything_of:
        here = target.find_all(nats=nats, stream=everything_of if nats else "", ended=True)[0]
        gone = replace(here, stream=everything_of)
        raise typer.Exit(target.run(lambda: _clean_all(gone, requested)))
    from runtime.deploy.manager_spec import manager_spec
    from runtime.deploy.wiring import stream_of
    from runtime.spec.load import load_report

    loaded = load_report(path, workflow=workflow)
    if loaded.workflow is None:
        raise errors.WorkflowError(loaded.report.problems)
    spec = manager_spec(loaded.workflow, runtime_id)
    stream = stream_of(loaded.workflow, runtime_id) if nats else ""
    found = target.find(str(path), nats=nats, stream=stream, ended=True)
    raise typer.Exit(target.run(lambda: _clean(found, spec, requested)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Requested:
    """What may be removed: anything at all, unhandled messages, data."""

    yes: bool
    drop: bool
    data: bool


async def _clean(found: target.Target, spec: "ManagerSpec", requested: _Requested) -> int:
    from runtime.deploy import leftovers

    async with target.connected(found, name="krt clean") as bus:
        left = await leftovers.find(bus, spec)
        if left == leftovers.Leftovers():
            typer.echo(f"nothing of removed nodes is left of {spec.stream}")
            return exits.OK
        if not requested.yes:
            await _show(bus, left)
            return exits.OK
        return await _remove(bus, spec, left, requested)


async def _clean_all(gone: target.Target, requested: _Requested) -> int:
    from runtime.deploy import leftovers

    async with target.connected(gone, name="krt clean", with_stream=False) as bus:
        left = await leftovers.find_all(bus, gone.stream)
        if left == leftovers.Leftovers():
            typer.echo(f"nothing is left of {gone.stream}")
            return exits.OK
        if not requested.yes:
            await _show(bus, left)
            return exits.OK
        if alive := await _alive(bus, gone.stream) or _readers(left):
            typer.echo(f"nothing was removed: stop {', '.join(alive)} first")
            return exits.FAILED
        if not requested.data or (left.has_unhandled and not requested.drop):
            await _show(bus, left)
            return exits.FAILED
        await _remove_all(bus, left)
        return exits.OK


async def _alive(bus: "Bus", stream: str) -> list[str]:
    """Return the live processes of a workflow, as people read them."""
    from runtime.bus.presence import PresenceSet
    from runtime.clock import SystemClock
    from runtime.spec import names

    present = await PresenceSet.open(bus, names.PRESENCE_BUCKET, names.presence_keys(stream), SystemClock())
    await present.close()
    return sorted(f"{each.name} on {each.host} (process {each.pid})" for each in present.records.values())


def _readers(left: "Leftovers") -> list[str]:
    """Return who is alive without saying so, as a bare runner: somebody asks for messages."""
    return [f"whoever reads {consumer.name}" for consumer in left.consumers if consumer.waiting]


async def _show(bus: "Bus", left: "Leftovers") -> None:
    from runtime.deploy.leftovers import unhandled

    for consumer in left.consumers:
        typer.echo(f"consumer {consumer.name}: {unhandled(consumer):,} messages not handled")
    for bucket in left.buckets:
        typer.echo(f"bucket {bucket}")
    for bucket in left.data_buckets:
        keys = await (await bus.key_value(bucket)).keys()
        typer.echo(f"bucket {bucket}: data, {len(keys):,} entries")
    for name in left.object_stores:
        store = await bus.object_store(name)
        typer.echo(f"object store {name}: {len(await store.names()):,} objects, {await store.size_bytes():,} bytes")
    for stream in left.streams:
        state = await bus.stream_state(stream)
        typer.echo(f"stream {stream}: {state.messages:,} messages, {state.size_bytes:,} bytes")
    options = f"{' --drop' if left.has_unhandled else ''}{' --data' if left.has_data else ''}"
    typer.echo(f"nothing was removed: repeat with --yes{options}")


async def _remove(bus: "Bus", spec: "ManagerSpec", left: "Leftovers", requested: _Requested) -> int:
    from runtime.deploy import leftovers

    kept = 0
    for consumer in left.consumers:
        waiting = leftovers.unhandled(consumer)
        if waiting and not requested.drop:
            kept += 1
            typer.echo(f"consumer {consumer.name}: kept, {waiting:,} messages are not handled; --drop gives them up")
            continue
        dropped = await leftovers.remove_consumer(bus, spec, consumer.name)
        typer.echo(f"consumer {consumer.name}: removed" + (f", {dropped:,} messages dropped" if dropped else ""))
    await _remove_buckets(bus, left)
    if requested.data:
        await _remove_data(bus, left)
    elif left.has_data:
        with_data = len(left.data_buckets) + len(left.object_stores)
        typer.echo(f"kept: {with_data} buckets and object stores with data; --data removes them")
    return exits.FAILED if kept else exits.OK


async def _remove_all(bus: "Bus", left: "Leftovers") -> None:
    await _remove_buckets(bus, left)
    await _remove_data(bus, left)
    for stream in left.streams:
        await bus.delete_stream(stream)
        typer.echo(f"stream {stream}: removed with its messages")


async def _remove_buckets(bus: "Bus", left: "Leftovers") -> None:
    for bucket in left.buckets:
        await bus.delete_bucket(bucket)
        typer.echo(f"bucket {bucket}: removed")


async def _remove_data(bus: "Bus", left: "Leftovers") -> None:
    for bucket in left.data_buckets:
        await bus.delete_bucket(bucket)
        typer.echo(f"bucket {bucket}: removed with its data")
    for name in left.object_stores:
        await bus.delete_object_store(name)
        typer.echo(f"object store {name}: removed with its objects")
