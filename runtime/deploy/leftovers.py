"""What removed nodes, and removed workflows, have left on NATS: consumers, which hold back the purge for ever, buckets,
object stores and streams.

Nothing is removed but on request, and no message without an end: what a consumer has not handled becomes dead letters.
States, open joins, records of runs and objects are data, which nobody can make again, and have a request of their own.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import NamedTuple

from runtime import wire
from runtime.bus.base import Bus, ConsumerConfig, ConsumerState, Delivery, Publisher
from runtime.bus.dead_letters import LetterClaims, store_dead_letter
from runtime.clock import SystemClock
from runtime.deadletter import DeadLetter
from runtime.errors import BusUnavailableError, ConfigError, DecodeError, NotFoundError
from runtime.spec import names
from runtime.spec.claims import claims_store, letter_claims_store
from runtime.spec.manager import ManagerSpec

log = logging.getLogger(__name__)

DROPPED = "dropped"
# Seconds to wait for what another process has in hand: the ack wait, and the longest delay of a default retry.
PATIENCE_S = 120.0
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What nodes have that the workflow does not have any more, or all that a workflow has.

    buckets: of configuration and attempts. data_buckets: of states, joins and batch runs, tasks and positions. streams:
    of a workflow that is gone, that of its messages last.
    """

    consumers: tuple[ConsumerState, ...] = ()
    buckets: tuple[str, ...] = ()
    data_buckets: tuple[str, ...] = ()
    object_stores: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()

    @property
    def has_data(self) -> bool:
        return bool(self.data_buckets or self.object_stores or self.streams)

    @property
    def has_unhandled(self) -> bool:
        return any(map(unhandled, self.consumers))


def unhandled(consumer: ConsumerState) -> int:
    """Return how many messages the consumer has not settled."""
    return consumer.pending + consumer.ack_pending


async def find(bus: Bus, spec: ManagerSpec) -> Leftovers:
    """Look for leftovers; consumers that do not bear a node's name belong to somebody else. Raises BusError."""
    planned = {consumer.durable for consumer in spec.consumers}
    consumers = [state for state in await bus.consumer_states(spec.stream) if names.node_of(state.name)]
    buckets = [name for name in await bus.buckets() if name not in spec.buckets and name not in spec.aging_buckets]
    of_nodes, stores = names.node_configuration_prefix(spec.stream), {store.name for store in spec.object_stores}
    return Leftovers(
        consumers=tuple(state for state in consumers if state.name not in planned),
        buckets=tuple(name for name in buckets if name.startswith(of_nodes)),
        data_buckets=tuple(name for name in buckets if _holds_data(spec.stream, name)),
        object_stores=tuple(
            name for name in await bus.object_stores() if name.startswith(f"{spec.stream}_") and name not in stores
        ),
    )


async def find_all(bus: Bus, stream: str) -> Leftovers:
    """Look for everything that the workflow of a stream has. Raises ConfigError for another stream, BusError."""
    place = stream.split("_")
    # Nothing of another workflow begins with the stream and an underscore, for its three names have none.
    if len(place) != 3 or not all(map(names.is_name, place)):
        raise ConfigError(f'"{stream}" is no stream of a workflow, which is RUNTIME_VERSION_WORKFLOW: local_dev_hello')
    own = {names.applied_bucket(stream), names.attempts_bucket(stream), names.configuration_bucket(*place)}
    of_drivers = {names.tasks_bucket(stream), names.positions_bucket(stream)}
    buckets, of_nodes = await bus.buckets(), names.node_configuration_prefix(stream)
    streams = [name for name in (names.dead_letter_stream(stream), stream) if await _has_stream(bus, name)]
    return Leftovers(
        consumers=tuple(await bus.consumer_states(stream)) if stream in streams else (),
        buckets=tuple(name for name in buckets if name in own or name.startswith(of_nodes)),
        data_buckets=tuple(name for name in buckets if name in of_drivers or _holds_data(stream, name)),
        object_stores=tuple(name for name in await bus.object_stores() if name.startswith(f"{stream}_")),
        streams=tuple(streams),
    )


async def _has_stream(bus: Bus, name: str) -> bool:
    try:
        await bus.stream_state(name)
    except NotFoundError:
        return False
    return True


def _holds_data(stream: str, bucket: str) -> bool:
    of_nodes = names.state_bucket(stream, ""), names.join_bucket(stream, "")
    return bucket.startswith(of_nodes) or bucket == names.runs_bucket(stream)


async def remove_consumer(bus: Bus, spec: ManagerSpec, durable: str) -> int:
    """Make dead letters of what the consumer has not handled, then remove it; returns how many.

    Raises BusUnavailableError when messages stay in another process's hand, and what was not dropped stays as it is.
    """
    publisher = bus.publisher(spec.dead_letters.stream) if spec.dead_letters else None
    letters = None
    if publisher is not None:
        claims = LetterClaims(bus, claims_store(spec.stream), letter_claims_store(spec.stream), SystemClock())
        letters = _Letters(publisher, claims)
    try:
        dropped = await _drop_all(bus, spec, durable, letters)
    finally:
        if publisher is not None:
            await publisher.close()
    await bus.delete_consumer(spec.stream, durable)
    return dropped


class _Letters(NamedTuple):
    """Where dead letters go, and their payloads that are larger than a message."""

    publisher: Publisher
    claims: LetterClaims


async def _drop_all(bus: Bus, spec: ManagerSpec, durable: str, letters: _Letters | None) -> int:
    reader = bus.reader(ConsumerConfig(stream=spec.stream, durable=durable, filter_subjects=()), create=False)
    await reader.start()
    dropped = 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            while any(unhandled(state) for state in await bus.consumer_states(spec.stream) if state.name == durable):
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        delivery = await reader.take()
                except TimeoutError:  # the rest is in another process's hand, or was settled just now
                    continue
                await _drop(delivery, spec, names.node_of(durable), letters)
                reader.ack(delivery)
                dropped += 1
    except TimeoutError as error:
        raise BusUnavailableError(
            f"consumer {durable} has messages in work after {PATIENCE_S:g} s; stop its processes and try again"
        ) from error
    finally:
        await reader.close()
    return dropped


async def _drop(delivery: Delivery, spec: ManagerSpec, node: str, letters: _Letters | None) -> None:
    """Store the dead letter; without a stream for dead letters the message is only named in the log."""
    if letters is None:
        log.warning("message %d of %s is dropped with its node %s", delivery.sequence, spec.stream, node)
        return
    letter = DeadLetter(
        node=node,
        reason=DROPPED,
        error=f"the node {node} was removed with this message unhandled",
        traceback="",
        request_id=_request_id(delivery.data),
        stream=spec.stream,
        subject=names.source_subject(delivery.subject),
        sequence=delivery.sequence,
        stored_ns=delivery.time_ns,
        attempts=(),
        handler_version="",
        headers=dict(delivery.headers or {}),
    )
    await store_dead_letter(
        letters.publisher,
        names.dead_letter_subject(spec.stream, node),
        delivery.data,
        letter,
        message_id=names.dead_letter_id(node, delivery.sequence),
        claims=letters.claims,
    )


def _request_id(data: bytes) -> str:
    try:
        return wire.decode(data, takes_claims=True).request_id
    except DecodeError:
        return ""
