"""What was measured, as one table and as JSON."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

# Columns of a table that is not printed to a terminal, which would else be folded at 80.
PLAIN_WIDTH = 132


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure has to reach: at least (or at most) `bound`, in the unit of the figure or as a ratio."""

    bound: float
    at_most: bool = False

    def is_met_by(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. A ratio is this value over the baseline's; the target is the ratio's, if there is one.

    low, high: the range over the rounds, None for a single one. cpu_us: processor time of the contender's processes per
    message, the lowest of the rounds: other work on the machine only adds to it. why_missing: why value is NaN.
    """

    name: str
    who: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    cpu_us: float | None = None
    ratio: float | None = None
    baseline: str = ""
    target: Target | None = None
    why_missing: str = ""

    @classmethod
    def missing(cls, name: str, who: str, why: str) -> "Row":
        """Return the row of a contender that could not be measured."""
        return cls(name=name, who=who, value=math.nan, unit="", why_missing=why)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        figure = self.value if self.ratio is None else self.ratio
        return "ok" if self.target.is_met_by(figure) else "miss"

    def cells(self) -> list[str]:
        spread = f"{_number(self.low)}–{_number(self.high)}" if self.low is not None and self.high is not None else ""
        cpu = f"{self.cpu_us:.1f}" if self.cpu_us is not None else ""
        ratio = f"{self.ratio:.2f} × {self.baseline}" if self.ratio is not None else ""
        return [
            self.name,
            self.who,
            "not measured" if self.why_missing else f"{_number(self.value)} {self.unit}",
            spread,
            cpu,
            ratio,
            self._bound(),
            self.verdict,
        ]

    def _bound(self) -> str:
        if self.target is None:
            return ""
        sign = "<=" if self.target.at_most else ">="
        unit = "×" if self.ratio is not None else self.unit
        return f"{sign} {self.target.bound:g} {unit}"


def machine(server_version: str) -> dict[str, Any]:
    """Return what the figures depend on, besides the code."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "nats_server": server_version,
        "load_before": round(os.getloadavg()[0], 2),
    }


def print_table(rows: Sequence[Row], facts: dict[str, Any], notes: Sequence[str]) -> None:
    """Print the table, coloured and fitted on a terminal, plain and wide elsewhere."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()), highlight=False)
    for note in notes:
        console.print(note, highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("measurement", "who", "value", "range", "cpu µs/msg", "ratio", "target", ""):
        table.add_column(title, justify="right" if title in ("value", "range", "cpu µs/msg") else "left", no_wrap=True)
    for row in rows:
        style = {"ok": "green", "miss": "red"}.get(row.verdict, "")
        table.add_row(*row.cells(), style=style)
    console.print(table)
    for row in rows:
        if row.why_missing:
            console.print(f"{row.who}: {row.why_missing}", highlight=False, markup=False)


def write_json(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    measurements = [asdict(row) | {"verdict": row.verdict} for row in rows]
    # orjson writes a missing value, which is NaN, as null.
    path.write_bytes(orjson.dumps({"machine": facts, "measurements": measurements}, option=orjson.OPT_INDENT_2) + b"\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
