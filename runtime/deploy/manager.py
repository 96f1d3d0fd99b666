"""The manager: makes what a workflow has on NATS, and removes what is handled. The only process that purges.

Streams refuse when they are full, so that nothing unhandled is ever discarded; the manager gives the room back. It
purges what every consumer has acknowledged and what is outside the history that is to be kept. Without a manager a
workflow goes on until its stream is full, and then waits.
"""

import logging
import math
from dataclasses import replace

from runtime.bus.base import Bus, ConsumerConfig, ConsumerState, KeyValue, StreamConfig, StreamState
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import Clock
from runtime.deploy.claims import ClaimKeeper
from runtime.deploy.retention import done_sequence, first_within_share, is_pressed, slowest
from runtime.errors import BusClosedError, BusError, DriftError, NotFoundError
from runtime.spec.claims import CLAIMS_METADATA
from runtime.spec.manager import ConsumerSpec, ManagerSpec, ObjectStoreSpec
from runtime.spec.names import ENTRYPOINT_METADATA
from runtime.spec.selection import SELECTION_METADATA

log = logging.getLogger(__name__)

# Seconds between two looks at a stream with room, and at one that is about to refuse: then everybody waits for us.
LOOK_EVERY_S = 2.0
LOOK_WHEN_PRESSED_S = 0.1
# Seconds for which a stream that was pressed is looked at often: those whom it refused fill it again at once.
PRESSED_FOR_S = 5.0


