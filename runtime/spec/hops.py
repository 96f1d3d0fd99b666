"""What tells the way of a message through the nodes of a fused chain, where no stream has seen it. Pure.

| what | example | says |
|---|---|---|
| path | `-0-2r1` | output 0 of the first node, of which the next one made output 2 when it was redriven once |
| header `Krt-Hops` | `clean 812,score 95` | the nodes that it has passed, and how long each one's handler ran, in µs |

A path stands behind the sequence of the message that the chain took from the stream, and makes ids of it: those of
outputs, of documents and of dead letters.
"""

import re
from typing import NamedTuple

_HOP = re.compile(r"([^ ,]+) (\d+)")
_TOKEN = re.compile(r"-[a-z]*\d+(?:r(\d+))?")


class Hop(NamedTuple):
    """A node that a message has passed inside of a process, and how long its handler ran, in microseconds."""

    node: str
    run_us: int


def path_behind(message_id: str) -> str:
    """Return the path of an output that is handed on inside of a process, by the id that it would have in the stream.

    `-0-2r1` for `score.17-0.2#r1`.
    """
    place = message_id.partition(".")[2].replace(".", "-").replace("#", "")
    return place[place.index("-") :]


def path_of_output(path: str, number: int, redrive: int) -> str:
    """Return the same for a plain output, from the parts of its id."""
    return f"{path}-{number}r{redrive}" if redrive else f"{path}-{number}"


def place(origin: int, path: str) -> str:
    """Return the value of a header with a sequence and the path behind it: `17-0`."""
    return f"{origin}{path}"


def read_place(text: str) -> tuple[int, str]:
    """Return the sequence and the path that `place` has put together. Raises ValueError."""
    origin, dash, path = text.partition("-")
    return int(origin), f"{dash}{path}"


def redrives(path: str) -> list[int]:
    """Return how often each node of a path had been redriven, first to last."""
    return [int(token[1] or 0) for token in _TOKEN.finditer(path)]


def first_nodes(path: str, count: int) -> str:
    """Return the part of a path that the first `count` nodes have made."""
    return "".join(token[0] for token in list(_TOKEN.finditer(path))[:count])


def add_hop(header: str, node: str, run_us: int) -> str:
    """Return the value of the header `Krt-Hops` behind one more node."""
    return f"{header},{node} {run_us}" if header else f"{node} {run_us}"


def read_hops(header: str) -> tuple[Hop, ...]:
    """Return the nodes that a message has passed; nothing for anything else."""
    return tuple(Hop(hop[1], int(hop[2])) for hop in _HOP.finditer(header))
