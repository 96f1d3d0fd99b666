"""The measured network behind BentoML's adaptive batching, as its documentation writes it.

It runs in the environment that `test/bench/bentoml.py` makes, with the folder of the measured handlers on its path.
"""

import os
from typing import Any

import bentoml  # type: ignore[import-not-found]  # it has an environment of its own
import numpy
from network import NETWORK  # type: ignore[import-not-found]  # see above

# What the measured node has: messages of one call, and a latency that lets them come together.
MAX_BATCH_SIZE, MAX_LATENCY_MS = 64, 1_000


@bentoml.service(logging={"access": {"enabled": False}})
class Scores:
    def __init__(self) -> None:
        os.write(int(os.environ["KRT_READY_FD"]), b"ready\n")

    @bentoml.api(  # type: ignore[untyped-decorator]  # see above
        route="/predict", batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=MAX_LATENCY_MS
    )
    def predict(self, features: list[list[float]]) -> list[list[float]]:
        scores: Any = NETWORK(numpy.asarray(features, dtype=numpy.float32))
        return scores.tolist()  # type: ignore[no-any-return]
