"""`krt send`: one request to a running workflow, its answer as JSON."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import (
    HeaderOption,
    MessageOption,
    NatsOption,
    StreamOption,
    TimeoutOption,
    WorkflowArgument,
    parse_duration_s,
    parse_headers,
)
from runtime.message import ReplyOutcome

# What the exit code says of a request that ended without an OK; any other outcome is FAILED.
OUTCOME_EXITS: dict[str, int] = {
    ReplyOutcome.TIMEOUT: exits.TIMEOUT,
    ReplyOutcome.INVALID: exits.INVALID,
    ReplyOutcome.TOO_LARGE: exits.INVALID,
    ReplyOutcome.UNAVAILABLE: exits.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    inputs: Any
    state_id: str
    timeout_s: float
    headers: dict[str, str]
    wants_all: bool


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("send")(send)


def send(
    workflow: WorkflowArgument,
    inputs: Annotated[str, typer.Argument(metavar="JSON", help="A JSON value, @FILE, or - for the standard input.")],
    state_id: Annotated[str, typer.Option("--state-id", help="Key of ordered, isolated state.")] = "",
    timeout: TimeoutOption = "30s",
    header: HeaderOption = [],  # noqa: B006 - typer makes a list of its own for each call
    wants_all: Annotated[bool, typer.Option("--all", help="Print every answer until the last, one a line.")] = False,
    message: MessageOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Send one request and print the answer.

    The answer is one line of JSON on the standard output; what went wrong is on the standard error.

    Exit codes: 0 answered, 1 the workflow failed, 2 wrong arguments, 3 no answer in time, 4 the request was refused as
    invalid or is too large, 5 not running, not reachable or full.

    Example: krt send hello '{"name": "Ada"}'
    """
    from runtime.cli.inputs import converter, read_argument

    value = read_argument(inputs)
    timeout_s = parse_duration_s(timeout)
    headers = parse_headers(header)
    found = target.find(workflow, nats=nats, stream=stream)
    request = _Request(
        inputs=converter(message, found)(value),
        state_id=state_id,
        timeout_s=timeout_s,
        headers=headers,
        wants_all=wants_all,
    )
    raise typer.Exit(target.run(lambda: _ask(found, request)))


async def _ask(found: target.Target, request: _Request) -> int:
    """Send the request, print what comes, and return the exit code."""
    try:
        await _print_answers(found, request)
    except errors.PredictionError as error:
        place = f' in node "{error.node}"' if error.node else ""
        typer.echo(f"{error.outcome}{place}: {error.detail} (request {error.request_id})", err=True)
        if error.outcome == ReplyOutcome.TIMEOUT:
            typer.echo(f"where it is: krt trace {error.request_id}", err=True)
        return OUTCOME_EXITS.get(error.outcome, exits.FAILED)
    except errors.MessageError as error:
        typer.echo(f"invalid: {error}", err=True)
        return exits.INVALID
    return exits.OK


async def _print_answers(found: target.Target, request: _Request) -> None:
    from runtime.cli.outputs import json_line
    from runtime.client import Workflow

    options: dict[str, Any] = {
        "state_id": request.state_id,
        "timeout_s": request.timeout_s,
        "headers": request.headers,
    }
    async with target.connected(found, name="krt send") as bus, Workflow(bus, found.stream) as client:
        if not request.wants_all:
            typer.echo(json_line(await client.predict(request.inputs, **options)))
            return
        async for reply in client.predict_all(request.inputs, **options):
            typer.echo(json_line(reply.value))
