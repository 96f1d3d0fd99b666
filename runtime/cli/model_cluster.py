"""`krt model ls|stop|logs|unquarantine|apply`: the models of a cluster, wherever their hosts run."""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from runtime import errors
from runtime.cli import exits
from runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.bus.presence import ServiceRecord
    from runtime.cli.fleet_place import ClusterTarget
    from runtime.models.listing import FleetRecord, ListedModel
    from runtime.models.wire import HostRecord

T = TypeVar("T")

ModelArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the model, as `krt model ls` shows it.")]
ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="Name of the cluster; by default that of the fleet here.")
]
NatsOption = Annotated[
    str, typer.Option("--nats", metavar="URL", help="NATS server, where no fleet runs here; with --cluster.")
]

# Seconds that a host has to answer, and that a stopped one has to be gone.
ANSWER_LIMIT_S = 5.0
GONE_LIMIT_S = 30.0
# Seconds until a fleet has looked at every file of its models, and ended the hosts that it replaces.
APPLY_LIMIT_S = 300.0
# Seconds between two looks at a log that is followed.
FOLLOW_EVERY_S = 0.2


def list_models(cluster: ClusterOption = "", as_json: JsonOption = False, nats: NatsOption = "") -> None:
    """List models: id, name, state, deployment, instance, restarts and the last error; --json: a line for each.

    Those that fleets want and that are not there are listed, too, and so is the quarantine.

    Exit codes: 0 listed, 2 wrong arguments, 5 not running or not reachable.

    Example: krt model ls --cluster bird-game
    """
    _run(cluster, nats, lambda bus, found: _list(bus, found, as_json))


def stop(model_id: ModelArgument, cluster: ClusterOption = "", nats: NatsOption = "") -> None:
    """Stop a model: the call that it works on is finished. Its fleet does not start it until `krt model apply`.

    Exit codes: 0 stopped, 1 there is no such model, or it does not end, 2 wrong arguments, 5 not reachable.

    Example: krt model stop m1
    """
    _run(cluster, nats, lambda bus, found: _stop(bus, found, model_id))


def unquarantine(model_id: ModelArgument, cluster: ClusterOption = "", nats: NatsOption = "") -> None:
    """Let a model be started again that a coordinator has reported; its fleet does so at once.

    Not needed once its code, resources or limits have changed: `krt model apply` is.

    Exit codes: 0 released, 1 it is not in quarantine, 2 wrong arguments, 5 not reachable.

    Example: krt model unquarantine m1
    """
    _run(cluster, nats, lambda bus, found: _release(bus, found, model_id))


def apply(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Check this models.yml first; that of the fleet by default.")
    ] = None,
    cluster: ClusterOption = "",
    nats: NatsOption = "",
) -> None:
    """Roll out: let `krt model serve FILE` look at its file and at its models' folders, and print what changes.

    What differs is replaced; models that were stopped by hand, or have used up their restarts, are started again.

    Exit codes: 0 applied, 1 it did not answer, 2 the file is wrong, 5 no fleet runs, or it is not reachable.

    Example: krt model apply
    """
    if file is not None:
        _check(file)
    _run(cluster, nats, _apply)


def logs(
    model_id: ModelArgument,
    cluster: ClusterOption = "",
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="NUMBER", min=1, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
) -> None:
    """Print what a model and its hosts have said, of a fleet of this folder; it may have ended.

    Exit codes: 0 printed, 1 there is no log, 2 wrong arguments.

    Example: krt model logs m1 --follow
    """
    from runtime.cli.fleet_place import log_files
    from runtime.cli.model_logs import last_lines

    found = log_files(model_id, cluster, Path.cwd())
    if len(found) > 1:
        clusters = ", ".join(log.parent.name for log in found)
        raise errors.ConfigError(f"several clusters have a model {model_id} here: {clusters}; choose by --cluster")
    if not found:
        raise errors.NotFoundError(f"there is no log of a model {model_id} here: where was `krt model serve` started?")
    for line in last_lines(found[0], lines):
        typer.echo(line)
    if follow:
        _follow(found[0])


# --- what they do ---


def _run(cluster: str, nats: str, main: "Callable[[Bus, ClusterTarget], Coroutine[Any, Any, int]]") -> None:
    """Run a command on a connection to the cluster, and end with its exit code."""
    from runtime.cli import target
    from runtime.cli.fleet_place import connected, find_cluster

    found = find_cluster(cluster=cluster, nats=nats)

    async def connect_and_run() -> int:
        async with connected(found, name="krt model") as bus:
            return await main(bus, found)

    raise typer.Exit(target.run(connect_and_run))


async def _list(bus: "Bus", target: "ClusterTarget", as_json: bool) -> int:
    from dataclasses import asdict

    from runtime.cli.outputs import json_line
    from runtime.models.listing import listed
    from runtime.models.quarantine import Quarantine

    fleets = await _fleets(bus, target.cluster)
    models = listed(await _hosts(bus, target.cluster), fleets, await Quarantine.entries_of(bus, target.cluster))
    for line in [json_line(asdict(model)) for model in models] if as_json else _table(models):
        typer.echo(line)
    for fleet in fleets:
        if fleet.problem:
            typer.echo(f"not in force, see {fleet.file} on {fleet.host}:\n{fleet.problem}", err=True)
    return exits.OK


