"""Refuses at once what could only wait in vain."""

import asyncio

from runtime.drivers.base import RestrictedInferenceProcess
from runtime.errors import BusError, NotFoundError, PredictionError
from runtime.message import ReplyOutcome

# Seconds that one look at the stream may take: less than most clients wait, or they would never hear of the reason.
LOOK_LIMIT_S = 0.5
# Seconds that what it found holds.
LOOK_HOLDS_S = 1.0


class Gate:
    """Whether one workflow takes requests now."""

    def __init__(self, inference: RestrictedInferenceProcess) -> None:
        self._inference = inference
        self._seen: tuple[float, PredictionError | None] | None = None

    async def admit(self, max_in_flight: int) -> None:
        """Return when one more request may be sent.

        Raises PredictionError: `busy` with as many in flight as may be; `unavailable`, also with a full stream.
        """
        if self._inference.in_flight >= max_in_flight:
            detail = f"{self._inference.in_flight} requests are in flight, as many as may be"
            raise PredictionError(detail, outcome=ReplyOutcome.BUSY)
        if self._inference.held:
            # Held though the stream can be reached: then it is full.
            detail = f"stream {self._inference.stream} is full and takes nothing now"
            raise await self.fault() or PredictionError(detail, outcome=ReplyOutcome.UNAVAILABLE)

    async def fault(self) -> PredictionError | None:
        """Return why the workflow cannot be reached, None when it can; looks once a second, however many ask."""
        now_s = self._inference.clock.monotonic()
        if self._seen is None or now_s - self._seen[0] > LOOK_HOLDS_S:
            self._seen = (now_s, await self._look())
        return self._seen[1]

    async def _look(self) -> PredictionError | None:
        stream = self._inference.stream
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                await self._inference.bus.stream_state(stream)
        except NotFoundError:
            detail = f"workflow {self._inference.workflow} is not deployed: there is no stream {stream}"
        except (BusError, TimeoutError):
            detail = "NATS cannot be reached"
        else:
            return None
        return PredictionError(detail, outcome=ReplyOutcome.UNAVAILABLE)
