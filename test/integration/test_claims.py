"""Payloads that are larger than a message, on a real nats-server: through a workflow, lost, corrupt, cleaned up."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.objects import NatsObjectStore
from runtime.deploy.claims import ANSWER_PRESSED_S, ANSWER_S, ORPHAN_S
from runtime.deploy.manager import Manager
from runtime.errors import DecodeError, MessageTooLargeError, PredictionError
from runtime.inspection import letters, payloads, peek
from runtime.inspection.redrive import Redriver
from runtime.inspection.seen import see
from runtime.inspection.trace import trace
from runtime.payload import decode_value
from runtime.spec import names
from runtime.spec.claims import claim_object, read_claim_object
from runtime.wire import decode
from test.conformance.bus.backends import NatsBackend
from test.support.deployed import Deployed

MIB = 1024 * 1024
WORKFLOW = """
name: scans
stream: {max_bytes: 400Mi}
nodes:
  - {name: cut, handler: turn.py}
  - {name: read, handler: turn.py}
  - {name: tell, handler: tell.py, retry: {attempts: 1}}
"""
TURN = """
async def handler(ctx, data: bytes):
    return data[1:] + data[:1]
"""
TELL = """
from pathlib import Path

async def handler(ctx, data: bytes):
    if Path(__file__).with_name("refuse").exists():
        raise ValueError("refused")
    return data[1:] + data[:1]
"""
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 30.0


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Return bytes that gzip makes no smaller."""
    return random.Random(seed).randbytes(size_bytes)


def turned(data: bytes, times: int) -> bytes:
    return data[times:] + data[:times]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "scans"
    place.mkdir()
    (place / "workflow.yaml").write_text(WORKFLOW)
    (place / "turn.py").write_text(TURN)
    (place / "tell.py").write_text(TELL)
    return place


@pytest.fixture
async def scans(folder: Path, nats_server: EmbeddedServer) -> AsyncIterator[Deployed]:
    deployed = await Deployed.open(folder, nats_server.url)
    yield deployed
    await deployed.close()


async def subjects_of(scans: Deployed) -> list[str]:
    """Return the subjects of the messages whose payloads are in the store, sorted."""
    found = [read_claim_object(name) for name in await (await scans.payloads()).names()]
    return sorted(place.subject.partition(".")[2] for place in found if place is not None)


async def settled(scans: Deployed) -> None:
    """Wait until every consumer is done with everything."""

    async def is_done() -> bool:
        return not any(state.pending or state.ack_pending for state in await scans.bus.consumer_states(scans.stream))

    async with asyncio.timeout(PATIENCE_S):
        while not await is_done():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)


# --- through a workflow ---


async def test_twenty_megabytes_go_through_three_nodes_and_come_back(scans: Deployed) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    data = noise(20 * MIB)

    answer = await client.predict(data, timeout_s=PATIENCE_S)

    assert hashlib.sha256(answer).digest() == hashlib.sha256(turned(data, 3)).digest()
    assert await subjects_of(scans) == ["cut", "entrypoint", "read", "tell"]
    stored = await peek.last(scans.bus, scans.stream, [names.node_subject(scans.stream, "cut")], 1)
    assert len(stored[0].data) < 1000


async def test_what_gzip_makes_small_needs_no_object(scans: Deployed) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()

    answer = await client.predict(b"x" * 20 * MIB, timeout_s=PATIENCE_S)

    assert answer == b"x" * 20 * MIB
    assert await subjects_of(scans) == []


async def test_large_and_small_requests_do_not_wait_for_each_other(scans: Deployed) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    sizes = [3 * MIB, 10, 2 * MIB, 100, 5 * MIB, 1000]

    answers = [client.predict(noise(size, seed=size), timeout_s=PATIENCE_S) for size in sizes]

    for size, answer in zip(sizes, answers, strict=True):
        assert await answer == turned(noise(size, seed=size), 3)


async def test_a_payload_that_no_sender_may_put_is_refused_at_once(scans: Deployed) -> None:
    client = await scans.client()

    with pytest.raises(MessageTooLargeError, match=r"stream\.max_bytes"):
        client.predict(bytes(201 * MIB))

    assert client.in_flight == 0


# --- cleaning up ---


async def test_payloads_of_done_messages_are_removed_and_answers_a_while_later(scans: Deployed) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    await client.predict(noise(3 * MIB), timeout_s=PATIENCE_S)
    await settled(scans)

    await scans.look()
    soon = await subjects_of(scans)
    await scans.look(later_s=ANSWER_S)
    later = await subjects_of(scans)

    assert (soon, later) == (["tell"], [])
    assert await (await scans.payloads()).size_bytes() == 0


async def test_no_payload_is_removed_that_a_slow_node_has_not_handled(scans: Deployed) -> None:
    await scans.start("cut")
    client = await scans.client()
    data = [noise(2 * MIB, seed) for seed in range(3)]
    answers = [client.predict(each, timeout_s=PATIENCE_S) for each in data]
    async with asyncio.timeout(PATIENCE_S):
        while await scans.stored("cut") < len(data):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)

    await scans.look(later_s=10 * ORPHAN_S)
    waiting = await subjects_of(scans)
    await scans.start("read", "tell")

    assert waiting == ["cut"] * 3
    assert [await answer for answer in answers] == [turned(each, 3) for each in data]