async def _stop(bus: "Bus", target: "ClusterTarget", model_id: str) -> int:
    import orjson

    from runtime.models import wire
    from runtime.spec import names

    hosts = [host for host in await _hosts(bus, target.cluster) if host.model_id == model_id]
    for host in hosts:
        subject = names.model_subject(host.cluster, host.model_id, host.deployment, wire.STOP)
        await bus.request(subject, orjson.dumps({}), timeout_s=ANSWER_LIMIT_S)
    if not hosts:
        typer.echo(f"krt: no model {model_id} runs in the cluster {target.cluster}", err=True)
        return exits.FAILED
    await _wait_until_gone(bus, target.cluster, [host.deployment for host in hosts])
    typer.echo(f"{model_id}: stopped")
    return exits.OK


async def _release(bus: "Bus", target: "ClusterTarget", model_id: str) -> int:
    from runtime.models.quarantine import Quarantine

    lifted = await (await Quarantine.open(bus, target.cluster)).release(model_id)
    for entry in lifted:
        typer.echo(f"{model_id}: released; it was kept for: {entry.reason}")
    if not lifted:
        typer.echo(f"krt: the model {model_id} is not in quarantine", err=True)
    return exits.OK if lifted else exits.FAILED


async def _apply(bus: "Bus", target: "ClusterTarget") -> int:
    """Ask the fleet of this folder, or every fleet of the cluster."""
    import orjson

    from runtime.cli.fleet_place import REMEDY
    from runtime.cli.target import NotRunningError
    from runtime.deploy.fleet import APPLY
    from runtime.spec import names

    here = target.fleet
    instances = [here.instance] if here else [fleet.instance for fleet in await _fleets(bus, target.cluster)]
    if not instances:
        raise NotRunningError(f"no fleet of {target.cluster} runs: {REMEDY}")
    problems: list[str] = []
    for instance in instances:
        subject = names.fleet_subject(target.cluster, instance, APPLY)
        answer = orjson.loads((await bus.request(subject, b"", timeout_s=APPLY_LIMIT_S)).data)
        for line in answer["changes"]:
            typer.echo(line)
        problems += answer["problems"]
    for problem in problems:
        typer.echo(problem, err=True)
    return exits.CONFIG if problems else exits.OK


def _check(file: Path) -> None:
    """Raises ConfigError with every problem of the file."""
    from runtime.spec.models_file import load_models

    loaded = load_models(file)
    if loaded.models_file is None:
        raise errors.WorkflowError(loaded.report.problems)


def _follow(log: Path) -> None:
    import time

    opened = log.open(errors="replace")
    opened.seek(0, 2)
    while True:
        if text := opened.read():
            typer.echo(text, nl=False)
        elif not _is_same(log, opened.fileno()):  # a new log was begun
            opened.close()
            opened = log.open(errors="replace")
        else:
            time.sleep(FOLLOW_EVERY_S)


def _is_same(log: Path, descriptor: int) -> bool:
    import os

    try:
        return os.path.samestat(log.stat(), os.fstat(descriptor))
    except FileNotFoundError:  # between the old log and the new one
        return True


# --- who is there ---


async def _hosts(bus: "Bus", cluster: str) -> "list[HostRecord]":
    from runtime.models.wire import HostRecord
    from runtime.spec import names

    return await _records(bus, names.model_presence_keys(cluster), HostRecord.of)


async def _fleets(bus: "Bus", cluster: str) -> "list[FleetRecord]":
    from runtime.models.listing import FleetRecord
    from runtime.spec import names

    return await _records(bus, names.presence_key(names.FLEET, cluster, "*"), FleetRecord.of)


async def _records(bus: "Bus", keys: str, read: "Callable[[str, ServiceRecord], T]") -> list[T]:
    """Return what is present under these keys; a record that cannot be read is told and passed over."""
    from runtime.bus.presence import PresenceSet
    from runtime.clock import SystemClock
    from runtime.spec import names

    present = await PresenceSet.open(bus, names.PRESENCE_BUCKET, keys, SystemClock())
    found = []
    for key, record in sorted(present.records.items()):
        try:
            found.append(read(key, record))
        except ValueError as error:
            typer.echo(f"krt: {key} is passed over: {error}", err=True)
    await present.close()
    return found


async def _wait_until_gone(bus: "Bus", cluster: str, deployments: Sequence[str]) -> None:
    """Raises BusUnavailableError for hosts that do not end."""
    import asyncio

    from runtime.bus.presence import PresenceSet
    from runtime.clock import SystemClock
    from runtime.spec import names

    changed = asyncio.Event()
    present = await PresenceSet.open(
        bus,
        names.PRESENCE_BUCKET,
        names.model_presence_keys(cluster),
        SystemClock(),
        on_change=lambda key, record: changed.set(),
    )
    try:
        async with asyncio.timeout(GONE_LIMIT_S):
            while any(key.rpartition(".")[2] in deployments for key in present.records):
                changed.clear()
                await changed.wait()
    except TimeoutError as error:
        raise errors.BusUnavailableError(f"the model has not ended after {GONE_LIMIT_S:g} s") from error
    finally:
        await present.close()


def _table(models: "Sequence[ListedModel]") -> list[str]:
    """Return one line for each model, in columns under a head."""
    head = ("ID", "NAME", "STATE", "DEPLOYMENT", "INSTANCE", "RESTARTS", "LAST ERROR")
    rows = [
        (
            model.id,
            model.name,
            model.state,
            model.deployment or "-",
            str(model.instance or "-"),
            str(model.restarts),
            " ".join(model.reason.split()),
        )
        for model in models
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
