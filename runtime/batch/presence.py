"""Which workers of a workflow are alive, by their own heartbeats: whose runs are to be left alone."""

from dataclasses import replace
from typing import Self

from runtime.bus.base import Bus
from runtime.bus.presence import EXPIRY_S, Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import Clock
from runtime.spec import names

# Metadata of a worker's service record: its name, which is the owner of its runs.
WORKER = "worker"


class Workers:
    """The workers of one workflow; inside an `async with` block this process is one of them."""

    def __init__(self, bus: Bus, stream: str, node: str, owner: str, clock: Clock) -> None:
        self._bus = bus
        self._keys = names.presence_key(names.BATCH, stream, ">")
        self._clock = clock
        self._present: PresenceSet | None = None
        record = replace(ServiceRecord.of_this_process(names.BATCH, node), metadata={WORKER: owner})
        key = names.presence_key(names.BATCH, stream, node, record.instance)
        self._heartbeat = Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: record, clock)

    async def __aenter__(self) -> Self:
        """Raises BusError: a worker that nobody sees would lose its runs to the next one."""
        await self._heartbeat.beat()
        await self._heartbeat.__aenter__()
        self._present = await PresenceSet.open(self._bus, names.PRESENCE_BUCKET, self._keys, self._clock)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._present is not None:
            await self._present.close()
        await self._heartbeat.__aexit__()

    def may_live(self, owner: str) -> bool:
        """Say whether a worker is alive, or may be: after a time without NATS nobody has told yet that he is."""
        assert self._present is not None, "enter first"
        told = any(record.metadata.get(WORKER) == owner for record in self._present.records.values())
        return told or self._bus.online_s < EXPIRY_S
