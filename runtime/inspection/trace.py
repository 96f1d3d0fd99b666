"""One request on its way through a workflow, put together from what the streams keep.

A node writes nothing for this: the id of each output says which input it was made from (`names.message_id`), so the
messages of a request form a tree (`places.py`). What has no output yet is told by the node's consumer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from runtime.bus.base import Bus
from runtime.bus.stored import ConsumerState, StoredMessage
from runtime.errors import NotFoundError
from runtime.inspection.letters import Letter, Wanted, find
from runtime.inspection.payloads import look_up
from runtime.inspection.places import Place, Places, is_redriven_input, place_of_letter
from runtime.inspection.redrive import reads
from runtime.inspection.seen import Seen, see
from runtime.message import MessageType
from runtime.spec import names
from runtime.spec.selection import SELECTION_METADATA, SelectionSpec
from runtime.wire import GZIP_MAGIC

# Messages that are read in search of a request, the newest ones: some 50,000 a second.
DEFAULT_LIMIT = 1_000_000

# Called after each page: messages read so far, and messages still to be read.
OnProgress = Callable[[int, int], None]


class Fate(StrEnum):
    """What became of a message at one node; left out is told by the `when` that the node has now."""

    DONE = "done"
    LEFT_OUT = "left out"
    FAILED = "failed"
    DEAD = "dead letter"
    REDRIVEN = "redriven"
    WAITING = "waiting"
    IN_WORK = "in work"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one node has made of one message.

    outputs: messages that it sent, in their order. redriven: the same input, given back after a dead letter. took_s:
    from the storing of the input to that of the last output or dead letter, None while there is none. run_s: how long
    the handler ran, as its last output says, None without such an output; the attempts before are not in it.

    inner: steps of the nodes that are fused with it, on what it handed to them; `took_s` has them, too, and is None for
    themselves. One that sent nothing leaves no trace. unfit: what the node has left the message out for, as people read
    it: `field 'label'`; "" for every other fate.
    """

    node: str
    fate: Fate
    outputs: tuple[Seen, ...]
    letter: Letter | None
    redriven: Seen | None
    took_s: float | None
    run_s: float | None
    inner: tuple["Step", ...] = ()
    unfit: str = ""

    @property
    def wait_s(self) -> float | None:
        """Time of `took_s` in which this handler did not run: waiting for its turn, earlier attempts, storing."""
        if self.took_s is None or self.run_s is None or self.inner:
            return None
        return max(self.took_s - self.run_s, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that is kept of a request. steps: by the sequence of the input, in the order of the nodes' names.

    roots: messages that no other message here led to, the request itself first. read: messages that were looked at;
    complete: whether that was all that was asked for.
    """

    request_id: str
    messages: tuple[Seen, ...]
    letters: tuple[Letter, ...]
    roots: tuple[Seen, ...]
    steps: dict[int, tuple[Step, ...]]
    read: int
    complete: bool


async def trace(
    bus: Bus,
    stream: str,
    request_id: str,
    *,
    since_ns: int | None = None,
    limit: int = DEFAULT_LIMIT,
    on_progress: OnProgress = lambda read, left: None,
) -> Trace:
    """Find everything of a request among the newest `limit` messages, or those since a time.

    Streams have no index of requests, so all of these messages are read. Raises NotFoundError, BusUnavailableError.
    """
    consumers = await bus.consumer_states(stream)
    messages, read, complete = await _messages(bus, stream, request_id, since_ns, limit, on_progress)
    letters = await _letters(bus, stream, request_id, since_ns)
    tree = _Tree(messages, letters, consumers, await _selection(bus, stream))
    return Trace(
        request_id=request_id,
        messages=tuple(messages),
        letters=tuple(letters),
        roots=tuple(message for message in messages if message.sequence not in tree.led_to),
        steps={message.sequence: tree.steps(message) for message in messages},
        read=read,
        complete=complete,
    )


# --- finding ---


async def _messages(
    bus: Bus, stream: str, request_id: str, since_ns: int | None, limit: int, on_progress: OnProgress
) -> tuple[list[Seen], int, bool]:
    """Return the messages of a request, how many were looked at, and whether those were all that there are."""
    state = await bus.stream_state(stream)
    scan = await bus.scan(stream, since_ns=since_ns)
    complete = scan.left <= limit
    if not complete:
        await scan.close()
        scan = await bus.scan(stream, first_sequence=state.last_sequence - limit + 1)
    found: list[Seen] = []
    read = 0
    try:
        while page := await scan.read():
            found += [
                await look_up(bus, stream, see(stored)) for stored in page if _belongs(stored, stream, request_id)
            ]
            read += len(page)
            on_progress(read, scan.left)
            if page[-1].sequence >= state.last_sequence:
                break
    finally:
        await scan.close()
    return found, read, complete


def _belongs(stored: StoredMessage, stream: str, request_id: str) -> bool:
    # Most messages are not of the request: the text in the bytes is found a hundred times faster than by decoding.
    if not stored.data.startswith(GZIP_MAGIC) and request_id.encode() not in stored.data:
        # A request without an id is given this one by the node that reads it.
        return f"{stream}-{stored.sequence}" == request_id
    return see(stored).request_id == request_id


async def _letters(bus: Bus, stream: str, request_id: str, since_ns: int | None) -> list[Letter]:
    try:
        found = [letter async for letter in find(bus, stream, Wanted(since_ns=since_ns))]
    except NotFoundError:  # no node keeps dead letters
        return []
    return [letter for letter in found if letter.letter.request_id == request_id]


async def _selection(bus: Bus, stream: str) -> SelectionSpec:
    text = (await bus.stream_state(stream)).metadata.get(SELECTION_METADATA)
    return SelectionSpec.model_validate_json(text) if text else SelectionSpec()


# --- putting together ---


class _Tree:
    """What led to what."""

    def __init__(
        self,
        messages: Sequence[Seen],
        letters: Sequence[Letter],
        consumers: Sequence[ConsumerState],
        selection: SelectionSpec,
    ) -> None:
        self._consumers = consumers
        self._selection = selection
        self._places = Places(messages, (each.letter for each in letters))
        self._outputs: dict[Place, list[Seen]] = defaultdict(list)
        self._redriven: dict[Place, Seen] = {}
        self._letters = {place_of_letter(each.letter): each for each in letters}
        # Sequences of messages whose input is among the messages.
        self.led_to: set[int] = set()
        for message in messages:
            place = self._places.of(message)
            if place is None:
                continue
            self.led_to.add(message.sequence)
            if is_redriven_input(message):
                self._redriven[place] = message
            else:
                self._outputs[place].append(message)

    def steps(self, message: Seen) -> tuple[Step, ...]:
        """Return what the nodes have made of a message that read it, or still will."""
        readers = {_reader(each, message): each for each in self._consumers if reads(each, message.subject)}
        places = {place.node: place for place in self._places.taken(message.sequence)}
        for node in readers:
            places.setdefault(node, Place(node, message.sequence))
        return tuple(self._step(places[node], message, readers.get(node)) for node in sorted(places))

    def _step(self, place: Place, message: Seen, consumer: ConsumerState | None) -> Step:
        """Return the step of the node that took a message from the stream, which tells how long all of it took."""
        step = self._inner_step(place, self._state(place.node, message, consumer))
        ends_ns = list(_ends_ns(step))
        unfit = self._unfit(place.node, message) if step.fate is Fate.LEFT_OUT else ""
        return replace(step, took_s=(max(ends_ns) - message.stored_ns) / 1e9 if ends_ns else None, unfit=unfit)

    def _state(self, node: str, message: Seen, consumer: ConsumerState | None) -> Fate:
        """Return how far a node is with a message that nothing came of."""
        state = _state(consumer, message.sequence)
        passes = bool(message.redrive) or message.type == MessageType.ERROR.name
        if passes or state not in (Fate.DONE, Fate.IN_WORK):
            return state
        return Fate.LEFT_OUT if self._unfit(node, message) else state

    def _unfit(self, node: str, message: Seen) -> str:
        """Return what of a message does not fit the node's `when`, "" where all does that can be seen."""
        conditions = self._selection.conditions(node, message.subject)
        unfit = conditions.unfit_header(message.headers)
        return unfit if unfit or message.claim is not None else conditions.unfit_field(_data_of(message))

    def _inner_step(self, place: Place, state: Fate = Fate.UNKNOWN) -> Step:
        outputs = tuple(self._outputs.get(place, ()))
        inner = tuple(self._inner_step(behind) for behind in self._places.behind(place))
        letter, redriven = self._letters.get(place), self._redriven.get(place)
        # An ERROR of somebody else's is only passed on.
        own = [output for output in outputs if output.from_node == place.node]
        told_s = [output.run_s for output in own if output.run_s is not None]
        is_done = bool(outputs or inner) and state in (Fate.UNKNOWN, Fate.LEFT_OUT)
        return Step(
            node=place.node,
            fate=_fate(own, letter, redriven, Fate.DONE if is_done else state),
            outputs=outputs,
            letter=letter,
            redriven=redriven,
            took_s=None,
            run_s=max(told_s, default=self._places.ran_s.get(place)),
            inner=inner,
        )


def _data_of(message: Seen) -> Any:
    """Return the value of a message as the node reads it that looks for fields: JSON may travel as bytes."""
    if not isinstance(message.value, bytes):
        return message.value
    try:
        return orjson.loads(message.value)
    except orjson.JSONDecodeError:
        return None


def _reader(consumer: ConsumerState, message: Seen) -> str:
    """Return the node that reads a message by a consumer; that of a chain takes what is redriven to each."""
    return names.redriven_node(message.subject) or names.node_of(consumer.name)


def _ends_ns(step: Step) -> Iterator[int]:
    """Yield when the outputs and dead letters of a step were stored, with those of the steps inside of it."""
    yield from (output.stored_ns for output in step.outputs)
    if step.letter:
        yield step.letter.died_ns
    for inner in step.inner:
        yield from _ends_ns(inner)


def _fate(own: Sequence[Seen], letter: Letter | None, redriven: Seen | None, state: Fate) -> Fate:
    if redriven is not None:
        return Fate.REDRIVEN
    if letter is not None:
        return Fate.DEAD
    return Fate.FAILED if any(output.type == MessageType.ERROR.name for output in own) else state


def _state(consumer: ConsumerState | None, sequence: int) -> Fate:
    """Return how far a consumer is with a message, as far as its counters tell."""
    if consumer is None:
        return Fate.UNKNOWN
    if sequence <= consumer.ack_floor or (consumer.pending == 0 and consumer.ack_pending == 0):
        return Fate.DONE
    return Fate.IN_WORK if sequence <= consumer.delivered else Fate.WAITING
