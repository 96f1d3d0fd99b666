"""The measured messages: for peers a JSON object of a given size, for our node the same object in an envelope."""

import json

import numpy as np

from runtime import payload, wire
from runtime.message import Message

REQUEST_ID = "0123456789abcdef0123456789abcdef"


def json_of_size(size_bytes: int) -> dict[str, object]:
    """Return an object with a number, a list and a text, whose JSON has exactly `size_bytes` bytes (100 or more)."""
    value: dict[str, object] = {"id": 4711, "camera": "gate-3", "scores": [0.25, 0.5, 0.75], "text": ""}
    value["text"] = "x" * (size_bytes - len(plain(value)))
    return value


def array_of_size(size_bytes: int, form: str) -> object:
    """Return an array of float64 with so many bytes, or the same as `bytes` or in `lists`."""
    array = np.linspace(0.0, 1.0, size_bytes // 8)
    return {"array": array, "bytes": array.tobytes(), "lists": {"data": array.tolist()}}[form]


def plain(value: dict[str, object]) -> bytes:
    """Return what a peer gets."""
    return json.dumps(value, separators=(",", ":")).encode()


def envelope(value: object, reply_to: str = "") -> bytes:
    """Return what our node gets: what a client sends to the entrypoint."""
    message = Message(
        request_id=REQUEST_ID, payload=payload.encode_value(value), from_node="entrypoint", reply_to=reply_to
    )
    return wire.encode(message)
