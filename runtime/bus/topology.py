"""Streams and consumers: create, update, compare with what the server answers, and read their state.

A server may silently ignore what it does not know (2.9 ignores `filter_subjects`). So what it answers is compared with
what was asked, and any difference is a DriftError that names the field.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.kv import KeyValue

from runtime.bus.base import (
    ConsumerConfig,
    ConsumerState,
    Follower,
    StoredMessage,
    StreamConfig,
    StreamPlacement,
    StreamState,
)
from runtime.bus.cancellation import kept_cancellation
from runtime.bus.connection import Connection
from runtime.bus.refusals import describe
from runtime.errors import (
    AccessError,
    BusClosedError,
    BusError,
    BusUnavailableError,
    DriftError,
    NotFoundError,
    RevisionError,
    StreamFullError,
)

T = TypeVar("T")

# Tries of an API request whose leader is just being elected (a new cluster answers the first add_stream late).
API_TRIES = 4
# JetStream's err_code for a sequence that is not there, which comes as a bad request.
_NO_MESSAGE = 10043
# JetStream's err_codes of a publish: the expected last sequence is another one, and there is no room (with status 503).
_WRONG_LAST = 10071
_FULL = 10077
# JetStream's err_codes for more replicas than there are servers: without a cluster, and in one.
_NOT_CLUSTERED = 10074
_TOO_FEW_SERVERS = 10005
# First nats-server that stores a batch of messages together or not at all.
BATCH_FLOOR = (2, 12, 0)
# Longest duplicate window of a bucket in seconds, the server's own default.
MAX_BUCKET_WINDOW_S = 120.0
# Beginning of our keys in the metadata of a stream, to which the server adds its own.
METADATA_PREFIX = "krt-"
# Names that one page of the consumers' list holds at the server.
CONSUMER_PAGE = 256
# Seconds after which the server forgets a temporary consumer that nobody asks for anything.
TEMPORARY_LIFE_S = 60.0
STREAM_PAGE = 256
# What JetStream puts before a bucket's name to get its stream's.
BUCKET_PREFIX = "KV_"


@dataclass(frozen=True, slots=True)
class _Field:
    """One compared field: its name, what was asked, what is there, and whether an update can change it."""

    name: str
    asked: Any
    found: Any
    fixed: bool = False

    @property
    def differs(self) -> bool:
        return bool(self.asked != self.found)

    def __str__(self) -> str:
        return f"{self.name}: {self.found} -> {self.asked}"


class Topology:
    """Administration of streams and consumers over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _js(self) -> JetStreamContext:
        return self._connection.jetstream

    # --- streams ---

    async def ensure_stream(self, config: StreamConfig, *, title: str = "", rollup: bool = False) -> list[str]:
        """See `base.Bus`. title: how the lines name it. rollup: a message may replace the others of its subject."""
        title = title or f"stream {config.name}"
        if config.atomic:
            version = self._connection.client.connected_server_version
            refuse_older((version.major, version.minor, version.patch), title)
        asked = _stream_config(config)
        asked.allow_rollup_hdrs = rollup
        try:
            found = (await self._call(lambda: self._js.stream_info(config.name))).config
        except NotFoundError:
            answer = await self._call(lambda: self._js.add_stream(asked))
            _refuse_differences(title, _stream_fields(config, answer.config))
            return [f"{title}: created"]
        changes = _changes(title, _stream_fields(config, found))
        if changes:
            answer = await self._call(lambda: self._js.update_stream(asked))
            _refuse_differences(title, _stream_fields(config, answer.config))
        return changes

    async def stream_state(self, stream: str) -> StreamState:
        info = await self._call(lambda: self._js.stream_info(stream, subjects_filter=">"))
        state = info.state
        return StreamState(
            messages=state.messages,
            size_bytes=state.bytes,
            first_sequence=state.first_seq or 1,
            last_sequence=state.last_seq,
            subjects=dict(state.subjects or {}),
            patterns=tuple(info.config.subjects or ()),
            metadata=_own_metadata(info.config),
        )

    async def stream_placement(self, stream: str) -> StreamPlacement:
        info = await self._call(lambda: self._js.stream_info(stream))
        cluster = info.cluster or api.ClusterInfo()
        return StreamPlacement(
            storage=api.StorageType(info.config.storage).value,
            replicas=info.config.num_replicas or 1,
            leader=cluster.leader or "" if cluster.name else "",
            followers=tuple(_follower(peer) for peer in cluster.replicas or []),
        )

    async def get_message(self, stream: str, sequence: int) -> StoredMessage:
        message = await self._call(lambda: self._js.get_msg(stream, sequence))
        return StoredMessage(
            subject=message.subject or "",
            sequence=message.seq or sequence,
            data=message.data or b"",
            headers=dict(message.headers or {}),
            time_ns=round(message.time.timestamp() * 1e9) if message.time else 0,
        )

    async def purge(self, stream: str, *, below: int) -> int:
        before = await self.stream_state(stream)
        if below <= before.first_sequence:
            return 0
        await self._call(lambda: self._js.purge_stream(stream, seq=below))
        return before.messages - (await self.stream_state(stream)).messages

    async def delete_message(self, stream: str, sequence: int) -> None:
        async def delete() -> None:
            # nats-py waits five seconds for this answer, whatever timeout its context was made with.
            async with asyncio.timeout(self._connection.request_timeout_s):
                await self._js.delete_msg(stream, sequence)

        try:
            await self._call(delete)
        except BusError:
            # Deleting what is not there is a failure without a code of its own; this one is NotFoundError.
            await self.get_message(stream, sequence)
            raise

    # --- consumers ---

    async def ensure_consumer(self, config: ConsumerConfig) -> list[str]:
        title = f"consumer {config.durable} of stream {config.stream}"
        try:
            found = (await self._call(lambda: self._js.consumer_info(config.stream, config.durable))).config
        except NotFoundError:
            await self._add_consumer(config)
            return [f"{title}: created"]
        changes = _changes(title, _consumer_fields(config, found))
        if changes:
            await self._add_consumer(config)
        return changes

    async def create_consumer_if_missing(self, config: ConsumerConfig) -> None:
        try:
            await self._call(lambda: self._js.consumer_info(config.stream, config.durable))
        except NotFoundError:
            await self._add_consumer(config)

    async def ack_wait_s(self, stream: str, durable: str, timeout_s: float) -> float:
        """Return the consumer's ack wait, asking once. Raises NotFoundError, BusUnavailableError."""
        info = await self._call(lambda: self._js.consumer_info(stream, durable, timeout=timeout_s), tries=1)
        return float(info.config.ack_wait or 30.0)

    async def consumer_states(self, stream: str) -> list[ConsumerState]:
        infos: list[api.ConsumerInfo] = []
        while True:
            page = await self._call(lambda: self._js.consumers_info(stream, offset=len(infos)))
            infos.extend(page)
            if len(page) < CONSUMER_PAGE:
                durables = (info for info in infos if info.config.durable_name)
                return sorted(map(_consumer_state, durables), key=lambda state: state.name)

    async def add_temporary_consumer(
        self, stream: str, subjects: Sequence[str], *, first_sequence: int, since: datetime | None
    ) -> tuple[str, int]:
        """Make a consumer without acks that ends when nobody asks; returns its name, and how much it will deliver.

        since: begin at this time, and not at `first_sequence`. Raises NotFoundError, BusUnavailableError.
        """
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_TIME if since else api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=None if since else first_sequence,
            opt_start_time=since,
            ack_policy=api.AckPolicy.NONE,
            filter_subjects=list(subjects) or None,
            inactive_threshold=TEMPORARY_LIFE_S,
            num_replicas=1,
            mem_storage=True,
        )
        info = await self._call(lambda: self._js.add_consumer(stream, config))
        return info.name, info.num_pending or 0

    async def delete_consumer(self, stream: str, durable: str) -> None:
        await self._call(lambda: self._js.delete_consumer(stream, durable))

    # --- buckets ---

    async def names_behind(self, prefix: str) -> list[str]:
        """Return what follows the prefix in the names of streams that begin with it, sorted."""
        found: list[str] = []
        offset = 0
        while True:
            page = await self._call(partial(self._js.streams_info, offset=offset))
            found += [info.config.name for info in page if info.config.name.startswith(prefix)]
            offset += len(page)
            if len(page) < STREAM_PAGE:
                return sorted(name.removeprefix(prefix) for name in found)

    async def ensure_bucket(self, bucket: str, replicas: int | None, ttl_s: float | None) -> None:
        """Make the bucket if it is missing, or change it to what is asked; see `base.Bus.key_value`."""
        try:
            found = (await self._call(lambda: self._js.stream_info(f"{BUCKET_PREFIX}{bucket}"))).config
        except NotFoundError:
            wanted = api.KeyValueConfig(bucket=bucket, replicas=replicas or 1, ttl=ttl_s or None)
            await self._call(lambda: self._js.create_key_value(wanted))
            return
        asked = found.evolve(
            num_replicas=max(found.num_replicas or 1, replicas or 1),
            max_age=found.max_age if ttl_s is None else ttl_s,
        )
        if asked.max_age:  # the server wants a window no longer than the age
            asked.duplicate_window = min(asked.duplicate_window or MAX_BUCKET_WINDOW_S, asked.max_age)
        if asked != found:
            await self._call(lambda: self._js.update_stream(asked))

    async def open_bucket(self, bucket: str) -> KeyValue:
        """Raises NotFoundError."""
        return await self._call(lambda: self._js.key_value(bucket))

    async def delete_stream(self, stream: str) -> None:
        """Remove a stream with its messages; a bucket and an object store is one, too. Raises NotFoundError."""
        await self._call(lambda: self._js.delete_stream(stream))

    async def _add_consumer(self, config: ConsumerConfig) -> None:
        # Always the full configuration: a field left out of an update falls back to its default.
        answer = await self._call(lambda: self._js.add_consumer(config.stream, _consumer_config(config)))
        if any(field.differs for field in _consumer_fields(config, answer.config)):
            # An update may be answered with the filters before it: what holds is what the server tells afterwards.
            answer = await self._call(lambda: self._js.consumer_info(config.stream, config.durable))
        title = f"consumer {config.durable} of stream {config.stream}"
        _refuse_differences(title, _consumer_fields(config, answer.config))

    async def _call(self, request: Callable[[], Awaitable[T]], tries: int = API_TRIES) -> T:
        """Make an API request, trying again while no leader answers."""
        for number in range(1, tries + 1):
            try:
                async with translated(self._connection):
                    return await request()
            except BusUnavailableError:
                if number == tries:
                    raise
                await asyncio.sleep(0.2 * number)
        raise AssertionError("unreachable")


