"""Options that several commands share, and how their texts are read."""

from pathlib import Path
from typing import Annotated

import typer

from runtime import errors
from runtime.durations import duration_s

PickOption = Annotated[
    str, typer.Option("--workflow", metavar="NAME", help="The workflow to take of a krt.yml with several.")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="[DIR]", help="A workflow's folder, or its file.")]
RuntimeOption = Annotated[str, typer.Option("--runtime", metavar="NAME", help="First part of the names.")]
MongoUriOption = Annotated[
    str, typer.Option("--mongo-uri", metavar="URI", help="Keep documents in this MongoDB, not in one of the file.")
]
InfluxUriOption = Annotated[
    str,
    typer.Option("--influx-uri", metavar="URI", help="Keep measurements in this InfluxDB, not in one of the file."),
]
WorkflowArgument = Annotated[
    str, typer.Argument(metavar="WORKFLOW", help="Name, folder or file of a running workflow.")
]
NatsOption = Annotated[str, typer.Option("--nats", metavar="URL", help="NATS server; with --stream, no run is needed.")]
StreamOption = Annotated[str, typer.Option("--stream", metavar="NAME", help="Stream of the workflow; with --nats.")]
TimeoutOption = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="Longest wait for an answer.")]
HeaderOption = Annotated[
    list[str], typer.Option("--header", metavar="KEY=VALUE", help="Header of the request; again for more.")
]
MessageOption = Annotated[
    str, typer.Option("--message", metavar="MODULE:CLASS", help="Send this protobuf message, made from the JSON.")
]

WorkflowOption = Annotated[
    str, typer.Option("--workflow", "-w", metavar="NAME", help="Which workflow, where several run: name, folder, file.")
]
NodeOption = Annotated[str, typer.Option("--node", metavar="NODE", help="Only of this node.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SinceOption = Annotated[
    str, typer.Option("--since", metavar="TIME", help="Not before: 2h ago, or 2026-11-21T14:00 (UTC).")
]


def parse_moment_ns(text: str, now_ns: int) -> int | None:
    """Return the unix time in nanoseconds of `2h` (ago) or `2026-11-21T14:00` (UTC), None for "".

    Raises ConfigError.
    """
    from datetime import UTC, datetime

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return now_ns - round(parse_duration_s(text) * 1e9)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def parse_duration_s(text: str) -> float:
    """Return the seconds of `500ms`, `30s`, `2m` or `1h`. Raises ConfigError."""
    try:
        return duration_s(text)
    except ValueError as error:
        raise errors.ConfigError(str(error)) from error


def parse_size_bytes(text: str) -> int:
    """Return the bytes of `512Mi` or `2Gi`. Raises ConfigError."""
    from runtime.spec.values import BYTES, SIZE

    match = SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise errors.ConfigError(f'"{text}" is no size; write a number above 0 and Ki, Mi, Gi or Ti: 2Gi')
    return int(match[1]) * BYTES[match[2]]


def parse_headers(texts: list[str]) -> dict[str, str]:
    """Return the headers of `key=value` texts. Raises ConfigError."""
    headers = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise errors.ConfigError(f'"{text}" is no header; write KEY=VALUE')
        headers[key] = value
    return headers