class Manager:
    """One workflow's manager. `apply` first, then `run`; several may work on the same workflow."""

    def __init__(self, bus: Bus, spec: ManagerSpec, clock: Clock) -> None:
        self._bus = bus
        self._spec = spec
        self._clock = clock
        self._claims = ClaimKeeper(bus, spec.stream, spec.claims, clock) if spec.claims else None
        # Until when the stream is looked at often; and that its pressure was told, because nothing could be purged.
        self._pressed_until_s = -math.inf
        self._stuck = False

    async def apply(self) -> None:
        """Make or update buckets, streams and consumers; every change is logged.

        Raises DriftError with the diff for what cannot be updated, BusUnavailableError when NATS does not answer.
        """
        # Buckets and object stores first, and the stream last: a node that sees the stream finds everything else.
        await self._apply_buckets()
        for store in self._spec.object_stores:
            await self._apply_object_store(store)
        for stream in self._streams():
            _log_changes(await self._bus.ensure_stream(stream))
        for consumer in self._spec.consumers:
            await self._apply_consumer(consumer)
        await self._warn_of_strangers()

    async def run(self) -> None:
        """Keep room in the stream until cancelled. Raises BusClosedError, DriftError; other failures are waited out."""
        was_told = False
        while True:
            try:
                await self.look()
                was_told = False
            except (BusClosedError, DriftError):
                raise
            except BusError as error:
                # That NATS is away was told by its connection.
                is_news = not was_told and self._bus.online_s > 0
                log.log(logging.WARNING if is_news else logging.DEBUG, "the stream cannot be looked after: %s", error)
                was_told = was_told or is_news
            pressed = self._clock.monotonic() < self._pressed_until_s
            await self._clock.sleep(LOOK_WHEN_PRESSED_S if pressed else LOOK_EVERY_S)

    async def look(self) -> int:
        """Look at the stream once, and return how many messages were purged. Raises BusError."""
        try:
            # Before the consumers: see `done_sequence`.
            state = await self._bus.stream_state(self._spec.stream)
            consumers = await self._bus.consumer_states(self._spec.stream)
        except NotFoundError:
            log.error("stream %s is gone, with all its messages; it is made anew", self._spec.stream)
            await self.apply()
            return 0
        if await self._restore_missing(consumers):
            return 0
        # Before the purge: which message a payload belongs to is read from the stream.
        await self._look_after_claims(state, consumers)
        purged = await self._purge(state, done_sequence(state.last_sequence, consumers))
        self._note_pressure(state, consumers, purged)
        return purged

    async def _look_after_claims(self, state: StreamState, consumers: list[ConsumerState]) -> None:
        if self._claims is None:
            return
        try:
            if await self._claims.look(state, consumers):
                self._pressed_until_s = self._clock.monotonic() + PRESSED_FOR_S
        except NotFoundError:
            log.error("the object store of large payloads is gone, with all of them; it is made anew")
            for store in self._spec.object_stores:
                await self._apply_object_store(store)

    # --- what there is ---

    def _streams(self) -> list[StreamConfig]:
        spec, dead = self._spec, self._spec.dead_letters
        main = StreamConfig(
            name=spec.stream,
            subjects=spec.subjects,
            storage=spec.storage,
            replicas=spec.replicas,
            max_bytes=spec.max_bytes,
            duplicate_window_s=spec.duplicate_window_s,
            metadata=self._metadata(),
            atomic=spec.atomic,
        )
        if dead is None:
            return [main]
        dead_letters = StreamConfig(
            name=dead.stream,
            subjects=dead.subjects,
            storage=spec.storage,
            replicas=spec.replicas,
            max_age_s=dead.keep_s,
            # The server wants a window no longer than the age.
            duplicate_window_s=min(spec.duplicate_window_s, dead.keep_s),
        )
        return [dead_letters, main]

    def _metadata(self) -> dict[str, str]:
        """Return what senders of requests read, and those who look on."""
        told = {
            ENTRYPOINT_METADATA: self._spec.entrypoint,
            CLAIMS_METADATA: self._spec.claims,
            SELECTION_METADATA: self._spec.selection,
        }
        return {key: value.model_dump_json() for key, value in told.items() if value is not None}

    async def _apply_consumer(self, consumer: ConsumerSpec) -> None:
        config = ConsumerConfig(
            stream=self._spec.stream, durable=consumer.durable, filter_subjects=consumer.filter_subjects
        )
        if consumer.max_ack_pending is not None:
            config = replace(config, max_ack_pending=consumer.max_ack_pending)
        _log_changes(await self._bus.ensure_consumer(config))

    async def tell_placement(self) -> None:
        """Log how safe the stream is, as the server has it. Raises BusError."""
        placement = await self._bus.stream_placement(self._spec.stream)
        log.info(
            "stream %s is kept in %s by %d server(s)", self._spec.stream,
            "files" if placement.storage == "file" else "memory, and lost with them,", placement.replicas,
            extra={"action": "placed"},
        )  # fmt: skip

    async def _apply_object_store(self, store: ObjectStoreSpec) -> None:
        config = ObjectStoreConfig(
            name=store.name,
            storage=self._spec.storage,
            replicas=self._spec.replicas,
            max_bytes=store.max_bytes,
            max_age_s=store.keep_s,
        )
        _log_changes(await self._bus.ensure_object_store(config))

    async def _warn_of_strangers(self) -> None:
        """Tell of consumers that the workflow does not have any more: what they have not handled stays for ever."""
        planned = {consumer.durable for consumer in self._spec.consumers}
        for state in await self._bus.consumer_states(self._spec.stream):
            if state.name not in planned and state.pending + state.ack_pending:
                log.warning(
                    "consumer %s belongs to no node of this workflow and holds back %d messages, until the stream is "
                    "full; `krt clean` removes what is left of removed nodes",
                    state.name, state.pending + state.ack_pending, extra={"action": "drift"},
                )  # fmt: skip

    async def _restore_missing(self, present: list[ConsumerState]) -> bool:
        """Make planned consumers that are gone anew, before anything that they still need is purged."""
        names = {state.name for state in present}
        missing = [consumer for consumer in self._spec.consumers if consumer.durable not in names]
        for consumer in missing:
            log.error(
                "consumer %s is gone; it is made anew, and its node handles the kept messages again",
                consumer.durable, extra={"action": "drift"},
            )  # fmt: skip
            await self._apply_consumer(consumer)
        return bool(missing)

    # --- configuration ---

    async def _apply_buckets(self) -> None:
        replicas = self._spec.replicas
        for name, ttl_s in self._spec.aging_buckets.items():
            await self._bus.key_value(name, create=True, replicas=replicas, ttl_s=ttl_s)
        applied = await self._bus.key_value(self._spec.applied_bucket, create=True, replicas=replicas)
        for name, values in self._spec.buckets.items():
            bucket = await self._bus.key_value(name, create=True, replicas=replicas)
            for key, value in values.items():
                await self._apply_value(bucket, key, value.encode(), applied, f"{name}/{key}")

    async def _apply_value(self, bucket: KeyValue, key: str, value: bytes, applied: KeyValue, record: str) -> None:
        """Write a value that is missing, or that the file has changed since it was written last.

        Otherwise what is there was set while the workflow ran, and stays.
        """
        if await _read(bucket, key) is not None and await _read(applied, record) == value:
            return
        await bucket.put(key, value)
        # After the value: in the other order a crash in between would leave the old value for ever.
        await applied.put(record, value)
        log.info("configuration %s: set from the workflow file", record, extra={"action": "applied"})

    # --- retention ---

    async def _purge(self, state: StreamState, done: int) -> int:
        """Purge what is done and outside the history to keep; returns how many messages."""
        end = done + 1
        if state.messages == 0 or end <= state.first_sequence:
            return 0
        below = min(end, max(first_within_share(state, self._spec.max_bytes), await self._first_young(state, end)))
        if below <= state.first_sequence:
            return 0
        purged = await self._bus.purge(self._spec.stream, below=below)
        log.debug("purged %d messages below %d", purged, below, extra={"action": "purged"})
        return purged

    async def _first_young(self, state: StreamState, end: int) -> int:
        """Return the first sequence below `end` whose message is younger than `keep`, else `end`."""
        young_ns = self._clock.time_ns() - round(self._spec.keep_s * 1e9)
        low, high = state.first_sequence, end
        # The first message answers for all as long as it is young, which spares the search most of the time.
        middle = low
        while low < high:
            found = await self._first_from(middle, high)
            if found is None or found[1] > young_ns:
                high = middle
            else:
                low = found[0] + 1
            middle = (low + high) // 2
        return low

    async def _first_from(self, sequence: int, end: int) -> tuple[int, int] | None:
        """Return sequence and time (ns) of the first message from `sequence` on; None if there is none below `end`."""
        for candidate in range(sequence, end):
            try:
                return candidate, (await self._bus.get_message(self._spec.stream, candidate)).time_ns
            except NotFoundError:  # deleted one by one
                continue
        return None

    def _note_pressure(self, state: StreamState, consumers: list[ConsumerState], purged: int) -> None:
        """Look more often at a stream that is about to refuse, and say once who holds it up."""
        pressed = is_pressed(state, self._spec.max_bytes)
        if pressed:
            self._pressed_until_s = self._clock.monotonic() + PRESSED_FOR_S
        percent = 100 * state.size_bytes // self._spec.max_bytes
        behind = slowest(state.last_sequence, consumers)
        if pressed and not purged and not self._stuck and behind is not None:
            self._stuck = True
            log.warning(
                "the stream is %d%% full and soon refuses messages; %s is furthest behind: %d waiting, %d in hand",
                percent, behind.name, behind.pending, behind.ack_pending, extra={"action": "pressed"},
            )  # fmt: skip
        elif self._stuck and not pressed:
            self._stuck = False
            log.info("the stream has room again: %d%% full", percent, extra={"action": "relieved"})


async def _read(bucket: KeyValue, key: str) -> bytes | None:
    try:
        return (await bucket.get(key)).value
    except NotFoundError:
        return None


def _log_changes(changes: list[str]) -> None:
    for change in changes:
        log.info("%s", change, extra={"action": "applied"})
