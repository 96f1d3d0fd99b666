"""The model that is measured, over NATS and over gRPC: it takes the time it is told, and tells how long it took."""

import os
import time
from typing import Any

from test.bench.peers.model_base import ModelBase

# Share of the slowest model's time that this one takes.
PACE = float(os.environ.get("BENCH_PACE", "1"))
# Seconds that a call of `stall` takes.
STALL_S = float(os.environ.get("BENCH_STALL_S", "0"))


class Model(ModelBase):
    def __init__(self, pace: float = PACE) -> None:
        self._pace = pace

    def predict(self, payload: dict[str, Any]) -> dict[str, Any]:
        started_s = time.perf_counter()
        # A sleep of no time is one of 50 microseconds, after which the processor has forgotten the process.
        if work_s := self._pace * payload["work_s"]:
            time.sleep(work_s)
        return {"loc": payload["dove_location"], "scale": 1.0, "took_s": time.perf_counter() - started_s}

    def stall(self) -> None:
        time.sleep(STALL_S)
