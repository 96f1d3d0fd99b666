"""A publisher into a stream in memory: the in-flight window, retries while the stream refuses, confirms."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from runtime.bus.base import Confirm, Headers
from runtime.bus.batch import BatchMessage, check_size
from runtime.bus.memory_stream import MESSAGE_ID_HEADER, header_size
from runtime.clock import Clock, TimerHandle
from runtime.errors import BusClosedError, BusError, BusUnavailableError, MessageTooLargeError, StreamFullError

# Messages and bytes that may be unconfirmed; beyond either, `publish` waits.
WINDOW_MESSAGES = 4_000
WINDOW_BYTES = 32 * 1024 * 1024

# Seconds between two attempts while the stream refuses: doubled each time, from the first to the last figure.
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0

# Stores one message of this stream, or a batch, or raises why it was refused.
Store = Callable[[str, bytes, Headers], None]
StoreBatch = Callable[[Sequence[BatchMessage]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unconfirmed:
    store: Callable[[], None]
    size_bytes: int
    give_up_at_s: float
    confirm: Confirm


class MemoryPublisher:
    """See `base.Publisher`. Messages are stored in the order of `publish`; the first that is refused holds the rest."""

    def __init__(
        self,
        store: Store,
        store_batch: StoreBatch,
        clock: Clock,
        *,
        limit_bytes: int,
        give_up_s: float,
        on_hold: Callable[[bool], None] | None,
    ) -> None:
        self._store = store
        self._store_batch = store_batch
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._give_up_s = give_up_s
        self._on_hold = on_hold
        self._held = False
        self._closed: BusClosedError | None = None
        self._queue: deque[_Unconfirmed] = deque()
        self._queued_bytes = 0
        # Set whenever something was confirmed; whoever waits clears it first and looks again after.
        self._progress = asyncio.Event()
        self._pump_is_scheduled = False
        self._retry: TimerHandle | None = None
        self._retry_s = FIRST_RETRY_S

    @property
    def held(self) -> bool:
        return self._held

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, confirm: Confirm, headers: Headers | None = None
    ) -> None:
        sent_headers = {MESSAGE_ID_HEADER: message_id, **(headers or {})}
        size_bytes = len(payload) + header_size(sent_headers)
        if size_bytes > self._limit_bytes:
            raise MessageTooLargeError(
                f"message {message_id} on {subject}: {size_bytes} B with headers, the limit is {self._limit_bytes} B"
            )
        await self._hand_over(partial(self._store, subject, payload, sent_headers), size_bytes, confirm)

    async def publish_batch(self, messages: Sequence[BatchMessage]) -> None:
        size_bytes = check_size(messages, self._limit_bytes)

        def confirm(error: BusError | None) -> None:
            for message in messages:
                message.confirm(error)

        await self._hand_over(partial(self._store_batch, messages), size_bytes, confirm)

    async def _hand_over(self, store: Callable[[], None], size_bytes: int, confirm: Confirm) -> None:
        while self._window_is_full() and self._closed is None:
            await self._wait_for_progress()
        if self._closed is not None:
            asyncio.get_running_loop().call_soon(confirm, self._closed)
            return
        give_up_at_s = self._clock.monotonic() + self._give_up_s
        self._queue.append(_Unconfirmed(store=store, size_bytes=size_bytes, give_up_at_s=give_up_at_s, confirm=confirm))
        self._queued_bytes += size_bytes
        self._pump_soon()

    def _window_is_full(self) -> bool:
        return len(self._queue) >= WINDOW_MESSAGES or self._queued_bytes >= WINDOW_BYTES

    async def _wait_for_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _pump_soon(self) -> None:
        if not self._pump_is_scheduled and self._retry is None:
            self._pump_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Store what is queued until the stream refuses."""
        self._pump_is_scheduled = False
        self._retry = None
        while self._queue:
            refusal = self._try_store(self._queue[0])
            if refusal is not None and self._may_pass(refusal, self._queue[0]):
                self._retry_later()
                return
            if refusal is None:
                self._set_held(False)
            self._confirm_first(refusal)
        # Also after giving up: whoever stopped taking because of the hold has to go on.
        self._set_held(False)

    def _try_store(self, message: _Unconfirmed) -> BusError | None:
        try:
            message.store()
        except BusError as err:
            return err
        return None

    def _may_pass(self, refusal: BusError, message: _Unconfirmed) -> bool:
        passing = isinstance(refusal, (StreamFullError, BusUnavailableError))
        return passing and self._clock.monotonic() < message.give_up_at_s

    def _retry_later(self) -> None:
        self._set_held(True)
        left_s = self._queue[0].give_up_at_s - self._clock.monotonic()
        self._retry = self._clock.call_later(min(self._retry_s, left_s), self._pump)
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def _set_held(self, held: bool) -> None:
        if not held:
            self._retry_s = FIRST_RETRY_S
        if held != self._held:
            self._held = held
            if self._on_hold is not None:
                self._on_hold(held)

    def _confirm_first(self, refusal: BusError | None) -> None:
        message = self._queue.popleft()
        self._queued_bytes -= message.size_bytes
        self._progress.set()
        message.confirm(refusal)

    async def flush(self) -> None:
        while self._queue:
            await self._wait_for_progress()

    async def close(self) -> None:
        self.disconnect(BusClosedError("the publisher was closed before the message was confirmed"))

    def disconnect(self, why: BusClosedError) -> None:
        """Give up everything; later messages are confirmed with `why`, too."""
        self._closed = self._closed or why
        if self._retry is not None:
            self._retry.cancel()
        while self._queue:
            self._confirm_first(self._closed)
        self._progress.set()
        self._set_held(False)