@asynccontextmanager
async def translated(connection: Connection) -> AsyncIterator[None]:
    """Turn nats-py's errors into ours; the cause is kept."""
    violations = connection.violations
    try:
        with kept_cancellation():
            yield
    except nats.js.errors.KeyWrongLastSequenceError as error:
        raise RevisionError(f"somebody else wrote first: {describe(error)}") from error
    except nats.js.errors.NotFoundError as error:
        raise NotFoundError(describe(error)) from error
    except nats.js.errors.APIError as error:
        if error.err_code == _FULL:
            raise StreamFullError(f"the stream is full: {error.description}") from error
        if isinstance(error, nats.js.errors.ServiceUnavailableError):
            raise BusUnavailableError(f"JetStream does not answer: {describe(error)}") from error
        if error.err_code == _WRONG_LAST:
            raise RevisionError(f"somebody else wrote first: {error.description}") from error
        if error.err_code == _NO_MESSAGE:
            raise NotFoundError(error.description or "no such message") from error
        if error.err_code == _NOT_CLUSTERED:
            raise DriftError(
                "the NATS server is on its own, and a copy on several needs a cluster; set stream.replicas: 1"
            ) from error
        if error.err_code == _TOO_FEW_SERVERS:
            raise BusUnavailableError(
                f"not enough servers for the replicas: the cluster has {connection.server_count} address(es); start "
                f"the others, or lower stream.replicas ({error.description})"
            ) from error
        raise BusError(f"JetStream refuses: {error.description or describe(error)}") from error
    except nats.errors.ConnectionClosedError as error:
        raise BusClosedError("the connection to NATS is closed") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        if connection.violations > violations:  # the server drops what it forbids, and nobody answers
            raise AccessError(f"NATS forbids it: {connection.violation}; see `krt permissions`") from error
        where = "NATS" if connection.is_connected else "NATS, which is away,"
        raise BusUnavailableError(f"{where} does not answer: {describe(error)}") from error


