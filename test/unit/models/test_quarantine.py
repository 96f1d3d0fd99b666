"""The quarantine: what is kept, what is released."""

import asyncio

import pytest

from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.clock import FakeClock
from runtime.errors import DecodeError
from runtime.models.quarantine import Quarantine, Quarantined

BAD = Quarantined(model_id="m1", digest="aa", reason="BAD_IMPLEMENTATION: no class", at_ms=1)
SLOW = Quarantined(model_id="m1", digest="bb", reason="MULTIPLE_TIMEOUT", at_ms=2)
OTHER = Quarantined(model_id="m2", digest="aa", reason="MULTIPLE_FAILED", at_ms=3)


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBroker(FakeClock()).connect()


async def test_a_model_is_kept_by_its_digest_and_released_with_all_of_them(bus: MemoryBus) -> None:
    quarantine = await Quarantine.open(bus, "bird-game")
    for each in (BAD, SLOW, OTHER, BAD):
        await quarantine.add(each)

    before = await quarantine.all()
    lifted = await quarantine.release("m1")

    assert before == [BAD, SLOW, OTHER]
    assert lifted == [BAD, SLOW]
    assert await quarantine.all() == [OTHER]


async def test_clusters_are_apart(bus: MemoryBus) -> None:
    await (await Quarantine.open(bus, "bird-game")).add(BAD)

    assert await (await Quarantine.open(bus, "other")).all() == []


async def test_whoever_watches_hears_of_a_release(bus: MemoryBus) -> None:
    quarantine = await Quarantine.open(bus, "bird-game")
    await quarantine.add(BAD)
    heard: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    await quarantine.watch(lambda key, entry: heard.put_nowait((key, entry is not None)))

    await quarantine.release("m1")

    async with asyncio.timeout(5):
        assert [await heard.get(), await heard.get()] == [("m1.aa", True), ("m1.aa", False)]


def test_what_is_no_entry_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="no quarantined model"):
        Quarantined.decode(b'{"model_id": "m1"}')
