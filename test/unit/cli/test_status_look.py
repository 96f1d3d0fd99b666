"""What `krt status` makes of streams, consumers and service records."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bus.base import ConsumerConfig, StreamConfig, StreamPlacement
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.presence import ServiceRecord
from runtime.cli.run_file import ReplicaRecord, RunNode, RunWorkflow, write_replicas
from runtime.cli.status import _lines
from runtime.cli.status_look import NodeStatus, WorkflowStatus, compare, look, subjects_of
from runtime.cli.target import Target
from runtime.clock import FakeClock, settle
from runtime.spec import names
from runtime.stores.base import PointCounts
from test.support.answering_node import consumer_config, stream_config

STREAM = "test_v1_hello"
NOBODY: list[ServiceRecord] = []


@pytest.fixture
def target(tmp_path: Path) -> Target:
    nodes = {
        "echo": RunNode(durable="echo__entrypoint", replicas=2),
        "planned": RunNode(durable="planned__echo", replicas=1),
    }
    run = RunWorkflow(stream=STREAM, folder=str(tmp_path), runtime="test", version="v1", nodes=nodes)
    return Target(name="hello", nats="nats://127.0.0.1:1", stream=STREAM, run=run, place=tmp_path)


@pytest.fixture
async def bus() -> MemoryBus:
    bus = MemoryBroker(FakeClock()).connect()
    await bus.ensure_stream(stream_config(STREAM))
    await bus.ensure_consumer(consumer_config(STREAM))
    return bus


def live(kind: str, name: str, replica: int = 0) -> ServiceRecord:
    return ServiceRecord.of_this_process(kind, name, workflow="hello", replica=replica)


async def publish(bus: MemoryBus, stream: str, subject: str, ids: range) -> None:
    publisher = bus.publisher(stream)
    for number in ids:
        await publisher.publish(subject, b"x", message_id=f"{subject}-{number}", confirm=lambda error: None)
    await publisher.flush()


async def test_a_node_shows_replicas_backlog_and_dead_letters(bus: MemoryBus, target: Target) -> None:
    dead = names.dead_letter_stream(STREAM)
    await bus.ensure_stream(StreamConfig(name=dead, subjects=(f"{dead}.>",), storage="memory"))
    await publish(bus, dead, names.dead_letter_subject(STREAM, "echo"), range(3))
    await publish(bus, STREAM, names.entrypoint_subject(STREAM), range(5))
    reader = bus.reader(consumer_config(STREAM), create=False)
    await reader.start()
    await reader.take()
    first, second = live("node", "echo"), live("node", "echo", replica=1)
    stranger, writer = live("node", "echoes"), live("writer", "writer")

    found = compare(await look(bus, target, [writer, second, stranger, first], at_s=0.0))

    in_hand = reader.in_hand
    assert found == WorkflowStatus(
        nodes=(
            NodeStatus(
                node="echo", live=(first, second), planned=2, points=PointCounts(), pending=5 - in_hand,
                in_flight=in_hand, redelivered=0, dead_letters=3,
            ),
            NodeStatus(
                node="planned", live=(), planned=1, points=PointCounts(), pending=0, in_flight=0, redelivered=0,
                dead_letters=0,
            ),
        ),
        services=(writer,),
        placement=StreamPlacement(storage="memory", replicas=1),
        sync="",
    )  # fmt: skip
    await reader.close()


async def test_the_measurements_of_a_node_are_those_of_its_live_replicas(bus: MemoryBus, target: Target) -> None:
    counters = {"ok": 9, "points_written": 5, "points_retried": 2, "points_dropped": 1}
    replicas = [replace(live("node", "echo", replica=number), counters=counters) for number in range(2)]

    status = compare(await look(bus, target, replicas, at_s=0.0))

    assert [node.points for node in status.nodes] == [PointCounts(written=10, retried=4, dropped=2), PointCounts()]


async def test_what_the_live_replicas_of_a_node_have_left_out_is_told_in_a_line(bus: MemoryBus, target: Target) -> None:
    replicas = [replace(live("node", "echo", replica=number), counters={"left_out": 600}) for number in range(2)]

    silent, told = [compare(await look(bus, target, records, at_s=0.0)) for records in (NOBODY, replicas)]

    assert [node.left_out for node in told.nodes] == [1_200, 0]
    assert [line for line in _lines(told) if line not in _lines(silent)] == ["left out: 1,200 by echo"]


async def test_a_process_that_does_not_work_is_told_with_its_last_error(
    bus: MemoryBus, target: Target, tmp_path: Path
) -> None:
    ended = replace(target, store=tmp_path)
    replicas = {
        "echo": ReplicaRecord(state="crash-looping", pid=None, restarts=4, last_error="KeyError: 'a[0]'"),
        "planned": ReplicaRecord(state="failed", pid=None, restarts=0, last_error="SIGKILL"),
        "krt.writer": ReplicaRecord(state="ready", pid=7, restarts=1),
    }
    write_replicas(tmp_path, replicas)

    status, left = [compare(await look(bus, each, NOBODY, at_s=0.0)) for each in (target, ended)]

    assert _lines(status)[:2] == [
        "failing: echo (crash-looping, 4 restarts): KeyError: 'a[0]'",
        "failing: planned (failed): SIGKILL",
    ]
    assert (len(status.failing), left.failing) == (2, ())


async def test_without_a_run_the_nodes_are_those_of_the_consumers(bus: MemoryBus) -> None:
    target = Target(name=STREAM, nats="nats://127.0.0.1:1", stream=STREAM)

    [node] = compare(await look(bus, target, NOBODY, at_s=0.0)).nodes

    assert (node.node, node.live, node.planned, node.rate) == ("echo", (), None, None)


async def test_the_rate_is_what_was_handled_between_two_looks(bus: MemoryBus, target: Target) -> None:
    subject = names.entrypoint_subject(STREAM)
    await publish(bus, STREAM, subject, range(4))
    before = await look(bus, target, NOBODY, at_s=10.0)
    reader = bus.reader(consumer_config(STREAM), create=False)
    await reader.start()
    await publish(bus, STREAM, subject, range(4, 10))
    # Messages of other subjects must not count, although they raise the stream's sequence.
    await publish(bus, STREAM, names.node_subject(STREAM, "echo"), range(50))
    for _ in range(7):
        reader.ack(await reader.take())
    await settle()

    now = await look(bus, target, NOBODY, at_s=12.0)

    assert [node.rate for node in compare(now, before).nodes] == [3.5, None]
    await reader.close()


async def test_a_purge_between_the_looks_leaves_the_rate_unknown(bus: MemoryBus, target: Target) -> None:
    await publish(bus, STREAM, names.entrypoint_subject(STREAM), range(4))
    before = await look(bus, target, NOBODY, at_s=10.0)

    await bus.purge(STREAM, below=3)

    assert compare(await look(bus, target, NOBODY, at_s=11.0), before).nodes[0].rate is None


@pytest.mark.parametrize("sources", [["entrypoint"], ["clean"], ["clean.rejected", "entrypoint"]])
def test_the_subjects_of_a_durable_are_read_from_its_name(sources: list[str]) -> None:
    subjects = subjects_of(STREAM, names.durable("score", sources))

    assert subjects == sorted(f"{STREAM}.{source}" for source in sources)


async def test_the_partitions_of_an_ordered_node_count_together(bus: MemoryBus, target: Target) -> None:
    for number in range(2):
        subjects = names.partition_inputs((f"{STREAM}.echo",), number)
        durable = names.partition_durable("planned__echo", number)
        await bus.ensure_consumer(ConsumerConfig(stream=STREAM, durable=durable, filter_subjects=subjects))
    before = await look(bus, target, NOBODY, 0.0)
    await publish(bus, STREAM, f"{STREAM}.echo.main.p0", range(2))
    await publish(bus, STREAM, f"{STREAM}.echo.main.p1", range(3))

    found = compare(await look(bus, target, NOBODY, 1.0), before)

    [planned] = [node for node in found.nodes if node.node == "planned"]
    assert (planned.pending, planned.rate) == (5, 0.0)
    assert [node.node for node in found.nodes] == ["echo", "planned"]