async def test_a_new_manager_keeps_what_is_needed_and_removes_what_is_not(scans: Deployed, folder: Path) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    await client.predict(noise(2 * MIB), timeout_s=PATIENCE_S)
    await settled(scans)
    await scans.stop("read")
    answer = client.predict(noise(2 * MIB, seed=1), timeout_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while await scans.stored("cut") < 2:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)

    # It has read none of the messages that are done, and waits until nobody can publish for their payloads.
    scans.manager = Manager(scans.bus, scans.spec, scans.clock)
    await scans.look(later_s=ANSWER_S)
    kept = await subjects_of(scans)
    await scans.look(later_s=ORPHAN_S)
    left = await subjects_of(scans)
    await scans.start("read")

    assert kept == ["cut", "cut", "entrypoint"]  # of the second request it knows all
    assert left == ["cut"]
    assert await answer == turned(noise(2 * MIB, seed=1), 3)


async def test_a_payload_without_a_message_is_removed_when_none_can_come_any_more(scans: Deployed) -> None:
    store = await scans.payloads()
    subject = names.node_subject(scans.stream, "cut")
    await store.put(claim_object(subject, "cut.17.0", "0" * 64), b"put, but never published")
    await store.put("of somebody else", b"whose name says nothing")

    await scans.look(later_s=ORPHAN_S - 60)
    early = await store.names()
    await scans.look(later_s=ORPHAN_S + 60)

    assert len(early) == 2
    assert await store.names() == ["of somebody else"]


async def test_a_full_store_holds_callers_back_until_its_messages_are_done(
    nats_server: EmbeddedServer, folder: Path
) -> None:
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("400Mi", "48Mi"))
    scans = await Deployed.open(folder, nats_server.url)
    try:
        client = await scans.client()
        data = [noise(6 * MIB, seed) for seed in range(5)]
        answers = [client.predict(each, timeout_s=PATIENCE_S) for each in data]
        async with asyncio.timeout(PATIENCE_S):
            while await scans.stored("entrypoint") < 3:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.05)
        full = await scans.stored("entrypoint")
        looking = asyncio.create_task(_keep_looking(scans))

        await scans.start("cut", "read", "tell")
        got = [await answer for answer in answers]
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    finally:
        await scans.close()

    assert full <= 4  # half of the store is for the nodes
    assert got == [turned(each, 3) for each in data]


async def _keep_looking(scans: Deployed) -> None:
    """Look as a manager does, to whom every answer is old two seconds later."""
    while True:
        await scans.look(later_s=ANSWER_PRESSED_S - 2.0)
        await asyncio.sleep(0.1)


# --- lost and corrupt ---


async def left_alone(scans: Deployed) -> tuple[str, "asyncio.Future[object]"]:
    """Send a request that no node takes yet; returns the name of its payload, and the answer to come."""
    client = await scans.client()
    answer = client.predict(noise(3 * MIB), timeout_s=PATIENCE_S)
    store = await scans.payloads()
    async with asyncio.timeout(PATIENCE_S):
        while not await scans.stored("entrypoint"):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)
    [name] = await store.names()
    return name, answer


async def assert_given_up(scans: Deployed, answer: "asyncio.Future[object]", text: str) -> None:
    await scans.start("cut", "read", "tell")
    with pytest.raises(PredictionError, match=text) as failed:
        await answer
    [letter] = await scans.letters()
    assert (failed.value.outcome, failed.value.node) == ("invalid", "cut")
    assert (letter.reason, letter.attempts, letter.node) == ("claim", (), "cut")
    assert text in letter.error


async def test_a_missing_payload_makes_a_dead_letter_and_no_retry(scans: Deployed) -> None:
    name, answer = await left_alone(scans)
    await (await scans.payloads()).delete(name)

    await assert_given_up(scans, answer, "removed when its message is done")