# --- comparing ---


def _changes(title: str, fields: list[_Field]) -> list[str]:
    """Return one line per field that differs. Raises DriftError when one of them cannot be updated."""
    fixed = [field for field in fields if field.differs and field.fixed]
    if fixed:
        diff = "; ".join(map(str, fixed))
        raise DriftError(f"{title} cannot be changed in place ({diff}); use another version, or delete it by hand")
    return [f"{title}: {field}" for field in fields if field.differs]


def _refuse_differences(title: str, fields: list[_Field]) -> None:
    if different := [field for field in fields if field.differs]:
        diff = "; ".join(f"{field.name} is {field.found}, asked was {field.asked}" for field in different)
        raise DriftError(f"the server answers other than asked for {title}: {diff}; is it older than 2.10?")


def refuse_older(version: tuple[int, int, int], title: str) -> None:
    """Raise DriftError for a server without batches, which would ignore that it was asked for them."""
    if version < BATCH_FLOOR:
        found, floor = (".".join(map(str, each)) for each in (version, BATCH_FLOOR))
        raise DriftError(
            f"{title} cannot store the outputs of atomic nodes together: the NATS server is {found}, and that needs"
            f" {floor}; update it, or remove `atomic` from the nodes"
        )


def _stream_config(config: StreamConfig) -> api.StreamConfig:
    return api.StreamConfig(
        name=config.name,
        subjects=list(config.subjects),
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.NEW,
        storage=api.StorageType(config.storage),
        num_replicas=config.replicas,
        max_bytes=config.max_bytes or -1,
        max_age=config.max_age_s,
        duplicate_window=config.duplicate_window_s,
        metadata=dict(config.metadata),
        allow_direct=True,
        allow_atomic=config.atomic or None,
    )


