"""An atomic node or its server dies at any point: of three outputs all are stored, once, and never a part of them."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from runtime.bus import topology
from runtime.bus.base import StreamConfig
from runtime.bus.batch import BatchMessage, headers_of
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import DriftError, NotFoundError
from runtime.spec.node import NodeSpec
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.cluster import SIZE, running_cluster
from test.support.kill_at import ATOMIC_POINTS, NODE_POINTS
from test.support.node import OUTPUT, STREAM, node_spec

THREE = """
    import asyncio

    async def handler(ctx, data: int):
        await ctx.send_output([data, 0])
        await asyncio.sleep(0.001)  # lets the outputs of others in between, if these are not held
        await ctx.send_output([data, 1])
        return [[data, 2]]
"""
# Seconds that the server may take for a batch that it has begun to store, on a loaded machine.
STORING_LIMIT_S = 5.0


def atomic(**changes: Any) -> NodeSpec:
    return node_spec(**{"atomic": True, "concurrency": 4, **changes})


def expected(inputs: int) -> list[list[int]]:
    return [[number, output] for number in range(inputs) for output in range(3)]


async def incomplete(bench: Workbench) -> dict[int, int]:
    """Return how many outputs the stream holds of each input of which it does not hold three."""
    counts: dict[int, int] = {}
    for number in range(1, (await bench.bus.stream_state(STREAM)).last_sequence + 1):
        message = await bench.bus.get_message(STREAM, number)
        if message.subject == OUTPUT:
            _, origin, _ = message.headers["Nats-Msg-Id"].rsplit(".", 2)
            counts[int(origin)] = counts.get(int(origin), 0) + 1
    return {origin: count for origin, count in counts.items() if count != 3}


async def no_part_is_left(bench: Workbench) -> None:
    """Fail when the stream keeps a part of a delivery; the server may still be storing what the victim has sent."""
    async with asyncio.timeout(STORING_LIMIT_S):
        while await incomplete(bench):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.attack
@pytest.mark.timeout(40)
@pytest.mark.parametrize("point", [*ATOMIC_POINTS, *(each for each in NODE_POINTS if "publish" not in each)])
async def test_a_kill_at_any_point_leaves_three_outputs_or_none(open_workbench: OpenWorkbench, point: str) -> None:
    bench = await open_workbench(THREE, ack_wait_s=1.0, spec=atomic())
    victim = bench.launch_child(atomic(), module=("test.support.kill_at", point, "4"))
    await victim.ready()
    await bench.feed(range(6))
    assert await victim.exit_code() == -signal.SIGKILL
    await no_part_is_left(bench)

    await bench.start_child(atomic())

    assert sorted(await bench.see(18)) == expected(6)
    await bench.settled()
    assert await bench.stored() == 18
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(60)
async def test_the_outputs_of_one_delivery_stand_side_by_side_under_load(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(THREE, spec=atomic(concurrency=16))
    for _ in range(2):
        await bench.start_child(atomic(concurrency=16))

    await bench.feed(range(500))

    seen = list(await bench.see(1_500))
    assert [[[number, output] for output in range(3)] for number, _ in seen[::3]] == [
        seen[place : place + 3] for place in range(0, 1_500, 3)
    ]
    assert sorted(seen) == expected(500)
    assert await bench.dead_letters() == 0


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_a_server_that_is_killed_under_load_keeps_no_part_of_a_delivery(
    open_workbench: OpenWorkbench, nats_server: EmbeddedServer
) -> None:
    bench = await open_workbench(THREE, spec=atomic(concurrency=16))
    await bench.feed(range(800))
    await bench.start_child(atomic(concurrency=16))

    await bench.see(300)
    nats_server.kill()
    await asyncio.to_thread(nats_server.start_blocking)

    assert sorted(await bench.see(2_400, patience_s=40)) == expected(800)
    await bench.settled()
    assert await incomplete(bench) == {}
    assert await bench.stored() == 2_400
    assert await bench.dead_letters() == 0


@pytest.mark.attack
@pytest.mark.timeout(90)
async def test_batches_are_stored_whole_and_once_when_the_leader_of_a_cluster_is_killed(
    nats_server_binary: Path, tmp_path: Path
) -> None:
    async with running_cluster(tmp_path, nats_server_binary) as cluster:
        bus = await NatsBus.connect(cluster.urls, name="test", request_timeout_s=2.0)
        await bus.ensure_stream(StreamConfig(name="s", subjects=("s.>",), replicas=SIZE, atomic=True))
        publisher = bus.publisher("s")
        confirmed: list[object] = []

        for number in range(600):
            batch = [BatchMessage("s.x", b"", f"{number}.{place}", confirmed.append) for place in range(3)]
            await publisher.publish_batch(batch)
            await asyncio.sleep(0.002)
            if number == 200:
                cluster.kill(await cluster.leader_of(bus, "s"))
        await asyncio.wait_for(publisher.flush(), 30)

        scan = await bus.scan("s")
        ids: list[str] = []
        while scan.left:
            ids += [message.headers["Nats-Msg-Id"] for message in await scan.read(wait_s=5)]
        await scan.close()
        assert confirmed == [None] * 1_800
        assert sorted(ids) == sorted(f"{number}.{place}" for number in range(600) for place in range(3))
        assert [ids[place : place + 3] for place in range(0, 1_800, 3)] == [
            [f"{first.partition('.')[0]}.{place}" for place in range(3)] for first in ids[::3]
        ]
        await publisher.close()
        await bus.close()


async def test_a_server_without_batches_is_refused_by_its_version_and_gets_no_stream(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "BATCH_FLOOR", (99, 0, 0))
    bus = await NatsBus.connect([nats_server.url], name="test")

    with pytest.raises(DriftError, match=r"stream s .* NATS server is 2\.\d+\.\d+, and that needs 99\.0\.0; update it"):
        await bus.ensure_stream(StreamConfig(name="s", subjects=("s.>",), atomic=True))

    with pytest.raises(NotFoundError):
        await bus.stream_state("s")
    await bus.close()


async def test_a_batch_without_its_end_is_never_seen_and_harms_no_other(nats_server: EmbeddedServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="test")
    await bus.ensure_stream(StreamConfig(name="s", subjects=("s.>",), atomic=True))
    for place in (1, 2):
        bus.send("s.x", b"half", headers={"Nats-Msg-Id": f"{place}", **headers_of("half", place, 3)})
    publisher = bus.publisher("s")
    confirmed: list[object] = []

    await publisher.publish_batch([BatchMessage("s.x", b"whole", f"{place}", confirmed.append) for place in (1, 2, 3)])
    await asyncio.wait_for(publisher.flush(), 5)

    assert confirmed == [None] * 3
    assert [(await bus.get_message("s", number)).data for number in (1, 2, 3)] == [b"whole"] * 3
    assert (await bus.stream_state("s")).last_sequence == 3
    await publisher.close()
    await bus.close()
