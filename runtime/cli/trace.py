"""`krt trace`: one request through the workflow, as a tree of its messages and of what the nodes made of them."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import exits, target
from runtime.cli.options import JsonOption, NatsOption, SinceOption, StreamOption, WorkflowOption, parse_moment_ns

if TYPE_CHECKING:
    from runtime.inspection.seen import Seen
    from runtime.inspection.trace import Step, Trace


@dataclass(frozen=True, slots=True)
class _Branch:
    """A line of the tree and what hangs below it."""

    text: str
    below: Sequence["_Branch"] = ()


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("trace")(trace)


def trace(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As answers, logs and dead letters tell it.")],
    since: SinceOption = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Look at the newest N messages.")
    ] = 1_000_000,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show what became of a request: every message, what each node made of it, how long it waited and ran.

    A stream has no index of requests, so messages are read one after the other, some 50,000 a second; --since and
    --limit say how many. Nothing is taken from anybody. Where a time is missing, the stream does not tell it. After a
    local run it reads what that has left.

    Exit codes: 0 found, 1 not found, 2 wrong arguments, 5 not running or not reachable.

    Example: krt trace 0f8d2b7a91c34e5d --since 10m
    """
    since_ns = parse_moment_ns(since, time.time_ns())
    found = target.find_one(workflow, nats=nats, stream=stream, ended=True)
    seen = target.run(lambda: _trace(found, request_id, since_ns, limit))
    if not seen.messages and not seen.letters:
        typer.echo(_not_found(seen), err=True)
        raise typer.Exit(exits.FAILED)
    _print(seen, as_json)


async def _trace(found: target.Target, request_id: str, since_ns: int | None, limit: int) -> "Trace":
    from runtime.inspection import trace as look

    async with target.connected(found, name="krt trace") as bus:
        try:
            return await look.trace(
                bus, found.stream, request_id, since_ns=since_ns, limit=limit, on_progress=_tell_progress
            )
        finally:
            _clear_progress()


def _tell_progress(read: int, left: int) -> None:
    if left and sys.stderr.isatty():
        typer.echo(f"\r{read:,} messages read, {left:,} left ", err=True, nl=False)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


def _not_found(seen: "Trace") -> str:
    where = f"{seen.read:,} messages were looked at"
    if not seen.complete:
        return f"request {seen.request_id} is not among the newest {seen.read:,} messages; look at more with --limit"
    return f"request {seen.request_id} is not there: {where}; it may have been purged, or is older than --since"


# --- printing ---


def _print(seen: "Trace", as_json: bool) -> None:
    from runtime.cli.outputs import json_line

    if as_json:
        typer.echo(json_line(_record(seen)))
        return
    typer.echo("\n".join([_head(seen), *_lines(_branches(seen))]))
    if not seen.complete:
        typer.echo(f"only the newest {seen.read:,} messages were looked at; --limit looks at more", err=True)


def _head(seen: "Trace") -> str:
    from runtime.cli.quantities import iso, span

    times_ns = [message.stored_ns for message in seen.messages] + [letter.died_ns for letter in seen.letters]
    took = span((max(times_ns) - min(times_ns)) / 1e9)
    return f"request {seen.request_id}, {iso(min(times_ns))}, {took} from the first message to the last"


def _branches(seen: "Trace") -> list[_Branch]:
    if seen.messages:
        return [_message_branch(seen, message) for message in seen.roots]
    lost = ((letter.id, letter.letter.node) for letter in seen.letters)
    return [_Branch(f"dead letter {number} of {node}; its messages are purged") for number, node in lost]


def _message_branch(seen: "Trace", message: "Seen") -> _Branch:
    return _Branch(_message_line(message), [_step_branch(seen, step) for step in seen.steps[message.sequence]])


def _step_branch(seen: "Trace", step: "Step") -> _Branch:
    led_to = [*step.outputs, *([step.redriven] if step.redriven else [])]
    fused = [_step_branch(seen, inner) for inner in step.inner]
    return _Branch(_step_line(step), [*(_message_branch(seen, message) for message in led_to), *fused])


def _lines(branches: Sequence[_Branch]) -> Iterator[str]:
    """Yield the lines of a tree, as wide as they are: a terminal wraps them, and a pipe loses nothing."""
    for number, branch in enumerate(branches, start=1):
        is_last = number == len(branches)
        yield f"{'└──' if is_last else '├──'} {branch.text}"
        yield from (f"{'    ' if is_last else '│   '}{line}" for line in _lines(branch.below))


def _message_line(message: "Seen") -> str:
    from runtime.cli.message_text import payload_text
    from runtime.cli.quantities import size
    from runtime.message import MessageType

    parts = [f"#{message.sequence} on {message.subject.partition('.')[2]}", size(message.size_bytes)]
    if message.type not in (MessageType.OK.name, MessageType.UNDEFINED.name):
        parts.append(f"{message.type} {message.error}".rstrip())
    parts += [f"cannot be read: {message.fault}"] if message.fault else []
    parts += [payload_text(message)] if message.claim else []
    return ", ".join(parts)


def _step_line(step: "Step") -> str:
    from runtime.cli.quantities import span

    parts = [f"{step.node}: {step.fate}"]
    if step.letter is not None:
        died = step.letter.letter
        parts[0] += f" {step.letter.id}"
        parts.append(f"{died.reason} after {len(died.attempts)} attempts: {died.error}")
    if step.unfit:
        parts.append(f"{step.unfit} does not fit")
    if step.wait_s is not None and step.run_s is not None:
        parts.append(f"waited {span(step.wait_s)}, ran {span(step.run_s)}")
    elif step.run_s is not None:
        parts.append(f"ran {span(step.run_s)}")
        parts += [f"{span(step.took_s)} with all that is fused with it"] if step.took_s is not None else []
    elif step.took_s is not None:
        parts.append(f"waited and ran {span(step.took_s)}")
    return ", ".join(parts)


def _record(seen: "Trace") -> dict[str, Any]:
    from runtime.cli.letter_text import letter_record
    from runtime.cli.message_text import message_record

    messages = [
        {**message_record(message), "steps": [_step_record(step) for step in seen.steps[message.sequence]]}
        for message in seen.messages
    ]
    return {
        "request_id": seen.request_id,
        "read": seen.read,
        "complete": seen.complete,
        "roots": [message.sequence for message in seen.roots],
        "messages": messages,
        "dead_letters": [letter_record(letter) for letter in seen.letters],
    }


def _step_record(step: "Step") -> dict[str, Any]:
    return {
        "node": step.node,
        "fate": step.fate,
        "unfit": step.unfit,
        "took_s": step.took_s,
        "wait_s": step.wait_s,
        "run_s": step.run_s,
        "outputs": [output.sequence for output in step.outputs],
        "dead_letter": step.letter.id if step.letter else None,
        "redriven": step.redriven.sequence if step.redriven else None,
        "fused": [_step_record(inner) for inner in step.inner],
    }
