"""What `krt status` shows, from streams, consumers and presence: one look at a workflow, and what two looks tell."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from runtime import errors
from runtime.bus.base import Bus, ConsumerState, StreamPlacement, StreamState
from runtime.bus.presence import ServiceRecord
from runtime.cli.monitoring import sync_interval
from runtime.cli.run_file import read_replicas
from runtime.cli.status_gpus import GpuStatus, gpus_of
from runtime.cli.target import Target
from runtime.spec import names
from runtime.stores.base import PointCounts

# Counters of a node's record, in the order of the fields of `PointCounts`; see `node.metrics`.
_POINT_COUNTERS = ("points_written", "points_retried", "points_dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node. live: its replicas that take messages. planned: how many there should be, None where not known.

    pending: not delivered yet. in_flight: delivered and not settled. redelivered: of those in flight, delivered before.
    points, left_out: of the live replicas since their start: measurements, and messages that did not fit `when`. rate:
    messages handled per second, None if unknown. fused_with: the first node of its chain, which takes its messages; ""
    for any other node.
    """

    node: str
    live: tuple[ServiceRecord, ...]
    planned: int | None
    points: PointCounts
    pending: int
    in_flight: int
    redelivered: int
    dead_letters: int
    left_out: int = 0
    rate: float | None = None
    fused_with: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingProcess:
    """A process of a local run that does not work. state: a word of `deploy.process.State`; error: one line."""

    name: str
    state: str
    restarts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatus:
    """One workflow: its nodes, planned ones first in their order, and the managers and writers that are alive.

    placement: of its stream. sync: how often the server forces its files to the disk, in words, "" if that was not
    asked. failing: as far as it runs locally. gpus: that its processes were given.
    """

    nodes: tuple[NodeStatus, ...]
    services: tuple[ServiceRecord, ...]
    placement: StreamPlacement
    sync: str
    failing: tuple[FailingProcess, ...] = ()
    gpus: tuple[GpuStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A workflow at one moment. at_s: monotonic. live: the records of its processes."""

    target: Target
    at_s: float
    stream: StreamState
    consumers: tuple[ConsumerState, ...]
    dead_letters: Mapping[str, int]
    live: tuple[ServiceRecord, ...]
    placement: StreamPlacement
    sync: str
    failing: tuple[FailingProcess, ...] = ()


async def look(bus: Bus, target: Target, live: Iterable[ServiceRecord], at_s: float, monitoring: str = "") -> Look:
    """Look at the workflow now. monitoring: address of the server's, "" for none.

    Raises NotFoundError, BusUnavailableError, ConfigError.
    """
    return Look(
        target=target,
        at_s=at_s,
        stream=_without_partitions(await bus.stream_state(target.stream)),
        consumers=_added_up(await bus.consumer_states(target.stream)),
        dead_letters=await _dead_letters(bus, target.stream),
        live=tuple(sorted(live, key=lambda record: (record.name, record.replica, record.started_ms))),
        placement=await bus.stream_placement(target.stream),
        sync=await sync_interval(monitoring),
        failing=_failing(target),
    )


def compare(now: Look, before: Look | None = None) -> WorkflowStatus:
    """Return what a look tells, and together with one before also the rates."""
    earlier = {consumer.name: consumer for consumer in before.consumers} if before else {}
    found = {consumer.name: consumer for consumer in now.consumers}
    durables = {name: node.durable for name, node in now.target.run.nodes.items()} if now.target.run else {}
    for consumer in now.consumers:
        # A consumer that is no node's stands under its own name.
        durables.setdefault(names.node_of(consumer.name) or consumer.name, consumer.name)
    for record in now.live:
        if record.metadata.get(names.FUSED_WITH):  # it has no consumer
            durables.setdefault(record.name, "")
    nodes = [_status(node, now, before, found.get(durable), earlier.get(durable)) for node, durable in durables.items()]
    return WorkflowStatus(
        nodes=tuple(nodes),
        services=tuple(record for record in now.live if record.kind != names.NODE),
        placement=now.placement,
        sync=now.sync,
        failing=now.failing,
        gpus=gpus_of(now.live),
    )


def _failing(target: Target) -> tuple[FailingProcess, ...]:
    """Return what `krt run` tells of the processes that it does not get to work; of a run that has ended, nothing."""
    if target.place is None or target.store is not None:
        return ()
    return tuple(
        FailingProcess(name=name, state=replica.state, restarts=replica.restarts, error=replica.last_error)
        for name, replica in read_replicas(target.place).items()
        if replica.last_error
    )


def _without_partitions(state: StreamState) -> StreamState:
    """Count the messages of a partitioned output under the subject of the output."""
    counts: Counter[str] = Counter()
    for subject, count in state.subjects.items():
        counts[names.unpartitioned_subject(subject)] += count
    return replace(state, subjects=counts)


def _added_up(consumers: Iterable[ConsumerState]) -> tuple[ConsumerState, ...]:
    """Return one state for each node: the consumers of an ordered node's partitions together."""
    whole: dict[str, ConsumerState] = {}
    for each in consumers:
        name = names.unpartitioned_durable(each.name)
        before = whole.get(name)
        whole[name] = replace(each, name=name) if before is None else _sum(before, each)
    return tuple(whole.values())


def _sum(one: ConsumerState, other: ConsumerState) -> ConsumerState:
    return replace(
        one,
        pending=one.pending + other.pending,
        ack_pending=one.ack_pending + other.ack_pending,
        redelivered=one.redelivered + other.redelivered,
        waiting=one.waiting + other.waiting,
        ack_floor=min(one.ack_floor, other.ack_floor),
        delivered=max(one.delivered, other.delivered),
    )


def subjects_of(stream: str, durable: str) -> list[str]:
    """Return the subjects that a durable reads: its name holds them, see `names.durable`."""
    sources = durable.split("__")[1:]
    return [names.node_subject(stream, *source.split("_", 1)) for source in sources]


def _status(
    node: str, now: Look, before: Look | None, consumer: ConsumerState | None, earlier: ConsumerState | None
) -> NodeStatus:
    run = now.target.run
    planned = run.nodes[node].replicas if run and node in run.nodes else None
    live = tuple(record for record in now.live if record.kind == names.NODE and record.name == node)
    fused_with = next((first for record in live if (first := record.metadata.get(names.FUSED_WITH, ""))), "")
    return NodeStatus(
        node=node,
        live=live,
        planned=planned,
        points=PointCounts(*(sum(record.counters.get(name, 0) for record in live) for name in _POINT_COUNTERS)),
        left_out=sum(record.counters.get("left_out", 0) for record in live),
        pending=consumer.pending if consumer else 0,
        in_flight=consumer.ack_pending if consumer else sum(_in_work(record) for record in live if fused_with),
        redelivered=consumer.redelivered if consumer else 0,
        dead_letters=now.dead_letters.get(names.dead_letter_subject(now.target.stream, node), 0),
        rate=_rate(now, before, consumer, earlier) if before and consumer and earlier else None,
        fused_with=fused_with,
    )


def _in_work(record: ServiceRecord) -> int:
    """Return how many messages a fused node had taken at its last beat and not ended."""
    counted = record.counters
    return max(0, counted.get("taken", 0) - sum(counted.get(end, 0) for end in ("ok", "retried", "dead")))


def _rate(now: Look, before: Look, consumer: ConsumerState, earlier: ConsumerState) -> float | None:
    """Return messages handled per second: those that arrived, less those by which the backlog grew.

    A purge between the looks has removed an unknown number of what arrived; then the rate is unknown.
    """
    if now.stream.first_sequence != before.stream.first_sequence or now.at_s <= before.at_s:
        return None
    subjects = subjects_of(now.target.stream, consumer.name)
    arrived = sum(now.stream.subjects.get(name, 0) - before.stream.subjects.get(name, 0) for name in subjects)
    grown = consumer.pending + consumer.ack_pending - earlier.pending - earlier.ack_pending
    # The states of stream and consumer are read one after the other, so a little may seem to be missing.
    return max(0.0, (arrived - grown) / (now.at_s - before.at_s))


async def _dead_letters(bus: Bus, stream: str) -> Mapping[str, int]:
    """Return the count of dead letters by subject; without the stream there are none."""
    try:
        return (await bus.stream_state(names.dead_letter_stream(stream))).subjects
    except errors.NotFoundError:
        return {}
