"""The record of a message's failed attempts, so that retries count what the handler did and not what the bus did.

A crash, a restart or a full stream makes the server deliver again, too; its counter knows no difference. So each
failure of the handler is written down before the message is given back, where every replica finds it. The path of a
message that does not fail never comes here.
"""

import json
import logging
from dataclasses import asdict, dataclass, field

from runtime.bus.base import KeyValue
from runtime.deadletter import Attempt
from runtime.errors import BusError, NotFoundError
from runtime.node.work import Work
from runtime.spec import hops

log = logging.getLogger(__name__)

# Attempts that a record describes, the latest ones: a policy may allow a million, and a record is one message.
MAX_DESCRIBED = 20


@dataclass(slots=True)
class Record:
    """What failed so far: how often the handler did, and the latest attempts.

    waiting_since_s: when the message began to wait for what it needs, in seconds of unix time; 0 where it does not.
    """

    failures: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    waiting_since_s: float = 0.0

    def add(self, attempt: Attempt) -> None:
        """Count one more failed attempt of the handler, which had all that it needs."""
        self.failures += 1
        self.attempts = [*self.attempts, attempt][-MAX_DESCRIBED:]
        self.waiting_since_s = 0.0

    def begin_wait(self, now_s: float) -> bool:
        """Note when the wait began; returns False where it had begun before."""
        begins = not self.waiting_since_s
        if begins:
            self.waiting_since_s = now_s
        return begins

    def waited_s(self, now_s: float) -> float:
        """Return how long ago the wait began."""
        return max(0.0, now_s - self.waiting_since_s) if self.waiting_since_s else 0.0


class History:
    """Failed attempts by message, in a bucket that all replicas share; without one (bare runner) there are none."""

    def __init__(self, node: str, bucket: KeyValue | None) -> None:
        self._node = node
        self._bucket = bucket

    async def read(self, work: Work) -> Record:
        """Return what failed before this delivery. Raises BusUnavailableError."""
        if self._bucket is None or work.delivery.attempt == 1:
            return Record()
        try:
            entry = await self._bucket.get(self._key(work))
        except NotFoundError:
            return Record()
        fields = json.loads(entry.value)
        attempts = [Attempt(**attempt) for attempt in fields["attempts"]]
        return Record(fields["failures"], attempts, fields.get("waiting_since_s", 0.0))

    async def write(self, work: Work, record: Record) -> None:
        """Keep the record of a message that is about to be given back. Raises BusUnavailableError."""
        if self._bucket is not None:
            await self._bucket.put(self._key(work), json.dumps(asdict(record)).encode())

    async def forget(self, work: Work) -> None:
        """Remove the record of a message that is done; what cannot be removed now is only untidy."""
        if self._bucket is None:
            return
        try:
            await self._bucket.delete(self._key(work))
        except BusError as error:
            log.debug("the attempts of message %d stay recorded: %s", work.delivery.sequence, error)

    def _key(self, work: Work) -> str:
        return f"{self._node}/{hops.place(work.delivery.sequence, work.path)}"
