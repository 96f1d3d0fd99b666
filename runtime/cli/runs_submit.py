"""A request for runs, from the command line to its results."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from runtime import errors
from runtime.batch.request import InvalidRequestError
from runtime.batch.run import RunState
from runtime.batch.submit import batch_nodes, submit
from runtime.cli import exits, target
from runtime.cli.outputs import json_line
from runtime.cli.runs_follow import print_change, wait_for_all
from runtime.clock import SystemClock
from runtime.message import new_request_id

if TYPE_CHECKING:
    from runtime.cli.runs import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask for. text: JSON as it was written. id: "" for a new one. wait: for the ends of its runs."""

    text: bytes
    id: str
    wait: bool


def read_text(file: str) -> bytes:
    """Return what is in a file, or on the standard input for `-`. Raises ConfigError."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise errors.ConfigError(f"{file}: {error.strerror}") from error


def find_node(text: str, nats: str, stream: str) -> tuple[target.Target, str]:
    """Return what WORKFLOW[/NODE] names; "" for no node. Raises NotRunningError, ConfigError.

    A workflow may be named by its folder, which has slashes itself: the whole text is looked for first.
    """
    workflow, _, node = text.rstrip("/").rpartition("/")
    if nats and stream:
        return target.find(workflow, nats=nats, stream=stream), node if workflow else ""
    try:
        return target.find(text, nats=nats, stream=stream), ""
    except target.NotRunningError:
        if not workflow:
            raise
    return target.find(workflow, nats=nats, stream=stream), node


async def ask(place: "Place", node: str, request: Request) -> int:
    """Store the request, print the ids of its runs, or their results in the end, and return the exit code."""
    node = node or await _only_node(place)
    try:
        run_ids = await submit(place.bus, place.stream, node, request.text, request_id=request.id or new_request_id())
    except (InvalidRequestError, errors.MessageError) as error:
        typer.echo(f"invalid: {error}", err=True)
        return exits.INVALID
    except errors.StreamFullError as error:
        raise target.NotRunningError(str(error)) from error
    if not request.wait:
        typer.echo("\n".join(run_ids))
        return exits.OK
    ended = await wait_for_all(place.records, run_ids, print_change)
    typer.echo("\n".join(json_line(record.result()) for record in ended))
    return exits.OK if all(record.state is RunState.COMPLETE for record in ended) else exits.FAILED


async def _only_node(place: "Place") -> str:
    """Return the workflow's node of kind batch. Raises ConfigError unless there is just one."""
    nodes = await batch_nodes(place.bus, place.stream, SystemClock())
    if len(nodes) == 1:
        return nodes[0]
    here = f"there are {', '.join(nodes)}" if nodes else "no worker of one is alive"
    raise errors.ConfigError(f"name the batch node, as WORKFLOW/NODE: {here}")
