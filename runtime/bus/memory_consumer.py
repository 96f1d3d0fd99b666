"""The server half of a durable pull consumer in memory: what is delivered to whom, and what comes again.

A message is in one of these places until it is settled: `_queue` (never delivered), `_pending` (delivered, or
waiting for its nak delay), and on top of `_pending` `_again` (due for redelivery, as soon as a reader asks).
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from runtime.bus.base import ConsumerConfig, ConsumerState, StoredMessage
from runtime.bus.subjects import matches
from runtime.clock import Clock, TimerHandle


class Asker(Protocol):
    """A reader as its consumer sees it."""

    @property
    def wanted(self) -> int:
        """How many more messages the reader can use now."""
        ...

    def receive(self, message: StoredMessage, *, attempt: int, pending: int, reply: str) -> None: ...

    def consumer_deleted(self) -> None: ...


@dataclass(slots=True)
class _Pending:
    """A delivered message. due_s: when it comes again unless it is settled; inf when nothing is to be waited for."""

    attempt: int
    due_s: float


class MemoryConsumer:
    """Delivers one message at a time to the readers that want one, in turn."""

    def __init__(self, config: ConsumerConfig, messages: Mapping[int, StoredMessage], clock: Clock) -> None:
        self.config = config
        self.paused = False
        self._messages = messages
        self._clock = clock
        self._queue = deque(message.sequence for message in messages.values() if self._selects(message))
        self._pending: dict[int, _Pending] = {}
        # An ordered set: a message is due once, however often that was decided.
        self._again: dict[int, None] = {}
        self._delivered = 0
        self._readers: deque[Asker] = deque()
        self._dispatch_is_scheduled = False
        # (due_s, sequence); an entry counts only while the pending message has the same due_s.
        self._due: list[tuple[float, int]] = []
        self._timer: TimerHandle | None = None
        self._timer_due_s = inf

    def _selects(self, message: StoredMessage) -> bool:
        return any(matches(pattern, message.subject) for pattern in self.config.filter_subjects)

    # --- from the stream ---

    def offer(self, message: StoredMessage) -> None:
        """Queue a message that was just stored, if a filter selects it."""
        if self._selects(message):
            self._queue.append(message.sequence)
            self.wake()

    def forget(self, sequence: int) -> None:
        """Drop a message that left the stream."""
        if sequence in self._pending:
            self.settle(sequence)
        elif sequence in self._queue:
            self._queue.remove(sequence)

    def skip_to(self, sequence: int) -> None:
        """Move on to `sequence` after everything below it was purged."""
        self._delivered = max(self._delivered, sequence - 1)

    def update(self, config: ConsumerConfig) -> None:
        """Take over a changed configuration; a changed filter applies to what was not delivered."""
        self.config = config
        undelivered = (message for message in self._messages.values() if message.sequence > self._delivered)
        self._queue = deque(message.sequence for message in undelivered if self._selects(message))
        self.wake()

    def deleted(self) -> None:
        """Tell every reader that this consumer is gone."""
        self.paused = True
        for reader in tuple(self._readers):
            reader.consumer_deleted()

    # --- from the readers ---

    def add_reader(self, reader: Asker) -> None:
        self._readers.append(reader)
        self.wake()

    def remove_reader(self, reader: Asker) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def settle(self, sequence: int) -> None:
        """Ack or term: the message never comes again, whichever of its deliveries is settled."""
        if self._pending.pop(sequence, None) is not None:
            self._again.pop(sequence, None)
            self._watch_due()
            self.wake()

    def nak(self, sequence: int, delay_s: float) -> None:
        """Deliver again after the delay; until then the message stays pending."""
        if sequence not in self._pending:
            return
        self._again.pop(sequence, None)
        if delay_s <= 0:
            self._redeliver(sequence)
        else:
            self._set_due(sequence, delay_s)

    def keep_alive(self, sequence: int) -> None:
        """Restart the ack wait. A redelivery that is due already is not taken back."""
        if sequence in self._pending:
            self._set_due(sequence, self.config.ack_wait_s)

    def wake(self) -> None:
        """Hand over soon, as a network would: never inside the call that made it possible."""
        if not self._dispatch_is_scheduled:
            self._dispatch_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    # --- handing over ---

    def _dispatch(self) -> None:
        self._dispatch_is_scheduled = False
        while not self.paused and self._has_next() and (reader := self._next_reader()) is not None:
            self._deliver(self._next_sequence(), reader)

    def _has_next(self) -> bool:
        return bool(self._again) or (bool(self._queue) and len(self._pending) < self.config.max_ack_pending)

    def _next_sequence(self) -> int:
        if self._again:
            sequence = next(iter(self._again))
            del self._again[sequence]
            return sequence
        return self._queue.popleft()

    def _next_reader(self) -> Asker | None:
        for _ in range(len(self._readers)):
            reader = self._readers[0]
            self._readers.rotate(-1)
            if reader.wanted > 0:
                return reader
        return None

    def _deliver(self, sequence: int, reader: Asker) -> None:
        pending = self._pending.setdefault(sequence, _Pending(attempt=0, due_s=inf))
        pending.attempt += 1
        self._delivered = max(self._delivered, sequence)
        self._set_due(sequence, self.config.ack_wait_s)
        reply = f"{self.config.stream}.{self.config.durable}.{sequence}.{pending.attempt}"
        reader.receive(self._messages[sequence], attempt=pending.attempt, pending=len(self._queue), reply=reply)

    # --- what comes again ---

    def _set_due(self, sequence: int, delay_s: float) -> None:
        due_s = self._clock.monotonic() + delay_s
        self._pending[sequence].due_s = due_s
        heapq.heappush(self._due, (due_s, sequence))
        self._watch_due()

    def _redeliver(self, sequence: int) -> None:
        self._pending[sequence].due_s = inf
        self._again[sequence] = None
        self.wake()

    def _watch_due(self) -> None:
        """Keep one timer that fires no later than the first message is due; one that fires early looks again."""
        while self._due and not self._is_current(*self._due[0]):
            heapq.heappop(self._due)
        if not self._due or self._timer_due_s <= self._due[0][0]:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = self._due[0][0]
        self._timer = self._clock.call_later(self._timer_due_s - self._clock.monotonic(), self._on_due)

    def _is_current(self, due_s: float, sequence: int) -> bool:
        pending = self._pending.get(sequence)
        return pending is not None and pending.due_s == due_s

    def _on_due(self) -> None:
        self._timer, self._timer_due_s = None, inf
        now_s = self._clock.monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, sequence = heapq.heappop(self._due)
            if self._is_current(due_s, sequence):
                self._redeliver(sequence)
        self._watch_due()

    def state(self) -> ConsumerState:
        return ConsumerState(
            name=self.config.durable,
            pending=len(self._queue),
            ack_pending=len(self._pending),
            redelivered=sum(1 for pending in self._pending.values() if pending.attempt > 1),
            ack_floor=min(self._pending) - 1 if self._pending else self._delivered,
            delivered=self._delivered,
            waiting=sum(1 for reader in self._readers if reader.wanted > 0),
            filter_subjects=self.config.filter_subjects,
        )
