"""Finds the brightest spot of a picture, and how far it has moved since the picture before."""

import math
from dataclasses import dataclass

from png import read_gray

# Gray levels from which a pixel belongs to the light.
BRIGHT = 128


@dataclass
class State:
    """Where the light of this camera was last; there is one state for each state id."""

    frames: int = 0
    x: float = 0.0
    y: float = 0.0


def handler(ctx, data: bytes) -> dict:
    x, y = centre_of_light(read_gray(data))
    last = ctx.state
    moved = math.dist((x, y), (last.x, last.y)) if last.frames else 0.0
    last.frames, last.x, last.y = last.frames + 1, x, y
    return {"file": ctx.headers.get("file", ""), "frame": last.frames, "x": x, "y": y, "moved": round(moved, 2)}


def centre_of_light(rows: list[bytes]) -> tuple[float, float]:
    """Return the mean place of the bright pixels. Raises ValueError for a dark picture, which becomes a dead letter."""
    bright = [(x, y) for y, row in enumerate(rows) for x, level in enumerate(row) if level >= BRIGHT]
    if not bright:
        raise ValueError("the picture is dark")
    return sum(x for x, _ in bright) / len(bright), sum(y for _, y in bright) / len(bright)
