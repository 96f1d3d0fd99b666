"""Bodies of any size: as they are, gzipped, as claims, and whatever a receiver must not believe."""

import asyncio
import gzip
import hashlib
import json
import random

import pytest

from runtime import wire
from runtime.bus.base import Bus, CoreMessage
from runtime.bus.bodies import CLAIM_HEADER, ENCODING_HEADER, Body, pack, unpack
from runtime.bus.object_store import ObjectStoreConfig
from runtime.errors import DecodeError, MessageTooLargeError, NotFoundError, StreamFullError
from test.conformance.bus.backends import Backend, soon

STORE = "models_birds"
MIB = 1024 * 1024


def noise(size_bytes: int) -> bytes:
    """Return bytes that cannot be compressed, the same ones every time."""
    return random.Random(size_bytes).randbytes(size_bytes)


async def stored_names(bus: Bus) -> list[str]:
    try:
        return await (await bus.object_store(STORE)).names()
    except NotFoundError:
        return []


async def put_claim(bus: Bus, data: bytes, **changes: object) -> dict[str, str]:
    """Store `data`, and return the header of a claim of it, with `changes`."""
    await bus.ensure_object_store(ObjectStoreConfig(name=STORE, max_age_s=60.0))
    await (await bus.object_store(STORE)).put("o", data)
    claim = {"object": "o", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    return {CLAIM_HEADER: json.dumps(claim)}


# --- there and back ---


@pytest.mark.parametrize("data", [b"", b"x", noise(MIB - 4_000)], ids=["nothing", "a byte", "nearly a message"])
async def test_a_body_that_fits_is_sent_as_it_is(bus: Bus, data: bytes) -> None:
    body = await pack(bus, STORE, data)

    assert body == Body(data, {})
    assert await unpack(bus, STORE, body.data, body.headers) == data
    assert await stored_names(bus) == []


async def test_a_larger_one_is_gzipped_if_that_helps(bus: Bus) -> None:
    data = b"tick " * MIB

    body = await pack(bus, STORE, data)

    assert body.headers == {ENCODING_HEADER: "gzip"}
    assert len(body.data) < 100_000
    assert gzip.decompress(body.data) == data
    assert await unpack(bus, STORE, body.data, body.headers) == data
    assert await stored_names(bus) == []


async def test_the_same_body_is_always_compressed_to_the_same_bytes(bus: Bus) -> None:
    data = b"tick " * MIB

    assert await pack(bus, STORE, data) == await pack(bus, STORE, data)


async def test_any_other_becomes_a_claim_that_many_can_read(backend: Backend, bus: Bus) -> None:
    data = noise(2 * MIB)

    body = await pack(bus, STORE, data)

    assert body.data == b""
    claim = json.loads(body.headers[CLAIM_HEADER])
    assert claim == {"object": claim["object"], "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    readers = [await backend.connect() for _ in range(3)]
    assert await asyncio.gather(*(unpack(each, STORE, b"", body.headers) for each in readers)) == [data] * 3


async def test_claims_are_kept_for_five_minutes(bus: Bus) -> None:
    await pack(bus, STORE, noise(2 * MIB))

    assert await bus.ensure_object_store(ObjectStoreConfig(name=STORE, max_age_s=300.0)) == []


async def test_every_claim_has_an_object_of_its_own(bus: Bus) -> None:
    data = noise(2 * MIB)

    await asyncio.gather(*(pack(bus, STORE, data) for _ in range(3)))

    assert len(await stored_names(bus)) == 3


@pytest.mark.parametrize("room_bytes", [0, 10, 500_000])
async def test_the_room_for_other_headers_is_left(bus: Bus, room_bytes: int) -> None:
    limit_bytes = bus.max_payload_bytes - room_bytes

    assert (await pack(bus, STORE, noise(limit_bytes), room_bytes=room_bytes)).headers == {}
    assert CLAIM_HEADER in (await pack(bus, STORE, noise(limit_bytes + 1), room_bytes=room_bytes)).headers


@pytest.mark.slow
async def test_a_body_of_63_mib_goes_there_and_back_by_a_request(backend: Backend, bus: Bus) -> None:
    host, coordinator = await backend.connect(), bus
    data = noise(63 * MIB)
    served: list[asyncio.Task[None]] = []

    async def answer(request: CoreMessage) -> None:
        asked = await unpack(host, STORE, request.data, request.headers)
        answered = await pack(host, STORE, asked[::-1])
        host.send(request.reply, answered.data, headers=answered.headers)

    await host.subscribe("reverse", lambda request: served.append(asyncio.ensure_future(answer(request))))
    body = await pack(coordinator, STORE, data)
    answered = await coordinator.request("reverse", body.data, headers=body.headers, timeout_s=30.0)

    assert await unpack(coordinator, STORE, answered.data, answered.headers) == data[::-1]
    await served[0]


# --- what is not sent ---


async def test_a_body_above_the_limit_of_claims_is_refused_before_anything_is_sent(bus: Bus) -> None:
    with pytest.raises(MessageTooLargeError, match=r"2,097,152 bytes is larger than 2,000,000.*KRT_MAX_CLAIM_BYTES"):
        await pack(bus, STORE, noise(2 * MIB), max_claim_bytes=2_000_000)

    assert await stored_names(bus) == []


async def test_a_store_without_room_refuses_a_claim(bus: Bus) -> None:
    await bus.ensure_object_store(ObjectStoreConfig(name=STORE, max_bytes=MIB, max_age_s=60.0))

    with pytest.raises(StreamFullError):
        await soon(pack(bus, STORE, noise(2 * MIB)))


async def test_what_would_not_be_unpacked_is_not_gzipped(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_INFLATED_BYTES", 2 * MIB)
    data = bytes(2 * MIB + 1)

    body = await pack(bus, STORE, data)

    assert CLAIM_HEADER in body.headers
    assert await unpack(bus, STORE, body.data, body.headers) == data


# --- what is not believed ---


async def refusal(bus: Bus, data: bytes, headers: dict[str, str], max_bytes: int = 10 * MIB) -> tuple[str, str]:
    """Return reason and text of what unpacking raises."""
    with pytest.raises(DecodeError) as refused:
        await soon(unpack(bus, STORE, data, headers, max_bytes=max_bytes))
    return refused.value.reason, str(refused.value)


async def test_a_gzip_bomb_is_not_unpacked(bus: Bus) -> None:
    bomb = gzip.compress(bytes(10 * MIB + 1))

    reason, text = await refusal(bus, bomb, {ENCODING_HEADER: "gzip"})

    assert (reason, "more than 10,485,760 bytes" in text) == ("gzip", True)


async def test_a_body_of_exactly_the_limit_is_unpacked(bus: Bus) -> None:
    packed = gzip.compress(bytes(10 * MIB))

    assert await unpack(bus, STORE, packed, {ENCODING_HEADER: "gzip"}, max_bytes=10 * MIB) == bytes(10 * MIB)


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(noise(100))[:-9]], ids=["nothing", "text", "cut off"])
async def test_broken_gzip_is_refused(bus: Bus, data: bytes) -> None:
    assert (await refusal(bus, data, {ENCODING_HEADER: "gzip"}))[0] == "gzip"


async def test_another_encoding_is_refused(bus: Bus) -> None:
    reason, text = await refusal(bus, b"x", {ENCODING_HEADER: "br"})

    assert reason == "gzip" and "'br'" in text


@pytest.mark.parametrize(
    "header",
    [
        "", "x", "[]", "[" * 5_000, "{}", '{"object": "o", "size": 1}', '{"object": 1, "size": 1, "sha256": ""}',
        '{"object": "o", "size": "1", "sha256": ""}', '{"object": "o", "size": true, "sha256": ""}',
        '{"object": "o", "size": -1, "sha256": ""}', '{"object": "o", "size": 1, "sha256": null}',
        '{"object": "", "size": 1, "sha256": ""}',
    ],
)  # fmt: skip
async def test_a_claim_that_is_none_is_refused(bus: Bus, header: str) -> None:
    await put_claim(bus, b"x")

    assert (await refusal(bus, b"", {CLAIM_HEADER: header}))[0] == "claim"


async def test_a_claim_of_too_much_is_refused_before_it_is_fetched(bus: Bus) -> None:
    headers = await put_claim(bus, b"x", size=10 * MIB + 1, object="there is none")

    reason, text = await refusal(bus, b"", headers)

    assert reason == "claim" and "10,485,761 bytes is claimed" in text


@pytest.mark.parametrize("size", [0, 2, 3 * MIB - 1, 3 * MIB + 1])
async def test_a_claim_of_another_size_is_refused(bus: Bus, size: int) -> None:
    reason, text = await refusal(bus, b"", await put_claim(bus, noise(3 * MIB), size=size))

    assert reason == "claim" and "not what was claimed" in text


async def test_a_claim_of_other_bytes_is_refused(bus: Bus) -> None:
    headers = await put_claim(bus, b"right", sha256=hashlib.sha256(b"wrong").hexdigest())

    reason, text = await refusal(bus, b"", headers)

    assert reason == "claim" and "not what was claimed" in text


async def test_bytes_that_were_changed_in_the_store_are_refused(backend: Backend, bus: Bus) -> None:
    headers = await put_claim(bus, b"right")
    await backend.corrupt_object(STORE, "o", b"wrong")

    assert (await refusal(bus, b"", headers))[0] == "claim"


async def test_a_claim_that_is_gone_is_refused(bus: Bus) -> None:
    headers = await put_claim(bus, b"x", object="gone")

    reason, text = await refusal(bus, b"", headers)

    assert reason == "claim" and "kept for 300 s" in text


async def test_a_claim_without_its_store_is_refused(bus: Bus) -> None:
    headers = await put_claim(bus, b"x")
    await bus.delete_object_store(STORE)

    assert (await refusal(bus, b"", headers))[0] == "claim"
