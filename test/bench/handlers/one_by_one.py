"""The network of `network.py`, called with one message."""

from typing import Any

import numpy
from network import NETWORK  # type: ignore[import-not-found]  # beside this file, which is a node's handler


def handler(ctx: Any, data: dict) -> dict:  # type: ignore[type-arg]  # what a user would write
    return {"scores": NETWORK(numpy.asarray([data["features"]], dtype=numpy.float32))[0].tolist()}
