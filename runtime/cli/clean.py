"""`krt clean`: shows and removes what nodes have left on NATS that the workflow does not have any more."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import PickOption

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.deploy.leftovers import Leftovers
    from runtime.spec.manager import ManagerSpec


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("clean")(clean)


def clean(
    path: Annotated[Path, typer.Argument(metavar="[DIR]", help="A workflow's folder, or its file.")] = Path("."),
    workflow: PickOption = "",
    nats: Annotated[str, typer.Option("--nats", metavar="URL", help="NATS server, if not that of the run.")] = "",
    runtime_id: Annotated[str, typer.Option("--runtime", metavar="NAME", help="First part of the names.")] = "local",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Make dead letters of messages that were not handled.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Remove states, joins, runs and objects too.")] = False,
) -> None:
    """Show what removed nodes have left on NATS, and remove it with --yes.

    A consumer of a removed node holds back the purge of its stream for ever. One that has not handled everything is
    left alone without --drop, which makes dead letters (reason: dropped) of its messages. States, open joins, records
    of batch runs and object stores that the file does not have any more are left alone without --data.

    Exit codes: 0 shown or removed, 1 something was left because of its messages, 2 wrong arguments, 5 not reachable.

    Example: krt clean workflows/hello --yes
    """
    from runtime.deploy.manager_spec import manager_spec
    from runtime.deploy.wiring import stream_of
    from runtime.spec.load import load_report

    loaded = load_report(path, workflow=workflow)
    if loaded.workflow is None:
        raise errors.WorkflowError(loaded.report.problems)
    spec = manager_spec(loaded.workflow, runtime_id)
    stream = stream_of(loaded.workflow, runtime_id) if nats else ""
    found = target.find(str(path), nats=nats, stream=stream)
    raise typer.Exit(target.run(lambda: _clean(found, spec, _Requested(yes=yes, drop=drop, data=data))))


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
    needs_drop = any(unhandled(consumer) for consumer in left.consumers)
    options = f"{' --drop' if needs_drop else ''}{' --data' if left.has_data else ''}"
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
    for bucket in left.buckets:
        await bus.delete_bucket(bucket)
        typer.echo(f"bucket {bucket}: removed")
    if left.has_data:
        await _remove_data(bus, left, requested)
    return exits.FAILED if kept else exits.OK


async def _remove_data(bus: "Bus", left: "Leftovers", requested: _Requested) -> None:
    if not requested.data:
        kept = len(left.data_buckets) + len(left.object_stores)
        typer.echo(f"kept: {kept} buckets and object stores with data; --data removes them")
        return
    for bucket in left.data_buckets:
        await bus.delete_bucket(bucket)
        typer.echo(f"bucket {bucket}: removed with its data")
    for name in left.object_stores:
        await bus.delete_object_store(name)
        typer.echo(f"object store {name}: removed with its objects")
