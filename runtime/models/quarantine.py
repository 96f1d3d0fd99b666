"""Models that are not to be started again: kept by what would be started, so that a correction lifts the quarantine.

A digest stands for code, resources and hardware, see `deploy/model_digest.py`. Entries are kept until somebody releases
them: a model that goes back to reported code is in quarantine again.
"""

from dataclasses import asdict, dataclass
from typing import Self

import orjson

from runtime.bus.base import Bus, KeyValue, OnChange, Subscription
from runtime.errors import DecodeError, NotFoundError
from runtime.spec import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One model in quarantine. reason: of the report. at_ms: since when, unix time."""

    model_id: str
    digest: str
    reason: str
    at_ms: int

    @property
    def key(self) -> str:
        return names.quarantine_key(self.model_id, self.digest)

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises DecodeError."""
        try:
            return cls(**orjson.loads(data))
        except (ValueError, TypeError) as error:
            raise DecodeError(f"this is no quarantined model: {error}", reason="payload") from error


class Quarantine:
    """The models of one cluster that are in quarantine. Every method raises BusError."""

    def __init__(self, entries: KeyValue) -> None:
        self._entries = entries

    @classmethod
    async def open(cls, bus: Bus, cluster: str) -> Self:
        return cls(await bus.key_value(names.quarantine_bucket(cluster), create=True))

    @classmethod
    async def entries_of(cls, bus: Bus, cluster: str) -> list[Quarantined]:
        """Return who is in quarantine, without making a bucket: before the first fleet nobody is."""
        try:
            return await cls(await bus.key_value(names.quarantine_bucket(cluster))).all()
        except NotFoundError:
            return []

    async def all(self) -> list[Quarantined]:
        """Return every entry, by model and digest."""
        return [found for key in await self._entries.keys() if (found := await self._read(key)) is not None]

    async def add(self, quarantined: Quarantined) -> None:
        """Repeating it is fine."""
        await self._entries.put(quarantined.key, quarantined.encode())

    async def release(self, model_id: str) -> list[Quarantined]:
        """Let a model be started again, whatever its code; returns what was lifted."""
        lifted = [each for each in await self.all() if each.model_id == model_id]
        for each in lifted:
            await self._entries.delete(each.key)
        return lifted

    async def watch(self, on_change: OnChange) -> Subscription:
        """Call back on the loop for every entry, then for every change; see `KeyValue.watch`."""
        return await self._entries.watch(">", on_change)

    async def _read(self, key: str) -> Quarantined | None:
        try:
            return Quarantined.decode((await self._entries.get(key)).value)
        except NotFoundError:  # released meanwhile
            return None
