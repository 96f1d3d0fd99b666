"""A cluster of three servers loses members: what was fed comes out of a workflow, each message once."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import BusUnavailableError, DriftError
from runtime.spec import names
from test.support.cluster import SIZE, Cluster, running_cluster
from test.support.two_nodes import TwoNodes

pytestmark = pytest.mark.timeout(120)

# Seconds from the loss of a leader until the workflow has its full rate again. The servers choose the leaders of the
# stream and of each consumer for themselves, in 4 to 9 s, or in a second round.
RECOVERY_LIMIT_S = 10.0
# Seconds behind the last election: to publish again, to find consumers again, and to see the rate of half a second.
OWN_LIMIT_S = 6.0

OpenTwoNodes = Callable[[], Awaitable[TwoNodes]]


@pytest.fixture
async def cluster(nats_server_binary: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path / "cluster", nats_server_binary) as running:
        yield running


@pytest.fixture
async def bus(cluster: Cluster) -> AsyncIterator[NatsBus]:
    connected = await NatsBus.connect(cluster.urls, name="test", request_timeout_s=2.0)
    yield connected
    await connected.close()


@pytest.fixture
async def open_two_nodes(cluster: Cluster, tmp_path: Path) -> AsyncIterator[OpenTwoNodes]:
    """Run two nodes, one behind the other, on a stream that all members keep."""
    async with AsyncExitStack() as stack:

        async def open_() -> TwoNodes:
            return await stack.enter_async_context(TwoNodes.running(tmp_path / "workflow", cluster.urls, SIZE))

        yield open_


# --- a leader is lost under load ---


@pytest.mark.attack
async def test_nothing_is_lost_or_doubled_when_a_leader_is_killed(
    cluster: Cluster, open_two_nodes: OpenTwoNodes, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = await open_two_nodes()
    rate_before = await flow.measure_rate(1.0)
    victim = await cluster.leader_of(flow.bus, flow.stream)

    cluster.kill(victim)
    killed_s, killed_at_s = time.monotonic(), time.time()
    recovered_s = await flow.wait_for_rate(rate_before * 0.8, 2 * RECOVERY_LIMIT_S) - killed_s
    elected_s = cluster.last_election_s(flow.stream) - killed_at_s
    await cluster.restart(victim)

    with capsys.disabled():
        print(f"\n  {rate_before:.0f}/s before, leaders after {elected_s:.1f} s, the rate after {recovered_s:.1f} s")
    assert recovered_s <= max(RECOVERY_LIMIT_S, elected_s + OWN_LIMIT_S)
    assert await flow.finish() == sorted(flow.fed)


@pytest.mark.attack
async def test_two_nodes_go_on_when_a_follower_is_killed(cluster: Cluster, open_two_nodes: OpenTwoNodes) -> None:
    flow = await open_two_nodes()
    victim = (await cluster.leader_of(flow.bus, flow.stream) + 1) % SIZE
    await flow.see_more(200)

    cluster.kill(victim)
    await flow.see_more(1_000)
    await cluster.restart(victim)
    await cluster.all_current(flow.bus, flow.stream)

    assert await flow.finish() == sorted(flow.fed)


@pytest.mark.attack
async def test_a_leader_that_is_cut_off_loses_nothing_and_the_partition_heals(
    cluster: Cluster, open_two_nodes: OpenTwoNodes
) -> None:
    """Clients of the old leader stay with it: what they publish there is not confirmed until it has its routes back."""
    flow = await open_two_nodes()
    await flow.see_more(200)
    leader = await cluster.leader_of(flow.bus, flow.stream)

    cluster.isolate(leader)
    await cluster.leader_changes(flow.stream, leader)
    cluster.heal(leader)
    await cluster.all_current(flow.bus, flow.stream)
    await flow.see_more(500)

    assert await flow.finish() == sorted(flow.fed)


@pytest.mark.attack
async def test_a_leader_that_is_frozen_and_thawed_doubles_nothing(
    cluster: Cluster, open_two_nodes: OpenTwoNodes
) -> None:
    flow = await open_two_nodes()
    await flow.see_more(200)
    leader = await cluster.leader_of(flow.bus, flow.stream)

    cluster.freeze(leader)
    await cluster.leader_changes(flow.stream, leader)
    cluster.thaw(leader)
    await flow.see_more(500)
    await cluster.all_current(flow.bus, flow.stream)

    assert await flow.finish() == sorted(flow.fed)


@pytest.mark.attack
async def test_with_two_of_three_servers_down_nothing_is_confirmed_and_work_resumes(
    cluster: Cluster, open_two_nodes: OpenTwoNodes
) -> None:
    flow = await open_two_nodes()
    await flow.see_more(200)
    survivor = (await cluster.leader_of(flow.bus, flow.stream) + 1) % SIZE
    victims = [number for number in range(SIZE) if number != survivor]

    for victim in victims:
        cluster.kill(victim)
    await flow.nothing_is_confirmed(for_s=3.0)
    for victim in victims:
        await cluster.restart(victim)
    await flow.see_more(500)

    assert await flow.finish() == sorted(flow.fed)


# --- addresses ---


async def test_a_connection_finds_a_living_server_behind_a_dead_first_address(cluster: Cluster) -> None:
    cluster.kill(0)

    bus = await NatsBus.connect(cluster.urls, name="test", limit_s=5.0)

    assert (await bus.stream_placement("probe")).replicas == SIZE
    await bus.close()


async def test_a_connection_with_one_address_moves_to_the_others_when_its_server_dies(cluster: Cluster) -> None:
    bus = await NatsBus.connect(cluster.urls[:1], name="test", limit_s=5.0, request_timeout_s=2.0)

    cluster.kill(0)

    await cluster.leader_of(bus, "probe")
    await bus.close()


# --- what a cluster holds ---


async def test_buckets_and_consumers_have_the_copies_of_their_stream(
    bus: NatsBus, open_two_nodes: OpenTwoNodes
) -> None:
    flow = await open_two_nodes()

    buckets = [names.attempts_bucket(flow.stream), names.applied_bucket(flow.stream)]
    for stream in [flow.stream, names.dead_letter_stream(flow.stream), *(f"KV_{bucket}" for bucket in buckets)]:
        assert (await bus.stream_placement(stream)).replicas == SIZE, stream


async def test_a_follower_that_is_down_is_told(cluster: Cluster, bus: NatsBus) -> None:
    leader = await cluster.leader_of(bus, "probe")
    victim = (leader + 1) % SIZE

    cluster.kill(victim)

    async with asyncio.timeout(30):
        while not (behind := (await bus.stream_placement("probe")).behind()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert [follower.name for follower in behind] == [f"member-{victim}"]


async def test_more_replicas_than_servers_are_refused_with_the_figures(bus: NatsBus) -> None:
    with pytest.raises(BusUnavailableError, match="cluster has 3 address"):
        await bus.ensure_stream(StreamConfig(name="s", subjects=("s",), replicas=SIZE + 2))


async def test_replicas_on_a_single_server_are_refused(nats_server: EmbeddedServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="test")

    with pytest.raises(DriftError, match=r"on its own.*stream\.replicas: 1"):
        await bus.ensure_stream(StreamConfig(name="s", subjects=("s",), replicas=SIZE))
    await bus.close()


async def test_a_bucket_gets_the_copies_that_are_asked_for_later(bus: NatsBus) -> None:
    await (await bus.key_value("settings", create=True)).put("colour", b"red")

    grown = await bus.key_value("settings", create=True, replicas=SIZE)

    assert (await grown.get("colour")).value == b"red"
    assert (await bus.stream_placement("KV_settings")).replicas == SIZE
