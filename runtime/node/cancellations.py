"""The requests that their callers have cancelled lately, so that a node skips what it has not begun.

Told on core NATS and kept in memory alone: a node that starts afterwards handles such a request. What is skipped is
acknowledged without an output, before the handler, a state or a join knows of it; a handler that runs is not disturbed.
"""

import logging
from collections import OrderedDict

from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.clock import Clock
from runtime.errors import Drop
from runtime.node.metrics import Counts
from runtime.node.work import Work
from runtime.spec import names
from runtime.spec.join import JoinSpec

log = logging.getLogger(__name__)

# Seconds for which a cancelled request is skipped; one that waits longer is handled.
KEPT_S = 600.0
# Cancelled requests that are known at once, the latest; and bytes of an id, so that nobody fills our memory.
MAX_REQUESTS = 10_000
MAX_ID_BYTES = 1_024


class Cancellations:
    """Ids of one workflow's cancelled requests; empty, and so false, until `follow` and the first of them."""

    def __init__(self, clock: Clock, counts: Counts, join: JoinSpec | None) -> None:
        self._clock = clock
        self._counts = counts
        self._joins_requests = join is not None and join.key != "request_id"
        # Request id -> when it is forgotten (monotonic seconds), the oldest first.
        self._ends_s: OrderedDict[str, float] = OrderedDict()
        self._subscription: Subscription | None = None

    def __bool__(self) -> bool:
        return bool(self._ends_s)

    async def follow(self, bus: Bus, stream: str) -> None:
        """Take note, from now on, of what callers of the workflow cancel."""
        self._subscription = await bus.subscribe(names.cancel_subject(stream), self._on_cancel)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def check(self, work: Work) -> None:
        """Raise Drop for a message whose request was cancelled. A redriven one is wanted by whoever redrives it."""
        self._forget_old()
        request_id = work.message.request_id
        if request_id not in self._ends_s or work.redrive or self._keeps_time(work):
            return
        work.replied = True  # nobody waits for an answer, not even for its end
        self._counts.cancelled += 1
        fields = {"action": "cancelled", "request_id": request_id, "attempt": work.delivery.attempt}
        log.debug("message %d is skipped: its caller has cancelled the request", work.delivery.sequence, extra=fields)
        raise Drop("the caller has cancelled the request")

    def _keeps_time(self, work: Work) -> bool:
        """Say whether the parts of other requests may wait for this delivery, which ends the time of their set."""
        return self._joins_requests and work.delivery.attempt > 1

    def _on_cancel(self, message: CoreMessage) -> None:
        if len(message.data) > MAX_ID_BYTES:
            return
        request_id = message.data.decode(errors="replace")
        self._ends_s[request_id] = self._clock.monotonic() + KEPT_S
        self._ends_s.move_to_end(request_id)
        self._forget_old()

    def _forget_old(self) -> None:
        now_s = self._clock.monotonic()
        while self._ends_s:
            oldest = next(iter(self._ends_s))
            if len(self._ends_s) <= MAX_REQUESTS and now_s < self._ends_s[oldest]:
                return
            del self._ends_s[oldest]
