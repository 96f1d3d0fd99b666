"""A service as BentoML's documentation writes it, with the handler of the measured nodes.

It runs in the environment that `test/bench/bentoml.py` makes, and so imports nothing of ours.
"""

import os
from typing import Any

import bentoml  # type: ignore[import-not-found]  # it has an environment of its own


# The other servers of the comparison write no access log either.
@bentoml.service(logging={"access": {"enabled": False}})
class Echo:
    def __init__(self) -> None:
        os.write(int(os.environ["KRT_READY_FD"]), b"ready\n")

    # The slash makes the request's body the argument itself, not an object with a field `data`.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]  # see above
    async def predict(self, data: dict[str, Any], /) -> dict[str, Any]:
        return data
