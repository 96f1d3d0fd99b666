"""`krt feed`: the lines of a file as requests to a running workflow, and a summary of what became of them."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import (
    MessageOption,
    NatsOption,
    StreamOption,
    TimeoutOption,
    WorkflowArgument,
    parse_duration_s,
)

if TYPE_CHECKING:
    from runtime.cli.feed_run import Feeder, Result, Summary
    from runtime.cli.inputs import Convert

OnResult = Callable[["Result"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    file: Path
    out: Path | None
    as_text: bool
    limit: int | None
    rate: float | None
    window: int
    timeout_s: float
    convert: "Convert"


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("feed")(feed)


def feed(
    workflow: WorkflowArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl file, or a .csv file with a row of names.")],
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, help="Messages per second.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many lines.")] = None,
    window: Annotated[int, typer.Option("--window", min=1, help="Requests in flight at most.")] = 256,
    out: Annotated[Path | None, typer.Option("--out", help="Write every result to this .jsonl file.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Keep the cells of a CSV file as texts.")] = False,
    timeout: TimeoutOption = "30s",
    message: MessageOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Send every line of a file, and print count, failures, throughput and latency.

    A line that cannot be read counts as a failure and does not end the feed. Results are written as they arrive, with
    the index of their input: {"index", "line", "ok", "output" or "outcome" and "error", "latency_ms"}. Ctrl-C stops
    sending and waits for what is in flight; a second one leaves that too.

    Exit codes: 0 every line was answered, 1 at least one failed, 2 wrong arguments, 5 not running or not reachable,
    130 ended by Ctrl-C.

    Example: krt feed hello people.csv --rate 50 --out results.jsonl
    """
    from runtime.cli.inputs import converter

    found = target.find(workflow, nats=nats, stream=stream)
    options = _Options(
        file=file,
        out=out,
        as_text=text,
        limit=limit,
        rate=rate,
        window=window,
        timeout_s=parse_duration_s(timeout),
        convert=converter(message, found),
    )
    _check_file(file)
    summary = target.run(lambda: _feed(found, options))
    _print_summary(summary)
    raise typer.Exit(_exit_code(summary))


async def _feed(found: target.Target, options: _Options) -> "Summary":
    from runtime.cli.feed_run import Feeder
    from runtime.cli.inputs import read_inputs
    from runtime.client import Workflow
    from runtime.clock import SystemClock

    with ExitStack() as stack:
        write = stack.enter_context(_results_file(options.out))
        advance = stack.enter_context(_progress(options))

        def on_result(result: "Result") -> None:
            write(result)
            advance(result)

        async with target.connected(found, name="krt feed") as bus, Workflow(bus, found.stream) as client:
            feeder = Feeder(
                client,
                SystemClock(),
                on_result=on_result,
                convert=options.convert,
                window=options.window,
                timeout_s=options.timeout_s,
                rate=options.rate,
            )
            with _stopped_by_ctrl_c(feeder):
                return await feeder.run(read_inputs(options.file, as_text=options.as_text, limit=options.limit))


@contextmanager
def _stopped_by_ctrl_c(feeder: "Feeder") -> Iterator[None]:
    def on_signal() -> None:
        if feeder.in_flight and not feeder.is_stopping:
            typer.echo(f"stopping: {feeder.in_flight} requests in flight; Ctrl-C again leaves them", err=True)
        feeder.stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _results_file(out: Path | None) -> Iterator[OnResult]:
    """Yield what writes a result; it raises ConfigError when the disk does not take it."""
    if out is None:
        yield lambda _: None
        return
    from runtime.cli.outputs import json_line

    try:
        file = out.open("w", encoding="utf-8", buffering=1)  # line by line, so that others can follow
    except OSError as error:
        raise errors.ConfigError(f"{out}: {error.strerror}") from error

    def write(result: "Result") -> None:
        try:
            file.write(json_line(result.record()) + "\n")
        except OSError as error:
            raise errors.ConfigError(f"{out}: {error.strerror}") from error

    with file:
        yield write


@contextmanager
def _progress(options: _Options) -> Iterator[OnResult]:
    """Yield what moves the bar on; there is none unless the standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from runtime.cli.inputs import read_inputs

    total = sum(1 for _ in read_inputs(options.file, limit=options.limit))
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[failed]} failed"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("feed", total=total, failed=0)
        failed = 0

        def advance(result: "Result") -> None:
            nonlocal failed
            failed += not result.is_ok
            progress.update(bar, advance=1, failed=failed)

        yield advance


def _check_file(file: Path) -> None:
    """Raise ConfigError for a file that cannot be read, before anything is connected."""
    from runtime.cli.inputs import read_inputs

    next(read_inputs(file, limit=1), None)


def _print_summary(summary: "Summary") -> None:
    rows = [
        ("messages", f"{summary.count:,}"),
        ("failed", _failures(summary)),
        ("time", f"{summary.duration_s:.2f} s"),
        ("throughput", f"{summary.throughput:,.1f}/s"),
    ]
    if latencies := summary.percentiles_ms(50, 95, 99, 100):
        named = zip(("p50", "p95", "p99", "max"), latencies, strict=True)
        rows.append(("latency", "  ".join(f"{name} {value:.1f} ms" for name, value in named)))
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _failures(summary: "Summary") -> str:
    """Return the count of failures, and how many there were of each outcome."""
    kinds = [f"{count:,} {outcome}" for outcome, count in summary.outcomes.most_common() if outcome != "ok"]
    return f"{summary.failed:,} ({', '.join(kinds)})" if kinds else "0"


def _exit_code(summary: "Summary") -> int:
    if summary.is_interrupted:
        return exits.INTERRUPTED
    return exits.FAILED if summary.failed else exits.OK
