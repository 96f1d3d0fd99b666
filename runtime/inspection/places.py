"""Which node made a message, of which input; in a fused chain of an input that no stream has seen. Pure.

The id of a message says which input it was made from (`names.message_id`), and where its path and the header `Krt-Hops`
say that it came through a process, which nodes were on the way (`spec/hops.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from runtime.deadletter import DeadLetter
from runtime.inspection.seen import Seen
from runtime.spec import hops, names


class Place(NamedTuple):
    """A node and its input: the message `source` of the stream, or what became of that inside of a process: `path`."""

    node: str
    source: int
    path: str = ""


class Places:
    """The places of one request. messages: all that the streams keep of it, dead letters apart."""

    def __init__(self, messages: Sequence[Seen], letters: Iterable[DeadLetter]) -> None:
        self._redriven = dict(_redriven_inputs(messages))
        self._present = {message.sequence for message in messages}
        # By the message of the stream: where it was taken. By place: what it handed on, and how long its handler ran.
        self._taken: dict[int, dict[Place, None]] = defaultdict(dict)
        self._behind: dict[Place, dict[Place, None]] = defaultdict(dict)
        self.ran_s: dict[Place, float] = {}
        for message in messages:
            self._note(self._way_to(message), message.hops)
        for letter in letters:
            self._note(_way_to_letter(letter), hops.read_hops(letter.headers.get(names.HOPS_HEADER, "")))

    def of(self, message: Seen) -> Place | None:
        """Return where a message was made, for a redriven input where it was given up; None if that is not known."""
        way = self._way_to(message)
        return way[-1] if way else None

    def taken(self, sequence: int) -> Iterable[Place]:
        """Return where a message of the stream was taken, as far as something came of it."""
        return self._taken[sequence]

    def behind(self, place: Place) -> Iterable[Place]:
        """Return where the outputs went that a fused node has handed on, as far as something came of them."""
        return self._behind[place]

    def _note(self, way: Sequence[Place], passed: Sequence[hops.Hop]) -> None:
        if not way:
            return
        self._taken[way[0].source][way[0]] = None
        for before, behind in pairwise(way):
            self._behind[before][behind] = None
        # The last place of a way tells its own time, in its message; those before it are the last of the hops.
        for place, hop in zip(reversed(way[:-1]), reversed(passed), strict=False):
            self.ran_s[place] = max(self.ran_s.get(place, 0.0), hop.run_us / 1e6)

    def _way_to(self, message: Seen) -> list[Place]:
        """Return the places from where the stream's message was taken to where this one was made; none if unknown."""
        made = names.read_message_id(message.message_id)
        if made is None:
            return []
        redrive = made.redrive - (made.mark == names.REDRIVE_MARK)
        nodes, redrives = _nodes(made.node, message.hops, made.path), [*hops.redrives(made.path), redrive]
        start = _entry(redrives) if nodes else len(redrives) - 1
        source: int | None = made.origin
        if redrives[start]:
            node = nodes[start] if nodes else made.node
            source = self._redriven.get((node, made.origin, hops.first_nodes(made.path, start), redrives[start]))
        if source is None or source not in self._present:
            return []
        return _places(nodes or [""] * start + [made.node], source, made.path, start)


def is_redriven_input(message: Seen) -> bool:
    """Say whether a message is an input that was given back, and no output."""
    made = names.read_message_id(message.message_id)
    return made is not None and made.mark == names.REDRIVE_MARK


def place_of_letter(letter: DeadLetter) -> Place:
    """Return where a message was given up."""
    return Place(letter.node, letter.sequence, letter.path)


def _way_to_letter(letter: DeadLetter) -> list[Place]:
    nodes = _nodes(letter.node, hops.read_hops(letter.headers.get(names.HOPS_HEADER, "")), letter.path)
    if not nodes:
        return [place_of_letter(letter)]
    start = _entry([*hops.redrives(letter.path), letter.redrive])
    return _places(nodes, letter.sequence, letter.path, start)


def _nodes(node: str, passed: Sequence[hops.Hop], path: str) -> list[str]:
    """Return the nodes of a way, the last one included; none where the header does not tell them all."""
    return [*(hop.node for hop in passed), node] if len(passed) == len(hops.redrives(path)) else []


def _entry(redrives: Sequence[int]) -> int:
    """Return the position of the node that took the message from the stream: the last one redriven, or the first."""
    return max((number for number, count in enumerate(redrives) if count), default=0)


def _places(nodes: Sequence[str], source: int, path: str, start: int) -> list[Place]:
    return [Place(nodes[number], source, hops.first_nodes(path, number)) for number in range(start, len(nodes))]


def _redriven_inputs(messages: Iterable[Seen]) -> Iterable[tuple[tuple[str, int, str, int], int]]:
    """Yield the sequence of each redriven input by node, origin, path and number of the redrive."""
    for message in messages:
        made = names.read_message_id(message.message_id)
        if made is not None and made.mark == names.REDRIVE_MARK:
            yield (made.node, made.origin, made.path, made.redrive), message.sequence
