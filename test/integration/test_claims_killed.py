"""A node dies at any point of its way with large payloads: nothing is lost or doubled, and nothing stays behind."""

import random
from collections.abc import Sequence
from functools import partial

import pytest

from runtime.bus.base import Confirmation
from runtime.bus.claims import Claims
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from runtime.deploy.claims import ORPHAN_S, ClaimKeeper
from runtime.inspection.payloads import whole
from runtime.message import Message
from runtime.payload import decode_value, encode_value
from runtime.spec.claims import ClaimsSpec, claim_object, claims_store, letter_claims_store
from runtime.wire import decode, encode
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.deployed import AheadClock
from test.support.kill_at import CLAIM_POINTS
from test.support.node import ENTRYPOINT, OUTPUT, STREAM, node_spec

pytestmark = pytest.mark.attack

MIB = 1024 * 1024
TURN = """
    async def handler(ctx, data: bytes):
        return data[1:] + data[:1]
"""
CLAIMS = ClaimsSpec(store=claims_store(STREAM), room_bytes=100 * MIB)
SPEC = node_spec(claims=CLAIMS, concurrency=1)
PAYLOADS = [random.Random(seed).randbytes(3 * MIB) for seed in range(3)]
# At which pass of a point the process dies: where each payload passes many times, in the midst of the second.
PASSES = {**dict.fromkeys(CLAIM_POINTS, 2), "payload half fetched": 40, "payload half put": 3}


async def feed(bench: Workbench, payloads: Sequence[bytes]) -> None:
    """Store requests as a client does."""
    claims = Claims(bench.bus, CLAIMS.store, SystemClock(), room_bytes=CLAIMS.room_bytes, max_bytes=100 * MIB)
    publisher = bench.bus.publisher(STREAM)
    for number, value in enumerate(payloads):
        request_id = f"r{number}"
        envelope = encode(Message(request_id=request_id, payload=encode_value(value), from_node="entrypoint"))
        data = await claims.fit(envelope, publisher.limit_bytes, partial(claim_object, ENTRYPOINT, request_id))
        stored = Confirmation()
        await publisher.publish(ENTRYPOINT, data, message_id=request_id, confirm=stored)
        await stored
    await publisher.close()


async def outputs(bench: Workbench) -> list[bytes]:
    scan = await bench.bus.scan(STREAM, subjects=[OUTPUT])
    found = []
    while page := await scan.read():
        found += [decode(await whole(bench.bus, STREAM, message.data, is_letter=False)) for message in page]
    await scan.close()
    return [decode_value(message.payload) for message in found]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", CLAIM_POINTS)
async def test_a_kill_at_any_point_loses_repeats_and_leaves_nothing(open_workbench: OpenWorkbench, point: str) -> None:
    bench = await open_workbench(TURN, ack_wait_s=2.0)
    for store in (CLAIMS.store, letter_claims_store(STREAM)):
        await bench.bus.ensure_object_store(ObjectStoreConfig(name=store))
    await bench.bus.key_value(f"attempts_{STREAM}", create=True)
    clock = AheadClock()
    keeper = ClaimKeeper(bench.bus, STREAM, CLAIMS, clock)
    await look(bench, keeper)
    await feed(bench, PAYLOADS)
    victim = bench.launch_child(SPEC, module=("test.support.kill_at", point, str(PASSES[point])))
    assert await victim.exit_code() == -9, victim.log()

    await bench.start_child(SPEC)

    await bench.see(len(PAYLOADS))
    await bench.settled()
    assert sorted(await outputs(bench)) == sorted(data[1:] + data[:1] for data in PAYLOADS)
    assert await bench.dead_letters() == 0
    clock.ahead_s = ORPHAN_S
    await look(bench, keeper)
    assert await (await bench.bus.object_store(CLAIMS.store)).size_bytes() == 0


async def look(bench: Workbench, keeper: ClaimKeeper) -> None:
    state = await bench.bus.stream_state(STREAM)
    await keeper.look(state, await bench.bus.consumer_states(STREAM))
