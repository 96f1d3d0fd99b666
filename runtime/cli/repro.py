"""`krt repro`: the handler of a dead letter, called in this process with the very input that it gave up."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.dlq import IdArgument
from runtime.cli.options import NatsOption, StreamOption, WorkflowOption

if TYPE_CHECKING:
    from runtime.bus.base import Bus
    from runtime.deadletter import DeadLetter
    from runtime.node.handler import LoadedHandler
    from runtime.spec.model import Node
    from runtime.testing import RecordingContext


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """What the handler is called with. data: the input as it arrived. config, state: what its node has now.

    state: as `payload.encode_value` writes it, b"" for none.
    """

    died: "DeadLetter"
    data: bytes
    config: Mapping[str, str]
    state: bytes


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("repro")(repro)


def repro(
    letter_id: IdArgument,
    debug: Annotated[bool, typer.Option("--pdb", help="Enter the debugger where the handler raises.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--path", metavar="DIR", help="The workflow's folder, if it does not run here.")
    ] = None,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Run the handler on the input of a dead letter, here and now, and print its traceback, or what it returns.

    Nothing is sent or stored: the context keeps it. Documents begin empty; configuration and state are copies of what
    the node has now. `init` runs first. The handler is the file as it is now, so the same command tells whether a
    correction helps. The local run may have ended.

    Exit codes: 0 it passes, 1 it fails, 2 wrong arguments or a handler that cannot be loaded, 5 not running.

    Example: krt repro 3 --pdb
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    given = target.run(lambda: _fetch(found, letter_id))
    place = folder or (Path(found.run.folder) if found.run else None)
    if place is None:
        raise errors.ConfigError("say with --path where the workflow's folder is: it does not run from here")
    raise typer.Exit(_reproduce(place, given, debug=debug))


async def _fetch(found: target.Target, number: int) -> _Input:
    from runtime.inspection import letters, payloads

    async with target.connected(found, name="krt repro") as bus:
        try:
            letter = await letters.get(bus, found.stream, number)
            data = await letters.input_of(bus, letter)
            data = await payloads.whole(bus, found.stream, data, is_letter=not letter.letter.left_out)
        # The workflow is there, the message or its payload is not.
        except (errors.NotFoundError, errors.DecodeError) as error:
            raise errors.BusError(str(error)) from error
        return _Input(
            died=letter.letter,
            data=data,
            config=await _configuration(bus, found.stream, letter.letter.node),
            state=await _state(bus, found.stream, letter.letter.node, data),
        )


async def _configuration(bus: "Bus", stream: str, node: str) -> dict[str, str]:
    """Return the values that the node sees now: its own, else the workflow's, else the project's."""
    from runtime.spec import names

    runtime, _, rest = stream.partition("_")
    version, _, workflow = rest.partition("_")
    values: dict[str, str] = {}
    for place in ((runtime, version), (runtime, version, workflow), (runtime, version, workflow, node)):
        try:
            bucket = await bus.key_value(names.configuration_bucket(*place))
        except errors.NotFoundError:
            continue
        values |= {key: (await bucket.get(key)).value.decode() for key in await bucket.keys()}
    return values


async def _state(bus: "Bus", stream: str, node: str, data: bytes) -> bytes:
    """Return the state that the node keeps for this input now, b"" for none."""
    from runtime.inspection.seen import decode
    from runtime.node.state import StateEntry
    from runtime.spec import names

    try:
        bucket = await bus.key_value(names.state_bucket(stream, node))
        entry = await bucket.get(names.state_key(decode(data).state_id))
    except (errors.NotFoundError, errors.DecodeError):  # without an id to be read the handler is not called either
        return b""
    return StateEntry.decode(entry.value).payload


# --- the call ---


def _reproduce(folder: Path, given: _Input, *, debug: bool) -> int:
    """Call the handler and print what comes of it; returns the exit code."""
    from runtime.node.dead_letters import user_traceback
    from runtime.node.modules import HandlerModules
    from runtime.spec.load import load

    workflow = load(folder)
    died = given.died
    node = workflow.node(died.node)
    if not node.handler:
        raise errors.ConfigError(f'node "{node.name}" (kind {node.kind}) has no handler to run; redrive the message')
    os.environ.update(node.env)
    # Left in place until the end: the debugger imports what the handler does.
    handler = HandlerModules(workflow.folder.absolute()).load(node.handler, batched=node.batching is not None)
    typer.echo(f"{node.name} ({node.handler}) on message {died.sequence} of {died.stream}", err=True)
    started_s = time.perf_counter()
    result = target.run(lambda: _attempt(node, handler, given, workflow.folder))
    took_s = time.perf_counter() - started_s
    if isinstance(result, Exception):
        typer.echo(user_traceback(result), nl=False)
        typer.echo(f"fails after {took_s:.3f} s", err=True)
        if debug:
            _debug(result)
        return exits.FAILED
    _show(*result)
    typer.echo(f"passes now, in {took_s:.3f} s", err=True)
    return exits.OK


async def _attempt(
    node: "Node", handler: "LoadedHandler", given: _Input, folder: Path
) -> "tuple[list[Any], RecordingContext] | Exception":
    """Return what `_call` does, or what it raises, whose traceback begins here and not at the loop."""
    try:
        return await _call(node, handler, given, folder)
    except Exception as error:  # whatever the handler raises is what was asked for
        return error


async def _call(
    node: "Node", handler: "LoadedHandler", given: _Input, folder: Path
) -> "tuple[list[Any], RecordingContext]":
    """Decode as a runner does, call `init` and the handler, and return the outputs. Raises what they raise."""
    from runtime.inspection.seen import decode
    from runtime.message import MessageType
    from runtime.node.batching_handler import for_batches, results_of
    from runtime.node.state import StateClass
    from runtime.payload import encode_value
    from runtime.testing import RecordingBatch, RecordingContext, call

    message = decode(given.data)
    state = StateClass.load(node.state.type, handler).read(message.state_id, given.state) if node.state else None
    context = RecordingContext(
        node=node.name,
        path=folder,
        request_id=message.request_id,
        from_node=message.from_node,
        headers=message.headers,
        error=message.error if message.type is MessageType.ERROR else "",
        config=given.config,
        state=state,
    )
    if node.batching is not None:
        handler = for_batches(handler)
    function = handler.select(message.from_node)
    if function is None:
        raise errors.DecodeError(f"no handler for messages from node '{message.from_node}'", reason="no-handler")
    data = function.decode(message.payload)
    if handler.init is not None:
        await call(handler.init.function, context)
    if function.batched:
        returned = await call(function.function, RecordingBatch([context]), [data])
        result = results_of(returned, 1)[0]
    else:
        result = await call(function.function, context, data)
    outputs = [] if result is None else result if isinstance(result, list) else [result]
    for output in outputs:
        if isinstance(output, (errors.Retry, errors.Reject)):
            raise output
        if not isinstance(output, errors.Drop):
            encode_value(output)  # raises, as the runner does, for what has no form on the wire
    return outputs, context


def _show(outputs: list[Any], context: "RecordingContext") -> None:
    """Print what the handler has returned, sent and saved, as JSON."""
    from runtime.cli.message_text import value_text
    from runtime.inspection.seen import shown
    from runtime.payload import encode_value

    for sent in context.sent:
        channel = f" on {sent.channel}" if sent.channel else ""
        typer.echo(f"sent{channel}: {value_text(shown(encode_value(sent.value)))}")
    for collection, documents in context.saved.items():
        for document in documents:
            typer.echo(f"saved in {collection}: {value_text(document)}")
    for output in outputs:
        if isinstance(output, errors.Drop):
            typer.echo(f"dropped: {output.reason or 'without a reason'}")
        else:
            typer.echo(f"returned: {value_text(shown(encode_value(output)))}")


def _debug(error: Exception) -> None:
    import pdb

    pdb.post_mortem(error.__traceback__)
