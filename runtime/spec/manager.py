"""What the manager is told about its workflow: the JSON of `KRT_MANAGER_SPEC`, made by `deploy/manager_spec.py`.

Every name is made and every duration is in seconds, so that the manager needs neither the workflow file nor a rule of
naming.
"""

from typing import Annotated, Literal

from pydantic import Field

from runtime.spec.claims import ClaimsSpec
from runtime.spec.node import Frozen, Partitions
from runtime.spec.selection import SelectionSpec


class ConsumerSpec(Frozen):
    """The durable consumer of a node, or of one partition of an ordered node.

    max_ack_pending: how many messages may be in work, None for as many as suits a node that waits for nothing.
    """

    durable: str
    filter_subjects: Annotated[tuple[str, ...], Field(min_length=1)]
    max_ack_pending: Annotated[int, Field(ge=1)] | None = None


class DeadLetterSpec(Frozen):
    """The stream of dead letters. keep_s: the longest that any node of the workflow wants."""

    stream: str
    subjects: tuple[str, ...]
    keep_s: Annotated[float, Field(gt=0)]


class ObjectStoreSpec(Frozen):
    """One object store. keep_s: 0 keeps objects for ever. max_bytes: 0 is no limit."""

    name: str
    keep_s: Annotated[float, Field(ge=0)]
    max_bytes: Annotated[int, Field(ge=0)]


class ManagerSpec(Frozen):
    """Everything that a deployed workflow has on NATS.

    keep_s: how long handled messages stay readable, within half of `max_bytes`. dead_letters: None when no node keeps
    any. buckets: each bucket with the values that the workflow file has for it. applied_bucket: see
    `names.applied_bucket`. aging_buckets: of states and joins, each with the seconds that an entry is kept after it
    was written last, 0 for ever. entrypoint: how requests are to be published, None for one without partitions.
    atomic: some node publishes in batches. claims: what senders of requests are told of large payloads; those of done
    messages are removed. selection: what `krt trace` is told of nodes that leave messages out, None where none does.
    """

    stream: str
    subjects: tuple[str, ...]
    storage: Literal["file", "memory"]
    replicas: Annotated[int, Field(ge=1)]
    max_bytes: Annotated[int, Field(ge=1)]
    keep_s: Annotated[float, Field(ge=0)]
    duplicate_window_s: Annotated[float, Field(gt=0)]
    consumers: tuple[ConsumerSpec, ...]
    dead_letters: DeadLetterSpec | None
    buckets: dict[str, dict[str, str]]
    applied_bucket: str
    aging_buckets: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    entrypoint: Partitions | None = None
    object_stores: tuple[ObjectStoreSpec, ...] = ()
    atomic: bool = False
    claims: ClaimsSpec | None = None
    selection: SelectionSpec | None = None