@pytest.mark.parametrize("change", ["corrupt", "truncated", "replaced"])
async def test_a_payload_that_is_not_what_was_claimed_makes_a_dead_letter(
    scans: Deployed, nats_server: EmbeddedServer, change: str
) -> None:
    name, answer = await left_alone(scans)
    good = await (await scans.payloads()).get(name)
    if change == "replaced":
        await (await scans.payloads()).put(name, noise(3 * MIB, seed=9))
    else:
        backend = NatsBackend(nats_server.url)
        other = good[:-1] if change == "truncated" else bytes([good[0] ^ 1]) + good[1:]
        await backend.corrupt_object(f"{scans.stream}_claims", name, other[: MIB // 2])
        await backend.close()

    text = "what was claimed" if change == "replaced" else "cannot be fetched"
    await assert_given_up(scans, answer, text)


async def test_a_store_that_is_gone_is_made_anew(scans: Deployed) -> None:
    answered = await scans.bus.request(f"$JS.API.STREAM.DELETE.OBJ_{scans.stream}_claims", b"", timeout_s=5)
    assert b'"success":true' in answered.data

    await scans.look()
    await scans.start("cut", "read", "tell")
    client = await scans.client()

    assert await client.predict(noise(2 * MIB), timeout_s=PATIENCE_S) == turned(noise(2 * MIB), 3)


@pytest.mark.timeout(90)
async def test_a_server_that_goes_away_while_a_payload_is_fetched_loses_and_repeats_nothing(
    folder: Path, start_nats_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_nats_server()
    scans = await Deployed.open(folder, server.url)
    in_the_middle = asyncio.Event()
    next_chunk = NatsObjectStore._next_chunk

    async def tell(self: NatsObjectStore, nuid: str, sequence: int) -> object:
        if sequence > 20:
            in_the_middle.set()
        return await next_chunk(self, nuid, sequence)

    try:
        name, answer = await left_alone(scans)
        monkeypatch.setattr(NatsObjectStore, "_next_chunk", tell)
        await scans.start("cut", "read", "tell")
        async with asyncio.timeout(PATIENCE_S):
            await in_the_middle.wait()
        server.stop_blocking()
        server.start_blocking()

        async with asyncio.timeout(60):
            while not await _is_stored(scans, "tell"):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.2)
        await settled(scans)
        [output] = await peek.last(scans.bus, scans.stream, [names.node_subject(scans.stream, "tell")], 10)
        data = await payloads.whole(scans.bus, scans.stream, output.data, is_letter=False)
    finally:
        answer.cancel()
        await scans.close()

    assert read_claim_object(name) is not None
    assert decode_value(decode(data).payload) == turned(noise(3 * MIB), 3)


async def _is_stored(scans: Deployed, node: str) -> bool:
    try:
        return await scans.stored(node) > 0
    except Exception:  # the server is away
        return False


# --- dead letters ---


async def test_a_dead_letter_keeps_its_payload_and_is_redriven_after_the_clean_up(
    scans: Deployed, folder: Path
) -> None:
    refuse = folder / "refuse"
    refuse.touch()
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    data = noise(3 * MIB)
    with pytest.raises(PredictionError, match="refused"):
        await client.predict(data, timeout_s=PATIENCE_S)
    await settled(scans)

    await scans.look(later_s=ORPHAN_S)
    cleaned = await subjects_of(scans)
    [letter] = [each async for each in letters.find(scans.bus, scans.stream, letters.Wanted())]
    shown = await payloads.whole(scans.bus, scans.stream, letter.body, is_letter=True)
    refuse.unlink()
    async with Redriver(scans.bus, scans.stream) as redriver:
        await redriver.redrive(letter)
    async with asyncio.timeout(PATIENCE_S):
        while not await scans.stored("tell") == 2:  # noqa: ASYNC110 - the ERROR and the output; no event tells of it
            await asyncio.sleep(0.05)
    [_, output] = await peek.last(scans.bus, scans.stream, [names.node_subject(scans.stream, "tell")], 10)
    answered = await payloads.whole(scans.bus, scans.stream, output.data, is_letter=False)
    await settled(scans)
    await scans.look(later_s=ANSWER_S)

    assert cleaned == []
    assert decode_value(decode(shown).payload) == turned(data, 2)
    assert decode_value(decode(answered).payload) == turned(data, 3)
    assert await scans.letters() == []
    assert await (await scans.letter_payloads()).names() == []
    assert await subjects_of(scans) == []


async def test_a_dropped_letter_takes_its_payload_along(scans: Deployed, folder: Path) -> None:
    (folder / "refuse").touch()
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    client.predict(noise(2 * MIB), timeout_s=PATIENCE_S).add_done_callback(lambda done: done.exception())
    async with asyncio.timeout(PATIENCE_S):
        while not await scans.letters():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.1)

    [letter] = [each async for each in letters.find(scans.bus, scans.stream, letters.Wanted())]
    before = await (await scans.letter_payloads()).names()
    await letters.drop(scans.bus, scans.stream, letter)

    assert len(before) == 1
    assert await (await scans.letter_payloads()).names() == []


# --- looking on ---


async def test_it_is_told_where_a_payload_lies_and_that_it_is_gone(scans: Deployed) -> None:
    await scans.start("cut", "read", "tell")
    client = await scans.client()
    await client.predict(noise(2 * MIB), timeout_s=PATIENCE_S, request_id="scan-1")
    await settled(scans)
    [stored] = await peek.last(scans.bus, scans.stream, [names.node_subject(scans.stream, "cut")], 1)

    before = await payloads.look_up(scans.bus, scans.stream, see(stored))
    await scans.look()
    after = await payloads.look_up(scans.bus, scans.stream, see(stored))
    found = await trace(scans.bus, scans.stream, "scan-1")
    with pytest.raises(DecodeError, match="removed when its message is done"):
        await payloads.whole(scans.bus, scans.stream, stored.data, is_letter=False)

    assert before.claim is not None and before.claim.size > 2 * MIB
    assert (before.claim_is_gone, after.claim_is_gone) == (False, True)
    assert [message.claim_is_gone for message in found.messages] == [True, True, True, False]
