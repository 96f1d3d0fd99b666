"""`krt dlq`: the dead letters of a workflow, to be looked at, given back or dropped; its run may have ended."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import (
    JsonOption,
    NatsOption,
    NodeOption,
    SinceOption,
    StreamOption,
    WorkflowOption,
    parse_moment_ns,
)

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.inspection.letters import Letter, Wanted
    from runtime.inspection.redrive import Redriver

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="As `krt dlq ls` shows them.")]
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="As `krt dlq ls` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="WORD", help="Only with this reason, as failed.")]
UntilOption = Annotated[str, typer.Option("--until", metavar="TIME", help="Before: 2h ago, or a time as for --since.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every dead letter of the workflow.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What a command works on: letters by id, or those that fit the filters."""

    ids: Sequence[int]
    wanted: "Wanted"


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(
        help="Look at dead letters, give them back, drop them; after a local run, too.", no_args_is_help=True
    )
    group.command("ls")(list_letters)
    group.command("show")(show)
    group.command("redrive")(redrive)
    group.command("drop")(drop)
    app.add_typer(group, name="dlq")


def list_letters(
    node: NodeOption = "",
    reason: ReasonOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """List dead letters, oldest first; with --json one line of JSON each.

    Exit codes: 0 listed, 2 wrong arguments, 5 not running or not reachable.

    Example: krt dlq ls --node score --reason timeout --since 2h
    """
    wanted = _wanted(node, reason, since, until)
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    target.run(lambda: _list(found, wanted, as_json))


def show(
    letter_id: IdArgument,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show everything about one dead letter: reason, attempts, traceback, headers and input.

    Exit codes: 0 shown, 1 there is no such dead letter, 2 wrong arguments, 5 not running or not reachable.

    Example: krt dlq show 3
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    target.run(lambda: _show(found, letter_id, as_json))


def redrive(
    ids: IdsArgument = None,
    node: NodeOption = "",
    reason: ReasonOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    everything: AllOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Give dead letters back to the node that failed, with fresh attempts, and to no other node.

    A letter is deleted once its input is stored again. Ctrl-C in between loses nothing: repeat the command. Where the
    local run has ended, the next one handles it.

    Exit codes: 0 all redriven, 1 some are left or not there, 2 wrong arguments, 5 not running or not reachable,
    130 ended by Ctrl-C.

    Example: krt dlq redrive 3 5
    Example: krt dlq redrive --node score --reason timeout
    """
    choice = _choice(ids or [], _wanted(node, reason, since, until), everything)
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    raise typer.Exit(target.run(lambda: _redrive(found, choice)))


def drop(
    ids: IdsArgument = None,
    node: NodeOption = "",
    reason: ReasonOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    everything: AllOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Remove dead letters for good.

    Exit codes: 0 removed, 1 some were not there, 2 wrong arguments, 5 not running or not reachable.

    Example: krt dlq drop --until 7d
    """
    choice = _choice(ids or [], _wanted(node, reason, since, until), everything)
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    raise typer.Exit(target.run(lambda: _drop(found, choice)))


# --- which ---


def _wanted(node: str, reason: str, since: str, until: str) -> "Wanted":
    from runtime.inspection.letters import Wanted

    now_ns = time.time_ns()
    since_ns, until_ns = parse_moment_ns(since, now_ns), parse_moment_ns(until, now_ns)
    return Wanted(node=node, reason=reason, since_ns=since_ns, until_ns=until_ns)


def _choice(ids: Sequence[int], wanted: "Wanted", everything: bool) -> _Choice:
    """Return what was chosen; nothing at all must not mean everything. Raises ConfigError."""
    from runtime.inspection.letters import Wanted

    has_filters = wanted != Wanted()
    if sum((bool(ids), has_filters, everything)) != 1:
        raise errors.ConfigError("say which dead letters: ids, or filters such as --node and --since, or --all")
    return _Choice(ids=ids, wanted=wanted)


async def _chosen(bus: "Bus", stream: str, choice: _Choice) -> AsyncIterator["Letter | None"]:
    """Yield the letters; None for an id that is not there, which is told, so that a repeated command goes on."""
    from runtime.inspection import letters

    for number in dict.fromkeys(choice.ids):
        try:
            yield await letters.get(bus, stream, number)
        except errors.NotFoundError as error:
            typer.echo(str(error), err=True)
            yield None
    if choice.ids:
        return
    try:
        async for letter in letters.find(bus, stream, choice.wanted):
            yield letter
    except errors.NotFoundError as error:
        raise errors.BusError(f"{stream} keeps no dead letters: its nodes say `dead_letter: drop`") from error


# --- what is done ---


async def _list(found: target.Target, wanted: "Wanted", as_json: bool) -> None:
    from runtime.cli.letter_text import letter_record, letters_table
    from runtime.cli.outputs import json_line

    async with target.connected(found, name="krt dlq") as bus:
        chosen = (letter async for letter in _chosen(bus, found.stream, _Choice(ids=(), wanted=wanted)) if letter)
        if as_json:
            async for letter in chosen:
                typer.echo(json_line(letter_record(letter)))
            return
        listed = [letter async for letter in chosen]
    if not listed:
        typer.echo("no dead letters", err=True)
        return
    from rich.console import Console

    Console(highlight=False).print(letters_table(listed, time.time_ns()))


async def _show(found: target.Target, number: int, as_json: bool) -> None:
    from runtime.cli.letter_text import letter_record, letter_text
    from runtime.cli.outputs import json_line

    async with target.connected(found, name="krt dlq") as bus:
        letter = await _get(bus, found.stream, number)
        try:
            data: bytes | None = await _input_of(bus, found.stream, letter)
        except errors.NotFoundError:  # purged; all the rest is still worth showing
            data = None
    typer.echo(json_line(letter_record(letter, data)) if as_json else letter_text(letter, data, time.time_ns()))


async def _input_of(bus: "Bus", stream: str, letter: "Letter") -> bytes:
    """Return the input of a letter, with its payload if that is still there."""
    from runtime.inspection import letters, payloads

    data = await letters.input_of(bus, letter)
    try:
        return await payloads.whole(bus, stream, data, is_letter=not letter.letter.left_out)
    except errors.DecodeError as error:
        typer.echo(str(error), err=True)
        return data


async def _get(bus: "Bus", stream: str, number: int) -> "Letter":
    """Return a letter; a missing one is a failure of this command, not a workflow that is not there."""
    from runtime.inspection import letters

    try:
        return await letters.get(bus, stream, number)
    except errors.NotFoundError as error:
        raise errors.BusError(str(error)) from error


async def _redrive(found: target.Target, choice: _Choice) -> int:
    from runtime.inspection.redrive import Redriver

    counts = {"redriven": 0, "left": 0}
    try:
        async with target.connected(found, name="krt dlq") as bus, Redriver(bus, found.stream) as redriver:
            async for letter in _chosen(bus, found.stream, choice):
                done = letter is not None and await _redrive_one(redriver, letter)
                counts["redriven" if done else "left"] += 1
    finally:  # also when it is interrupted: what was done stays done
        left = f", left {counts['left']}" if counts["left"] else ""
        typer.echo(f"redriven {counts['redriven']}{left}")
    return exits.FAILED if counts["left"] else exits.OK


async def _redrive_one(redriver: "Redriver", letter: "Letter") -> bool:
    """Redrive one letter; False, and the reason on the standard error, for one that cannot be."""
    try:
        way = await redriver.redrive(letter)
    except (errors.NotFoundError, errors.MessageTooLargeError) as error:
        typer.echo(f"dead letter {letter.id} is left: {error}", err=True)
        return False
    if way.others:
        also = ", ".join(way.others)
        typer.echo(f"dead letter {letter.id} went to {way.subject}, so {also} will handle it once more, too", err=True)
    return True


async def _drop(found: target.Target, choice: _Choice) -> int:
    from runtime.inspection import letters

    dropped = missing = 0
    try:
        async with target.connected(found, name="krt dlq") as bus:
            async for letter in _chosen(bus, found.stream, choice):
                if letter is None:
                    missing += 1
                    continue
                await letters.drop(bus, found.stream, letter)
                dropped += 1
    finally:  # also when it is interrupted
        typer.echo(f"dropped {dropped}")
    return exits.FAILED if missing else exits.OK
