"""Batch runs as text for people."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from runtime.batch.summaries import RunSummary
from runtime.cli.quantities import iso, moment, size, span

if TYPE_CHECKING:  # pydantic, which a list needs nothing of
    from runtime.batch.run import Artifact, RunRecord

_COLUMNS = ("RUN", "NODE", "MODEL", "STATE", "AGE", "RAN", "WHY")
# Artifacts that `krt runs show` names before it counts them.
MAX_SHOWN = 20


def run_lines(runs: Sequence[RunSummary], now_ms: int) -> Iterator[str]:
    """Yield a heading and a line for each run, aligned. Not by rich: it takes seconds for thousands of rows."""
    return _aligned([_COLUMNS, *(_row(run, now_ms) for run in runs)])


def artifact_lines(artifacts: "Sequence[Artifact]") -> Iterator[str]:
    """Yield a heading and a line for each file, aligned."""
    rows = [(each.path, size(each.size), each.visibility, each.sha256) for each in artifacts]
    return _aligned([("PATH", "SIZE", "VISIBILITY", "SHA-256"), *rows])


def run_text(record: "RunRecord", now_ms: int) -> str:
    """Return everything about one run that is known."""
    lines = [f"run {record.run_id}"]
    return "\n".join([*lines, *(f"  {name:<10} {text}" for name, text in _facts(record, now_ms).items() if text)])


def outcome(record: "RunRecord") -> str:
    """Return in a few words where a run is, or how it has ended."""
    why = ", ".join(part for part in (record.reason, record.detail) if part)
    return f"{record.state}: {why}" if why else str(record.state)


def _facts(record: "RunRecord", now_ms: int) -> dict[str, str]:
    times, versions = record.times, record.versions
    ended = times.ended or times.finished
    return {
        "request": record.id,
        "node": record.node,
        "model": f"{record.slug} {versions.model}".rstrip(),
        "image": f"{record.image} {record.image_digest}".strip(),
        "connector": versions.connector,
        "state": outcome(record),
        "exit": record.signal or ("" if record.exit_code is None else f"code {record.exit_code}"),
        "attempt": str(record.attempt or ""),
        "worker": record.owner,
        "created": moment(times.created * 1_000_000, now_ms * 1_000_000),
        "ran": _ran(times.started, ended, now_ms),
        "finished": iso(times.finished * 1_000_000) if times.finished else "",
        "kept until": iso(times.expires * 1_000_000) if times.expires else "",
        "results": f"{record.locations.store}/{record.locations.results}" if record.locations.results else "",
        "artifacts": _named(record),
        "callbacks": _callbacks(record),
    }


def _named(record: "RunRecord") -> str:
    shown = [each.path for each in record.artifacts[:MAX_SHOWN]]
    more = len(record.artifacts) + record.left_out - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown)


def _callbacks(record: "RunRecord") -> str:
    told = {"start": record.callbacks.start, "end": record.callbacks.end}
    known = [f"{name} {each.status} ({each.answer or 'no answer yet'})" for name, each in told.items() if each.status]
    return ", ".join(known)


def _row(run: RunSummary, now_ms: int) -> tuple[str, ...]:
    age = span((now_ms - run.created) / 1000)
    ran = _ran(run.started, run.ended, now_ms)
    return (run.run_id, run.node, run.slug, run.state, age, ran, run.reason or "")


def _ran(started: int, ended: int, now_ms: int) -> str:
    """Return how long the model has run, "" before it does."""
    return span(((ended or now_ms) - started) / 1000) if started else ""


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:<{width}}}" for width in widths)
    return (line.format(*row).rstrip() for row in rows)
