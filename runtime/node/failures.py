"""The end of a delivery that failed: given back for another attempt, or given up with a dead letter."""

import logging

from runtime.bus.base import Confirmation
from runtime.deadletter import Attempt
from runtime.errors import BusError, Wait
from runtime.node.history import Record
from runtime.node.parts import Parts
from runtime.node.settle import Decision, decide, describe
from runtime.node.work import Work

log = logging.getLogger(__name__)

# Delay of a message whose end could not be settled because the bus was away.
UNSETTLED_DELAY_S = 5.0


class Failures:
    """Settles what a runner could not simply acknowledge."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def settle(self, work: Work) -> None:
        """End a delivery that failed, or one that failed before; never leaves it without an end."""
        try:
            if work.failure is None:
                await self._parts.history.forget(work)
                return
            await self._decide_and_settle(work, work.failure)
        except Exception as error:  # the bus is away, or a defect of ours: the message must come again
            log.warning(
                "message %d is not settled (%s); it comes again", work.delivery.sequence, error,
                exc_info=not isinstance(error, BusError),
                extra={"action": "unsettled", "request_id": work.message.request_id},
            )  # fmt: skip
            work.reader.nak(work.delivery, UNSETTLED_DELAY_S)

    async def _decide_and_settle(self, work: Work, failure: BaseException) -> None:
        record = await self._parts.history.read(work)
        now_s = self._parts.clock.time_ns() / 1e9
        decision = decide(
            failure,
            self._parts.spec.retry,
            failures=record.failures,
            delivery=work.delivery.attempt,
            waited_s=record.waited_s(now_s),
        )
        if decision.counts:
            record.add(Attempt(attempt=work.delivery.attempt, time_s=now_s, error=describe(failure)))
        if decision.action == "retry":
            await self._retry(work, failure, decision, record)
            return
        await self._bury(work, failure, decision, record)
        if work.delivery.attempt > 1:
            await self._parts.history.forget(work)

    async def _retry(self, work: Work, failure: BaseException, decision: Decision, record: Record) -> None:
        # Written down before it is given back: in the other order another replica might not count this failure.
        if decision.counts or (decision.waits and record.begin_wait(self._parts.clock.time_ns() / 1e9)):
            await self._parts.history.write(work, record)
        log.log(
            logging.DEBUG if isinstance(failure, Wait) else logging.WARNING,
            "message %d failed (%s), again in %.2f s", work.delivery.sequence, describe(failure), decision.delay_s,
            exc_info=failure if log.isEnabledFor(logging.DEBUG) else None,
            extra={"action": "retry", "request_id": work.message.request_id, "attempt": work.delivery.attempt},
        )  # fmt: skip
        work.reader.nak(work.delivery, decision.delay_s)
        self._parts.metrics.counts.retried += 1

    async def _bury(self, work: Work, failure: BaseException, decision: Decision, record: Record) -> None:
        """Store the dead letter, tell the caller, and only then end the message: a crash in between repeats both."""
        await self._parts.dead_letters.store(work, decision.reason, failure, record.attempts)
        if work.message.request_id:
            stored = Confirmation()
            await self._parts.outputs.fail(work, self._parts.error_subject, failure, decision.reply_outcome, stored)
            await stored
        work.reader.term(work.delivery)
        self._parts.metrics.counts.dead += 1