def _stream_fields(config: StreamConfig, found: api.StreamConfig) -> list[_Field]:
    return [
        _Field("storage", config.storage, api.StorageType(found.storage).value, fixed=True),
        _Field("retention", "limits", api.RetentionPolicy(found.retention).value, fixed=True),
        _Field("subjects", sorted(config.subjects), sorted(found.subjects or [])),
        _Field("discard", "new", api.DiscardPolicy(found.discard).value),
        _Field("replicas", config.replicas, found.num_replicas),
        _Field("max_bytes", config.max_bytes or -1, found.max_bytes),
        _Field("max_age_s", _to_the_ms(config.max_age_s), _to_the_ms(found.max_age)),
        _Field("duplicate_window_s", _to_the_ms(config.duplicate_window_s), _to_the_ms(found.duplicate_window)),
        _Field("metadata", dict(config.metadata), _own_metadata(found)),
        _Field("atomic", config.atomic, bool(found.allow_atomic)),
    ]


def _to_the_ms(duration_s: float | None) -> float:
    """Return a duration as it is compared: nats-py cuts it off to nanoseconds, 1044.6 s come back as 1044.599999999."""
    return round(duration_s or 0.0, 3)


def _own_metadata(found: api.StreamConfig) -> dict[str, str]:
    return {key: value for key, value in (found.metadata or {}).items() if key.startswith(METADATA_PREFIX)}


def _consumer_config(config: ConsumerConfig) -> api.ConsumerConfig:
    subjects = list(config.filter_subjects)
    return api.ConsumerConfig(
        durable_name=config.durable,
        deliver_policy=api.DeliverPolicy.ALL,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=config.ack_wait_s,
        max_deliver=-1,
        filter_subject=subjects[0] if len(subjects) == 1 else None,
        filter_subjects=subjects if len(subjects) > 1 else None,
        max_ack_pending=config.max_ack_pending,
    )


def _consumer_fields(config: ConsumerConfig, found: api.ConsumerConfig) -> list[_Field]:
    return [
        _Field("deliver_policy", "all", api.DeliverPolicy(found.deliver_policy).value, fixed=True),
        _Field("ack_policy", "explicit", api.AckPolicy(found.ack_policy).value, fixed=True),
        _Field("push", False, found.deliver_subject is not None, fixed=True),
        _Field("filter_subjects", sorted(config.filter_subjects), sorted(_filters(found))),
        _Field("ack_wait", _to_the_ms(config.ack_wait_s), _to_the_ms(found.ack_wait)),
        _Field("max_deliver", -1, found.max_deliver),
        _Field("max_ack_pending", config.max_ack_pending, found.max_ack_pending),
    ]


def _follower(peer: api.PeerInfo) -> Follower:
    return Follower(
        name=peer.name or "unnamed", offline=bool(peer.offline), current=bool(peer.current), lag=peer.lag or 0
    )


def _consumer_state(info: api.ConsumerInfo) -> ConsumerState:
    return ConsumerState(
        name=info.name,
        pending=info.num_pending or 0,
        ack_pending=info.num_ack_pending or 0,
        redelivered=info.num_redelivered or 0,
        ack_floor=info.ack_floor.stream_seq if info.ack_floor else 0,
        delivered=info.delivered.stream_seq if info.delivered else 0,
        waiting=info.num_waiting or 0,
        is_push=info.config.deliver_subject is not None,
        filter_subjects=tuple(_filters(info.config)),
    )


def _filters(config: api.ConsumerConfig) -> list[str]:
    return config.filter_subjects or ([config.filter_subject] if config.filter_subject else [])
