"""What is wrong with a workflow file: places, faults, and the report that collects every one of them.

A reader of one value raises `Fault`; whoever reads several values puts each reading under `report.collecting()`, so
that one fault never hides the next.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from runtime.errors import Problem

# Edits up to which a name counts as misspelt rather than as another one.
MAX_EDITS = 2
# Known names that a remedy lists, and names that are searched for a near one: both keep a huge file's report small.
MAX_LISTED = 24
MAX_SEARCHED = 1000


# The stable codes of problems: scripts and documentation refer to them, so that none is renamed.
Code = Literal[
    "bad-duration",
    "bad-name",
    "bad-size",
    "conflict",
    "cycle",
    "driver-import",
    "driver-source",
    "driver-value",
    "duplicate-key",
    "duplicate-name",
    "duplicate-source",
    "edge-type",
    "empty-file",
    "encoding",
    "from-and-join",
    "handler-import",
    "handler-signature",
    "idle-replicas",
    "long-retry",
    "merge-key",
    "missing-file",
    "missing-key",
    "not-fusable",
    "not-python",
    "not-shared",
    "not-yet",
    "order-at-risk",
    "out-of-range",
    "outside-folder",
    "partitions-differ",
    "reserved-name",
    "secret-value",
    "sink-source",
    "too-deep",
    "too-large",
    "too-many-sources",
    "unchecked-edge",
    "unknown-channel",
    "unknown-key",
    "unknown-object-store",
    "unknown-source",
    "unread",
    "unreadable",
    "which-workflow",
    "wrong-kind",
    "wrong-type",
    "wrong-value",
    "wrong-version",
    "yaml-syntax",
    "yaml-tag",
]


class Place(NamedTuple):
    """Line and column in the file, counted from 1."""

    line: int
    column: int


START = Place(1, 1)


class Fault(Exception):
    """One thing that is wrong at one place: what it is, what to do about it, and its stable code."""

    def __init__(self, place: Place, what: str, remedy: str, code: Code) -> None:
        super().__init__(what)
        self.place = place
        self.what = what
        self.remedy = remedy
        self.code = code


class Report:
    """The problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._problems: dict[tuple[Place, str], Problem] = {}

    def add(self, fault: Fault, *, warning: bool = False) -> None:
        """Note a fault. Of several with the same place and code the first stays: an anchor or the `defaults` are
        read once per node, but the text is wrong only once.
        """
        problem = Problem(*fault.place, self.file, fault.what, fault.remedy, fault.code, warning)
        self._problems.setdefault((fault.place, fault.code), problem)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note a fault that is raised inside, and go on behind."""
        try:
            yield
        except Fault as fault:
            self.add(fault)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything found so far, ordered by place."""
        return tuple(sorted(self._problems.values()))

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems without the warnings."""
        return tuple(problem for problem in self.problems if not problem.warning)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name within two edits of `name`, the first of the nearest ones; "" when there is none."""
    best, best_edits = "", MAX_EDITS + 1
    for candidate in list(known)[:MAX_SEARCHED]:
        if abs(len(candidate) - len(name)) < best_edits and (found := _edits(name, candidate)) < best_edits:
            best, best_edits = candidate, found
    # A name of two letters is within two edits of every other one.
    return best if best_edits < max(len(name), len(best)) else ""


def did_you_mean(name: str, known: Iterable[str], planned: Iterable[str] = ()) -> str:
    """Return the remedy for a name that nobody knows: the nearest one, planned ones included, else all the known."""
    candidates = list(known)
    if near := nearest(name, [*candidates, *planned]):
        return f'did you mean "{near}"?'
    return f"use {listed(candidates)}" if candidates else "remove it"


def listed(names: Iterable[str]) -> str:
    """Return `a, b or c`, shortened when there are many."""
    shown = list(names)
    if len(shown) > MAX_LISTED:
        return f"{', '.join(shown[:MAX_LISTED])} or one of {len(shown) - MAX_LISTED} more"
    return " or ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def _edits(one: str, other: str) -> int:
    """Return the edit distance, two swapped neighbours being one edit (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, left in enumerate(one, start=1):
        last, row = rows[-1], [i]
        for j, right in enumerate(other, start=1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (left != right)))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]
