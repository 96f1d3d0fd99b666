"""Dead letters as text for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from runtime.bus.stored import StoredMessage
from runtime.cli.message_text import body_text, indented
from runtime.cli.quantities import iso, moment, size, span
from runtime.inspection.letters import Letter
from runtime.inspection.seen import Seen, see

if TYPE_CHECKING:
    from rich.table import Table


def letters_table(letters: Sequence[Letter], now_ns: int) -> "Table":
    """Return a table of letters, one row each."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("id", justify="right", no_wrap=True)
    for heading in ("node", "reason"):
        table.add_column(heading, no_wrap=True)
    for heading in ("age", "attempts", "redrives"):
        table.add_column(heading, justify="right", no_wrap=True)
    # The only column that gives way in a narrow terminal, which is why its cells, not the column, refuse to wrap.
    table.add_column("error")
    for each in letters:
        died = each.letter
        age = span((now_ns - each.died_ns) / 1e9)
        # As it is: an error may hold what rich takes for markup.
        error = Text(died.error.partition("\n")[0], no_wrap=True, overflow="ellipsis")
        counts = (str(len(died.attempts)), str(died.redrive))
        table.add_row(str(each.id), died.node, died.reason, age, *counts, error)
    return table


def letter_text(letter: Letter, data: bytes | None, now_ns: int) -> str:
    """Return everything about one letter; `data` is its input, None when that is lost."""
    died = letter.letter
    facts = {
        "reason": died.reason,
        "error": died.error,
        "died": moment(letter.died_ns, now_ns),
        "request": died.request_id or "unknown",
        "handler": died.handler_version or "unknown",
        "redriven": f"{died.redrive} times" if died.redrive else "never",
        "input": f"message {died.sequence} of {died.stream}, on {died.subject}, stored {iso(died.stored_ns)}",
        "headers": ", ".join(f"{name}: {value}" for name, value in died.headers.items()) or "none",
    }
    lines = [f"dead letter {letter.id} of node {died.node}"]
    lines += [f"  {name:<9} {text}" for name, text in facts.items()]
    return "\n".join([*lines, *_attempts(letter), *_input(letter, data), "traceback", indented(died.traceback)])


def letter_record(letter: Letter, data: bytes | None = None) -> dict[str, Any]:
    """Return what stands in JSON for a letter; with `data`, the input's value and envelope too."""
    record = {"id": letter.id, "died": iso(letter.died_ns), **asdict(letter.letter)}
    if data is not None:
        seen = _seen(letter, data)
        record["value"] = seen.value
        record["from_node"] = seen.from_node
        record["fault"] = seen.fault
    return record


def _attempts(letter: Letter) -> list[str]:
    lines = []
    for redrive, attempts in groupby(letter.letter.attempts, key=lambda attempt: attempt.redrive):
        lines.append(f"attempts after redrive {redrive}" if redrive else "attempts")
        lines += [f"  {each.attempt}  {iso(round(each.time_s * 1e9))}  {each.error}" for each in attempts]
    return lines


def _input(letter: Letter, data: bytes | None) -> list[str]:
    if data is None:
        return ["input", "  too large to be kept here, and purged from the stream"]
    seen = _seen(letter, data)
    return [f"input ({size(len(data))}, {seen.payload_type or 'no payload'})", indented(body_text(seen))]


def _seen(letter: Letter, data: bytes) -> Seen:
    died = letter.letter
    return see(StoredMessage(died.subject, died.sequence, data, died.headers, died.stored_ns))
