"""Who is alive: heartbeats, and the set that watches them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.presence import BEAT_S, EXPIRY_S, Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import FakeClock, settle
from runtime.errors import BusUnavailableError, DecodeError

BUCKET = "presence"
KEY = "node.s.score.a1"
RECORD = ServiceRecord.of_this_process("node", "score", workflow="hello", replica=2)


@pytest.fixture
async def present(broker: MemoryBroker, clock: FakeClock) -> AsyncIterator[PresenceSet]:
    opened = await PresenceSet.open(broker.connect(), BUCKET, "node.s.>", clock)
    yield opened
    await opened.close()


def heartbeat(bus: MemoryBus, clock: FakeClock, record: ServiceRecord = RECORD, key: str = KEY) -> Heartbeat:
    return Heartbeat(bus, BUCKET, key, lambda: record, clock)


def test_a_record_reads_back_as_it_was_written() -> None:
    record = replace(RECORD, endpoints=("a.b",), counters={"ok": 3}, metadata={"ref": "webapi", "ports": [1]})

    assert ServiceRecord.decode(record.encode()) == record


def test_a_record_of_a_later_version_is_read_without_its_new_fields() -> None:
    later = RECORD.encode().replace(b'{"kind"', b'{"mood":"good","kind"')

    assert ServiceRecord.decode(later) == RECORD


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"kind":"node"}', b'{"endpoints":1}'])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        ServiceRecord.decode(data)


async def test_a_process_is_there_while_it_beats_and_gone_once_it_leaves(
    broker: MemoryBroker, clock: FakeClock, present: PresenceSet
) -> None:
    async with heartbeat(broker.connect(), clock):
        await settle()
        assert present.records == {KEY: RECORD}
        await clock.advance(10 * EXPIRY_S)
        assert present.records == {KEY: RECORD}

    await settle()
    assert present.records == {}


async def test_a_process_that_dies_is_gone_after_the_expiry(
    broker: MemoryBroker, clock: FakeClock, present: PresenceSet
) -> None:
    bus = broker.connect()
    async with heartbeat(bus, clock):
        await clock.advance(BEAT_S)
        bus.kill()

        await clock.advance(EXPIRY_S - 0.1)
        assert present.records == {KEY: RECORD}
        await clock.advance(0.1)

        assert present.records == {}


async def test_every_beat_tells_what_has_changed(broker: MemoryBroker, clock: FakeClock, present: PresenceSet) -> None:
    counters = {"ok": 1}
    beating = Heartbeat(broker.connect(), BUCKET, KEY, lambda: replace(RECORD, counters=dict(counters)), clock)
    async with beating:
        await settle()
        counters["ok"] = 2
        await clock.advance(BEAT_S)
        assert present.records[KEY].counters == {"ok": 2}
        counters["ok"] = 3

        await beating.beat()

        await settle()
        assert present.records[KEY].counters == {"ok": 3}


async def test_a_set_holds_only_its_keys_and_tells_who_comes_and_goes(broker: MemoryBroker, clock: FakeClock) -> None:
    told: list[tuple[str, ServiceRecord | None]] = []
    async with heartbeat(broker.connect(), clock):
        await settle()
        watching = await PresenceSet.open(
            broker.connect(), BUCKET, "*.s.>", clock, on_change=lambda key, record: told.append((key, record))
        )
        async with heartbeat(broker.connect(), clock, key="node.other.score.a1"):
            await settle()
            assert (list(watching.records), told) == ([KEY], [(KEY, RECORD)])
    await settle()

    assert told == [(KEY, RECORD), (KEY, None)]
    await watching.close()


async def test_beats_that_are_forgiven_are_no_news(
    broker: MemoryBroker, clock: FakeClock, present: PresenceSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with heartbeat(broker.connect(), clock):
        await settle()
        broker.pause()
        await clock.advance(2 * BEAT_S)
        broker.resume()
        await clock.advance(BEAT_S)

        assert present.records == {KEY: RECORD}
    assert caplog.records == []


async def test_beats_go_on_after_an_outage_which_is_not_told_here(
    broker: MemoryBroker, clock: FakeClock, present: PresenceSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with heartbeat(broker.connect(), clock):
        await settle()
        broker.pause()
        await clock.advance(4 * BEAT_S)
        assert present.records == {}

        broker.resume()
        await clock.advance(BEAT_S)

        assert present.records == {KEY: RECORD}
    assert caplog.records == []


async def test_a_process_that_nobody_sees_though_nats_is_there_says_so_once(
    broker: MemoryBroker, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(name: str, *, ttl_s: float) -> None:
        raise BusUnavailableError("no leader")

    caplog.set_level(logging.WARNING)
    bus = broker.connect()
    monkeypatch.setattr(bus, "expiring_key_value", refuse)

    async with heartbeat(bus, clock):
        await settle()
        await clock.advance(6 * BEAT_S)

    assert caplog.messages == ["this process cannot announce itself: no leader"]


async def test_a_bucket_that_is_gone_is_made_anew_by_a_later_beat(broker: MemoryBroker, clock: FakeClock) -> None:
    async with heartbeat(broker.connect(), clock):
        await settle()
        broker.pause()
        await clock.advance(BEAT_S)
        await settle()
        broker.buckets.clear()
        broker.resume()

        await clock.advance(BEAT_S)

        assert list(broker.buckets[BUCKET].entries) == [KEY]


async def test_leaving_while_the_bus_is_away_is_no_error(broker: MemoryBroker, clock: FakeClock) -> None:
    bus = broker.connect()
    beating = heartbeat(bus, clock)
    async with beating:
        await settle()
        broker.pause()
        with pytest.raises(BusUnavailableError):
            await beating.beat()
    broker.resume()

    assert list(broker.buckets[BUCKET].entries) == [KEY]
    await clock.advance(EXPIRY_S)
    assert broker.buckets[BUCKET].entries == {}


async def test_a_foreign_entry_is_passed_over(
    broker: MemoryBroker, present: PresenceSet, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = await broker.connect().key_value(BUCKET)

    await bucket.put(KEY, b"hello")

    await settle()
    assert present.records == {}
    assert "is passed over" in caplog.text


async def test_a_change_is_told_at_once_and_the_beats_go_on(
    broker: MemoryBroker, clock: FakeClock, present: PresenceSet
) -> None:
    counters = {"ok": 1}

    def record() -> ServiceRecord:
        return replace(RECORD, counters=dict(counters))

    async with Heartbeat(broker.connect(), BUCKET, KEY, record, clock) as beating:
        await settle()
        counters["ok"] = 2
        beating.beat_soon()
        await settle()
        soon = present.records[KEY].counters
        counters["ok"] = 3
        await clock.advance(BEAT_S)

        assert (soon, present.records[KEY].counters) == ({"ok": 2}, {"ok": 3})


async def test_leaving_ends_a_beat_whose_cancellation_is_lost(
    broker: MemoryBroker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = broker.connect()
    bucket = await bus.expiring_key_value(BUCKET, ttl_s=EXPIRY_S)

    async def put(key: str, value: bytes) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # as wait_for of Python 3.11 does when the answer has come
            pass
        return 1

    async def expiring_key_value(name: str, *, ttl_s: float) -> object:
        return bucket

    monkeypatch.setattr(bucket, "put", put)
    monkeypatch.setattr(bus, "expiring_key_value", expiring_key_value)

    async with asyncio.timeout(1):
        async with heartbeat(bus, clock):
            await settle()
