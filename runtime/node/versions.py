"""What of a runner depends on KRE's wire version, chosen once at its start: reading, the way out, and measuring."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from runtime import wire, wire_v1
from runtime.bus.base import Bus, Publisher
from runtime.bus.claims import Claims
from runtime.clock import Clock
from runtime.message import Message
from runtime.node.atomic import AtomicOutputs
from runtime.node.fused_outputs import FusedOutputs
from runtime.node.metrics import NodeMetrics
from runtime.node.metrics_v1 import FirstVersionMetrics
from runtime.node.ordered import OrderedOutputs
from runtime.node.outputs_v1 import FirstVersionOutputs
from runtime.node.work import Outputs
from runtime.settings import NodeSettings
from runtime.spec.node import NodeSpec
from runtime.stores.base import PointStore


@dataclass(frozen=True, slots=True, kw_only=True)
class WireVersion:
    """The parts of one runner for its wire version.

    error_subject: where an ERROR goes that is to reach the caller. claims: for payloads that are larger than a message,
    None where there is nothing for them.
    """

    decode: Callable[[bytes], Message]
    claims: Claims | None
    outputs: Outputs
    metrics: NodeMetrics
    error_subject: str


def first_version(
    settings: NodeSettings, bus: Bus, publisher: Publisher, points: PointStore, clock: Clock
) -> WireVersion:
    """Return the parts for KRE's first version."""

    def decode(data: bytes) -> Message:
        return wire_v1.decode(data, now_ns=clock.time_ns(), max_inflated_bytes=settings.max_inflated_bytes)

    return WireVersion(
        decode=decode,
        claims=None,
        outputs=FirstVersionOutputs(
            bus,
            publisher,
            stream=settings.stream,
            node=settings.node,
            subject=settings.output,
            entrypoint=settings.entrypoint,
            is_last=settings.is_last,
            clock=clock,
        ),
        metrics=FirstVersionMetrics(points, clock, _tags(settings), is_last=settings.is_last),
        error_subject=settings.entrypoint,
    )


def second_version(
    settings: NodeSettings,
    spec: NodeSpec,
    channels: frozenset[str] | None,
    bus: Bus,
    publisher: Publisher,
    points: PointStore,
    clock: Clock,
) -> WireVersion:
    """Return the parts for KRE's second version, which is ours. channels: the declared ones, None for any."""
    claims = _claims(settings, spec, bus, clock)
    decode = functools.partial(
        wire.decode, max_inflated_bytes=settings.max_inflated_bytes, takes_claims=claims is not None
    )
    return WireVersion(
        decode=decode,
        claims=claims,
        outputs=_way_out(spec)(
            bus,
            publisher,
            stream=settings.stream,
            node=settings.node,
            subject=settings.output,
            exit_channel=spec.exit_channel,
            channels=channels,
            own_fields=bool(settings.node_spec),
            partitioned=spec.partitioned,
            claims=claims,
        ),
        metrics=NodeMetrics(points, clock, _tags(settings), every_call=not settings.node_spec),
        error_subject=spec.error_subject or settings.output,
    )


def _claims(settings: NodeSettings, spec: NodeSpec, bus: Bus, clock: Clock) -> Claims | None:
    if spec.claims is None:  # among KRE's programs, which would see an empty payload
        return None
    room_bytes = spec.claims.room_bytes
    return Claims(bus, spec.claims.store, clock, room_bytes=room_bytes, max_bytes=settings.max_claim_bytes)


def _way_out(spec: NodeSpec) -> type[Outputs]:
    if spec.hand_over is not None:  # a fused node is neither of the others
        return FusedOutputs
    if spec.atomic:  # a batch keeps its order anyway
        return AtomicOutputs
    return OrderedOutputs if spec.partitions or spec.join else Outputs


def _tags(settings: NodeSettings) -> dict[str, str]:
    return {"version": settings.version, "workflow": settings.workflow, "node": settings.node}
