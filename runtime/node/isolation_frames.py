"""What a node and its worker processes say to each other: the words, and how they become bytes.

Two channels lead to a worker. On the first one (`runtime.workers`) the node asks and the worker answers, one `Request`
at a time. On the second one the handler asks its node for what only the node can do, with any number of `Call`s at
once. A frame on both is a line of JSON and a body of bytes, which goes through shared memory where it is large.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson

from runtime.handover import Handover, SharedBytes
from runtime.message import Message, Payload
from runtime.worker_child import LENGTH

# Names the job of a worker, `runtime/node/isolated.py`.
JOB = "runtime.node.isolated:make_answer"

Head = dict[str, Any]
Body = bytes | memoryview | SharedBytes
# What a call is answered with: a value that is JSON, and bytes.
CallAnswer = tuple[Any, Body]
DONE: CallAnswer = (None, b"")

# What a handler can see of its message, beside the payload.
MESSAGE_FIELDS = tuple(name for name in Message._fields if name not in ("payload", "first"))

# Key of a head that says where its body is: a token of the hand-over.
_TOKEN = "at"


class Request(StrEnum):
    """What a node asks of a worker."""

    # Import the handler, and tell what it is.
    START = "start"
    INIT = "init"
    HANDLE = "handle"
    TEARDOWN = "teardown"


class Call(StrEnum):
    """What a handler asks of its node, by its context."""

    EMIT = "emit"
    SAVE = "save"
    FIND = "find"
    CONFIGURATION_GET = "configuration.get"
    CONFIGURATION_SET = "configuration.set"
    CONFIGURATION_DELETE = "configuration.delete"
    OBJECT_SAVE = "objects.save"
    OBJECT_GET = "objects.get"
    OBJECT_DELETE = "objects.delete"
    OBJECT_LIST = "objects.list"
    # An object in chunks: opened to be read or written, and closed, or given up.
    READ_OPEN = "read.open"
    READ_NEXT = "read.next"
    READ_CLOSE = "read.close"
    WRITE_OPEN = "write.open"
    WRITE_NEXT = "write.next"
    WRITE_CLOSE = "write.close"
    # These have no answer. The time of a message, and that of a batch, starts anew.
    LOG = "log"
    POINT = "point"
    PROGRESS = "progress"
    RESTART = "restart"


class Frames:
    """Makes frames and reads them, at one end of the channels."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def pack(self, head: Mapping[str, Any], *body: Body) -> bytes:
        """Return a frame; the body may be in pieces. Raises TypeError for a head that is no JSON."""
        token = self._handover.offer(body)
        if token:
            head, body = {**head, _TOKEN: token}, ()
        return b"".join((orjson.dumps(head, default=_plain), b"\n", *body))

    def unpack(self, frame: bytes) -> tuple[Head, Body]:
        """Return head and body of a frame."""
        line, _, body = frame.partition(b"\n")
        head: Head = orjson.loads(line)
        token = head.pop(_TOKEN, 0)
        return head, self._handover.take(token) if token else body

    def close(self) -> None:
        """Hand over nothing more; what was taken stays."""
        self._handover.close()


class FrameBuffer:
    """What has come of the frames of a channel that carries a stream of bytes."""

    def __init__(self) -> None:
        self._received = bytearray()

    def add(self, chunk: bytes) -> list[bytes]:
        """Return the frames that are complete with these bytes."""
        self._received += chunk
        frames, begin = [], 0
        while len(self._received) - begin >= LENGTH.size:
            end = begin + LENGTH.size + LENGTH.unpack_from(self._received, begin)[0]
            if len(self._received) < end:
                break
            frames.append(bytes(memoryview(self._received)[begin + LENGTH.size : end]))
            begin = end
        del self._received[:begin]
        return frames


def as_payload(body: Body) -> Payload:
    """Return a body as a payload; a large one stays where it is until it is put into its envelope."""
    return body if isinstance(body, bytes) else (memoryview(body),)


def readable(text: str) -> str:
    """Return a text that has a form in JSON: half a surrogate pair has none."""
    return text.encode(errors="replace").decode()


def _plain(value: Any) -> Any:
    """Return the plain form of what orjson does not know; called by orjson."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
